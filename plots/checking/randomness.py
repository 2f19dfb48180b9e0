"""Random numbers that repeat from run to run, and generators that stay as they were."""

from __future__ import annotations

import importlib
import pickle
import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from plots.reading.keras_calls import RecordedCall


@dataclass
class Draws:
    """What a run draws from generators outside of the model.

    Attributes:
        any: Whether it draws anything; known at the end.
    """

    any: bool = False


@contextmanager
def repeatable(seed: int = 0) -> Iterator[Draws]:
    """Let NumPy, Python and PyTorch draw the same numbers in every run; their states are put back.

    Keras draws from states of its own on TensorFlow and JAX, and from PyTorch's in layers without a
    seed.
    """
    import keras
    import numpy as np

    draws = Draws()
    before = random.getstate(), np.random.get_state()
    is_torch = keras.backend.backend() == "torch"
    torch = importlib.import_module("torch") if is_torch else None
    try:
        with torch.random.fork_rng() if torch else nullcontext():
            random.seed(seed)
            np.random.seed(seed)
            if torch:
                torch.manual_seed(seed)
            started = _states(torch)
            yield draws
            draws.any = started != _states(torch)
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])


def _states(torch: Any) -> list[bytes]:
    import numpy as np

    found = [pickle.dumps(random.getstate()), pickle.dumps(np.random.get_state())]
    if torch:
        found.append(torch.get_rng_state().numpy().tobytes())
        found += [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return found


@contextmanager
def global_seed_kept() -> Iterator[None]:
    """Leave the generator of Keras for operations without a seed as it was, or out if none was."""
    from keras.src.backend.common import global_state
    from keras.src.random.seed_generator import GLOBAL_SEED_GENERATOR, global_seed_generator

    is_new = global_state.get_global_attribute(GLOBAL_SEED_GENERATOR) is None
    state = random.getstate()  # a new generator draws its seed there
    global_seed_generator()
    random.setstate(state)
    try:
        yield
    finally:
        if is_new:
            global_state.set_global_attribute(GLOBAL_SEED_GENERATOR, None)


def seeds_of(calls: Iterable[RecordedCall]) -> Iterator[Any]:
    """Yield the states of Keras from which calls may draw."""
    import keras
    from keras.src.random.seed_generator import global_seed_generator

    yield global_seed_generator().state
    for call in calls:
        if isinstance(call.record.operation, keras.layers.Layer):
            for layer in call.record.operation._flatten_layers():
                yield from (generator.state for generator in layer._seed_generators)
