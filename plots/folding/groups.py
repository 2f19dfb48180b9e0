"""Close namespaces: all nodes of a namespace become one node, a group."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import Any

from plots.annotations import Note, Overlay, Quantity, SkipPath
from plots.graph import Edge, Graph, Node
from plots.hierarchy import (
    depth_of,
    enclosing_namespaces,
    find_namespaces,
    find_unnamed_namespaces,
)
from plots.traversal import CycleError, topological_order


@dataclass(frozen=True)
class Contraction:
    """The remaining parts of a graph, and what replaces the others.

    Attributes:
        nodes: The remaining nodes, in topological order.
        edges: The remaining edges.
        outputs: The outputs of the model.
        replaced: Id of a removed node -> id of its replacement.
        edge_ids: Old id -> new id of each remaining edge.
        dropped: Removed nodes whose annotations are dropped: those without a replacement, and those
            replaced by an equal node. Nodes merged into a group are not among them.
        times: Id of a node merged into a group -> number of calls that it stands for in it, if it
            is in a folded block there.
    """

    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    outputs: tuple[tuple[str, int], ...]
    replaced: Mapping[str, str]
    edge_ids: Mapping[str, str]
    dropped: frozenset[str] = frozenset()
    times: Mapping[str, int] = field(default_factory=dict)

    def of(self, graph: Graph) -> Graph:
        """Return the contracted graph, with the annotations of `graph` moved to what remains.

        Unnamed nodes get the namespace in which they are drawn: the remaining nodes no longer
        determine it.
        """
        seen = find_unnamed_namespaces(graph)
        left = [node.id for node in graph.nodes if node.id not in self.dropped]
        now = {node_id: self._new_id(node_id) for node_id in left} | dict(self.edge_ids)
        there = {node.id for node in self.nodes}
        inputs = (node_id for node_id in map(self._new_id, graph.inputs) if node_id in there)
        pairs = (pair for pair in graph.stream if pair[1] not in self.dropped)
        stream = [(self._new_id(source), self._new_id(target)) for source, target in pairs]
        return replace(
            graph,
            nodes=tuple(replace(n, namespace=seen.get(n.id, n.namespace)) for n in self.nodes),
            edges=self.edges,
            inputs=tuple(dict.fromkeys(inputs)),
            outputs=self.outputs,
            skip_paths=tuple(dict.fromkeys(self._paths(graph.skip_paths, there))),
            stream=tuple(dict.fromkeys((a, b) for a, b in stream if a != b and {a, b} <= there)),
            overlays=tuple(
                replace(o, values=_moved_values(o, now, self.times)) for o in graph.overlays
            ),
            notes=tuple(_moved_notes(graph, now)),
            pictures={i: png for i, png in graph.pictures.items() if now.get(i) == i},
        )

    def _new_id(self, node_id: str) -> str:
        return self.replaced.get(node_id, node_id)

    def _paths(self, paths: Iterable[SkipPath], there: set[str]) -> Iterable[SkipPath]:
        """Yield the skip paths that remain visible, not those within one new node."""
        for path in paths:
            if path.target in self.dropped:
                continue
            line = tuple(dict.fromkeys(map(self._new_id, path.line)))
            bypassed = dict.fromkeys(map(self._new_id, path.bypassed))
            seen = tuple(i for i in bypassed if i in there and i not in line)
            if len(line) > 1 and seen and there.issuperset(line):
                source, *through, target = line
                yield replace(
                    path, source=source, target=target, through=tuple(through), bypassed=seen
                )


def _moved_values(
    overlay: Overlay, now: Mapping[str, str], times: Mapping[str, int]
) -> dict[str, Quantity]:
    """Return the values of an overlay by new ids, with those of merged nodes combined."""
    values: dict[str, Quantity] = {}
    for place, new in now.items():  # in the graph's order, so the last value comes last
        if place in overlay.values:
            value = overlay.values[place]
            if overlay.combine == "sum" and place in times:
                value = value * times[place]
            adds = overlay.combine == "sum" and new in values
            values[new] = values[new] + value if adds else value
    return values


def _moved_notes(graph: Graph, now: Mapping[str, str]) -> Iterable[Note]:
    """Yield the notes with new ids; a note on one node of a group starts with the node's name."""
    for note in graph.notes:
        about = tuple(dict.fromkeys(now[place] for place in note.about if place in now))
        nodes = [graph.node(place) for place in note.about if place in graph.index]
        if about and len(nodes) == 1 and about[0] != nodes[0].id:
            yield replace(note, about=about, text=f"{nodes[0].shown_name}: {note.text}")
        elif about or not note.about:
            yield replace(note, about=about)


def close_groups(graph: Graph, depth: int) -> Graph:
    """Close all namespaces nested deeper than `depth` levels, see `close`.

    Raises:
        ValueError: if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth!r}; it is a number of levels, 0 or more")
    members: dict[str, list[Node]] = {}
    for node_id, namespace in find_namespaces(graph).items():
        if depth_of(namespace) > depth:
            name = ".".join(namespace.split(".")[: depth + 1])
            members.setdefault(name, []).append(graph.node(node_id))
    _take_merges_of_closed_paths(graph, members)
    return close(graph, members)


def _take_merges_of_closed_paths(graph: Graph, members: Mapping[str, list[Node]]) -> None:
    """Add a merge to the group of its sublayer if its skip path runs through calls of the group.

    Such as that of hyper-connections, whose streams are mixed on the way: outside, the merge would
    take all from one box.
    """
    group_of = {node.id: name for name, nodes in members.items() for node in nodes}
    for path in graph.skip_paths:
        merge = graph.node(path.target)
        groups = {group_of.get(node_id, "") for node_id in path.through}
        if len(groups) == 1 and merge.id not in group_of:
            (name,) = groups
            if name and f"{merge.namespace}.".startswith(f"{name}."):
                members[name].append(merge)
                group_of[merge.id] = name


def close(graph: Graph, members: Mapping[str, list[Node]]) -> Graph:
    """Merge every list of two or more nodes into one node, a group.

    `members` has the nodes of each group by its dotted name; its id is that name with ".*". It has
    the weights of its members, each counted once, and the number of its calls and skip paths as
    configuration. If an outside node lies on a path between two members, they cannot be one node:
    they stay as they are, and the namespaces among them become groups instead.
    """
    groups = {f"{name}.*": nodes for name, nodes in members.items() if len(nodes) > 1}
    while True:
        into = {node.id: group for group, nodes in groups.items() for node in nodes}
        first: dict[str, int] = {}
        for node_id, position in graph.index.items():
            first.setdefault(into.get(node_id, node_id), position)
        ends = ((into.get(e.source, e.source), into.get(e.target, e.target)) for e in graph.edges)
        try:
            order = topological_order(first, ends)
        except CycleError as error:
            in_cycle = [group for group in groups if group in error.cycle]
            smallest = min(in_cycle, key=lambda group: len(groups[group]))
            groups.update(_inner_groups(graph, smallest, groups.pop(smallest)))
        else:
            return _closed(graph, groups, into, order)


def _inner_groups(graph: Graph, group_id: str, nodes: list[Node]) -> dict[str, list[Node]]:
    """Return the namespaces one level below a group, as groups."""
    around = group_id.removesuffix("*")
    namespaces = find_namespaces(graph)
    inner: dict[str, list[Node]] = {}
    for node in nodes:
        if (namespace := namespaces[node.id]).startswith(around):
            name = namespace.removeprefix(around).partition(".")[0]
            inner.setdefault(f"{around}{name}.*", []).append(node)
    return {name: members for name, members in inner.items() if len(members) > 1}


def _closed(
    graph: Graph, groups: Mapping[str, list[Node]], into: Mapping[str, str], order: Iterable[str]
) -> Graph:
    returned = _group_outputs(graph, into)
    # A call of the first block only counts once, but overlays have its share of all blocks.
    once = {
        node_id
        for note in graph.notes
        if note.kind == "varies" and note.text.startswith("in the first of")
        for node_id in note.about
    }
    times = _times_inside(graph, groups, once)
    nodes = [
        _group(graph, place, groups[place], returned.get(place, {}), times)
        if place in groups
        else graph.node(place)
        for place in order
    ]
    position = {node.id: number for number, node in enumerate(nodes)}
    joined: dict[tuple[str, int, str, str], list[Edge]] = {}
    for edge in graph.edges:
        source, target = into.get(edge.source, edge.source), into.get(edge.target, edge.target)
        if source != target:
            grouped = source in groups
            number = returned[source][edge.source, edge.output] if grouped else edge.output
            # One tensor that several members of a group receive is one edge into the group.
            port = "" if target in groups else edge.port
            joined.setdefault((source, number, target, port), []).append(edge)
    edges: dict[str, Edge] = {}  # by the ids of the edges that each one replaces
    for (source, number, target, _), together in joined.items():
        name = target.removesuffix("*")
        ports = [
            f"{edge.target.removeprefix(name)}.{edge.port}" if target in groups else edge.port
            for edge in together
        ]
        implicit = all(edge.implicit for edge in together)
        new = Edge(source, target, ", ".join(ports), number, together[0].tensor, implicit)
        edges |= dict.fromkeys((edge.id for edge in together), new)
    return Contraction(
        nodes=tuple(nodes),
        edges=tuple(sorted(dict.fromkeys(edges.values()), key=lambda e: position[e.target])),
        outputs=tuple(
            (into[i], returned[into[i]][i, output]) if i in into else (i, output)
            for i, output in graph.outputs
        ),
        replaced=into,
        edge_ids={before: edge.id for before, edge in edges.items()},
        times=_times_inside(graph, groups, once=()),
    ).of(graph)


def _times_inside(
    graph: Graph, groups: Mapping[str, list[Node]], once: Collection[str]
) -> dict[str, int]:
    """Return the numbers of calls that members of groups stand for, if they are not 1.

    Those of folded blocks within a group; the blocks around it count with the group. Calls in
    `once` are in the first of the blocks only.
    """
    if not graph.repeats:
        return {}
    namespaces = find_namespaces(graph)
    times: dict[str, int] = {}
    for group_id, nodes in groups.items():
        around = group_id.removesuffix("*")
        for node in nodes:
            own = node.name if node.kind == "group" else node.id
            names = [*enclosing_namespaces(namespaces[node.id]), own]
            found = [graph.repeats[n] for n in names if n in graph.repeats and n.startswith(around)]
            number = prod(found[:-1] if node.id in once else found)
            if number != 1:
                times[node.id] = number
    return times


def _group_outputs(graph: Graph, into: Mapping[str, str]) -> dict[str, dict[tuple[str, int], int]]:
    """Return group -> {(id, output) of a member that is used outside: output of the group}."""
    outputs: dict[str, dict[tuple[str, int], int]] = {}
    leaving = (e for e in graph.edges if into.get(e.source) != into.get(e.target))
    for node_id, output in [*((e.source, e.output) for e in leaving), *graph.outputs]:
        if node_id in into:
            numbers = outputs.setdefault(into[node_id], {})
            numbers.setdefault((node_id, output), len(numbers))
    return outputs


def _group(
    graph: Graph,
    group_id: str,
    nodes: list[Node],
    outputs: Mapping[tuple[str, int], int],
    times: Mapping[str, int],
) -> Node:
    name = group_id.removesuffix(".*")
    inside = {node.id for node in nodes}
    layers = {node.layer: node for node in nodes}.values()
    ends = [path.target for path in graph.skip_paths if path.target in inside]
    paths = sum(times.get(node_id, 1) for node_id in ends)
    calls = [call for node in nodes for call in (node.members or (node.id,))]
    number = sum(
        times.get(node.id, 1) * int(node.config.get("calls", 1) if node.kind == "group" else 1)
        for node in nodes
        if node.kind != "weights"
    )

    def total(size: Callable[[Node], Any]) -> Any:
        return sum(times.get(node.id, 1) * size(node) for node in layers)

    switches = {node.trainable for node in layers if node.parameters}
    return Node(
        id=group_id,
        name=name,
        kind="group",
        class_name="Group",
        bases=(),
        namespace=name.rpartition(".")[0],
        layer=group_id,
        outputs=tuple(graph.node(i).outputs[k] for i, k in outputs),
        parameters=total(lambda node: node.parameters),
        trainable_parameters=total(lambda node: node.trainable_parameters),
        weight_bytes=total(lambda node: node.weight_bytes),
        shared_parameters=total(lambda node: node.shared_parameters),
        trainable=True in switches if switches else None,
        config={"calls": number} | ({"skip_paths": paths} if paths else {}),
        members=tuple(calls),
    )
