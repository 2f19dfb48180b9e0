"""Calls that a layer makes of the class of Keras that it extends, as in `super().call(x)`."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any
from unittest import mock

from plots.reading.ids import snake_case
from plots.reading.keras_values import call_class


def overridden_base(layer: Any) -> type | None:
    """Return the class of Keras or KerasHub whose `call` a layer overrides; None if there is none.

    The class is the one that the layer extends, which may inherit its own `call`: `Conv2D` of
    `keras.layers.Conv2D`.
    """
    import keras

    is_model = isinstance(layer, keras.Model | keras.Function)
    if not isinstance(layer, keras.layers.Layer) or is_model or not call_class(type(layer)):
        return None
    known = (c for c in type(layer).__mro__ if c.__module__.startswith(("keras.", "keras_hub.")))
    base: Any = next(known)
    return None if base.call is keras.layers.Layer.call else base


def as_base(layer: Any, base: type) -> Any:
    """Return a layer of the class `base` with the weights and settings of `layer`.

    What Keras does around `call`, such as passing masks on, it does for `layer` and not again for
    the call of its base class. So calling the returned layer is no more than its `call`.
    """
    made: Any = object.__new__(_direct(base))
    parameters = [*inspect.signature(base.call).parameters][1:]  # type: ignore[attr-defined]
    vars(made).update(
        vars(layer),
        name=snake_case(base.__name__),
        call_signature_parameters=parameters,
        _call_has_training_arg="training" in parameters,
        _inbound_nodes=[],
        _outbound_nodes=[],
    )
    return made


@cache
def _direct(base: type) -> type:
    """Return a class like `base` whose objects only run `call` when they are called."""

    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        return self.call(*args, **kwargs)

    contents = {"__call__": run, "__module__": base.__module__, "stands_for": base}
    return type(base.__name__, (base,), contents)


def class_of(operation: Any) -> type:
    """Return the class of an operation; of a layer made by `as_base`, that base class."""
    return getattr(operation, "stands_for", type(operation))


@contextmanager
def base_calls(layer: Any, base: type, record: Callable[..., Any]) -> Iterator[None]:
    """Let `record` take the calls that `layer` makes of its base class, within the context."""
    owner: Any = next(c for c in base.__mro__ if "call" in vars(c))
    original = owner.call

    @functools.wraps(original)
    def call(this: Any, *args: Any, **kwargs: Any) -> Any:
        return (record if this is layer else functools.partial(original, this))(*args, **kwargs)

    with mock.patch.object(owner, "call", call):
        yield
