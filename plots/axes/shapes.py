"""The letter of every axis of every tensor of a graph: `axes_of`, and the plugin `shapes`.

Two axes are the same where a call passes one on as the other: a norm keeps all axes of its input, a
`Dense` all but the last, an `EinsumDense` those with the same letter in its equation. Axes that
only have the same size stay apart. `plots.axes.rules` knows calls by class, and
`plots.axes.letters` chooses the letters.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod

import plots.axes.reshape_rules  # noqa: F401 - registers its rules
from plots.annotations import Quantity
from plots.axes.letters import ALL_LETTERS, name_axes
from plots.axes.rules import follow
from plots.axes.unions import AxisId, AxisUnions, Call
from plots.graph import Edge, Graph, Tensor
from plots.registry import graph_plugin

UNKNOWN = "?"
"""Stands for a free size that nothing is known of."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One axis of a tensor.

    Attributes:
        letter: Such as "t"; "H/2" or "t-1" if its size derives from others; of one without a letter
            its size as text, or "?".
        quantity: Its size, a polynomial in the letters of free axes. It is not rounded: half of an
            odd height is H/2.
    """

    letter: str
    quantity: Quantity


@dataclass(frozen=True, slots=True)
class GraphAxes:
    """The axes of all tensors of a graph.

    Attributes:
        outputs: (id of a call, output) -> the axes of the output.
        edges: Id of an edge -> the axes of its tensor.
        letters: Letters that occur -> their sizes; None if free.
    """

    outputs: Mapping[tuple[str, int], tuple[Axis, ...]]
    edges: Mapping[str, tuple[Axis, ...]]
    letters: Mapping[str, int | None]


@graph_plugin("shapes")
def shapes(graph: Graph) -> Graph:
    """The letter of every axis on the edges (b t d), and the sizes of the letters.

    Fills `Tensor.letters` of outputs and edges, and `Graph.letters`. An axis without a clear role
    has its size in the place of a letter.
    """
    axes = axes_of(graph)

    def lettered(tensor: Tensor, found: tuple[Axis, ...]) -> Tensor:
        return replace(tensor, letters=tuple(axis.letter for axis in found))

    nodes = [
        replace(
            node,
            outputs=tuple(
                lettered(tensor, axes.outputs[node.id, number])
                for number, tensor in enumerate(node.outputs)
            ),
        )
        for node in graph.nodes
    ]
    edges = [replace(e, tensor=lettered(e.tensor, axes.edges[e.id])) for e in graph.edges]
    return replace(graph, nodes=tuple(nodes), edges=tuple(edges), letters=axes.letters)


def axes_of(graph: Graph) -> GraphAxes:
    """Return the axes of a graph's tensors, with letters of `plots.axes.letters.GLOSSARY`."""
    unions = AxisUnions()
    outputs: dict[tuple[str, int], tuple[AxisId, ...]] = {}
    edges: dict[str, tuple[AxisId, ...]] = {}
    for node in graph.nodes:
        inputs = {}
        for edge in graph.incoming[node.id]:
            given = outputs[edge.source, edge.output]
            edges[edge.id] = inputs[edge.port] = _on_edge(unions, edge, given)
        results = tuple(tuple(unions.new(n) for n in tensor.shape) for tensor in node.outputs)
        outputs.update({(node.id, number): axes for number, axes in enumerate(results)})
        if node.kind == "input":
            _unite_batch(graph, unions, results)
        else:
            follow(Call(node, inputs, results, unions))
    named = _Named(unions, name_axes(graph, unions, outputs))
    return GraphAxes(
        outputs={place: named.axes(axes) for place, axes in outputs.items()},
        edges={edge_id: named.axes(axes) for edge_id, axes in edges.items()},
        letters=named.occurring(),
    )


def _unite_batch(graph: Graph, unions: AxisUnions, results: tuple[tuple[AxisId, ...], ...]) -> None:
    """Unite the first axes of all inputs: the batch, as everywhere in Keras."""
    shapes = [graph.node(node_id).outputs[0].shape for node_id in graph.inputs]
    sizes = {shape[0] for shape in shapes if shape}
    if len(sizes) == 1 and results[0]:
        unions.unite(unions.named("batch", size=next(iter(sizes))), results[0][0])


def _on_edge(unions: AxisUnions, edge: Edge, given: tuple[AxisId, ...]) -> tuple[AxisId, ...]:
    """Return the axes of a tensor on an edge.

    Inside a `TimeDistributed` there is no time axis: batch and time are folded into one axis, and
    unfolded behind it.
    """
    rank = len(edge.tensor.shape)
    if rank == len(given) - 1 > 0:
        return (unions.folded(*given[:2]), *given[2:])
    if rank == len(given) + 1 > 1:
        formula = unions.formula(given[0]) or ()
        parts = formula[0][1] if len(formula) == 1 else ()
        unknown = unions.new(edge.tensor.shape[0]), unions.new(edge.tensor.shape[1])
        return (*(parts if len(parts) == 2 else unknown), *given[1:])
    return given


class _Named:
    """Axes by number as `Axis`, with derived sizes worked out."""

    def __init__(self, unions: AxisUnions, letters: Mapping[AxisId, str]) -> None:
        self._unions = unions
        self._letters = letters
        self._sizes: dict[AxisId, Quantity] = {}
        self._known: dict[AxisId, Axis] = {}

    def axes(self, axes: tuple[AxisId, ...]) -> tuple[Axis, ...]:
        return tuple(self._axis(self._unions.find(axis)) for axis in axes)

    def occurring(self) -> dict[str, int | None]:
        """Return the letters of all axes returned so far, with their sizes."""
        found = {self._letters[a]: self._unions.size(a) for a in self._known if a in self._letters}
        return {letter: found[letter] for letter in ALL_LETTERS if letter in found}

    def _axis(self, axis: AxisId) -> Axis:
        if axis not in self._known:
            size = self._size(axis)
            # The rest of a constant is rounding; see `Axis.quantity`.
            whole = Quantity({**size, "": int(size.get("", 0))})
            numbers = {monomial: _number(factor) for monomial, factor in whole.items() if factor}
            self._known[axis] = Axis(self._letters.get(axis) or size_text(whole), Quantity(numbers))
        return self._known[axis]

    def _size(self, axis: AxisId) -> Quantity:
        """Return the size of an axis, in exact fractions."""
        axis = self._unions.find(axis)
        if axis not in self._sizes:
            self._sizes[axis] = Quantity({UNKNOWN: 1})  # of a formula that leads back to itself
            self._sizes[axis] = self._derived(axis)
        return self._sizes[axis]

    def _derived(self, axis: AxisId) -> Quantity:
        size, formula = self._unions.size(axis), self._unions.formula(axis)
        if size is not None:
            return Quantity(size)
        if axis in self._letters or formula is None:
            return Quantity({self._letters.get(axis, UNKNOWN): 1})
        terms = (prod(map(self._size, others), start=Quantity(f)) for f, others in formula)
        return sum(terms, Quantity())


def _number(factor: float | Fraction) -> float:
    return int(factor) if factor == int(factor) else float(factor)


def size_text(size: Quantity) -> str:
    """Return a size as text: "12", "H/2", "t-1", "b·t"."""
    text = ""
    for monomial in sorted(size, key=lambda monomial: (-len(monomial.split()), monomial)):
        factor, letters = Fraction(size[monomial]), "·".join(monomial.split())
        over = f"/{factor.denominator}" if factor.denominator > 1 else ""
        times = str(abs(factor.numerator)) if abs(factor.numerator) > 1 or not letters else ""
        if factor:
            text += ("-" if factor < 0 else "+") + times + letters + over
    return text.removeprefix("+") or "0"
