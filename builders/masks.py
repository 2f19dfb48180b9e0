"""Attention masks as nodes of the graph: boolean, `True` where a query may look.

Nothing here relies on the implicit masks of Keras, which travel beside the tensors unseen.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import KerasTensor, ops

from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class PaddingMask(keras.layers.Layer):
    """Keys that are no padding: tokens (b, s) -> bool (b, 1, s)."""

    def __init__(self, pad_token_id: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id

    def call(self, tokens: Tensor) -> Tensor:
        return ops.not_equal(tokens, self.pad_token_id)[:, None, :]

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        return KerasTensor((tokens.shape[0], 1, tokens.shape[1]), dtype="bool")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pad_token_id": self.pad_token_id}


@keras.saving.register_keras_serializable(package="builders")
class CausalMask(keras.layers.Layer):
    """Keys that are not in the future of the query: tokens (b, t) -> bool (1, t, t)."""

    def call(self, tokens: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(tokens)[1])
        return ops.greater_equal(positions[:, None], positions[None, :])[None]

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        return KerasTensor((1, tokens.shape[1], tokens.shape[1]), dtype="bool")


@keras.saving.register_keras_serializable(package="builders")
class BothMasks(keras.layers.Layer):
    """Where both masks allow: bool (1, t, s), bool (b, 1, s) -> bool (b, t, s)."""

    def call(self, first: Tensor, second: Tensor) -> Tensor:
        return ops.logical_and(first, second)

    def compute_output_spec(self, first: KerasTensor, second: KerasTensor) -> KerasTensor:
        shape = (second.shape[0], first.shape[1], second.shape[2])
        return KerasTensor(shape, dtype="bool")


def padding_mask(scope: LayerScope, spec: TransformerSpec, tokens: Tensor) -> Tensor | None:
    """Wire the padding mask of tokens (b, s) as bool (b, 1, s), if any token is padding."""
    if spec.pad_token_id is None:
        return None
    return scope.layer("padding_mask", PaddingMask, spec.pad_token_id)(tokens)


def causal_mask(scope: LayerScope, spec: TransformerSpec, tokens: Tensor) -> Tensor:
    """Wire what a decoder's tokens (b, t) may look at, as bool (1 or b, t, t)."""
    causal = scope.layer("causal_mask", CausalMask)(tokens)
    padding = padding_mask(scope, spec, tokens)
    if padding is None:
        return causal
    return scope.layer("attention_mask", BothMasks)(causal, padding)
