"""Processors of next-token logits.

KerasHub is not imported here: its import takes seconds, and many commands draw no tokens.

Shapes: b rows, L columns of tokens, v vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from keras import ops

from functional_models.checks import check_count, check_real

NEVER = -1e9  # a float32 logit with probability 0; finite, to avoid NaN

Tensor = Any
Processor = Callable[[Tensor, Tensor, Tensor], Tensor]


class RepetitionPenalty:
    """Makes tokens that occur in the row less likely.

    With penalty θ, a positive logit x becomes x / θ, a negative one x * θ. (Keskar et al. 2019,
    "CTRL", section 4.1, divide every logit, which would make tokens with negative logits more
    likely.) Tokens of the prompt count too. θ below 1 makes repetition more likely.

    Args:
        penalty: θ, above 0; 1 has no effect.

    Raises:
        ValueError: the penalty is not allowed.
    """

    def __init__(self, penalty: float) -> None:
        check_real("repetition_penalty", penalty)
        self.penalty = penalty

    def __repr__(self) -> str:
        return f"RepetitionPenalty({self.penalty})"

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v) for column `index`.

        Args:
            logits: float32 (b, v).
            tokens: int (b, L); -1 is not a token, and columns from `index` on are ignored.
            index: int ().
        """
        seen = _occurring(tokens, index, logits.shape[-1])
        return ops.where(seen, penalised(logits, self.penalty), logits)


class NoRepeatNgrams:
    """Never generates a sequence of n tokens that occurs in the row, the prompt included.

    Paulus et al. 2017, "A Deep Reinforced Model for Abstractive Summarization", section 2.5.

    Args:
        size: n, at least 1.

    Raises:
        ValueError: n is not allowed.
    """

    def __init__(self, size: int) -> None:
        check_count("no_repeat_ngram_size", size)
        self.size = size

    def __repr__(self) -> str:
        return f"NoRepeatNgrams({self.size})"

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v) for column `index`, -1e9 for tokens that would repeat n tokens.

        Args:
            logits: float32 (b, v).
            tokens: int (b, L); -1 is not a token, and columns from `index` on are ignored.
            index: int ().
        """
        if tokens.shape[1] < self.size:
            return logits
        found = ngrams(ops.cast(tokens, "int32"), self.size)
        last = ops.arange(found.shape[1], dtype="int32") + self.size  # the column after each
        return without_repeats(logits, tokens, index, found, (last <= index)[None])


class TopK:
    """Drops all but the k likeliest tokens; tokens as likely as the k-th are kept.

    Fan et al. 2018, "Hierarchical Neural Story Generation".

    Args:
        k: at least 1; above the vocabulary size, nothing is dropped.

    Raises:
        ValueError: k is not allowed.
    """

    def __init__(self, k: int) -> None:
        check_count("k", k)
        self.k = k

    def __repr__(self) -> str:
        return f"TopK({self.k})"

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v), -1e9 for dropped tokens; `tokens` and `index` are not used."""
        greatest, _ = ops.top_k(logits, min(self.k, logits.shape[-1]))
        # Not the last column, of which XLA makes a sort of all logits.
        least = ops.min(greatest, axis=-1, keepdims=True)
        return ops.where(logits >= least, logits, NEVER)


class _Cut:
    """Drops tokens of low probability.

    Probabilities are those after temperature, as in Hugging Face Transformers.

    Args:
        p: what the probabilities are compared with.
        temperature: temperature of the sampler.

    Raises:
        ValueError: a value is not allowed.
    """

    option: ClassVar[str]

    def __init__(self, p: float, *, temperature: float = 1.0) -> None:
        check_real(self.option, p)
        check_real("temperature", temperature)
        self.p = p
        self.temperature = temperature

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.p}, temperature={self.temperature})"


class TopP(_Cut):
    """Drops the least likely tokens, as long as their total probability is at most 1 - p.

    Holtzman et al. 2019, "The Curious Case of Neural Text Degeneration". Of equally likely tokens,
    those with smaller ids are dropped first; in Hugging Face Transformers, any. p is above 0 and at
    most 1; 1 drops nothing.
    """

    option = "p"

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v), -1e9 for dropped tokens; `tokens` and `index` are not used."""
        if self.p == 1:
            return logits
        ascending = ops.sort(logits, axis=-1)
        total = ops.cumsum(ops.softmax(ascending / self.temperature, axis=-1), axis=-1)
        dropped = _count(total <= 1 - self.p)  # (b, 1)
        dropped = ops.minimum(dropped, logits.shape[-1] - 1)
        least = ops.take_along_axis(ascending, dropped, axis=-1)  # logit of the last token kept
        is_least = ops.equal(logits, least)
        number = ops.cumsum(ops.cast(is_least, "int32"), axis=-1)  # of equal logits, from 1
        kept = ops.logical_and(is_least, number > dropped - _count(logits < least))
        return ops.where(ops.logical_or(logits > least, kept), logits, NEVER)


class MinP(_Cut):
    """Drops tokens whose probability is below p times that of the likeliest token.

    Nguyen et al. 2024, "Turning Up the Heat: Min-p Sampling". A higher temperature keeps more
    tokens. p is at least 0 and below 1; 0 drops nothing.
    """

    option = "min_p"

    def __call__(self, logits: Tensor, tokens: Tensor, index: Tensor) -> Tensor:
        """Return logits (b, v), -1e9 for dropped tokens; `tokens` and `index` are not used."""
        probabilities = ops.softmax(logits / self.temperature, axis=-1)
        least = self.p * ops.max(probabilities, axis=-1, keepdims=True)
        return ops.where(probabilities >= least, logits, NEVER)


def only_end(logits: Tensor, where: Tensor, end_id: int) -> Tensor:
    """Return logits (b, v) with the end token as the only possible one in the rows `where` (b,)."""
    is_end = ops.arange(logits.shape[-1], dtype="int32") == end_id
    return ops.where(where[:, None], ops.where(is_end, 0.0, NEVER)[None], logits)


def _count(flags: Tensor) -> Tensor:
    """Return int32 (b, 1): the number of true flags (b, v)."""
    return ops.sum(ops.cast(flags, "int32"), axis=-1, keepdims=True)


def penalised(logits: Tensor, penalty: float) -> Tensor:
    """Return logits that are lower, if the penalty is above 1: x / θ or, if negative, x * θ."""
    return ops.where(logits > 0, logits / penalty, logits * penalty)


def ngrams(tokens: Tensor, size: int) -> Tensor:
    """Return the sequences of n tokens in each row: int (b, L) -> (b, L - n + 1, n)."""
    number = tokens.shape[1] - size + 1
    return ops.stack([tokens[:, k : k + number] for k in range(size)], axis=-1)


def without_repeats(
    logits: Tensor, tokens: Tensor, index: Tensor, found: Tensor, there: Tensor | None = None
) -> Tensor:
    """Return logits (b, v), -1e9 for tokens that would complete one of some sequences.

    Args:
        logits: float32 (b, v).
        tokens: int (b, L), with the tokens before column `index`.
        index: int ().
        found: int (b, m, n), the sequences.
        there: bool, broadcast to (b, m), which of them are meant; by default all.
    """
    size = found.shape[-1]
    repeats = ops.broadcast_to(index >= size - 1, ops.shape(found)[:2])
    for k in range(size - 1):  # the tokens before the one to choose, the last but k first
        column = ops.maximum(index - 1 - k, 0)
        before = ops.cast(ops.take(tokens, column, axis=1), "int32")[:, None]
        repeats = ops.logical_and(repeats, ops.equal(found[..., size - 2 - k], before))
    if there is not None:
        repeats = ops.logical_and(repeats, there)
    last = found[..., -1]
    banned = marked(last, ops.logical_and(repeats, last >= 0), logits.shape[-1])
    return ops.where(banned, NEVER, logits)


def _occurring(tokens: Tensor, index: Tensor, vocabulary_size: int) -> Tensor:
    """Return bool (b, v): whether a token occurs in the row before column `index`."""
    tokens = ops.cast(tokens, "int32")
    columns = ops.arange(ops.shape(tokens)[1], dtype="int32")
    return marked(tokens, ops.logical_and(columns < index, tokens >= 0), vocabulary_size)


def marked(tokens: Tensor, there: Tensor, vocabulary_size: int) -> Tensor:
    """Return bool (b, v): which tokens are among those of int (b, m) that are `there` (b, m)."""
    rows, columns = ops.shape(tokens)
    # Ignored tokens mark an extra column, which is dropped. Scattering needs (b, v) elements;
    # comparing all tokens with the vocabulary would need (b, m, v).
    found = ops.where(there, tokens, vocabulary_size)
    row = ops.broadcast_to(ops.arange(rows, dtype="int32")[:, None], (rows, columns))
    places = ops.reshape(ops.stack([row, found], axis=-1), (-1, 2))  # (b * m, 2)
    marks = ops.scatter_update(
        ops.zeros((rows, vocabulary_size + 1), "int32"),
        places,
        ops.ones((rows * columns,), "int32"),
    )
    return marks[:, :vocabulary_size] > 0
