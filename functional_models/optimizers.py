"""Optimizers of a recipe: those of Keras, with its schedule, weight decay and clipping."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import keras
from keras import ops

from builders.expert_layers import ExpertDense
from functional_models.cross_entropy import split_head
from functional_models.lora import matching
from functional_models.recipe import Recipe, rate_factors
from functional_models.schedules import schedule

Tensor = Any

_WITHOUT_DECAY = ["bias", "gamma", "beta", "scale", "embeddings"]


def make_optimizer(recipe: Recipe, model: keras.Model) -> keras.optimizers.Optimizer:
    """Return the optimizer of a recipe for a model.

    AdamW is that of Loshchilov and Hutter (2019), Muon of Jordan et al. (2024) with the scale of
    Liu et al. (2025), Lion of Chen et al. (2023), and Adafactor of Shazeer and Stern (2018) without
    its own schedule.
    """
    parts = recipe.gradient_accumulation
    common: dict[str, Any] = {
        "weight_decay": recipe.weight_decay,
        "global_clipnorm": recipe.clip_norm,
        "gradient_accumulation_steps": parts if parts > 1 else None,
        "use_ema": recipe.ema_decay is not None,
        "ema_momentum": 0.99 if recipe.ema_decay is None else recipe.ema_decay,
    }
    factors = _factors_by_path(model, rate_factors(recipe.learning_rate_factors) or {})
    rate = schedule(recipe)
    optimizer: keras.optimizers.Optimizer
    match recipe.optimizer:
        case "muon":
            optimizer = MatrixMuon(
                rate,
                matrices=hidden_matrices(model),
                adam_beta_2=recipe.beta_2,
                adam_weight_decay=recipe.weight_decay,
                epsilon=1e-9,
                factors=factors,
                **common,
            )
        case "lion":
            optimizer = Lion(rate, beta_2=recipe.beta_2, factors=factors, **common)
        case "adafactor":
            optimizer = Adafactor(rate, relative_step=False, factors=factors, **common)
        case _:
            optimizer = AdamW(rate, beta_2=recipe.beta_2, epsilon=1e-9, factors=factors, **common)
    optimizer.exclude_from_weight_decay(var_names=_WITHOUT_DECAY)
    return optimizer


def _factors_by_path(model: keras.Model, factors: Mapping[str, float]) -> dict[str, float]:
    """Return the factor of the learning rate of each weight that has one, by its path."""
    layers = [layer for layer in model.layers if layer.trainable_weights]
    return {
        weight.path: factor
        for name, factor in factors.items()
        for layer in matching(layers, name, "that trains", "learning_rate_factors")
        for weight in layer.trainable_weights
    }


class _Factors(keras.optimizers.Optimizer):
    """Optimizer in which some weights have another learning rate, and decay with it.

    Args:
        factors: of the learning rate, by the path of a weight.
    """

    weight_decay: float | None

    def __init__(
        self, *args: Any, factors: Mapping[str, float] | None = None, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self.factors = dict(factors or {})

    def build(self, variables: Sequence[keras.Variable]) -> None:
        super().build(variables)
        self._factors = [self.factors.get(variable.path, 1.0) for variable in variables]

    def rate_of(self, variable: Any, learning_rate: Tensor) -> Tensor:
        """Return the learning rate of a variable."""
        factor = self._factors[self._get_variable_index(variable)]
        return learning_rate if factor == 1 else learning_rate * factor

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        super().update_step(gradient, variable, self.rate_of(variable, learning_rate))

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        groups: dict[float, list[Any]] = {}
        for variable in variables:
            factor = self._factors[self._get_variable_index(variable)]
            groups.setdefault(factor, []).append(variable)
        decay = self.weight_decay
        for factor, group in groups.items():
            self.weight_decay = None if decay is None else decay * factor
            super()._apply_weight_decay(group)
        self.weight_decay = decay

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factors": self.factors}


@keras.saving.register_keras_serializable(package="functional_models")
class Lion(_Factors, keras.optimizers.Lion):
    """That of Keras, with factors of the learning rate."""


@keras.saving.register_keras_serializable(package="functional_models")
class Adafactor(_Factors, keras.optimizers.Adafactor):
    """That of Keras, with factors of the learning rate."""


@keras.saving.register_keras_serializable(package="functional_models")
class AdamW(_Factors, keras.optimizers.AdamW):
    """That of Keras, with fewer passes over the weights on TensorFlow.

    Keras' own takes a dozen operations, each of which reads and writes arrays as large as the
    weights.
    """

    def _clip_gradients(self, grads: list[Any]) -> list[Any]:
        if keras.backend.backend() != "tensorflow" or not self.global_clipnorm:
            return super()._clip_gradients(grads)
        import tensorflow as tf

        grads = [None if g is None else tf.convert_to_tensor(g) for g in grads]  # of embeddings too
        squares = [2 * tf.nn.l2_loss(tf.cast(g, "float32")) for g in grads if g is not None]
        norm = tf.sqrt(tf.add_n(squares))
        factor = tf.minimum(self.global_clipnorm / norm, 1.0) + (
            norm - norm
        )  # NaN if it is not finite
        return [None if g is None else g * tf.cast(factor, g.dtype) for g in grads]

    def update_step(self, gradient: Tensor, variable: Any, learning_rate: Tensor) -> None:
        is_fused = keras.backend.backend() == "tensorflow" and not self.amsgrad
        if not is_fused or variable.dtype != "float32":
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        step = ops.cast(self.iterations + 1, "float32")
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=ops.power(self.beta_1, step),
            beta2_power=ops.power(self.beta_2, step),
            lr=ops.cast(self.rate_of(variable, learning_rate), "float32"),
            beta1=self.beta_1,
            beta2=self.beta_2,
            epsilon=self.epsilon,
            grad=ops.cast(gradient, "float32"),
        )


@keras.saving.register_keras_serializable(package="functional_models")
class MatrixMuon(_Factors, keras.optimizers.Muon):
    """Muon for kernels of any number of axes; all other weights are trained by Adam.

    Keras' own takes matrices only, and would leave the kernels of attention, (d, n, h), to Adam.

    Args:
        learning_rate: a rate or a schedule.
        matrices: by the path of each kernel that Muon trains, its shape as matrices (..., i, j).
    """

    def __init__(
        self, learning_rate: Any = 0.001, *, matrices: Mapping[str, Any], **kwargs: Any
    ) -> None:
        super().__init__(learning_rate, **kwargs)
        self.matrices = {path: tuple(shape) for path, shape in matrices.items()}

    def _should_use_adamw(self, variable: keras.Variable) -> bool:
        return variable.path not in self.matrices

    def build(self, var_list: Sequence[keras.Variable]) -> None:
        super().build(var_list)
        self._shapes = [self.matrices.get(variable.path) for variable in var_list]

    def _muon_update_step(
        self, gradient: Tensor, variable: keras.Variable, lr: Tensor, m: keras.Variable
    ) -> None:
        shape = self._shapes[self._get_variable_index(variable)]
        assert shape is not None
        self.assign_add(m, ops.add(gradient, m * (self.momentum - 1)))
        direction = ops.add(gradient, self.momentum * m) if self.nesterov else m
        update = self.zeropower_via_newtonschulz5(ops.reshape(direction, shape), self.ns_steps)
        # An orthogonal matrix has entries of an RMS of 1 / sqrt(its larger size), AdamW's about
        # 0.2 (Liu et al. 2025, equation 4).
        scale = 1.0 if self.rms_rate is None else self.rms_rate * math.sqrt(max(shape[-2:]))
        update = ops.reshape(lr * scale * update, variable.shape)
        self.assign_sub(variable, ops.cast(update, variable.dtype))

    def transpose_last_axis(self, X: Tensor) -> Tensor:  # noqa: N803, the name is of Keras
        return ops.swapaxes(X, -1, -2)  # Keras' own is wrong beyond two axes

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "matrices": self.matrices}


def hidden_matrices(model: keras.Model) -> dict[str, tuple[int, ...]]:
    """Return the kernels that Muon trains, by path, with their shapes as matrices.

    These are the kernels of dense layers, but not of the head, which has a row or a column for each
    word, as embeddings have.
    """
    _, head = split_head(model)
    of_words = {id(layer) for layer in head.layers} if head else set()
    found = {}
    for layer in model._flatten_layers():
        is_adapted = getattr(layer, "lora_enabled", False)  # whose kernel does not train
        if id(layer) in of_words or not layer.built or is_adapted:
            continue
        if isinstance(layer, keras.layers.Dense):
            found[layer.kernel.path] = tuple(layer.kernel.shape)
        elif isinstance(layer, keras.layers.EinsumDense):
            found[layer.kernel.path] = _matrix_of(layer)
        elif isinstance(layer, ExpertDense):  # a matrix for each expert
            found[layer.kernel.path] = tuple(layer.kernel.shape)
    return found


def _matrix_of(layer: keras.layers.EinsumDense) -> tuple[int, ...]:
    """Return the shape of the kernel as a matrix from the contracted axes to the new ones.

    Axes that are neither, such as one matrix for each head, come first.
    """
    given, result = layer.equation.split("->")
    inputs, axes = given.split(",")
    sizes = dict(zip(axes, layer.kernel.shape, strict=True))
    kept = [axis for axis in axes if axis in inputs and axis in result]
    contracted = [axis for axis in axes if axis in inputs and axis not in result]
    new = [axis for axis in axes if axis not in inputs]
    if [*axes] not in ([*kept, *contracted, *new], [*kept, *new, *contracted]):
        raise ValueError(
            f"the layer {layer.name!r} has the equation {layer.equation!r}, whose kernel is no "
            'matrix that Muon can train; use optimizer="adamw"'
        )
    groups = [contracted, new] if [*axes] == [*kept, *contracted, *new] else [new, contracted]
    return (*(sizes[axis] for axis in kept), *(math.prod(sizes[a] for a in g) for g in groups))
