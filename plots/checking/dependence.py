"""Which positions of a value depend on which positions of an input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Dependence:
    """Which positions of a value depend on which positions of an input.

    Attributes:
        moved: For every probe, whether anything in its row changed.
        matrices: For every axis that has the size of the positions, a boolean matrix: whether
            position q of the value changed when a probe did, of shape (positions, probes).
        own: Where the value changed, in the rows of the probes; None if the rows of the batch
            could not be told apart.
    """

    moved: np.ndarray
    matrices: tuple[np.ndarray, ...]
    own: np.ndarray | None

    def along(self, axis: int) -> np.ndarray:
        """Return the matrix of an axis of any size, of shape (positions, probes)."""
        return along(self.own, axis)

    def best(self) -> np.ndarray | None:
        """Return the matrix with the fewest changes, that of the axis of the positions."""
        return min(self.matrices, key=lambda matrix: int(matrix.sum()), default=None)


def along(moved: Any, axis: int) -> np.ndarray:
    """Return whether anything at a position of an axis moved, for every row: (positions, rows)."""
    import numpy as np

    array = np.moveaxis(moved, axis, 1)
    return np.asarray(array.reshape(*array.shape[:2], -1).any(axis=2).T)
