"""The position scheme `kerple`, registered as a value of the spec's `positions`."""

from typing import Any

import keras
from keras import KerasTensor, ops

import builders
from builders.positions import PositionScheme

Tensor = Any


@keras.saving.register_keras_serializable(package="kerple")
class LogDistanceBias(keras.layers.Layer):
    """Bias -height * log(1 + rate * distance), with trained non-negative factors, in float32.

    Positions of queries, int (1 or b, t), and of keys, int (1 or b, s) -> (1 or b, n, t, s).
    """

    def __init__(self, num_heads: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.num_heads = num_heads

    def build(self, *input_shapes: Any) -> None:
        options: Any = {"shape": (self.num_heads,), "initializer": "ones", "constraint": "non_neg"}
        self.height = self.add_weight(name="height", dtype="float32", autocast=False, **options)
        self.rate = self.add_weight(name="rate", dtype="float32", autocast=False, **options)

    def call(self, queries: Tensor, keys: Tensor) -> Tensor:
        distance = ops.abs(queries[:, None, :, None] - keys[:, None, None, :])  # (1 or b, 1, t, s)
        distance = ops.cast(distance, "float32")
        height, rate = self.height[:, None, None], self.rate[:, None, None]  # (n, 1, 1)
        return -height * ops.log1p(rate * distance)

    def compute_output_spec(self, queries: KerasTensor, keys: KerasTensor) -> KerasTensor:
        shape = (queries.shape[0], self.num_heads, queries.shape[1], keys.shape[1])
        return KerasTensor(shape, dtype="float32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "num_heads": self.num_heads}


@builders.register_component("positions", "kerple")
class Kerple(PositionScheme):
    """Add a bias to the scores that falls with the logarithm of the distance (Chi et al. 2022)."""

    def bias(
        self,
        scope: builders.LayerScope,
        queries: Tensor,
        keys: Tensor,
        causal: bool,
    ) -> Tensor:
        """Return the bias, from one layer shared by all blocks of a stack."""
        return scope.layer("log_distance_bias", LogDistanceBias, scope.spec.num_heads)(
            queries, keys
        )
