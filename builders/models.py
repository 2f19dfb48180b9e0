"""Whole models: each a wiring from token tensors to logits, and a `build_*` that closes it."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.abstract import AbstractModel, without_weights
from builders.attention import soft_cap
from builders.blocks import decoder_block, encoder_block
from builders.feedforward import dropout
from builders.initializers import embedding_initializer, initializer
from builders.masks import AttentionContext, causal_mask, padding_mask
from builders.norms import norm
from builders.positions import position_scheme, token_positions
from builders.registry import component, variant
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


def build_decoder_only(
    spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any
) -> keras.Model:
    """Build a decoder-only Transformer: tokens, int (b, t) -> logits, float (b, t, v).

    The logits at position t are of the token at t + 1, and depend on no token after t.

    Args:
        spec: a spec, or the name of a variant.
        abstract: leave out the weights: a model to count and to draw, of any size.
        changes: spec fields to change first.

    Raises:
        ValueError: an unknown variant or field, a value that is not allowed, or a spec of another
            kind. Called later on a longer sequence than `max_sequence_length`, the model raises
            it too.
    """
    spec = _spec_of_kind("decoder_only", spec, changes)
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    with without_weights() if abstract else nullcontext():
        logits = decoder_only(LayerScope(), spec, tokens)
    return _model_class(abstract)(tokens, logits, name="decoder_only")


def build_encoder_decoder(
    spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any
) -> keras.Model:
    """Build an encoder-decoder Transformer ("Attention Is All You Need", figure 1).

    {"source": int (b, s), "target": int (b, t)} -> logits, float (b, t, v). The logits at
    position t are of the target token at t + 1; they depend on the whole source, and on no target
    token after t.

    Args:
        spec: a spec, or the name of a variant.
        abstract: leave out the weights, as in `build_decoder_only`.
        changes: spec fields to change first.

    Raises:
        ValueError: as in `build_decoder_only`.
    """
    spec = _spec_of_kind("encoder_decoder", spec, changes)
    source = keras.Input((None,), dtype="int32", name="source")
    target = keras.Input((None,), dtype="int32", name="target")
    with without_weights() if abstract else nullcontext():
        logits = encoder_decoder(LayerScope(), spec, source, target)
    inputs = {"source": source, "target": target}
    return _model_class(abstract)(inputs, logits, name="encoder_decoder")


def build_encoder_only(
    spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any
) -> keras.Model:
    """Build an encoder-only Transformer (Devlin et al. 2019, BERT): a vector for every token.

    Tokens, int (b, s) -> {"hidden": (b, s, d), "pooled": (b, d), "logits": (b, s, v)}, the second
    with a `pooler`, the third with a `masked_lm_head`. With `num_segments`, it is called with
    {"tokens": int (b, s), "segments": int (b, s)}. Every output depends on all tokens that are no
    padding.

    Args:
        spec: a spec, or the name of a variant.
        abstract: leave out the weights, as in `build_decoder_only`.
        changes: spec fields to change first.

    Raises:
        ValueError: as in `build_decoder_only`.
    """
    spec = _spec_of_kind("encoder_only", spec, changes)
    inputs = encoder_inputs(spec)
    with without_weights() if abstract else nullcontext():
        outputs = encoder_only(LayerScope(), spec, **inputs)
    given = inputs if len(inputs) > 1 else inputs["tokens"]
    return _model_class(abstract)(given, outputs, name="encoder_only")


def encoder_inputs(spec: TransformerSpec) -> dict[str, Tensor]:
    """Return the inputs of an encoder-only model by name, each int (b, s)."""
    names = ("tokens", "segments") if spec.num_segments else ("tokens",)
    return {name: keras.Input((None,), dtype="int32", name=name) for name in names}


def build(spec: TransformerSpec, *, abstract: bool = False) -> keras.Model:
    """Build the model of a spec, whatever its kind; `abstract` leaves out its weights."""
    builders = {
        "decoder_only": build_decoder_only,
        "encoder_decoder": build_encoder_decoder,
        "encoder_only": build_encoder_only,
    }
    return builders[spec.kind](spec, abstract=abstract)


def _model_class(abstract: bool) -> type[keras.Model]:
    return AbstractModel if abstract else keras.Model


def decoder_only(scope: LayerScope, spec: TransformerSpec, tokens: Tensor) -> Tensor:
    """Wire tokens, int (b, t) -> logits (b, t, v)."""
    embedding = target_embedding(scope, spec)
    return logits(scope, spec, decode(scope, spec, tokens, embedding), embedding)


def encoder_decoder(
    scope: LayerScope, spec: TransformerSpec, source: Tensor, target: Tensor
) -> Tensor:
    """Wire source, int (b, s), and target, int (b, t) -> logits (b, t, v)."""
    source_embedding, target_embedding = embeddings(scope, spec)
    memory, memory_mask = encode(scope, spec, source, source_embedding)
    x = decode(scope, spec, target, target_embedding, memory, memory_mask)
    return logits(scope, spec, x, target_embedding)


def encoder_only(
    scope: LayerScope, spec: TransformerSpec, tokens: Tensor, segments: Tensor | None = None
) -> dict[str, Tensor]:
    """Wire tokens and their segments, int (b, s) -> what `build_encoder_only` says."""
    embedding = token_embedding(scope.within("encoder"), spec)
    x, _ = encode(scope, spec, tokens, embedding, segments)
    outputs = {"hidden": x}
    if spec.pooler:
        outputs["pooled"] = pool(scope.within("pooler"), spec, x)
    if spec.masked_lm_head:
        head = masked_lm_head(scope.within("masked_lm_head"), spec, x)
        outputs["logits"] = logits(scope, spec, head, embedding)
    return outputs


def encode(
    scope: LayerScope,
    spec: TransformerSpec,
    source: Tensor,
    embedding: keras.layers.Layer,
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Wire the encoder: source, int (b, s) -> memory (b, s, d) and its mask, bool (b, 1, s)."""
    encoder = scope.within("encoder")
    mask = padding_mask(encoder, spec, source)
    positions = token_positions(encoder, source)
    x = embed(encoder, spec, source, embedding, positions, segments)  # (b, s, d)
    bias = position_scheme(spec).bias(encoder, spec, positions, positions, causal=False)
    view = AttentionContext(mask, positions, bias)
    for i in range(spec.num_encoder_layers):
        x = encoder_block(encoder.within(f"block_{i}"), spec, x, view)
    return final_norm_and_dropout(encoder, spec, x), mask


def decode(
    scope: LayerScope,
    spec: TransformerSpec,
    tokens: Tensor,
    embedding: keras.layers.Layer,
    memory: Tensor | None = None,
    memory_mask: Tensor | None = None,
) -> Tensor:
    """Wire the decoder: tokens, int (b, t), and memory (b, s, d) where there is an encoder.

    Returns what the logits are made from, (b, t, d).
    """
    decoder = scope.within("decoder")
    views = causal_views(decoder, spec, tokens)
    x = embed(decoder, spec, tokens, embedding, views[spec.windows[0]].positions)  # (b, t, d)
    for i, window in enumerate(spec.windows):
        block = decoder.within(f"block_{i}")
        x = decoder_block(block, spec, x, views[window], memory, memory_mask)
    return final_norm_and_dropout(decoder, spec, x)


def causal_views(
    scope: LayerScope, spec: TransformerSpec, tokens: Tensor
) -> dict[int | None, AttentionContext]:
    """Wire what the tokens (b, t) of a decoder may look at, for each window that a block has."""
    padding = None
    if spec.target_pad_token_id is not None and scope.cache is None:  # which knows it itself
        padding = padding_mask(scope, spec, tokens)
    positions = token_positions(scope, tokens)
    views = {}
    for window in dict.fromkeys(spec.windows):  # in order, so that graphs are always the same
        mask = causal_mask(scope, spec, tokens, padding, window)
        keys = positions if scope.cache is None else scope.cache.key_positions(scope, window)
        bias = position_scheme(spec).bias(scope, spec, positions, keys, causal=True)
        views[window] = AttentionContext(mask, positions, bias, window)
    return views


def embeddings(
    scope: LayerScope, spec: TransformerSpec
) -> tuple[keras.layers.Layer, keras.layers.Layer]:
    """Return the token embeddings of source and target: one layer twice where they share it."""
    target = target_embedding(scope, spec)
    if spec.share_embeddings:
        return target, target
    return token_embedding(scope.within("encoder"), spec, spec.source_vocabulary_size), target


def target_embedding(scope: LayerScope, spec: TransformerSpec) -> keras.layers.Layer:
    """Return the token embedding of what the decoder reads and writes."""
    if spec.share_embeddings:
        return token_embedding(scope, spec)
    return token_embedding(scope.within("decoder"), spec)


def token_embedding(
    scope: LayerScope, spec: TransformerSpec, vocabulary_size: int | None = None
) -> keras.layers.Layer:
    """Return the layer from tokens (b, t) to vectors (b, t, d); its table is (v, d)."""
    return scope.layer(
        "token_embedding",
        TokenEmbedding,
        vocabulary_size or spec.vocabulary_size,
        spec.embedding_dim,
        embeddings_initializer=embedding_initializer(spec, "token_embedding"),
    )


def embed(
    scope: LayerScope,
    spec: TransformerSpec,
    tokens: Tensor,
    embedding: keras.layers.Layer,
    positions: Tensor,
    segments: Tensor | None = None,
) -> Tensor:
    """Wire what the first block reads: int (b, t), positions int (1 or b, t) -> (b, t, d)."""
    x = embedding(tokens)
    if spec.embedding_dim != spec.hidden_dim:
        x = _project(scope, spec, "embedding_projection", x, spec.embedding_dim, spec.hidden_dim)
    if spec.scale_embeddings:
        x = scope.layer("scale_embedding", Scale, spec.hidden_dim**0.5)(x)
    if segments is not None:
        table = scope.layer(
            "segment_embedding",
            keras.layers.Embedding,
            spec.num_segments,
            spec.hidden_dim,
            embeddings_initializer=embedding_initializer(spec, "segment_embedding"),
        )
        x = scope.layer("add_segments", keras.layers.Add)([x, table(segments)])
    x = position_scheme(spec).embed(scope, spec, x, positions)
    if spec.embedding_norm:
        x = norm(scope, spec, x, "embedding_norm")
    return dropout(scope, spec.embedding_dropout, x, "embedding_dropout")


def final_norm_and_dropout(scope: LayerScope, spec: TransformerSpec, x: Tensor) -> Tensor:
    """Wire the norm and the dropout after the last block of a stack, where the spec has them."""
    x = norm(scope, spec, x, "final_norm") if spec.final_norm else x
    return dropout(scope, spec.final_dropout, x, "final_dropout")


def logits(
    scope: LayerScope, spec: TransformerSpec, x: Tensor, embedding: keras.layers.Layer
) -> Tensor:
    """Wire the output: (b, t, d) -> (b, t, v), by the embedding's own table where tied."""
    d, v = spec.hidden_dim, spec.vocabulary_size
    if spec.scale_logits:
        x = scope.layer("scale_logits", Scale, d**-0.5)(x)
    if spec.tie_embeddings:
        if spec.embedding_dim != d:
            x = _project(scope, spec, "logit_projection", x, d, spec.embedding_dim)
        x = embedding(x, reverse=True)
        x = scope.layer("logits", AddBias)(x) if spec.logit_bias else x
    else:
        x = scope.layer(
            "logits",
            keras.layers.Dense,
            v,
            use_bias=spec.logit_bias,
            kernel_initializer=initializer(spec, "logits", fan_in=d, fan_out=v),
        )(x)
    return soft_cap(scope, spec.logit_soft_cap, x, "logit_soft_cap")


def masked_lm_head(scope: LayerScope, spec: TransformerSpec, x: Tensor) -> Tensor:
    """Wire what comes before the logits of an encoder: (b, s, d) -> norm(activation(W x))."""
    d = spec.hidden_dim
    layer = scope.layer(
        "dense",
        keras.layers.Dense,
        d,
        activation=component("activation", spec.activation),
        kernel_initializer=initializer(spec, "masked_lm_head", fan_in=d, fan_out=d),
    )
    return norm(scope, spec, layer(x))


def pool(scope: LayerScope, spec: TransformerSpec, x: Tensor) -> Tensor:
    """Wire one vector for the whole sequence: (b, s, d) -> tanh(W x[0]), (b, d)."""
    d = spec.hidden_dim
    layer = scope.layer(
        "dense",
        keras.layers.Dense,
        d,
        activation="tanh",
        kernel_initializer=initializer(spec, "pooler", fan_in=d, fan_out=d),
    )
    return layer(scope.layer("first_token", FirstToken)(x))


def _project(
    scope: LayerScope, spec: TransformerSpec, name: str, x: Tensor, fan_in: int, fan_out: int
) -> Tensor:
    """Wire a projection without a bias, (b, t, fan_in) -> (b, t, fan_out)."""
    start = initializer(spec, name, fan_in=fan_in, fan_out=fan_out)
    layer = keras.layers.Dense
    return scope.layer(name, layer, fan_out, use_bias=False, kernel_initializer=start)(x)


@keras.saving.register_keras_serializable(package="builders")
class FirstToken(keras.layers.Layer):
    """What stands first in a sequence: (b, s, d) -> (b, d)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btd->bd"}

    def call(self, x: Tensor) -> Tensor:
        return x[:, 0]

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor((x.shape[0], x.shape[2]), dtype=x.dtype)


@keras.saving.register_keras_serializable(package="builders")
class TokenEmbedding(keras.layers.ReversibleEmbedding):
    """The library's layer, but for the tied logits of one token a row, as in decoding.

    There the table (v, d) stands first in the product, as it lies in memory. XLA on a CPU does
    not fold the transposition of a table into the product with one vector.
    """

    def call(self, inputs: Tensor, reverse: bool = False) -> Tensor:
        if not reverse or inputs.shape[1] != 1:
            return super().call(inputs, reverse=reverse)
        columns = ops.matmul(self.embeddings, ops.transpose(inputs[:, 0]))  # (v, b)
        # With a third axis, since XLA takes a transposed product for one of swapped sides.
        return ops.transpose(columns[None], (2, 0, 1))


@keras.saving.register_keras_serializable(package="builders")
class Scale(keras.layers.Layer):
    """x times a constant. (`keras.layers.Rescaling` asks for TensorFlow on every backend.)"""

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


@keras.saving.register_keras_serializable(package="builders")
class AddBias(keras.layers.Layer):
    """x + bias, for logits that have a bias but no kernel of their own: (b, t, v) -> same."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "btv->btv", "products": []}

    def build(self, input_shape: Any) -> None:
        self.bias = self.add_weight(name="bias", shape=input_shape[-1:], initializer="zeros")

    def call(self, x: Tensor) -> Tensor:
        return x + self.bias


def _spec_of_kind(
    kind: str, spec: TransformerSpec | str, changes: dict[str, Any]
) -> TransformerSpec:
    if isinstance(spec, str):
        return variant(spec, **{"kind": kind, **changes})
    if not isinstance(spec, TransformerSpec):
        raise TypeError(
            f"build_{kind} takes a TransformerSpec or the name of a variant, "
            f"not {type(spec).__name__}"
        )
    if changes:
        spec = spec.replace(**changes)
    if spec.kind != kind:
        raise ValueError(
            f"build_{kind} takes a spec of kind={kind!r}, given one of {spec.kind!r}; "
            f"use build_{spec.kind}, or spec.replace(kind={kind!r})"
        )
    return spec
