"""Graphs derived from a trained model: one step of decoding, encoding once, looking inside.

Each is wired by the functions that wired the model, from the model's own layers. So it shares
every weight, also with a model that was loaded from disk, and nothing is written twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras

from builders.attention import heads_first
from builders.cache import KeyValueCache, cache_entries, memory_entries
from builders.models import (
    decode,
    decoder_only,
    embeddings,
    encode,
    encoder_decoder,
    encoder_inputs,
    encoder_only,
    logits,
    target_embedding,
)
from builders.registry import unknown_name
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any


def build_decode_step(
    model: keras.Model,
    spec: TransformerSpec,
    batch_size: int | None = 1,
    num_tokens: int | None = 1,
    max_length: int | None = None,
) -> keras.Model:
    """Build the graph that reads new tokens after those in a cache.

    {"tokens": int (b, t), "index": int (), "start": int (b,), "cache": {name: array}}
    -> {"logits": (b, t, v), "hidden": (b, t, d), "cache": {name: array}}.

    `index` tokens have been read before; the new ones go to the slots after them. `start` is the
    slot of each row's first token: zeros, unless rows of unequal length are padded on the left,
    and what stands before it is seen by nobody. `hidden` is what the logits are made from. The
    cache starts as `empty_cache` gives it, for an encoder-decoder together with that of
    `build_encode`. Nothing checks that it has slots left: past the last one, new tokens take the
    places of the oldest.

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
            "build_decode_step takes a spec with a decoder, given one of kind='encoder_only', "
            "which reads and does not write; use kind='decoder_only' or 'encoder_decoder'"
        )
    scope = LayerScope(model)
    dtype = _compute_dtype(model)
    tokens = keras.Input(batch_shape=(batch_size, num_tokens), dtype="int32", name="tokens")
    index = keras.Input(batch_shape=(), dtype="int32", name="index")
    start = keras.Input(batch_shape=(batch_size,), dtype="int32", name="start")
    entries = {
        **cache_entries(spec, batch_size, max_length, dtype),
        **memory_entries(spec, batch_size, None, dtype),
    }
    cache = {
        name: keras.Input(batch_shape=shape, dtype=kind, name=name)
        for name, (shape, kind) in entries.items()
    }
    scope.cache = KeyValueCache(cache, index, start, takes_several=num_tokens != 1)

    embedding = target_embedding(scope, spec)
    hidden = decode(scope, spec, tokens, embedding, memory_mask=cache.get("encoder.memory_mask"))
    step = DerivedGraph(
        {"tokens": tokens, "index": index, "start": start, "cache": cache},
        {
            "logits": logits(scope, spec, hidden, embedding),
            "hidden": hidden,
            "cache": scope.cache.entries,
        },
        name="decode_step",
    )
    return _sharing(model, step, "decoder.", "logits")


def empty_cache(
    model: keras.Model, spec: TransformerSpec, batch_size: int = 1, max_length: int | None = None
) -> dict[str, Any]:
    """Return the cache that the first decode step of a sequence starts from.

    An encoder-decoder needs that of `build_encode` beside it: `{**empty_cache(...), **encoded}`.

    Args:
        model: as built from `spec`, or loaded; the cache is in its precision.
        spec: of the model.
        batch_size: rows.
        max_length: tokens to remember; `None`: as many as the model takes.
    """
    length = spec.max_sequence_length if max_length is None else max_length
    entries = cache_entries(spec, batch_size, length, _compute_dtype(model))
    return {name: keras.ops.zeros(shape, dtype) for name, (shape, dtype) in entries.items()}


def build_encode(model: keras.Model, spec: TransformerSpec) -> keras.Model:
    """Build the graph that reads a source once, for all steps of decoding.

    int (b, s) -> {"memory": (b, s, d), "cache": {name: array}}: the encoder's output, and what
    the decode step needs of it, the keys and values of every cross-attention.

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
    scope = LayerScope(model)
    source = keras.Input((None,), dtype="int32", name="source")
    memory, mask = encode(scope, spec, source, embeddings(scope, spec)[0])
    cache = {} if mask is None else {"encoder.memory_mask": mask}
    for i in range(spec.num_layers):
        part = scope.within("decoder").within(f"block_{i}").within("cross_attention")
        for role in ("key", "value"):
            cache[part.full_name(f"{role}_cache")] = heads_first(part, spec, role, memory)
    outputs = {"memory": memory, "cache": cache}
    return _sharing(model, DerivedGraph(source, outputs, name="encode"), "encoder.")


def build_probe(
    model: keras.Model, spec: TransformerSpec, what: str | Sequence[str] = "attention_scores"
) -> keras.Model:
    """Build the graph that gives out what is inside a model: same inputs, {name: array}.

    Args:
        model: as built from `spec`, or loaded.
        spec: of the model.
        what: `attention_scores`: for each attention, such as `decoder.block_0.self_attention`,
            the weights after the softmax, (b, n, t, s), whose rows sum to 1 (the word is that of
            `keras.layers.MultiHeadAttention`); or names of layers, such as
            `decoder.block_0.feedforward.up`, whose outputs are wanted. In attention, the layers
            `scores`, `softmax` and `weighted_values` are there too, even where the model fuses
            them.

    Raises:
        ValueError: no such layer, or the model was not built from this spec.
    """
    scope = ProbeScope(model)
    if spec.kind == "encoder_decoder":
        inputs: Any = {
            name: keras.Input((None,), dtype="int32", name=name) for name in ("source", "target")
        }
        encoder_decoder(scope, spec, **inputs)
    elif spec.kind == "encoder_only":
        inputs = encoder_inputs(spec)
        encoder_only(scope, spec, **inputs)
        inputs = inputs if len(inputs) > 1 else inputs["tokens"]
    else:
        inputs = keras.Input((None,), dtype="int32", name="tokens")
        decoder_only(scope, spec, inputs)
    found = scope.outputs
    if what == "attention_scores":
        ending = ".softmax"
        shown = {n.removesuffix(ending): x for n, x in found.items() if n.endswith(ending)}
    else:
        names = [what] if isinstance(what, str) else list(what)
        for name in names:
            if name not in found:
                raise ValueError(unknown_name("layer", name, ["attention_scores", *found]))
        shown = {name: found[name] for name in names}
    return _sharing(model, DerivedGraph(inputs, shown, name="probe"))


class DerivedGraph(keras.Model):
    """A Functional model that takes arrays and backend tensors side by side, dicts in any order.

    (A step is called with new tokens and with what the step before gave; Keras refuses a mixture,
    and with PyTorch goes by the order of a dict.)
    """

    def __call__(self, inputs: Any, **kwargs: Any) -> Any:
        return super().__call__(_tensors(inputs, self.input), **kwargs)


def _tensors(given: Any, wanted: Any) -> Any:
    """Return arrays as tensors, in the order in which a graph has its inputs."""
    if not isinstance(wanted, dict):
        return given if keras.backend.is_keras_tensor(given) else keras.ops.convert_to_tensor(given)
    for name in wanted:
        if name not in given:
            raise ValueError(f"input {name!r} is missing; given: {', '.join(given)}")
    return {name: _tensors(given[name], value) for name, value in wanted.items()}


class ProbeScope(LayerScope):
    """The scope of an existing model that keeps the output of every layer that is called.

    Attributes:
        outputs: by name; of a layer that is called twice, the last.
    """

    def __init__(self, model: keras.Model) -> None:
        super().__init__(model)
        self.shows_scores = True
        self.outputs: dict[str, Tensor] = {}

    def layer(self, name: str, cls: type, /, *args: Any, **kwargs: Any) -> Any:
        """Return the layer `name`, in a function that calls it and keeps what it gives."""
        layer: Any = super().layer(name, cls, *args, **kwargs)

        def call(*inputs: Tensor, **options: Any) -> Tensor:
            output = layer(*inputs, **options)
            self.outputs[layer.name] = output
            return output

        return call


def _compute_dtype(model: keras.Model) -> str:
    return next(layer.compute_dtype for layer in model.layers if layer.weights)


def _sharing(model: keras.Model, derived: keras.Model, *sides: str) -> keras.Model:
    """Return a derived graph that reads the model's weights, and all of those on some sides."""
    advice = "; use the spec that the model was built from"
    shared = {id(weight) for weight in model.weights}
    used = {id(weight) for weight in derived.weights}
    strange = [weight.path for weight in derived.weights if id(weight) not in shared]
    if strange:
        raise ValueError(f"the model has no weights {_some(strange)}, as its spec says{advice}")
    unused = [
        weight.path
        for weight in model.weights
        # A decode step has the keys and values of the source from its cache.
        if weight.path.startswith(sides)
        and ".cross_attention." not in weight.path
        and id(weight) not in used
    ]
    if unused:
        raise ValueError(f"the model has weights {_some(unused)}, unlike its spec{advice}")
    return derived


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
