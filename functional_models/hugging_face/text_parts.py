"""The language model of a folder whose model reads images too.

With a text alone, such a model computes what its language model does. The rest is left out, and a
warning says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from functional_models.hugging_face.silent import REQUIRED, SILENT
from functional_models.hugging_face.stored_tensor import StoredTensor

TEXT, IMAGES = "text_config", "vision_config"


@dataclass(frozen=True)
class TextPart:
    """The language model within another model.

    Attributes:
        whole: class of the whole model.
        head: class of the language model, if it stands alone.
        names: start of the names of its tensors -> start in a folder of its own.
        left_out: starts of the names of other tensors.
        silent: keys of the whole model that say nothing about the language model.
        unused: keys of the language model that the whole one does not use, and their value then.
    """

    whole: str
    head: str
    names: Mapping[str, str]
    left_out: tuple[str, ...]
    silent: tuple[str, ...]
    unused: Mapping[str, Any]


PARTS: Mapping[str, TextPart] = {
    "gemma3": TextPart(
        whole="Gemma3ForConditionalGeneration",
        head="Gemma3ForCausalLM",
        names={
            "language_model.model.": "model.",
            "language_model.lm_head.": "lm_head.",
            "model.language_model.": "model.",
        },
        left_out=(
            *("vision_tower.", "multi_modal_projector."),
            *("model.vision_tower.", "model.multi_modal_projector."),
        ),
        silent=(
            *(IMAGES, "mm_tokens_per_image", "boi_token_index", "eoi_token_index"),
            *("image_token_index", "boi_token_id", "eoi_token_id", "image_token_id"),
        ),
        unused={"final_logit_softcapping": None},
    ),
}
"""`model_type` -> its language model."""


def text_config(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration of the language model; one of a model of text is returned as it is.

    Raises:
        ValueError: a model of images that is not known, a key of unknown meaning, or a class that
            is no model of images and text.
    """
    kind = config.get("model_type")
    part = PARTS.get(str(kind))
    if part is None:
        if isinstance(config.get(TEXT), dict):
            raise ValueError(
                f"model_type={kind!r} has a {TEXT}: it is a model of more than text, and of these "
                f"only the language model of {', '.join(PARTS)} is read; save the language model "
                "of this one alone"
            )
        return config
    own = config.get(TEXT)
    if not isinstance(own, dict):
        raise ValueError(f"{TEXT}={own!r}: must have the configuration of the language model")
    if config.get("architectures") != [part.whole]:
        raise ValueError(
            f"architectures={config.get('architectures')!r}: must be {[part.whole]!r}, the class "
            "with logits"
        )
    for key, value in part.unused.items():
        if own.get(key, value) != value:
            raise ValueError(
                f"{key}={own[key]!r} in {TEXT}: must be {value!r}, since {part.whole} does not use "
                "it"
            )
    own, tied = dict(own), config.get("tie_word_embeddings")
    known = {*part.silent, *SILENT, *REQUIRED, TEXT, "model_type", "architectures"}
    for key in config.keys() - known - {"tie_word_embeddings", "pad_token_id"}:
        raise ValueError(
            f"{key}={config[key]!r} has an unknown meaning in {kind}; no key is ignored: remove "
            "it, if it says nothing about the language model"
        )
    for key in REQUIRED.keys() & config.keys():
        if config[key] not in REQUIRED[key]:
            raise ValueError(f"{key}={config[key]!r}: must be {REQUIRED[key][0]!r}, or absent")
    if tied is not None and own.setdefault("tie_word_embeddings", tied) != tied:
        raise ValueError(
            f"tie_word_embeddings={tied!r}, and {own['tie_word_embeddings']!r} in {TEXT}; give "
            "both the same value"
        )
    return {**own, "architectures": [part.head]}


def text_tensors(
    kind: str | None, tensors: Mapping[str, StoredTensor]
) -> tuple[Mapping[str, StoredTensor], str]:
    """Return the tensors of the language model, and what is left out.

    They have the names of a folder of their own.

    Args:
        kind: `model_type` of the whole model.
        tensors: its tensors.
    """
    part = PARTS.get(str(kind))
    if part is None:
        return tensors, ""
    found, left = {}, []
    for name, tensor in tensors.items():
        if name.startswith(part.left_out):
            left.append(name)
            continue
        start = next((start for start in part.names if name.startswith(start)), "")
        found[part.names.get(start, "") + name.removeprefix(start)] = tensor
    if not left:
        return found, ""
    return found, (
        f"{len(left)} tensors of images are left out, such as {left[0]}: what is read is the "
        f"language model of {kind}"
    )
