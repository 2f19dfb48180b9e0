"""Merges: the ways to read a residual stream and to write to it, one class for each `merge`.

Norm placements use a stream through `read` and `write` alone:

    x = write(part, x, f(part, norm(part, read(part, x))))

so every placement works with every merge, also with one whose stream is more than one tensor of
the shape (b, t, d). A merge asks the scope of the sublayer, `part`, for its layers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import keras
from keras import ops

from builders.components import component, register_component
from builders.depth import depth_factor
from builders.elementwise import LearnedScale, SameShape, TrainedFactors, scale
from builders.initializers import initializer
from builders.norms import UnitNorm
from builders.scope import LayerScope

Tensor = Any

GATE_BIAS = -2.0
"""First bias of a highway's gate, which then passes about an eighth of a branch. Srivastava et al.
2015 propose negative values such as -1 and -3."""


class Merge(ABC):
    """The base class of merges; see the module docstring."""

    def open(self, scope: LayerScope, x: Tensor) -> Tensor:
        """Wire the stream that the first block reads, from the embeddings (b, t, d)."""
        return x

    def close(self, scope: LayerScope, stream: Tensor) -> Tensor:
        """Wire the output of a stack, (b, t, d), before its final norm."""
        return stream

    def read(self, scope: LayerScope, stream: Tensor) -> Tensor:
        """Wire what a sublayer reads from the stream, (b, t, d)."""
        return stream

    @abstractmethod
    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        """Wire the stream after a sublayer with this output, (b, t, d)."""


def open_stream(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire the stream that the first block of a stack reads, from the embeddings (b, t, d)."""
    return _merge(scope).open(scope, x)


def close_stream(scope: LayerScope, stream: Tensor) -> Tensor:
    """Wire the output of a stack, (b, t, d), before its final norm."""
    return _merge(scope).close(scope, stream)


def read(scope: LayerScope, stream: Tensor) -> Tensor:
    """Wire what a sublayer reads from the stream, (b, t, d)."""
    return _merge(scope).read(scope, stream)


def write(scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
    """Wire the stream after a sublayer with this output, (b, t, d), which training may drop."""
    return _merge(scope).write(scope, stream, drop_branch(scope, output))


def _merge(scope: LayerScope) -> Merge:
    merge: Merge = component("merge", scope.spec.merge)()
    return merge


def drop_branch(scope: LayerScope, output: Tensor) -> Tensor:
    """Wire stochastic depth: in training, drop whole branches of some rows (Huang et al. 2016).

    The rate grows linearly with depth, from 1 / L of the spec's in the first of L blocks (section
    3). Branches that are kept are divided by the probability of that, so that inference is
    unchanged.
    """
    blocks = scope.spec.num_blocks(scope.path[0])
    rate = scope.spec.stochastic_depth * (scope.block_index + 1) / blocks
    if not rate:
        return output
    layer, shape = keras.layers.Dropout, (None, 1, 1)
    return scope.per_call.layer("stochastic_depth", layer, rate, noise_shape=shape)(output)


@register_component("merge", "add")
class Add(Merge):
    """x + f (He et al. 2016)."""

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        return scope.layer("residual", keras.layers.Add)([stream, output])


@register_component("merge", "none")
class NoSkip(Merge):
    """f alone: without skip paths, for ablations."""

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        return output


@register_component("merge", "scaled")
class Scaled(Add):
    """skip_scale * x + branch_scale * f (DeepNorm; Granite, MiniCPM)."""

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        stream = scale(scope, "skip_scale", depth_factor(scope, "skip_scale"), stream)
        output = scale(scope, "branch_scale", depth_factor(scope, "branch_scale"), output)
        return super().write(scope, stream, output)


@register_component("merge", "rezero")
class LearnedFactor(Add):
    """x + a f with one trained number a (Bachlechner et al. 2020; De and Smith 2020, SkipInit)."""

    def shape(self, scope: LayerScope) -> tuple[int, ...]:
        """Return the shape of the trained numbers."""
        return (1,)

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        start = depth_factor(scope, "branch_scale")
        output = scope.layer("branch_scale", LearnedScale, self.shape(scope), start)(output)
        return super().write(scope, stream, output)


@register_component("merge", "layer_scale")
class LearnedFactors(LearnedFactor):
    """x + a f with a trained number for each channel (Touvron et al. 2021, CaiT, section 2)."""

    def shape(self, scope: LayerScope) -> tuple[int, ...]:
        """Return the shape of the trained numbers."""
        return (scope.spec.hidden_dim,)


@register_component("merge", "spherical")
class Spherical(Merge):
    """norm(x + |a| (norm(f) - x)): a step on the unit sphere, from x towards what f proposes.

    There is a trained number a for each channel (Loshchilov et al. 2024, "nGPT", equations 10 and
    11), and norms are x / ||x||.
    """

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        d, epsilon = scope.spec.hidden_dim, scope.spec.norm_epsilon
        target = scope.layer("unit_branch", UnitNorm, epsilon)(output)
        start = depth_factor(scope, "branch_scale")
        step = scope.layer("residual", StepTowards, (d,), start, d**-0.5)
        return scope.layer("unit_stream", UnitNorm, epsilon)(step(stream, target))


@register_component("merge", "highway")
class Highway(Merge):
    """g f + (1 - g) x, with the gate g = sigmoid(W x + b) (Srivastava et al. 2015, section 2)."""

    def write(self, scope: LayerScope, stream: Tensor, output: Tensor) -> Tensor:
        d = scope.spec.hidden_dim
        gate = scope.layer(
            "transform_gate",
            keras.layers.Dense,
            d,
            activation="sigmoid",
            kernel_initializer=initializer(scope, "transform_gate", fan_in=d, fan_out=d),
            bias_initializer=keras.initializers.Constant(GATE_BIAS),
        )(stream)
        branch = scope.layer("gated_branch", keras.layers.Multiply)([output, gate])
        carry = scope.layer("carry_gate", Complement)(gate)
        skip = scope.layer("gated_skip", keras.layers.Multiply)([stream, carry])
        return scope.layer("residual", keras.layers.Add)([skip, branch])


@keras.saving.register_keras_serializable(package="builders")
class StepTowards(TrainedFactors):
    """x + |a| (y - x) with trained numbers a: x, y (b, t, d) -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btd,btd->btd",
        "products": [],
        "role": "add",
    }

    def call(self, x: Tensor, y: Tensor) -> Tensor:
        return x + ops.abs(self.factors) * (y - x)


@keras.saving.register_keras_serializable(package="builders")
class Complement(SameShape):
    """1 - x, for gates: any shape -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "...->...", "products": []}

    def call(self, x: Tensor) -> Tensor:
        return 1 - x
