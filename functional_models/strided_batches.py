"""Evaluation with overlapping windows, so that few tokens are predicted with little context."""

from __future__ import annotations

from typing import Any

import numpy as np

from functional_models.batches import Batch, TokenBatches
from functional_models.checks import check_count


class StridedBatches(TokenBatches):
    """Windows of `block` tokens that begin `stride` tokens apart, in which new labels count.

    All labels of the first window count, and of every other one the last `stride`, so that each has
    at least block - stride tokens before it that the model reads. With stride=block they are the
    blocks of `TokenBatches`. A sliding window, as in Baevski and Auli 2019, section 4.

    Args:
        tokens: int (N,); may be memory-mapped.
        stride: tokens between the starts of windows, 1 to `block`.
        options: further arguments of `TokenBatches`.

    Raises:
        ValueError: as `TokenBatches`, or a stride that is not allowed.
    """

    def __init__(self, tokens: np.ndarray, *, stride: int, **options: Any) -> None:
        super().__init__(tokens, **options)
        check_count("stride", stride, most=self.block)
        self.stride = stride
        self._last = len(tokens) - 1 - self.block

    def eval_batch(self, index: int) -> Batch:
        """Return windows in order; labels of earlier windows have weight 0."""
        first = index * self.batch_size
        number = min(self.batch_size, self._windows - first)
        places = np.resize(np.arange(first, first + number), self.batch_size)
        starts = np.minimum(places * self.stride, self._last)
        inputs, labels, weights = self._rows(starts)
        for row, window in enumerate(range(first, first + number)):
            if window:
                before = min((window - 1) * self.stride, self._last)
                weights[row, : self.block - int(starts[row] - before)] = 0
        weights[number:] = 0  # rows that fill the batch
        return inputs, labels, weights

    @property
    def num_eval_batches(self) -> int:
        return -(-self._windows // self.batch_size)

    @property
    def _windows(self) -> int:
        """The number of windows, of which the last ends with the stream."""
        return 1 - (-self._last // self.stride)
