"""The graph of a training step: a model up to its features, and the loss by chunks of tokens."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops
from keras.src.backend.common.masking import get_keras_mask

from builders.fused import fused_kernels
from functional_models.cross_entropy import split_head, token_losses
from functional_models.losses import ExactMatch, TokenCount, TokenMean

Tensor = Any

LEAST_WORK = 5 * 10**9
"""Multiplications of a forward pass from which compiled kernels repay their compilation."""

LEAST_LOGITS = 10**6
"""The same for the loss, in logits of a batch."""


class TrainingGraph(keras.Model):
    """From {"inputs", "labels", "weights"} to the results of each token, float32 (b, t, 2 or 3).

    The results are those of `token_losses`. The loss, the weighted mean over the tokens, is added
    with `add_loss`. The logits of a batch are never in memory together, and the metrics need no
    pass of their own. The layers and the variables are those of the model.

    Args:
        model: a Functional or Sequential model from tokens to logits.
        wiring: the graph to run, of the layers of the model but with other inputs, such as that of
            `builders.build_packed`; by default the model.
        label_smoothing, z_loss: see `TokenCrossEntropy`.
        tokens: of a batch.
        exact_match: whether there are all three results.
    """

    history = None  # `fit` of Keras returns it; the callbacks see the model, which has the real one

    def __init__(
        self,
        model: keras.Model,
        wiring: keras.Model | None = None,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        tokens: int,
        exact_match: bool = False,
    ) -> None:
        super().__init__(dtype="float32")  # weights are not rounded to the precision of the model
        graph = model if wiring is None else wiring
        features, self.head = split_head(graph)
        is_sequential = isinstance(graph, keras.Sequential)  # and may have no `input`
        self.body = keras.Model(graph.inputs if is_sequential else graph.input, features)
        self.head_layers = self.head.layers if self.head else []
        self.label_smoothing = label_smoothing
        self.z_loss = z_loss
        self.exact_match = exact_match
        self.fuses = tokens * model.count_params() >= LEAST_WORK
        self.fuses_loss = tokens * model.outputs[0].shape[-1] >= LEAST_LOGITS
        # In the order of the model, which is that of the optimizer's state.
        self._of_model = [[*model.variables], [*model.weights]]

    @property
    def variables(self) -> list[keras.Variable]:
        return list(self._of_model[0])

    @property
    def weights(self) -> list[keras.Variable]:
        return list(self._of_model[1])

    def call(self, batch: dict[str, Any], training: bool | None = None) -> Tensor:
        labels, weights = batch["labels"], batch["weights"]
        total = ops.max(batch["total"]) if "total" in batch else None
        with fused_kernels(self.fuses):
            features = self.body(batch["inputs"], training=training)
        mask = get_keras_mask(features)
        for layer in reversed(self.head_layers):
            mask = layer.compute_mask(features, mask) if layer.supports_masking else None
        if mask is not None:  # of the logits, as in every loss of Keras
            weights = weights * ops.cast(mask, weights.dtype)
            total = None  # which does not know of the mask: the mean over the part
        with fused_kernels(self.fuses_loss):
            loss, results = token_losses(
                ops.reshape(features, (-1, features.shape[-1])),
                ops.reshape(labels, (-1,)),
                ops.reshape(weights, (-1,)),
                self.head,
                label_smoothing=self.label_smoothing,
                z_loss=self.z_loss,
                total=total,
                needs_gradient=bool(training),
                finds_first=self.exact_match,
            )
        self.add_loss(loss)
        return ops.reshape(ops.stack(results, axis=-1), (*ops.shape(labels), len(results)))


class ResultMean(TokenMean):
    """Mean of one of the results of a `TrainingGraph` over all tokens of all batches."""

    def __init__(self, name: str, index: int) -> None:
        super().__init__(name)
        self.index = index

    def values(self, labels: Tensor, results: Tensor) -> Tensor:
        return results[..., self.index]


class ResultMatch(ExactMatch):
    """`ExactMatch` of the results of a `TrainingGraph`."""

    def is_right(self, labels: Tensor, results: Tensor) -> Tensor:
        return results[..., 2] > 0


def result_metrics(*, exact_match: bool = False) -> list[keras.metrics.Metric]:
    """Return the metrics of `token_metrics`, by the same names, for a `TrainingGraph`."""
    means = [ResultMean("cross_entropy", 0), ResultMean("token_accuracy", 1)]
    return [*means, TokenCount(), *([ResultMatch()] if exact_match else [])]
