"""Options and environment that all tests share."""

import gc
import os
from typing import Any

import pytest

# Two workers share the processor, so more threads in each of them only get in each other's way.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # before any test imports TensorFlow
# What the tests compile, for seconds, runs for milliseconds: so XLA need not make it fast.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--overwrite",
        action="store_true",
        default=False,
        help="write the golden files anew instead of comparing with them",
    )


def pytest_configure(config: pytest.Config) -> None:
    gc.set_threshold(100_000, 50, 50)  # models are many small objects, and seldom garbage
    # TensorFlow's variables do not know NumPy 2's `copy` keyword; nothing here can change that
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture
def same_weights_every_time() -> None:
    """New weights of Keras are the same in every run."""
    import keras

    keras.utils.set_random_seed(17)


@pytest.fixture(scope="module")
def fresh() -> dict[str, Any]:
    """An untrained text model of each kind, for what leaves a model as it is."""
    from small_text_models import KINDS, text_model

    return {kind: text_model(kind) for kind in KINDS}
