"""Attention masks as nodes of the graph: boolean, `True` where a query may look.

Nothing here relies on the implicit masks of Keras, which travel beside the tensors unseen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class PaddingMask(keras.layers.Layer):
    """Keys that are no padding: tokens (b, s) -> bool (b, 1, s)."""

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
    """Keys that are not in the future of the query: tokens (b, t) -> bool (1, t, t).

    Args:
        window: how many of them, counted from the query back; `None`: all.
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
class CombineMasks(keras.layers.Layer):
    """Where both masks allow: bool (1, t, s), bool (b, 1, s) -> bool (b, t, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bts,bts->bts"}

    def call(self, first: Tensor, second: Tensor) -> Tensor:
        return ops.logical_and(first, second)

    def compute_output_spec(self, first: KerasTensor, second: KerasTensor) -> KerasTensor:
        shape = (second.shape[0], first.shape[1], second.shape[2])
        return KerasTensor(shape, dtype="bool")


def is_visible(query: Tensor, key: Tensor, window: int | None) -> Tensor:
    """Where a key position is the query's or, within the window, before it; they broadcast."""
    past = ops.less_equal(key, query)
    return past if window is None else ops.logical_and(past, key > query - window)


def padding_mask(scope: LayerScope, spec: TransformerSpec, tokens: Tensor) -> Tensor | None:
    """Wire the padding mask of tokens (b, s) as bool (b, 1, s), if any token is padding."""
    if spec.pad_token_id is None:
        return None
    return scope.layer("padding_mask", PaddingMask, spec.pad_token_id)(tokens)


@dataclass(frozen=True)
class AttentionContext:
    """What the queries of an attention may look at, and where they stand.

    Attributes:
        mask: bool (1 or b, 1 or t, s), or `None`: they may look everywhere.
        positions: int (1 or b, t), of queries and of new keys; `None` in cross-attention, whose
            two sequences have no common order.
        bias: added to the scores, (1 or b, n, t, s), or `None`.
        window: how many tokens they may look at, themselves included; `None`: any number.
    """

    mask: Tensor | None
    positions: Tensor | None = None
    bias: Tensor | None = None
    window: int | None = None


def window_prefixed(name: str, window: int | None) -> str:
    """Return the name of what blocks with a window have apart from those that see all."""
    return name if window is None else f"window_{name}"


def causal_mask(
    scope: LayerScope,
    spec: TransformerSpec,
    tokens: Tensor,
    padding: Tensor | None,
    window: int | None,
) -> Tensor:
    """Wire what a decoder's tokens (b, t) may look at, as bool (1 or b, t, t).

    In a decode graph they look at the slots of a cache: bool (b, t, c).
    """
    if scope.cache is not None:
        return scope.cache.causal_mask(scope, spec, tokens, window)
    causal = scope.layer(window_prefixed("causal_mask", window), CausalMask, window)(tokens)
    if padding is None:
        return causal
    return scope.layer(window_prefixed("attention_mask", window), CombineMasks)(causal, padding)
