"""Prefixes that are read in both directions: the masks of a prefix language model.

Tokens of a prefix of p tokens attend to keys up to position p - 1, all others to keys up to their
own (Dong et al. 2019, "UniLM", figure 1; Raffel et al. 2020, "T5", figures 3 and 4). In a graph of
whole sequences, p is an input. In a decode graph, the prefix is what the first step reads.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.masks import MaskInReach, Reach, combined, is_visible, reach_prefixed
from builders.scope import LayerScope

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class PrefixMask(MaskInReach):
    """Mask of the keys that are not after the query, or that are in the prefix with it.

    Tokens (b, t), lengths of the prefixes (b,) -> bool (b, t, t).

    Args:
        window, chunk: as in `Reach`, on both sides of the query.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt,b->btt", "role": "prefix_mask"}

    def call(self, tokens: Tensor, prefix_length: Tensor) -> Tensor:
        positions = ops.arange(ops.shape(tokens)[1], dtype="int32")[None]
        last = ops.maximum(positions, ops.cast(prefix_length, "int32")[:, None] - 1)  # (b, t)
        query, key = positions[:, :, None], positions[:, None, :]
        return is_visible(query, key, self.reach, last[:, :, None])

    def compute_output_spec(self, tokens: KerasTensor, prefix_length: KerasTensor) -> KerasTensor:
        return KerasTensor((*tokens.shape, tokens.shape[1]), dtype="bool")


@keras.saving.register_keras_serializable(package="builders")
class PrefixSlotMask(MaskInReach):
    """Mask of the slots of a cache to attend to: in the first step, all that hold a token.

    Positions of new tokens (b, t), slots (b, c), index () -> bool (b, t, c). The index is the
    number of tokens read before, and 0 in the first step, whose tokens are the prefix.

    Args:
        window, chunk: as in `Reach`, on both sides of the query.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt,bs,->bts"}

    def call(self, positions: Tensor, slots: Tensor, index: Tensor) -> Tensor:
        newest = ops.max(slots, axis=1, keepdims=True) - 1  # (b, 1), a position
        last = ops.where(ops.equal(index, 0), newest, positions)[:, :, None]
        keys = slots[:, None, :] - 1
        seen = is_visible(positions[:, :, None], keys, self.reach, last)
        return ops.logical_and(keys >= 0, seen)

    def compute_output_spec(
        self, positions: KerasTensor, slots: KerasTensor, index: KerasTensor
    ) -> KerasTensor:
        return KerasTensor((*positions.shape, slots.shape[1]), dtype="bool")


def prefix_mask(
    scope: LayerScope, tokens: Tensor, prefix_length: Tensor, padding: Tensor | None, reach: Reach
) -> Tensor:
    """Wire the self-attention mask of tokens (b, t) with prefixes (b,), bool (b, t, t)."""
    name = reach_prefixed(scope.spec, "prefix_mask", reach)
    mask = scope.layer(name, PrefixMask, *reach)(tokens, prefix_length)
    return combined(scope, mask, padding, reach)


def prefix_slot_mask(
    scope: LayerScope, positions: Tensor, slots: Tensor, index: Tensor, reach: Reach
) -> Tensor:
    """Wire the mask of the slots that new tokens (b, t) attend to: bool (b, t, c)."""
    name = reach_prefixed(scope.spec, "prefix_slot_mask", reach)
    return scope.layer(name, PrefixSlotMask, *reach)(positions, slots, index)
