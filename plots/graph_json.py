"""Read dataclasses from JSON data, each value checked against its type, and check a whole graph."""

from __future__ import annotations

import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from plots.annotations import WITHOUT, Quantity

_DEEPEST = 100
"""Levels of lists and objects in a configuration."""

_MOST, _LARGEST = 1e30, 1e100
"""Of counts, also of the elements of a tensor, and of measurements: their products are finite."""

_NAMES = {str: "a text", bool: "true or false", int: "a whole number", float: "a number"}
_NAMES |= {list: "a list", dict: "an object", type(None): "null"}


def read_value(kind: Any, value: Any, place: str) -> Any:
    """Build a value of the type `kind`, such as a dataclass or a tuple, from JSON data.

    Args:
        kind: A dataclass, a tuple, a mapping, a literal, an optional type, a plain type or Any.
        value: The data.
        place: Where it stands, for errors: "nodes[3].config".

    Raises:
        ValueError: if the data does not have this type.
    """
    origin, parts = get_origin(kind), get_args(kind)
    if kind is Any:
        _check_depth(value, place, _DEEPEST)
        return value
    if isinstance(kind, type) and is_dataclass(kind):
        return _read_dataclass(kind, _checked(dict, value, place), place)
    if origin is UnionType:  # an optional value
        return None if value is None else read_value(parts[0], value, place)
    if origin is tuple:
        items = _checked(list, value, place)
        kinds = parts[:1] * len(items) if parts[-1] is Ellipsis else parts
        if len(kinds) != len(items):
            raise ValueError(f"{place} must have {len(kinds)} entries, not {len(items)}")
        pairs = enumerate(zip(kinds, items, strict=True))
        return tuple(read_value(part, item, f"{place}[{i}]") for i, (part, item) in pairs)
    if origin is Literal:
        if not isinstance(value, str) or value not in parts:
            raise ValueError(f"{place} must be one of {', '.join(parts)}")
        return value
    if kind is Quantity:
        terms = dict(_checked(dict, value, place))
        missing = read_value(tuple[str, ...], terms.pop(WITHOUT, []), f"{place}.{WITHOUT}")
        return Quantity(read_value(Mapping[str, float], terms, place), missing)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        items = _checked(dict, value, place)
        return {key: read_value(parts[1], item, f"{place}.{key}") for key, item in items.items()}
    return _checked(kind, value, place)


def _read_dataclass(kind: Any, value: dict[str, Any], place: str) -> Any:
    hints = _hints(kind)
    required = [each.name for each in fields(kind) if _is_required(each)]
    for name in value.keys() - hints.keys():
        raise ValueError(f"{place} has an unknown entry {name!r}")
    for name in required:
        if name not in value:
            raise ValueError(f"{place} has no {name!r}")
    items = value.items()
    return kind(**{name: read_value(hints[name], v, f"{place}.{name}") for name, v in items})


def _is_required(each: Any) -> bool:
    return each.default is MISSING and each.default_factory is MISSING


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _checked(kind: type, value: Any, place: str) -> Any:
    """Return a value if JSON gives it this type."""
    kinds = (int, float) if kind is float else kind
    if isinstance(value, kinds) and (kind is bool or not isinstance(value, bool)):
        if kind in (int, float):
            _check_size(value, place, _MOST if kind is int else _LARGEST)
        return value
    raise ValueError(f"{place} must be {_NAMES[kind]}, not {_NAMES[type(value)]}")


def _check_size(value: Any, place: str, most: float) -> None:
    if not abs(value) <= most:
        raise ValueError(f"{place} must be a number of at most {most:.2g}")


def _check_depth(value: Any, place: str, left: int) -> None:
    if not left:
        raise ValueError(f"{place} is nested more than {_DEEPEST} levels deep")
    if isinstance(value, int | float):  # a mask may add the smallest float
        _check_size(value, place, sys.float_info.max)
    for item in value.values() if isinstance(value, dict) else value if type(value) is list else ():
        _check_depth(item, place, left - 1)


def check_graph(graph: Any) -> None:
    """Check that the parts of a `plots.graph.Graph` fit together.

    Raises:
        ValueError: if ids are not unique, if a size or count is negative, if a part refers to an
            unknown call, output or edge, or if a call comes before one of its sources.
    """
    _check_sizes(graph)
    for what, parts in (("calls", graph.nodes), ("edges", graph.edges)):
        twice = [place for place, times in Counter(p.id for p in parts).items() if times > 1]
        if twice:
            raise ValueError(
                f"the graph {graph.name!r} has several {what} with the id {twice[0]!r}"
            )
    for edge in graph.edges:
        if edge.source not in graph.index or edge.target not in graph.index:
            raise ValueError(f"the edge {edge.id!r} starts or ends at an unknown call")
        if graph.index[edge.source] >= graph.index[edge.target]:
            raise ValueError(f"the call {edge.target!r} comes before {edge.source!r}, its source")
        if not 0 <= edge.output < len(graph.node(edge.source).outputs):
            raise ValueError(f"the edge {edge.id!r} starts at an unknown output")
    for node_id, output in graph.outputs:
        if node_id in graph.index and not 0 <= output < len(graph.node(node_id).outputs):
            raise ValueError(f"the output {node_id}[{output}] of {graph.name!r} is unknown")
    calls = set(graph.index)
    places = calls | {edge.id for edge in graph.edges}
    for what, referred, allowed in (
        ("inputs", graph.inputs, calls),
        ("outputs", (node_id for node_id, _ in graph.outputs), calls),
        ("the stream", (end for pair in graph.stream for end in pair), calls),
        ("skip_paths", (i for p in graph.skip_paths for i in (*p.line, *p.bypassed)), calls),
        ("pictures", graph.pictures, calls),
        ("notes", (place for note in graph.notes for place in note.about), places),
        ("overlays", (place for overlay in graph.overlays for place in overlay.values), places),
    ):
        unknown = next((place for place in referred if place not in allowed), None)
        if unknown is not None:
            raise ValueError(f"{what} of the graph {graph.name!r} refer to the unknown {unknown!r}")


def _check_sizes(graph: Any) -> None:
    """Check the sizes of tensors, the numbers of weights and those of blocks, not their types."""
    counts: list[tuple[str, float]] = []
    for part in (graph, *graph.nodes):
        place = f"the call {part.id!r}" if part is not graph else f"the graph {graph.name!r}"
        names = ("parameters", "trainable_parameters", "shared_parameters", "weight_bytes")
        counts += ((f"{name} of {place}", getattr(part, name, 0)) for name in names)
    tensors = [(f"the edge {edge.id!r}", edge.tensor) for edge in graph.edges]
    tensors += [(f"the call {node.id!r}", one) for node in graph.nodes for one in node.outputs]
    for place, tensor in tensors:
        sizes = [size for size in tensor.shape if isinstance(size, int)]
        counts += ((f"the shape of {place}", size) for size in sizes)
        _check_size(math.prod(sizes), f"the number of elements of {place}", _MOST)
    counts += (
        (f"the size of the axis {name!r}", size or 0) for name, size in graph.letters.items()
    )
    for what, number in counts:
        if isinstance(number, int | float) and number < 0:
            raise ValueError(f"{what} must be 0 or more, given {number}")
    for name, times in graph.repeats.items():
        if isinstance(times, int) and times < 1:
            raise ValueError(f"{name!r} stands for {times} blocks, and must for 1 or more")
