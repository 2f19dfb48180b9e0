"""An order of the calls of a graph in which those of a block are neighbours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import reduce
from itertools import pairwise

from plots.graph import Graph, Node
from plots.traversal import topological_order

_SEVERAL = 3
"""Minimum number of calls of one kind whose outputs a subtree collects."""

_EXIT = -1

Rank = tuple[bool, int, int]
"""Whether a subtree has no input of the model, minus its number of calls, and its content."""


def post_dominators(graph: Graph) -> dict[str, str]:
    """Return the nearest call that all paths from a call lead through, for those with one."""
    parents = zip(graph.index, _Tree(graph, [0] * len(graph.nodes)).parent, strict=False)
    return {i: graph.nodes[parent].id for i, parent in parents if parent != _EXIT}


def block_order(graph: Graph, kinds: Mapping[str, Hashable]) -> list[str]:
    """Return the ids of all calls in an order in which those of a block are neighbours.

    Args:
        graph: The graph.
        kinds: Id of a call -> what must be equal in two calls that correspond, without sources.
    """
    order = [graph.nodes[place] for place in _Tree(graph, kind_codes(graph, kinds)).order()]
    places = {node.id: (place, 0) for place, node in enumerate(order)}
    untrained = _untrained(graph)
    for node in reversed(order):
        users = {edge.target for edge in graph.outgoing[node.id]}
        if not users or node.id not in untrained:
            continue
        # A mask that is handed on from block to block is computed where its block takes it, and so
        # is what one block computes of an input alone.
        first, last = (choose(places[user] for user in users) for choose in (min, max))
        others = [user for user in users if not _is_mask(graph.node(user))]
        is_handed_on = _is_mask(node) and len(others) < 2
        if is_handed_on or first[0] - places[node.id][0] > last[0] - first[0]:
            places[node.id] = (first[0], first[1] - 1)
    # Weights that no call takes are where the first call beside them is.
    first_inside: dict[str, tuple[int, int]] = {}
    for node in order:
        for around in node.opened:
            first_inside.setdefault(around, places[node.id])
    for node in graph.nodes:
        if node.kind == "weights" and node.namespace in first_inside:
            place, side = first_inside[node.namespace]
            places[node.id] = (place, side - 1)
    return sorted(places, key=places.__getitem__)


def _untrained(graph: Graph) -> set[str]:
    """Return the ids of masks, and of calls that depend on inputs but on no weights."""
    found: set[str] = set()
    inputs = {node.id for node in graph.nodes if node.kind == "input"}
    for node in graph.nodes:
        sources = {edge.source for edge in graph.incoming[node.id]}
        has_weights = node.parameters or node.shared_parameters
        if node.kind != "input" and sources <= found | inputs and not has_weights:
            found.add(node.id)
    return found | {node.id for node in graph.nodes if _is_mask(node)}


def _is_mask(node: Node) -> bool:
    return node.kind != "input" and all(tensor.dtype == "bool" for tensor in node.outputs)


def kind_codes(graph: Graph, kinds: Mapping[str, Hashable]) -> list[int]:
    """Return a number for every call, equal for calls of the same kind."""
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(kinds[node.id], len(numbers)) for node in graph.nodes]


class _Tree:
    """The post-dominators of a graph: the nearest call that all paths from a call lead through.

    In a residual network the post-dominator of a merge is the next merge, and the branch between
    them is a subtree below the latter. What several blocks take, such as the output of an encoder,
    is a subtree of its own. Calls are positions in `graph.nodes`.
    """

    def __init__(self, graph: Graph, codes: Sequence[int]) -> None:
        size = len(graph.nodes)
        self._codes = codes
        index = graph.index
        self._targets = [
            list(dict.fromkeys(index[edge.target] for edge in graph.outgoing[node.id]))
            for node in graph.nodes
        ]
        self._depth = [0] * size
        for call, targets in enumerate(self._targets):
            for target in targets:
                self._depth[target] = max(self._depth[target], self._depth[call] + 1)
        sources = [[index[edge.source] for edge in graph.incoming[n.id]] for n in graph.nodes]
        self._collected = [self._of_several_blocks(each) for each in sources]
        self._collecting = {call for call, each in enumerate(self._collected) if each}
        self._merges = [len(set(each)) > 1 for each in sources]
        self._is_input = [node.kind == "input" for node in graph.nodes]
        # The last element is that of _EXIT, to which calls without consumers lead.
        self.parent = [_EXIT] * (size + 1)
        self._level = [0] * (size + 1)
        self._jump = [_EXIT] * (size + 1)
        for call in reversed(range(size)):
            self._hang(call, reduce(self._common, self._targets[call] or [_EXIT]))

    def _of_several_blocks(self, sources: Iterable[int]) -> list[int]:
        """Return those of some calls that several blocks return, not branches of one block.

        Those are calls of one kind, each as many calls past the one of the block before.
        """
        depths: dict[int, dict[int, int]] = {}
        for source in sources:
            depths.setdefault(self._codes[source], {})[self._depth[source]] = source
        several = (each for each in depths.values() if len(each) >= _SEVERAL)
        regular = (e for e in several if len({b - a for a, b in pairwise(sorted(e))}) == 1)
        return [source for each in regular for source in each.values()]

    def _hang(self, call: int, parent: int) -> None:
        """Add a call below its parent; jumps of growing length make ways up logarithmic."""
        jump = self._jump[parent]
        levels = [self._level[each] for each in (parent, jump, self._jump[jump])]
        self.parent[call] = parent
        self._level[call] = levels[0] + 1
        even = levels[0] - levels[1] == levels[1] - levels[2]
        self._jump[call] = self._jump[jump] if even else parent

    def _ancestor(self, call: int, level: int) -> int:
        while self._level[call] > level:
            far = self._jump[call]
            call = far if self._level[far] >= level else self.parent[call]
        return call

    def _common(self, one: int, other: int) -> int:
        """Return the lowest common ancestor."""
        level = min(self._level[one], self._level[other])
        one, other = self._ancestor(one, level), self._ancestor(other, level)
        while one != other:
            far = self._jump[one], self._jump[other]
            one, other = far if far[0] != far[1] else (self.parent[one], self.parent[other])
        return one

    def order(self) -> list[int]:
        """Return all calls, each after the calls below it in the tree.

        Of the subtrees below a call, those that others take something from come first, then those
        with an input of the model, then the largest: the blocks before this one. Branches with the
        same content are neighbours.
        """
        self._lift_blocks_before()
        beside = self._sources_beside()
        self._lift_collections(beside)
        size = len(self._codes)
        children: list[list[int]] = [[] for _ in range(size + 1)]
        needs: list[list[tuple[int, int]]] = [[] for _ in range(size + 1)]
        for call, targets in enumerate(self._targets):
            parent = self.parent[call]
            children[parent].append(call)
            for target in targets:
                if target != parent:
                    needs[parent].append((call, self._ancestor(target, self._level[call])))
        rank: list[Rank] = []
        height = [1] * (size + 1)
        for call in range(size):
            ranks = [rank[child] for child in children[call]]
            has_input = self._is_input[call] or not all(r[0] for r in ranks)
            content = hash((self._codes[call], *sorted(r[2] for r in ranks)))
            rank.append((not has_input, -1 + sum(r[1] for r in ranks), content))
            early = _early(children[call], needs[call], height)
            height[call] = 1 + max(early.values(), default=0)
        found: list[int] = []
        waiting = [_EXIT]
        while waiting:
            call = waiting.pop()
            found.append(call)
            below = children[call]
            if len(below) > 1:
                below = self._arranged(call, below, needs[call], rank, height, beside)
            waiting += below
        return found[:0:-1]

    def _lift_blocks_before(self) -> None:
        """Move the blocks before a cell out of the subtree of one of its first calls.

        Two branches of a NASNet cell begin with equal calls, and take the outputs of the last two
        cells. Only in the last cell, no other call takes the output of the cell before, which is
        below the one branch then.
        """
        size = len(self._codes)
        children: list[list[int]] = [[] for _ in range(size + 1)]
        chains: list[tuple[int, int]] = []  # content of the calls since the last merge, and it
        alike: dict[tuple[int, int], list[int]] = {}  # by parent and content
        for call in range(size):
            below, content = -1, 0
            if len(children[call]) == 1:
                (below,) = children[call]
                content, below = (0, below) if self._merges[below] else chains[below]
            chains.append((hash((self._codes[call], content)), below))
            children[self.parent[call]].append(call)
            alike.setdefault((self.parent[call], chains[call][0]), []).append(call)
        lifted = {
            below: parent
            for (parent, _), calls in alike.items()
            if parent != _EXIT and any(chains[call][1] < 0 for call in calls)
            for _, below in map(chains.__getitem__, calls)
            if below >= 0
        }
        for call in reversed(range(size) if lifted else ()):
            self._hang(call, lifted.get(call, self.parent[call]))

    def _sources_beside(self) -> list[list[int]]:
        """Return the first few calls beside the subtree of each call that it takes from.

        These are at most so many of each kind, and of so many kinds.
        """
        size = len(self._codes)
        found: list[list[int]] = [[] for _ in range(size + 1)]
        for call, targets in enumerate(self._targets):
            for target in targets:
                found[target].append(call)
        for call in range(size):
            outside = {each for each in found[call] if self._level[each] <= self._level[call]}
            counts: Counter[int] = Counter()
            found[call] = []
            for each in sorted(outside, key=lambda each: (self._level[each], each)):
                code = self._codes[each]
                if counts[code] < _SEVERAL and (code in counts or len(counts) < _SEVERAL):
                    counts[code] += 1
                    found[call].append(each)
            if self.parent[call] != _EXIT:
                found[self.parent[call]] += found[call]
        return found

    def _lift_collections(self, beside: Sequence[Sequence[int]]) -> None:
        """Move the calls that collect the outputs of several blocks out of each other's subtrees.

        Such as a sum that each block of a WaveNet adds to: every sum is below the next one, far
        from its block. It takes from several calls of one kind beside its subtree. Or it takes what
        several blocks return, and only the last one of them is in its subtree.
        """
        size, parent = len(self._codes), self.parent
        lifted: set[int] = set()
        for call in reversed(range(size)):
            continues = parent[call] in lifted and self._codes[parent[call]] == self._codes[call]
            is_beside = any(self._level[i] <= self._level[call] for i in self._collected[call])
            places = {(self._codes[each], self._depth[each]) for each in beside[call]}
            most = max(Counter(code for code, _ in places).values(), default=0)
            if continues or is_beside or most == _SEVERAL:
                lifted.add(call)
        # The last call of a series is beside its block, unlike one that collects from all blocks.
        series = {call for call in lifted if parent[call] in lifted}
        series |= {parent[call] for call in series}
        self._collecting.update(lifted, (parent[call] for call in series))
        for call in reversed(range(size) if lifted else ()):
            above = parent[call]
            while above in lifted:
                above = parent[above]
            self._hang(call, above)

    def _arranged(
        self,
        parent: int,
        calls: Sequence[int],
        pairs: Sequence[tuple[int, int]],
        rank: Sequence[Rank],
        height: Sequence[int],
        beside: Sequence[Sequence[int]],
    ) -> list[int]:
        """Return calls in the order of their ranks, or else one with each after those it needs.

        Calls beside the longest way, such as those that hand on a mask, are as late as possible.
        What is collected from all blocks is as early as possible.

        Args:
            calls: Calls, as positions in the graph.
            pairs: (before, after).
            rank: Rank of every call of the graph.
            height: Length of the longest way in the subtree below every call, itself included.
            beside: Calls beside the subtree of every call that it takes from.
        """
        ranked = sorted(calls, key=rank.__getitem__)
        place = {call: number for number, call in enumerate(ranked)}
        if len(calls) < 3 and all(place[before] < place[after] for before, after in pairs):
            return ranked
        before: dict[int, set[int]] = {call: set() for call in calls}
        after: dict[int, set[int]] = {call: set() for call in calls}
        for first, second in pairs:
            before[second].add(first)
            after[first].add(second)
        early = _early(calls, pairs, height)
        longest = max(early.values())
        late: dict[int, int] = {}
        collected: set[int] = set()
        levels: dict[int, list[int]] = {}
        for call in sorted(calls, reverse=True):
            late[call] = min((late[each] - height[each] for each in after[call]), default=longest)
            following = after[call] or {parent}
            if following <= self._collecting | collected:
                collected.add(call)
            level = early[call] if call in collected else late[call]
            levels.setdefault(level, []).append(call)
        # Of equal calls, the one whose sources come first is first, as in every block.
        order: dict[int, int] = {}
        for level in sorted(levels):
            for call in sorted(
                levels[level],
                key=lambda call: (
                    rank[call],
                    sorted(self._depth[each] for each in beside[call]),
                    call,
                ),
            ):
                order[call] = len(order)
        return topological_order(order, pairs)


def _early(
    calls: Iterable[int], pairs: Iterable[tuple[int, int]], height: Sequence[int]
) -> dict[int, int]:
    """Return the number of calls on the longest way to each call, itself included."""
    early = dict.fromkeys(calls, 0)
    before: dict[int, list[int]] = {}
    for first, second in pairs:
        before.setdefault(second, []).append(first)
    for call in sorted(early):
        early[call] = height[call] + max((early[each] for each in before.get(call, ())), default=0)
    return early
