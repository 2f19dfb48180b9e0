"""Models of keras-nlp as models of ours, with the same weights, and back.

Nothing here knows a family: `functional_models.families` is the table. What a spec cannot say, and
weights that nobody reads, are refused.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

import builders
from builders.registry import unknown_name
from functional_models.families import FAMILIES, Family, Part
from functional_models.text_model import TextModel, text_model_of
from functional_models.tokenizers import Tokenizer, as_tokenizer

# What every Keras model has, and no number depends on.
_ANY_CONFIG = ("name", "trainable", "dtype")
# How a model is trained, and which of its inputs are allowed: no number of a text depends on them.
_NOT_COMPARED = (
    "dropout",
    "feedforward_dropout",
    "attention_dropout",
    "embedding_dropout",
    "activation_dropout",
    "final_dropout",
    "initializer",
    "initializer_range",
    "max_sequence_length",
    "pad_token_id",
    "mask_target_padding",
)
_BY_LENGTH = ("rotary_original_length", "rotary_slow_turns", "rotary_fast_turns")


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
    family, config = _family_of(backbone)
    try:
        spec = family.spec(config)
    except ValueError as error:
        raise ValueError(f"{type(backbone).__name__}: {error}") from None
    allowed = [*family.defaults, *_warn_of_ignored(family, config, changes)]
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
    pairs = _pairs(model, source if head is not None else backbone, layers)
    for ours, theirs, view in pairs:
        ours.assign(view(_array(theirs)))
    read = {id(theirs) for _, theirs, _ in pairs}
    both = [backbone, *([] if head is None else [head])]
    _refuse_unread([weight for part in both for weight in part.weights], read, family)
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
    family = _family_that_computes(spec, backbone)
    with _precision(model.model.dtype_policy):
        made = getattr(keras_hub.models, family.backbone)(**family.config(spec))
    pairs = _pairs(model.model, made, family.layers)
    arrays = {id(theirs): _array(theirs).copy() for _, theirs, _ in pairs}
    for ours, theirs, view in pairs:
        view(arrays[id(theirs)])[...] = _array(ours)
    for _, theirs, _ in pairs:
        theirs.assign(arrays[id(theirs)])
    _refuse_unread(made.weights, set(arrays), family)
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


# Families ---------------------------------------------------------------------------------------


def _family_of(backbone: Any) -> tuple[Family, dict[str, Any]]:
    """Return the family of a backbone and its configuration."""
    name = type(backbone).__name__
    candidates = [family for family in FAMILIES if family.backbone == name]
    if not candidates:
        known = ", ".join(dict.fromkeys(family.backbone for family in FAMILIES))
        raise ValueError(f"{name} is not among the backbones that a spec can describe: {known}")
    config = backbone.get_config()
    for entry in candidates[0].entries - set(config):
        # Llama's configuration leaves out whether logits are tied.
        if not hasattr(backbone, entry):
            raise ValueError(f"this {name} has no {entry}; install a newer keras-nlp")
        config[entry] = getattr(backbone, entry)
    for family in candidates:
        if all(config[entry] == value for entry, value in family.where.items()):
            if new := set(config) - family.entries - set(_ANY_CONFIG):
                raise ValueError(
                    f"{name} has settings that are not known here: {', '.join(sorted(new))}; "
                    "nothing of a model is dropped in silence: install an older keras-nlp"
                )
            return family, config
    nearest = candidates[0].where.items()
    given = ", ".join(f"{entry}={config[entry]!r}" for entry, x in nearest if config[entry] != x)
    allowed = " or ".join(
        "(" + ", ".join(f"{entry}={value!r}" for entry, value in family.where.items()) + ")"
        for family in candidates
    )
    raise ValueError(f"{name} with {given} is not what a spec can say; it can say {allowed}")


def _warn_of_ignored(
    family: Family, config: Mapping[str, Any], changes: Mapping[str, Any]
) -> list[str]:
    """Return the spec fields for settings that keras-nlp has and does not apply."""
    fields: list[str] = []
    for entry, (value, names) in family.ignored.items():
        fields += names
        if config[entry] != value and not set(names) & set(changes):
            warnings.warn(
                f"{family.backbone} has {entry}={config[entry]!r}, and keras-nlp computes as with "
                f"{value!r}; so does the model here. To follow the setting, give "
                f"from_keras_hub the spec fields {', '.join(names)}",
                stacklevel=3,
            )
    return fields


def _family_that_computes(spec: builders.TransformerSpec, backbone: str | None) -> Family:
    """Return the first family, of all or of a class of backbones, that computes a spec.

    Raises:
        ValueError: there is none.
    """
    known = dict.fromkeys(family.backbone for family in FAMILIES)
    if backbone is not None and backbone not in known:
        raise ValueError(unknown_name("backbone", backbone, known))
    nearest: tuple[str, dict[str, tuple[Any, Any]]] | None = None
    for family in FAMILIES:
        if family.same["kind"] != spec.kind or backbone not in (None, family.backbone):
            continue
        try:
            theirs = family.spec({**family.config(spec), **family.where})
        except ValueError:
            continue
        different = _differences(spec, theirs)
        if not different:
            return family
        if nearest is None or len(different) < len(nearest[1]):
            nearest = family.backbone, different
    advice = ""
    if nearest is not None:
        what = ", ".join(
            f"{name}={ours!r} (there {theirs!r})" for name, (ours, theirs) in nearest[1].items()
        )
        advice = f"; the nearest, {nearest[0]}, differs in {what}"
    which = "no backbone of keras-nlp" if backbone is None else f"no {backbone}"
    raise ValueError(f"{which} computes what this spec says{advice}")


def _differences(
    ours: builders.TransformerSpec, theirs: builders.TransformerSpec
) -> dict[str, tuple[Any, Any]]:
    """Return the fields by which two specs compute something else, with both values."""
    found = {}
    for field in dataclasses.fields(ours):
        name = field.name
        pair = getattr(ours, name), getattr(theirs, name)
        if pair[0] != pair[1] and _matters(ours, name):
            found[name] = pair
    return found


def _matters(spec: builders.TransformerSpec, name: str) -> bool:
    """Return whether a number depends on a field, the others of the spec being what they are."""
    if name in _NOT_COMPARED:
        return False
    if name.startswith(("rotary_", "relative_")):
        if not name.startswith(spec.positions):
            return False
        return name not in _BY_LENGTH or spec.rotary_scaling not in ("none", "linear")
    if name in ("source_vocabulary_size", "num_encoder_layers"):
        return spec.kind == "encoder_decoder"
    if spec.kind == "encoder_only" and name in ("tie_embeddings", "logit_bias", "scale_logits"):
        return spec.masked_lm_head
    return True


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


# Weights ----------------------------------------------------------------------------------------


def _pairs(model: Any, root: Any, layers: Mapping[str, str | Part]) -> list[tuple[Any, Any, Any]]:
    """Return every variable of ours with theirs, and with the view of its array that is ours."""
    prefix = "backbone." if hasattr(root, "backbone") else ""
    pairs = []
    for layer in model.layers:
        if not layer.weights:
            continue
        number = re.search(r"block_(\d+)", layer.name)
        place = layers[re.sub(r"block_\d+", "block_{i}", layer.name)]
        path = place.path if isinstance(place, Part) else place
        of_task = path.startswith("masked_lm_head")
        path = ("" if of_task else prefix) + path.format(i=number and number[1])
        found = _attribute(root, path)
        theirs = getattr(found, "weights", [found])
        if len(theirs) != len(layer.weights):
            raise ValueError(
                f"{path} has {len(theirs)} weights ({', '.join(x.name for x in theirs)}) where a "
                f"model here has {len(layer.weights)}; of a model with LoRA, or one that is "
                "quantised, take the weights before that"
            )
        for ours, variable in zip(layer.weights, theirs, strict=True):
            view = place.view if isinstance(place, Part) and len(variable.shape) > 1 else None
            pairs.append((ours, variable, _View(layer.name, tuple(ours.shape), view)))
    return pairs


@dataclasses.dataclass(frozen=True)
class _View:
    """The part of an array of theirs that is a variable of ours, in its shape."""

    name: str
    shape: tuple[int, ...]
    part: Any

    def __call__(self, array: np.ndarray) -> np.ndarray:
        found = array if self.part is None else self.part(array)
        if found.shape == self.shape:
            return found
        # Heads and their channels on one axis, or on two.
        joined = found.ndim != len(self.shape) and found.size == np.prod(self.shape)
        if not joined or not found.flags.c_contiguous:
            raise ValueError(
                f"{self.name} has the shape {self.shape}, and {found.shape} in the backbone"
            )
        return found.reshape(self.shape)


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = root[int(name)] if name.isdigit() else getattr(root, name)
    return root


def _array(variable: Any) -> np.ndarray:
    import keras

    value = keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32"))
    return np.ascontiguousarray(value)


def _refuse_unread(weights: list[Any], read: set[int], family: Family) -> None:
    left = [weight.path for weight in weights if id(weight) not in read]
    if left:
        raise ValueError(
            f"{family.backbone} has weights that no model here has: {', '.join(left[:3])}"
        )


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
