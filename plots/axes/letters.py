"""The glossary of axis letters, and the letter of each axis whose role is clear."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from plots.attentions import find_attentions
from plots.axes.unions import AxisId, AxisUnions
from plots.graph import Graph, Node
from plots.operation_kinds import is_reversed_embedding
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

ALL_LETTERS = (*GLOSSARY, *FURTHER_LENGTHS)
"""All letters, in the order of legends."""

EMBEDDINGS = {"Embedding", "TokenAndPositionEmbedding"}
"""Classes that look up a vector for every token; subclasses count as well."""


def meaning(letter: str) -> str:
    """Return the meaning of a letter."""
    return GLOSSARY.get(letter, "a further length")


Tensors = Mapping[tuple[str, int], tuple[AxisId, ...]]
"""(id of a call, output) -> the axes of the output."""


def name_axes(graph: Graph, axes: AxisUnions, tensors: Tensors) -> dict[AxisId, str]:
    """Return the letter of every axis that has one.

    Free axes: b is the first axis of the inputs; H, W (and D) are those of images. Where an
    attention has two lengths, t is that of the queries and s that of the keys; other lengths are
    named in the order of the model's outputs, then of its inputs.

    Axes of a fixed size: d is the last axis of the residual stream and of embeddings; v is that of
    logits over an embedding's tokens; n, k and h are those of attention; f is the axis between a
    projection from d and one back to d. A layer may declare any of them. A letter has one size,
    that of most candidates; the others have no letter.
    """
    namer = _Namer(graph, axes, tensors)
    namer.name_batch()
    namer.name_image()
    namer.name_attended_lengths()
    namer.name_other_lengths()
    namer.name_stream()
    namer.name_vocabulary()
    namer.name_heads()
    namer.name_feedforward()
    return namer.letters


class _Namer:
    def __init__(self, graph: Graph, axes: AxisUnions, tensors: Tensors) -> None:
        self.graph = graph
        self.axes = axes
        self.tensors = tensors
        self.letters: dict[AxisId, str] = {}
        self.inputs = [tensors[node_id, 0] for node_id in graph.inputs]
        self.given = {axes.find(axis) for shape in self.inputs for axis in shape}

    def give(self, letter: str, candidates: Iterable[AxisId]) -> None:
        """Name the candidates of the most frequent size that have no letter yet."""
        found = Counter(self.axes.find(axis) for axis in candidates)
        open_ones = {axis: n for axis, n in found.items() if axis not in self.letters}
        sizes: Counter[int] = Counter()
        for axis, times in open_ones.items():
            size = self.axes.size(axis)
            if size is not None and size > 1:
                sizes[size] += times
        if sizes and letter not in self.letters.values():
            size = max(sizes, key=lambda size: sizes[size])
            self.letters |= {a: letter for a in open_ones if self.axes.size(a) == size}

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
        if first and "b" not in self.letters.values():
            self.give("b", first if len({self.axes.size(axis) for axis in first}) == 1 else ())

    def name_image(self) -> None:
        sides = [axis for axis in self.axes.roles if axis[0] in "DHW"]
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
        for axis in (axis for shape in [*results, *self.inputs] for axis in shape):
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
        streams = [shape[-1] for shape in merges if len(shape) in (2, 3)]
        streams += self._declared("d")
        tables = [shape[-1] for shape in embedded if len(shape) == 3]
        sizes = {self.axes.size(axis) for axis in streams} if streams else None
        self.give("d", [*streams, *(t for t in tables if not sizes or self.axes.size(t) in sizes)])

    def name_vocabulary(self) -> None:
        sizes = {
            node.config.get("input_dim", node.config.get("vocabulary_size"))
            for node in self._embeddings()
        }
        results = {
            self.axes.find(shape[-1])
            for shape in (self.tensors[place] for place in self.graph.outputs)
            if shape and self.axes.size(shape[-1]) in sizes
        }
        logits = [to for _, to in self.axes.projections if self.axes.find(to) in results]
        self.give("v", [*self._declared("v"), *logits])

    def name_heads(self) -> None:
        voted = {letter: self._declared(letter) for letter in "nkh"}
        find = self.axes.find
        splits = {(find(n), find(h)) for split in self.axes.splits for n, h in _pairs(split)}
        for both, others in self.axes.products:
            for n, h in ((n, h) for n in both for h in others if (find(n), find(h)) in splits):
                voted["n"].append(n)
                voted["h"].append(h)
        for letter in "nkh":
            self.give(letter, voted[letter])

    def name_feedforward(self) -> None:
        find = self.axes.find
        ends = [(find(start), find(end)) for start, end in self.axes.projections]
        from_stream = [to for start, to in ends if self.letters.get(start) == "d"]
        back = {start for start, to in ends if self.letters.get(to) == "d"}
        multiplied = {find(axis) for axis in self.axes.multiplied}
        declared = self._declared("f")
        between = [a for a in from_stream if a in back and a not in multiplied]
        self.give("f", [*declared, *between])

    def _declared(self, letter: str) -> list[AxisId]:
        return [axis for role, axis in self.axes.roles if role == letter]

    def _embeddings(self) -> list[Node]:
        return [
            node
            for node in self.graph.nodes
            if node.is_a(EMBEDDINGS) and not is_reversed_embedding(node)
        ]


def _pairs(split: tuple[AxisId, ...]) -> Iterable[tuple[AxisId, AxisId]]:
    return ((a, b) for i, a in enumerate(split) for b in split[i + 1 :])
