"""Rebuild a graph with fewer calls, and take along what plugins have said about the old ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from plots.annotations import Note, Overlay, Quantity, SkipPath
from plots.graph import Edge, Graph, Node
from plots.hierarchy import boxes_of_unnamed


@dataclass(frozen=True)
class Contraction:
    """What is left of a graph, and what has become of the rest.

    Attributes:
        nodes: The calls that there are now, in an order in which they can be computed.
        edges: The edges that there are now.
        outputs: The outputs of the model now.
        calls: Id of a call that is no more -> id of the one that stands for it.
        edge_ids: Id of an edge that was there -> its id now; without those that are no more.
        gone: Calls of which nothing is said any more, because their stand-in is a call like them
            that has its own say; what merges into a group is not among them.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    outputs: tuple[tuple[str, int], ...]
    calls: Mapping[str, str]
    edge_ids: Mapping[str, str]
    gone: frozenset[str] = field(default=frozenset())

    def of(self, graph: Graph) -> Graph:
        """`graph` contracted in this way.

        Calls that nobody named get the namespace of the box that they are seen in: what is left
        does not tell it any more.
        """
        seen = boxes_of_unnamed(graph)
        left = [node.id for node in graph.nodes if node.id not in self.gone]
        now = {node_id: self.calls.get(node_id, node_id) for node_id in left} | dict(self.edge_ids)
        stream = [
            (self.calls.get(a, a), self.calls.get(b, b))
            for a, b in graph.stream
            if b not in self.gone
        ]
        return replace(
            graph,
            nodes=tuple(replace(n, namespace=seen.get(n.id, n.namespace)) for n in self.nodes),
            edges=self.edges,
            inputs=tuple(dict.fromkeys(self.calls.get(i, i) for i in graph.inputs)),
            outputs=self.outputs,
            skip_paths=tuple(dict.fromkeys(self._paths(graph.skip_paths))),
            stream=tuple(dict.fromkeys((a, b) for a, b in stream if a != b)),
            overlays=tuple(_moved_overlay(overlay, now) for overlay in graph.overlays),
            notes=tuple(_moved_notes(graph, now)),
            pictures={i: png for i, png in graph.pictures.items() if now.get(i) == i},
        )

    def _paths(self, paths: Iterable[SkipPath]) -> Iterable[SkipPath]:
        """The skip paths that can still be seen: not those within one call of the new graph."""
        for path in paths:
            if path.target in self.gone:
                continue
            line = tuple(dict.fromkeys(self.calls.get(i, i) for i in path.line))
            bypassed = dict.fromkeys(self.calls.get(i, i) for i in path.bypassed)
            seen = tuple(i for i in bypassed if i not in line)
            if len(line) > 1 and seen:
                source, *through, target = line
                yield replace(
                    path, source=source, target=target, through=tuple(through), bypassed=seen
                )


def _moved_overlay(overlay: Overlay, now: Mapping[str, str]) -> Overlay:
    """The overlay with the values of calls that have become one put together."""
    values: dict[str, Quantity] = {}
    for place, new in now.items():  # in the graph's order, so that the last one comes last
        if place in overlay.values:
            value = overlay.values[place]
            adds = overlay.combine == "sum" and new in values
            values[new] = values[new] + value if adds else value
    return replace(overlay, values=values)


def _moved_notes(graph: Graph, now: Mapping[str, str]) -> Iterable[Note]:
    """The notes at the places of now; what was about one call of a group says about which."""
    for note in graph.notes:
        about = tuple(dict.fromkeys(now[place] for place in note.about if place in now))
        calls = [graph.node(place) for place in note.about if place in graph.index]
        if about and len(calls) == 1 and about[0] != calls[0].id:
            name = calls[0].shown_name
            yield replace(note, about=about, text=f"{name}: {note.text}")
        elif about or not note.about:
            yield replace(note, about=about)
