"""Masked language modelling: the tokens to predict, and batches of a stream of tokens.

Devlin et al. 2019 (BERT), section 3.1 and appendix A.1; Liu et al. 2019 (RoBERTa), sections 4.1
(dynamic masking) and 4.2 (rows filled with contiguous text, FULL-SENTENCES).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from functional_models.batches import Batch, TokenBatches
from functional_models.checks import check_count
from functional_models.objectives.checks import check_number
from functional_models.objectives.rows import EVALUATION_SEED, StepBatches, around
from functional_models.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class MaskedLM:
    """The objective of BERT: predict tokens that are chosen at random from all others of a row.

    A chosen token is replaced by the mask, by a random token, or by itself. The choice is another
    one in each step, also for the same text (RoBERTa, section 4.1).

    Attributes:
        mask_rate: probability that a token, or a word, is chosen.
        mask_share: probability that a chosen token is replaced by the mask.
        random_share: probability that it is replaced by a random token, any but special ones.
        whole_words: choose all tokens of a word or none of them (the authors' code of BERT, "Whole
            Word Masking"). A word ends before white space; for `word_piece`, where a piece without
            `##` begins.

    Raises:
        ValueError: a value is not allowed; the error names the field and the allowed values.
    """

    mask_rate: float = 0.15
    mask_share: float = 0.8
    random_share: float = 0.1
    whole_words: bool = False

    def __post_init__(self) -> None:
        allowed = "above 0 and below 1: of what is not chosen nothing is predicted, and what is "
        allowed += "chosen is predicted from the rest"
        check_number("mask_rate", self.mask_rate, lambda rate: 0 < rate < 1, allowed)
        for name in ("mask_share", "random_share"):
            check_number(name, getattr(self, name), lambda share: 0 <= share <= 1, "0 to 1")
        if self.mask_share + self.random_share > 1 + 1e-9:
            raise ValueError(
                f"mask_share={self.mask_share!r} and random_share={self.random_share!r}: must add "
                "up to at most 1; the rest of the chosen tokens stay as they are"
            )
        if not isinstance(self.whole_words, bool):
            raise ValueError(f"whole_words={self.whole_words!r}: must be True or False")


class Masker:
    """Replaces tokens for `MaskedLM`.

    Args:
        objective: what is masked.
        tokenizer: the tokenizer of the text. Its special tokens are neither chosen nor put in.

    Raises:
        ValueError: the tokenizer has no mask token.
    """

    def __init__(self, objective: MaskedLM, tokenizer: Tokenizer) -> None:
        if tokenizer.mask_id is None:
            raise ValueError(
                f"{tokenizer!r} has no mask token, which masked language modelling needs; train "
                "one with train_tokenizer(..., mask=True), or use a byte tokenizer, which has one"
            )
        self.objective = objective
        self.tokenizer = tokenizer
        self._mask_id = tokenizer.mask_id
        self._is_text = np.ones(tokenizer.vocabulary_size, bool)
        self._is_text[sorted(tokenizer.special_ids)] = False
        self._text_ids = np.flatnonzero(self._is_text).astype("int32")
        self._word_starts = tokenizer.word_starts if objective.whole_words else None

    def __call__(
        self, tokens: np.ndarray, random: np.random.Generator
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return tokens, int (b, t), with some of them replaced, and which ones to predict.

        Returns:
            inputs int32 (b, t), and what was chosen, bool (b, t).
        """
        objective, shape = self.objective, tokens.shape
        is_text = self._is_text[tokens]
        draws = random.random(shape)
        if self._word_starts is not None:  # the first token of a word draws for all of it
            draws = np.take_along_axis(draws, self._first_of_word(tokens, is_text), axis=1)
        chosen = is_text & (draws < objective.mask_rate)
        action = random.random(shape)
        others = self._text_ids[random.integers(len(self._text_ids), size=shape)]
        is_masked = chosen & (action < objective.mask_share)
        is_random = chosen & ~is_masked
        is_random &= action < objective.mask_share + objective.random_share
        inputs = np.where(is_masked, self._mask_id, np.where(is_random, others, tokens))
        return inputs.astype("int32"), chosen

    def _first_of_word(self, tokens: np.ndarray, is_text: np.ndarray) -> np.ndarray:
        """Return the place of the first token of the word of each token, int (b, t)."""
        assert self._word_starts is not None
        begins = self._word_starts[tokens] | ~is_text
        begins[:, 1:] |= ~is_text[:, :-1]
        places = np.where(begins, np.arange(tokens.shape[1]), 0)
        return np.maximum.accumulate(places, axis=1)


class MaskedBatches(StepBatches):
    """Rows of a stream of tokens between start and end token, for `MaskedLM`.

    Each epoch splits the stream as `TokenBatches` does. The first token of the stream is not used.

    Args:
        tokens: int (N,); may be memory-mapped.
        masker: masks them; its tokenizer is that of the tokens.
        block: tokens per row, `t`, with start and end.
        batch_size: rows per batch, `b`.
        seed: seed of the order and of the masks.
        with_segments: whether inputs are {"tokens", "segments"}, all in segment 0.
        what: description of the stream, for errors.

    Raises:
        ValueError: the stream is shorter than a row, or `block` has no room for text.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        masker: Masker,
        *,
        block: int,
        batch_size: int,
        seed: int = 0,
        with_segments: bool = False,
        what: str = "corpus",
    ) -> None:
        super().__init__(batch_size, seed)
        tokenizer = masker.tokenizer
        self._before, self._after = tokenizer.target_start, [tokenizer.end_id]
        special = len(self._before) + len(self._after)
        check_count("block", block, least=special + 1)
        self._stream = TokenBatches(
            tokens, block=block - special, batch_size=batch_size, seed=seed, what=what
        )
        self._masker = masker
        self._with_segments = with_segments
        self.longest = block

    @property
    def steps_per_epoch(self) -> int:
        return self._stream.steps_per_epoch

    def eval_batch(self, index: int) -> Batch:
        """Return rows of the stream in order, with the same masks for every seed."""
        return self._masked(self._stream.eval_batch(index), EVALUATION_SEED, index)

    @property
    def num_eval_batches(self) -> int:
        return self._stream.num_eval_batches

    def _rows(self, plan: int) -> Batch:
        return self._masked(self._stream.batch(plan), self.seed, plan)

    def _masked(self, batch: Batch, seed: int, step: int) -> Batch:
        _, tokens, counts = batch  # the labels, each token of the stream but the first
        labels = around(self._before, tokens, self._after)
        inputs, chosen = self._masker(labels, np.random.default_rng((seed, step)))
        weights = chosen.astype("float32")
        weights[:, len(self._before) : -len(self._after)] *= counts
        if self._with_segments:
            return {"tokens": inputs, "segments": np.zeros_like(inputs)}, labels, weights
        return inputs, labels, weights

    def fingerprint(self) -> str:
        """Return a hash of the stream and what is masked."""
        return f"{self._stream.fingerprint()}-{self._masker.objective!r}"
