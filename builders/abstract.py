"""Models without weights, to count, compare and draw models that do not fit into memory."""

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
        raise self._no_weights()

    def save(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to save.

        Raises:
            RuntimeError: always.
        """
        raise self._no_weights()

    def get_weights(self) -> NoReturn:
        """Refuse to return weights.

        Raises:
            RuntimeError: always.
        """
        raise self._no_weights()

    def _no_weights(self) -> RuntimeError:
        return RuntimeError(
            f"the model {self.name!r} has no weights, since it was built with abstract=True; "
            "build it without that to compute, train or save"
        )


def variables_are_allocated() -> bool:
    """Return whether the variables that are created now get memory.

    In stateless scopes they get it where the outermost scope ends, unless that was created with
    `initialize_variables=False`. Keras has no public way to ask for the scope.
    """
    from keras.src.backend.common.stateless_scope import get_stateless_scope

    scope = get_stateless_scope()
    while scope is not None and scope.original_scope is not None:
        scope = scope.original_scope
    return scope is None or scope.initialize_variables


@contextlib.contextmanager
def without_weights() -> Iterator[None]:
    """Create the variables of a `with` block without allocating them.

    Keras keeps a list of such variables, and allocates them when the next stateless scope ends.
    These must stay unallocated, so the list is restored; there is no public way to do that.
    """
    from keras.src.backend.common import global_state

    key = "uninitialized_variables"
    before = list(global_state.get_global_attribute(key) or ())
    try:
        with keras.StatelessScope(initialize_variables=False):
            yield
    finally:
        global_state.set_global_attribute(key, before)


def allocate(variable: Any, value: Any = None) -> None:
    """Allocate a variable that was created in a `without_weights` block.

    Args:
        variable: the variable.
        value: its value, an array of its shape; `None`: that of its initializer.
    """
    if value is not None:
        variable._initializer = lambda shape, dtype: keras.ops.convert_to_tensor(value, dtype)
    variable._deferred_initialize()
