"""Seeds that other threads cannot disturb."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def own_random(seed: int) -> Iterator[None]:
    """Seed Keras, and keep its seeds apart from Python's generator, in a `with` block.

    Keras draws the seeds of initializers and of dropout from Python's global generator. Any thread
    of the process may draw from it in between, and those of a Dask worker do; the same seed then
    gives other weights. In the block, Keras draws the same numbers from a generator of its own.

    Args:
        seed: As for `keras.utils.set_random_seed`.
    """
    import keras
    from keras.src.random import seed_generator

    keras.utils.set_random_seed(seed)
    shared = seed_generator.python_random
    seed_generator.python_random = random.Random(seed)
    try:
        yield
    finally:
        seed_generator.python_random = shared
