"""Graphs derived from a model: decode step, encoding of a source, packed documents, and probe.

Each is wired by the functions that wired the model, from the layers of the model. So it shares
every weight, also with a model that was loaded from disk, and no wiring is written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from builders.attention import new_entries
from builders.attention_context import AttentionContext
from builders.cache import KeyValueCache, cache_entries, memory_entries
from builders.components import component
from builders.embeddings import source_embedding, target_embedding
from builders.errors import unknown_name
from builders.heads import logits
from builders.memory import paused_collection
from builders.model_checks import check_spec_of_model
from builders.models import as_input, decoder, decoder_only, encoder, symbolic_inputs, wire
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


@paused_collection()
def build_decode_step(
    model: keras.Model,
    spec: TransformerSpec,
    batch_size: int | None = 1,
    num_tokens: int | None = 1,
    max_length: int | None = None,
) -> keras.Model:
    """Build the graph that reads new tokens after the tokens in a cache.

    {"tokens": int (b, t), "index": int (), "start": int (b,), "cache": {name: array}}
    -> {"logits": (b, t, v), "hidden": (b, t, d), "cache": {name: array}}.

    `index` tokens have been read before; the new ones are written to the slots after them. `start`
    is the slot of each row's first token: zeros, unless rows of unequal length are padded on the
    left, and earlier slots are masked. `hidden` is the output of the decoder. The first cache is
    that of `empty_cache`, for an encoder-decoder together with that of `build_encode`. The number
    of free slots is not checked: after the last slot, new tokens replace the oldest.

    With `prefix_lm`, the tokens of the first step, that of index 0, are the prefix: they attend to
    each other in both directions, those of all later steps to earlier tokens. So a prompt must be
    read in one step.

    Args:
        model: as built from `spec`, or loaded.
        spec: of the model.
        batch_size: b; `None` takes any.
        num_tokens: t; `None` takes any.
        max_length: slots of the cache; `None` takes any.

    Raises:
        ValueError: the spec has no decoder, or the model was not built from it.
    """
    if spec.kind == "encoder_only":
        raise ValueError(
            "build_decode_step takes a spec with a decoder, given one of kind='encoder_only'; "
            "use kind='decoder_only' or 'encoder_decoder'"
        )
    check_spec_of_model(model, spec)
    scope = LayerScope(spec, model)
    dtype = _compute_dtype(model)
    tokens = keras.Input(batch_shape=(batch_size, num_tokens), dtype="int32", name="tokens")
    index = keras.Input(batch_shape=(), dtype="int32", name="index")
    start = keras.Input(batch_shape=(batch_size,), dtype="int32", name="start")
    entries = {
        **cache_entries(spec, batch_size, max_length, dtype),
        **memory_entries(spec, batch_size, None, dtype),
    }
    inputs = {
        name: keras.Input(batch_shape=shape, dtype=kind, name=name)
        for name, (shape, kind) in entries.items()
    }
    cache = KeyValueCache(inputs, index, start, takes_several=num_tokens != 1)
    memory_context = None
    if spec.kind == "encoder_decoder":
        memory_context = AttentionContext(inputs.get("encoder.memory_mask"), cache=cache)

    embedding = target_embedding(scope)
    hidden = decoder(
        scope.within("decoder"), tokens, embedding, memory_context=memory_context, cache=cache
    )
    return DerivedGraph(
        {"tokens": tokens, "index": index, "start": start, "cache": inputs},
        {"logits": logits(scope, hidden, embedding), "hidden": hidden, "cache": cache.entries},
        name="decode_step",
    )


def empty_cache(
    model: keras.Model, spec: TransformerSpec, batch_size: int = 1, max_length: int | None = None
) -> dict[str, Any]:
    """Return the cache for the first decode step of a sequence.

    An encoder-decoder also needs the cache of `build_encode`: `{**empty_cache(...), **encoded}`.

    Args:
        model: as built from `spec`, or loaded; the cache is in its precision.
        spec: of the model.
        batch_size: rows.
        max_length: slots of the cache; `None`: `max_sequence_length`. It may have more, but no more
            tokens than the model has positions may be read.
    """
    length = spec.max_sequence_length if max_length is None else max_length
    entries = cache_entries(spec, batch_size, length, _compute_dtype(model))
    return {name: keras.ops.zeros(shape, dtype) for name, (shape, dtype) in entries.items()}


@paused_collection()
def build_encode(model: keras.Model, spec: TransformerSpec) -> keras.Model:
    """Build the graph that encodes a source once, for all steps of decoding.

    int (b, s) -> {"memory": (b, s, d), "cache": {name: array}}: the output of the encoder, and the
    keys and values of every cross-attention, which the decode step takes.

    Args:
        model: as built from `spec`, or loaded.
        spec: of the model.

    Raises:
        ValueError: the spec has no encoder, or the model was not built from it.
    """
    if spec.kind != "encoder_decoder":
        raise ValueError(
            f"build_encode takes a spec of kind='encoder_decoder', given one of {spec.kind!r}, "
            "which has no encoder; use build_decode_step alone"
        )
    check_spec_of_model(model, spec)
    scope = LayerScope(spec, model)
    source = keras.Input((None,), dtype="int32", name="source")
    memory, mask = encoder(scope.within("encoder"), source, source_embedding(scope))
    cache = {} if mask is None else {"encoder.memory_mask": mask}
    for i in range(spec.num_layers):
        part = scope.within("decoder").block(i).within("cross_attention")
        for role, new in new_entries(part, memory, AttentionContext(mask)).items():
            cache[part.full_name(f"{role}_cache")] = new
    return DerivedGraph(source, {"memory": memory, "cache": cache}, name="encode")


@paused_collection()
def build_packed(model: keras.Model, spec: TransformerSpec) -> keras.Model:
    """Build the graph that reads several documents in a row as if each were alone.

    {"tokens": int (b, t), "documents": int (b, t)} -> logits (b, t, v). Consecutive tokens with
    equal numbers in `documents` are one document: no token attends to another one, and positions
    start at 0 in each. The mask and the positions are nodes of the graph, which shares all weights
    with the model, so that training it trains the model.

    Args:
        model: as built from `spec`, or loaded.
        spec: of the model.

    Raises:
        ValueError: another kind than `decoder_only`, `prefix_lm`, a `mixer` that cannot keep
            documents apart, or the model was not built from this spec.
    """
    if spec.kind != "decoder_only":
        raise ValueError(
            f"build_packed takes a spec of kind='decoder_only', given one of {spec.kind!r}"
        )
    if spec.prefix_lm:
        raise ValueError(
            "build_packed takes a spec of prefix_lm=False, since a row has one prefix, not one for "
            "each document; give each document a row of its own"
        )
    for mixer in dict.fromkeys(block.mixer for block in spec.blocks("decoder")):
        if not getattr(component("mixer", mixer), "keeps_documents_apart", False):
            raise ValueError(
                f"mixer={mixer!r} cannot keep the documents of a row apart: its class does not "
                "say keeps_documents_apart = True; train it on each document alone"
            )
    check_spec_of_model(model, spec)
    inputs = {
        name: keras.Input((None,), dtype="int32", name=name) for name in ("tokens", "documents")
    }
    return DerivedGraph(inputs, decoder_only(LayerScope(spec, model), **inputs), name="packed")


@paused_collection()
def build_probe(
    model: keras.Model, spec: TransformerSpec, what: str | Sequence[str] = "attention_scores"
) -> keras.Model:
    """Build the graph that returns internal activations of a model: same inputs, {name: array}.

    Args:
        model: as built from `spec`, or loaded.
        spec: of the model.
        what: `attention_scores`: for each attention, such as `decoder.block_0.self_attention`,
            the weights after the softmax, (b, n, t, s) (as `keras.layers.MultiHeadAttention` calls
            them), whose rows sum to 1, or to less with sinks; or names of layers, such as
            `decoder.block_0.feedforward.up`, whose outputs to return. Attention also has the layers
            `scores`, `softmax` and `weighted_values` here, even where the model fuses them.

    Raises:
        ValueError: no such layer, or the model was not built from this spec.
    """
    check_spec_of_model(model, spec)
    scope = ProbeScope(spec, model)
    inputs = symbolic_inputs(spec)
    wire(scope, inputs)
    found = scope.outputs
    if what == "attention_scores":
        suffix = ".softmax"
        shown = {n.removesuffix(suffix): x for n, x in found.items() if n.endswith(suffix)}
    else:
        names = [what] if isinstance(what, str) else list(what)
        for name in names:
            if name not in found:
                raise ValueError(unknown_name("layer", name, ["attention_scores", *found]))
        shown = {name: found[name] for name in names}
    return DerivedGraph(as_input(inputs), shown, name="probe")


@keras.saving.register_keras_serializable(package="builders")
class DerivedGraph(keras.Model):
    """A Functional model that takes a mix of arrays and backend tensors, in dicts of any order.

    A step is called with new tokens and the cache of the step before. Keras refuses such a mix, and
    on PyTorch depends on the order of a dict.
    """

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        return super().__call__(_tensors(inputs, self.input), **kwargs)


def _tensors(given: Any, wanted: Any) -> Any:
    """Return arrays as tensors, in the order of the inputs of a graph."""
    if not isinstance(wanted, dict):
        return given if keras.backend.is_keras_tensor(given) else keras.ops.convert_to_tensor(given)
    for name in wanted:
        if name not in given:
            raise ValueError(f"input {name!r} is missing; given: {', '.join(given)}")
    return {name: _tensors(given[name], value) for name, value in wanted.items()}


class ProbeScope(LayerScope):
    """The scope of an existing model that records the output of every layer that is called.

    Attributes:
        outputs: by name of the layer, in blocks that share layers by place in the stack; of a
            layer that is called twice at one place, the last output.
    """

    def __init__(self, spec: TransformerSpec, model: keras.Model) -> None:
        super().__init__(spec, model)
        self.exposes_scores = True
        self.outputs: dict[str, Tensor] = {}

    def layer(self, name: str, cls: type, /, *args: Any, **kwargs: Any) -> Any:
        """Return the layer `name`, in a function that calls it and records its output."""
        layer: Any = super().layer(name, cls, *args, **kwargs)
        name_of_call = self.full_name(name)

        def call(*inputs: Tensor, **options: Any) -> Tensor:
            output = layer(*inputs, **options)
            self.outputs[name_of_call] = output
            return output

        return call


def _compute_dtype(model: keras.Model) -> str:
    return next(layer.compute_dtype for layer in model.layers if layer.weights)
