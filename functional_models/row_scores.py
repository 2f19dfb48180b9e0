"""Log-probabilities that a language model gives to continuations, in batches.

Shapes: b rows, t tokens of a row, v vocabulary.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from keras import ops

import builders
from functional_models.compiled import Weights, compiled, to_numpy
from functional_models.prompts import bucket

T = TypeVar("T")
Tensor = Any


@dataclass(frozen=True)
class Row:
    """Tokens that the model reads to score a continuation: all but the last one of both.

    Attributes:
        tokens: of the context, as far as it fits, and of the continuation without its last.
        prefix: tokens of the context, for a model with `prefix_lm`; otherwise 0.
    """

    tokens: tuple[int, ...]
    prefix: int = 0


@dataclass(frozen=True)
class RowScores:
    """What the model predicts after each token of a row.

    Attributes:
        found: log-probabilities of the tokens of the row but the first, float32 (t - 1,).
        likeliest: the likeliest token after each, int (t,).
        last: log-probabilities of all tokens after the last one, float32 (v,).
    """

    found: np.ndarray
    likeliest: np.ndarray
    last: np.ndarray

    def of(self, continuation: Sequence[int]) -> tuple[float, bool]:
        """Return the log-likelihood of the last tokens, and whether greedy search finds them."""
        first = len(self.likeliest) - len(continuation)
        total = self.found[first:].sum(dtype="float64") + self.last[continuation[-1]]
        return float(total), self.likeliest[first:].tolist() == list(continuation)


class RowScorer:
    """Computes the scores of rows with a model.

    Args:
        model: a model of `spec`.
        spec: a spec of kind `decoder_only`.
    """

    def __init__(self, model: Any, spec: builders.TransformerSpec) -> None:
        self._model = model
        self._spec = spec
        self._weights = Weights(model, model)
        self._score = compiled(self._scored)
        self._variables = [id(variable) for variable in model.variables]

    @property
    def is_current(self) -> bool:
        """Whether the model has the same variables as before; LoRA adds and removes some."""
        return self._variables == [id(variable) for variable in self._model.variables]

    def __call__(self, rows: Sequence[Row], size: int) -> list[RowScores]:
        """Return the scores of at most `size` rows, computed as an array of `size` rows."""
        lengths = np.array([len(row.tokens) for row in rows], "int32")
        columns = bucket(int(max(lengths)), self._spec.length_borders)
        columns = min(columns, self._spec.max_sequence_length)
        tokens = np.zeros((len(rows), columns), "int32")  # padded on the right, where none attends
        for i, row in enumerate(rows):
            tokens[i, : lengths[i]] = row.tokens
        places = np.arange(size) % len(rows)
        inputs: Any = tokens[places]
        if self._spec.prefix_lm:
            prefixes = np.array([row.prefix for row in rows], "int32")
            inputs = {"tokens": inputs, "prefix_length": prefixes[places]}
        following = np.pad(tokens[:, 1:], ((0, 0), (0, 1)))[places]
        ends = lengths[places] - 1
        arrays = map(to_numpy, self._score(self._weights.values(), inputs, following, ends))
        return [
            RowScores(found[: n - 1], likeliest[:n], last)
            for n, found, likeliest, last in zip(lengths, *arrays, strict=False)
        ]

    def _scored(
        self, weights: Any, inputs: Any, following: Tensor, ends: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the arrays of `RowScores` for a batch.

        Args:
            weights: the values of the weights.
            inputs: of the model, with int (b, t) tokens.
            following: int (b, t), the token after each.
            ends: int (b,), the place of each row's last token.
        """
        with self._weights.scope(weights):
            logits = ops.cast(self._model(inputs, training=False), "float32")
        # Log-probabilities near 0 would be rounded differences of large numbers otherwise.
        logits = logits - ops.max(logits, axis=-1, keepdims=True)
        totals = ops.logsumexp(logits, axis=-1)  # (b, t)
        found = ops.take_along_axis(logits, following[..., None], axis=-1)[..., 0] - totals
        last = ops.take_along_axis(logits, ends[:, None, None], axis=1)[:, 0]  # (b, v)
        last = last - ops.take_along_axis(totals, ends[:, None], axis=1)
        # The first of equal ones, as in greedy search; XLA's `argmax` is slow on CPUs.
        ids = ops.arange(logits.shape[-1], dtype="int32")
        likeliest = ops.min(ops.where(ops.equal(logits, 0), ids, logits.shape[-1]), axis=-1)
        return found, likeliest, last


def in_batches(
    items: Iterable[T], length: Callable[[T], int], size: int, borders: Iterable[int]
) -> Iterator[list[T]]:
    """Yield items in batches of at most `size`, the longest first.

    A batch is on one side of each border: of lengths above which a model computes something else.
    """

    def side(item: T) -> int:
        return sum(length(item) > border for border in borders)

    ordered = sorted(items, key=length, reverse=True)
    for _, group in itertools.groupby(ordered, side):
        same = list(group)
        for first in range(0, len(same), size):
            yield same[first : first + size]
