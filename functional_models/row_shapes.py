"""A few shapes that the rows of a data set are padded to.

A batch has one shape, for which the backend may compile a step; so there should be few shapes, and
little of a row should be padding. Both sides of a sentence pair have a width of their own, since
the longer side of one pair may be the shorter side of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np


def most_row_shapes() -> int:
    """Return the default number of shapes: fewer on JAX, which compiles the whole step for each."""
    import keras

    return 8 if keras.backend.backend() == "jax" else 24


def row_shapes(sizes: np.ndarray, most: int) -> np.ndarray:
    """Return shapes such that each row fits into one and few tokens are padding.

    All rows begin in one group, padded to its longest sides. Again and again, one group is cut in
    two, by the length of one side, where that saves most tokens.

    Args:
        sizes: tokens of the sides of each row, int (n, sides).
        most: number of shapes.

    Returns:
        The widths of the sides, int (shapes, sides), at most so many shapes, the smallest first.
    """
    # Sorting numbers is faster than sorting rows.
    limits = tuple(sizes.max(axis=0).astype("int64") + 1)
    numbers, counts = np.unique(np.ravel_multi_index(sizes.T, limits), return_counts=True)
    groups = [_Group.of(np.stack(np.unravel_index(numbers, limits), axis=1), counts)]
    while len(groups) < most:
        place = max(range(len(groups)), key=lambda place: groups[place].saved)
        if not groups[place].saved:
            break
        groups[place : place + 1] = groups[place].halves()
    shapes = np.unique([group.sizes.max(axis=0) for group in groups], axis=0)
    return shapes[np.argsort(shapes.sum(axis=1), kind="stable")]


def first_that_fits(sizes: np.ndarray, shapes: np.ndarray) -> np.ndarray:
    """Return the number of the first shape that each row fits into, int (n,).

    Args:
        sizes: tokens of the sides of each row, int (n, sides).
        shapes: widths of the sides, int (shapes, sides); each row fits into one.
    """
    found = np.zeros(len(sizes), "uint8" if len(shapes) < 256 else "int32")
    for number in reversed(range(len(shapes))):
        widths = zip(sizes.T, shapes[number], strict=True)
        found[np.all([lengths <= width for lengths, width in widths], axis=0)] = number
    return found


@dataclass(frozen=True)
class _Group:
    """Different sizes of rows, and the best place to cut them in two.

    Attributes:
        sizes: int (n, sides), in the order of the side that is cut.
        counts: rows of each size, int (n,).
        place: number of the first size after the cut.
        saved: tokens that need not be padding after the cut.
    """

    sizes: np.ndarray
    counts: np.ndarray
    place: int
    saved: int

    @classmethod
    def of(cls, sizes: np.ndarray, counts: np.ndarray) -> Self:
        """Return the group of some sizes of rows, cut at its best place."""
        best = cls(sizes, counts, 0, 0)
        for side in range(sizes.shape[1]):
            order = np.argsort(sizes[:, side], kind="stable")
            sorted_, number = sizes[order], np.cumsum(counts[order])
            before = np.maximum.accumulate(sorted_)[:-1].sum(axis=1)
            after = np.maximum.accumulate(sorted_[::-1])[-2::-1].sum(axis=1)
            whole, total = sizes.max(axis=0).sum(), number[-1]
            saved = number[:-1] * (whole - before) + (total - number[:-1]) * (whole - after)
            # Rows of equal length on this side stay together.
            saved[sorted_[:-1, side] == sorted_[1:, side]] = 0
            if saved.max(initial=0) > best.saved:
                place = int(saved.argmax()) + 1
                best = cls(sorted_, counts[order], place, int(saved[place - 1]))
        return best

    def halves(self) -> list[Self]:
        """Return the groups before and after the cut."""
        place = self.place
        return [
            self.of(self.sizes[:place], self.counts[:place]),
            self.of(self.sizes[place:], self.counts[place:]),
        ]
