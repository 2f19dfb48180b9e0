"""Convert a folder of Hugging Face to a text model; every key and every tensor is accounted for.

The tables of the families are in other modules of this package.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import builders
from builders.abstract import without_weights
from builders.errors import similar_names
from functional_models.checks import check_link, check_path, read_json
from functional_models.folders import MODEL
from functional_models.hugging_face import (
    albert,
    bart,
    bert,
    cohere,
    deepseek,
    distilbert,
    experts,
    falcon,
    gemma,
    gpt,
    gpt_neo,
    gpt_oss,
    llama,
    llama4,
    modernbert,
    olmo,
    phi3,
    qwen3_next,
    roberta,
    smollm,
    t5,
)
from functional_models.hugging_face.family import Family
from functional_models.hugging_face.generation_settings import (
    read_generation_settings,
    settings_file,
    warn_of_unused_settings,
)
from functional_models.hugging_face.gguf_files import read_gguf
from functional_models.hugging_face.gguf_tokenizer import read_gguf_tokenizer
from functional_models.hugging_face.stored_tensor import StoredTensor
from functional_models.hugging_face.text_parts import text_config, text_tensors
from functional_models.hugging_face.tokenizers import read_tokenizers
from functional_models.hugging_face.weight_files import stored_tensors
from functional_models.hugging_face.weights import Tensors, assign_weights
from functional_models.loading import precision, wrap_model
from functional_models.tokenizers import Tokenizer, as_tokenizer

CONFIG = "config.json"

GENERATES = {"decoder_only": "generate", "encoder_decoder": "translate"}
"""Kind of a model -> the method that generates text."""

FAMILIES: tuple[Family, ...] = (
    *gpt.FAMILIES,
    *gpt_neo.FAMILIES,
    *llama.FAMILIES,
    *gemma.FAMILIES,
    *phi3.FAMILIES,
    *olmo.FAMILIES,
    *smollm.FAMILIES,
    *experts.FAMILIES,
    *qwen3_next.FAMILIES,
    *gpt_oss.FAMILIES,
    *llama4.FAMILIES,
    *deepseek.FAMILIES,
    *falcon.FAMILIES,
    *cohere.FAMILIES,
    *bert.FAMILIES,
    *roberta.FAMILIES,
    *distilbert.FAMILIES,
    *albert.FAMILIES,
    *modernbert.FAMILIES,
    *t5.FAMILIES,
    *bart.FAMILIES,
)

_FOLLOWS_FROM = {
    "head_dim": ("hidden_dim", "num_heads"),
    "group_score_experts": ("num_experts", "num_expert_groups"),
}
"""Spec field that may have no key -> fields that it follows from, or is compared with."""

_BY_TYPE = {name: family for family in FAMILIES for name in family.model_types}


def from_hugging_face(
    folder: str | os.PathLike[str], *, tokenizer: Any = None, dtype: str | None = None
) -> Any:
    """Return a text model with the weights of a folder of Hugging Face, or of a GGUF file.

    The folder has `config.json` and safetensors, as transformers 4 or 5 saves it, or files of
    `torch.save`, of which nothing is run. Logits and hidden states are equal at all tokens but
    padding, up to rounding. Every key of the configuration and every tensor is used, or known to
    say nothing about the outputs, or refused.

    Args:
        folder: the folder, or a GGUF file of Llama or Qwen, whose name ends with `.gguf`.
        tokenizer: a `Tokenizer` or a KerasHub tokenizer; by default that of the folder.
        dtype: dtype policy of the model, such as "bfloat16"; by default that of Keras, whatever the
            weights are stored in.

    Returns:
        A `CausalLM`, a `Translator` or a `TextEncoder`.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ImportError: the package that reads GGUF files is not installed.
        ValueError: a damaged file, an unknown family or class, a key or tensor of unknown meaning,
            or a value that no spec expresses.
    """
    path = check_path("the folder of a model", folder)
    source = _of_gguf(path) if _is_gguf(path) else _of_folder(path)
    with _located(source.path, path):
        config = text_config(source.config)
        family, head = family_of(config)
    with _located(path, path):
        stored, left_out = text_tensors(source.config.get("model_type"), source.tensors())
        tensors = Tensors(stored, family)
    with _located(source.path, path):
        spec = spec_from(family, head, config, tensors)
    tokenizers, problem = _tokenizers(source, spec, tokenizer)
    with precision(dtype), without_weights():
        model = builders.build(spec)
    with _located(path, path):
        assign_weights(model, spec, family.layers_of(spec, config), tensors)
        tensors.check_all_read(head, spec)
    # A model that is refused has one line.
    for message in filter(None, (left_out, problem)):
        warnings.warn(message, stacklevel=2)
    if spec.kind in GENERATES:
        [*_, end_id] = [None, *(tokenizer.end_id for tokenizer in tokenizers.values())]
        warn_of_unused_settings(source.settings, settings_file(path), GENERATES[spec.kind], end_id)
    return wrap_model(spec, model, tokenizers)


@contextmanager
def _located(place: Path, source: Path) -> Iterator[None]:
    """Name a place in errors that do not begin with the path of the source."""
    try:
        yield
    except ValueError as error:
        message = str(error)
        raise ValueError(
            message if message.startswith(str(source)) else f"{place}: {message}"
        ) from None


@dataclasses.dataclass(frozen=True)
class _Source:
    """What a model is read from.

    Attributes:
        path: the file of the configuration.
        config: the configuration.
        tensors: returns the stored tensors by name.
        tokenizers: kind of a spec -> its tokenizers by role.
        settings: the settings of `generate`.
    """

    path: Path
    config: dict[str, Any]
    tensors: Callable[[], Mapping[str, StoredTensor]]
    tokenizers: Callable[[str], dict[str, Tokenizer]]
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)


def _of_folder(path: Path) -> _Source:
    config = read_config(path)
    return _Source(
        path / CONFIG,
        config,
        lambda: stored_tensors(path),
        lambda kind: read_tokenizers(path, kind),
        read_generation_settings(path, config),
    )


def _is_gguf(path: Path) -> bool:
    return path.suffix == ".gguf" and not path.is_dir()


def _of_gguf(path: Path) -> _Source:
    file = read_gguf(path)
    return _Source(
        path,
        file.config,
        lambda: file.tensors,
        lambda kind: {"tokenizer": read_gguf_tokenizer(path, file.keys)},
    )


def is_hugging_face(source: Any) -> bool:
    """Return whether a source is a folder of Hugging Face or a GGUF file; it may be damaged."""
    if not isinstance(source, str | os.PathLike):
        return False
    if _is_gguf(Path(source)):
        return True
    if not (Path(source) / CONFIG).exists():
        return False
    try:
        config = read_json(Path(source) / CONFIG)
    except (OSError, ValueError):
        return not (Path(source) / "metadata.json").exists()  # which presets of KerasHub have
    return not (isinstance(config, dict) and "registered_name" in config)


def read_config(folder: Path) -> dict[str, Any]:
    """Return the configuration of a folder.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        ValueError: it is not a JSON object, or the folder is of another kind.
    """
    check_folder(folder)
    config = read_json(folder / CONFIG)
    if not isinstance(config, dict):
        raise ValueError(f"{folder / CONFIG} is damaged: it holds no JSON object")
    return config


def check_folder(folder: Path) -> None:
    """Check that a path is a folder with a configuration, of Hugging Face or KerasHub.

    Raises:
        FileNotFoundError: the folder or the file is missing.
        ValueError: it is a file, or the folder is of another kind.
    """
    check_link(folder)
    if not folder.exists():
        raise FileNotFoundError(
            f"there is no folder {folder}; download the model first, for instance with "
            f"`hf download {folder} --local-dir DIR`, and give that folder"
        )
    if not folder.is_dir():
        raise ValueError(
            f"{folder} is a file; give the folder that has it, or a GGUF file, whose name ends "
            "with .gguf"
        )
    if (folder / MODEL).exists():
        raise ValueError(f"{folder} is a model folder already; load it with functional_models.load")
    check_link(folder / CONFIG)
    if not (folder / CONFIG).exists():
        # In the cache of the package huggingface_hub, a model is in a folder of its version.
        inner = [*folder.glob(f"*/{CONFIG}"), *folder.glob(f"snapshots/*/{CONFIG}")]
        hint = "give the folder of a model of Hugging Face or KerasHub"
        if inner:
            hint = f"there is one in {sorted(inner)[0].parent}: give that folder"
        raise FileNotFoundError(f"{folder} has no {CONFIG}; {hint}")


def family_of(config: dict[str, Any]) -> tuple[Family, str]:
    """Return the family of a configuration and the class of its head.

    Raises:
        ValueError: an unknown family, or a class whose head no spec has.
    """
    name = config.get("model_type")
    known = ", ".join(sorted(_BY_TYPE))
    if not isinstance(name, str) or name not in _BY_TYPE:
        nearest = similar_names(name, _BY_TYPE)
        hint = f" (the nearest is {nearest[0]!r})" if nearest else ""
        raise ValueError(f"model_type={name!r} is not supported{hint}; supported: {known}")
    family = _BY_TYPE[name]
    classes = config.get("architectures")
    allowed = ", ".join(family.heads)
    if not isinstance(classes, list) or len(classes) != 1 or not isinstance(classes[0], str):
        raise ValueError(
            f"architectures={classes!r}: must name the class of the weights, one of {allowed}"
        )
    if classes[0] not in family.heads:
        raise ValueError(
            f"architectures={classes!r}: the outputs of {classes[0]} are not those of a spec; "
            f"load the folder with transformers as one of {allowed}, and save that with "
            "save_pretrained"
        )
    return family, classes[0]


def spec_from(
    family: Family, head: str, config: dict[str, Any], tensors: Tensors
) -> builders.TransformerSpec:
    """Return the spec of a configuration and its tensors.

    Raises:
        ValueError: a key of unknown meaning, or a value that no spec expresses; it names the key.
    """
    fields = family.spec_fields(config, head)
    if family.stored is not None:
        fields |= family.stored(tensors, fields)
    try:
        return builders.TransformerSpec(**fields)
    except ValueError as error:
        message = str(error)
        names = re.findall(r"\b([a-z_]+)=", message)
        names += [other for name in names for other in _FOLLOWS_FROM.get(name, ())]
        keys = dict.fromkeys(key for name in names for key in family.keys_of(name, config))
        raise ValueError(f"{', '.join(keys)}{': ' if keys else ''}{message}") from None


def _tokenizers(
    source: _Source, spec: builders.TransformerSpec, given: Any
) -> tuple[dict[str, Tokenizer], str]:
    """Return the tokenizers of a source, or the given one, by role; or why there is none.

    Texts are padded with the token that the model masks.
    """
    if given is not None:
        both = ("source_tokenizer", "target_tokenizer")
        roles = both if spec.kind == "encoder_decoder" else ("tokenizer",)
        found = dict.fromkeys(roles, as_tokenizer(given))
    else:
        try:
            found = source.tokenizers(spec.kind)
            _check_sizes(spec, found)
        except (ValueError, OSError) as error:
            return {}, (
                f"the model is read without a tokenizer: {error}; to process text, give one with "
                "from_hugging_face(..., tokenizer=...)"
            )
    if spec.pad_token_id is None:
        return found, ""
    padded = {
        role: dataclasses.replace(tokenizer, pad_id=spec.pad_token_id)
        for role, tokenizer in found.items()
    }
    return padded, ""


def _check_sizes(spec: builders.TransformerSpec, tokenizers: dict[str, Tokenizer]) -> None:
    """Check that the model has a vector for every token."""
    for role, tokenizer in tokenizers.items():
        source = role == "source_tokenizer"
        rows = spec.source_vocabulary_size if source else spec.vocabulary_size
        if tokenizer.vocabulary_size > rows:
            raise ValueError(
                f"the {role} has {tokenizer.vocabulary_size} tokens, the model vectors for {rows}"
            )
