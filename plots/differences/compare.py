"""What has become of one graph in another: `compare_graphs`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from plots.differences.alignment import align, is_counted
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
        if graph.repeats or any(node.kind == "group" for node in graph.nodes):
            raise ValueError(
                f"the graph {graph.name!r} is folded: compare graphs as they were read, and fold "
                "what comes out"
            )
    alignment = align(before, after)
    partners = alignment.partners
    back = {theirs: mine for mine, theirs in partners.items()}
    pairs = tuple((back[node.id], node.id) for node in after.nodes if node.id in back)
    wiring = Wiring(before, after, alignment)
    places = _places(before, partners), _places(after, back.keys())
    changed = (
        ChangedCall(mine, theirs, changes)
        for mine, theirs in pairs
        if (changes := (*call_changes(before.node(mine), after.node(theirs), places),))
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
        renamed = mine != theirs and not (is_counted(mine) and is_counted(theirs))
        if renamed or mine in displaced:
            yield Move(mine, theirs, renamed, mine in displaced)


def _places(graph: Graph, paired: Iterable[str]) -> dict[str, int]:
    """Of the inputs that are in both graphs, which comes first, second, ..."""
    both = set(paired)
    return {node_id: place for place, node_id in enumerate(i for i in graph.inputs if i in both)}


def _tie_changes(before: Graph, after: Graph, partners: Mapping[str, str]) -> Iterator[TieChange]:
    """Calls that are in both graphs and share weights in one of them."""
    back = {theirs: mine for mine, theirs in partners.items()}
    old = {tuple(sorted(partners[i] for i in ids if i in partners)) for ids in before.ties.values()}
    new = {tuple(sorted(i for i in ids if i in back)) for ids in after.ties.values()}
    for calls in sorted(old - new):
        if len(calls) > 1:
            yield TieChange(tuple(back[i] for i in calls), tied=False)
    for calls in sorted(new - old):
        if len(calls) > 1:
            yield TieChange(calls, tied=True)
