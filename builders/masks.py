"""Attention masks as nodes of the graph: boolean, `True` where a query attends to a key.

They do not rely on the implicit masks of Keras, which are not part of the graph.
"""

from __future__ import annotations

import functools
from typing import Any, ClassVar, NamedTuple

import keras
from keras import KerasTensor, ops

from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


class Reach(NamedTuple):
    """The keys that the self-attention of a block may attend to; both are limits in tokens.

    Attributes:
        window: keys up to the query's own; `None`: all.
        chunk: length of the chunks of a sequence, of which a query attends to its own; `None`: one.
    """

    window: int | None = None
    chunk: int | None = None

    @classmethod
    def of(cls, block: TransformerSpec) -> Reach:
        """Return the reach of a block, given its spec."""
        return cls(block.attention_window, block.attention_chunk)

    def holds(self, query: Tensor, key: Tensor) -> Tensor:
        """Return whether keys are within a limited reach on either side; positions broadcast."""
        limits = []
        if self.window is not None:
            limits.append(ops.abs(query - key) < self.window)
        if self.chunk is not None:
            chunks = (ops.floor_divide(positions, self.chunk) for positions in (query, key))
            limits.append(ops.equal(*chunks))
        return functools.reduce(ops.logical_and, limits)


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


class MaskInReach(keras.layers.Layer):
    """Base of layers that return a mask of the keys within a `Reach`; they take its limits."""

    def __init__(self, window: int | None = None, chunk: int | None = None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.reach = Reach(window, chunk)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), **self.reach._asdict()}


@keras.saving.register_keras_serializable(package="builders")
class CausalMask(MaskInReach):
    """Mask of the keys that are not after the query: tokens (b, t) -> bool (1, t, t).

    Args:
        window, chunk: as in `Reach`.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->1tt", "role": "causal_mask"}

    def call(self, tokens: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(tokens)[1])
        return is_visible(positions[None, :, None], positions[None, None, :], self.reach)

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        return KerasTensor((1, tokens.shape[1], tokens.shape[1]), dtype="bool")


@keras.saving.register_keras_serializable(package="builders")
class WindowMask(MaskInReach):
    """Mask of the keys near the query, on both sides: tokens (b, s) -> bool (1, s, s).

    Args:
        window: the distance from which on keys are masked; `None`: none.
        chunk: as in `Reach`.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->1tt"}

    def call(self, tokens: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(tokens)[1])
        return self.reach.holds(positions[None, :, None], positions[None, None, :])

    def compute_output_spec(self, tokens: KerasTensor) -> KerasTensor:
        return KerasTensor((1, tokens.shape[1], tokens.shape[1]), dtype="bool")


@keras.saving.register_keras_serializable(package="builders")
class CombineMasks(keras.layers.Layer):
    """Logical and of two masks: bool (1, t, s), bool (b, 1, s) -> bool (b, t, s)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bts,bts->bts"}

    def call(self, first: Tensor, second: Tensor) -> Tensor:
        return ops.logical_and(first, second)

    def compute_output_spec(self, first: KerasTensor, second: KerasTensor) -> KerasTensor:
        shape = (second.shape[0], first.shape[1], second.shape[2])
        return KerasTensor(shape, dtype="bool")


def is_visible(query: Tensor, key: Tensor, reach: Reach, last: Tensor | None = None) -> Tensor:
    """Return whether keys are at or before queries, and within reach; positions broadcast.

    `last` has the last key of each query, where it is not the query itself.
    """
    seen = ops.less_equal(key, query if last is None else last)
    return seen if reach == Reach() else ops.logical_and(seen, reach.holds(query, key))


def reach_prefixed(spec: TransformerSpec, name: str, reach: Reach) -> str:
    """Return the name of a layer that blocks of one reach share, apart from the other blocks.

    Args:
        spec: of the model.
        name: of the layer for full attention.
        reach: of the blocks.
    """
    usual = Reach.of(spec)
    for kind, size, of_spec in zip(Reach._fields, reach, usual, strict=True):
        if size is not None:
            name = f"{kind}_{name}" if size == of_spec else f"{kind}_{size}_{name}"
    return name


def padding_mask(scope: LayerScope, tokens: Tensor) -> Tensor | None:
    """Wire the padding mask of tokens (b, s), bool (b, 1, s), if the spec has a padding token."""
    pad = scope.spec.pad_token_id
    return None if pad is None else scope.layer("padding_mask", PaddingMask, pad)(tokens)


def causal_mask(scope: LayerScope, tokens: Tensor, padding: Tensor | None, reach: Reach) -> Tensor:
    """Wire the self-attention mask of a decoder's tokens (b, t), bool (1 or b, t, t)."""
    name = reach_prefixed(scope.spec, "causal_mask", reach)
    return combined(scope, scope.layer(name, CausalMask, *reach)(tokens), padding, reach)


def bidirectional_mask(
    scope: LayerScope, tokens: Tensor, padding: Tensor | None, reach: Reach
) -> Tensor | None:
    """Wire the self-attention mask of an encoder's tokens (b, s), bool (1 or b, 1 or s, s)."""
    if reach == Reach():
        return padding
    name = reach_prefixed(scope.spec, "mask", reach)
    return combined(scope, scope.layer(name, WindowMask, *reach)(tokens), padding, reach)


def combined(scope: LayerScope, mask: Tensor, padding: Tensor | None, reach: Reach) -> Tensor:
    """Wire the mask of blocks of one reach together with the padding mask, where there is one."""
    if padding is None:
        return mask
    name = reach_prefixed(scope.spec, "attention_mask", reach)
    return scope.layer(name, CombineMasks)(mask, padding)
