"""Training: convergence, exact resumption, best weights, evaluation and reports."""

import dataclasses
import json
import shutil

import keras
import numpy as np
import pytest
from small_text_models import PAIRS, TEXT, corpus, text_model

import functional_models as fm
from functional_models.batches import PairBatches, TokenBatches
from functional_models.callbacks import Record, SampleText
from functional_models.progress import Progress, duration, header, report_line
from functional_models.recipe import Recipe
from functional_models.training import evaluate, train

RECIPE = Recipe(steps=11, report_every=3, batch_size=5, warmup_steps=4, learning_rate=0.01)


class StopAfter(keras.callbacks.Callback):
    """Raises an error after some steps, like Ctrl-C or a crash."""

    def __init__(self, steps: int, error: type[BaseException]) -> None:
        super().__init__()
        self._left = steps
        self._error = error

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if not self._left:
            raise self._error("stopped")


def recording(record: Record, dtype: str = "float32") -> Record:
    """Return a record as it is in the fit of a small model."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, dtype=dtype)])
    record.set_model(model)
    return record


def weights_of(model: keras.Model) -> dict[str, np.ndarray]:
    return {weight.path: np.array(weight.numpy()) for weight in model.weights}


def largest_difference(first: dict, second: dict) -> float:
    assert first.keys() == second.keys()
    return max(float(np.abs(first[name] - second[name]).max()) for name in first)


def without_times(rows: list[dict]) -> list[dict]:
    return [
        {name: v for name, v in row.items() if name not in ("seconds", "tokens_per_second")}
        for row in rows
    ]


# Convergence


@pytest.mark.slow
def test_one_batch_of_text_is_overfitted_to_near_zero_loss():
    model = text_model("decoder_only", dropout=0.0).model
    rng = np.random.default_rng(0)
    batches = TokenBatches(rng.integers(3, 90, 5 * 7 + 1), block=7, batch_size=4)
    first = batches.batch(0)
    batches.batch = lambda step: first
    recipe = Recipe(steps=160, learning_rate=0.02, warmup_steps=10, weight_decay=0.0)
    rows = train(model, batches, recipe, progress=False)
    assert rows[0]["loss"] < 2.0  # mean over all steps
    inputs, labels, _ = first
    assert float(fm.TokenCrossEntropy()(labels, model(inputs, training=False))) < 0.05


@pytest.mark.slow
def test_one_batch_of_pairs_is_overfitted_to_near_zero_loss():
    translator = text_model("encoder_decoder", dropout=0.0)
    pairs = PAIRS[:5]
    translator.fit(
        pairs,
        steps=160,
        batch_size=5,
        learning_rate=0.02,
        warmup_steps=10,
        weight_decay=0.0,
        progress=False,
    )
    found = translator.evaluate(pairs, batch_size=5)
    assert found["loss"] < 0.05
    assert found["exact_match"] == 1.0


# Resumption


def interrupt(kind, folder):
    """Train until Ctrl-C at step 8."""
    stop = StopAfter(8, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        text_model(kind).fit(
            corpus(kind), recipe=RECIPE, folder=folder, progress=False, callbacks=(stop,)
        )


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory):
    """Return the folder of a language model whose training was interrupted."""
    folder = tmp_path_factory.mktemp("interrupted")
    interrupt("decoder_only", folder)
    return folder


def test_an_interrupted_run_leaves_a_complete_checkpoint_and_model(interrupted):
    folder = interrupted
    with np.load(folder / "checkpoint.npz") as saved:
        rows = json.loads(str(saved["state"]))["rows"]
        assert all(np.isfinite(saved[name]).all() for name in saved.files if name != "state")
    assert [row["step"] for row in rows] == [3, 6]
    found = fm.load(folder).evaluate(corpus("decoder_only").validation, batch_size=5)
    np.testing.assert_allclose(found["loss"], min(r["val_loss"] for r in rows), rtol=1e-6)
    names = {path.name.split("-")[0] for path in folder.iterdir()}
    assert not {name for name in names if name.startswith(".")}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.02}, r"different learning_rate \(0\.01 saved, 0\.02 given\)"),
        ({"steps": 12}, r"different steps \(11 saved, 12 given\)"),
        ({"seed": 1}, "different seed"),
        ({"label_smoothing": 0.1}, "different label_smoothing"),
    ],
)
def test_a_folder_with_another_recipe_raises(interrupted, change, message):
    kind, folder = "decoder_only", interrupted
    before = (folder / "checkpoint.npz").read_bytes()
    with pytest.raises(ValueError, match=message + ".*choose another folder"):
        text_model(kind).fit(corpus(kind), recipe=RECIPE, folder=folder, progress=False, **change)
    assert (folder / "checkpoint.npz").read_bytes() == before


@pytest.mark.parametrize("change", [{"hidden_dim": 26}, {"activation": "relu"}, {"dropout": 0.2}])
def test_a_folder_with_another_model_raises(interrupted, change):
    kind, folder = "decoder_only", interrupted
    with pytest.raises(ValueError, match="holds a run with different spec"):
        text_model(kind, **change).fit(corpus(kind), recipe=RECIPE, folder=folder, progress=False)


def test_a_folder_with_other_data_raises(interrupted):
    kind, folder = "decoder_only", interrupted
    data = corpus(kind)
    other = TEXT[1:]
    with pytest.raises(ValueError, match="holds a run with different data"):
        text_model(kind).fit(other, data.validation, recipe=RECIPE, folder=folder, progress=False)
    with pytest.raises(ValueError, match="holds a run with different validation data"):
        text_model(kind).fit(data.train, recipe=RECIPE, folder=folder, progress=False)


@pytest.mark.parametrize(
    "kind", ["decoder_only", pytest.param("encoder_decoder", marks=pytest.mark.slow)]
)
def test_a_resumed_run_equals_an_uninterrupted_run(kind, tmp_path, interrupted):
    folder, tmp_path = tmp_path / "interrupted", tmp_path / "whole"
    if kind == "decoder_only":
        shutil.copytree(interrupted, folder)
    else:
        interrupt(kind, folder)
    whole, resumed = text_model(kind), text_model(kind, seed=17)  # its weights are replaced
    assert largest_difference(weights_of(whole.model), weights_of(resumed.model)) > 0.1
    seen = Spy()
    expected = whole.fit(
        corpus(kind), recipe=RECIPE, folder=tmp_path, progress=False, callbacks=(seen,)
    )
    seen_again = Spy()
    found = resumed.fit(
        corpus(kind), recipe=RECIPE, folder=folder, progress=False, callbacks=(seen_again,)
    )
    assert [row["step"] for row in found] == [3, 6, 9, 11]
    assert without_times(found) == without_times(expected)
    assert seen_again.last == seen.last
    assert seen_again.rates == seen.rates[6:]
    assert len(set(seen.rates)) == 11
    for path in (tmp_path, folder):
        assert (path / "checkpoint.npz").exists()
    with np.load(folder / "checkpoint.npz") as a, np.load(tmp_path / "checkpoint.npz") as b:
        assert a.files == b.files
        for name in set(a.files) - {"state"}:
            np.testing.assert_array_equal(a[name], b[name])
    # A finished run is not trained again.
    again = text_model(kind, seed=5)
    stop = StopAfter(1, AssertionError)
    assert (
        again.fit(corpus(kind), recipe=RECIPE, folder=folder, progress=False, callbacks=(stop,))
        == found
    )
    assert largest_difference(weights_of(again.model), weights_of(resumed.model)) == 0


class Spy(keras.callbacks.Callback):
    """Records the learning rate of every step, and the sums of the weights at the last report."""

    def __init__(self):
        super().__init__()
        self.rates = []
        self.last = None

    def on_train_batch_begin(self, batch, logs=None):
        self.rates.append(float(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch, logs=None):
        self.last = {name: float(value.sum()) for name, value in weights_of(self.model).items()}


@pytest.mark.slow
def test_a_finished_run_goes_on_with_more_steps(tmp_path, capsys):
    """It continues the weights, the optimizer and the data, on the longer schedule."""
    recipe = dataclasses.replace(RECIPE, schedule="constant", warmup_steps=None)
    whole, first, second = (text_model("decoder_only", seed=seed) for seed in (0, 0, 17))
    expected = whole.fit(TEXT, recipe=recipe, steps=12, progress=False)
    first.fit(TEXT, recipe=recipe, steps=6, folder=tmp_path, progress=False)
    found = second.fit(TEXT, recipe=recipe, steps=12, folder=tmp_path)
    assert "going on from step 6" in capsys.readouterr().out
    assert without_times(found) == without_times(expected)
    assert second.fit(TEXT, recipe=recipe, steps=12, folder=tmp_path) == found
    assert "holds this run, finished" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"different steps \(12 saved, 11 given\)"):
        second.fit(TEXT, recipe=recipe, steps=11, folder=tmp_path)


# Best weights


@pytest.mark.slow
def test_folder_and_model_have_the_best_weights_after_training(tmp_path):
    lm = text_model("decoder_only", dropout=0.0)
    other = "XYZ QRS 0123456789 " * 3  # training makes the loss of this text worse
    rows = lm.fit(
        TEXT,
        other,
        folder=tmp_path,
        steps=40,
        report_every=5,
        batch_size=5,
        learning_rate=0.03,
        warmup_steps=0,
        progress=False,
    )
    losses = [row["val_loss"] for row in rows]
    assert min(losses) < losses[-1] - 0.1
    for model in (lm, fm.load(tmp_path)):
        found = model.evaluate(other, batch_size=5)
        np.testing.assert_allclose(found["loss"], min(losses), rtol=1e-6)


def test_weights_are_saved_whenever_the_loss_is_the_lowest():
    losses = [3.0, 2.0, 2.5, 2.0, 1.0]
    saved = []
    validate = iter(losses)
    record = recording(Record(lambda: {"loss": next(validate)}, lambda: saved.append(record.step)))
    for loss in losses:
        logs = {"cross_entropy": 9.0, "token_accuracy": 0.5, "tokens": 7.0}
        record.on_epoch_begin(0)
        record.on_train_batch_end(0)
        record.on_epoch_end(0, logs)
        assert logs["val_loss"] == loss  # for the callbacks that follow
    assert saved == [1, 2, 5]


def test_without_validation_the_training_loss_selects_the_best_weights():
    saved = []
    record = recording(Record(None, lambda: saved.append(record.step)))
    for loss in (2.0, 3.0, 1.0):
        record.on_epoch_begin(0)
        record.on_train_batch_end(0)
        record.on_epoch_end(0, {"cross_entropy": loss, "token_accuracy": 0.5, "tokens": 7.0})
    assert saved == [1, 3]


# Evaluation


def test_evaluation_weighs_all_tokens_equally():
    translator = text_model("encoder_decoder", max_sequence_length=40)
    pairs = [*PAIRS[:7], ("um dois três quatro cinco", "uma frase mais longa que as outras")]
    found = translator.evaluate(pairs, batch_size=3)
    losses, hits = [], []
    for source, target in pairs:
        (source_ids,) = translator.source_tokenizer.encode([source])
        (ids,) = translator.target_tokenizer.encode([target], start=True, end=True)
        logits = translator.model({"source": source_ids[None], "target": ids[None, :-1]})
        logits = np.asarray(logits, "float64")[0]
        log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        losses.extend(-log_p[np.arange(len(ids) - 1), ids[1:]])
        hits.extend(logits.argmax(-1) == ids[1:])
    assert found["tokens"] == len(losses)
    np.testing.assert_allclose(found["loss"], np.mean(losses), rtol=1e-5)
    np.testing.assert_allclose(found["perplexity"], np.exp(np.mean(losses)), rtol=1e-5)
    np.testing.assert_allclose(found["token_accuracy"], np.mean(hits), atol=1e-6)
    characters = sum(len(target) for _, target in pairs)
    bits = np.sum(losses) / np.log(2) / characters
    np.testing.assert_allclose(found["bits_per_character"], bits, rtol=1e-5)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("compiled", "exact_match"), [(False, True), (True, False)])
def test_evaluation_does_not_change_the_compilation_of_a_model(compiled, exact_match):
    model = text_model("decoder_only").model
    if compiled:
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["mae"])
    before = {name: getattr(model, name, None) for name in ("optimizer", "loss", "metrics")}
    batches = TokenBatches(np.arange(3, 60), block=7, batch_size=5)
    rows = [evaluate(model, batches, exact_match=exact_match) for _ in range(2)]
    names = {"loss", "perplexity", "token_accuracy", "tokens"} | (
        {"exact_match"} if exact_match else set()
    )
    assert rows[0].keys() == names
    assert rows[0] == rows[1]
    assert model.compiled == compiled
    assert {name: getattr(model, name, None) for name in before} == before


def test_bits_per_character_of_uniform_probabilities_are_the_bits_of_the_tokens():
    lm = text_model("decoder_only")  # on bytes
    for weight in lm.model.get_layer("logits").weights:
        weight.assign(0 * weight)
    documents = ["aé€" * 7, "b" * 13]  # 42 and 13 bytes, each with an end token
    tokens = lm.tokens(documents)
    for data, bits in (
        (documents, 8 * (42 + 13 + 2) / (21 + 13)),
        (tokens, 8 * (42 + 13 + 2) / (21 + 13)),
        ("b" * 31, 8.0),
    ):
        found = lm.evaluate(data, batch_size=5)["bits_per_character"]
        np.testing.assert_allclose(found, bits, rtol=1e-6)


def test_repeated_evaluation_uses_the_current_weights():
    lm = text_model("decoder_only")
    before = lm.evaluate(TEXT)
    assert lm.evaluate(TEXT) == before
    lm.model.get_layer("logits").kernel.assign(-lm.model.get_layer("logits").kernel)
    assert lm.evaluate(TEXT)["loss"] != before["loss"]


# Reports


@pytest.mark.slow
def test_reports_print_a_line_and_a_sample(capsys, monkeypatch):
    monkeypatch.setattr(fm.CausalLM, "generate", lambda lm, prompt, *args, **options: prompt + "es")
    lm = text_model("decoder_only")
    lm.fit(TEXT, TEXT, steps=4, report_every=2, batch_size=5, sample_prompt="fox", block=7)
    lines = capsys.readouterr().out.splitlines()
    reports = [line for line in lines if line.startswith("step ")]
    steps = [line.split("|")[0].strip() for line in reports]
    assert steps == ["step      1/4", "step      2/4", "step      4/4"]
    assert all("validation" in line and "tokens/s" in line for line in reports[1:])
    samples = [line for line in lines if line.startswith("foxes")]
    assert len(samples) == 2


def test_the_header_says_what_is_trained_where_and_how():
    model = text_model("decoder_only").model
    batches = TokenBatches(np.arange(3, 98), block=7, batch_size=5)
    recipe = Recipe(steps=2, batch_size=5, learning_rate=0.0125).for_width(14)
    first, second = header(model, batches, recipe).splitlines()
    assert first.startswith(f"{model.count_params():,} parameters, float32, on ")
    assert {"tensorflow": "TensorFlow", "jax": "JAX", "torch": "PyTorch"}[
        keras.backend.backend()
    ] in first
    # 95 tokens are 13 blocks of 7 and a next token; one block less is used, for the offset
    assert second.startswith("2 steps of 5 sequences, 0.67 passes over the data; ")
    assert second.endswith("learning rate 0.013, cosine after 1 step of warm-up")


class Steps:
    """A record, a model and a clock for `Progress`: each step takes some seconds."""

    def __init__(self, total: int, seconds: float) -> None:
        self.step, self.rows, self.now = 0, [], 0.0
        self.progress = Progress(self, total, clock=lambda: self.now)
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.25))
        self.progress.set_model(model)
        self.progress.on_train_begin()
        for _ in range(total):
            self.step += 1
            self.now += seconds
            self.progress.on_train_batch_end(0, {"cross_entropy": self.step / 2})


def test_without_a_terminal_lines_appear_at_growing_intervals(capsys):
    Steps(total=300, seconds=1.0)
    lines = [line.split(" | ") for line in capsys.readouterr().out.splitlines()]
    steps = [int(line[0].removeprefix("step").split("/")[0]) for line in lines]
    assert steps == [1, 11, 31, 71, 131, 191, 251]
    assert lines[0] == ["step      1/300", "loss 0.5000", "rate 0.25"]
    assert lines[2] == ["step     31/300", "loss 15.5000", "rate 0.25", "1.0 steps/s", "4 min left"]


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (60, "1 min"), (3570, "1 h 0 min"), (12_345, "3 h 26 min")],
)
def test_durations_in_words(seconds, words):
    assert duration(seconds) == words


@pytest.mark.slow
def test_callbacks_of_keras_see_the_validation_loss_and_can_stop_the_run():
    lm = text_model("decoder_only")
    stopping = keras.callbacks.EarlyStopping("val_loss", patience=0, min_delta=100.0)
    rows = lm.fit(
        TEXT, TEXT, steps=5, report_every=1, batch_size=5, progress=False, callbacks=(stopping,)
    )
    assert [row["step"] for row in rows] == [1, 2]


def test_a_sample_that_fails_costs_no_training(capsys):
    def fail():
        raise UnicodeEncodeError("ascii", "é", 0, 1, "ordinal not in range")

    SampleText(fail).on_epoch_end(0)
    printed = capsys.readouterr()
    assert printed.err.startswith("no sample: UnicodeEncodeError: 'ascii'")
    assert printed.err.count("\n") == 1


def test_report_lines_have_all_measurements():
    row = {"step": 200, "loss": 1.25, "token_accuracy": 0.5, "tokens_per_second": 1234.5}
    assert report_line(row, 1000) == (
        "step    200/1,000 | loss 1.2500 | token accuracy 50.0% | 1,234 tokens/s"
    )
    held_out = {"val_loss": 2.5, "val_token_accuracy": 0.25, "val_exact_match": 0.125}
    line = report_line({**row, **held_out}, 1000)
    assert "validation 2.5000 | token accuracy 25.0% | exact match 12.5%" in line


@pytest.mark.slow
def test_a_second_fit_continues_from_the_current_weights():
    lm = text_model("decoder_only", dropout=0.0)
    options = {"steps": 10, "report_every": 10, "learning_rate": 0.02, "warmup_steps": 0}
    first = lm.fit(TEXT, progress=False, batch_size=5, **options)
    second = lm.fit(TEXT, progress=False, batch_size=5, **options)
    assert second[-1]["loss"] < first[-1]["loss"]
    assert lm.history == second


def test_reports_evaluate_at_most_so_many_batches_of_the_validation_data(capsys, monkeypatch):
    lm = text_model("decoder_only", dropout=0.0)
    given = {"steps": 2, "report_every": 1, "batch_size": 3, "block": 7, "validation": TEXT}
    last = lm.fit(TEXT, validation_batches=2, **given)[-1]
    assert last["val_tokens"] == 2 * 3 * 7
    number = lm._batches(TEXT, "text", 7, 3, 0, False).num_eval_batches
    shown = capsys.readouterr().out
    assert f"\nvalidation on 2 of {number} batches, evenly spread (validation_batches)\n" in shown
    sample = lm.evaluate(TEXT, block=7, batch_size=3)
    assert sample["tokens"] > last["val_tokens"]  # all of them, whatever the recipe was

    last = lm.fit(TEXT, validation_batches=number, progress=True, **given)[-1]
    assert "validation on" not in capsys.readouterr().out
    whole = lm.evaluate(TEXT, block=7, batch_size=3, progress=False)
    assert last["val_tokens"] == whole["tokens"]

    monkeypatch.setattr("functional_models.reading.FIRST_INTERVAL", 0)
    lm.evaluate(TEXT, block=7, batch_size=3)
    assert f"evaluating: 1 of {number} batches | " in capsys.readouterr().err
    lm.evaluate(TEXT, block=7, batch_size=3, progress=False)
    assert "evaluating" not in capsys.readouterr().err


@pytest.mark.parametrize("kind", ["encoder_decoder", "decoder_only"])
def test_a_recipe_limits_the_shapes_of_pairs(kind, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "functional_models.text_model.TextModel._train",
        lambda self, batches, *rest, validation=None, **more: seen.append((batches, validation)),
    )
    pairs = [("a" * (1 + n % 5), "b" * (1 + n % 3)) for n in range(31)]
    for most in (None, 2):
        text_model(kind).fit(pairs, validation=pairs[:7], batch_size=2, max_shapes=most)
    (free, _), (limited, held_out) = seen
    assert len(free.shapes) > len(limited.shapes) == len(held_out.shapes) == 2


def test_pair_batches_contain_the_encoded_sentences():
    translator = text_model("encoder_decoder")
    batches = translator._batches(PAIRS[:3], 2, 0, progress=False)
    assert isinstance(batches, PairBatches)
    inputs, labels, weights = next(iter(batches.eval_batches()))
    target = PAIRS[0][1].encode()
    assert bytes(inputs["source"][0].tolist()).rstrip(b"\0") == PAIRS[0][0].encode()
    for found, expected in ((inputs["target"], b"\x02" + target), (labels, target + b"\x03")):
        assert bytes(found[0].tolist()[: len(expected)]) == expected
    assert weights[0].sum() == len(target) + 1
