"""The layers that a mixture of experts is wired from, each one node of the graph.

Letters besides those of the package: `e` experts, `a` experts that a token goes through, `m` rows,
one for each token and each of its experts: m = b t a.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.elementwise import SameShape
from builders.grouped_products import (
    choices_of_rows,
    grouped_product,
    rows_of_tokens,
    sort_by_expert,
)

Tensor = Any


@keras.saving.register_keras_serializable(package="builders")
class TopExperts(keras.layers.Layer):
    """The experts of each token, and their weights: scores (b, t, e) -> float and int (b, t, a).

    `real`, bool (b, 1, t), is `False` for padding, which is no load.

    Args:
        top_k: experts of a token, a.
        renormalize: divide the weights of a token by their sum.
        scale: factor of the weights.
        groups: groups of equally many experts.
        active_groups: groups of the highest scores, from which experts are chosen.
        group_score_experts: highest scores of a group that add up to its score.
        correction_rate: add biases to the scores for the choice only, and move them by this number
            in every training step, against the load of the experts (Wang et al. 2024); `None`: no
            biases.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bte,b1t->bta,bta",
        "products": [],
    }

    def __init__(
        self,
        top_k: int,
        renormalize: bool = True,
        scale: float = 1.0,
        groups: int = 1,
        active_groups: int = 1,
        group_score_experts: int = 1,
        correction_rate: float | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.top_k = top_k
        self.renormalize = renormalize
        self.scale = scale
        self.groups = groups
        self.active_groups = active_groups
        self.group_score_experts = group_score_experts
        self.correction_rate = correction_rate

    def get_config(self) -> dict[str, Any]:
        names = (
            "top_k",
            "renormalize",
            "scale",
            "groups",
            "active_groups",
            "group_score_experts",
            "correction_rate",
        )
        return {**super().get_config(), **{name: getattr(self, name) for name in names}}

    def build(self, scores_shape: Any) -> None:
        if self.correction_rate is not None:
            self.correction = self.add_weight(
                name="correction", shape=scores_shape[-1:], initializer="zeros", trainable=False
            )
        self.built = True

    def call(
        self, scores: Tensor, real: Tensor | None = None, training: bool | None = None
    ) -> tuple[Tensor, Tensor]:
        preference = scores if self.correction_rate is None else scores + self.correction
        if self.active_groups < self.groups:
            preference = self._of_active_groups(preference)
        _, chosen = ops.top_k(preference, self.top_k)
        chosen = ops.cast(chosen, "int32")
        weights = ops.take_along_axis(scores, chosen, axis=-1)
        if self.renormalize:
            weights = weights / (ops.sum(weights, axis=-1, keepdims=True) + 1e-20)
        if training and self.correction_rate is not None:
            load = expert_shares(chosen, scores.shape[-1], real)
            self.correction.assign_add(self.correction_rate * ops.sign(ops.mean(load) - load))
        return weights * self.scale, chosen

    def _of_active_groups(self, scores: Tensor) -> Tensor:
        """Return the scores, the least numbers in all groups but the active ones."""
        grouped = ops.reshape(scores, (*ops.shape(scores)[:-1], self.groups, -1))
        highest, _ = ops.top_k(grouped, self.group_score_experts)
        _, active = ops.top_k(ops.sum(highest, axis=-1), self.active_groups)
        # Not `one_hot`, which makes XLA abort in a loop whose number of rows is free.
        groups = ops.arange(self.groups, dtype="int32")
        is_active = ops.any(ops.equal(ops.cast(active, "int32")[..., None], groups), axis=-2)
        return ops.reshape(ops.where(is_active[..., None], grouped, -3e38), ops.shape(scores))

    def compute_output_spec(
        self, scores: KerasTensor, *_: Any, training: bool | None = None
    ) -> tuple[KerasTensor, KerasTensor]:
        shape = (*scores.shape[:-1], self.top_k)
        return KerasTensor(shape, "float32"), KerasTensor(shape, "int32")


@keras.saving.register_keras_serializable(package="builders")
class ExpertCapacity(SameShape):
    """Weights, in training zero for tokens beyond the capacity of an expert.

    weights and chosen (b, t, a), real, bool (b, 1, t) -> (b, t, a). In a sequence of t tokens, not
    counting padding, an expert takes the first ceil(factor t a / e) of the tokens that chose it
    (Fedus et al. 2022, section 2.2).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bta,bta,b1t->bta", "products": []}

    def __init__(self, factor: float, experts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.factor = factor
        self.experts = experts

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "factor": self.factor, "experts": self.experts}

    def call(
        self,
        weights: Tensor,
        chosen: Tensor,
        real: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        if not training:
            return weights
        shape = ops.shape(chosen)
        of_expert = ops.one_hot(chosen, self.experts)  # (b, t, a, e)
        if real is not None:
            of_expert = of_expert * ops.cast(real[:, 0, :, None, None], of_expert.dtype)
        choices = ops.sum(of_expert, axis=(1, 2, 3), keepdims=True)[..., 0]  # (b, 1, 1)
        capacity = ops.ceil(self.factor / self.experts * choices)
        of_expert = ops.reshape(of_expert, (shape[0], -1, self.experts))
        number = ops.sum(ops.cumsum(of_expert, axis=1) * of_expert, axis=-1)  # from 1
        return weights * ops.cast(ops.reshape(number, shape) <= capacity, weights.dtype)


@keras.saving.register_keras_serializable(package="builders")
class RouterLosses(SameShape):
    """The weights as they are; adds the losses of the router in training.

    weights (b, t, a), logits and scores (b, t, e), chosen, int (b, t, a), real, bool (b, 1, t)
    -> weights. Padding, where `real` is `False`, counts in no loss. These are

    * balance: e sum(f p), f being the share of all choices that an expert got, and p its mean score
      (Fedus et al. 2022, equations 4 to 6), of scores that add up to 1 for a token. If all shares
      are equal it is 1;
    * z: the mean of log(sum(exp(logits)))^2 (Zoph et al. 2022, equation 5).

    Args:
        balance: factor of the first.
        z: factor of the second.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "bta,bte,bte,bta,b1t->bta",
        "products": [],
    }

    def __init__(self, balance: float, z: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.balance = balance
        self.z = z

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "balance": self.balance, "z": self.z}

    def call(
        self,
        weights: Tensor,
        logits: Tensor,
        scores: Tensor,
        chosen: Tensor,
        real: Tensor | None = None,
        training: bool | None = None,
    ) -> Tensor:
        if training and self.balance:
            shares = expert_shares(chosen, scores.shape[-1], real)
            scores = scores / (ops.sum(scores, axis=-1, keepdims=True) + 1e-20)
            mean = mean_of_tokens(scores, real)
            self.add_loss(self.balance * scores.shape[-1] * ops.sum(shares * mean))
        if training and self.z:
            squares = ops.square(ops.logsumexp(logits, axis=-1))
            self.add_loss(self.z * mean_of_tokens(squares, real))
        return weights


@keras.saving.register_keras_serializable(package="builders")
class Dispatch(keras.layers.Layer):
    """A row for each token and each of its experts, sorted by expert.

    x (b, t, d), chosen, int (b, t, a) -> rows (m, d), the place of every choice among them, int
    (b, t, a), and the number of rows of each expert, int (e,).
    """

    def __init__(self, experts: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.experts = experts

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "experts": self.experts}

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btd,bta->md,bta,e",
        "sizes": {"m": "bta"},
        "products": [],
    }

    def call(self, x: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        order, places, sizes = sort_by_expert(chosen, self.experts)
        rows = rows_of_tokens(ops.reshape(x, (-1, x.shape[-1])), order, places)
        return rows, ops.reshape(places, ops.shape(chosen)), sizes

    def compute_output_spec(
        self, x: KerasTensor, chosen: KerasTensor
    ) -> tuple[KerasTensor, KerasTensor, KerasTensor]:
        is_known = None not in chosen.shape
        rows = (math.prod(chosen.shape) if is_known else None, x.shape[-1])
        return (
            KerasTensor(rows, dtype=self.compute_dtype),
            KerasTensor(chosen.shape, "int32"),
            KerasTensor((self.experts,), "int32"),
        )


@keras.saving.register_keras_serializable(package="builders")
class ExpertDense(keras.layers.Layer):
    """activation(x W + b) with a kernel and a bias of each expert: rows (m, i) -> (m, j).

    `sizes`, int (e,), are the rows of each expert, which are sorted by expert.

    Args:
        experts: e.
        units: output width, j.
        activation: a Keras activation.
        use_bias: whether there are biases.
        kernel_initializer: of the kernels (e, i, j).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "mi,e->mj",
        "products": ["mi,eij->mj"],
    }

    def __init__(
        self,
        experts: int,
        units: int,
        activation: Any = None,
        use_bias: bool = True,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.experts = experts
        self.units = units
        self.activation = keras.activations.get(activation)
        self.use_bias = use_bias
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "experts": self.experts,
            "units": self.units,
            "activation": keras.activations.serialize(self.activation),
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }

    def build(self, rows_shape: Any, sizes_shape: Any = None) -> None:
        self.kernel = self.add_weight(
            name="kernel",
            shape=(self.experts, rows_shape[-1], self.units),
            initializer=self.kernel_initializer,
        )
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(self.experts, self.units), initializer="zeros"
            )
        self.built = True

    def call(self, rows: Tensor, sizes: Tensor) -> Tensor:
        rows = grouped_product(rows, ops.convert_to_tensor(self.kernel), sizes)
        if self.use_bias:
            ends = ops.cumsum(sizes)
            # Not `arange`, which takes no symbolic size.
            row = ops.cumsum(ops.ones_like(rows[:, :1], dtype="int32"), axis=0) - 1  # (m, 1)
            is_of_expert = (ends - sizes <= row) & (row < ends)  # (m, e)
            # A product has a faster gradient than a lookup.
            rows = rows + ops.matmul(ops.cast(is_of_expert, rows.dtype), self.bias)
        return self.activation(rows)

    def compute_output_spec(self, rows: KerasTensor, sizes: KerasTensor) -> KerasTensor:
        return KerasTensor((rows.shape[0], self.units), dtype=self.compute_dtype)


@keras.saving.register_keras_serializable(package="builders")
class ScaledRows(SameShape):
    """The rows times the weights of their choices.

    rows (m, d), places, int (b, t, a), weights (b, t, a) -> (m, d).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "md,bta,bta->md", "products": []}

    def call(self, rows: Tensor, places: Tensor, weights: Tensor) -> Tensor:
        order = ops.argsort(ops.reshape(places, (-1,)))  # the choice of each row
        of_rows = ops.take(ops.reshape(weights, (-1,)), order, axis=0)
        return rows * ops.cast(of_rows, rows.dtype)[:, None]


@keras.saving.register_keras_serializable(package="builders")
class Combine(keras.layers.Layer):
    """The sum of the rows of each token, weighted if there are weights.

    rows (m, d), places, int (b, t, a), weights (b, t, a) -> (b, t, d).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "md,bta,bta->btd",
        "products": [],
    }

    def call(self, rows: Tensor, places: Tensor, weights: Tensor | None = None) -> Tensor:
        a, d = places.shape[-1], rows.shape[-1]
        found = choices_of_rows(rows, ops.reshape(places, (-1, a)))  # (b t, a, d)
        if weights is not None:
            found = found * ops.cast(ops.reshape(weights, (-1, a, 1)), rows.dtype)
        return ops.reshape(ops.sum(found, axis=1), (*ops.shape(places)[:2], d))

    def compute_output_spec(
        self, rows: KerasTensor, places: KerasTensor, *weights: KerasTensor
    ) -> KerasTensor:
        return KerasTensor((*places.shape[:2], rows.shape[-1]), dtype=self.compute_dtype)


def expert_shares(chosen: Tensor, experts: int, real: Tensor | None = None) -> Tensor:
    """Return the share of all choices that each expert got: int (b, t, a) -> (e,)."""
    return ops.mean(mean_of_tokens(ops.one_hot(chosen, experts), real), axis=0)


def mean_of_tokens(x: Tensor, real: Tensor | None) -> Tensor:
    """Return the mean over tokens, but for those that real (b, 1, t) leaves out: (b, t, ...)."""
    if real is None:
        return ops.mean(x, axis=(0, 1))
    weights = ops.cast(real[:, 0], x.dtype)
    total = ops.maximum(ops.sum(weights), 1)
    weights = ops.reshape(weights, (*ops.shape(weights), *[1] * (len(x.shape) - 2)))
    return ops.sum(x * weights, axis=(0, 1)) / total
