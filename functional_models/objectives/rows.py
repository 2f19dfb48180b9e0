"""What batches of several objectives share: steps as plans, and ids around each row."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import numpy as np

from functional_models.batches import Batch, Batches

Ids = Sequence[int] | np.ndarray

EVALUATION_SEED = 1 << 32
"""The seed of the draws of evaluation, above all seeds of runs, so that runs are comparable."""


class StepBatches(Batches):
    """Batches that are a function of the step alone, whatever the epoch."""

    def _plan_epoch(self, epoch: int) -> range:
        """Return the steps of an epoch."""
        return range(epoch * self.steps_per_epoch, (epoch + 1) * self.steps_per_epoch)

    @abstractmethod
    def _rows(self, plan: int) -> Batch:
        """Return the batch of a step."""


def around(before: Ids, rows: np.ndarray, after: Ids) -> np.ndarray:
    """Return rows, int (b, n), with the same ids before and after each, int32 (b, more)."""
    first, last = (np.tile(np.array(ids, "int32"), (len(rows), 1)) for ids in (before, after))
    return np.concatenate([first, rows, last], axis=1).astype("int32")
