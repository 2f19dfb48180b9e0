"""Prompts as an array, with columns for new tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NO_TOKEN = -1
"""Padding before the first token of a row."""


def bucket(length: int) -> int:
    """Round a length up to a multiple of 16, or of about a tenth of a longer length."""
    step = max(16, 2 ** (length.bit_length() - 4))
    return -(-length // step) * step


class PromptBatch:
    """Prompts as an array, padded on the left, with columns for new tokens.

    Attributes:
        tokens: int (b, L); `NO_TOKEN` before a row's start.
        start: int (b,), the column of each row's first token.
        index: first column after the prompts.
        limits: int (b,), the first column after the maximum length of each row.
    """

    def __init__(
        self,
        prompts: Sequence[np.ndarray],
        limits: np.ndarray,
        max_length: int,
        columns_to_spare: int = 0,
    ) -> None:
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        longest = int(lengths.max())
        # The tokens read in one pass fill a bucket, or the maximum length.
        self.index = min(bucket(longest - 1) + 1, max(max_length, longest))
        self.start = np.asarray(self.index - lengths, "int32")
        self.limits = np.asarray(self.index + limits, "int32")
        # The last token is never read, so that the cache has one slot less.
        columns = bucket(int(self.limits.max()) - 1 + columns_to_spare) + 1
        self.tokens = np.full((len(prompts), columns), NO_TOKEN, "int32")
        for row, prompt in enumerate(prompts):
            self.tokens[row, self.start[row] : self.index] = prompt

    def new_tokens(self, row: int, tokens: np.ndarray, ends: Sequence[int]) -> np.ndarray:
        """Return the new tokens of a row, up to its end or its limit."""
        new = tokens[self.index : self.limits[row]]
        found = np.flatnonzero(np.isin(new, ends))
        return new[: found[0] + 1] if len(found) else new
