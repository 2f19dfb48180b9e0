"""The parts after the last block: final norm, logits, masked-language-model head and pooler."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor

from builders.components import component
from builders.elementwise import LearnedScale, SameShape, dropout, scale, soft_cap
from builders.embeddings import linear
from builders.initializers import initializer, kernel_options
from builders.norms import norm
from builders.scope import LayerScope

Tensor = Any


def final_norm_and_dropout(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire the norm and the dropout after the last block of a stack, where the spec has them."""
    x = norm(scope, x, "final_norm") if scope.spec.final_norm else x
    return dropout(scope, scope.spec.final_dropout, x, "final_dropout")


def logits(scope: LayerScope, x: Tensor, embedding: keras.layers.Layer) -> Tensor:
    """Wire the logits of hidden states: (b, t, d) -> (b, t, v), with the embedding where tied.

    A masked-language-model head may have mapped the hidden states to the width of embeddings.
    """
    spec = scope.spec
    d, v, width = spec.hidden_dim, spec.vocabulary_size, x.shape[-1]
    x = scale(scope, "scale_logits", d**-0.5 if spec.scale_logits else spec.logit_scale or 1.0, x)
    if spec.tie_embeddings:
        if spec.embedding_dim != width:
            x = linear(scope, "logit_projection", x, width, spec.embedding_dim)
        x = embedding(x, reverse=True)
        x = scope.layer("logits", AddBias)(x) if spec.logit_bias else x
    else:
        x = scope.layer(
            "logits",
            keras.layers.Dense,
            v,
            use_bias=spec.logit_bias,
            **kernel_options(scope, "logits", fan_in=width, fan_out=v, unit_axis=0),
        )(x)
    if spec.logit_gain:
        x = scope.layer("logit_gain", LearnedScale, (v,), 1.0, d**-0.5)(x)
    return soft_cap(scope, spec.logit_soft_cap, x, "logit_soft_cap")


def masked_lm_head(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire the layers before the logits of an encoder, norm(activation(W x)).

    (b, s, d) -> (b, s, d), or (b, s, width of embeddings) where their sum is projected.
    """
    spec = scope.spec
    d, width = spec.hidden_dim, spec.embedding_sum_dim
    layer = scope.layer(
        "dense",
        keras.layers.Dense,
        width,
        activation=component("activation", spec.activation),
        kernel_initializer=initializer(scope, "masked_lm_head", fan_in=d, fan_out=width),
    )
    return norm(scope, layer(x))


def pool(scope: LayerScope, x: Tensor) -> Tensor:
    """Wire one vector for the whole sequence: (b, s, d) -> activation(W x[:, 0]), (b, d)."""
    d, name = scope.spec.hidden_dim, scope.spec.pooler_activation
    layer = scope.layer(
        "dense",
        keras.layers.Dense,
        d,
        activation=name if name == "tanh" else component("activation", name),
        kernel_initializer=initializer(scope, "pooler", fan_in=d, fan_out=d),
    )
    return layer(scope.layer("first_token", FirstToken)(x))


def class_logits(
    scope: LayerScope, x: Tensor, padding: Tensor | None, pooled: Tensor | None
) -> Tensor:
    """Wire the logits of the classes of a whole sequence: (b, s, d) -> (b, c).

    Args:
        scope: of the head.
        x: hidden states (b, s, d).
        padding: mask of the tokens that are not padding, bool (b, 1, s), if there is padding.
        pooled: output of the pooler (b, d), if there is one; it stands for the first token.
    """
    spec = scope.spec
    if spec.class_pooling == "first":
        x = scope.layer("first_token", FirstToken)(x) if pooled is None else pooled
    elif padding is None:
        x = scope.layer("mean", keras.layers.GlobalAveragePooling1D)(x)
    else:
        x = scope.layer("mean", MaskedMean)(x, padding)
    x = dropout(scope, spec.dropout, x, "dropout")  # (b, d)
    d, classes = spec.hidden_dim, len(spec.classes)
    layer = scope.layer(
        "logits",
        keras.layers.Dense,
        classes,
        kernel_initializer=initializer(scope, "classifier", fan_in=d, fan_out=classes),
    )
    return layer(x)


@keras.saving.register_keras_serializable(package="builders")
class MaskedMean(keras.layers.Layer):
    """Mean over the tokens that a mask has: (b, s, d), bool (b, 1, s) -> (b, d).

    In float32; zero for a row without tokens.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bsd,b1s->bd", "products": []}

    def call(self, x: Tensor, counted: Tensor) -> Tensor:
        counts = keras.ops.cast(counted, "float32")[:, 0, :, None]  # (b, s, 1)
        total = keras.ops.sum(keras.ops.cast(x, "float32") * counts, axis=1)
        number = keras.ops.maximum(keras.ops.sum(counts, axis=1), 1)
        return keras.ops.cast(total / number, x.dtype)

    def compute_output_spec(self, x: KerasTensor, counted: KerasTensor) -> KerasTensor:
        return KerasTensor((x.shape[0], x.shape[2]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="builders")
class FirstToken(keras.layers.Layer):
    """The vector of the first token of a sequence: (b, s, d) -> (b, d)."""

    graph_declaration: ClassVar[dict[str, Any]] = {
        "signature": "btd->bd",
        "products": [],
    }

    def call(self, x: Tensor) -> Tensor:
        return x[:, 0]

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor((x.shape[0], x.shape[2]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="builders")
class AddBias(SameShape):
    """x + bias, for logits with a bias but no kernel of their own: (b, t, v) -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btv->btv", "products": []}

    def build(self, input_shape: Any) -> None:
        self.bias = self.add_weight(name="bias", shape=input_shape[-1:], initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        return x + self.bias
