"""Prompts as an array, in sizes that few compiled programs are needed for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from builders import TransformerSpec

NO_TOKEN = -1
"""Padding before the first token of a row."""


def bucket(length: int, borders: Iterable[int] = ()) -> int:
    """Round a length up to a multiple of 16, or of about a tenth of a longer length.

    Args:
        length: in tokens.
        borders: lengths above which a model computes something else. A length that is not above one
            is not rounded to more.
    """
    step = max(16, 2 ** (length.bit_length() - 4))
    return min([-(-length // step) * step, *(border for border in borders if length <= border)])


class Prompts:
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
        spec: TransformerSpec,
        columns_to_spare: int = 0,
    ) -> None:
        lengths = np.array([len(prompt) for prompt in prompts], "int32")
        longest, borders = int(lengths.max()), spec.length_borders
        # The tokens read in one pass fill a bucket, or the maximum length.
        self.index = min(bucket(longest - 1) + 1, max(spec.max_sequence_length, longest))
        for border in borders:  # which padding must not cross if the tokens do not
            last = border + 1 - columns_to_spare - int(np.max(limits))
            self.index = min(self.index, last) if last >= longest else self.index
        self.start = np.asarray(self.index - lengths, "int32")
        self.limits = np.asarray(self.index + limits, "int32")
        # The last token is never read, so that the cache has one slot less.
        columns = bucket(int(self.limits.max()) - 1 + columns_to_spare, borders) + 1
        self.tokens = np.full((len(prompts), columns), NO_TOKEN, "int32")
        for row, prompt in enumerate(prompts):
            self.tokens[row, self.start[row] : self.index] = prompt

    def new_tokens(self, row: int, tokens: np.ndarray, ends: Sequence[int]) -> np.ndarray:
        """Return the new tokens of a row, up to its end or its limit."""
        new = tokens[self.index : self.limits[row]]
        found = np.flatnonzero(np.isin(new, ends))
        return new[: found[0] + 1] if len(found) else new


def model_inputs(
    spec: TransformerSpec, tokens: np.ndarray, prompt_length: int, source: np.ndarray | None
) -> Any:
    """Return the inputs of a model for one row of tokens, in its order.

    Args:
        spec: of the model.
        tokens: int (1, t), what its decoder reads.
        prompt_length: tokens of the prompt at the start of the row, a prefix where there is one.
        source: int (1, s), for an encoder-decoder.
    """
    if source is not None:
        return {"source": source, "target": tokens}
    if spec.prefix_lm:
        return {"tokens": tokens, "prefix_length": np.array([prompt_length], "int32")}
    return tokens
