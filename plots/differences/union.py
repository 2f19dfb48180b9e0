"""Draw two graphs as one: the newer graph, the removed calls, and notes on all differences."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from plots.annotations import DIFFERENCES, Note
from plots.differences import compare_graphs
from plots.differences.difference import MODEL, Difference
from plots.differences.report import Words, count_text, counts, sizes_text, weights_text
from plots.folding.groups import Contraction
from plots.graph import Edge, Graph, Node
from plots.reading import graph_of
from plots.registry import graph_plugin
from plots.traversal import component_numbers, topological_order

if TYPE_CHECKING:
    import keras

_MAX_LINES = 4  # of a note; `difference_text` has no limit


@graph_plugin("diff")
def diff(
    graph: Graph,
    against: Graph | keras.Model | str | os.PathLike[str] | None = None,
    changes_only: bool = False,
) -> Graph:
    """Marks calls that are added, removed, moved or changed against an older graph.

    Args:
        graph: The newer graph. Its annotations are kept.
        against: The older one: a graph, a Keras model, or the path of a file written by
            `Graph.to_json`. Nested models are opened, as `draw` does.
        changes_only: Whether to keep only calls that differ and their neighbours.

    Returns:
        The newer graph with the removed calls, and notes of the kinds `DIFFERENCES`. A removed call
        whose id is in use gets the suffix " (removed)". An edge from a removed call to one that now
        comes before it is not drawn; the note on the removed call names it.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if `against` is a model without a graph, or another object.
        ValueError: if `against` is missing, the file holds no graph, or a graph is folded.
    """
    if against is None:
        raise ValueError(
            'diff needs the graph to compare against: ("diff", {"against": graph, model or path})'
        )
    return marked(compare_graphs(graph_of(against), graph), changes_only)


def marked(difference: Difference, changes_only: bool = False) -> Graph:
    """Return the newer graph of a difference, marked as by `diff`."""
    whole = _with_notes(difference, _Union(difference))
    return around_notes(whole) if changes_only else whole


class _Union:
    """The calls and edges of both graphs, by their ids in the union.

    Attributes:
        ids: Id before -> id in the union, for all calls of the older graph.
        nodes: All calls, in topological order.
        removed_edges: Edges that the newer graph does not have.
        left_out: Further such edges, which would close a cycle and are not drawn.
    """

    def __init__(self, difference: Difference) -> None:
        self.difference = difference
        after = difference.after
        self.ids = _ids_in_union(difference)
        nodes = {node.id: node for node in after.nodes}
        nodes |= {self.ids[i]: self._renamed(i) for i in difference.removed}
        place = {node_id: (number, -1) for node_id, number in after.index.items()}
        place |= {self.ids[i]: difference.removed_from[i] for i in difference.removed}
        wanted = sorted(nodes, key=place.__getitem__)
        edges, lost = list(after.edges), list(self._lost())
        component = component_numbers(wanted, map(_ends, (*edges, *lost)))
        self.left_out: list[Edge] = []
        self.removed_edges: list[Edge] = []
        for edge in lost:
            back = edge.target in after.index and component[edge.source] == component[edge.target]
            (self.left_out if back else self.removed_edges).append(edge)
        first = {node_id: number for number, node_id in enumerate(wanted)}
        order = topological_order(first, map(_ends, (*edges, *self.removed_edges)))
        self.nodes = [nodes[node_id] for node_id in order]

    def _renamed(self, node_id: str) -> Node:
        """Return a removed call with its id in the union, tied to calls that shared its weights."""
        before, after = self.difference.before, self.difference.after
        node = before.node(node_id)
        calls = (self.ids[call] for call in before.ties.get(node.layer, ()))
        layers = (after.node(call).layer for call in calls if call in after.index)
        return replace(node, id=self.ids[node_id], layer=next(layers, self.ids[node.layer]))

    def _lost(self) -> Iterator[Edge]:
        """Yield the edges of removed calls and the old inputs of rewired calls, each once."""
        removed = set(self.difference.removed)
        rewired = {wire.old for wire in self.difference.rewired if wire.before != MODEL}
        there = {edge.id for edge in self.difference.after.edges}
        for edge in self.difference.before.edges:
            if edge.source in removed or edge.target in removed or edge in rewired:
                new = replace(edge, source=self.ids[edge.source], target=self.ids[edge.target])
                if new.id not in there:
                    yield new


def _ends(edge: Edge) -> tuple[str, str]:
    return edge.source, edge.target


def _ids_in_union(difference: Difference) -> dict[str, str]:
    """Return id before -> id in the union, for all calls of the older graph."""
    ids = dict(difference.pairs)
    taken = set(difference.after.index)
    for node_id in difference.removed:
        new_id = node_id
        while new_id in taken:
            new_id += " (removed)"
        taken.add(new_id)
        ids[node_id] = new_id
    return ids


def older_side(newer: Graph, difference: Difference) -> Graph:
    """Return the older graph for drawing beside `newer`, the result of `diff`.

    Its calls have the ids and notes that they have in `newer`.
    """
    before, ids = difference.before, _ids_in_union(difference)
    nodes = [replace(node, id=ids[node.id], layer=ids[node.layer]) for node in before.nodes]
    edges = [replace(e, source=ids[e.source], target=ids[e.target]) for e in before.edges]
    older = Contraction(
        nodes=tuple(nodes),
        edges=tuple(edges),
        outputs=tuple((ids[node_id], output) for node_id, output in before.outputs),
        replaced=ids,
        edge_ids={old.id: new.id for old, new in zip(before.edges, edges, strict=True)},
    ).of(before)
    places = {*ids.values(), *(edge.id for edge in edges)}
    notes = (
        replace(note, about=tuple(place for place in note.about if place in places))
        for note in newer.notes
        if note.kind in DIFFERENCES and not places.isdisjoint(note.about)
    )
    return replace(older, notes=(*older.notes, *notes))


def _with_notes(difference: Difference, union: _Union) -> Graph:
    after = difference.after
    position = {node.id: number for number, node in enumerate(union.nodes)}
    edges = sorted((*after.edges, *union.removed_edges), key=lambda edge: position[edge.target])
    return replace(
        after,
        nodes=tuple(union.nodes),
        edges=tuple(edges),
        inputs=tuple(node.id for node in union.nodes if node.kind == "input"),
        notes=(*after.notes, *_whole_notes(difference), *_notes(difference, union)),
    )


def _whole_notes(difference: Difference) -> Iterator[Note]:
    """Yield the summary; pictures colour every kind of note, so it is their legend too."""
    before, after = difference.before.name, difference.after.name
    title = f"{before} → {after}\n" if before != after else ""
    if difference.is_empty:
        yield Note("difference", (), f"{title}no difference")
        return
    yield Note("difference", (), _with_arrows(f"{title}{sizes_text(difference)}"))
    for kind, count in counts(difference).items():
        yield Note(kind.rpartition(" ")[2], (), count_text(kind, count))


def _notes(difference: Difference, union: _Union) -> Iterator[Note]:
    words, after = Words(difference), difference.after
    for node_id in difference.added:
        edges = (edge.id for edge in (*after.incoming[node_id], *after.outgoing[node_id]))
        yield Note("added", (node_id, *edges), _with_weights("added", after.node(node_id)))
    drawn: dict[str, list[str]] = defaultdict(list)
    for edge in union.removed_edges:
        for end in _ends(edge):
            drawn[end].append(edge.id)
    for node_id in difference.removed:
        new_id = union.ids[node_id]
        backwards = [edge.target for edge in union.left_out if edge.source == new_id]
        lines = [_with_weights("removed", difference.before.node(node_id))]
        if backwards:
            names = ", ".join(dict.fromkeys(words.inside(1, target) for target in backwards))
            lines.append(f"not drawn: its edge to {names}, now above")
        yield Note("removed", (new_id, *drawn[new_id]), "\n".join(lines))
    for move in difference.moved:
        yield _note("moved", move.after, [f"moved: was {was}" for was in words.was(move)])
    for call in difference.changed:
        yield _note("reshaped" if call.is_reshaped else "changed", call.after, words.changed(call))
    for wire in difference.rewired:
        if wire.after != MODEL:
            yield _note("rewired", wire.after, [words.rewired(wire)])
            if wire.new is not None:
                yield Note("added", (wire.new.id,), "taken now")
    for edge in union.removed_edges:
        if edge.source in after.index and edge.target in after.index:
            yield Note("removed", (edge.id,), "taken before")
    for tie in difference.ties:
        calls = (*tie.calls, *tie.others)
        calls = calls if tie.tied else tuple(union.ids[call] for call in calls)
        yield Note("changed", calls, words.tied(tie))


def _note(kind: str, node_id: str, lines: list[str]) -> Note:
    if len(lines) > _MAX_LINES:
        lines = [*lines[:_MAX_LINES], f"and {len(lines) - _MAX_LINES} more"]
    return Note(kind, (node_id,), _with_arrows("\n".join(lines)))


def _with_weights(what: str, node: Node) -> str:
    return ": ".join(filter(None, [what, weights_text(node)]))


def _with_arrows(text: str) -> str:
    return text.replace(" -> ", " → ")


def around_notes(graph: Graph) -> Graph:
    """Return the part of a graph with notes on differences, and its neighbours."""
    differences = [note for note in graph.notes if note.kind in DIFFERENCES]
    about = {place for note in differences for place in note.about}
    near = [edge for edge in graph.edges if {edge.source, edge.target, edge.id} & about]
    keep = (about & graph.index.keys()) | {end for edge in near for end in _ends(edge)}
    edges = tuple(edge for edge in graph.edges if {edge.source, edge.target} <= keep)
    return Contraction(
        nodes=tuple(node for node in graph.nodes if node.id in keep),
        edges=edges,
        outputs=tuple(output for output in graph.outputs if output[0] in keep),
        replaced={},
        edge_ids={edge.id: edge.id for edge in edges},
        dropped=frozenset(graph.index.keys() - keep),
    ).of(graph)
