"""Convert KerasHub models to text models with the same weights, and back.

The tables of the families are in the other modules. Settings that no spec supports, and weights
that would not be converted, raise errors.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import builders
from functional_models.conversion.family import Family, Part
from functional_models.conversion.matching import family_of, family_of_spec, warn_about_ignored
from functional_models.keras_hub_tokenizer import wrapped_keras_tokenizer
from functional_models.loading import precision, wrap_model
from functional_models.lora import check_merged
from functional_models.text_model import TextModel
from functional_models.tokenizer_base import Tokenizer


def from_keras_hub(source: Any, *, tokenizer: Any = None, **changes: Any) -> Any:
    """Return a text model with the weights and the tokenizer of a KerasHub model.

    Logits and hidden states are equal at all tokens but padding, up to rounding, and so are
    generated texts. Dropout rates are those of the same places.

    Args:
        source: a backbone or task of `keras_hub.models` (GPT-2, OPT, GPT-NeoX, BLOOM, Llama,
            Llama 3, Mistral, Phi-3, Qwen, Qwen 3, Gemma 1 to 3, SmolLM3, BERT, RoBERTa, DistilBERT,
            ELECTRA, ALBERT, BART, T5); or an argument of its `from_preset`: the name of a preset,
            or a folder in KerasHub format. A folder of Hugging Face or a GGUF file is read by
            `from_hugging_face`.
        tokenizer: a `Tokenizer` or a KerasHub tokenizer; by default that of the task or preset. A
            backbone has none: its model needs this argument to process text.
        changes: spec fields that the source does not define: `max_sequence_length` of models
            without position embeddings, and `pad_token_id`. If KerasHub ignores a setting, a
            warning names the fields that apply it.

    Returns:
        A `CausalLM`, a `Translator` or a `TextEncoder`.

    Raises:
        TypeError: another type of source.
        ValueError: another family, a task with another head, or a setting that no spec supports.
    """
    # Its tables share rules with those of this package.
    from functional_models.hugging_face.convert import from_hugging_face, is_hugging_face

    if is_hugging_face(source):
        for name, value in changes.items():
            raise ValueError(f"{name}={value!r}: the configuration of {source} defines it")
        return from_hugging_face(source, tokenizer=tokenizer)
    parts = _parts(source)
    backbone, head = parts.backbone, parts.head
    family, config = family_of(backbone)
    try:
        spec = family.spec(config)
    except ValueError as error:
        raise ValueError(f"{type(backbone).__name__}: {error}") from None
    allowed = [*family.defaults, *warn_about_ignored(family, config, changes)]
    for name in changes:
        if name not in allowed:
            raise ValueError(
                f"{name}={changes[name]!r}: the {family.backbone} defines it; allowed: "
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
    with precision(backbone.dtype_policy):
        model = builders.build(spec)
    pairs = _pairs_of_weights(model, source if head is not None else backbone, layers)
    for ours, theirs, view in pairs:
        ours.assign(view(_as_array(theirs)))
    read = {id(theirs) for _, theirs, _ in pairs}
    both = [backbone, *([] if head is None else [head])]
    _check_all_read([weight for part in both for weight in part.weights], read, family)
    return wrap_model(spec, model, {} if wrapped is None else _by_role(spec, wrapped))


def to_keras_hub(model: TextModel, backbone: str | None = None) -> Any:
    """Return a backbone of `keras_hub.models` with the weights of a text model.

    Publish it with `backbone.save_to_preset(folder)`, or make it a task with
    `keras_hub.models.CausalLM(backbone=backbone, preprocessor=...)` of its family.

    Args:
        model: a text model whose spec a KerasHub family implements. Dropout rates are not
            compared: the backbone gets `dropout`, or none if it drops in other places.
        backbone: class name, such as `"Llama3Backbone"`; by default the first class that implements
            the spec (Llama, Llama 3, Phi-3 and a Mistral without a window differ only in name).

    Raises:
        TypeError: `model` is no `CausalLM`, `Translator` or `TextEncoder`.
        ValueError: no such class, or no class that implements the spec; the error names the nearest
            and the differences.
    """
    import keras_hub

    if not isinstance(model, TextModel):
        raise TypeError(
            f"to_keras_hub takes a CausalLM, Translator or TextEncoder, not {type(model).__name__}"
        )
    check_merged(model.model, "to_keras_hub")
    spec = model.spec
    family = family_of_spec(spec, backbone)
    with precision(model.model.dtype_policy):
        made = getattr(keras_hub.models, family.backbone)(**family.config(spec))
    pairs = _pairs_of_weights(model.model, made, family.layers)
    arrays = {id(theirs): _as_array(theirs).copy() for _, theirs, _ in pairs}
    for ours, theirs, view in pairs:
        view(arrays[id(theirs)])[...] = _as_array(ours)
    for _, theirs, _ in pairs:
        theirs.assign(arrays[id(theirs)])
    _check_all_read(made.weights, set(arrays), family)
    return made


# Sources ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class _Parts:
    """Parts of a source; most sources have only some."""

    backbone: Any
    head: Any = None  # masked-language-model head
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
            f"{type(source).__name__} has a head that is not supported; convert CausalLM, "
            "Seq2SeqLM and MaskedLM tasks, or the .backbone of another task"
        )
    return _Parts(source.backbone, None, tokenizer)


def _loaded(preset: str) -> _Parts:
    import keras_hub

    from functional_models.hugging_face.convert import check_folder

    if os.path.lexists(preset):
        check_folder(Path(preset))
    try:
        backbone = keras_hub.models.Backbone.from_preset(preset)
    except (ValueError, FileNotFoundError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        if "Unknown preset" in reason and not os.path.lexists(preset):
            raise ValueError(
                f"there is neither a folder {preset} nor a preset of KerasHub of this name; give "
                "the path of a folder, or the name of a preset"
            ) from error
        raise ValueError(
            f"KerasHub cannot load {preset}: {reason}; give the name of a preset, or a folder in "
            "KerasHub or Hugging Face format"
        ) from error
    try:
        tokenizer = keras_hub.tokenizers.Tokenizer.from_preset(preset)
    except Exception as error:
        warnings.warn(
            f"{preset} has no tokenizer that KerasHub can load ({type(error).__name__}: {error}); "
            "to process text, give one with from_keras_hub(..., tokenizer=...)",
            stacklevel=4,
        )
        tokenizer = None
    return _Parts(backbone, None, tokenizer)


def _tokenizer(tokenizer: Any, family: Family) -> Tokenizer | None:
    if tokenizer is None or isinstance(tokenizer, Tokenizer):
        return tokenizer
    wrapped = dataclasses.replace(wrapped_keras_tokenizer(tokenizer), ends_sources=True)
    if family.target_start == "padding":
        return dataclasses.replace(wrapped, start_id=wrapped.pad_id)
    # As in KerasHub's tasks; `add_start_token` applies to training only.
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
            f"the head of this MaskedLM task has activation={activation!r} and norm_epsilon="
            f"{epsilon!r}, its backbone {spec.activation!r} and {spec.norm_epsilon!r}; a spec has "
            "one value of each: convert its .backbone"
        )
    return spec.replace(masked_lm_head=True, tie_embeddings=True, logit_bias=True)


# Weights ---------------------------------------------------------------------------------------


def _pairs_of_weights(
    model: Any, root: Any, layers: Mapping[str, str | Part]
) -> list[tuple[Any, Any, Any]]:
    """Return each variable with the backbone's variable, and the view of its array."""
    prefix = "backbone." if hasattr(root, "backbone") else ""
    pairs = []
    for layer in model.layers:
        if not layer.weights:
            continue
        number = re.search(r"block_(\d+)", layer.name)
        place = layers[re.sub(r"block_\d+", "block_{i}", layer.name)]
        path = place.path if isinstance(place, Part) else place
        of_task = path.startswith("masked_lm_head")
        path = path.format(i=number and number[1])
        found = [_attribute(root, ("" if of_task else prefix) + part) for part in path.split()]
        theirs = [weight for part in found for weight in getattr(part, "weights", [part])]
        if len(theirs) != len(layer.weights):
            raise ValueError(
                f"{path} has {len(theirs)} weights ({', '.join(x.name for x in theirs)}), expected "
                f"{len(layer.weights)}; for a model with LoRA or quantization, convert the "
                "original weights"
            )
        for ours, variable in zip(layer.weights, theirs, strict=True):
            view = place.view if isinstance(place, Part) and len(variable.shape) > 1 else None
            pairs.append((ours, variable, _View(layer.name, tuple(ours.shape), view)))
    return pairs


@dataclasses.dataclass(frozen=True)
class _View:
    """View of a backbone's array, in the shape of the corresponding variable."""

    name: str
    shape: tuple[int, ...]
    part: Any

    def __call__(self, array: np.ndarray) -> np.ndarray:
        found = array if self.part is None else self.part(array)
        if found.shape == self.shape:
            return found
        # Heads and their channels may be on one axis or on two.
        joined = found.ndim != len(self.shape) and found.size == np.prod(self.shape)
        if not joined or not found.flags.c_contiguous:
            raise ValueError(
                f"{self.name} has the shape {self.shape}, but {found.shape} in the backbone"
            )
        return found.reshape(self.shape)


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = root[int(name)] if name.isdigit() else getattr(root, name)
    return root


def _as_array(variable: Any) -> np.ndarray:
    """Return the value of a variable in float32."""
    import keras

    value = keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32"))
    return np.ascontiguousarray(value)


def _check_all_read(weights: list[Any], read: set[int], family: Family) -> None:
    """Raise a ValueError if the `id` of a weight is not in `read`."""
    left = [weight.path for weight in weights if id(weight) not in read]
    left = [path for path in left if not path.endswith(family.computed)]
    if left:
        raise ValueError(
            f"{family.backbone} has weights that are not supported: {', '.join(left[:3])}"
        )
