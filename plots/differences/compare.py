"""What has become of one graph in another: `compare_graphs`."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from plots.differences.alignment import align, is_auto_numbered
from plots.differences.changes import call_changes
from plots.differences.difference import ChangedCall, Difference, Move, TieChange
from plots.differences.wiring import Wiring
from plots.graph import Graph


def compare_graphs(before: Graph, after: Graph) -> Difference:
    """Find out what is different between two graphs.

    Calls are paired by `plots.differences.alignment.align`. Weights are compared by their number,
    not by their values; constants by their values too, up to what is lost by rounding to some four
    digits, if both graphs know them. Neither names that Keras counted up count, nor what a model is
    compiled with.

    Raises:
        ValueError: if a graph is folded, so that it does not show all of its calls.
    """
    for graph in (before, after):
        graph.check_whole("compare graphs as they were read, and fold what comes out")
    alignment = align(before, after)
    partners = alignment.partners
    back = {theirs: mine for mine, theirs in partners.items()}
    pairs = tuple((back[node.id], node.id) for node in after.nodes if node.id in back)
    wiring = Wiring(before, after, alignment)
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


def _moves(pairs: Iterable[tuple[str, str]], displaced: frozenset[str]) -> Iterator[Move]:
    for mine, theirs in pairs:
        renamed = mine != theirs and not (is_auto_numbered(mine) and is_auto_numbered(theirs))
        if renamed or mine in displaced:
            yield Move(mine, theirs, renamed, mine in displaced)


def _input_ranks(graph: Graph, paired: Iterable[str]) -> dict[str, int]:
    """Of the inputs that are in both graphs, which comes first, second, ..."""
    both = set(paired)
    return {node_id: rank for rank, node_id in enumerate(i for i in graph.inputs if i in both)}


def _tie_changes(before: Graph, after: Graph, partners: Mapping[str, str]) -> Iterator[TieChange]:
    """Calls that are in both graphs and share weights in one of them."""
    back = {theirs: mine for mine, theirs in partners.items()}
    old = _ties([[partners[i] for i in ids if i in partners] for ids in before.ties.values()])
    new = _ties([[i for i in ids if i in back] for ids in after.ties.values()])
    for calls, others in _not_within(old, new):
        yield TieChange(tuple(back[i] for i in calls), False, tuple(back[i] for i in others))
    for calls, others in _not_within(new, old):
        yield TieChange(calls, True, others)


def _ties(calls: Iterable[Collection[str]]) -> list[frozenset[str]]:
    """Sets of two or more calls that share weights, in a fixed order."""
    return sorted((frozenset(ids) for ids in calls if len(ids) > 1), key=sorted)


def _not_within(
    ties: Iterable[frozenset[str]], other_ties: Iterable[frozenset[str]]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...]]]:
    """Ties that are no part of one in the other graph, as (calls, those they have joined).

    A tie that has grown out of one other is told by the calls that are new in it.
    """
    there = [*other_ties]
    for tie in ties:
        if not any(tie <= other for other in there):
            parts = [other for other in there if other < tie]
            others = parts[0] if len(parts) == 1 else frozenset()
            yield tuple(sorted(tie - others)), tuple(sorted(others))
