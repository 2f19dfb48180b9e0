"""Properties that are equal in blocks folded into one, and those that may change with depth.

The structure must be equal: classes, connections, and all of the configuration but numbers. Names
and seeds do not count. Numbers may be equal, or progress from block to block: a drop rate that
grows with depth, the index of the block, the channels of a DenseNet.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plots.annotations import DIFFERENCES
from plots.graph import Constant, Edge, Graph, Node, Tensor
from plots.hierarchy import depth_of, enclosing_namespaces
from plots.traversal import once_per_graph

LONGEST_PERIOD = 8
"""Maximum number of blocks in a repeating pattern, such as 2 for alternating windows."""
REACH = 2
"""Largest distance, in blocks, of the input of a block: 2 for the cells of NASNet."""

_NOT_CONFIGURATION = frozenset({"name", "seed", "shared_object_id", "registered_name"})

Path = tuple[str, ...]
Numbers = tuple[tuple[Path, float], ...]
Run = tuple[int, int, int]
"""(start, period, times): blocks of a stack that repeat, or a single block."""


@dataclass(frozen=True, slots=True)
class Signature:
    """The compared properties of one call.

    Attributes:
        kind: Number of the properties that must be equal.
        numbers: Numbers of the configuration and of constants, by where they are.
        sizes: Sizes of the axes of inputs and outputs.
        parameters: Number of weights.
        ports: The argument of every input.
        sources: The source of every input: ("inside", index in the block), ("1 back", index in the
            previous block, from its end) or ("outside", id); ".1" follows for a second output.
        repeats: Numbers of blocks that folded blocks in this block stand for which contain it.
    """

    kind: int
    numbers: Numbers
    sizes: tuple[int | None, ...]
    parameters: int
    ports: tuple[str, ...]
    sources: tuple[tuple[str, str], ...] = ()
    repeats: tuple[int, ...] = ()

    @property
    def quantities(self) -> tuple[Any, ...]:
        """The properties that may change from block to block."""
        return self.numbers, self.sizes, self.parameters


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a stack: its namespace (or the id of its only node), and its nodes."""

    name: str
    nodes: tuple[Node, ...]
    signature: tuple[Signature, ...] = ()


@once_per_graph
def call_signatures(graph: Graph) -> dict[str, Signature]:
    """Return the signatures of all calls, by their ids, without sources.

    Calls that are alike, as most calls of a deep stack, share one.
    """
    read: dict[str, tuple[int, Numbers]] = {}
    fixed_parts: dict[Hashable, int] = {}
    kinds: dict[Hashable, int] = {}
    signatures: dict[Hashable, Signature] = {}
    found = {}
    for node in graph.nodes:
        text = repr((node.config, node.constants))
        if text not in read:
            leaves = [*_leaves(node.config), *_constants(node.constants)]
            numbers = tuple(leaf for leaf in leaves if _is_numeric(leaf[1]))
            fixed = tuple(leaf for leaf in leaves if not _is_numeric(leaf[1]))
            key = fixed, tuple(path for path, _ in numbers)
            read[text] = fixed_parts.setdefault(key, len(fixed_parts)), numbers
        edges = tuple((e.port, e.output, e.implicit, e.tensor) for e in graph.incoming[node.id])
        marks = _differences(graph, node.id)
        alike = text, node.kind, node.class_name, node.parameters, node.outputs, edges, marks
        if alike not in signatures:
            number, numbers = read[text]
            tensors = [*node.outputs, *(tensor for *_, tensor in edges)]
            ranks = tuple((len(t.shape), t.dtype, _letters(t)) for t in tensors)
            ports = tuple((port, implicit) for port, _, implicit, _ in edges)
            kind = node.kind, node.class_name, number, ranks, ports, marks
            signatures[alike] = Signature(
                kinds.setdefault(kind, len(kinds)),
                numbers,
                tuple(size for tensor in tensors for size in tensor.shape),
                node.parameters,
                tuple(port for port, *_ in edges),
            )
        found[node.id] = signatures[alike]
    return found


def _letters(tensor: Tensor) -> tuple[str, ...]:
    """Return the letters of the axes; an axis without one has its size, which is compared apart."""
    return tuple("" if letter.isdigit() else letter for letter in tensor.letters)


def _differences(graph: Graph, node_id: str) -> tuple[tuple[str, str], ...]:
    """Return the notes of a comparison on a call."""
    # Texts on moves and rewirings may name another place in every block.
    return tuple(
        (note.kind, "" if note.kind in ("moved", "rewired") else note.text)
        for note in graph.notes_about.get(node_id, ())
        if note.kind in DIFFERENCES
    )


def _is_numeric(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield the values in a configuration that are not mappings or lists, with their places."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key not in _NOT_CONFIGURATION or (key == "name" and "dtype" in path):
                yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        yield (*path, "length"), str(len(value))
        for place, item in enumerate(value):
            yield from _leaves(item, (*path, str(place)))
    else:
        yield path, value


def _constants(constants: Iterable[Constant]) -> Iterator[tuple[Path, Any]]:
    for constant in constants:
        path = ("constant", constant.port)
        yield path, (constant.shape, constant.dtype, constant.pattern, constant.digest)
        yield from _leaves(constant.value, path)


def signed(graph: Graph, stack: Sequence[tuple[str, Sequence[Node]]], feeds: bool) -> list[Block]:
    """Return the blocks of a stack with their signatures.

    Args:
        graph: The graph.
        stack: Name and calls of every block.
        feeds: Whether each block feeds the next one.
    """
    place = {
        node.id: (number, index, len(nodes) - 1 - index)
        for number, (_, nodes) in enumerate(stack)
        for index, node in enumerate(nodes)
    }

    taken = [[[*map(_value, graph.incoming[n.id])] for n in nodes] for _, nodes in stack]

    def is_taken_beside(number: int, at: int, port: int) -> bool:
        """Return whether a block next to this one takes the same at the same place."""
        return any(
            0 <= beside < len(taken)
            and at < len(taken[beside])
            and taken[beside][at][port : port + 1] == [taken[number][at][port]]
            for beside in (number - 1, number + 1)
        )

    def source(edge: Edge, number: int, at: int, port: int) -> tuple[str, str]:
        block, index, from_end = place.get(edge.source, (None, 0, 0))
        output = f".{edge.output}" if edge.output else ""
        if block == number:
            return "inside", f"{index}{output}"
        # Counted from the end: blocks of other sizes also return the output of their last node.
        is_back = feeds and block is not None and 0 < number - block <= REACH
        if is_back and not is_taken_beside(number, at, port):
            return f"{number - (block or 0)} back", f"{from_end}{output}"
        return "outside", f"{edge.source}{output}"

    calls = call_signatures(graph)
    known: dict[Hashable, Signature] = {}  # blocks that are alike share signatures
    blocks = []
    for number, (name, nodes) in enumerate(stack):
        found = []
        for at, node in enumerate(nodes):
            call = calls[node.id]
            edges = enumerate(graph.incoming[node.id])
            sources = tuple(source(edge, number, at, port) for port, edge in edges)
            around = repeats_around(graph, node, name)
            key = id(call), sources, around
            if key not in known:
                known[key] = replace(call, sources=sources, repeats=around)
            found.append(known[key])
        blocks.append(Block(name, tuple(nodes), tuple(found)))
    # Inputs of the first blocks come from outside the stack, not from a previous block.
    for number in range(len(blocks)) if feeds else ():
        here = blocks[number]
        if number >= REACH and any(
            s[0].endswith("back") for c in here.signature for s in c.sources
        ):
            continue
        for other in blocks[number + 1 : number + 1 + LONGEST_PERIOD]:
            if _enters_like(here.signature, other.signature):
                pairs = zip(here.signature, other.signature, strict=True)
                entered = tuple(replace(call, sources=like.sources) for call, like in pairs)
                blocks[number] = replace(here, signature=entered)
                break
    return blocks


def _value(edge: Edge) -> tuple[str, int]:
    return edge.source, edge.output


def repeats_around(graph: Graph, node: Node, block: str = "") -> tuple[int, ...]:
    """Return how many blocks the folded blocks around a call stand for, of those in `block`."""
    if not graph.repeats:
        return ()
    inner = [*enclosing_namespaces(node.namespace)[depth_of(block) :], node.id]
    return tuple(graph.repeats[name] for name in inner if name in graph.repeats and name != block)


def _enters_like(first: Sequence[Signature], other: Sequence[Signature]) -> bool:
    """Return whether the first block equals another, except that its inputs come from outside.

    If it takes one value both as the stream and as a skip from before all blocks, it would hide
    that the others take two.
    """
    if [call.kind for call in first] != [call.kind for call in other]:
        return False
    stands_for: dict[tuple[str, str], tuple[str, str]] = {}
    for call, like in zip(first, other, strict=True):
        for source, expected in zip(call.sources, like.sources, strict=True):
            if source[0] == "outside" and expected[0].endswith("back"):
                expected = stands_for.setdefault(expected, source)
            if source != expected:
                return False
    skips = {source for call in other for source in call.sources if source[0] == "outside"}
    return skips.isdisjoint(stands_for.values())
