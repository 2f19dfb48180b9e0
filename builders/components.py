"""The component registry: the functions behind the values of spec fields such as `positions`.

Values are added by decorator, or from an installed package by an entry point in the group
`functional_models.components` that names a module to import.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from importlib.metadata import entry_points
from types import CellType
from typing import Any, TypeVar

from builders.errors import unknown_name

F = TypeVar("F", bound=Callable[..., Any])

SHIPPED: dict[str, tuple[str, ...]] = {}
"""The built-in values by field. Filled where the fields are defined, so that a spec can be
checked without Keras."""

_components: dict[tuple[str, str], Callable[..., Any]] = {}


def register_component(field: str, value: str) -> Callable[[F], F]:
    """Decorate the function that a spec field stands for when it has `value`.

    Args:
        field: `norm_placement`, `merge`, `block_skips`, `norm`, `positions`, `rotary_scaling`,
            `feedforward`, `activation`, `attention`, `initializer`, `skip_scale`, `branch_scale`
            or `norm_scale`; the module of each documents the signature.
        value: the new value that the field may take.

    Raises:
        ValueError: the field takes no components, or another function is registered for the value.
        TypeError: no function or class is registered.
    """
    if field not in SHIPPED:
        raise ValueError(unknown_name("component field", field, SHIPPED))
    if not isinstance(value, str):
        raise ValueError(f"{field}={value!r}: must be a str, the name of the component")

    def register(function: F) -> F:
        if not callable(function):
            kind = type(function).__name__
            raise TypeError(f"{field}={value!r} takes a function or a class, not {kind}")
        known = _components.get((field, value), function)
        ships = origin(function).startswith(("builders.", "keras."))
        if not is_same_definition(known, function) or (value in SHIPPED[field] and not ships):
            by = "builders" if known is function else origin(known)
            raise ValueError(
                f"{field}={value!r} is registered already, by {by}; choose another value"
            )
        _components[field, value] = function
        return function

    return register


def component(field: str, value: str) -> Callable[..., Any]:
    """Return the function registered for `value` of a spec field."""
    return _components[field, value]


def component_names(field: str) -> tuple[str, ...]:
    """Return the values of a component field: the built-in ones, then the registered ones."""
    load_entry_points("functional_models.components")
    shipped = SHIPPED[field]
    return shipped + tuple(v for f, v in _components if f == field and v not in shipped)


def is_same_definition(old: Any, new: Any) -> bool:
    """Return whether two functions come from one definition that ran twice.

    That happens when a module is reloaded or a notebook cell runs again, and then the new one
    takes the place of the old one. Definitions are told apart by module and qualified name, where
    these identify one: closures and lambdas need equal code and values, too, and partial objects
    equal functions and arguments.
    """
    if old is new:
        return True
    if isinstance(old, functools.partial) and isinstance(new, functools.partial):
        same_arguments = (old.args, old.keywords) == (new.args, new.keywords)
        return same_arguments and is_same_definition(old.func, new.func)
    name = getattr(old, "__qualname__", None)
    if name is None or origin(old) != origin(new):
        return False
    if getattr(old, "__self__", None) is not getattr(new, "__self__", None):
        return False  # methods of two objects
    return "<" not in name or _code(old) == _code(new) is not None


def origin(function: Any) -> str:
    """Return where a function was defined: `my_package.positions.Kerple`."""
    while isinstance(function, functools.partial):
        function = function.func
    name = getattr(function, "__qualname__", type(function).__qualname__)
    return f"{function.__module__}.{name}"


def _code(function: Any) -> Any:
    """Return the code and the enclosed values of a function; `None` if it has no code."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    cells = [cell for cell in function.__closure__ or () if cell != CellType()]  # an empty one
    enclosed = [cell.cell_contents for cell in cells]
    return code, function.__defaults__, function.__kwdefaults__, enclosed


_loaded_groups: set[str] = set()


def load_entry_points(group: str) -> None:
    """Import the modules that installed packages name; a broken one is reported and skipped."""
    if group in _loaded_groups:
        return
    _loaded_groups.add(group)
    for point in entry_points(group=group):
        try:
            point.load()
        except Exception as error:
            warnings.warn(
                f"{group}: {point.name} ({point.value}) could not be loaded and is left out: "
                f"{type(error).__name__}: {error}",
                stacklevel=2,
            )
