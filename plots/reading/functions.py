"""Functions that `call` of a layer calls, as single operations of a graph.

Functions of the backend, such as `tf.gather_nd`, take no symbolic tensors, and a loop over time
steps is thousands of calls. The function around them is one call of the graph then; or the function
of TensorFlow itself, if there is none.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from types import FunctionType, TracebackType
from typing import Any

from plots.reading.symbolic_calls import overridden, symbolic_ones

Names = tuple[Any, str]
"""(namespace, name): where a function is found when it is called."""


def function_that_failed(error: BaseException, call: Any) -> list[Names]:
    """Return the names of the innermost function under `call` in which an error was raised.

    Functions of Keras and of its backends do not count, nor do methods and functions that were
    defined inside another one. The list is empty if there is no such function.
    """
    found: list[Names] = []
    namespaces: dict[int, dict[str, Any]] = {}  # of the callers, by id
    for frame in _frames(error.__traceback__):
        around = {**namespaces, id(frame.f_globals): frame.f_globals}
        names = [
            (namespace, name)
            for namespace in around.values()
            for name, value in namespace.items()
            if isinstance(value, FunctionType) and value.__code__ is frame.f_code
        ]
        if namespaces and names:
            found = names
        if frame.f_code is call.__code__ or namespaces:
            attributes = getattr(frame.f_locals.get("self"), "__dict__", {})
            namespaces = {**around, id(attributes): attributes}
    return found


def functions_of(call: Any) -> Iterator[list[Names]]:
    """Yield the functions of modules that `call` of a layer names, except those of Keras."""
    for name in call.__code__.co_names:
        value = call.__globals__.get(name)
        if isinstance(value, FunctionType) and not value.__module__.startswith("keras."):
            yield [(call.__globals__, name)]


def _frames(traceback: TracebackType | None) -> Iterator[Any]:
    while traceback is not None:
        if not traceback.tb_frame.f_globals.get("__name__", "").startswith(_LIBRARIES):
            yield traceback.tb_frame
        traceback = traceback.tb_next


_LIBRARIES = ("jax.", "keras.", "numpy.", "plots.", "tensorflow.", "torch.")


@contextmanager
def as_operations(functions: Iterable[tuple[list[Names], str]]) -> Iterator[None]:
    """Make functions record one call when they are given symbolic tensors, within the context.

    Args:
        functions: The names of each, and why it is one call.
    """
    with overridden(
        (namespace, {name: _recorded(namespace[name], reason)})
        for names, reason in functions
        for namespace, name in names
    ):
        yield


@contextmanager
def tensorflow_functions(recorded: bool) -> Iterator[None]:
    """Make the functions of TensorFlow record one call each, if `recorded`, within the context.

    That is, where they are given symbolic tensors of Keras.
    """
    import keras

    if not recorded or keras.backend.backend() != "tensorflow":
        yield
        return
    dispatcher = _dispatcher()
    dispatcher.is_active = True
    try:
        yield
    finally:
        dispatcher.is_active = False


@cache
def _dispatcher() -> Any:
    """Return what TensorFlow asks when a function refuses its arguments; registered for good."""
    import tensorflow as tf

    base = tf.__internal__.dispatch.GlobalOpDispatcher

    class Dispatcher(base):  # type: ignore[misc, valid-type]
        is_active = False

        def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
            if not self.is_active or not symbolic_ones((args, kwargs)):
                return self.NOT_SUPPORTED
            operation = _operation_class(op)()
            operation.reason_for_one_call = "it is a function of TensorFlow"
            return operation(*args, **kwargs)

    dispatcher = Dispatcher()
    dispatcher.register()
    return dispatcher


def reason_for_one_call(operation: Any) -> str:
    """Return why a function is one call of a graph; "" for all other operations."""
    return getattr(operation, "reason_for_one_call", "")


def _recorded(function: Callable[..., Any], reason: str) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        if not symbolic_ones((args, kwargs)):
            return function(*args, **kwargs)
        operation = _operation_class(function)()
        operation.reason_for_one_call = reason
        return operation(*args, **kwargs)

    return call


@cache
def _operation_class(function: Callable[..., Any]) -> type:
    """Return a class of operations that call a function."""
    import keras

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(*args, **kwargs)

    given = inspect.signature(function)
    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_ONLY)
    parameters = [own, *given.parameters.values()]
    call.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    plain = re.sub(r"_v\d$", "", function.__name__.strip("_"))
    contents = {"call": call, "__module__": __name__}
    if plain in _MOVING:
        contents["graph_declaration"] = {"products": []}
    # No class of Keras or KerasHub, so that its work is unknown.
    return type(plain.title().replace("_", ""), (keras.Operation,), contents)


_MOVING = frozenset(("boolean_mask", "gather", "gather_nd", "repeat", "reshape", "tile", "where"))
"""Functions of TensorFlow that move numbers."""
