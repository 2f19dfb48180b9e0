"""Hyper-connections: a residual stream of several tensors, of which each sublayer reads a mix.

The streams are one tensor (b, t, m, d) of m = `num_streams`. Between two sublayers

    x = sum over streams i of r_i x_i                     what the sublayer f reads
    x_j = sum over streams i of M_ij x_i + w_j f(x)       what it leaves in stream j

The weights r (m), M (m, m) and w (m) of a sublayer are trained, and with dynamic hyper-connections
also change with the streams (Zhu et al. 2024, "Hyper-Connections", sections 2.1 and 2.2, where n is
m, A_m is r, A_r is M and B is w). At first sublayer l reads stream l mod m, M is the identity and
w is 1, so that all streams are equal: a residual connection.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.components import register_component
from builders.merges import Merge
from builders.scope import LayerScope

Tensor = Any

FIRST_SCALE = 0.01
"""Factors of the dynamic part of the weights before training (Zhu et al. 2024, algorithm 2)."""


@register_component("merge", "static_hyper_connections")
class StaticHyperConnections(Merge):
    """Weights that are the same for all tokens."""

    def open(self, scope: LayerScope, x: Tensor) -> Tensor:
        return scope.layer("open_streams", OpenStreams, scope.spec.num_streams)(x)

    def close(self, scope: LayerScope, stream: Tensor) -> Tensor:
        return scope.layer("sum_of_streams", SumOfStreams)(stream)

    def read(self, scope: LayerScope, stream: Tensor) -> Tensor:
        first = [float(i == first_stream(scope)) for i in range(scope.spec.num_streams)]
        return scope.layer(
            "read_streams",
            keras.layers.EinsumDense,
            "btmd,m->btd",
            output_shape=(None, scope.spec.hidden_dim),
            kernel_initializer=keras.initializers.Constant(first),
        )(stream)

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        layer, shape = keras.layers.EinsumDense, (None, *stream.shape[2:])
        start = keras.initializers.Identity()
        mix = scope.layer(
            "mix_streams", layer, "btid,ij->btjd", output_shape=shape, kernel_initializer=start
        )
        write = scope.layer(
            "write_streams", layer, "btd,m->btmd", output_shape=shape, kernel_initializer="ones"
        )
        return scope.layer("residual", keras.layers.Add)([mix(stream), write(output)])


@register_component("merge", "hyper_connections")
class HyperConnections(StaticHyperConnections):
    """Weights that also change with the streams of each token."""

    def read(self, scope: LayerScope, stream: Tensor) -> Tensor:
        first, epsilon = first_stream(scope), scope.spec.norm_epsilon
        weights = scope.layer("connections", ConnectionWeights, first, epsilon)(stream)
        scope.keep("connections", weights)
        read, _, _ = weights
        return scope.layer("read_streams", WeightedStreams, "btmd,btm->btd")(stream, read)

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        _, mix, write = scope.kept("connections")
        mixed = scope.layer("mix_streams", WeightedStreams, "btid,btij->btjd")(stream, mix)
        written = scope.layer("write_streams", WeightedStreams, "btd,btm->btmd")(output, write)
        return scope.layer("residual", keras.layers.Add)([mixed, written])


def first_stream(scope: LayerScope) -> int:
    """Return the stream that a sublayer reads before training: its index in the stack, mod m."""
    spec, (stack, _, *sublayer) = scope.spec, scope.path
    index = scope.block_index
    if sublayer:  # not where all sublayers of a block read the streams once
        names = ("self_attention", *["cross_attention"] * spec.crosses(stack), "feedforward")
        index = index * len(names) + names.index(sublayer[0])
    return index % spec.num_streams


@keras.saving.register_keras_serializable(package="builders")
class OpenStreams(keras.layers.Layer):
    """Several equal streams: (b, t, d) -> (b, t, m, d)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btd->btmd", "products": []}

    def __init__(self, number: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.number = number

    def call(self, x: Tensor) -> Tensor:
        return ops.repeat(ops.expand_dims(x, 2), self.number, axis=2)

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor((*x.shape[:2], self.number, x.shape[2]), dtype=x.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "number": self.number}


@keras.saving.register_keras_serializable(package="builders")
class SumOfStreams(keras.layers.Layer):
    """The sum of all streams: (b, t, m, d) -> (b, t, d)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btmd->btd", "products": []}

    def call(self, streams: Tensor) -> Tensor:
        return ops.sum(streams, axis=2)

    def compute_output_spec(self, streams: KerasTensor) -> KerasTensor:
        return KerasTensor((*streams.shape[:2], streams.shape[3]), dtype=streams.dtype)


@keras.saving.register_keras_serializable(package="builders")
class ConnectionWeights(keras.layers.Layer):
    """Weights to read, mix and write streams (b, t, m, d): (b, t, m), (b, t, m, m), (b, t, m).

    Those of stream i are static_i + scale * tanh(norm(x_i) kernel), with one scale for reading and
    mixing and one for writing, and a layer norm without weights (Zhu et al. 2024, equations 10 to
    13, and appendix B: OLMo's norm has none).

    Args:
        first: the stream that is read before training.
        epsilon: of the norm.
    """

    def __init__(self, first: int, epsilon: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.first = first
        self.epsilon = epsilon

    @property
    def graph_declaration(self) -> dict[str, Any]:
        return {
            "signature": "btmd->btm,btmm,btm",
            "products": ["btmd,dw->btmw"],
            "sizes": {"w": self.kernel.shape[1]} if self.built else {},
        }

    def build(self, input_shape: Any) -> None:
        *_, m, d = input_shape
        start = [
            [float(i == self.first), *(float(i == j) for j in range(m)), 1.0] for i in range(m)
        ]
        self.static = self.add_weight(
            name="static", shape=(m, m + 2), initializer=keras.initializers.Constant(start)
        )
        self.kernel = self.add_weight(name="kernel", shape=(d, m + 2), initializer="zeros")
        scales = keras.initializers.Constant(FIRST_SCALE)
        self.scales = self.add_weight(name="scales", shape=(2,), initializer=scales)

    def call(self, streams: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        m = streams.shape[2]
        x = ops.cast(streams, "float32")
        x = x - ops.mean(x, axis=-1, keepdims=True)
        variance = ops.mean(ops.square(x), axis=-1, keepdims=True)
        x = ops.cast(x * ops.rsqrt(variance + self.epsilon), self.compute_dtype)
        scales = ops.take(self.scales, [0] * (m + 1) + [1])
        weights = self.static + scales * ops.tanh(ops.matmul(x, self.kernel))
        return weights[..., 0], weights[..., 1:-1], weights[..., -1]

    def compute_output_spec(self, streams: KerasTensor) -> tuple[KerasTensor, ...]:
        b, t, m, _ = streams.shape
        return tuple(
            KerasTensor(shape, dtype=self.compute_dtype)
            for shape in ((b, t, m), (b, t, m, m), (b, t, m))
        )

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "first": self.first, "epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="builders")
class WeightedStreams(keras.layers.Layer):
    """Streams, or what is written to them, times weights of `ConnectionWeights`.

    Args:
        equation: of the product, as in `keras.ops.einsum`.
    """

    def __init__(self, equation: str, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.equation = equation

    @property
    def graph_declaration(self) -> dict[str, Any]:
        inputs, output = self.equation.split("->")
        is_product = not set(inputs) <= {*output, ","}  # it sums over an axis
        return {"signature": self.equation, "products": [self.equation] * is_product}

    def call(self, x: Tensor, weights: Tensor) -> Tensor:
        return ops.einsum(self.equation, x, weights)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "equation": self.equation}
