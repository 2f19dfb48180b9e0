"""Elementwise parts: activations, dropout, soft caps and constant factors.

Activations are registered functions, one for each value of the spec's `activation`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.components import register_component
from builders.fused import fused
from builders.scope import LayerScope

Tensor = Any


def dropout(scope: LayerScope, rate: float, x: Tensor, name: str = "dropout") -> Tensor:
    """Wire a dropout layer, or nothing where the rate is zero."""
    return scope.layer(name, keras.layers.Dropout, rate)(x) if rate else x


def soft_cap(scope: LayerScope, cap: float | None, x: Tensor, name: str = "soft_cap") -> Tensor:
    """Wire cap * tanh(x / cap), which lies between -cap and cap, or nothing without a cap."""
    return x if cap is None else scope.layer(name, SoftCap, cap)(x)


def scale(scope: LayerScope, name: str, factor: float, x: Tensor) -> Tensor:
    """Wire x times a constant that may depend on the block, or nothing where it is 1."""
    return x if factor == 1 else scope.per_call.layer(name, Scale, factor)(x)


def capped(x: Tensor, cap: float) -> Tensor:
    """Return cap * tanh(x / cap) in float32."""
    return cap * ops.tanh(ops.cast(x, "float32") / cap)


class SameShape(keras.layers.Layer):
    """Base class of layers whose output has the shape of their first input, in their precision."""

    def compute_output_spec(self, x: KerasTensor, *others: Any, **more: Any) -> KerasTensor:
        return KerasTensor(x.shape, dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class SoftCap(SameShape):
    """cap * tanh(x / cap), computed in float32 (Gemma 2, section 2): any shape -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "...->...", "products": []}

    def __init__(self, cap: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.cap = cap

    def call(self, x: Tensor) -> Tensor:
        return ops.cast(capped(x, self.cap), self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "cap": self.cap}


@keras.saving.register_keras_serializable(package="builders")
class Scale(SameShape):
    """x times a constant. (`keras.layers.Rescaling` needs TensorFlow on every backend.)"""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "...->...",
        "products": [],
        "role": "identity",
    }

    def __init__(self, factor: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x: Tensor) -> Tensor:
        return x * self.factor

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor}


class TrainedFactors(SameShape):
    """Base class of layers with trained numbers, `factors`, for the last axes of what they take.

    A number is start / stored times a weight, `scale`, that starts at `stored`. Adam moves all
    weights by steps of about one size, so `stored` sets how fast the number changes (Loshchilov et
    al. 2024, "nGPT", section 2.5).

    Args:
        shape: of the numbers, which is broadcast to the last axes of x.
        start: the value of all numbers before training.
        stored: of the weights before training; `None`: `start`.
    """

    def __init__(
        self, shape: Sequence[int], start: float = 1.0, stored: float | None = None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.shape = tuple(shape)
        self.start = start
        self.stored = stored

    def build(self, *_: Any) -> None:
        stored = self.start if self.stored is None else self.stored
        start = keras.initializers.Constant(stored)
        self.scale = self.add_weight(name="scale", shape=self.shape, initializer=start)

    @property
    def factors(self) -> Tensor:
        """The trained numbers."""
        return self.scale if self.stored is None else self.scale * (self.start / self.stored)

    def get_config(self) -> dict[str, Any]:
        values = {"shape": self.shape, "start": self.start, "stored": self.stored}
        return {**super().get_config(), **values}


@keras.saving.register_keras_serializable(package="builders")
class LearnedScale(TrainedFactors):
    """x times trained numbers on its last axes: any shape -> same."""

    @property
    def graph_declaration(self) -> dict[str, Any]:
        role = "identity" if self.shape == (1,) else "scale"
        return {"signature": "...->...", "products": [], "role": role}

    def call(self, x: Tensor) -> Tensor:
        return x * self.factors


@fused
def relu_squared(x: Tensor) -> Tensor:
    """max(x, 0)^2 (So et al. 2021, "Primer", section 3)."""
    return ops.square(ops.relu(x))


@fused
def gelu_tanh(x: Tensor) -> Tensor:
    """The tanh approximation of GELU (Hendrycks and Gimpel 2016, section 2), as in GPT-2."""
    return ops.gelu(x, approximate=True)


@fused
def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x (Hendrycks and Gimpel 2016, section 2)."""
    return ops.gelu(x, approximate=False)


@fused
def gelu_sigmoid(x: Tensor) -> Tensor:
    """x sigmoid(1.702 x), the other approximation of GELU (Hendrycks and Gimpel 2016, section 2).

    CLIP's authors call it QuickGELU.
    """
    return x * ops.sigmoid(1.702 * x)


_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": keras.activations.relu,
    "silu": keras.activations.silu,
    "gelu": gelu,
    "gelu_tanh": gelu_tanh,
    "gelu_sigmoid": gelu_sigmoid,
    "relu_squared": relu_squared,
}
for _name, _function in _ACTIVATIONS.items():
    if _function.__module__ == __name__:
        keras.saving.register_keras_serializable(package="builders")(_function)
    register_component("activation", _name)(_function)
