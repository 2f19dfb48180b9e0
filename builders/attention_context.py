"""The context of an attention: masks, positions, biases and, in decode graphs, the cache."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from builders.attention_layers import MixedValue
from builders.cache import KeyValueCache
from builders.documents import document_mask, document_positions
from builders.masks import Reach, bidirectional_mask, causal_mask, padding_mask
from builders.positions import Positions, position_scheme
from builders.prefixes import prefix_mask
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
        slots: int (b, c), in a decode graph, 1 + the position of the token in each slot of the
            cache, and 0 in slots that are masked; otherwise `None`.
        starts: int (b, t), in a packed graph, the place of the first token of each token's
            document; otherwise `None`.
    """

    mask: Tensor | None
    positions: Tensor | None = None
    bias: Tensor | None = None
    cache: KeyValueCache | None = None
    value_residual: ValueResidual | None = None
    real: Tensor | None = None
    slots: Tensor | None = None
    starts: Tensor | None = None


def token_positions(
    scope: LayerScope,
    tokens: Tensor,
    cache: KeyValueCache | None = None,
    starts: Tensor | None = None,
) -> Tensor:
    """Wire the positions of tokens (b, t), int (1 or b, t), in documents with these starts."""
    if cache is not None:
        return cache.positions(scope, tokens)
    if starts is not None:
        return document_positions(scope, starts)
    return scope.layer("positions", Positions)(tokens)


def bidirectional_contexts(
    scope: LayerScope, tokens: Tensor, positions: Tensor, padding: Tensor | None
) -> list[AttentionContext]:
    """Wire the self-attention contexts of an encoder's tokens (b, s), one for each block."""
    spec = scope.spec
    blocks = spec.blocks("encoder")
    if spec.kind == "encoder_decoder":  # whose encoder has no windows and no chunks
        whole = {"attention_window": None, "attention_chunk": None}
        blocks = tuple(block.replace(**whole) for block in blocks)
    masks = {
        reach: (bidirectional_mask(scope, tokens, padding, reach), positions)
        for reach in dict.fromkeys(map(Reach.of, blocks))
    }
    return _by_block(scope, blocks, masks, positions, causal=False, real=padding)


def causal_contexts(
    scope: LayerScope,
    tokens: Tensor,
    positions: Tensor,
    cache: KeyValueCache | None = None,
    starts: Tensor | None = None,
    prefix_length: Tensor | None = None,
) -> list[AttentionContext]:
    """Wire the self-attention contexts of a decoder's tokens (b, t), one for each block."""
    spec = scope.spec
    padding = None
    if cache is None and spec.target_pad_token_id is not None:  # the cache masks padding itself
        padding = padding_mask(scope, tokens)
    masks = {}
    # Ordered, so that graphs are always the same.
    for reach in dict.fromkeys(map(Reach.of, spec.blocks("decoder"))):
        if starts is not None:
            masks[reach] = document_mask(scope, starts, padding, reach), positions
        elif prefix_length is not None:
            mask = prefix_mask(scope, tokens, prefix_length, padding, reach)
            masks[reach] = mask, positions
        elif cache is None:
            masks[reach] = causal_mask(scope, tokens, padding, reach), positions
        else:
            mask = cache.causal_mask(scope, tokens, reach)
            masks[reach] = mask, cache.key_positions(scope, reach)
    blocks = spec.blocks("decoder")
    if cache is not None:
        padding = cache.real_tokens(scope)
    given = {"cache": cache, "real": padding, "starts": starts}
    return _by_block(scope, blocks, masks, positions, causal=not spec.prefix_lm, **given)


def _by_block(
    scope: LayerScope,
    blocks: Sequence[TransformerSpec],
    masks: Mapping[Reach, tuple[Tensor | None, Tensor]],
    positions: Tensor,
    causal: bool,
    cache: KeyValueCache | None = None,
    real: Tensor | None = None,
    starts: Tensor | None = None,
) -> list[AttentionContext]:
    """Wire the context of every block; blocks of equal reach and positions share it.

    Args:
        scope: of the stack.
        blocks: the spec of every block.
        masks: the mask and the positions of the keys, by reach.
        positions: of the queries.
        causal: whether no query attends to later keys.
        cache: as in `AttentionContext`.
        real: as in `AttentionContext`.
        starts: as in `AttentionContext`.
    """
    contexts = {}
    values = ValueResidual() if scope.spec.value_residual else None
    for block in blocks:
        kind = Reach.of(block), block.positions
        if kind not in contexts:
            mask, keys = masks[Reach.of(block)]
            bias = None
            if not has_own_bias(block):
                bias = position_scheme(block).bias(scope, positions, keys, causal)
            slots = None if cache is None else cache.slots(Reach.of(block))
            contexts[kind] = AttentionContext(
                mask, positions, bias, cache, values, real, slots, starts
            )
    found = [contexts[Reach.of(block), block.positions] for block in blocks]
    for index, block in enumerate(blocks):
        if has_own_bias(block):
            part = scope.block(index).within("self_attention")
            keys = masks[Reach.of(block)][1]
            bias = position_scheme(block).bias(part, positions, keys, causal)
            found[index] = replace(found[index], bias=bias)
    return found


def has_own_bias(spec: TransformerSpec) -> bool:
    """Return whether a block with this spec has a table of biases that its stack does not share."""
    return spec.positions == "relative" and spec.relative_by_block
