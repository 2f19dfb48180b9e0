"""Loss and metrics of next-token prediction, weighted by token.

Labels are int (b, t), logits (b, t, v), weights (b, t): 0 for padding and 1 for all other tokens.
Metrics are means over tokens, not over batches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import keras
from keras import ops

Tensor = Any


@keras.saving.register_keras_serializable(package="functional_models")
class TokenCrossEntropy(keras.losses.Loss):
    """Mean cross-entropy in nats over the tokens of a batch with nonzero weight.

    With label smoothing e, the target distribution is 1 - e for the label plus e spread over the
    whole vocabulary (Szegedy et al. 2016, section 7; "Attention Is All You Need", 5.4). The z-loss
    adds z log(sum(exp(logits)))^2 (Chowdhery et al. 2022, section 5).

    Raises:
        ValueError: `label_smoothing` is not in [0, 1), or `z_loss` is below 0.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        name: str = "token_cross_entropy",
        **kwargs: Any,
    ) -> None:
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing={label_smoothing!r}: must be in [0, 1)")
        if not z_loss >= 0:
            raise ValueError(f"z_loss={z_loss!r}: must be 0 or more")
        super().__init__(name=name, reduction="mean_with_sample_weight", **kwargs)
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss

    def call(self, y_true: Tensor, y_pred: Tensor) -> Tensor:
        """Return the cross-entropy of each token, (b, t)."""
        logits = ops.cast(y_pred, "float32")
        loss = ops.sparse_categorical_crossentropy(y_true, logits, from_logits=True)
        if self.label_smoothing:
            # The mean of -log p over the vocabulary, without a smoothed target (b, t, v).
            spread = ops.logsumexp(logits, axis=-1) - ops.mean(logits, axis=-1)
            loss = (1 - self.label_smoothing) * loss + self.label_smoothing * spread
        if self.z_loss:
            loss = loss + self.z_loss * ops.square(ops.logsumexp(logits, axis=-1))
        return loss

    def __repr__(self) -> str:
        return f"TokenCrossEntropy(label_smoothing={self.label_smoothing}, z_loss={self.z_loss})"

    def get_config(self) -> dict[str, Any]:
        return {
            "label_smoothing": self.label_smoothing,
            "z_loss": self.z_loss,
            "name": self.name,
            "dtype": self.dtype,
        }


class TokenMean(keras.metrics.Mean, ABC):
    """Weighted mean of a value over all tokens of all batches.

    Keras metrics average each sequence before they add up, so tokens of shorter batches would weigh
    more.
    """

    default_name: ClassVar[str]

    def __init__(self, name: str | None = None, **kwargs: Any) -> None:
        super().__init__(name=name or self.default_name, **kwargs)

    @abstractmethod
    def values(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return the value of each token, (b, t)."""

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        weights = None if sample_weight is None else ops.reshape(sample_weight, (-1,))
        super().update_state(ops.reshape(self.values(y_true, y_pred), (-1,)), weights)


@keras.saving.register_keras_serializable(package="functional_models")
class CrossEntropy(TokenMean):
    """Mean cross-entropy in nats, without label smoothing."""

    default_name = "cross_entropy"

    def values(self, labels: Tensor, logits: Tensor) -> Tensor:
        # Not the fused operation of the loss, which also computes a gradient (b, t, v).
        logits = ops.cast(logits, "float32")
        labels = ops.cast(labels, "int32")[..., None]
        chosen = ops.take_along_axis(logits, labels, axis=-1)[..., 0]
        return ops.logsumexp(logits, axis=-1) - chosen


@keras.saving.register_keras_serializable(package="functional_models")
class Perplexity(CrossEntropy):
    """Exponential of the mean cross-entropy per token."""

    default_name = "perplexity"

    def result(self) -> Tensor:
        return ops.exp(super().result())


@keras.saving.register_keras_serializable(package="functional_models")
class TokenAccuracy(TokenMean):
    """Share of labels that have the highest logit, alone or with others."""

    default_name = "token_accuracy"

    def values(self, labels: Tensor, logits: Tensor) -> Tensor:
        chosen = ops.take_along_axis(logits, ops.cast(labels, "int32")[..., None], axis=-1)
        return ops.cast(chosen[..., 0] >= ops.max(logits, axis=-1), self.dtype)


@keras.saving.register_keras_serializable(package="functional_models")
class ExactMatch(keras.metrics.Metric):
    """Share of sequences in which every label with nonzero weight has the highest logit.

    With teacher forcing this is exactly the share of sequences that greedy decoding reproduces: up
    to its first mistake, greedy decoding reads the reference. Rows without weight do not count.
    """

    def __init__(self, name: str = "exact_match", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.correct = self.add_variable((), "zeros", name="correct")
        self.rows = self.add_variable((), "zeros", name="rows")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        counts = ops.ones_like(y_true) if sample_weight is None else sample_weight
        counts = ops.not_equal(counts, 0)
        wrong = ops.logical_and(counts, ops.logical_not(self.is_right(y_true, y_pred)))
        rows = ops.any(counts, axis=-1)
        correct = ops.logical_and(rows, ops.logical_not(ops.any(wrong, axis=-1)))
        self.correct.assign_add(ops.sum(ops.cast(correct, self.dtype)))
        self.rows.assign_add(ops.sum(ops.cast(rows, self.dtype)))

    def is_right(self, labels: Tensor, logits: Tensor) -> Tensor:
        """Return whether `argmax` of the logits is the label, bool (b, t)."""
        return ops.equal(ops.argmax(logits, axis=-1), labels)

    def result(self) -> Tensor:
        return self.correct / ops.maximum(self.rows, 1)


@keras.saving.register_keras_serializable(package="functional_models")
class TokenCount(keras.metrics.Metric):
    """Number of tokens with nonzero weight since the last reset."""

    def __init__(self, name: str = "tokens", **kwargs: Any) -> None:
        super().__init__(name=name, **kwargs)
        self.total = self.add_variable((), "zeros", name="total")

    def update_state(self, y_true: Tensor, y_pred: Tensor, sample_weight: Tensor = None) -> None:
        counts = ops.ones_like(y_true) if sample_weight is None else sample_weight
        self.total.assign_add(ops.sum(ops.cast(ops.not_equal(counts, 0), self.dtype)))

    def result(self) -> Tensor:
        return ops.convert_to_tensor(self.total)


def token_metrics(*, exact_match: bool = False) -> list[keras.metrics.Metric]:
    """Return new metrics for `weighted_metrics`: cross_entropy, token_accuracy, tokens, ..."""
    metrics: list[keras.metrics.Metric] = [CrossEntropy(), TokenAccuracy(), TokenCount()]
    return [*metrics, ExactMatch()] if exact_match else metrics
