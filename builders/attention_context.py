"""The context of an attention: masks, positions, biases and, in decode graphs, the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builders.attention_layers import MixedValue
from builders.cache import KeyValueCache
from builders.masks import causal_mask, padding_mask
from builders.positions import Positions, position_scheme
from builders.scope import LayerScope

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
    """

    mask: Tensor | None
    positions: Tensor | None = None
    bias: Tensor | None = None
    cache: KeyValueCache | None = None
    value_residual: ValueResidual | None = None


def token_positions(
    scope: LayerScope, tokens: Tensor, cache: KeyValueCache | None = None
) -> Tensor:
    """Wire the positions of tokens (b, t), int (1 or b, t)."""
    if cache is not None:
        return cache.positions(scope, tokens)
    return scope.layer("positions", Positions)(tokens)


def value_residual(scope: LayerScope) -> ValueResidual | None:
    """Return what mixes the values of the blocks of one stack, where the spec has it."""
    return ValueResidual() if scope.spec.value_residual else None


def bidirectional_context(scope: LayerScope, tokens: Tensor) -> AttentionContext:
    """Wire the self-attention context of an encoder's tokens (b, s)."""
    mask = padding_mask(scope, tokens)
    positions = token_positions(scope, tokens)
    bias = position_scheme(scope.spec).bias(scope, positions, positions, causal=False)
    return AttentionContext(mask, positions, bias, value_residual=value_residual(scope))


def causal_contexts(
    scope: LayerScope, tokens: Tensor, positions: Tensor, cache: KeyValueCache | None = None
) -> dict[int | None, AttentionContext]:
    """Wire the self-attention contexts of a decoder's tokens (b, t), by the window of a block."""
    spec = scope.spec
    scheme = position_scheme(spec)
    padding = None
    if cache is None and spec.target_pad_token_id is not None:  # the cache masks padding itself
        padding = padding_mask(scope, tokens)
    contexts = {}
    first_values = value_residual(scope)
    for window in dict.fromkeys(spec.windows):  # ordered, so that graphs are always the same
        if cache is None:
            mask = causal_mask(scope, tokens, padding, window)
            keys = positions
        else:
            mask = cache.causal_mask(scope, tokens, window)
            keys = cache.key_positions(scope, window)
        bias = scheme.bias(scope, positions, keys, causal=True)
        contexts[window] = AttentionContext(mask, positions, bias, cache, first_values)
    return contexts
