"""Compare two graphs: `compare_graphs`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest

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
from plots.graph import Edge, Graph, Node


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
        if (changes := (*call_changes(before.node(mine), after.node(theirs), ranks),))
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


def _moves(pairs: Iterable[tuple[str, str]], displaced: frozenset[str]) -> Iterator[Move]:
    for mine, theirs in pairs:
        renamed = mine != theirs and not (is_auto_numbered(mine) and is_auto_numbered(theirs))
        if renamed or mine in displaced:
            yield Move(mine, theirs, renamed, mine in displaced)


def _input_ranks(graph: Graph, paired: Iterable[str]) -> dict[str, int]:
    """Return the positions of the inputs that are in both graphs, among those."""
    both = set(paired)
    return {node_id: rank for rank, node_id in enumerate(i for i in graph.inputs if i in both)}


# Shared weights


def _tie_changes(before: Graph, after: Graph, partners: Mapping[str, str]) -> Iterator[TieChange]:
    """Yield calls that are in both graphs and share weights in one of them."""
    back = {theirs: mine for mine, theirs in partners.items()}
    old = _ties([[partners[i] for i in ids if i in partners] for ids in before.ties.values()])
    new = _ties([[i for i in ids if i in back] for ids in after.ties.values()])
    for calls, others in _not_within(old, new):
        yield TieChange(tuple(back[i] for i in calls), False, tuple(back[i] for i in others))
    for calls, others in _not_within(new, old):
        yield TieChange(calls, True, others)


def _ties(calls: Iterable[Collection[str]]) -> list[frozenset[str]]:
    """Return sets of two or more calls that share weights, in a fixed order."""
    return sorted((frozenset(ids) for ids in calls if len(ids) > 1), key=sorted)


def _not_within(
    ties: Iterable[frozenset[str]], other_ties: Iterable[frozenset[str]]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Yield ties that are not part of one in the other graph, as (calls, others).

    If a tie contains exactly one tie of the other graph, `calls` are the ones outside that.
    """
    there = [*other_ties]
    for tie in ties:
        if not any(tie <= other for other in there):
            parts = [other for other in there if other < tie]
            others = parts[0] if len(parts) == 1 else frozenset()
            yield tuple(sorted(tie - others)), tuple(sorted(others))


# Wiring


@dataclass(frozen=True, slots=True)
class _Input:
    """An input of a call.

    Attributes:
        edge: The edge.
        source: Id in `after` of the call in both graphs that it comes from, past calls that were
            added, removed or displaced; None if it comes from another call.
        output: The output of that call.
        directly: Whether no call lies between.
    """

    edge: Edge
    source: str | None
    output: int
    directly: bool


class _Wiring:
    """The inputs of all calls in two graphs, in comparable form."""

    def __init__(self, before: Graph, after: Graph, alignment: Alignment) -> None:
        self.graphs = before, after
        partners = alignment.partners
        self._names = partners, {theirs: theirs for theirs in partners.values()}
        self._partners = partners
        # Added or removed calls with one input do not rewire their neighbours.
        self._passed = tuple(
            {
                node.id
                for node in graph.nodes
                if node.id not in names and _has_one_input(graph, node)
            }
            for graph, names in zip(self.graphs, self._names, strict=True)
        )
        self.displaced = self._really_displaced(alignment.displaced)
        self._passed[0].update(self.displaced)
        self._passed[1].update(partners[mine] for mine in self.displaced)

    def rewired(self, pairs: Iterable[tuple[str, str]]) -> Iterator[Rewiring]:
        """Yield the calls, and outputs of the model, with other inputs."""
        for mine, theirs in pairs:
            if mine not in self.displaced:
                old, new = self._inputs(0, mine), self._inputs(1, theirs)
                yield from self._differences(mine, theirs, old, new)
        old, new = self._model_outputs(0), self._model_outputs(1)
        yield from self._differences(MODEL, MODEL, old, new)

    def _really_displaced(self, candidates: frozenset[str]) -> frozenset[str]:
        """Return the displaced calls whose inputs, past each other, come from another call.

        The order of two calls that do not depend on each other has no meaning.
        """
        before, after = self.graphs
        moved = {
            mine
            for mine in candidates
            if _has_one_input(before, before.node(mine))
            and _has_one_input(after, after.node(self._partners[mine]))
        }
        while True:
            passed = (
                self._passed[0] | moved,
                self._passed[1] | {self._partners[mine] for mine in moved},
            )
            still = {
                mine
                for mine in moved
                if self._origin(0, mine, passed[0])
                != self._origin(1, self._partners[mine], passed[1])
            }
            if still == moved:
                return frozenset(moved)
            moved = still

    def _origin(self, side: int, node_id: str, passed: set[str]) -> tuple[str | None, int]:
        found = self._follow(side, line_into(self.graphs[side], node_id), passed)
        return found.source, found.output

    def _inputs(self, side: int, node_id: str) -> dict[str, list[_Input]]:
        """Return the inputs of a call by port."""
        node = self.graphs[side].node(node_id)
        inputs: dict[str, list[_Input]] = {}
        for edge in self.graphs[side].incoming[node_id]:
            found = self._follow(side, edge, self._passed[side])
            inputs.setdefault(port_of(edge, node), []).append(found)
        return inputs

    def _model_outputs(self, side: int) -> dict[str, list[_Input]]:
        """Return the outputs of the model as inputs of one more call."""
        graph = self.graphs[side]
        inputs = {}
        for number, (node_id, output) in enumerate(graph.outputs):
            tensor = graph.node(node_id).outputs[output]
            edge = Edge(node_id, MODEL, f"output {number}", output, tensor)
            inputs[edge.port] = [self._follow(side, edge, self._passed[side])]
        return inputs

    def _follow(self, side: int, edge: Edge, passed: set[str]) -> _Input:
        graph, names = self.graphs[side], self._names[side]
        start = edge
        while edge.source in passed:
            edge = line_into(graph, edge.source)
        return _Input(start, names.get(edge.source), edge.output, start.source in names)

    def _differences(
        self,
        mine: str,
        theirs: str,
        old: dict[str, list[_Input]],
        new: dict[str, list[_Input]],
    ) -> Iterator[Rewiring]:
        if mine != MODEL:
            before, after = self.graphs[0].node(mine), self.graphs[1].node(theirs)
            if before.class_name != after.class_name:  # other classes have other ports
                old, new = _in_one(old), _in_one(new)
        for port in dict.fromkeys((*old, *new)):
            pairs = zip_longest(*_without_common(old.get(port, []), new.get(port, [])))
            for left, right in pairs:
                if _is_independent(left, right):
                    yield Rewiring(
                        mine, theirs, left.edge if left else None, right.edge if right else None
                    )


def _in_one(inputs: dict[str, list[_Input]]) -> dict[str, list[_Input]]:
    return {"": [one for of_port in inputs.values() for one in of_port]}


def _without_common(old: list[_Input], new: list[_Input]) -> tuple[list[_Input], list[_Input]]:
    """Return both lists without their common sources."""
    left, right = [], list(new)
    for one in old:
        same = (o for o in right if o.source is not None)
        twin = next((o for o in same if (o.source, o.output) == (one.source, one.output)), None)
        if twin is None:
            left.append(one)
        else:
            right.remove(twin)
    return left, right


def _is_independent(old: _Input | None, new: _Input | None) -> bool:
    """Return whether the difference is not a consequence of an added or removed call."""
    if old is None or new is None:
        there = old or new
        return there is not None and there.directly
    return old.source is not None and new.source is not None


def _has_one_input(graph: Graph, node: Node) -> bool:
    """Return whether the call has exactly one explicit input tensor."""
    return len({(e.source, e.output) for e in graph.incoming[node.id] if not e.implicit}) == 1
