"""Align two graphs: pair their calls by path, then by content and neighbours."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from typing import Literal

from plots.differences.difference import without_names
from plots.graph import Edge, Graph, Node
from plots.layers import is_additive_merge


@dataclass(frozen=True)
class Alignment:
    """Pairs of calls, one of each graph.

    Attributes:
        partners: Id of a call in the first graph -> id of the same call in the second.
        displaced: Ids in the first graph: the smallest set of calls to move for all pairs to have
            the same order in both.
    """

    partners: Mapping[str, str]
    displaced: frozenset[str]

    def inverted(self) -> Alignment:
        """Return the same pairs from second to first graph."""
        return Alignment(
            {theirs: mine for mine, theirs in self.partners.items()},
            frozenset(self.partners[mine] for mine in self.displaced),
        )


def align(first: Graph, second: Graph) -> Alignment:
    """Pair the calls of two graphs; every call is in one pair at most.

    The first pairs have the same path, and the same class or a common neighbour. The remaining
    calls are paired in this order: those connected to a pair in the same way; those whose
    configuration, shapes and neighbours are equally frequent in both graphs; the longest common
    runs. Unnamed calls ("add#3") are paired by structure only, because their numbers have no
    meaning. A pair with different paths needs neighbours that are pairs as well.

    `align(b, a)` has the same pairs as `align(a, b)`.
    """
    if _order_of_two(first) > _order_of_two(second):
        return align(second, first).inverted()
    pairs = _Pairs(first, second)
    pairs.add(_by_path(first, second))
    pairs.add(_by_position(pairs))
    pairs.grow(pairs.content)
    pairs.add(_by_count(pairs))
    pairs.grow(pairs.content)
    pairs.grow(_class)
    pairs.add(_by_order(pairs))
    pairs.grow(_class)
    pairs.add(_between(pairs))
    pairs.grow(_class)
    pairs.drop(_coincidences(pairs))
    common = [node.id for node in first.nodes if node.id in pairs.partners]
    stay = _longest_increasing([second.index[pairs.partners[mine]] for mine in common])
    displaced = (mine for number, mine in enumerate(common) if number not in stay)
    return Alignment(pairs.partners, frozenset(displaced))


def is_auto_numbered(node_id: str) -> bool:
    """Return whether the id contains a count, as "add#3" and "functional#1.query" do."""
    return "#" in node_id


def port_of(edge: Edge, target: Node) -> str:
    """Return the port of an edge; "" for those of a sum, whose order has no meaning."""
    return "" if is_additive_merge(target) else edge.port


class _Pairs:
    """The pairs found so far."""

    def __init__(self, first: Graph, second: Graph) -> None:
        self.graphs = first, second
        self.partners: dict[str, str] = {}
        self._theirs: set[str] = set()
        self.taken = self.partners.keys(), self._theirs
        self._contents: dict[int, str] = {}

    def add(self, pairs: Iterable[tuple[str, str]]) -> None:
        for mine, theirs in pairs:
            if mine not in self.taken[0] and theirs not in self.taken[1]:
                self.partners[mine] = theirs
                self._theirs.add(theirs)

    def drop(self, ids: Iterable[str]) -> None:
        for mine in ids:
            self._theirs.remove(self.partners.pop(mine))

    def left(self, side: int) -> list[Node]:
        """Return the calls of one graph without a partner."""
        return [node for node in self.graphs[side].nodes if node.id not in self.taken[side]]

    def content(self, node: Node) -> str:
        """Return a key of all that a call is, except its name."""
        if id(node) not in self._contents:
            config = json.dumps(without_names(node.config), sort_keys=True, default=str)
            # Without digests: other values are a change, and older graph files have none.
            constants = [replace(constant, digest=None) for constant in node.constants]
            described = node.kind, node.class_name, config, node.outputs, constants
            self._contents[id(node)] = repr(described)
        return self._contents[id(node)]

    def surroundings(self, side: int, node: Node) -> Hashable:
        """Return the contents of a call and its neighbours: one Weisfeiler-Lehman round."""
        graph = self.graphs[side]
        before = [
            (port_of(edge, node), self.content(graph.node(edge.source)))
            for edge in graph.incoming[node.id]
        ]
        targets = [(edge, graph.node(edge.target)) for edge in graph.outgoing[node.id]]
        after = [(port_of(edge, target), self.content(target)) for edge, target in targets]
        return self.content(node), tuple(sorted(before)), tuple(sorted(after))

    def grow(self, key: Callable[[Node], Hashable]) -> None:
        """Pair neighbours of pairs that are connected in the same way and have a unique key."""
        waiting = deque(self.partners.items())
        while waiting:
            mine, theirs = waiting.popleft()
            near, there = self._near(0, mine, key), self._near(1, theirs, key)
            for way, ids in near.items():
                others = there.get(way, set())
                if len(ids) == len(others) == 1:
                    [pair] = zip(ids, others, strict=True)
                    if pair[0] not in self.taken[0] and pair[1] not in self.taken[1]:
                        self.add([pair])
                        waiting.append(pair)

    def _near(
        self, side: int, node_id: str, key: Callable[[Node], Hashable]
    ) -> dict[Hashable, set[str]]:
        """Return the neighbours without a partner: (connection, key) -> their ids."""
        graph, taken = self.graphs[side], self.taken[side]
        found: dict[Hashable, set[str]] = {}
        for edges, end in ((graph.outgoing, "target"), (graph.incoming, "source")):
            for edge in edges[node_id]:
                other = graph.node(getattr(edge, end))
                if other.id not in taken:
                    port = port_of(edge, graph.node(edge.target))
                    found.setdefault((end, port, edge.output, key(other)), set()).add(other.id)
        return found


def _by_path(first: Graph, second: Graph) -> Iterable[tuple[str, str]]:
    for node_id in first.index:
        if node_id in second.index and not is_auto_numbered(node_id):
            same_class = first.node(node_id).class_name == second.node(node_id).class_name
            if same_class or _neighbours(first, node_id) & _neighbours(second, node_id):
                yield node_id, node_id


def _neighbours(graph: Graph, node_id: str) -> set[str]:
    sources = {edge.source for edge in graph.incoming[node_id]}
    return sources | {edge.target for edge in graph.outgoing[node_id]}


def _by_position(pairs: _Pairs) -> Iterable[tuple[str, str]]:
    """Yield the inputs of the models, and the calls that return their outputs, in order."""
    first, second = pairs.graphs
    mine, theirs = ([n for n in pairs.left(side) if n.kind == "input"] for side in (0, 1))
    for a, b in zip(mine, theirs, strict=False):
        if len(mine) == len(theirs) or pairs.content(a) == pairs.content(b):
            yield a.id, b.id
    for (one, _), (other, _) in zip(first.outputs, second.outputs, strict=False):
        if _class(first.node(one)) == _class(second.node(other)):
            yield one, other


def _by_count(pairs: _Pairs) -> Iterable[tuple[str, str]]:
    """Yield calls with surroundings that are equally frequent in both graphs, in order."""
    found: dict[Hashable, tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for side in (0, 1):
        for node in pairs.left(side):
            found[pairs.surroundings(side, node)][side].append(node.id)
    for mine, theirs in found.values():
        if len(mine) == len(theirs):
            yield from zip(mine, theirs, strict=True)


def _by_order(pairs: _Pairs) -> Iterable[tuple[str, str]]:
    """Yield the longest runs of calls with equal surroundings, in the order of the graphs."""
    nodes = pairs.left(0), pairs.left(1)
    keys = [[pairs.surroundings(side, node) for node in nodes[side]] for side in (0, 1)]
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys[0] + keys[1]))}
    coded = [[numbers[key] for key in side] for side in keys]
    matcher = SequenceMatcher(None, coded[0], coded[1], autojunk=False)
    for start, other, length in matcher.get_matching_blocks():
        for offset in range(length):
            yield nodes[0][start + offset].id, nodes[1][other + offset].id


def _coincidences(pairs: _Pairs) -> list[str]:
    """Return calls whose partner has another path and other surroundings.

    The norm after a stack is not the norm of a block added there, although both feed the same
    call. If the last part of the path is equal, one common side is enough.
    """
    first, second = pairs.graphs
    found = []
    for mine, theirs in pairs.partners.items():
        if mine == theirs or is_auto_numbered(mine) or is_auto_numbered(theirs):
            continue
        above = _meet(pairs, first.incoming[mine], second.incoming[theirs], "source")
        below = _meet(pairs, first.outgoing[mine], second.outgoing[theirs], "target")
        same_label = first.node(mine).label == second.node(theirs).label
        if above + below < (1 if same_label else 2):
            found.append(mine)
    return found


def _meet(
    pairs: _Pairs, mine: Iterable[Edge], theirs: Iterable[Edge], end: Literal["source", "target"]
) -> bool:
    """Return whether the calls at one end of the edges include a pair, or there are no calls."""
    calls = {pairs.partners.get(getattr(edge, end)) for edge in mine}
    others = {getattr(edge, end) for edge in theirs}
    return bool(calls & others) or not (calls or others)


def _between(pairs: _Pairs) -> Iterable[tuple[str, str]]:
    """Yield calls between the same two pairs in both orders, of equal class or equal number.

    So Relu in place of Gelu is one change, not one removed and one added call.
    """
    gaps: dict[str, tuple[list[Node], list[Node]]] = defaultdict(lambda: ([], []))
    for side in (0, 1):
        latest = ""
        for node in pairs.graphs[side].nodes:
            if node.id in pairs.taken[side]:
                latest = node.id if side else pairs.partners[node.id]
            else:
                gaps[latest][side].append(node)
    for mine, theirs in gaps.values():
        classes = [_class(node) for node in mine], [_class(node) for node in theirs]
        opcodes = SequenceMatcher(None, *classes, autojunk=False).get_opcodes()
        for tag, start, end, other, other_end in opcodes:
            if end - start == other_end - other:
                for a, b in zip(mine[start:end], theirs[other:other_end], strict=True):
                    if tag == "equal" or (is_auto_numbered(a.id) and is_auto_numbered(b.id)):
                        yield a.id, b.id


def _class(node: Node) -> Hashable:
    return node.kind, node.class_name


def _order_of_two(graph: Graph) -> tuple[int, list[str], list[str]]:
    """Return a sort key, so that the order in which two graphs are given has no effect."""
    calls = [f"{node.id} {node.class_name}" for node in graph.nodes]
    return len(calls), calls, [edge.id for edge in graph.edges]


def _longest_increasing(numbers: list[int]) -> set[int]:
    """Return the positions of a longest increasing subsequence (patience sorting)."""
    ends: list[int] = []  # smallest end of a subsequence of each length
    positions: list[int] = []
    before: list[int | None] = []
    for place, number in enumerate(numbers):
        length = bisect_left(ends, number)
        ends[length : length + 1] = [number]
        positions[length : length + 1] = [place]
        before.append(positions[length - 1] if length else None)
    found: set[int] = set()
    position = positions[-1] if positions else None
    while position is not None:
        found.add(position)
        position = before[position]
    return found
