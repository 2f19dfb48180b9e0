"""The letter of every axis of every tensor of a graph: `axes_of`, and the plugin `shapes`.

Two axes are the same where a call passes one on as the other: a norm keeps all axes of its input, a
`Dense` all but the last, an `EinsumDense` those with the same letter in its equation. Axes that
only have the same size stay apart. `rules` and `reshape_rules` follow the axes through calls,
`unions` keeps which are the same, and the letters are chosen here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain, combinations, product
from math import prod

import plots.axes.reshape_rules  # noqa: F401 - registers its rules
from plots.annotations import Quantity
from plots.arguments import takes_graphs
from plots.attentions import find_attentions
from plots.axes.rules import follow
from plots.axes.unions import AxisId, AxisUnions, Call
from plots.graph import Edge, Graph, Node, Tensor
from plots.layers import is_reversed_embedding
from plots.registry import graph_plugin
from plots.skips import skip_paths

GLOSSARY = {
    "b": "batch",
    "t": "target (query) length",
    "s": "source (key) length",
    "d": "width of the stream",
    "n": "query heads",
    "k": "key/value heads",
    "h": "width of a head",
    "f": "width of the feed-forward",
    "v": "vocabulary",
    "D": "depth",
    "H": "height",
    "W": "width",
}
"""Letter -> meaning."""

FURTHER_LENGTHS = "uwxyz"
"""Letters of free lengths besides those of target and source."""

UNKNOWN = "?"
"""Stands for a free size that nothing is known of."""

EMBEDDINGS = {"Embedding", "TokenAndPositionEmbedding"}
"""Classes that look up a vector for every token; subclasses count as well."""


def meaning(letter: str) -> str:
    """Return the meaning of a letter."""
    return GLOSSARY.get(letter, "a further length")


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

    nodes = []
    for node in graph.nodes:
        outputs = (lettered(t, axes.outputs[node.id, n]) for n, t in enumerate(node.outputs))
        nodes.append(replace(node, outputs=tuple(outputs)))
    edges = [replace(e, tensor=lettered(e.tensor, axes.edges[e.id])) for e in graph.edges]
    return replace(graph, nodes=tuple(nodes), edges=tuple(edges), letters=axes.letters)


@takes_graphs
def axes_of(graph: Graph) -> GraphAxes:
    """Return the axes of a graph's tensors, with letters of `GLOSSARY`."""
    unions = AxisUnions()
    outputs: dict[tuple[str, int], tuple[AxisId, ...]] = {}
    edges: dict[str, tuple[AxisId, ...]] = {}
    shapes = [graph.node(node_id).outputs[0].shape for node_id in graph.inputs]
    batches = {shape[0] for shape in shapes if shape}
    for node in graph.nodes:
        inputs = {}
        for edge in graph.incoming[node.id]:
            given = outputs[edge.source, edge.output]
            edges[edge.id] = inputs[edge.port] = _on_edge(unions, edge, given)
        results = tuple(tuple(unions.new(n) for n in tensor.shape) for tensor in node.outputs)
        outputs.update({(node.id, number): axes for number, axes in enumerate(results)})
        if node.kind != "input":
            follow(Call(node, inputs, results, unions))
        elif len(batches) == 1 and results[0]:  # all inputs share the batch, as everywhere in Keras
            unions.unite(unions.named("batch", size=next(iter(batches))), results[0][0])
    named = _Named(unions, _Namer(graph, unions, outputs).letters)
    return GraphAxes(
        outputs={place: named.axes(axes) for place, axes in outputs.items()},
        edges={edge_id: named.axes(axes) for edge_id, axes in edges.items()},
        letters=named.occurring(),
    )


def _on_edge(unions: AxisUnions, edge: Edge, given: tuple[AxisId, ...]) -> tuple[AxisId, ...]:
    """Return the axes of a tensor on an edge.

    Inside a `TimeDistributed` there is no time axis: batch and time are folded into one axis, and
    unfolded behind it.
    """
    rank = len(edge.tensor.shape)
    if rank == len(given) - 1 > 0:
        folded = unions.named("folded", *map(unions.find, given[:2]))
        unions.derive_size(folded, (1, given[:2]))
        return (folded, *given[2:])
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
        """Return the letters of all axes returned so far, in the order of legends -> sizes."""
        found = {self._letters[a]: self._unions.size(a) for a in self._known if a in self._letters}
        in_order = (*GLOSSARY, *FURTHER_LENGTHS)
        return {letter: found[letter] for letter in in_order if letter in found}

    def _axis(self, axis: AxisId) -> Axis:
        if axis not in self._known:
            size = self._size(axis)
            # The rest of a constant is rounding; see `Axis.quantity`.
            whole = Quantity({**size, "": int(size.get("", 0))})
            numbers = {
                monomial: int(factor) if factor == int(factor) else float(factor)
                for monomial, factor in whole.items()
                if factor
            }
            self._known[axis] = Axis(self._letters.get(axis) or size_text(whole), Quantity(numbers))
        return self._known[axis]

    def _size(self, axis: AxisId) -> Quantity:
        """Return the size of an axis, in exact fractions."""
        axis = self._unions.find(axis)
        if axis not in self._sizes:
            size, formula = self._unions.size(axis), self._unions.formula(axis)
            free = {self._letters.get(axis, UNKNOWN): 1}  # also if a formula leads back to itself
            self._sizes[axis] = Quantity(free if size is None else size)
            if size is None and axis not in self._letters and formula is not None:
                terms = (prod(map(self._size, others), start=Quantity(f)) for f, others in formula)
                self._sizes[axis] = sum(terms, Quantity())
        return self._sizes[axis]


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


# Letters ----------------------------------------------------------------------------------------


class _Namer:
    """The letter of every axis that has one, given the axes of (id of a call, output).

    Free axes: b is the first axis of the inputs; H, W (and D) are those of images. Where an
    attention has two lengths, t is that of the queries and s that of the keys; other lengths are
    named in the order of the model's outputs, then of its inputs.

    Axes of a fixed size: d is the last axis of the residual stream and of embeddings; v is that of
    logits over an embedding's tokens; n, k and h are those of attention; f is the axis between a
    projection from d and one back to d. A layer may declare any of them. A letter has one size,
    that of most candidates; the others have no letter.
    """

    def __init__(
        self, graph: Graph, axes: AxisUnions, tensors: Mapping[tuple[str, int], tuple[AxisId, ...]]
    ) -> None:
        self.graph = graph
        self.axes = axes
        self.tensors = tensors
        self.letters: dict[AxisId, str] = {}
        self.inputs = [tensors[node_id, 0] for node_id in graph.inputs]
        self.given = {axes.find(axis) for shape in self.inputs for axis in shape}
        self.name_batch()
        self.name_image()
        self.name_attended_lengths()
        self.name_other_lengths()
        self.name_stream()
        self.name_vocabulary()
        self.name_heads()
        self.name_feedforward()

    def give(self, letter: str, candidates: Iterable[AxisId]) -> None:
        """Name the candidates of the most frequent size that have no letter yet."""
        found = Counter(self.axes.find(axis) for axis in candidates)
        sizes: Counter[int] = Counter()
        for axis, times in found.items():
            if axis not in self.letters and (size := self.axes.size(axis) or 1) > 1:
                sizes[size] += times
        if sizes and letter not in self.letters.values():
            ((size, _),) = sizes.most_common(1)
            fitting = (axis for axis in found if self.axes.size(axis) == size)
            self.letters |= dict.fromkeys(fitting, letter) | self.letters

    def give_free(self, letter: str, axis: AxisId) -> bool:
        """Name one free axis; return False if it has a letter, or its size is derived."""
        axis = self.axes.find(axis)
        if not letter or axis in self.letters or letter in self.letters.values():
            return False
        if self.axes.size(axis) is not None or self._is_derived(axis):
            return False
        self.letters[axis] = letter
        return True

    def name_batch(self) -> None:
        first = [shape[0] for shape in self.inputs if shape]
        for axis in first:
            self.give_free("b", axis)
        if len({self.axes.size(axis) for axis in first}) == 1:
            self.give("b", first)

    def name_image(self) -> None:
        sides = [(letter, axis) for letter, axis in self.axes.roles if letter in "DHW"]
        for shape in self.inputs:
            free = [self.axes.size(axis) is None for axis in shape[1:]]
            if free == [True, True, False]:
                sides += zip("HW", shape[1:], strict=False)
        for letter, axis in sides:
            self.give_free(letter, axis)

    def name_attended_lengths(self) -> None:
        attends = [*self._attended_lengths(), *self.axes.attends]
        pairs = [(self.axes.find(query), self.axes.find(key)) for query, key in attends]
        cross = [(t, s) for t, s in pairs if t != s and not self._is_derived(t, s)]
        # A decoding step has the keys in the cache, and those of the source: prefer free lengths.
        for t, s in sorted(cross, key=lambda pair: self.axes.size(pair[1]) is not None)[:1]:
            for letter, axis in (("t", t), ("s", s)):
                if not self.give_free(letter, axis):
                    self.give(letter, [axis])
        self.give("t", [t for t, s in pairs if t == s])

    def _attended_lengths(self) -> Iterator[tuple[AxisId, AxisId]]:
        for attention in find_attentions(self.graph):
            if attention.lengths is not None:
                (query, n, i), (key, m, j) = attention.lengths
                yield self.tensors[query, n][i], self.tensors[key, m][j]

    def name_other_lengths(self) -> None:
        results = [self.tensors[place] for place in self.graph.outputs]
        for axis in chain(*results, *self.inputs):
            letters = (a for a in "ts" + FURTHER_LENGTHS if a not in self.letters.values())
            if self.axes.find(axis) in self.given:
                self.give_free(next(letters, ""), axis)

    def _is_derived(self, *axes: AxisId) -> bool:
        """Whether a size is derived from those of other axes; that of an input is not."""
        roots = [self.axes.find(axis) for axis in axes]
        return any(a not in self.given and self.axes.formula(a) is not None for a in roots)

    def name_stream(self) -> None:
        paths = self.graph.skip_paths or skip_paths(self.graph)
        merges = [self.tensors[path.target, 0] for path in paths if not path.projected]
        embedded = [self.tensors[node.id, 0] for node in self._embeddings()]
        streams = [shape[-1] for shape in merges if len(shape) in (2, 3)] + self._declared("d")
        tables = [shape[-1] for shape in embedded if len(shape) == 3]
        sizes = {self.axes.size(axis) for axis in streams} if streams else None
        self.give("d", [*streams, *(t for t in tables if not sizes or self.axes.size(t) in sizes)])

    def name_vocabulary(self) -> None:
        sizes = {
            node.config.get("input_dim", node.config.get("vocabulary_size"))
            for node in self._embeddings()
        }
        ends = [shape[-1] for place in self.graph.outputs if (shape := self.tensors[place])]
        results = {self.axes.find(axis) for axis in ends if self.axes.size(axis) in sizes}
        logits = [to for _, to in self.axes.projections if self.axes.find(to) in results]
        self.give("v", [*self._declared("v"), *logits])

    def name_heads(self) -> None:
        find = self.axes.find
        pairs = chain.from_iterable(combinations(split, 2) for split in self.axes.splits)
        splits = {(find(n), find(h)) for n, h in pairs}
        products = chain.from_iterable(product(both, rest) for both, rest in self.axes.products)
        heads = [(n, h) for n, h in products if (find(n), find(h)) in splits]
        self.give("n", [*self._declared("n"), *(n for n, _ in heads)])
        self.give("k", self._declared("k"))
        self.give("h", [*self._declared("h"), *(h for _, h in heads)])

    def name_feedforward(self) -> None:
        find = self.axes.find
        ends = [(find(start), find(end)) for start, end in self.axes.projections]
        from_stream = [to for start, to in ends if self.letters.get(start) == "d"]
        back = {start for start, to in ends if self.letters.get(to) == "d"}
        multiplied = {find(a) for both, others in self.axes.products for a in (*both, *others)}
        between = [a for a in from_stream if a in back and a not in multiplied]
        self.give("f", [*self._declared("f"), *between])

    def _declared(self, letter: str) -> list[AxisId]:
        return [axis for role, axis in self.axes.roles if role == letter]

    def _embeddings(self) -> list[Node]:
        found = (node for node in self.graph.nodes if node.is_a(EMBEDDINGS))
        return [node for node in found if not is_reversed_embedding(node)]
