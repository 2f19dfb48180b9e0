"""Checks of arguments that are easily confused: models, graphs, paths and mappings."""

from __future__ import annotations

import functools
import gc
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from plots.graph import Graph

Function = TypeVar("Function", bound=Callable[..., Any])


@contextmanager
def collection_paused() -> Iterator[None]:
    """Pause garbage collection; also a decorator.

    Graphs are many small objects without cycles. While they are made, each full collection would
    visit half a million objects of TensorFlow, which takes as long as the work itself.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def takes_graphs(function: Function, number: int = 1) -> Function:
    """Return a function that raises a TypeError unless its first arguments are graphs.

    Garbage collection is paused while it runs.

    Args:
        function: Its first parameters are graphs.
        number: How many of them.
    """
    try:
        names = list(inspect.signature(function).parameters)[:number]
    except (TypeError, ValueError):  # some callables of compiled modules have no signature
        return function

    @functools.wraps(function)
    def check_and_call(*args: Any, **kwargs: Any) -> Any:
        given = dict(zip(names, args, strict=False)) | kwargs
        for name in names:
            if name in given and not isinstance(given[name], Graph):
                raise TypeError(
                    f"{function.__name__} takes a Graph, and {name} is {described(given[name])}; "
                    "read it first: plots.read_graph(model)"
                )
        with collection_paused():
            return function(*args, **kwargs)

    return check_and_call  # type: ignore[return-value]


def check_mapping(value: Any, function: str, what: str, content: str) -> None:
    """Check that an argument is a mapping that is not empty.

    Args:
        value: The argument.
        function: The name of the function that takes it.
        what: Name of its items, as a plural.
        content: Its keys and values in words, such as "title -> model".

    Raises:
        TypeError: if it is not a mapping.
        ValueError: if it is empty.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{function} takes a mapping {content}, given {type(value).__name__}")
    if not value:
        raise ValueError(f"no {what} were given: {function} takes a mapping {content}")


def model_of(source: Any) -> Any:
    """Return the Keras model that an object holds as its attribute `model`; others as they are."""
    import keras

    held = getattr(source, "model", None)
    if isinstance(held, keras.Model) and not isinstance(source, keras.Model):
        return held
    return source


def described(value: Any) -> str:
    """Return the class of a value with its article: "a list", "the class Model"."""
    name = value.__qualname__ if isinstance(value, type) else type(value).__qualname__
    article = "an" if name[0].lower() in "aeio" else "a"
    return f"the class {name}" if isinstance(value, type) else f"{article} {name}"
