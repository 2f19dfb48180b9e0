"""Runs of equal blocks in a stack: which blocks go on as those one and two periods before them."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterator, Sequence
from typing import NamedTuple

from plots.folding.signatures import LONGEST_PERIOD, Block, Path, Run, Signature

_FEWEST_GROWING = 3
"""Minimum number of blocks of growing size: any two sizes would be a progression."""

_GEOMETRIC = re.compile(r"dilation")


def find_runs(stack: Sequence[Block], fewest: int = 2) -> Iterator[Run]:
    """Yield the runs from the first block to the last.

    If several periods match, the one that covers most blocks is used, and of those the shortest.

    Args:
        stack: The blocks.
        fewest: Minimum number of times that blocks repeat.
    """
    compared = _Comparisons(stack)
    start = 0
    while start < len(stack):
        best = (1, 1)
        for period in range(1, min(LONGEST_PERIOD, (len(stack) - start) // 2) + 1):
            times = (compared.end(start, period) - start) // period
            covers_more = times >= fewest and times * period > best[0] * best[1]
            if covers_more and compared.is_run(start, period, times):
                best = (period, times)
            if best[0] * best[1] == len(stack) - start:
                break
        yield start, *best
        start += best[0] * best[1]


class _Change(NamedTuple):
    """The change from a block to the one a period later.

    Attributes:
        numbers: The differences of the numbers of the configuration, by their places.
        grows: Whether sizes change.
        adds: Whether the block only adds to what came before, as those of a DenseNet do, or is
            wider and merges with it, as those of a PyramidNet.
    """

    numbers: dict[tuple[int, Path], float]
    grows: bool
    adds: bool


class _Comparisons:
    """Comparisons of the blocks of a stack, of which each is made once.

    A search that starts anew after every block then takes time linear in the number of blocks.
    """

    def __init__(self, stack: Sequence[Block]) -> None:
        self._stack = stack
        # Blocks with equal numbers have the same structure, and the same quantities.
        structures: dict[Hashable, int] = {}
        quantities: dict[Hashable, int] = {}
        codes: dict[int, tuple[int, int]] = {}  # by identity: most calls share a signature
        for call in {id(call): call for block in stack for call in block.signature}.values():
            structure = call.kind, call.sources, call.repeats
            codes[id(call)] = (
                structures.setdefault(structure, len(structures)),
                quantities.setdefault(call.quantities, len(quantities)),
            )
        numbers = [[codes[id(call)] for call in block.signature] for block in stack]
        self._structures = [tuple(structure for structure, _ in block) for block in numbers]
        self._quantities = [tuple(values for _, values in block) for block in numbers]
        self._stops: dict[tuple[int, int], int] = {}
        self._changes: dict[tuple[int, int], _Change] = {}

    def end(self, start: int, period: int) -> int:
        """Return where the blocks from `start` on no longer go on as those before.

        Must be called with growing `start`.
        """
        stop = self._stop(start + period, period, 1)
        second = start + 2 * period
        return stop if stop < second else self._stop(second, period, 2)

    def _stop(self, begin: int, period: int, back: int) -> int:
        """Return the first block from `begin` on unlike those up to `back` periods before it."""
        stop = self._stops.get((period, back), -1)
        if stop < begin:
            stop = begin
            while stop < len(self._stack) and self._continues(stop, period, back):
                stop += 1
            self._stops[period, back] = stop
        return stop

    def _continues(self, at: int, period: int, back: int) -> bool:
        """Return whether a block goes on as those up to `back` periods before it do."""
        places = range(at - back * period, at + 1, period)
        if self._structures[at] != self._structures[at - period]:
            return False
        if len({self._quantities[place] for place in places}) == 1:
            return True
        signatures = [self._stack[place].signature for place in places]
        befores = signatures[0] if back == 2 else [None] * len(signatures[0])
        return all(map(_progresses, befores, *signatures[-2:]))

    def is_run(self, start: int, period: int, times: int) -> bool:
        """Return whether blocks repeat, as far as the number of them matters.

        Two blocks show no progression: whole numbers may then grow as an index does, and of two
        patterns all blocks must change alike. Blocks of growing size are those that add to what
        came before, like those of a DenseNet; where the configuration asks for other sizes, another
        stage begins.
        """
        changes = []
        for at in range(start, start + period):
            change = self._change(at, period)
            if change.grows and (not change.adds or times < _FEWEST_GROWING):
                return False
            changes.append(change.numbers)
        if times > 2:
            return True
        steps: dict[tuple[int, Path], list[float]] = {}
        for numbers in changes:
            for key, step in numbers.items():
                steps.setdefault(key, []).append(step)
        return not any(
            len({(step > 0) - (step < 0) for step in alike}) > 1
            or any(isinstance(step, int) and abs(step) > period for step in alike)
            for alike in steps.values()
        )

    def _change(self, at: int, period: int) -> _Change:
        if (at, period) not in self._changes:
            block, following = self._stack[at], self._stack[at + period]
            pairs = list(zip(block.signature, following.signature, strict=True))
            numbers = {
                (place, path): after - now
                for place, (one, other) in enumerate(pairs)
                for (path, now), (_, after) in zip(one.numbers, other.numbers, strict=True)
            }
            grows = any(one.sizes != other.sizes for one, other in pairs)
            steps = [_step(*two) for o in pairs for two in zip(o[0].sizes, o[1].sizes, strict=True)]
            # Stages of few blocks, of which each is wider by as much again, are drawn.
            sizes = [size or 0 for one, _ in pairs for size in one.sizes]
            widens = all(
                step is not None and 0 <= step <= size / 2
                for step, size in zip(steps, sizes, strict=True)
            )
            adds = grows and _merges(block) and (widens or not any(numbers.values()))
            self._changes[at, period] = _Change(numbers, grows, adds)
        return self._changes[at, period]


def _progresses(before: Signature | None, now: Signature, after: Signature) -> bool:
    """Return whether the numbers of three calls are equal or progress regularly."""
    if now.quantities == after.quantities:
        return before is None or before.quantities == now.quantities
    steps = [_step(a, b) for a, b in zip(now.sizes, after.sizes, strict=True)]
    if None in steps or (now.parameters != after.parameters and not any(steps)):
        return False
    lasts = (
        steps
        if before is None
        else [_step(a, b) for a, b in zip(before.sizes, now.sizes, strict=True)]
    )
    rounds = any(step and step > 0 for step in steps)  # widths that grow are often rounded
    if any(
        step != last and not (rounds and step and last and _is_rounded(last, step, size or 0))
        for last, step, size in zip(lasts, steps, now.sizes, strict=True)
    ):
        return False
    for place, ((path, this), (_, following)) in enumerate(
        zip(now.numbers, after.numbers, strict=True)
    ):
        step = following - this
        last = step if before is None else this - before.numbers[place][1]
        if isinstance(step, float) or _GEOMETRIC.search("".join(path)):
            if (step > 0) - (step < 0) != (last > 0) - (last < 0):
                return False
        elif step != last and not (rounds and abs(step - last) <= max(2, abs(this))):
            return False
    return True


def _is_rounded(last: int, step: int, size: int) -> bool:
    """Return whether a size grows by steps that differ only as rounded numbers do."""
    return min(last, step) > 0 and abs(step - last) <= max(1, size // 8)


def _step(now: int | None, after: int | None) -> int | None:
    """Return the difference of two sizes of an axis; None if only one of them is variable."""
    if now is None or after is None:
        return 0 if now is after else None
    return after - now


def _merges(block: Block) -> bool:
    """Return whether a call in a block takes several outputs of it or of the block before."""
    return any(
        len({source for source in call.sources if source[0] != "outside"}) > 1
        for call in block.signature
    )
