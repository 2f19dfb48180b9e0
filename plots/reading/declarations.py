"""Read what layers declare about their calls; see `plots.declaration`."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from plots.declaration import Declaration, Shape, check_shapes, parse_declaration
from plots.reading.keras_calls import parameter_names


def read_declaration(
    operation: Any, ports: Iterable[str], inputs: Mapping[str, Shape], outputs: Sequence[Shape]
) -> Declaration | None:
    """Return what a layer declares about one of its calls; None if it declares nothing.

    A malformed declaration, or one that does not fit the tensors, is ignored with a warning.

    Args:
        operation: The layer or operation.
        ports: Names of all arguments of the call, flattened.
        inputs: Shapes of the tensors that it takes, by name.
        outputs: Shapes of the tensors that it returns.
    """
    if not _describes_call(operation):
        return None
    try:
        given = operation.graph_declaration
        if given is None:
            return None
        declaration = parse_declaration(given, _by_parameter(operation, list(ports)))
        check_shapes(declaration, inputs, outputs)
    except Exception as error:  # a property may raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        what = f"graph_declaration of {type(operation).__name__} {operation.name!r}"
        warnings.warn(f"{what} is ignored: {reason}", stacklevel=2)
        return None
    return declaration


def declared_role(operation: Any) -> str:
    """Return the role that a layer declares, or "" if it declares none."""
    try:
        given = operation.graph_declaration if _describes_call(operation) else None
        return str(given["role"]) if given else ""
    except Exception:  # a property may raise anything; `read_declaration` warns
        return ""


def _describes_call(operation: Any) -> bool:
    """Whether an operation has a declaration, and no class below overrides `call`."""
    if "graph_declaration" in vars(operation):
        return True
    for base in type(operation).__mro__:
        if "graph_declaration" in vars(base):
            return True
        if "call" in vars(base):
            return False
    return False


def _by_parameter(operation: Any, ports: Sequence[str]) -> list[list[str]]:
    """Group the arguments of a call by positional parameter; each one behind `*` is its own."""
    names = parameter_names(operation.__class__)
    groups = [[p for p in ports if p.partition(".")[0] == name] or [name] for name in names]
    return [*groups, *([port] for port in ports if port.partition(".")[0].isdigit())]
