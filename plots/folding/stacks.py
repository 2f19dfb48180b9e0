"""Stacks of blocks in a graph: by their structure, and by their numbered names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import chain, count, pairwise, takewhile

from plots.folding.alignment import with_equal_orders
from plots.folding.openings import with_openings
from plots.folding.order import block_order
from plots.folding.repeats import find_repeats
from plots.folding.runs import find_runs
from plots.folding.signatures import (
    REACH,
    Block,
    Run,
    Signature,
    call_signatures,
    repeats_around,
    signed,
)
from plots.folding.surroundings import with_calls_between, with_slices
from plots.graph import Graph, Node
from plots.hierarchy import (
    common_namespace,
    enclosing_namespaces,
    find_namespaces,
    numbered,
    stem_and_number,
)
from plots.traversal import once_per_graph


@dataclass(frozen=True, slots=True)
class Stack:
    """Blocks that feed each other one after the other, or parallel branches.

    Attributes:
        blocks: The blocks, in order.
        runs: The runs of equal blocks among them, and those without an equal neighbour.
        parallel: Whether the blocks are branches into one call.
        beside: Ids of the calls that are not in the namespace of their block.
    """

    blocks: tuple[Block, ...]
    runs: tuple[Run, ...]
    parallel: bool = False
    beside: frozenset[str] = frozenset()

    @property
    def repeated(self) -> set[str]:
        """Ids of the calls in runs of two or more."""
        return {
            node.id
            for start, period, times in self.runs
            if times > 1
            for block in self.blocks[start : start + period * times]
            for node in block.nodes
        }

    def kept(self, blocks: int) -> list[Block]:
        """Return the first blocks, or patterns, of each run of two or more."""
        return [
            block
            for start, period, times in self.runs
            if times > 1
            for block in self.blocks[start : start + min(blocks, times) * period]
        ]

    @property
    def is_loop(self) -> bool:
        """Whether the blocks are calls of the same layers, as in a Universal Transformer."""
        return not self.parallel and len(self.blocks) > 1 and same_layers(self.blocks)

    @property
    def is_uniform(self) -> bool:
        """Whether at least half of the blocks are equal repeats, so that others deviate."""
        # The last block of a run is the usual one; the first may be an opening block.
        covered: Counter[tuple[Signature, ...]] = Counter()
        repeated = set()
        for start, period, times in self.runs:
            usual = self.blocks[start + period * (times - 1)].signature
            covered[usual] += period * times
            if times > 1:
                repeated.add(usual)
        return any(2 * covered[usual] >= len(self.blocks) for usual in repeated)


def same_layers(blocks: Sequence[Block]) -> bool:
    """Return whether blocks call the same layers, and some with weights."""
    layers = {tuple(node.layer for node in block.nodes) for block in blocks}
    weights = any(n.parameters or n.shared_parameters for n in blocks[0].nodes)
    return len(layers) == 1 and weights


@once_per_graph
def find_stacks(graph: Graph) -> tuple[Graph, tuple[Stack, ...]]:
    """Return the stacks of a graph, and the graph with the blocks of all of them as namespaces.

    Of stacks that overlap, the one whose runs cover more calls is used; of equal ones that of
    numbered names. So a stack within a block that repeats is left out (`find_inner_stacks` has
    those), unlike one within a block that does not, such as the stages of a ResNet.
    """
    namespaces = find_namespaces(graph)
    candidates = [*_named(graph, namespaces), *_structural(graph, namespaces)]
    return _with_namespaces(graph, namespaces, _chosen(graph, candidates))


def find_inner_stacks(graph: Graph, around: Collection[str]) -> tuple[Graph, tuple[Stack, ...]]:
    """Return the stacks of residual blocks within some blocks, as `find_stacks` does.

    Such as the six equal blocks of each of two equal stages: "× 6" within "× 2". Equal layers in a
    row, and branches, within a block are drawn, as in figures of Xception.

    Args:
        graph: The graph.
        around: Names of the blocks.
    """
    namespaces = find_namespaces(graph)

    def is_within(stack: Stack) -> bool:
        blocks = [[node.id for node in block.nodes] for block in stack.blocks]
        if stack.parallel or not all(_merges(graph, ids) for ids in blocks):
            return False
        common = reduce(common_namespace, (namespaces[i] for ids in blocks for i in ids))
        return not set(around).isdisjoint(enclosing_namespaces(common))

    candidates: list[Stack] = []
    if around:
        all_of_them = chain(_named(graph, namespaces), _structural(graph, namespaces))
        candidates = [stack for stack in all_of_them if is_within(stack)]
    return _with_namespaces(graph, namespaces, _chosen(graph, candidates))


def _chosen(graph: Graph, candidates: Iterable[Stack]) -> list[Stack]:
    """Return the stacks with runs that do not overlap, in the order of the graph."""
    candidates = list(candidates)
    repeated = [stack.repeated for stack in candidates]
    taken: set[str] = set()
    found = []
    for number in sorted(range(len(candidates)), key=lambda number: -len(repeated[number])):
        stack = candidates[number]
        ids = (node.id for block in stack.blocks for node in block.nodes)
        if repeated[number] and taken.isdisjoint(ids):
            taken.update(repeated[number])
            found.append(stack)
    return sorted(found, key=lambda stack: graph.index[stack.blocks[0].nodes[0].id])


def _stack(
    graph: Graph,
    blocks: Sequence[tuple[str, Sequence[Node]]],
    parallel: bool = False,
    fewest: int = 2,
    is_near: Callable[[Node], bool] = lambda _: True,
) -> Stack:
    stack = signed(graph, with_equal_orders(graph, blocks), feeds=not parallel)
    runs: list[Run] = []
    for run in find_runs(stack, fewest):
        start, period, times = run
        whole = parallel or _are_used_alike(graph, stack, run)
        runs += [run] if whole else [(start + n, 1, 1) for n in range(period * times)]
    found, runs = with_openings(graph, stack, runs, is_near)
    return Stack(tuple(found), tuple(runs), parallel)


def _are_used_alike(graph: Graph, blocks: Sequence[Block], run: Run) -> bool:
    """Return whether calls outside of a run take the same from all blocks, but for the last ones.

    The long skip paths of a U-Net lead from every block to another one; then they are all drawn.
    The outputs of the last blocks may go elsewhere: of as many as others reach ahead.
    """
    start, period, times = run
    patterns = [
        [node.id for block in blocks[begin : begin + period] for node in block.nodes]
        for begin in range(start, start + period * times, period)
    ]
    place = {node_id: number for number, ids in enumerate(patterns) for node_id in ids}
    # Blocks before the run, such as an opening one, show how far their outputs go, too.
    before = max(start - REACH * period, 0)
    number_of = {
        node.id: (number - start) // period
        for number, block in enumerate(blocks[before : start + period * times], before)
        for node in block.nodes
    }
    steps = (
        number_of.get(edge.target, number) - number
        for node_id, number in number_of.items()
        for edge in graph.outgoing[node_id]
    )
    reach = max(steps, default=0)
    used = [
        {
            (at, edge.target)
            for at, node_id in enumerate(ids)
            for edge in graph.outgoing[node_id]
            if edge.target not in place
        }
        for ids in patterns
    ]
    compared = used[: max(times - max(reach, 1), 0)]
    return not compared or (used[0] <= used[-1] and all(used[0] == those for those in compared))


# By names ---------------------------------------------------------------------------------------


def _named(graph: Graph, namespaces: Mapping[str, str]) -> Iterator[Stack]:
    """Yield stacks of consecutively numbered blocks that feed each other, outer ones first.

    Such as `<prefix>.block_0`, `<prefix>.block_1`, ..., of namespaces or of single layers.
    """
    members: dict[tuple[str, str], dict[int, tuple[str, list[Node]]]] = {}
    for node in graph.nodes:
        for family, number, name in _numbers(node, namespaces[node.id]):
            members.setdefault(family, {}).setdefault(number, (name, []))[1].append(node)
    for (around, _), blocks in members.items():
        if len(blocks) < 2:
            continue

        def is_near(node: Node, around: str = around) -> bool:
            """Return whether a call is beside the blocks, and not in another stage."""
            return f"{namespaces[node.id]}.".startswith(f"{around}.") or not around

        inside = {node.id for _, nodes in blocks.values() for node in nodes}
        for part in _consecutive(graph, with_calls_between(graph, blocks)):
            whole = with_slices(graph, part)
            ids = (node.id for _, nodes in whole for node in nodes)
            stack = _stack(graph, whole, is_near=is_near)
            yield replace(stack, beside=frozenset(ids) - inside)


def _numbers(node: Node, namespace: str) -> Iterator[tuple[tuple[str, str], int, str]]:
    """Yield (stack, number, name) of the numbered namespaces around a node, and of the node itself.

    Outermost first; decoder.block_3.query yields (("decoder", "block_"), 3, "decoder.block_3").
    """
    names = enclosing_namespaces(namespace)
    if node.kind in ("layer", "model", "group") and node.has_own_name:
        names.append(node.id)
    for name in names:
        around, _, last = name.rpartition(".")
        # Of the calls "block", "block@2", "block@3" of one layer, the first has no number.
        stem, number = numbered(last) or (f"{last}@", 1)
        yield (around, stem), number, name


def _consecutive(
    graph: Graph, blocks: Mapping[int, tuple[str, list[Node]]]
) -> list[list[tuple[str, list[Node]]]]:
    """Return runs of two or more consecutive numbers where each block feeds the next."""
    stacks: list[list[tuple[str, list[Node]]]] = []
    for number in sorted(blocks):
        sources = {edge.source for node in blocks[number][1] for edge in graph.incoming[node.id]}
        _, before = blocks.get(number - 1, ("", []))
        if not any(node.id in sources for node in before):
            stacks.append([])
        stacks[-1].append(blocks[number])
    return [stack for stack in stacks if len(stack) > 1]


# By structure -----------------------------------------------------------------------------------


def _structural(graph: Graph, namespaces: Mapping[str, str]) -> Iterator[Stack]:
    """Yield stacks found by structure: first those of equal sizes, then those that may grow."""
    calls = call_signatures(graph)
    growing = {n.id: (calls[n.id].kind, repeats_around(graph, n)) for n in graph.nodes}
    equal = {i: (kind, calls[i].sizes, calls[i].parameters) for i, kind in growing.items()}
    order = block_order(graph, growing)
    seen = set()
    same = len(set(equal.values())) == len(set(growing.values()))
    for kinds in (equal,) if same else (equal, growing):
        for repeat in find_repeats(graph, order, kinds, namespaces):
            if repeat not in seen:
                seen.add(repeat)
                parts = repeat.members if repeat.parallel else _passes(graph, repeat.members)
                blocks = [(ids[0], [graph.node(i) for i in ids]) for ids in parts]
                if not repeat.parallel and _cut_through_a_layer(blocks):
                    continue
                # A pair of branches, or of equal layers in a plain chain, is drawn.
                is_pair = _merges(graph, repeat.members[0]) and not repeat.parallel
                fewest = 2 if is_pair else 3
                stack = _stack(graph, blocks, repeat.parallel, fewest)
                if stack.is_uniform:
                    yield stack
                    continue
                for start, period, times in stack.runs:
                    members = stack.blocks[start : start + period * times]
                    yield Stack(members, ((0, period, times),), repeat.parallel)


def _passes(graph: Graph, members: Sequence[tuple[str, ...]]) -> Sequence[tuple[str, ...]]:
    """Return blocks whose layers are called again after some other blocks, joined to whole passes.

    Of blocks 0, 1, 0, 1, 0 a pass is 0, 1, and the last block is left out.
    """
    layers = [_layers_with_weights(graph, ids) for ids in members]
    period = next((k for k in range(1, len(layers)) if layers[k] & layers[0]), 0)
    is_loop = all(a == b for a, b in zip(layers, layers[period:], strict=False))
    if period < 2 or not is_loop or len(members) < 2 * period:
        return members
    starts = range(0, len(members) - period + 1, period)
    return [tuple(i for ids in members[k : k + period] for i in ids) for k in starts]


def _layers_with_weights(graph: Graph, ids: Iterable[str]) -> frozenset[str]:
    nodes = map(graph.node, ids)
    return frozenset(n.layer for n in nodes if n.parameters or n.shared_parameters)


def _cut_through_a_layer(blocks: Sequence[tuple[str, Sequence[Node]]]) -> bool:
    """Return whether blocks end inside an opened model or layer that is not around all of them."""
    around = set.intersection(*(set(node.opened) for _, nodes in blocks for node in nodes))
    return any(
        not around.issuperset(set(ending[-1].opened) & set(beginning[0].opened))
        for (_, ending), (_, beginning) in pairwise(blocks)
    )


def _merges(graph: Graph, ids: Iterable[str]) -> bool:
    return any(len({edge.source for edge in graph.incoming[node_id]}) > 1 for node_id in ids)


def _with_namespaces(
    graph: Graph, namespaces: Mapping[str, str], stacks: Iterable[Stack]
) -> tuple[Graph, tuple[Stack, ...]]:
    """Return the graph and stacks with a namespace for every block of two or more calls."""
    used = {n for name in namespaces.values() for n in enclosing_namespaces(name)}
    inside: dict[str, set[str]] = {}
    for node_id, namespace in namespaces.items():
        for name in enclosing_namespaces(namespace):
            inside.setdefault(name, set()).add(node_id)
    moved: dict[str, str] = {}
    numbers: dict[tuple[str, int], int] = {}
    named = []
    for stack in stacks:
        names = [block.name for block in stack.blocks]
        if len(stack.blocks[0].nodes) > 1 and not used.issuperset(names):
            names = _own_namespaces(stack, namespaces, inside)
            if not names:
                around, names = _new_namespaces(stack, namespaces, inside, used, numbers)
                used.update(names)
                for block, name in zip(stack.blocks, names, strict=True):
                    for node in block.nodes:
                        known = name if f"{namespaces[node.id]}.".startswith(f"{name}.") else around
                        rest = namespaces[node.id].removeprefix(known).lstrip(".")
                        moved[node.id] = f"{name}.{rest}".rstrip(".")
        blocks = zip(stack.blocks, names, strict=True)
        named.append(replace(stack, blocks=tuple(replace(b, name=name) for b, name in blocks)))
    nodes = (
        replace(node, namespace=moved[node.id]) if node.id in moved else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes)) if moved else graph, tuple(named)


def _own_namespaces(
    stack: Stack, namespaces: Mapping[str, str], inside: Mapping[str, set[str]]
) -> list[str]:
    """Return the namespaces that the blocks of a stack are already, or none."""
    names = [
        reduce(common_namespace, (namespaces[node.id] for node in block.nodes))
        for block in stack.blocks
    ]
    ids = [{node.id for node in block.nodes} for block in stack.blocks]
    return names if [inside.get(name) for name in names] == ids else []


def _new_namespaces(
    stack: Stack,
    namespaces: Mapping[str, str],
    inside: Mapping[str, set[str]],
    used: Container[str],
    numbers: dict[tuple[str, int], int],
) -> tuple[str, list[str]]:
    """Return the namespace around the blocks of a stack, and a new one for every block.

    They have the common start of the names of their calls, or else "block", or "pass" where all
    call the same layers. `numbers` has the
    numbers from which on the last stacks are named: the ones before are in use. A block whose
    layers are called again and again is one namespace already, and its later calls get numbers.
    """
    nodes = [node for block in stack.blocks for node in block.nodes]
    around = reduce(common_namespace, (namespaces[node.id] for node in nodes))
    if stack.is_loop and inside.get(around) == {node.id for node in nodes}:
        return around, [around, *(f"{around}@{call + 2}" for call in range(len(stack.blocks) - 1))]
    prefix = f"{around}." if around else ""
    names = [f"{prefix}{common_start(block.nodes, around)}" for block in stack.blocks]
    ids = [{node.id for node in block.nodes} for block in stack.blocks]
    stem, first = stem_and_number(names[0])
    are_numbered = names == [f"{stem}{first + number}" for number in range(len(names))]
    is_free = all(inside.get(n, set()) <= those for n, those in zip(names, ids, strict=True))
    if stem != prefix and first >= 0 and are_numbered and is_free:
        return around, names
    stem = f"{prefix}{'branch_' if stack.parallel else 'pass_' if stack.is_loop else 'block_'}"
    size = len(ids)
    first = next(
        n
        for n in count(numbers.get((stem, size), 1))
        if not any(f"{stem}{n + number}" in used for number in range(size))
    )
    numbers[stem, size] = first + size
    return around, [f"{stem}{first + number}" for number in range(size)]


def common_start(nodes: Iterable[Node], around: str = "") -> str:
    """Return the words that the chosen names of some calls start with, without those of `around`.

    For example "Block_3" of "Block-3-attention" and "Block-3-mlp".
    """
    names = [node.name.rpartition(".")[2] for node in nodes if node.has_own_name]
    words = zip(*(re.split(r"[\W_]+", name) for name in names), strict=False)
    start = "_".join(at[0] for at in takewhile(lambda at: len(set(at)) == 1, words))
    return start.removeprefix(around.replace(".", "_")).lstrip("_")
