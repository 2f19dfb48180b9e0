"""Models without weights: to count, compare and draw what does not fit into memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import keras


class AbstractModel(keras.Model):
    """A Functional model whose variables have shapes and no values."""

    def call(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to compute.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(
            f"the model {self.name!r} has no weights, since it was built with abstract=True; "
            "build it without that to compute, train or save"
        )


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Make variables in here without allocating them.

    Keras notes such variables, to allocate all of them when the next stateless scope ends. These
    are to stay as they are, so the note is taken back; there is no public way to do that.
    """
    from keras.src.backend.common import global_state

    key = "uninitialized_variables"
    before = list(global_state.get_global_attribute(key) or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(key, before)
