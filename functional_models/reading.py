"""Progress of work on long texts, before training begins."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Self, TypeVar

Item = TypeVar("Item")

_SHORTEST = 1.0
"""Seconds after which a terminal gets a bar."""

FIRST_INTERVAL, LONGEST_INTERVAL = 10.0, 60.0
"""Seconds between the lines of an output that is not a terminal; doubled from line to line."""


class Reading:
    """Shows on stderr how much of the data is read.

    On a terminal this is a bar, which disappears at the end. Other outputs get a line after 10
    seconds and then at growing intervals, of at most a minute.

    Args:
        what: what is done, such as "tokenizing".
        total: number of units; `None` if it is unknown.
        unit: what is counted, such as "characters".
        shown: whether anything is shown.
        clock: returns seconds.
    """

    def __init__(
        self,
        what: str,
        total: int | None,
        unit: str,
        *,
        shown: bool = True,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._what, self._total, self._unit = what, total, unit
        self._shown, self._clock = shown, clock
        self._done = 0
        self._bar: Any = None
        self._interval = FIRST_INTERVAL
        self._started = clock()
        self._next = self._started + (_SHORTEST if sys.stderr.isatty() else FIRST_INTERVAL)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def counted(self, items: Iterable[Item]) -> Iterator[Item]:
        """Yield items, each of one unit."""
        for item in items:
            yield item
            self._advance(1)

    def counted_pieces(self, pieces: Iterable[str]) -> Iterator[str]:
        """Yield pieces of text, whose characters are the units."""
        for piece in pieces:
            yield piece
            self._advance(len(piece))

    def _advance(self, units: int) -> None:
        self._done += units
        if self._shown and self._clock() >= self._next:
            self._show()

    def _show(self) -> None:
        if sys.stderr.isatty():
            self._update_bar()
            return
        print(self._line(), file=sys.stderr, flush=True)
        self._interval = min(2 * self._interval, LONGEST_INTERVAL)
        self._next = self._clock() + self._interval

    def _update_bar(self) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            columns = (TextColumn("{task.description}"), BarColumn())
            self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._bar.add_task("", total=self._total)
            self._bar.start()
        self._bar.update(self._task, completed=self._done, description=self._line())

    def _line(self) -> str:
        """Return how much is done."""
        if self._total is None:
            return f"{self._what}: {self._done:,} {self._unit}"
        seconds = (self._clock() - self._started) * (self._total / self._done - 1)
        return (
            f"{self._what}: {self._done:,} of {self._total:,} {self._unit} | "
            f"{duration(seconds)} left"
        )


def duration(seconds: float) -> str:
    """Return a duration in words: "45 s", "12 min", "3 h 20 min"."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    return f"{minutes // 60:,} h {minutes % 60} min"
