"""Shared options, environment and fixtures of the tests."""

import gc
import os
import random
import resource
from typing import Any

import hypothesis
import pytest

# Machines may be busy, so no test fails because it took long.
hypothesis.settings.register_profile("any machine", deadline=None)
hypothesis.settings.load_profile("any machine")

# Test workers share the processor, so more threads for each would only compete.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before any test imports TensorFlow
# Tests spend far more time on compiling than on running, so turn off XLA's optimizations.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# Fixtures of several files, which import Keras when first used: a process that only distributes
# tests to workers never does.
pytest_plugins = [
    *("changed_folders", "command_line", "explorer_pages", "registries", "trained_tokenizers"),
]


_GROWTH = 1 << 20
"""Growth of the peak of memory, in kB, after which garbage is collected."""

_freed_at = 0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--overwrite",
        action="store_true",
        default=False,
        help="overwrite the golden files instead of comparing with them",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.set_threshold(100_000, 50, 50)  # models are many small objects, rarely garbage
    # TensorFlow variables do not support the `copy` keyword of NumPy 2.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


def pytest_runtest_teardown() -> None:
    global _freed_at
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if peak > _freed_at + _GROWTH:  # models are cycles, and collections are rare
        gc.collect()
        _freed_at = peak


@pytest.hookimpl(tryfirst=True)  # before slow tests are deselected
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _mark_all_but_a_sample_of_cases_as_slow(items)
    # The longest test first: at the end, the other worker would wait for it.
    items.sort(key=lambda item: item.path.name != "test_readme.py")


def _mark_all_but_a_sample_of_cases_as_slow(items: list[pytest.Item]) -> None:
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("sampled") and not item.get_closest_marker("slow"):
            cases.setdefault(item.nodeid.split("[")[0], []).append(item)
    for function, of_function in cases.items():
        size = min(of_function[0].get_closest_marker("sampled").args[0], len(of_function))
        # At random, since every n-th case of a product could have the same value of a factor; and
        # the same each time, since the workers must agree.
        sample = random.Random(function).sample(of_function, size)
        for item in of_function:
            if item not in sample:
                item.add_marker("slow")


@pytest.fixture
def fixed_seed() -> None:
    """Set the Keras random seed, so that new weights are reproducible."""
    import keras

    keras.utils.set_random_seed(17)


@pytest.fixture(scope="session")
def fresh() -> dict[str, Any]:
    """Return an untrained text model of each kind, for tests that do not modify it."""
    from small_text_models import KINDS, text_model

    return {kind: text_model(kind) for kind in KINDS}
