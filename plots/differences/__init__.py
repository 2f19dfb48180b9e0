"""Compare graphs: align their calls, find the differences, report and draw them.

`compare_graphs` returns a `Difference`; `report` prints it, and `union` draws it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from functools import partial
from itertools import chain, zip_longest
from typing import NamedTuple

from plots.arguments import takes_graphs
from plots.differences.alignment import Alignment, align, is_auto_numbered, port_of
from plots.differences.difference import (
    MODEL,
    ChangedCall,
    Difference,
    Move,
    Rewiring,
    TieChange,
    call_changes,
)
from plots.graph import Edge, Graph


@partial(takes_graphs, number=2)
def compare_graphs(before: Graph, after: Graph) -> Difference:
    """Return the differences between two graphs.

    Calls are paired by `plots.differences.alignment.align`. Weights are compared by their number,
    not by their values; constants also by their values, up to rounding to four digits, if both
    graphs have them. Generated names and the arguments of `compile` are not compared.

    Raises:
        ValueError: if a graph is folded, so that calls are missing.
    """
    for graph in (before, after):
        graph.check_whole("compare graphs as they were read, and fold the result")
    alignment = align(before, after)
    partners = alignment.partners
    back = {theirs: mine for mine, theirs in partners.items()}
    pairs = tuple((back[node.id], node.id) for node in after.nodes if node.id in back)
    wiring = _Wiring(before, after, alignment)
    ranks = _input_ranks(before, partners), _input_ranks(after, back.keys())
    changed = (
        ChangedCall(mine, theirs, changes)
        for mine, theirs in pairs
        if (changes := tuple(call_changes(before.node(mine), after.node(theirs), ranks)))
    )
    return Difference(
        before=before,
        after=after,
        pairs=pairs,
        added=tuple(node.id for node in after.nodes if node.id not in back),
        removed=tuple(node.id for node in before.nodes if node.id not in partners),
        moved=tuple(_moves(pairs, wiring.displaced)),
        changed=tuple(changed),
        rewired=tuple(wiring.rewired(pairs)),
        ties=tuple(_tie_changes(before, after, partners)),
    )


def line_into(graph: Graph, node_id: str) -> Edge:
    """Return the explicit input edge of a call that has only one."""
    return next(edge for edge in graph.incoming[node_id] if not edge.implicit)


def _moves(pairs: Iterable[tuple[str, str]], displaced: Set[str]) -> Iterator[Move]:
    for mine, theirs in pairs:
        renamed = mine != theirs and not (is_auto_numbered(mine) and is_auto_numbered(theirs))
        if renamed or mine in displaced:
            yield Move(mine, theirs, renamed, mine in displaced)


def _input_ranks(graph: Graph, paired: Iterable[str]) -> dict[str, int]:
    """Return the positions of the inputs that are in both graphs, among those."""
    both = set(paired)
    return {node_id: rank for rank, node_id in enumerate(i for i in graph.inputs if i in both)}


def _tie_changes(before: Graph, after: Graph, partners: Mapping[str, str]) -> Iterator[TieChange]:
    """Yield calls that are in both graphs and share weights in one of them.

    If a tie contains exactly one tie of the other graph, the change is about the calls outside it.
    """
    back = {theirs: mine for mine, theirs in partners.items()}
    old = [frozenset(partners[i] for i in ids if i in partners) for ids in before.ties.values()]
    new = [frozenset(back.keys() & set(ids)) for ids in after.ties.values()]
    ties = [sorted((tie for tie in side if len(tie) > 1), key=sorted) for side in (old, new)]
    for tied, name in ((False, back), (True, {i: i for i in back})):
        for tie in ties[tied]:
            if not any(tie <= other for other in ties[not tied]):
                parts = [other for other in ties[not tied] if other < tie]
                others = parts[0] if len(parts) == 1 else frozenset()
                calls = tuple(name[i] for i in sorted(tie - others))
                yield TieChange(calls, tied, tuple(name[i] for i in sorted(others)))


class _Input(NamedTuple):
    """An input of a call.

    `source` is the id in `after` of the call in both graphs that it comes from, past calls that
    were added, removed or displaced; None if it comes from another call. It comes from there
    `directly` if no call lies between.
    """

    edge: Edge
    source: str | None
    output: int
    directly: bool


class _Wiring:
    """The inputs of all calls in two graphs, in comparable form."""

    def __init__(self, before: Graph, after: Graph, alignment: Alignment) -> None:
        self.graphs = before, after
        self._partners = partners = alignment.partners
        self._names = partners, {theirs: theirs for theirs in partners.values()}
        # Added or removed calls with one input do not rewire their neighbours.
        self._passed: tuple[Set[str], ...] = tuple(
            {n.id for n in graph.nodes if n.id not in names and _has_one_input(graph, n.id)}
            for graph, names in zip(self.graphs, self._names, strict=True)
        )
        self.displaced = self._really_displaced(alignment.displaced)
        self._passed = self._passed_with(self.displaced)

    def rewired(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Rewiring]:
        """Yield the calls, and outputs of the model, with other inputs."""
        for mine, theirs in (*pairs, (MODEL, MODEL)):
            if mine in self.displaced:
                continue
            old, new = self._inputs(0, mine), self._inputs(1, theirs)
            if mine != MODEL:
                before, after = self.graphs[0].node(mine), self.graphs[1].node(theirs)
                if before.class_name != after.class_name:  # other classes have other ports
                    old, new = ({"": [*chain(*inputs.values())]} for inputs in (old, new))
            for port in dict.fromkeys((*old, *new)):
                ends = zip_longest(*_without_common(old.get(port, []), new.get(port, [])))
                for left, right in ends:
                    if _is_independent(left, right):
                        edges = left.edge if left else None, right.edge if right else None
                        yield Rewiring(mine, theirs, *edges)

    def _really_displaced(self, candidates: frozenset[str]) -> frozenset[str]:
        """Return the displaced calls whose inputs, past each other, come from another call.

        The order of two calls that do not depend on each other has no meaning.
        """
        partners = self._partners
        moved = frozenset(
            mine
            for mine in candidates
            if _has_one_input(self.graphs[0], mine)
            and _has_one_input(self.graphs[1], partners[mine])
        )
        while True:
            passed = self._passed_with(moved)
            origins = {
                mine: [
                    self._follow(side, line_into(self.graphs[side], node_id), passed)
                    for side, node_id in enumerate((mine, partners[mine]))
                ]
                for mine in moved
            }
            still = frozenset(mine for mine, (old, new) in origins.items() if old[1:3] != new[1:3])
            if still == moved:
                return moved
            moved = still

    def _passed_with(self, displaced: frozenset[str]) -> tuple[Set[str], ...]:
        theirs = {self._partners[mine] for mine in displaced}
        return self._passed[0] | displaced, self._passed[1] | theirs

    def _inputs(self, side: int, node_id: str) -> dict[str, list[_Input]]:
        """Return the inputs of a call by port; those of `MODEL` are the outputs of the model."""
        graph, inputs = self.graphs[side], dict[str, list[_Input]]()
        if node_id == MODEL:
            for number, (source, output) in enumerate(graph.outputs):
                tensor = graph.node(source).outputs[output]
                edge = Edge(source, MODEL, f"output {number}", output, tensor)
                inputs[edge.port] = [self._follow(side, edge, self._passed)]
            return inputs
        for edge in graph.incoming[node_id]:
            port = port_of(edge, graph.node(node_id))
            inputs.setdefault(port, []).append(self._follow(side, edge, self._passed))
        return inputs

    def _follow(self, side: int, edge: Edge, passed: tuple[Set[str], ...]) -> _Input:
        names, start = self._names[side], edge
        while edge.source in passed[side]:
            edge = line_into(self.graphs[side], edge.source)
        return _Input(start, names.get(edge.source), edge.output, start.source in names)


def _without_common(old: list[_Input], new: list[_Input]) -> tuple[list[_Input], list[_Input]]:
    """Return both lists without their common sources."""
    left, right = [], list(new)
    for one in old:
        same = (o for o in right if o.source is not None and o[1:3] == one[1:3])
        twin = next(same, None)
        if twin is None:
            left.append(one)
        else:
            right.remove(twin)
    return left, right


def _is_independent(old: _Input | None, new: _Input | None) -> bool:
    """Return whether the difference is not a consequence of an added or removed call."""
    if old is not None and new is not None:
        return old.source is not None and new.source is not None
    there = old or new
    return there is not None and there.directly


def _has_one_input(graph: Graph, node_id: str) -> bool:
    """Return whether the call has exactly one explicit input tensor."""
    return len({(e.source, e.output) for e in graph.incoming[node_id] if not e.implicit}) == 1
