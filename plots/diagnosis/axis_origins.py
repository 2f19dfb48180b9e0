"""Origins of axes: from which axis of which call each axis of a tensor comes.

Unlike the letters of `plots.axes`, which axes share by what they mean, origins are followed in the
direction of the data, so that keys and queries of one sequence stay apart in a product, and a
reshape shows which axes it cuts up and mixes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Literal

from plots.axes.rules import follow
from plots.axes.unions import AxisId, AxisUnions, Call
from plots.costs.flop_rules import is_known
from plots.graph import Graph, Node, Shape
from plots.layers import CONVOLUTIONS, REPETITIONS
from plots.traversal import once_per_graph

Kind = Literal["batch", "position", "feature", ""]

_FREE = 10_007
"""Stands for a free size: a prime that no other size of a model is likely to be."""


@dataclass(frozen=True, slots=True)
class Part:
    """A whole axis of a call that made it, or a part of one.

    Attributes:
        origins: (id of a call, output, axis) of the axis; several where tensors were merged.
        kind: "batch", "position", "feature", or "" if the graph does not tell.
        size: The size of the part, a fraction if a reshape cuts across it.
        is_repeated: Whether the values are the same along it.
    """

    origins: frozenset[tuple[str, int, int]]
    kind: Kind
    size: Fraction
    is_repeated: bool = False


Origin = tuple[Part, ...]
"""Origin of an axis: its parts, outermost first."""


@once_per_graph
def axis_origins(graph: Graph) -> Mapping[tuple[str, int], tuple[Origin, ...]]:
    """Return the origin of every axis, by (id of a call, output)."""
    found: dict[tuple[str, int], tuple[Origin, ...]] = {}
    for node in graph.nodes:
        given = {}
        for edge in graph.incoming[node.id]:
            origins = found[edge.source, edge.output]
            if not edge.implicit and len(origins) == len(edge.tensor.shape):
                given[edge.port] = origins
        for number, origins in enumerate(_of_outputs(node, given)):
            found[node.id, number] = origins
    return found


def kinds(origin: Iterable[Part]) -> set[Kind]:
    """Return the kinds of the parts of an axis that are not of size 1."""
    return {part.kind for part in origin if part.size != 1}


def sources(origin: Iterable[Part]) -> frozenset[tuple[str, int, int]]:
    """Return the axes that the parts of an axis come from."""
    return frozenset[tuple[str, int, int]]().union(*(p.origins for p in origin if p.size != 1))


def _of_outputs(node: Node, given: Mapping[str, tuple[Origin, ...]]) -> list[tuple[Origin, ...]]:
    if node.kind == "input" or not given:
        return [_of_input(node, n, tensor.shape) for n, tensor in enumerate(node.outputs)]
    first = next(iter(given.values()))
    shape = node.outputs[0].shape
    if node.operation in ("Flatten", "Reshape") and len(given) == 1 and _is_known(first, shape):
        return [regrouped(first, shape)]
    unions = AxisUnions()
    inputs = {
        port: tuple(unions.new(None if part_size(o) == _FREE else int(part_size(o))) for o in axes)
        for port, axes in given.items()
    }
    outputs = tuple(tuple(unions.new(size) for size in t.shape) for t in node.outputs)
    follow(Call(node, inputs, outputs, unions))
    origin_of: dict[AxisId, list[Origin]] = {}
    for port, ids in inputs.items():
        for axis, origin in zip(ids, given[port], strict=True):
            origin_of.setdefault(unions.find(axis), []).append(origin)
    is_convolution = node.is_a(CONVOLUTIONS) and node.config.get("data_format") == "channels_last"
    results = []
    for number, (ids, tensor) in enumerate(zip(outputs, node.outputs, strict=True)):
        axes = []
        for place, (axis, size) in enumerate(zip(ids, tensor.shape, strict=True)):
            origins = origin_of.get(unions.find(axis), [])
            origins = [o for o in origins if part_size(o) == _size(size)] or origins[:0]
            fresh = _fresh(node, number, place, size, first, len(ids))
            own = _merged(origins) if origins else fresh
            is_place = is_convolution and 0 < place < len(ids) - 1
            axes.append(tuple(map(_as_position, own)) if is_place else own)
        results.append(tuple(axes))
    return results


def _of_input(node: Node, number: int, shape: Shape) -> tuple[Origin, ...]:
    is_sequence = len(shape) > 2 or "float" not in node.outputs[number].dtype
    kinds: list[Kind] = ["position" if is_sequence else ""] * len(shape)
    if shape:
        kinds[-1] = "feature" if len(shape) > 2 else kinds[-1]
        kinds[0] = "batch"
    return tuple(
        (Part(frozenset({(node.id, number, place)}), kind, _size(size)),)
        for place, (kind, size) in enumerate(zip(kinds, shape, strict=True))
    )


def _fresh(
    node: Node, number: int, place: int, size: int | None, first: tuple[Origin, ...], rank: int
) -> Origin:
    """Return an axis that a call makes: new features, a part of an axis, or one of fewer steps."""
    kind: Kind = ""
    has_weights = bool(node.parameters or node.shared_parameters)
    is_unknown = has_weights and (bool(node.call_class) or not is_known(node))
    is_kept = place < len(first) and part_size(first[place]) == _size(size)
    if place < len(first) == rank and not (node.parameters and place == rank - 1):
        own = kinds(first[place])
        kind = own.pop() if len(own) == 1 else ""
    elif is_unknown and place < rank - 1:  # such as a layer that embeds tokens and positions
        own = kinds(first[place]) if is_kept else set()
        kind = own.pop() if len(own) == 1 else ""
    elif has_weights:
        kind = "feature"
    is_repeated = node.operation in REPETITIONS and (
        len(first) != rank or part_size(first[place]) == 1
    )
    return (Part(frozenset({(node.id, number, place)}), kind, _size(size), is_repeated),)


def _as_position(part: Part) -> Part:
    """Return a part of an axis that a convolution moves along: of positions, not of features."""
    return replace(part, kind="position") if part.kind == "feature" else part


def _merged(origins: list[Origin]) -> Origin:
    """Return the origin of an axis that several tensors have, the first of them decides."""
    first, *others = [o for o in origins if not all(p.is_repeated for p in o)] or origins[:1]
    if len(first) != 1 or any(len(other) != 1 for other in others):
        return first
    own, more = first[0], [other[0] for other in others]
    return (replace(own, origins=own.origins.union(*(part.origins for part in more))),)


def regrouped(given: Iterable[Origin], shape: Shape) -> tuple[Origin, ...]:
    """Return the origins of axes after a reshape, which keeps the order of the numbers."""
    parts = [part for origin in given for part in origin if part.size != 1]
    spans: list[tuple[Fraction, Fraction, Part]] = []
    step = Fraction(1)
    for part in reversed(parts):
        spans.append((step, step * part.size, part))
        step *= part.size
    result: list[Origin] = []
    start = Fraction(1)
    for place in range(len(shape) - 1, -1, -1):
        is_outermost = place == 0
        end = start * _size(shape[place])
        inside = []
        for low, high, part in reversed(spans):
            overlap = (high if is_outermost else min(high, end)) / max(low, start)
            if overlap > 1:
                inside.append(part if overlap == part.size else replace(part, size=overlap))
        result.append(tuple(inside) or (Part(frozenset(), "", Fraction(1)),))
        start = end
    return tuple(reversed(result))


def _is_known(given: tuple[Origin, ...], shape: Shape) -> bool:
    """Return whether the sizes after a reshape are known: those without the batch, or its rest."""
    before, after = map(part_size, given[1:]), map(_size, shape[1:])
    has_free = _FREE in [part_size(origin) for origin in given[1:]] or None in shape[1:]
    return not has_free or prod(before) == prod(after)


def part_size(origin: Origin) -> Fraction:
    """Return the size of an axis."""
    size = Fraction(1)
    for part in origin:
        size *= part.size
    return size


def _size(size: int | None) -> Fraction:
    return Fraction(_FREE if size is None else size)
