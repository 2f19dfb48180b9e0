"""The residual streams of a graph: which skip paths follow each other, and how they are normed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from plots.annotations import SkipPath
from plots.graph import Graph, Node
from plots.operation_kinds import is_identity_like, is_norm
from plots.skips import calls_at

Style = Literal["pre", "post", "none"]


@dataclass(frozen=True, slots=True)
class Stream:
    """One residual stream.

    Attributes:
        root: Id of the call that it begins at.
        paths: Its skip paths, one after the other, without long ones that lead past others.
        norms: For each path the ids of its norms: first or last on the branch, or on the stream.
        long_paths: Its other skip paths, which lead past merges of the stream.
    """

    root: str
    paths: tuple[SkipPath, ...]
    norms: tuple[tuple[str, ...], ...]
    long_paths: tuple[SkipPath, ...] = ()

    def has_token_norms(self, graph: Graph) -> bool:
        """Whether it has norms, and each is over the features of one position.

        Where batch and group norms belong in a residual network of convolutions is another question
        with other answers.
        """
        classes = [graph.node(node_id).class_name for ids in self.norms for node_id in ids]
        return bool(classes) and not any("Batch" in name or "Group" in name for name in classes)


def style_of(path: SkipPath) -> Style | None:
    """Whether a path is pre-norm, post-norm, or without a norm.

    None where it is both, as the last sublayer of a Conformer block is, and where its only norm is
    the last on the branch.
    """
    if "branch_start" in path.norms:
        return None if path.norm_on_stream else "pre"
    if path.norm_on_stream:
        return "post"
    return None if path.norms else "none"


def streams_of(graph: Graph) -> tuple[Stream, ...]:
    """The residual streams of a graph with marked skip paths, in the order of their merges.

    Two paths lie on the same stream if there is nothing but identities and norms between the end of
    the one and the beginning of the other, or if they begin at the same call. Paths with a
    projected shortcut are left out.
    """
    root_at: dict[str, str] = {}
    paths_from: dict[str, list[SkipPath]] = {}
    for path in graph.skip_paths:
        if not path.projected:
            root = _root(graph, path.source, root_at)
            root_at[path.target] = root
            paths_from.setdefault(root, []).append(path)
    streams = []
    for root, paths in paths_from.items():
        merges = {path.target for path in paths}
        single = tuple(path for path in paths if merges.isdisjoint(path.bypassed))
        norms = tuple(_norms(graph, path) for path in single)
        streams.append(Stream(root, single, norms, tuple(p for p in paths if p not in single)))
    return tuple(streams)


def streams_past(graph: Graph) -> dict[str, frozenset[str]]:
    """Call -> roots of the residual streams that lead past it.

    Sublayers that one stream leads past are of one stack; those of an encoder whose output goes
    into the tokens of a decoder are not.
    """
    roots: dict[str, frozenset[str]] = {}
    for stream in streams_of(graph):
        for node_id in {node_id for path in stream.paths for node_id in path.bypassed}:
            roots[node_id] = roots.get(node_id, frozenset()) | {stream.root}
    return roots


def _root(graph: Graph, source: str, root_at: dict[str, str]) -> str:
    """Where the stream begins that `source` lies on, given that of every merge before it."""
    while source not in root_at:
        edges, node = graph.incoming[source], graph.node(source)
        if len(edges) != 1 or not (is_identity_like(node) or is_norm(node)):
            return source
        source = edges[0].source
    return root_at[source]


def _norms(graph: Graph, path: SkipPath) -> tuple[str, ...]:
    found = [node.id for place in path.norms for node in calls_at(graph, path, place)]
    return tuple(dict.fromkeys(found))


def branch_ends(graph: Graph, path: SkipPath) -> list[Node]:
    """The last calls on the branch of a path that are more than an identity."""
    return calls_at(graph, path, "branch_end")


def up_to_weights(graph: Graph, start: str) -> Iterator[Node]:
    """What follows a call, on every way up to and with the first call that has weights."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        for edge in graph.outgoing[waiting.pop()]:
            node = graph.node(edge.target)
            if node.id not in found:
                found.add(node.id)
                yield node
                if not node.parameters:
                    waiting.append(node.id)


def computed_from(graph: Graph, start: str) -> set[str]:
    """Ids of all calls that depend on `start`."""
    found: set[str] = set()
    waiting = [start]
    while waiting:
        targets = {edge.target for edge in graph.outgoing[waiting.pop()]} - found
        found |= targets
        waiting += targets
    return found
