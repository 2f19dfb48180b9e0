"""The three models: for each, a function that wires it and a `build_*` that returns the model."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import keras

from builders.abstract import AbstractModel, variables_are_allocated, without_weights
from builders.attention_context import (
    AttentionContext,
    bidirectional_contexts,
    causal_contexts,
    token_positions,
)
from builders.blocks import decoder_block, encoder_block, stack
from builders.cache import KeyValueCache
from builders.counting import count_parameters, custom_component
from builders.documents import document_starts
from builders.embeddings import embed, source_embedding, target_embedding, token_embedding
from builders.heads import class_logits, final_norm_and_dropout, logits, masked_lm_head, pool
from builders.masks import padding_mask
from builders.memory import check_memory, paused_collection
from builders.registry import as_spec
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


def decoder_only(
    scope: LayerScope,
    tokens: Tensor,
    prefix_length: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """Wire tokens (b, t), and the lengths or documents of `decoder` -> logits (b, t, v)."""
    embedding = target_embedding(scope)
    part = scope.within("decoder")
    x = decoder(part, tokens, embedding, prefix_length=prefix_length, documents=documents)
    return logits(scope, x, embedding)


def encoder_decoder(scope: LayerScope, source: Tensor, target: Tensor) -> Tensor:
    """Wire source, int (b, s), and target, int (b, t) -> logits (b, t, v)."""
    embedding = target_embedding(scope)
    memory, mask = encoder(scope.within("encoder"), source, source_embedding(scope))  # (b, s, d)
    x = decoder(scope.within("decoder"), target, embedding, memory, AttentionContext(mask))
    return logits(scope, x, embedding)


def encoder_only(
    scope: LayerScope, tokens: Tensor, segments: Tensor | None = None
) -> dict[str, Tensor]:
    """Wire tokens and their segments, int (b, s) -> the outputs of `build_encoder_only`."""
    spec = scope.spec
    embedding = token_embedding(scope.within("encoder"), spec.vocabulary_size)
    x, padding = encoder(scope.within("encoder"), tokens, embedding, segments)
    outputs = {"hidden": x}
    if spec.pooler:
        outputs["pooled"] = pool(scope.within("pooler"), x)
    if spec.masked_lm_head:
        head = masked_lm_head(scope.within("masked_lm_head"), x)
        outputs["logits"] = logits(scope, head, embedding)
    if spec.classes:
        part = scope.within("classifier")
        outputs["class_logits"] = class_logits(part, x, padding, outputs.get("pooled"))
    return outputs


def decoder(
    scope: LayerScope,
    tokens: Tensor,
    embedding: keras.layers.Layer,
    memory: Tensor | None = None,
    memory_context: AttentionContext | None = None,
    cache: KeyValueCache | None = None,
    prefix_length: Tensor | None = None,
    documents: Tensor | None = None,
) -> Tensor:
    """Wire the decoder: tokens, int (b, t) -> hidden states (b, t, d).

    x = embed(tokens); x = block(x) for every block, with the equations of `builders.blocks`; then
    a final norm, by default where no block norm is on the stream (pre-norm), and dropout.

    Args:
        scope: of the decoder.
        tokens: int (b, t).
        embedding: the token embedding.
        memory: output of the encoder, (b, s, d), where there is one.
        memory_context: of its cross-attention.
        cache: in a decode graph, the keys and values of earlier tokens and of the memory.
        prefix_length: of a prefix language model, int (b,), the tokens at the start of each row
            that attend to each other in both directions.
        documents: in a packed graph, int (b, t), the number of each token's document, which
            attention does not leave.
    """
    starts = None if documents is None else document_starts(scope, documents)
    positions = token_positions(scope, tokens, cache, starts)
    contexts = causal_contexts(scope, tokens, positions, cache, starts, prefix_length)
    x = embed(scope, tokens, embedding, positions)  # (b, t, d)

    def block(part: LayerScope, y: Tensor) -> Tensor:
        return decoder_block(part, y, contexts[part.block_index], memory, memory_context)

    return final_norm_and_dropout(scope, stack(scope, x, positions, block))


def encoder(
    scope: LayerScope,
    source: Tensor,
    embedding: keras.layers.Layer,
    segments: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """Wire the encoder: source, int (b, s) -> memory (b, s, d) and its mask, bool (b, 1, s)."""
    padding = padding_mask(scope, source)
    positions = token_positions(scope, source)
    contexts = bidirectional_contexts(scope, source, positions, padding)
    x = embed(scope, source, embedding, positions, segments)  # (b, s, d)

    def block(part: LayerScope, y: Tensor) -> Tensor:
        return encoder_block(part, y, contexts[part.block_index])

    return final_norm_and_dropout(scope, stack(scope, x, positions, block)), padding


def build_decoder_only(
    spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any
) -> keras.Model:
    """Build a decoder-only Transformer: tokens, int (b, t) -> logits, float (b, t, v).

    The logits at position t predict the token at t + 1 and depend on no token after t.

    With `prefix_lm`, the input is {"tokens": int (b, t), "prefix_length": int (b,)}: the first
    `prefix_length` tokens of a row attend to each other in both directions, so that logits before
    the last of them depend on the token that they would predict. A prefix of 0 or 1 tokens leaves
    all causal. It is one model with two inputs, and no second graph, so that the graph that is
    saved, drawn and checked is the one that is trained.

    Args:
        spec: a spec, or the name of a variant.
        abstract: build without weights: a model of any size, to count and to draw.
        changes: spec fields to change first.

    Raises:
        ValueError: an unknown variant or field, a value that is not allowed, or a spec of another
            kind, or weights that do not fit into memory. With learned or sinusoidal positions, a
            call of the model with a sequence longer than `max_sequence_length` raises it too.
    """
    return build(_spec_of_kind("decoder_only", spec, changes), abstract=abstract)


def build_encoder_decoder(
    spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any
) -> keras.Model:
    """Build an encoder-decoder Transformer ("Attention Is All You Need", figure 1).

    {"source": int (b, s), "target": int (b, t)} -> logits, float (b, t, v). The logits at
    position t predict the target token at t + 1. They depend on the whole source, and on no target
    token after t.

    Args:
        spec: a spec, or the name of a variant.
        abstract: build without weights, as in `build_decoder_only`.
        changes: spec fields to change first.

    Raises:
        ValueError: as in `build_decoder_only`.
    """
    return build(_spec_of_kind("encoder_decoder", spec, changes), abstract=abstract)


def build_encoder_only(
    spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any
) -> keras.Model:
    """Build an encoder-only Transformer (Devlin et al. 2019, BERT): a vector for every token.

    Tokens, int (b, s) -> {"hidden": (b, s, d), "pooled": (b, d), "logits": (b, s, v),
    "class_logits": (b, c)}, the second with a `pooler`, the third with a `masked_lm_head`, and the
    last with `classes`. With `num_segments`, the input is
    {"tokens": int (b, s), "segments": int (b, s)}. Every output depends on all tokens that are not
    padding.

    Args:
        spec: a spec, or the name of a variant.
        abstract: build without weights, as in `build_decoder_only`.
        changes: spec fields to change first.

    Raises:
        ValueError: as in `build_decoder_only`.
    """
    return build(_spec_of_kind("encoder_only", spec, changes), abstract=abstract)


@paused_collection()
def build(spec: TransformerSpec | str, *, abstract: bool = False, **changes: Any) -> keras.Model:
    """Build the model of a spec of any kind, or of a variant as its first kind.

    Args:
        spec: a spec, or the name of a variant.
        abstract: build without weights, as in `build_decoder_only`.
        changes: spec fields to change first.

    Raises:
        ValueError: as in `build_decoder_only`.
    """
    spec = as_spec("build", spec, changes)
    if not abstract and variables_are_allocated() and not custom_component(spec):
        check_parameter_memory(count_parameters(spec).total)
    inputs = symbolic_inputs(spec)
    with without_weights() if abstract else nullcontext():
        outputs = wire(LayerScope(spec), inputs)
    model_class = AbstractModel if abstract else keras.Model
    return model_class(as_input(inputs), outputs, name=spec.kind)


def check_parameter_memory(parameters: int) -> None:
    """Check that so many parameters fit into the memory of this machine.

    Raises:
        ValueError: they do not.
    """
    size = 2 if str(keras.config.dtype_policy().variable_dtype).endswith("16") else 4
    advice = "reduce the sizes of the spec, or build it with abstract=True"
    check_memory(size * parameters, "weights", advice)


def symbolic_inputs(spec: TransformerSpec) -> dict[str, Tensor]:
    """Return the inputs of the model of a spec by name, int (b, t) or (b, s); lengths, int (b,)."""
    names: tuple[str, ...] = ("tokens",)
    if spec.kind == "encoder_decoder":
        names = ("source", "target")
    elif spec.num_segments:
        names = ("tokens", "segments")
    shapes: dict[str, tuple[None, ...]] = dict.fromkeys(names, (None,))
    if spec.prefix_lm:
        shapes["prefix_length"] = ()
    return {name: keras.Input(shape, dtype="int32", name=name) for name, shape in shapes.items()}


def wire(scope: LayerScope, inputs: dict[str, Tensor]) -> Any:
    """Wire the model of a scope's spec: the inputs of `symbolic_inputs` -> its outputs."""
    wirings: dict[str, Callable[..., Any]] = {
        "decoder_only": decoder_only,
        "encoder_decoder": encoder_decoder,
        "encoder_only": encoder_only,
    }
    return wirings[scope.spec.kind](scope, **inputs)


def as_input(inputs: dict[str, Tensor]) -> Any:
    """Return inputs in the structure that a model takes: one alone, or several by name."""
    return inputs if len(inputs) > 1 else next(iter(inputs.values()))


def _spec_of_kind(
    kind: str, spec: TransformerSpec | str, changes: dict[str, Any]
) -> TransformerSpec:
    if isinstance(spec, str):
        changes = {"kind": kind, **changes}
    spec = as_spec(f"build_{kind}", spec, changes)
    if spec.kind != kind:
        raise ValueError(
            f"build_{kind} takes a spec of kind={kind!r}, given one of {spec.kind!r}; "
            f"use build_{spec.kind}, or spec.replace(kind={kind!r})"
        )
    return spec
