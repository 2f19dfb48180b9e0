"""Span corruption: an encoder-decoder restores spans of text that sentinels replace.

Raffel et al. 2020 (T5), section 3.1.4 and figure 2; the lengths of spans are drawn as in the
authors' code, `random_spans_noise_mask`. Mixtures: Tay et al. 2022 (UL2), section 3.1.

Shapes: b rows, n tokens of a row of text, k spans of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from functional_models.batches import Batch, TokenBatches, teacher_forcing
from functional_models.checks import check_count
from functional_models.objectives.checks import check_number
from functional_models.objectives.rows import EVALUATION_SEED, StepBatches, around
from functional_models.tokenizers import Tokenizer


@dataclass(frozen=True, kw_only=True)
class SpanCorruption:
    """The objective of T5: remove spans of a text, and write them one after the other.

    With sentinels <0>, <1>, ...: the source of "a b c d e f g" without "c d" and "g" is
    "a b <0> e f <1>", and the target "<0> c d <1> g" with the end token. A row of n tokens has
    round(n * noise_density) removed ones in round(removed / mean_span) spans. All ways to divide
    them are equally likely, and the last span ends the row.

    Attributes:
        noise_density: share of the tokens that are removed.
        mean_span: mean length of a span in tokens; `None`: a single span, which is then the end of
            the row, so that the model continues a text (the S-denoiser of UL2).
        prefix: text before each source, which tells the model its task.

    Raises:
        ValueError: a value is not allowed; the error names the field and the allowed values.
    """

    noise_density: float = 0.15
    mean_span: float | None = 3.0
    prefix: str = ""

    def __post_init__(self) -> None:
        allowed = "above 0 and below 1, so that some tokens are removed and some stay"
        check_number("noise_density", self.noise_density, lambda share: 0 < share < 1, allowed)
        if self.mean_span is not None:
            allowed = "1 or more, or None for a single span"
            check_number("mean_span", self.mean_span, lambda length: length >= 1, allowed)
        if not isinstance(self.prefix, str):
            raise ValueError(f"prefix={self.prefix!r}: must be a text")

    def sizes(self, length: int) -> tuple[int, int]:
        """Return the number of removed tokens and of spans of a row of `length` tokens, 2 or more.

        A token that stays is before each span.
        """
        removed = min(max(round(length * self.noise_density), 1), length - 1)
        spans = 1 if self.mean_span is None else max(round(removed / self.mean_span), 1)
        return removed, min(spans, length - removed)


def ul2() -> tuple[SpanCorruption, ...]:
    """Return the seven denoisers of UL2 (Tay et al. 2022, table 1), for `Translator.fit`.

    Two of regular spans, [R]; four of long or many spans, [X]; and one that continues a text, [S].
    """
    regular = [(3.0, 0.15), (8.0, 0.15)]
    extreme = [(3.0, 0.5), (8.0, 0.5), (64.0, 0.15), (64.0, 0.5)]
    return (
        *(SpanCorruption(mean_span=m, noise_density=r, prefix="[R] ") for m, r in regular),
        SpanCorruption(mean_span=None, noise_density=0.25, prefix="[S] "),
        *(SpanCorruption(mean_span=m, noise_density=r, prefix="[X] ") for m, r in extreme),
    )


def corrupt(
    tokens: np.ndarray,
    objective: SpanCorruption,
    sentinels: Sequence[int],
    random: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Remove spans of each row of text.

    Args:
        tokens: int (b, n).
        objective: which spans.
        sentinels: ids, at least k.
        random: of the lengths of the spans.

    Returns:
        Sources, int32 (b, n - removed + k), and targets, int32 (b, removed + k).
    """
    rows, length = tokens.shape
    removed, spans = objective.sizes(length)
    kept = _partitions(random, rows, length - removed, spans)
    gone = _partitions(random, rows, removed, spans)
    lengths = np.stack([kept, gone], axis=2).ravel()  # a part that stays, a span, ...
    is_noise = np.repeat(np.tile([False, True], rows * spans), lengths).reshape(rows, length)
    ids = np.asarray(sentinels, "int32")

    def replaced(mask: np.ndarray) -> np.ndarray:
        """Return the rows with a sentinel in the place of each run of the mask."""
        first = mask.copy()
        first[:, 1:] &= ~mask[:, :-1]
        number = np.maximum(np.cumsum(first, axis=1) - 1, 0)
        found = np.where(first, ids[number], tokens)
        return found[~mask | first].reshape(rows, -1).astype("int32")

    # The part that stays before a span is where the target has the span's sentinel.
    return replaced(is_noise), replaced(~is_noise)


def _partitions(random: np.random.Generator, rows: int, items: int, parts: int) -> np.ndarray:
    """Return lengths of parts that add up to `items`, int (rows, parts), all equally likely."""
    ends = np.broadcast_to(np.arange(items - 1) < parts - 1, (rows, items - 1))
    ends = random.permuted(ends, axis=1)  # whether a part ends after each item but the last
    part = np.concatenate([np.zeros((rows, 1), int), np.cumsum(ends, axis=1)], axis=1)
    flat = part + parts * np.arange(rows)[:, None]
    return np.bincount(flat.ravel(), minlength=rows * parts).reshape(rows, parts)


class SpanBatches(StepBatches):
    """Rows of a stream of tokens with removed spans, for one or several `SpanCorruption`s.

    A batch has one of them, so that its rows have the same lengths; each of several has one batch
    of as many, in an order that is drawn. All rows are as long as the model allows. Each epoch
    splits the stream as `TokenBatches` does.

    Args:
        tokens: int (N,); may be memory-mapped.
        tokenizer: the tokenizer of the tokens.
        objectives: which spans are removed.
        longest: most tokens of a source and of a target.
        batch_size: rows per batch, `b`.
        seed: seed of the order and of the spans.
        what: description of the stream, for errors.

    Raises:
        ValueError: the stream is shorter than a row, spans are longer than a row, or the tokenizer
            has fewer sentinels than a row has spans.
    """

    def __init__(
        self,
        tokens: np.ndarray,
        tokenizer: Tokenizer,
        objectives: Sequence[SpanCorruption],
        *,
        longest: int,
        batch_size: int,
        seed: int = 0,
        what: str = "corpus",
    ) -> None:
        super().__init__(batch_size, seed)
        self._tokenizer = tokenizer
        self._objectives = tuple(objectives)
        self._prefixes = [
            np.concatenate([tokenizer.input_start, ids]).astype("int32")
            for ids in tokenizer.encode([objective.prefix for objective in self._objectives])
        ]
        self._streams = []
        for objective, prefix in zip(self._objectives, self._prefixes, strict=True):
            length = self._text_length(objective, prefix, longest)
            if len(tokens) <= length:
                raise ValueError(
                    f"the {what} has {len(tokens)} tokens, and a row has {length} and is not the "
                    "first token; give more text, or a smaller block or max_sequence_length"
                )
            self._streams.append(
                TokenBatches(tokens, block=length, batch_size=batch_size, seed=seed, what=what)
            )
        self.longest = longest

    def _text_length(self, objective: SpanCorruption, prefix: np.ndarray, longest: int) -> int:
        """Return the most tokens of text whose source and target have at most `longest` tokens."""
        check_count("block", longest)
        tokenizer = self._tokenizer
        around_source = len(prefix) + len(tokenizer.source_end)
        for length in range(2 * longest, 1, -1):
            removed, spans = objective.sizes(length)
            # The first token of the target is read only, and the end token is written only.
            target = len(tokenizer.target_start) + removed + spans
            if around_source + length - removed + spans <= longest and target <= longest:
                break
        else:
            raise ValueError(
                f"block={longest}: no text fits into so few tokens with its sentinel, start and "
                "end; use a larger block or max_sequence_length"
            )
        if objective.mean_span is not None and objective.mean_span > length:
            raise ValueError(
                f"mean_span={objective.mean_span!r}: a row of text has {length} tokens, fewer than "
                "a span; use a smaller mean_span, or a larger block or max_sequence_length"
            )
        number = len(tokenizer.sentinel_ids)
        if spans > number:
            raise ValueError(
                f"{objective!r} removes {spans} spans of {length} tokens, and {tokenizer!r} has "
                f"{number} sentinels for them; train one with train_tokenizer(..., "
                f"sentinels={spans}), use a larger mean_span, or a smaller block"
            )
        return length

    @property
    def steps_per_epoch(self) -> int:
        return len(self._streams) * max(stream.steps_per_epoch for stream in self._streams)

    def _rows(self, plan: int) -> Batch:
        round_, place = divmod(plan, len(self._streams))
        order = np.random.default_rng((self.seed, round_, 1)).permutation(len(self._streams))
        which = int(order[place])
        return self._corrupted(self._streams[which].batch(round_), which, self.seed, plan)

    def eval_batch(self, index: int) -> Batch:
        """Return whole rows of text in order, all of them for one objective after the other.

        The spans are the same for every seed.
        """
        step = index
        for which, stream in enumerate(self._streams):
            if step < stream.num_eval_batches:
                return self._corrupted(stream.eval_batch(step), which, EVALUATION_SEED, step)
            step -= stream.num_eval_batches
        raise IndexError(f"there is no batch {index} of {self.num_eval_batches}")

    @property
    def num_eval_batches(self) -> int:
        return sum(stream.num_eval_batches for stream in self._streams)

    def _corrupted(self, batch: Batch, which: int, seed: int, step: int) -> Batch:
        _, tokens, counts = batch  # the labels, each token of the stream but the first
        random = np.random.default_rng((seed, step))
        tokenizer = self._tokenizer
        parts = corrupt(tokens, self._objectives[which], tokenizer.sentinel_ids, random)
        source = around(self._prefixes[which], parts[0], tokenizer.source_end)
        target = around(tokenizer.target_start, parts[1], [tokenizer.end_id])
        inputs, labels, weights = teacher_forcing(target, None)
        # A row that repeats text, at the end of an evaluation, does not count.
        weights *= counts.all(axis=1, keepdims=True)
        return {"source": source, "target": inputs}, labels, weights

    def fingerprint(self) -> str:
        """Return a hash of the streams and what is removed."""
        streams = [stream.fingerprint() for stream in self._streams]
        return f"{'-'.join(streams)}-{self.longest}-{self._objectives!r}"


def objectives_of(objectives: Any) -> tuple[SpanCorruption, ...]:
    """Return objectives as a tuple; a single one may be given alone.

    Raises:
        TypeError: something else.
    """
    found = (objectives,) if isinstance(objectives, SpanCorruption) else objectives
    is_list = isinstance(found, list | tuple) and bool(found)
    if not is_list or not all(isinstance(one, SpanCorruption) for one in found):
        raise TypeError(
            f"objective={objectives!r:.60}: must be a SpanCorruption or several, such as ul2()"
        )
    return tuple(found)
