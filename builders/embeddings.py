"""Token embeddings, and the input of the first block."""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import ops

from builders.elementwise import dropout, scale
from builders.initializers import constrained, embedding_initializer, initializer
from builders.norms import norm
from builders.positions import position_scheme
from builders.scope import LayerScope

Tensor = Any


def source_embedding(scope: LayerScope) -> keras.layers.Layer:
    """Return the token embedding of the encoder of an encoder-decoder."""
    spec = scope.spec
    if spec.share_embeddings:
        return target_embedding(scope)
    return token_embedding(scope.within("encoder"), spec.source_vocabulary_size)


def target_embedding(scope: LayerScope) -> keras.layers.Layer:
    """Return the token embedding of the decoder, which tied logits use too."""
    spec = scope.spec
    owner = scope if spec.share_embeddings else scope.within("decoder")
    return token_embedding(owner, spec.vocabulary_size)


def token_embedding(scope: LayerScope, vocabulary_size: int) -> keras.layers.Layer:
    """Return the layer from tokens (b, t) to vectors (b, t, d); its table is (v, d)."""
    return scope.layer(
        "token_embedding",
        TokenEmbedding,
        vocabulary_size,
        scope.spec.embedding_dim,
        **constrained(scope, embedding_initializer(scope, "token_embedding"), 1, "embeddings"),
    )


def embed(
    scope: LayerScope,
    tokens: Tensor,
    embedding: keras.layers.Layer,
    positions: Tensor,
    segments: Tensor | None = None,
) -> Tensor:
    """Wire the input of the first block: int (b, t), positions int (1 or b, t) -> (b, t, d)."""
    spec = scope.spec
    width = spec.embedding_sum_dim
    x = embedding(tokens)
    if spec.embedding_dim != width:
        x = linear(scope, "embedding_projection", x, spec.embedding_dim, width)
    factor = spec.hidden_dim**0.5 if spec.scale_embeddings else spec.embedding_scale or 1.0
    x = scale(scope, "scale_embedding", factor, x)
    if segments is not None:
        table = scope.layer(
            "segment_embedding",
            keras.layers.Embedding,
            spec.num_segments,
            width,
            embeddings_initializer=embedding_initializer(scope, "segment_embedding"),
        )
        x = scope.layer("add_segments", keras.layers.Add)([x, table(segments)])
    x = position_scheme(spec).embed(scope, x, positions)
    if spec.embedding_norm:
        x = norm(scope, x, "embedding_norm")
    x = dropout(scope, spec.embedding_dropout, x, "embedding_dropout")
    if width == spec.hidden_dim:
        return x
    return linear(scope, "embedding_projection", x, width, spec.hidden_dim, use_bias=True)


def linear(
    scope: LayerScope, name: str, x: Tensor, fan_in: int, fan_out: int, use_bias: bool = False
) -> Tensor:
    """Wire a projection between embeddings and stream, (b, t, fan_in) -> (b, t, fan_out)."""
    return scope.layer(
        name,
        keras.layers.Dense,
        fan_out,
        use_bias=use_bias,
        kernel_initializer=initializer(scope, name, fan_in=fan_in, fan_out=fan_out),
    )(x)


@keras.saving.register_keras_serializable(package="builders")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """The library's layer, except for the tied logits of one token per row, as in decoding.

    There the table (v, d) comes first in the product, in its layout in memory. XLA on a CPU does
    not fold the transposition of a table into the product with one vector.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"like": "ReversibleEmbedding"}

    def call(self, inputs: Tensor, reverse: bool = False) -> Tensor:
        if not reverse or inputs.shape[1] != 1:
            return super().call(inputs, reverse=reverse)
        columns = ops.matmul(self.embeddings, ops.transpose(inputs[:, 0]))  # (v, b)
        # XLA would rewrite a transposed product of two axes as the slow product of swapped sides.
        return ops.transpose(columns[None], (2, 0, 1))
