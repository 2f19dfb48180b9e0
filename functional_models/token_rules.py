"""Rules of the next token that depend on where a prompt ends, or on a source.

Shapes: b rows, L columns of tokens, s tokens of a source, v vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from functional_models.checks import check_count, check_real
from functional_models.logit_processors import NEVER, marked, ngrams, penalised, without_repeats

Tensor = Any


@dataclass(frozen=True)
class TokenRules:
    """Rules of the next token, as of `generate` of Hugging Face Transformers.

    Attributes:
        min_new_tokens: number of new tokens before which no end is generated; 0: none.
        encoder_no_repeat_ngram_size: n, where no n tokens that follow each other in the source do
            so in the target; 0: no such rule.
        encoder_repetition_penalty: θ, which makes tokens of the source more likely if above 1.

    Raises:
        ValueError: a value is not allowed.
    """

    min_new_tokens: int = 0
    encoder_no_repeat_ngram_size: int = 0
    encoder_repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_new_tokens", "encoder_no_repeat_ngram_size"):
            check_count(name, getattr(self, name), least=0)
        check_real("encoder_repetition_penalty", self.encoder_repetition_penalty)

    @property
    def of_source(self) -> dict[str, Any]:
        """The rules that need a source."""
        names = ("encoder_no_repeat_ngram_size", "encoder_repetition_penalty")
        given = {name: getattr(self, name) for name in names}
        return {name: value for name, value in given.items() if value != getattr(NO_RULES, name)}

    def arrays(self, first: np.ndarray, source: np.ndarray | None, pad: int | None) -> Any:
        """Return what the rules need in every step, each array with b rows.

        Args:
            first: int (b,), the first new column of each row.
            source: int (b, s).
            pad: the token of the source that is no token of the text.
        """
        found = {}
        if self.min_new_tokens:
            found["least"] = first + np.int32(self.min_new_tokens)
        if self.of_source and source is not None:
            found["source"] = np.where(source == pad, -1, source).astype("int32")
        return found

    def apply(
        self, logits: Tensor, tokens: Tensor, index: Tensor, arrays: Any, ends: Tensor
    ) -> Tensor:
        """Return logits (b, v) for column `index` of tokens (b, L), float32.

        Args:
            logits: float32 (b, v).
            tokens: int (b, L); -1 is not a token, and columns from `index` on are ignored.
            index: int ().
            arrays: the arrays of the batch.
            ends: int (e,), the tokens that end a sequence.
        """
        if "source" in arrays:
            logits = self._after_source(logits, tokens, index, arrays["source"])
        if "least" in arrays:
            ids = ops.arange(logits.shape[-1], dtype="int32")
            is_end = ops.any(ops.equal(ids[:, None], ends[None]), axis=-1)  # (v,)
            early = ops.less(index, arrays["least"])  # (b,)
            logits = ops.where(ops.logical_and(early[:, None], is_end[None]), NEVER, logits)
        return logits

    def _after_source(
        self, logits: Tensor, tokens: Tensor, index: Tensor, source: Tensor
    ) -> Tensor:
        if self.encoder_repetition_penalty != 1:
            there = marked(source, source >= 0, logits.shape[-1])
            likelier = penalised(logits, 1 / self.encoder_repetition_penalty)
            logits = ops.where(there, likelier, logits)
        size = self.encoder_no_repeat_ngram_size
        if size and size <= source.shape[1]:
            logits = without_repeats(logits, tokens, index, ngrams(source, size))
        return logits


NO_RULES = TokenRules()


def rules_of(sampler: Any) -> TokenRules:
    """Return the rules of a sampler; those of KerasHub have none."""
    found: TokenRules = getattr(sampler, "rules", NO_RULES)
    return found
