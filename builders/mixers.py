"""Mixers: what mixes positions in a block, one registered class for each value of `mixer`.

A mixer wires the sublayer `self_attention` of a block, from what it reads, (b, t, d), and the
context of the attention, and lists what it keeps in the cache of a decode graph.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import keras

from builders.attention import attention
from builders.attention_context import AttentionContext
from builders.cache import Entries, key_value_entries
from builders.components import component, register_component
from builders.delta_rule import CausalConvolution, DecayRate, DeltaRule, GatedNorm
from builders.elementwise import dropout
from builders.initializers import initializer
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


class Mixer(ABC):
    """The base class of mixers; see the module docstring.

    Attributes:
        keeps_documents_apart: whether, given `starts` in the context, no token depends on other
            documents of its row. Packed graphs need it.
    """

    keeps_documents_apart: ClassVar[bool] = False

    @abstractmethod
    def wire(self, scope: LayerScope, x: Tensor, context: AttentionContext) -> Tensor:
        """Wire the sublayer: (b, t, d) -> (b, t, d)."""

    @abstractmethod
    def cache_entries(
        self, spec: TransformerSpec, name: str, batch_size: int | None, slots: Any, dtype: str
    ) -> Entries:
        """Return shape and dtype of what it keeps in the cache, by name.

        Args:
            spec: of the block.
            name: of the sublayer.
            batch_size: rows; `None` in a graph that takes any number.
            slots: of the cache, a number or a tensor; `None` as above.
            dtype: the compute dtype of the model.
        """


def mix(scope: LayerScope, x: Tensor, context: AttentionContext) -> Tensor:
    """Wire the sublayer of a block that mixes positions: (b, t, d) -> (b, t, d)."""
    mixer: Mixer = component("mixer", scope.spec.mixer)()
    return mixer.wire(scope, x, context)


@register_component("mixer", "attention")
class AttentionMixer(Mixer):
    """Self-attention, as `attention` says."""

    keeps_documents_apart = True

    def wire(self, scope: LayerScope, x: Tensor, context: AttentionContext) -> Tensor:
        return attention(scope, x, x, context)

    def cache_entries(
        self, spec: TransformerSpec, name: str, batch_size: int | None, slots: Any, dtype: str
    ) -> Entries:
        return key_value_entries(spec, name, batch_size, slots, dtype)


@register_component("mixer", "gated_delta")
class GatedDeltaMixer(Mixer):
    """Gated DeltaNet, whose cache does not grow with the sequence (Yang et al. 2024; Qwen3-Next).

    Queries, keys and values are convolved over a few tokens, then a memory of each head is read
    and corrected token by token; what it returns is normalized and gated.
    """

    keeps_documents_apart = True

    def wire(self, scope: LayerScope, x: Tensor, context: AttentionContext) -> Tensor:
        spec, cache = scope.spec, context.cache
        heads = _heads(spec)
        mask = () if context.real is None else (context.real,)
        packed = {} if context.starts is None else {"starts": context.starts}

        def stateful(name: str, layer: keras.layers.Layer, *inputs: Tensor) -> Tensor:
            state = f"{name}_state"
            states = () if cache is None else (cache.read(scope, state),)
            output, new = layer(*inputs, *mask, *states, **packed)
            if cache is not None:
                cache.replace(scope, state, new)
            return output

        convolved = []
        for role in ("query", "key", "value"):
            name = f"{role}_convolution"
            layer = scope.layer(name, CausalConvolution, spec.delta_convolution)
            convolved.append(stateful(name, layer, project(scope, role, x, heads[role])))
        rates = project(scope, "decay", x, heads["value"][:1])
        decay = scope.layer("decay_rate", DecayRate)(rates)
        beta = project(scope, "beta", x, heads["value"][:1], "sigmoid")
        rule = scope.layer("delta_rule", DeltaRule)
        read = stateful("delta_rule", rule, *convolved, decay, beta)  # (b, t, n, j)
        gate = project(scope, "gate", x, heads["value"])
        read = scope.layer("read_norm", GatedNorm, spec.norm_epsilon)(read, gate)
        n, j = heads["value"]
        output = scope.layer(
            "output",
            keras.layers.EinsumDense,
            "btij,ijd->btd",
            output_shape=(None, spec.hidden_dim),
            kernel_initializer=initializer(scope, "output", fan_in=n * j, fan_out=spec.hidden_dim),
        )(read)
        return dropout(scope, spec.dropout, output)

    def cache_entries(
        self, spec: TransformerSpec, name: str, batch_size: int | None, slots: Any, dtype: str
    ) -> Entries:
        heads = _heads(spec)
        before = spec.delta_convolution - 1
        entries: Entries = {
            f"{name}.{role}_convolution_state": ((batch_size, before, *shape), dtype)
            for role, shape in heads.items()
        }
        n, j = heads["value"]
        shape = (batch_size, n, heads["key"][1], j)
        return entries | {f"{name}.delta_rule_state": (shape, "float32")}


def _heads(spec: TransformerSpec) -> dict[str, tuple[int, int]]:
    """Return the number of heads and their width, by role."""
    keys = spec.delta_key_heads, spec.delta_key_dim
    return {"query": keys, "key": keys, "value": (spec.delta_value_heads, spec.delta_value_dim)}


def project(
    scope: LayerScope, role: str, x: Tensor, shape: tuple[int, ...], activation: str | None = None
) -> Tensor:
    """Wire a projection of x (b, t, d) without a bias, to heads (b, t, n, h) or to (b, t, n)."""
    d, letters = scope.spec.hidden_dim, "nh"[: len(shape)]
    size = shape[0] * (shape[1] if len(shape) > 1 else 1)
    return scope.layer(
        role,
        keras.layers.EinsumDense,
        f"btd,d{letters}->bt{letters}",
        output_shape=(None, *shape),
        activation=activation,
        kernel_initializer=initializer(scope, role, fan_in=d, fan_out=size),
    )(x)
