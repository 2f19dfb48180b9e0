"""The layers of Gated DeltaNet, each one node of the graph (Yang et al. 2024; Qwen3-Next).

Letters besides those of the package: `n` heads of values, `k` heads of keys, `h` their width, `j`
the width of a value, `w` tokens that a convolution sees. A decode graph gives a layer its state,
and takes the new one, the last output; without it, the state is zeros. A packed graph gives it
`starts`, int (b, t), the place of the first token of each token's document, where the state begins
anew.
"""

from __future__ import annotations

import functools
import operator
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.documents import of_same_document, places_in_documents

Tensor = Any

_UNIT_EPSILON = 1e-6
"""Added to the squared length of queries and keys (as in flash-linear-attention)."""


@keras.saving.register_keras_serializable(package="builders")
class CausalConvolution(keras.layers.Layer):
    """silu of a convolution of each channel over its last w tokens.

    x (b, t, n, h), real, bool (b, 1, t), `False` for padding, which counts as zeros, and the state,
    the w - 1 inputs before these, (b, w - 1, n, h) -> (b, t, n, h), and the new state.

    Args:
        width: w.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btnh,b1t,bwnh,bt->btnh,bwnh",
        "products": [],
    }

    def __init__(self, width: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.width = width

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "width": self.width}

    def build(self, x_shape: Any, *_: Any) -> None:
        start = keras.initializers.RandomUniform(-(self.width**-0.5), self.width**-0.5)
        shape = (self.width, *x_shape[2:])
        self.kernel = self.add_weight(name="kernel", shape=shape, initializer=start)
        self.built = True

    def call(
        self,
        x: Tensor,
        real: Tensor | None = None,
        state: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        if real is not None:
            x = x * ops.cast(real[:, 0, :, None, None], x.dtype)
        before = self.width - 1
        if state is None:
            x = ops.pad(x, ((0, 0), (before, 0), (0, 0), (0, 0)))
        else:
            x = ops.concatenate([ops.cast(state, x.dtype), x], axis=1)
        count = ops.shape(x)[1] - before
        parts = [x[:, i : i + count] * self.kernel[i] for i in range(self.width)]
        if starts is not None:
            places = places_in_documents(starts)[:, :, None, None]
            parts = [ops.where(places >= before - i, part, 0) for i, part in enumerate(parts)]
        return ops.silu(functools.reduce(operator.add, parts)), x[:, count:]

    def compute_output_spec(
        self, x: KerasTensor, *_: KerasTensor, **__: KerasTensor
    ) -> tuple[KerasTensor, ...]:
        b, _t, n, h = x.shape
        shapes = x.shape, (b, self.width - 1, n, h)
        return tuple(KerasTensor(shape, dtype=self.compute_dtype) for shape in shapes)


@keras.saving.register_keras_serializable(package="builders")
class DecayRate(keras.layers.Layer):
    """-exp(a) softplus(x + b) with trained a and b of each head, in float32: (b, t, n) -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btn->btn", "products": []}

    def build(self, x_shape: Any) -> None:
        heads = x_shape[-1:]
        start = keras.initializers.RandomUniform(0.0, 2.77)  # logarithms of 1 to 16
        self.rate = self.add_weight(name="rate", shape=heads, initializer=start)
        self.bias = self.add_weight(name="bias", shape=heads, initializer="ones")
        self.built = True

    def call(self, x: Tensor) -> Tensor:
        x, rate, bias = (ops.cast(value, "float32") for value in (x, self.rate, self.bias))
        return -ops.exp(rate) * ops.softplus(x + bias)

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor(x.shape, dtype="float32")


@keras.saving.register_keras_serializable(package="builders")
class DeltaRule(keras.layers.Layer):
    """A memory S of each head, (h, j), that every token first decays, then corrects, then reads.

    S = exp(decay) S; S = S + beta k (v - k S)^T; output = q S / sqrt(h), with queries and keys of
    unit length, all in float32 (Yang et al. 2024, "Gated Delta Networks", equation 10).

    query and key (b, t, k, h), value (b, t, n, j), decay and beta (b, t, n), real, bool (b, 1, t),
    and the state, S before these tokens, (b, n, h, j) -> (b, t, n, j), and the new state. Each head
    of keys serves n / k heads of values. Padding, where `real` is `False`, changes nothing.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btkh,btkh,btnj,btn,btn,b1t,bnhj,bt->btnj,bnhj",
        # Without the triangular system, which is solved and not multiplied.
        "products": [
            "btnh,bsnh->bnts",
            "btnh,bsnh->bnts",
            "bnts,bsnj->btnj",
            "btnh,bnhj->btnj",
            "btnh,bnhj->btnj",
            "btnh,btnj->bnhj",
        ],
        "sizes": {"s": "t"},
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(autocast=False, **kwargs)  # which would round the state

    def call(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        decay: Tensor,
        beta: Tensor,
        real: Tensor | None = None,
        state: Tensor | None = None,
        starts: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        groups = value.shape[2] // key.shape[2]
        query, key = (ops.repeat(unit_length(x), groups, axis=2) for x in (query, key))
        query = query * query.shape[-1] ** -0.5
        value, decay, beta = (ops.cast(x, "float32") for x in (value, decay, beta))
        if real is not None:
            weights = ops.cast(ops.swapaxes(real, 1, 2), "float32")  # (b, t, 1)
            decay, beta = decay * weights, beta * weights
        if state is None:
            n, h, j = value.shape[2], key.shape[3], value.shape[3]
            state = ops.zeros((ops.shape(value)[0], n, h, j), "float32")
        inputs = (query, key, value, decay[..., None], beta[..., None])
        query, key, value, decay, beta = (ops.swapaxes(x, 1, 2) for x in inputs)  # (b, n, t, .)
        output, state = read_memory(query, key, value, decay, beta, state, starts)
        return ops.cast(ops.swapaxes(output, 1, 2), self.compute_dtype), state

    def compute_output_spec(
        self,
        query: KerasTensor,
        key: KerasTensor,
        value: KerasTensor,
        *_: KerasTensor,
        **__: KerasTensor,
    ) -> tuple[KerasTensor, KerasTensor]:
        b, _t, n, j = value.shape
        state = KerasTensor((b, n, key.shape[3], j), dtype="float32")
        return KerasTensor(value.shape, dtype=self.compute_dtype), state


def read_memory(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    decay: Tensor,
    beta: Tensor,
    state: Tensor,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return what every token reads from the memory, (b, n, t, j), and the last memory.

    The correction of a token depends on those before it: u_i = beta_i (v_i - D_i k_i S - the sum
    of d_ij (k_i k_j) u_j over j < i), with the decay d_ij between two tokens and D_i since the
    start. This is a triangular system for all tokens at once.

    Args:
        query: (b, n, t, h).
        key: (b, n, t, h).
        value: (b, n, t, j).
        decay: (b, n, t, 1), the logarithms.
        beta: (b, n, t, 1).
        state: the memory before, (b, n, h, j).
        starts: int (b, t), of documents, which have a memory of their own; it begins empty, and
            `state` must be zeros.
    """
    total = ops.cumsum(decay, axis=2)
    place = ops.arange(ops.shape(key)[2])
    is_earlier, is_same = place[:, None] > place[None, :], place[:, None] == place[None, :]
    if starts is not None:
        is_earlier = ops.logical_and(is_earlier, of_same_document(starts)[:, None])
    between = ops.where(is_earlier, total - ops.swapaxes(total, 2, 3), 0.0)  # (b, n, t, t)
    between = ops.exp(between) * ops.cast(is_earlier | is_same, "float32")
    transposed = ops.swapaxes(key, 2, 3)
    known = beta * between * ops.matmul(key, transposed)
    known = ops.where(is_earlier, known, ops.cast(is_same, "float32"))
    since_start, until_end = ops.exp(total), ops.exp(total[:, :, -1:] - total)
    new = beta * (value - since_start * ops.matmul(key, state))
    change = ops.solve_triangular(known, new, lower=True)  # (b, n, t, j)
    output = ops.matmul(between * ops.matmul(query, transposed), change)
    output = output + since_start * ops.matmul(query, state)
    added = ops.matmul(ops.swapaxes(until_end * key, 2, 3), change)
    return output, since_start[:, :, -1:] * state + added


def unit_length(x: Tensor) -> Tensor:
    """Return x / ||x|| over the last axis, in float32."""
    x = ops.cast(x, "float32")
    return x * ops.rsqrt(ops.sum(ops.square(x), axis=-1, keepdims=True) + _UNIT_EPSILON)


@keras.saving.register_keras_serializable(package="builders")
class GatedNorm(keras.layers.Layer):
    """RMS norm of each head times a gain and silu(gate): (b, t, n, j), (b, t, n, j) -> same.

    Args:
        epsilon: of the norm.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btnj,btnj->btnj", "products": []}

    def __init__(self, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "epsilon": self.epsilon}

    def build(self, x_shape: Any, *_: Any) -> None:
        self.scale = self.add_weight(name="scale", shape=x_shape[-1:], initializer="ones")
        self.built = True

    def call(self, x: Tensor, gate: Tensor) -> Tensor:
        x = ops.rms_normalization(x, scale=self.scale, axis=-1, epsilon=self.epsilon)
        return x * ops.silu(gate)

    def compute_output_spec(self, x: KerasTensor, gate: KerasTensor) -> KerasTensor:
        return KerasTensor(x.shape, dtype=self.compute_dtype)
