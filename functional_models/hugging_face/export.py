"""Write text models as folders of Hugging Face, from the tables that read them."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from builders import TransformerSpec
from builders.errors import unknown_name
from functional_models.conversion.matching import differences
from functional_models.folders import check_content, make_folder
from functional_models.hugging_face.card import model_card
from functional_models.hugging_face.convert import CONFIG, FAMILIES
from functional_models.hugging_face.family import (
    Computed,
    Family,
    Layers,
    OfExperts,
    Place,
    place_of,
)
from functional_models.hugging_face.tokenizers_export import (
    Files,
    generation_config,
    tokenizer_files,
)
from functional_models.lora import check_merged
from functional_models.text_model import TextModel

WEIGHTS, CARD = "model.safetensors", "README.md"
_OF_SOME_MODELS = (
    *("generation_config.json", "tokenizer.json", "tokenizer_config.json", "source.spm"),
    *("target.spm", "sentencepiece.bpe.model", "vocab.json", "target_vocab.json"),
)
"""Files that are written for some models only, and would be read with any other one."""

_MOST_SKIPPED = 8
"""Rows at the start of a table that a family may leave unused."""

_HEAD = re.compile(r"logits|masked_lm_head\..*")
"""Layers whose tensors have no prefix."""

_CLASSIFIER = re.compile(r"(pre_)?classifier\.")
"""Start of the names of other tensors without a prefix."""

Arrays = dict[str, np.ndarray]


def to_hugging_face(
    model: TextModel,
    folder: str | os.PathLike[str],
    *,
    model_type: str | None = None,
    license: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write a text model as a folder that `transformers` loads, with equal outputs.

    The folder has `config.json`, `model.safetensors`, a model card, `README.md`, and
    `tokenizer.json`, if a tokenizer of Hugging Face has the ids of the model's. Load it with
    `AutoModelForCausalLM`, `AutoModelForSeq2SeqLM`, `AutoModelForMaskedLM` or
    `AutoModelForSequenceClassification`, and `AutoTokenizer`.

    Args:
        model: A text model whose spec a class of Hugging Face implements.
        folder: The folder. Its files appear together, once all of them are written.
        model_type: The family, such as "llama"; by default the first one that implements the spec.
        license: An identifier for the model card, such as "apache-2.0".
        overwrite: Replace a model of Hugging Face in the folder, with its tokenizer and its
            settings of `generate`; other files stay.

    Returns:
        The folder.

    Raises:
        TypeError: `model` is no text model.
        ValueError: an unknown family, or none that implements the spec; the error names the nearest
            and the differences; or a model with LoRA.
        FileExistsError: the folder holds something else.
    """
    if not isinstance(model, TextModel):
        raise TypeError(
            "to_hugging_face takes a CausalLM, Translator or TextEncoder, not "
            f"{type(model).__name__}"
        )
    check_merged(model.model, "to_hugging_face")
    family, head, config, tensors = _written(model, model_type)
    path = Path(folder)
    check_content(path, (CONFIG, "tokenizer.json"), overwrite=overwrite)
    path = make_folder(path)
    with tempfile.TemporaryDirectory(dir=path, prefix=".part-") as scratch:
        part = Path(scratch)
        _write_weights(part / WEIGHTS, tensors)
        files: Files = {CARD: model_card(model, family, license)}
        files |= tokenizer_files(model.tokenizers, model.spec)
        ids = _token_ids(model)
        files |= generation_config(model.tokenizers, ids)
        content = {"architectures": [head], **config, **ids}
        # The configuration comes last: without it, the folder is no model.
        files[CONFIG] = json.dumps(content, indent=2) + "\n"
        for name, text in files.items():
            (part / name).write_bytes(text if isinstance(text, bytes) else text.encode())
        for name in _OF_SOME_MODELS if overwrite else ():
            if name not in files:
                (path / name).unlink(missing_ok=True)
        for name in (WEIGHTS, *files):
            os.replace(part / name, path / name)
    return path


# The family -------------------------------------------------------------------------------------


def _written(
    model: TextModel, model_type: str | None
) -> tuple[Family, str, dict[str, Any], Arrays]:
    """Return the first family that implements a model, its class, configuration and tensors."""
    known = {name: family for family in FAMILIES for name in family.model_types}
    if model_type is not None and model_type not in known:
        raise ValueError(unknown_name("model_type", str(model_type), known))
    nearest: tuple[str, list[str]] | None = None
    for name in [model_type] if model_type is not None else known:
        family = known[name]
        if family.constants["kind"] != model.spec.kind:
            continue
        for head in family.heads:
            problems, config, tensors = _attempt(model, family, head)
            if not problems:
                return family, head, {"model_type": name, **config}, tensors
            if nearest is None or _distance(problems) < _distance(nearest[1]):
                nearest = name, problems
    which = "no model of Hugging Face" if model_type is None else f"no {model_type}"
    advice = f"; the nearest, {nearest[0]}, differs in {', '.join(nearest[1])}" if nearest else ""
    raise ValueError(f"{which} that is known here implements this spec{advice}")


def _distance(problems: Sequence[str]) -> tuple[bool, int]:
    """Return how far a class is from a model: what both are for counts more than how they do it."""
    return any(problem.startswith("classes=") for problem in problems), len(problems)


def _attempt(
    model: TextModel, family: Family, head: str
) -> tuple[list[str], dict[str, Any], Arrays]:
    """Return why a class does not implement a model, or its configuration and its tensors."""
    spec = model.spec
    config = family.config(spec)
    try:
        fields = family.spec_fields(config, head)
        if different := _differences(spec, fields, family):
            return different, {}, {}
        tensors = model_tensors(model.model, spec, family, config)
        if family.stored is not None:
            fields |= family.stored(_Written(tensors, family.prefix), fields)
        return _differences(spec, fields), config, tensors
    except ValueError as error:
        constants = family.constants.items()
        other = [
            f"{name}={getattr(spec, name)!r} (there {value!r})"
            for name, value in constants
            if getattr(spec, name) != value
        ]
        return other or [str(error)], {}, {}


def _differences(
    spec: TransformerSpec, fields: Mapping[str, Any], family: Family | None = None
) -> list[str]:
    """Return the fields that compute something else; `family`: not those that tensors tell."""
    theirs = TransformerSpec(**fields)
    open_fields = {"pooler", "logit_bias", "tie_embeddings"} if family and family.stored else ()
    return [
        f"{name}={ours!r} (there {other!r})"
        for name, (ours, other) in differences(spec, theirs).items()
        if name not in open_fields
    ]


@dataclasses.dataclass(frozen=True)
class _Written:
    """Tensors as a family reads them, without its prefix."""

    tensors: Arrays
    prefix: str

    def find(self, name: str) -> np.ndarray | None:
        found = self.tensors.get(name)
        return self.tensors.get(self.prefix + name) if found is None else found

    def differ(self, first: str, second: str) -> bool:
        one, other = self.find(first), self.find(second)
        return one is not None and other is not None and not np.array_equal(one, other)


# Tensors ----------------------------------------------------------------------------------------


def model_tensors(
    model: Any, spec: TransformerSpec, family: Family, config: Mapping[str, Any]
) -> Arrays:
    """Return the weights of a model as tensors of a family.

    Raises:
        ValueError: the family has no place for a layer, or one for two layers that differ.
    """
    layers = family.layers_of(spec, config)
    tensors: Arrays = {}
    parts: dict[str, list[tuple[Place, np.ndarray]]] = {}
    for layer in model.layers:
        is_head = _HEAD.fullmatch(layer.name)
        for variable in layer.weights:
            for name, array, place in _stored(layer.name, variable, layers, spec):
                prefix = "" if is_head or _CLASSIFIER.match(name) else family.prefix
                if place is not None and place.part is not None:
                    parts.setdefault(prefix + name, []).append((place, array))
                elif not np.array_equal(tensors.setdefault(prefix + name, array), array):
                    raise ValueError(f"{name} is one tensor there, and {layer.name} differs")
    tensors |= {name: _joined(rows, spec) for name, rows in parts.items()}
    return tensors | dict(_copies(tensors, spec, family))


def _stored(
    layer: str, variable: Any, layers: Layers, spec: TransformerSpec
) -> Iterator[tuple[str, np.ndarray, Place | None]]:
    """Yield the names of the tensors of a weight, without a prefix, and their arrays.

    Those of a place with a part are the rows of the part, outputs first.
    """
    import keras

    value = keras.ops.convert_to_numpy(variable.value)
    number = re.search(r"block_(\d+)", layer)
    place = place_of(layers, layer)
    if place is None:
        raise ValueError(f"there is no place for the weights of {layer}")
    if isinstance(place, Computed):
        for name, array in place.write(value, spec).items():
            yield name, array, None
        return
    if isinstance(place, OfExperts):
        for expert, kernel in enumerate(value):
            yield place.weight.format(i=number and number[1], e=expert), kernel.T, None
        return
    name = place.tensor(variable.name)
    if not name:
        if np.any(value):
            raise ValueError(f"there is no place for the bias of {layer}")
        return
    array = np.moveaxis(value, -1, 0)
    if not place.of_experts:
        array = _outputs_first(layer, variable.name, value)
    if place.by_head:
        array = array.reshape(-1)
    if name == "final_logits_bias":  # a row
        array = array[None]
    if place.part is None:
        array = _as_stored(array, place)
    yield name.format(i=number and number[1]), array, place


def _copies(
    tensors: Arrays, spec: TransformerSpec, family: Family
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield tensors that follow from others or from the spec, and that some classes want."""
    for name, values in family.computed.items():
        yield family.prefix + name, values(spec).astype("float32")
    if spec.tie_embeddings:
        return
    # Without tied logits, stacks have tables of their own, and the head has two biases.
    for group in family.tied:
        for end, prefix in (("embed_tokens.weight", family.prefix), (".bias", "")):
            known = [prefix + name for name in group if prefix + name in tensors]
            for name in group:
                if known and name.endswith(end) and prefix + name not in tensors:
                    yield prefix + name, tensors[known[0]].copy()


def _outputs_first(layer: str, kind: str, value: np.ndarray) -> np.ndarray:
    """Return a weight as PyTorch stores it: heads and channels on one axis, outputs first."""
    if kind in ("bias", "beta"):
        return value.reshape(-1)
    if kind != "kernel":
        return value
    if value.ndim == 3:  # the output projection reads heads and channels, others write them
        is_output = layer.endswith(".output")
        value = value.reshape((-1, value.shape[-1]) if is_output else (len(value), -1))
    return value.T


def _as_stored(array: np.ndarray, place: Place) -> np.ndarray:
    """Return a weight, outputs first, with its outputs where a place has them."""
    return np.moveaxis(array, 0, -1) if place.inputs_first and array.ndim > 1 else array


def _joined(parts: list[tuple[Place, np.ndarray]], spec: TransformerSpec) -> np.ndarray:
    """Return the tensor that has parts at their rows; rows of no part are zero."""
    least = sum(len(array) for _, array in parts)
    for size in range(least, least + _MOST_SKIPPED):
        rows = [place.part(np.arange(size), spec) for place, _ in parts if place.part is not None]
        if [len(own) for own in rows] == [len(array) for _, array in parts]:
            break
    else:
        raise ValueError("the parts of a tensor have other sizes")
    place, first = parts[0]
    whole = np.zeros((size, *first.shape[1:]), first.dtype)
    for own, (_, array) in zip(rows, parts, strict=True):
        whole[own] = array
    if place.by_head:
        return whole.reshape(-1, spec.head_dim)
    if place.by_channel:
        return whole[:, None]
    return _as_stored(whole, place)


def _write_weights(path: Path, tensors: Arrays) -> None:
    from safetensors.numpy import save_file

    # It writes the memory of an array as it lies there.
    save_file({k: np.ascontiguousarray(v) for k, v in tensors.items()}, path, {"format": "pt"})


def _token_ids(model: TextModel) -> dict[str, Any]:
    """Return the special ids that generation in `transformers` needs."""
    tokenizers = list(model.tokenizers.values())
    if not tokenizers:
        return {}
    target = tokenizers[-1]
    ids = {"bos_token_id": target.start_id, "eos_token_id": target.end_id}
    if model.spec.kind == "encoder_decoder":
        first, *forced = target.target_start
        ids |= {
            "decoder_start_token_id": first,
            **({"forced_bos_token_id": forced[0]} if forced else {}),
        }
    return ids
