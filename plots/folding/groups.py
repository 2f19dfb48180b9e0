"""Close boxes: a namespace and all calls in it become one call, a group."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from graphlib import CycleError

from plots.folding.contract import Contraction
from plots.graph import Edge, Graph, Node, Tensor
from plots.hierarchy import boxes, depth_of
from plots.ordering import in_order


def close_groups(graph: Graph, depth: int) -> Graph:
    """Close all boxes that lie deeper than `depth` levels; see `close`.

    Raises:
        ValueError: if `depth` is negative.
    """
    if depth < 0:
        raise ValueError(f"depth is {depth!r}; it is a number of levels, 0 or more")
    members: dict[str, list[Node]] = {}
    for node_id, namespace in boxes(graph).items():
        if depth_of(namespace) > depth:
            name = ".".join(namespace.split(".")[: depth + 1])
            members.setdefault(name, []).append(graph.node(node_id))
    return close(graph, members)


def close(graph: Graph, members: Mapping[str, list[Node]]) -> Graph:
    """Make one call, a group, of every list of calls; of a single call there is nothing to make.

    A group's id is its name with ".*"; it has the weights of what it stands for, each counted
    once, and says how many calls and skip paths are inside. Calls that cannot be one call, because
    something else lies on the way between two of them, stay as they are, but for the boxes among
    them, which become groups instead.

    Args:
        graph: The graph.
        members: Dotted name of a group -> its calls.
    """
    groups = {f"{name}.*": nodes for name, nodes in members.items() if len(nodes) > 1}
    while True:
        into = {node.id: group for group, nodes in groups.items() for node in nodes}
        try:
            order = _order(graph, into)
        except CycleError as error:
            in_cycle = [group for group in error.args[1] if group in groups]
            smallest = min(in_cycle, key=lambda group: len(groups[group]))
            groups.update(_boxes_in(graph, smallest, groups.pop(smallest)))
        else:
            return _closed(graph, groups, into, order)


def _boxes_in(graph: Graph, group_id: str, nodes: list[Node]) -> dict[str, list[Node]]:
    """The boxes one level below a group, as groups."""
    around = group_id.removesuffix("*")
    namespaces = boxes(graph)
    inner: dict[str, list[Node]] = {}
    for node in nodes:
        namespace = namespaces[node.id]
        if namespace.startswith(around):
            name = namespace.removeprefix(around).partition(".")[0]
            inner.setdefault(f"{around}{name}.*", []).append(node)
    return {name: members for name, members in inner.items() if len(members) > 1}


def _order(graph: Graph, into: Mapping[str, str]) -> list[str]:
    """Ids of the calls and groups, each after what it takes from, and else in the graph's order.

    Raises:
        CycleError: if there is no such order.
    """
    first: dict[str, int] = {}
    for position, node in enumerate(graph.nodes):
        first.setdefault(into.get(node.id, node.id), position)
    return in_order(
        first,
        (
            (into.get(edge.source, edge.source), into.get(edge.target, edge.target))
            for edge in graph.edges
        ),
    )


def _closed(
    graph: Graph, groups: Mapping[str, list[Node]], into: Mapping[str, str], order: Iterable[str]
) -> Graph:
    given_out = _given_out(graph, into)
    nodes = [
        _group(graph, place, groups[place], given_out.get(place, {}))
        if place in groups
        else graph.node(place)
        for place in order
    ]
    position = {node.id: number for number, node in enumerate(nodes)}
    joined: dict[tuple[str, int, str, str], list[Edge]] = {}
    for edge in graph.edges:
        source, target = into.get(edge.source, edge.source), into.get(edge.target, edge.target)
        if source != target:
            number = (
                given_out[source][edge.source, edge.output] if source in groups else edge.output
            )
            # What several calls of one group take is one line into the group.
            port = "" if target in groups else edge.port
            joined.setdefault((source, number, target, port), []).append(edge)
    edges: list[Edge] = []
    edge_ids: dict[str, str] = {}
    for (source, number, target, _), together in joined.items():
        name = target.removesuffix("*")
        ports = [
            f"{edge.target.removeprefix(name)}.{edge.port}" if target in groups else edge.port
            for edge in together
        ]
        implicit = all(edge.implicit for edge in together)
        tensor = together[0].tensor
        edges.append(Edge(source, target, ", ".join(ports), number, tensor, implicit))
        edge_ids.update({edge.id: edges[-1].id for edge in together})
    return Contraction(
        nodes=tuple(nodes),
        edges=tuple(sorted(edges, key=lambda edge: position[edge.target])),
        outputs=tuple(
            (into[node_id], given_out[into[node_id]][node_id, number])
            if node_id in into
            else (node_id, number)
            for node_id, number in graph.outputs
        ),
        calls=into,
        edge_ids=edge_ids,
    ).of(graph)


def _given_out(graph: Graph, into: Mapping[str, str]) -> dict[str, dict[tuple[str, int], int]]:
    """For every group, which outputs of its calls are taken outside: (id, output) -> number."""
    given_out: dict[str, dict[tuple[str, int], int]] = {}
    taken = [
        (edge.source, edge.output)
        for edge in graph.edges
        if into.get(edge.source) != into.get(edge.target)
    ]
    for node_id, output in [*taken, *graph.outputs]:
        if node_id in into:
            numbers = given_out.setdefault(into[node_id], {})
            numbers.setdefault((node_id, output), len(numbers))
    return given_out


def _group(
    graph: Graph, group_id: str, nodes: list[Node], given_out: Mapping[tuple[str, int], int]
) -> Node:
    name = group_id.removesuffix(".*")
    inside = {node.id for node in nodes}
    layers = {node.layer: node for node in nodes}.values()
    outputs: tuple[Tensor, ...] = tuple(graph.node(i).outputs[k] for i, k in given_out)
    paths = sum(path.target in inside for path in graph.skip_paths)
    calls = [call for node in nodes for call in (node.members or (node.id,))]
    switches = {node.trainable for node in layers if node.parameters}
    return Node(
        id=group_id,
        name=name,
        kind="group",
        class_name="Group",
        bases=(),
        namespace=name.rpartition(".")[0],
        layer=group_id,
        outputs=outputs,
        parameters=sum(node.parameters for node in layers),
        trainable_parameters=sum(node.trainable_parameters for node in layers),
        weight_bytes=sum(node.weight_bytes for node in layers),
        shared_parameters=sum(node.shared_parameters for node in layers),
        trainable=True in switches if switches else None,
        config={"calls": len(calls)} | ({"skip_paths": paths} if paths else {}),
        members=tuple(calls),
    )
