"""Attention masks as nodes of the graph: boolean, `True` where a query attends to a key.

They do not rely on the implicit masks of Keras, which are not part of the graph.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class PaddingMask(keras.layers.Layer):
    """Mask of the keys that are not padding: tokens (b, s) -> bool (b, 1, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bs->b1s", "role": "padding_mask"}

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
    """Mask of the keys that are not after the query: tokens (b, t) -> bool (1, t, t).

    Args:
        window: number of keys, counted back from the query; `None`: all.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->1tt", "role": "causal_mask"}

    def __init__(self, window: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def call(self, tokens: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(tokens)[1])
        return is_visible(positions[None, :, None], positions[None, None, :], self.window)

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        return KerasTensor((1, tokens.shape[1], tokens.shape[1]), dtype="bool")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "window": self.window}


@keras.saving.register_keras_serializable(package="builders")
class WindowMask(keras.layers.Layer):
    """Mask of the keys near the query, on both sides: tokens (b, s) -> bool (1, s, s).

    Args:
        window: the distance from which on keys are masked.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->1tt"}

    def __init__(self, window: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.window = window

    def call(self, tokens: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(tokens)[1])
        return ops.abs(positions[None, :, None] - positions[None, None, :]) < self.window

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        return KerasTensor((1, tokens.shape[1], tokens.shape[1]), dtype="bool")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "window": self.window}


@keras.saving.register_keras_serializable(package="builders")
class CombineMasks(keras.layers.Layer):
    """Logical and of two masks: bool (1, t, s), bool (b, 1, s) -> bool (b, t, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bts,bts->bts"}

    def call(self, first: Tensor, second: Tensor) -> Tensor:
        return ops.logical_and(first, second)

    def compute_output_spec(self, first: KerasTensor, second: KerasTensor) -> KerasTensor:
        shape = (second.shape[0], first.shape[1], second.shape[2])
        return KerasTensor(shape, dtype="bool")


def is_visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Return whether keys are at or before queries, and within the window; positions broadcast."""
    past = ops.less_equal(key, query)
    return past if window is None else ops.logical_and(past, key > query - window)


def window_prefixed(spec: TransformerSpec, name: str, window: int | None) -> str:
    """Return the name of a layer that blocks with a window share, apart from the other blocks.

    Args:
        spec: of the model.
        name: of the layer for full attention.
        window: of the blocks; `None`: full attention.
    """
    if window is None:
        return name
    return f"window_{name}" if window == spec.attention_window else f"window_{window}_{name}"


def padding_mask(scope: LayerScope, tokens: Tensor) -> Tensor | None:
    """Wire the padding mask of tokens (b, s), bool (b, 1, s), if the spec has a padding token."""
    pad = scope.spec.pad_token_id
    return None if pad is None else scope.layer("padding_mask", PaddingMask, pad)(tokens)


def causal_mask(
    scope: LayerScope, tokens: Tensor, padding: Tensor | None, window: int | None
) -> Tensor:
    """Wire the self-attention mask of a decoder's tokens (b, t), bool (1 or b, t, t)."""
    name = window_prefixed(scope.spec, "causal_mask", window)
    return combined(scope, scope.layer(name, CausalMask, window)(tokens), padding, window)


def bidirectional_mask(
    scope: LayerScope, tokens: Tensor, padding: Tensor | None, window: int | None
) -> Tensor | None:
    """Wire the self-attention mask of an encoder's tokens (b, s), bool (1 or b, 1 or s, s)."""
    if window is None:
        return padding
    name = window_prefixed(scope.spec, "mask", window)
    return combined(scope, scope.layer(name, WindowMask, window)(tokens), padding, window)


def combined(scope: LayerScope, mask: Tensor, padding: Tensor | None, window: int | None) -> Tensor:
    """Wire a mask of blocks with a window together with the padding mask, where there is one."""
    if padding is None:
        return mask
    name = window_prefixed(scope.spec, "attention_mask", window)
    return scope.layer(name, CombineMasks)(mask, padding)
