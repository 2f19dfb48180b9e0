"""Prefix language modelling: rows of text are split into a prefix and the tokens to predict.

Raffel et al. 2020 (T5), section 3.2.3; Tay et al. 2022 (UL2), section 3.1.1, the S-denoiser.
"""

from __future__ import annotations

import numpy as np

from functional_models.batches import Batch, TokenBatches
from functional_models.objectives.rows import EVALUATION_SEED


class PrefixBatches(TokenBatches):
    """Blocks of a stream, each split at a random point, for a model with `prefix_lm`.

    The inputs are {"tokens": int (b, t), "prefix_length": int (b,)}. A prefix has 1 to t tokens,
    all numbers equally likely, and only the labels after it have weight. The splits are other ones
    in each step, also for the same text. Arguments are those of `TokenBatches`.
    """

    def batch(self, step: int) -> Batch:
        """Return the batch of a training step, counted from zero over all epochs."""
        return _split(super().batch(step), self.seed, step)

    def eval_batch(self, index: int) -> Batch:
        """Return rows of the stream in order, with the same splits for every seed."""
        return _split(super().eval_batch(index), EVALUATION_SEED, index)

    def fingerprint(self) -> str:
        return f"{super().fingerprint()}-prefix"


def _split(batch: Batch, seed: int, step: int) -> Batch:
    """Return a batch with the lengths of prefixes, and no weight for the labels in them."""
    tokens, labels, weights = batch
    rows, length = tokens.shape
    random = np.random.default_rng((seed, step))
    prefix_length = random.integers(1, length, rows, dtype="int32", endpoint=True)
    # The label of the last token of a prefix is the first one after it.
    is_target = np.arange(length)[None] >= prefix_length[:, None] - 1
    return {"tokens": tokens, "prefix_length": prefix_length}, labels, weights * is_target
