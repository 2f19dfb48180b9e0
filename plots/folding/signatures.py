"""What must be equal in two blocks for one to stand for the other, and what may change with depth.

The structure must be equal: classes, connections, and all of the configuration but numbers. Names
and seeds do not count. Numbers may be equal, or progress from block to block: a drop rate that
grows with depth, the index of the block, the channels of a DenseNet.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from plots.annotations import DIFFERENCES
from plots.graph import Constant, Graph, Node
from plots.hierarchy import depth_of, enclosing_namespaces
from plots.traversal import once_per_graph

_LONGEST_PERIOD = 8
"""Maximum number of blocks in a repeating pattern, such as 2 for alternating windows."""
_FEWEST_GROWING = 3
"""Minimum number of blocks of growing size: any two sizes would be a progression."""
_REACH = 2
"""How many blocks back a block may take inputs from: 2 for the cells of NASNet."""

_NOT_CONFIGURATION = frozenset({"name", "seed", "shared_object_id", "registered_name"})
_GEOMETRIC = re.compile(r"dilation")

Path = tuple[str, ...]
Numbers = tuple[tuple[Path, float], ...]
Run = tuple[int, int, int]
"""(start, period, times): blocks of a stack that repeat, or a single block."""


@dataclass(frozen=True, slots=True)
class Signature:
    """What is compared of one call.

    Attributes:
        kind: The properties that must be equal.
        numbers: Numbers of the configuration and of constants, by where they are.
        sizes: Sizes of the axes of inputs and outputs.
        parameters: Number of weights.
        ports: The argument of every input.
        sources: The source of every input: ("inside", index in the block), ("1 back", index in the
            previous block, from its end) or ("outside", id).
        repeats: Numbers of blocks that folded blocks in this block stand for which contain it.
    """

    kind: Hashable
    numbers: Numbers
    sizes: tuple[int | None, ...]
    parameters: int
    ports: tuple[str, ...]
    sources: tuple[tuple[str, str], ...] = ()
    repeats: tuple[int, ...] = ()

    @property
    def quantities(self) -> tuple[Any, ...]:
        """What may progress from block to block."""
        return self.numbers, self.sizes, self.parameters


@dataclass(frozen=True, slots=True)
class Block:
    """A block of a stack: its namespace (or the id of its only node), and its nodes."""

    name: str
    nodes: tuple[Node, ...]
    signature: tuple[Signature, ...] = ()


@once_per_graph
def call_signatures(graph: Graph) -> dict[str, Signature]:
    """Return the signatures of all calls, by their ids, without sources."""
    read: dict[str, tuple[int, Numbers]] = {}  # the same for most calls of a deep stack
    seen: dict[Hashable, int] = {}
    found = {}
    for node in graph.nodes:
        text = repr((node.config, node.constants))
        if text not in read:
            leaves = [*_leaves(node.config), *_constants(node.constants)]
            numbers = tuple(leaf for leaf in leaves if _is_numeric(leaf[1]))
            fixed = tuple(leaf for leaf in leaves if not _is_numeric(leaf[1]))
            key = fixed, tuple(path for path, _ in numbers)
            read[text] = seen.setdefault(key, len(seen)), numbers
        found[node.id] = _call_signature(graph, node, *read[text])
    return found


def _call_signature(graph: Graph, node: Node, fixed: int, numbers: Numbers) -> Signature:
    """Return the signature of a call; `fixed` stands for its configuration without numbers."""
    incoming = graph.incoming[node.id]
    tensors = [*node.outputs, *(edge.tensor for edge in incoming)]
    kind = (
        node.kind,
        node.class_name,
        fixed,
        tuple((len(tensor.shape), tensor.dtype, tensor.letters) for tensor in tensors),
        tuple((edge.port, edge.output, edge.implicit) for edge in incoming),
        # Texts on moves and rewirings may name another place in every block.
        tuple(
            (note.kind, "" if note.kind in ("moved", "rewired") else note.text)
            for note in graph.notes_about.get(node.id, ())
            if note.kind in DIFFERENCES
        ),
    )
    sizes = tuple(size for tensor in tensors for size in tensor.shape)
    ports = tuple(edge.port for edge in incoming)
    return Signature(kind, numbers, sizes, node.parameters, ports)


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
    blocks = [
        Block(name, tuple(nodes), _signature(graph, stack, number, feeds))
        for number, (name, nodes) in enumerate(stack)
    ]
    # Inputs of the first blocks come from outside the stack, not from a previous block.
    for number in range(min(_REACH, len(blocks))) if feeds else ():
        here = blocks[number]
        for other in blocks[number + 1 : number + 1 + _LONGEST_PERIOD]:
            if _enters_like(here.signature, other.signature):
                pairs = zip(here.signature, other.signature, strict=True)
                entered = tuple(replace(call, sources=like.sources) for call, like in pairs)
                blocks[number] = replace(here, signature=entered)
                break
    return blocks


def _signature(
    graph: Graph, stack: Sequence[tuple[str, Sequence[Node]]], number: int, feeds: bool
) -> tuple[Signature, ...]:
    name, nodes = stack[number]
    place: dict[str, tuple[str, str]] = {}
    for back in range(min(_REACH, number), 0, -1) if feeds else ():
        # Counted from the end: blocks of other sizes also return the output of their last node.
        before = enumerate(reversed(stack[number - back][1]))
        place |= {node.id: (f"{back} back", str(from_end)) for from_end, node in before}
    place |= {node.id: ("inside", str(index)) for index, node in enumerate(nodes)}
    signatures = call_signatures(graph)
    return tuple(
        replace(
            signatures[node.id],
            sources=tuple(
                place.get(edge.source, ("outside", edge.source)) for edge in graph.incoming[node.id]
            ),
            repeats=repeats_around(graph, node, name),
        )
        for node in nodes
    )


def repeats_around(graph: Graph, node: Node, block: str = "") -> tuple[int, ...]:
    """Return how many blocks the folded blocks around a call stand for, of those in `block`."""
    if not graph.repeats:
        return ()
    inner = [*enclosing_namespaces(node.namespace)[depth_of(block) :], node.id]
    return tuple(graph.repeats[name] for name in inner if name in graph.repeats and name != block)


def _enters_like(first: Sequence[Signature], other: Sequence[Signature]) -> bool:
    """Return whether the first block equals another, except that its inputs come from outside."""
    if [call.kind for call in first] != [call.kind for call in other]:
        return False
    stands_for: dict[tuple[str, str], tuple[str, str]] = {}
    for call, like in zip(first, other, strict=True):
        for source, expected in zip(call.sources, like.sources, strict=True):
            if source[0] == "outside" and expected[0].endswith("back"):
                expected = stands_for.setdefault(expected, source)
            if source != expected:
                return False
    return True


def find_runs(stack: Sequence[Block], fewest: int = 2) -> Iterator[Run]:
    """Yield the runs from the first block to the last.

    If several periods match, the one that covers most blocks is used, and of those the shortest.

    Args:
        stack: The blocks.
        fewest: Minimum number of times that blocks repeat.
    """
    start = 0
    while start < len(stack):
        best = (1, 1)
        for period in range(1, min(_LONGEST_PERIOD, (len(stack) - start) // 2) + 1):
            end = start + period
            while end < len(stack) and _continues(stack, start, end, period):
                end += 1
            times = (end - start) // period
            covers_more = times >= fewest and times * period > best[0] * best[1]
            if covers_more and _is_run(stack, start, period, times):
                best = (period, times)
            if best[0] * best[1] == len(stack) - start:
                break
        yield start, *best
        start += best[0] * best[1]


def _continues(stack: Sequence[Block], start: int, end: int, period: int) -> bool:
    """Return whether a block goes on as those one and two periods before it do."""
    before = stack[end - 2 * period].signature if end - 2 * period >= start else None
    now, after = stack[end - period].signature, stack[end].signature
    if len(now) != len(after):
        return False
    return all(
        this.kind == following.kind
        and this.sources == following.sources
        and this.repeats == following.repeats
        and _progresses(before[place] if before else None, this, following)
        for place, (this, following) in enumerate(zip(now, after, strict=True))
    )


def _progresses(before: Signature | None, now: Signature, after: Signature) -> bool:
    """Return whether the numbers of three calls are equal or progress regularly."""
    if now.quantities == after.quantities:
        return before is None or before.quantities == now.quantities
    for place, ((path, this), (_, following)) in enumerate(
        zip(now.numbers, after.numbers, strict=True)
    ):
        step = following - this
        last = step if before is None else this - before.numbers[place][1]
        if isinstance(step, float) or _GEOMETRIC.search("".join(path)):
            if (step > 0) - (step < 0) != (last > 0) - (last < 0):
                return False
        elif step != last:
            return False
    steps = [_step(a, b) for a, b in zip(now.sizes, after.sizes, strict=True)]
    if None in steps or (now.parameters != after.parameters and not any(steps)):
        return False
    return before is None or steps == [
        _step(a, b) for a, b in zip(before.sizes, now.sizes, strict=True)
    ]


def _step(now: int | None, after: int | None) -> int | None:
    """Return the difference of two sizes of an axis; None if only one of them is variable."""
    if now is None or after is None:
        return 0 if now is after else None
    return after - now


def _is_run(stack: Sequence[Block], start: int, period: int, times: int) -> bool:
    """Return whether blocks repeat, as far as the number of them matters.

    Two blocks show no progression: whole numbers may then grow as an index does, and of two
    patterns all blocks must change alike. Blocks of growing size are those that add to what came
    before, like those of a DenseNet; where the configuration asks for other sizes, another stage
    begins.
    """
    steps: dict[tuple[int, Path], list[float]] = {}
    for block, following in zip(
        stack[start : start + period], stack[start + period : start + 2 * period], strict=True
    ):
        pairs = list(zip(block.signature, following.signature, strict=True))
        changes = {
            (place, path): after - now
            for place, (one, other) in enumerate(pairs)
            for (path, now), (_, after) in zip(one.numbers, other.numbers, strict=True)
        }
        grows = any(one.sizes != other.sizes for one, other in pairs)
        if grows and (any(changes.values()) or times < _FEWEST_GROWING or not _merges(block)):
            return False
        for key, step in changes.items():
            steps.setdefault(key, []).append(step)
    return times > 2 or not any(
        len({(step > 0) - (step < 0) for step in alike}) > 1
        or any(isinstance(step, int) and abs(step) > period for step in alike)
        for alike in steps.values()
    )


def _merges(block: Block) -> bool:
    """Return whether a call in a block takes several outputs of it or of the block before."""
    return any(
        len({source for source in call.sources if source[0] != "outside"}) > 1
        for call in block.signature
    )
