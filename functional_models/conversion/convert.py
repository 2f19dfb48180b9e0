"""Models of keras-nlp as models of ours, with the same weights, and back.

Nothing here knows a family: `functional_models.conversion.families` has the rows. What a spec
cannot say, and weights that nobody reads, are refused.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import builders
from functional_models.conversion.family import Family, Part
from functional_models.conversion.matching import family_of, family_that_computes, warn_of_ignored
from functional_models.conversion.weights import as_array, pairs_of_weights, refuse_unread
from functional_models.text_model import TextModel, text_model_of
from functional_models.tokenizers import Tokenizer, as_tokenizer


def from_keras_hub(source: Any, *, tokenizer: Any = None, **changes: Any) -> Any:
    """Return a model of ours with the weights and the tokenizer of one of keras-nlp.

    Logits and hidden states are the same at all tokens that are no padding (to rounding), and so
    is what the model gives for a text. Rates of dropout are those of the same places.

    Args:
        source: a backbone or task of `keras_hub.models` (GPT-2, OPT, GPT-NeoX, BLOOM, Llama,
            Llama 3, Mistral, Phi-3, Qwen, Qwen 3, Gemma, Gemma 2, BERT, RoBERTa, DistilBERT, BART,
            T5); or what its `from_preset` takes: the name of a preset, or a folder of keras-nlp's
            or of Hugging Face's.
        tokenizer: one of ours or of keras-nlp's; `None`: that of the task or preset. A backbone has
            none, and its model then takes no text before it gets one.
        changes: spec fields of which the source says nothing: `max_sequence_length` of models
            without a table of positions, and `pad_token_id`. Where keras-nlp does not apply a
            setting, a warning names the fields that may be given to do so.

    Returns:
        A `CausalLM`, a `Translator` or a `TextEncoder`.

    Raises:
        TypeError: it is none of these.
        ValueError: another family, a task with other heads, or a setting that a spec cannot say.
    """
    parts = _parts(source)
    backbone, head = parts.backbone, parts.head
    family, config = family_of(backbone)
    try:
        spec = family.spec(config)
    except ValueError as error:
        raise ValueError(f"{type(backbone).__name__}: {error}") from None
    allowed = [*family.defaults, *warn_of_ignored(family, config, changes)]
    for name in changes:
        if name not in allowed:
            raise ValueError(
                f"{name}={changes[name]!r}: the {family.backbone} has its own; what may be given: "
                f"{', '.join(allowed)}"
            )
    layers = dict(family.layers)
    if head is not None:
        spec = _with_head(spec, head)
        layers |= _HEAD_LAYERS
    wrapped = _tokenizer(parts.tokenizer if tokenizer is None else tokenizer, family)
    if wrapped is not None and spec.pad_token_id is not None:
        spec = spec.replace(pad_token_id=wrapped.pad_id)
    spec = spec.replace(**changes)
    with _precision(backbone.dtype_policy):
        model = builders.build(spec)
    pairs = pairs_of_weights(model, source if head is not None else backbone, layers)
    for ours, theirs, view in pairs:
        ours.assign(view(as_array(theirs)))
    read = {id(theirs) for _, theirs, _ in pairs}
    both = [backbone, *([] if head is None else [head])]
    refuse_unread([weight for part in both for weight in part.weights], read, family)
    return text_model_of(spec, model, {} if wrapped is None else _by_role(spec, wrapped))


def to_keras_hub(model: TextModel, backbone: str | None = None) -> Any:
    """Return a backbone of `keras_hub.models` with the weights of a model of ours.

    It is published by `backbone.save_to_preset(folder)`, or becomes a task by
    `keras_hub.models.CausalLM(backbone=backbone, preprocessor=...)` of its family.

    Args:
        model: whose spec one of keras-nlp's families computes, whatever its name is. Rates of
            dropout need not be theirs: they get `dropout`, or none where they have other places.
        backbone: the class, such as `"Llama3Backbone"`; `None`: the first that computes the spec
            (Llama, Llama 3, Phi-3 and a Mistral without a window differ in their names).

    Raises:
        TypeError: it is no `CausalLM`, `Translator` or `TextEncoder`.
        ValueError: no such class, or none that computes what the spec says; names the nearest and
            what differs.
    """
    import keras_hub

    if not isinstance(model, TextModel):
        raise TypeError(
            f"to_keras_hub takes a CausalLM, Translator or TextEncoder, not {type(model).__name__}"
        )
    spec = model.spec
    family = family_that_computes(spec, backbone)
    with _precision(model.model.dtype_policy):
        made = getattr(keras_hub.models, family.backbone)(**family.config(spec))
    pairs = pairs_of_weights(model.model, made, family.layers)
    arrays = {id(theirs): as_array(theirs).copy() for _, theirs, _ in pairs}
    for ours, theirs, view in pairs:
        view(arrays[id(theirs)])[...] = as_array(ours)
    for _, theirs, _ in pairs:
        theirs.assign(arrays[id(theirs)])
    refuse_unread(made.weights, set(arrays), family)
    return made


# Sources ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Parts:
    """What a source has: of most, only some."""

    backbone: Any
    head: Any = None  # of a masked language model
    tokenizer: Any = None


def _parts(source: Any) -> _Parts:
    import keras_hub

    if isinstance(source, str | Path):
        return _loaded(str(source))
    if isinstance(source, keras_hub.models.Backbone):
        return _Parts(source)
    if not isinstance(source, keras_hub.models.Task):
        raise TypeError(
            f"from_keras_hub takes a backbone or a task of keras_hub.models, the name of a preset "
            f"or a folder, not {type(source).__name__}"
        )
    preprocessor = source.preprocessor
    tokenizer = None if preprocessor is None else preprocessor.tokenizer
    if isinstance(source, keras_hub.models.MaskedLM):
        return _Parts(source.backbone, source.masked_lm_head, tokenizer)
    if not isinstance(source, keras_hub.models.CausalLM | keras_hub.models.Seq2SeqLM):
        raise ValueError(
            f"{type(source).__name__} has a head that no model here has; CausalLM, Seq2SeqLM and "
            "MaskedLM tasks can be taken over, and of others their .backbone"
        )
    return _Parts(source.backbone, None, tokenizer)


def _loaded(preset: str) -> _Parts:
    import keras_hub

    backbone = keras_hub.models.Backbone.from_preset(preset)
    try:
        tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
    except Exception as error:
        warnings.warn(
            f"{preset} has no tokenizer that keras-nlp can load ({type(error).__name__}: {error}); "
            "the model takes no text before it gets one, by from_keras_hub(..., tokenizer=...)",
            stacklevel=4,
        )
        tokenizer = None
    return _Parts(backbone, None, tokenizer)


def _tokenizer(tokenizer: Any, family: Family) -> Tokenizer | None:
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    wrapped = dataclasses.replace(as_tokenizer(tokenizer), ends_sources=True)
    if family.target_start == "padding":
        return dataclasses.replace(wrapped, start_id=wrapped.pad_id)
    # As keras-nlp's tasks do it, whatever `add_start_token` says, which is for training.
    named = getattr(tokenizer, "start_token_id", None)
    wrapped = dataclasses.replace(wrapped, input_start_id=named)
    if family.target_start == "end, start":
        return dataclasses.replace(wrapped, start_id=wrapped.end_id, second_start_id=named)
    return wrapped


def _by_role(spec: builders.TransformerSpec, tokenizer: Tokenizer) -> dict[str, Tokenizer]:
    if spec.kind == "encoder_decoder":
        return {"source_tokenizer": tokenizer, "target_tokenizer": tokenizer}
    return {"tokenizer": tokenizer}


# Heads ------------------------------------------------------------------------------------------

_HEAD_LAYERS: dict[str, str | Part] = {
    "masked_lm_head.dense": "masked_lm_head._intermediate_dense",
    "masked_lm_head.norm": "masked_lm_head._intermediate_layer_norm",
    "logits": "masked_lm_head._bias",
}


def _with_head(spec: builders.TransformerSpec, head: Any) -> builders.TransformerSpec:
    epsilon, activation = head.layer_norm_epsilon, head.intermediate_activation.__name__
    if (epsilon, activation) != (spec.norm_epsilon, spec.activation):
        raise ValueError(
            f"this MaskedLM task has activation={activation!r} and norm_epsilon={epsilon!r} in "
            f"its head, and {spec.activation!r} and {spec.norm_epsilon!r} in its backbone; a spec "
            "has one of each: take its .backbone"
        )
    return spec.replace(masked_lm_head=True, tie_embeddings=True, logit_bias=True)


@contextmanager
def _precision(policy: Any) -> Iterator[None]:
    """Build in the precision of another model."""
    import keras

    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
