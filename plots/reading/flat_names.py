"""Boxes out of names without dots: "conv4_block2_1_conv" lies in the box "conv4.block2"."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from plots.graph import Node
from plots.hierarchy import numbered

_TOKENS = re.compile(r"[^\W\d_]+_\d+(?=_|$)|[^_]+")
"""A word and its number ("stage_0"), or whatever stands between two underscores ("block2a")."""


def in_boxes(
    nodes: Iterable[Node], sources: Mapping[str, list[str]], flat: Collection[str]
) -> list[Node]:
    """The calls, with the boxes that numbered names without dots speak of as their namespaces.

    A box is what several names begin with, up to a number: "conv4", "conv4_block2", "stage_0". It
    is one only if nothing with another name lies on the way between two of its calls.

    Args:
        nodes: Calls in an order in which they can be computed.
        sources: Id of every call -> ids of those that it takes from.
        flat: Namespaces ("" for the model itself) of models in which no name has a dot. Where one
            has, the author has said what the boxes are.
    """
    nodes = list(nodes)
    starts = {
        node.id: _numbered_starts(node.namespace, node.name)
        for node in nodes
        if node.namespace in flat and node.has_own_name and node.kind != "input"
    }
    names: dict[str, set[str]] = {}
    members: dict[str, set[str]] = {}
    for node in nodes:
        for box in starts.get(node.id, ()):
            names.setdefault(box, set()).add(node.name)
            members.setdefault(box, set()).add(node.id)
    in_order = {node.id: sources[node.id] for node in nodes}
    named = {node.id for node in nodes if node.has_own_name}
    kept = {
        box
        for box, ids in members.items()
        if len(names[box]) > 1 and _is_in_one_place(ids, in_order, named)
    }
    deepest = {node_id: _deepest(boxes, kept) for node_id, boxes in starts.items()}
    return [replace(node, namespace=deepest.get(node.id) or node.namespace) for node in nodes]


def _numbered_starts(namespace: str, name: str) -> list[str]:
    """What a name begins with, up to each of its numbers, as dotted boxes in the namespace."""
    starts, part = [], []
    box = namespace
    for token in _TOKENS.findall(name.removeprefix(namespace).lstrip(".")):
        part.append(token)
        if not token[0].isdigit() and numbered(token):
            box = f"{box}.{'_'.join(part)}".lstrip(".")
            starts.append(box)
            part = []
    return starts


def _is_in_one_place(
    ids: Collection[str], sources: Mapping[str, list[str]], named: Collection[str]
) -> bool:
    """Whether no call that has a name of its own lies on the way from one of the calls to another.

    What nobody named, such as an addition, belongs to whatever is around it.
    """
    inside, left = set(ids), set[str]()  # `left` is computed from what came out
    for node_id, taken in sources.items():
        if node_id in ids:
            if not left.isdisjoint(taken):
                return False
        elif not left.isdisjoint(taken) or (node_id in named and not inside.isdisjoint(taken)):
            left.add(node_id)
        elif not inside.isdisjoint(taken):
            inside.add(node_id)
    return True


def _deepest(boxes: Iterable[str], kept: Collection[str]) -> str:
    """The innermost of boxes that lie in each other, outermost first, with all around it kept."""
    found = ""
    for box in boxes:
        if box not in kept:
            break
        found = box
    return found
