"""Repeats in the structure of a graph, found without names.

`block_order` makes the calls of a block neighbours. A stack of equal blocks is then a tandem repeat
of that sequence, such as "abc" in "abcabcabc", in which each call has the same class, configuration
and sources as the call one period before. Sources are the same if they are at the same distance (a
call of the block or of the block before) or the same call (an encoder, a mask, positions).
"""

from __future__ import annotations

from bisect import bisect, insort
from collections.abc import Callable, Container, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from plots.folding.openings import has_weights
from plots.folding.order import kind_codes
from plots.graph import Edge, Graph
from plots.hierarchy import common_namespace, depth_of
from plots.layers import is_identity_like, is_norm

_LONGEST_BLOCK = 4096
"""Maximum number of calls and edges of a block."""
_FEWEST_BRANCHES = 3
"""Minimum number of equal branches that one stands for: two are drawn, as a pair of towers."""

_MOST_EXTENDED = 65_536
"""Maximum number of calls, or eight times that of the graph, by which repeats are extended."""


@dataclass(frozen=True, slots=True)
class Repeat:
    """Consecutive blocks, two or more of them equal, or equal branches into one call.

    Attributes:
        members: Ids of the calls of every block; those at one position have the
            same class and outputs.
        parallel: Whether the members are branches, none of which feeds another one.
    """

    members: tuple[tuple[str, ...], ...]
    parallel: bool


def find_repeats(
    graph: Graph,
    order: Sequence[str],
    kinds: Mapping[str, Hashable],
    namespaces: Mapping[str, str],
) -> Iterator[Repeat]:
    """Yield the repeats of a graph; they may overlap.

    Args:
        graph: The graph.
        order: The ids of all calls, as from `block_order`.
        kinds: Id of a call -> what must be equal in two calls that correspond, without sources.
        namespaces: Id of a call -> its namespace. Blocks that do not divide one are preferred.
    """
    codes = dict(zip(graph.index, kind_codes(graph, kinds), strict=True))
    return _Sequence(graph, order, codes, namespaces).repeats()


class _Sequence:
    """The calls in order, each as several items: one for every edge into it, and one for itself.

    An item is equal to another one if it has the same code, and a source at the same distance or
    the same source. The source of a call itself is the first call of its layer.
    """

    def __init__(
        self,
        graph: Graph,
        order: Sequence[str],
        codes: Mapping[str, int],
        namespaces: Mapping[str, str],
    ) -> None:
        self.graph = graph
        self.ids = order
        self._namespaces = namespaces
        self._place = {node_id: place for place, node_id in enumerate(order)}
        nodes = [graph.node(node_id) for node_id in order]
        outlines: dict[Hashable, int] = {}
        # Activations of the first block may take tensors of another size.
        self._outlines = [
            outlines.setdefault((n.class_name, n.outputs if has_weights(n) else ()), len(outlines))
            for n in nodes
        ]
        self._known_alike: dict[int, list[tuple[int, int]]] = {}
        self._extended: dict[tuple[int, int], list[tuple[int, int]]] = {}
        self._budget = max(_MOST_EXTENDED, 8 * len(nodes))
        self._targets = [
            sorted({self._place[edge.target] for edge in graph.outgoing[i]}) for i in order
        ]
        self._merges = {
            self._place[node.id]
            for node in nodes
            if len({edge.source for edge in graph.incoming[node.id]}) > 1
        }
        ports: dict[tuple[str, int], int] = {}
        self._codes: list[int] = []
        self._sources: list[int] = []
        self._call_of: list[int] = []  # item -> its call
        starts = [0]
        for place, node in enumerate(nodes):
            begin = len(self._codes)
            for edge in graph.incoming[node.id]:
                self._codes.append(ports.setdefault((edge.port, edge.output), -1 - len(ports)))
                self._sources.append(self._place[edge.source])
            self._codes.append(codes[node.id])
            self._sources.append(self._place.get(node.layer, place))
            self._call_of += [place] * (len(self._codes) - begin)
            starts.append(len(self._codes))
        self._end = starts[1:]  # call -> the item after its last one
        self._distances = [at - starts[source + 1] for at, source in enumerate(self._sources)]

    def repeats(self) -> Iterator[Repeat]:
        """Yield the longest tandem repeats of every period, in the best of their phases.

        Items that begin the same 1, 2, 4, ... items as earlier ones suggest the periods.
        """
        unequal: list[tuple[int, int]] = []
        for period, start, end in self._ranges(self._suggestions(), self._matches):
            if end - start >= period:
                repeat = self._repeat(start - period, end, period)
                if repeat is not None:
                    yield repeat
            else:
                unequal.append((start, period))
        yield from self._pairs(unequal)

    def _pairs(self, suggestions: Iterable[tuple[int, int]]) -> Iterator[Repeat]:
        """Yield pairs of blocks that are equal but for the places of what the first one takes.

        What the second block takes of the first one is at the places where that returns it, but
        what the first one takes may be anywhere before it.
        """
        for period, start, end in self._ranges(suggestions, self._is_alike):
            if period <= end - start < 2 * period:
                sources = {
                    item: item - min(self._distances[item], self._distances[item - period])
                    for item in range(start, end)
                    if not self._matches(item, period)
                }
                repeat = self._repeat(start - period, end, period, sources)
                if repeat is not None:
                    yield repeat

    def _ranges(
        self, suggestions: Iterable[tuple[int, int]], matches: Callable[[int, int], bool]
    ) -> Iterator[tuple[int, int, int]]:
        """Yield (period, start, end) of the ranges where all items match those a period before."""
        known: dict[int, list[tuple[int, int]]] = {}  # period -> ranges of items, in order
        for item, period in suggestions:
            ranges = known.setdefault(period, [])
            place = bisect(ranges, (item, len(self._codes)))
            if place and item < ranges[place - 1][1]:
                continue
            start = end = item
            while start > period and matches(start - 1, period):
                start -= 1
            while end < len(self._codes) and matches(end, period):
                end += 1
            ranges.insert(place, (start, max(end, item + 1)))
            yield period, start, end

    def _suggestions(self) -> Iterator[tuple[int, int]]:
        """Yield (item, period) where items begin the same 1, 2, 4, ... items as earlier ones."""
        tried = [0] * len(self._codes)
        size, length, before = len(self._codes), 1, 0
        numbers = dict(zip(self._codes, range(size), strict=True))
        words = [numbers[code] for code in self._codes]
        while length <= _LONGEST_BLOCK and len(numbers) < len(words):
            if len(numbers) > before:  # else longer words differ where shorter ones did
                latest: dict[int, int] = {}
                for item, word in enumerate(words):
                    period = item - latest.get(word, item)
                    latest[word] = item
                    if period and tried[item] != period:
                        tried[item] = period
                        yield item, period
            before = len(set(words[:-length]))
            pairs = [one * size + next_ for one, next_ in zip(words, words[length:], strict=False)]
            numbers = dict(zip(pairs, range(len(pairs)), strict=True))
            words = [numbers[pair] for pair in pairs]
            length *= 2

    def _matches(self, item: int, period: int) -> bool:
        before = item - period
        return self._codes[item] == self._codes[before] and (
            self._distances[item] == self._distances[before]
            or self._sources[item] == self._sources[before]
        )

    def _is_alike(self, item: int, period: int) -> bool:
        """Return whether an item matches the one a period before, or is such an edge."""
        is_edge = self._codes[item] < 0
        return self._matches(item, period) or (
            is_edge and self._codes[item] == self._codes[item - period]
        )

    def _repeat(
        self, start: int, end: int, period: int, sources: Mapping[int, int] | None = None
    ) -> Repeat | None:
        """Return the repeat of some items, with blocks that begin and end where a block should.

        `sources` has, by edge, the end of what must be before its block.
        """
        first = self._call_of[start] + (start != self._start(self._call_of[start]))
        last = self._call_of[end - 1] + (end >= self._end[self._call_of[end - 1]])
        size = self._calls_in(first, period)
        if not size or last - first < 2 * size:
            return None
        calls = range(first, last)
        crossing, forked = (self._crossing(calls, users) for users in (1, 2))
        unmerged = self._crossing(calls, 1, without=self._merges)
        alike = self._alike(first, last, size)

        def cost(begin: int) -> tuple[float, ...]:
            """Return how badly blocks begin at a call; smaller is better.

            A block takes one tensor from the block before, divides no namespace, and begins with a
            branch: two calls take this tensor, or one each of two. Otherwise it ends with a merge,
            or begins with a layer that has weights and is not a norm. Deviating blocks around the
            repeat are whole ones.
            """
            ends, begins = self.ids[begin + size - 1], self.ids[begin + size]
            node = self.graph.node(begins)
            inside = common_namespace(self._namespaces[ends], self._namespaces[begins])
            return (
                crossing[begin + size - first],
                depth_of(inside),
                -((begin - alike[0]) // size) - (alike[1] - begin) // size,
                -((last - begin) // size),
                crossing[begin + size - first] == 1 and not forked[begin + size - first],
                unmerged[begin + size - first],
                is_norm(node) or is_identity_like(node) or not node.parameters,
            )

        begins: Iterable[int] = range(first, min(first + size, last - 2 * size + 1))
        if sources:
            begins = [at for at in begins if self._takes_before(at + size, period, sources)]
            if not begins:
                return None
        begin = min(begins, key=cost)
        end = last - (last - begin) % size
        extended = self._extended.setdefault((size, begin % size), [])
        place = bisect(extended, (begin, len(self.ids)))
        if place and end <= extended[place - 1][1]:
            return None  # it is part of one that was found already
        members = self._members(begin, end, size)
        if not self._is_stack(members):
            return Repeat(members, parallel=True) if self._are_branches(members) else None
        own = end - begin
        if self._budget > 0:
            while begin - size >= alike[0] and self._feeds(begin - size, size):
                begin -= size
            while end + size <= alike[1] and self._feeds(end - size, size):
                end += size
        self._budget -= end - begin - own
        insort(extended, (begin, end))
        return Repeat(self._members(begin, end, size), parallel=False)

    def _takes_before(self, call: int, period: int, sources: Mapping[int, int]) -> bool:
        """Return whether the sources of edges into a block that begins at a call are before it."""
        start = self._start(call)
        return all(
            source <= start for item, source in sources.items() if start <= item < start + period
        )

    def _members(self, begin: int, end: int, size: int) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(self.ids[at : at + size]) for at in range(begin, end, size))

    def _alike(self, first: int, last: int, size: int) -> tuple[int, int]:
        """Return the range around some calls in which classes and shapes go on to repeat."""
        before = self._alike_around(first - 1, size)
        after = self._alike_around(last - size, size)
        return before[0] if before else first, after[1] + size if after else last

    def _alike_around(self, place: int, size: int) -> tuple[int, int] | None:
        """Return the range around a call in which outlines are those `size` calls later."""
        outlines = self._outlines
        count = len(outlines) - size
        if not 0 <= place < count or outlines[place] != outlines[place + size]:
            return None
        known = self._known_alike.setdefault(size, [])
        at = bisect(known, (place, count))
        if at and place < known[at - 1][1]:
            return known[at - 1]
        start, end = place, place + 1
        while start and outlines[start - 1] == outlines[start - 1 + size]:
            start -= 1
        while end < count and outlines[end] == outlines[end + size]:
            end += 1
        known.insert(at, (start, end))
        return start, end

    def _start(self, call: int) -> int:
        return self._end[call - 1] if call else 0

    def _calls_in(self, first: int, period: int) -> int:
        """Return the number of calls whose items fill one period, or 0."""
        after = self._start(first) + period if first < len(self.ids) else len(self._call_of) + 1
        if after > len(self._call_of):
            return 0
        last = self._call_of[after - 1]
        return last + 1 - first if self._end[last] == after else 0

    def _crossing(
        self, calls: range, users: int, without: Container[int] = frozenset()
    ) -> list[int]:
        """Return how many of some calls have some number of users beyond each place among them."""
        first = calls.start
        change = [0] * (len(calls) + 2)
        for place in calls:
            targets = self._targets[place]
            inside = bisect(targets, calls.stop - 1)
            if inside >= users and place not in without:
                change[place + 1 - first] += 1
                change[targets[inside - users] + 1 - first] -= 1
        return list(accumulate(change))

    def _feeds(self, begin: int, size: int) -> bool:
        """Return whether one of `size` calls feeds one of the next `size` calls."""
        middle, end = begin + size, begin + 2 * size
        for targets in self._targets[begin:middle]:
            if targets and targets[-1] >= middle:
                place = bisect(targets, middle - 1)
                if targets[place] < end:
                    return True
        return False

    def _is_stack(self, members: Sequence[tuple[str, ...]]) -> bool:
        """Return whether members have weights, and each feeds the next one."""
        size = len(members[0])
        begins = [self._place[ids[0]] for ids in members[:-1]]
        return (
            any(has_weights(self.graph.node(node_id)) for node_id in members[0])
            and all(self._feeds(begin, size) for begin in begins)
            and self._leads_on(begins[0] + size, size)
        )

    def _leads_on(self, begin: int, size: int) -> bool:
        """Return whether what a block of `size` calls takes from the one before leads out of it.

        Otherwise the blocks are parts of branches that take the same.
        """
        reached = {at for at in range(begin - size, begin) for at in self._targets[at]}
        for at in range(begin, begin + size):
            if at in reached:
                reached.update(self._targets[at])
        feeding = (
            at + size
            for at in range(begin - size, begin)
            if any(begin <= target < begin + size for target in self._targets[at])
        )
        return any(at in reached for at in feeding)

    def _are_branches(self, members: Sequence[tuple[str, ...]]) -> bool:
        """Return whether members are branches of equal rank into one list that a call takes."""
        graph = self.graph
        place = {i: number for number, ids in enumerate(members) for i in ids}
        leaving: list[Edge] = []
        for node_id, number in place.items():
            if place.get(graph.node(node_id).layer, number) != number:
                return False  # they share weights, like the towers of a siamese network
            for edge in graph.outgoing[node_id]:
                if edge.target not in place:
                    leaving.append(edge)
                elif place[edge.target] != number:
                    return False
        lists = {(edge.target, *edge.port.rpartition(".")[:2]) for edge in leaving}
        numbers = {edge.port.rpartition(".")[2] for edge in leaving}
        return (
            len(members) >= _FEWEST_BRANCHES
            and len(leaving) == len(members) == len({place[edge.source] for edge in leaving})
            and len(lists) == 1
            and all(number.isdigit() for number in numbers)
            and not any(node_id in place for node_id, _ in graph.outputs)
        )
