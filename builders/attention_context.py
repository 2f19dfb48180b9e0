"""The context of an attention: masks, positions, biases and, in decode graphs, the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builders.attention_layers import MixedValue
from builders.cache import KeyValueCache
from builders.masks import bidirectional_mask, causal_mask, padding_mask
from builders.positions import Positions, position_scheme
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


class ValueResidual:
    """The values of the first block of a stack, which all later blocks mix with their own."""

    def __init__(self) -> None:
        self._first: Tensor = None  # known when the first block is wired

    def mix(self, scope: LayerScope, value: Tensor) -> Tensor:
        """Wire the values (b, s, k, h) of a block, mixed with those of the first block."""
        if self._first is None:
            self._first = value
            return value
        return scope.layer("mixed_value", MixedValue)(value, self._first)


@dataclass(frozen=True)
class AttentionContext:
    """The inputs of an attention besides queries, keys and values.

    Attributes:
        mask: bool (1 or b, 1 or t, s), `True` where a query attends to a key; `None`: everywhere.
        positions: int (1 or b, t), of the queries and of new keys; `None` in cross-attention, whose
            two sequences share no positions.
        bias: added to the scores, (1 or b, n, t, s), or `None`.
        cache: in a decode graph, the cache of keys and values.
        value_residual: the values of the first block for those after it, or `None`.
        real: bool (b, 1, t), of the queries, `False` for padding; `None`: no padding is masked.
    """

    mask: Tensor | None
    positions: Tensor | None = None
    bias: Tensor | None = None
    cache: KeyValueCache | None = None
    value_residual: ValueResidual | None = None
    real: Tensor | None = None


def token_positions(
    scope: LayerScope, tokens: Tensor, cache: KeyValueCache | None = None
) -> Tensor:
    """Wire the positions of tokens (b, t), int (1 or b, t)."""
    if cache is not None:
        return cache.positions(scope, tokens)
    return scope.layer("positions", Positions)(tokens)


def bidirectional_contexts(
    scope: LayerScope, tokens: Tensor, positions: Tensor, padding: Tensor | None
) -> list[AttentionContext]:
    """Wire the self-attention contexts of an encoder's tokens (b, s), one for each block."""
    spec = scope.spec
    blocks = spec.blocks("encoder")
    if spec.kind == "encoder_decoder":  # whose encoder has no windows
        blocks = tuple(block.replace(attention_window=None) for block in blocks)
    masks = {
        window: (bidirectional_mask(scope, tokens, padding, window), positions)
        for window in dict.fromkeys(block.attention_window for block in blocks)
    }
    return _by_block(scope, blocks, masks, positions, causal=False, real=padding)


def causal_contexts(
    scope: LayerScope, tokens: Tensor, positions: Tensor, cache: KeyValueCache | None = None
) -> list[AttentionContext]:
    """Wire the self-attention contexts of a decoder's tokens (b, t), one for each block."""
    spec = scope.spec
    padding = None
    if cache is None and spec.target_pad_token_id is not None:  # the cache masks padding itself
        padding = padding_mask(scope, tokens)
    masks = {}
    for window in dict.fromkeys(spec.windows):  # ordered, so that graphs are always the same
        if cache is None:
            masks[window] = causal_mask(scope, tokens, padding, window), positions
        else:
            mask = cache.causal_mask(scope, tokens, window)
            masks[window] = mask, cache.key_positions(scope, window)
    blocks = spec.blocks("decoder")
    if cache is not None:
        padding = cache.real_tokens(scope)
    return _by_block(scope, blocks, masks, positions, causal=True, cache=cache, real=padding)


def _by_block(
    scope: LayerScope,
    blocks: Sequence[TransformerSpec],
    masks: Mapping[int | None, tuple[Tensor | None, Tensor]],
    positions: Tensor,
    causal: bool,
    cache: KeyValueCache | None = None,
    real: Tensor | None = None,
) -> list[AttentionContext]:
    """Wire the context of every block; blocks of equal windows and positions share it.

    Args:
        scope: of the stack.
        blocks: the spec of every block.
        masks: the mask and the positions of the keys, by window.
        positions: of the queries.
        causal: whether the stack is a decoder.
        cache: as in `AttentionContext`.
        real: as in `AttentionContext`.
    """
    contexts = {}
    values = ValueResidual() if scope.spec.value_residual else None
    for block in blocks:
        kind = block.attention_window, block.positions
        if kind not in contexts:
            mask, keys = masks[block.attention_window]
            bias = position_scheme(block).bias(scope, positions, keys, causal)
            contexts[kind] = AttentionContext(mask, positions, bias, cache, values, real)
    return [contexts[block.attention_window, block.positions] for block in blocks]
