"""Multi-head latent attention (DeepSeek-AI 2024, "DeepSeek-V2", section 2.1).

Keys and values of all heads are computed from one narrow vector of each token, its latent:

    c = norm(W x), (b, s, l)      key of head n = [rotate(S x), K_n c]      value of head n = V_n c

The rotated part of the keys, (b, s, 1, r), is shared by all heads. It is no product with the latent
(section 2.1.3), since a rotation between K_n and the query would forbid what follows. Queries have
the same two parts, and may have a latent of their own.

The cache holds latents and shared keys alone. A decoding step computes no keys and values from
them, but multiplies the query by K_n and the weighted sum of latents by V_n (section 2.1.2):

    q . K_n c = (K_n^T q) . c         sum(w V_n c) = V_n sum(w c)

Letters besides those of the package: `l` latent_dim, `r` rotary_dim, `g` head_dim - rotary_dim, `u`
value_dim.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.attention_layers import AttendToCache
from builders.initializers import initializer
from builders.norms import norm
from builders.positions import position_scheme
from builders.projections import to_heads
from builders.scope import LayerScope

Tensor = Any


def latent_queries(scope: LayerScope, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Wire the queries of x (b, t, d) in two parts, rotated and not: (b, t, n, r), (b, t, n, g)."""
    spec = scope.spec
    if spec.query_latent_dim is not None:
        x = latent(scope, "query_latent", x, spec.query_latent_dim)
    rotary = to_heads(scope, "rotary_query", x, spec.num_heads, spec.rotary_dim)
    if positions is not None:
        rotary = position_scheme(spec).rotate(scope, rotary, positions, "query")
    return rotary, to_heads(scope, "query", x, spec.num_heads, spec.head_dim - spec.rotary_dim)


def latent_memory(scope: LayerScope, x: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Wire the shared keys (b, s, 1, r) and the latents (b, s, l) of x (b, s, d)."""
    spec = scope.spec
    assert spec.latent_dim is not None
    key = to_heads(scope, "shared_key", x, 1, spec.rotary_dim, use_bias=spec.attention_bias)
    if positions is not None:
        key = position_scheme(spec).rotate(scope, key, positions, "key")
    return key, latent(scope, "latent", x, spec.latent_dim)


def latent(scope: LayerScope, name: str, x: Tensor, width: int) -> Tensor:
    """Wire norm(W x), (b, t, d) -> (b, t, width)."""
    spec = scope.spec
    layer = scope.layer(
        name,
        keras.layers.Dense,
        width,
        use_bias=spec.attention_bias,
        kernel_initializer=initializer(scope, name, fan_in=spec.hidden_dim, fan_out=width),
    )
    return norm(scope, layer(x), f"{name}_norm")


def keys_and_values(scope: LayerScope, shared_key: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Wire (b, s, 1, r) and latents (b, s, l) -> keys (b, s, n, h) and values (b, s, n, u)."""
    spec = scope.spec
    n = spec.num_heads
    key = to_heads(scope, "key", c, n, spec.head_dim - spec.rotary_dim)
    return join_parts(scope, "key", shared_key, key), to_heads(scope, "value", c, n, spec.value_dim)


def join_parts(scope: LayerScope, role: str, rotary: Tensor, other: Tensor) -> Tensor:
    """Wire queries or keys of two parts: (b, t, 1 or n, r), (b, t, n, g) -> (b, t, n, h)."""
    return scope.layer(f"{role}_joined", JoinedHeads)(rotary, other)


def attend_to_latents(
    scope: LayerScope,
    queries: tuple[Tensor, Tensor],
    cached: Mapping[str, Tensor],
    mask: Tensor | None,
    bias: Tensor | None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Wire the attention of queries in two parts to a cache of latents: -> (b, t, n, u)."""
    spec = scope.spec
    rotary, query = queries
    # The layers that compute keys and values of a whole sequence.
    key, value = (scope.layer(role, keras.layers.EinsumDense) for role in ("key", "value"))
    scale = spec.head_dim**-0.5 if spec.attention_scale is None else spec.attention_scale
    absorb = scope.layer("absorbed_key", KernelOf, key, spec.latent_dim, to_latents=True)
    layer = scope.layer("attend_to_latents", AttendToLatents, scale, spec.attention_soft_cap)
    given = cached["shared_key"], cached["latent"], mask, bias
    own = {} if sinks is None else {"sinks": sinks}
    mixed = layer(rotary, absorb(query), *given, **own)
    return scope.layer("absorbed_value", KernelOf, value, spec.latent_dim, to_latents=False)(mixed)


# Layers -----------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="builders")
class JoinedHeads(keras.layers.Layer):
    """Channels of heads, of which the first may be those of one head for all.

    (b, t, 1 or n, r), (b, t, n, g) -> (b, t, n, r + g).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btnr,btng->btnh", "products": []}

    def call(self, rotary: Tensor, other: Tensor) -> Tensor:
        if rotary.shape[2] != other.shape[2]:
            rotary = ops.repeat(rotary, other.shape[2], axis=2)
        return ops.concatenate([rotary, other], axis=-1)

    def compute_output_spec(self, rotary: KerasTensor, other: KerasTensor) -> KerasTensor:
        shape = (*other.shape[:-1], rotary.shape[-1] + other.shape[-1])
        return KerasTensor(shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class KernelOf(keras.layers.Layer):
    """A product with the kernel (l, n, h) of the layer that computes heads from latents.

    Queries (b, t, n, h) -> (b, t, n, l), or sums of latents (b, t, n, l) -> (b, t, n, h).

    Args:
        inner: the layer, an `EinsumDense`.
        latent_dim: l.
        to_latents: whether the result is as wide as a latent.
    """

    def __init__(
        self, inner: keras.layers.EinsumDense, latent_dim: int, to_latents: bool, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.inner = inner
        self.latent_dim = latent_dim
        self.to_latents = to_latents
        self._equation = "btnh,lnh->btnl" if to_latents else "btnl,lnh->btnh"

    @property
    def graph_declaration(self) -> dict[str, Any]:
        return {"signature": self._equation.replace(",lnh", ""), "products": [self._equation]}

    def build(self, x_shape: Any) -> None:
        if not self.inner.built:  # of a graph that is loaded from a file
            self.inner.build((None, None, self.latent_dim))
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        if self.inner.quantization_mode is None:
            kernel = ops.convert_to_tensor(self.inner.kernel)
        else:  # which stores the kernel in another form
            kernel = self.inner(ops.eye(self.latent_dim)[None])[0]
        return ops.einsum(self._equation, x, ops.cast(kernel, x.dtype))

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        width = self.latent_dim if self.to_latents else self.inner.partial_output_shape[-1]
        return KerasTensor((*x.shape[:-1], width), dtype=self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        own = {"latent_dim": self.latent_dim, "to_latents": self.to_latents}
        inner = keras.saving.serialize_keras_object(self.inner)
        return {**super().get_config(), "inner": inner, **own}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> KernelOf:
        inner = keras.saving.deserialize_keras_object(config["inner"])
        return cls(**{**config, "inner": inner})


@keras.saving.register_keras_serializable(package="builders")
class AttendToLatents(AttendToCache):
    """softmax(q k^T scale) c over the slots of a cache of latents c, the weights in float32.

    Rotated query (b, t, n, r), query (b, t, n, l), shared key (b, 1, c, r), latents (b, 1, c, l),
    mask bool (b, 1 or t, c), bias (1 or b, n, t, c), sinks (1, n, 1, 1) -> (b, t, n, l).

    Args:
        scale: of the scores.
        soft_cap: of the scores; `None`: none.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnr,btnl,b1sr,b1sl,bts,bnts,1n11->btnl",
        "products": ["btnr,bsr->bnts", "btnl,bsl->bnts", "bnts,bsl->btnl"],
        "role": "attention",
    }

    def call(  # type: ignore[override]
        self,
        rotary: Tensor,
        query: Tensor,
        shared_key: Tensor,
        latents: Tensor,
        mask: Tensor | None = None,
        bias: Tensor | None = None,
        sinks: Tensor | None = None,
    ) -> Tensor:
        shared_key, latents = shared_key[:, 0], latents[:, 0]
        scores = ops.einsum("btnr,bsr->bnts", self.scaled(rotary), shared_key)
        scores = scores + ops.einsum("btnl,bsl->bnts", self.scaled(query), latents)
        weights = self.weights_of_slots(scores, mask, sinks, bias)
        return ops.einsum("bnts,bsl->btnl", weights, latents)

    def compute_output_spec(  # type: ignore[override]
        self, rotary: KerasTensor, query: KerasTensor, *others: Any, **more: Any
    ) -> KerasTensor:
        return KerasTensor(query.shape, dtype=self.compute_dtype)
