"""A tensor in a file of weights, which is read when it is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

FLOATS: Mapping[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
"""Types that weights are read from, with the names of safetensors."""

WIDTHS: Mapping[str, int] = {
    **{name: dtype.itemsize for name, dtype in FLOATS.items()},
    **{"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1},
    **{"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1},
}
"""Bytes of an element of each type."""

_CHUNK = 1 << 22  # elements that are compared at once


@dataclass(frozen=True)
class StoredTensor:
    """Place of a tensor in a file.

    Attributes:
        path: the file.
        type: name of the type, one of `WIDTHS`.
        shape: the shape.
        offset: first byte in the file.
        strides: elements from one to the next along each axis; `None`: row by row.
    """

    path: Path
    type: str
    shape: tuple[int, ...]
    offset: int
    strides: tuple[int, ...] | None = None

    @property
    def is_float(self) -> bool:
        """Whether the type is one that weights are read from."""
        return self.type in FLOATS

    def read(self) -> np.ndarray:
        """Return the tensor, in its own type."""
        if self.strides is None:
            return self._read(0, math.prod(self.shape)).reshape(self.shape)
        elements = self._read(0, span(self.shape, self.strides))
        steps = [step * elements.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(elements, self.shape, steps)

    def equals(self, other: StoredTensor) -> bool:
        """Return whether another tensor has the same shape and values; types must be of weights."""
        if self.shape != other.shape or not (self.is_float and other.is_float):
            return False
        if self.strides is not None or other.strides is not None:
            return np.array_equal(self.read(), other.read())
        total = math.prod(self.shape)
        return all(
            np.array_equal(self._read(at, count), other._read(at, count))
            for at in range(0, total, _CHUNK)
            for count in [min(_CHUNK, total - at)]
        )

    def _read(self, first: int, count: int) -> np.ndarray:
        dtype = FLOATS[self.type]
        # Not from a mapped file, whose pages would count as memory of the process.
        raw = np.fromfile(
            self.path, "u1", count * dtype.itemsize, offset=self.offset + first * dtype.itemsize
        )
        return raw.view(dtype)


def span(shape: tuple[int, ...], strides: tuple[int, ...]) -> int:
    """Return the number of elements from the first to the last one of a tensor."""
    if not all(shape):
        return 0
    return 1 + sum((size - 1) * step for size, step in zip(shape, strides, strict=True))
