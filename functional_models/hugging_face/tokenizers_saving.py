"""Write tokenizers as the files of Hugging Face, which `AutoTokenizer` reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functional_models.hugging_face.tokenizers import HuggingFaceTokenizer
from functional_models.hugging_face.tokenizers_pieces import PieceTokenizer, is_language
from functional_models.hugging_face.tokenizers_template import template
from functional_models.keras_hub_tokenizer import KerasHubTokenizer
from functional_models.tokenizer_base import Tokenizer
from plots.files import write_whole

Json = dict[str, Any]


def write_tokenizers(tokenizers: Mapping[str, Tokenizer], folder: Path) -> None:
    """Write the tokenizers of a text model, so that `AutoTokenizer` gives the same ids.

    The ids of padding, start and end that have no token, those of a `byte` tokenizer, belong into
    the `config.json` of the folder, as do those that targets start with.

    Args:
        tokenizers: tokenizers by role, as `TextModel.tokenizers`.
        folder: a folder, which is made if it is missing.

    Raises:
        ValueError: no such files give the same ids.
    """
    source, target = next(iter(tokenizers.values())), [*tokenizers.values()][-1]
    if isinstance(source, PieceTokenizer) and isinstance(target, PieceTokenizer):
        files = _piece_files(source, target)
    elif source is not target and source.file_content != target.file_content:
        raise ValueError(
            f"a {source.kind} tokenizer of sources and another of targets are not written: classes "
            "of Hugging Face have one for both; train the model with a single one"
        )
    else:
        files = _files(source)
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)


def _files(tokenizer: Tokenizer) -> dict[str, str | bytes]:
    templates: dict[str, str] = {}
    if isinstance(tokenizer, HuggingFaceTokenizer):
        content, config = json.loads(tokenizer.backend.to_str()), _config(tokenizer)
        templates = dict(tokenizer.templates)
    elif isinstance(tokenizer, KerasHubTokenizer):
        content, config = _keras_hub(tokenizer)
    else:
        raise ValueError(f"a single {tokenizer.kind} tokenizer is not written; give both roles")
    pre_tokenizer = content.get("pre_tokenizer") or {}
    if "add_prefix_space" in pre_tokenizer:  # otherwise `transformers` sets it to false
        config["add_prefix_space"] = pre_tokenizer["add_prefix_space"]
    files: dict[str, str | bytes] = {
        "tokenizer.json": _json(content),
        "tokenizer_config.json": _json(config),
    }
    if "default" in templates:
        files["chat_template.jinja"] = templates.pop("default")
    return files | {f"additional_chat_templates/{n}.jinja": t for n, t in templates.items()}


def _piece_files(source: PieceTokenizer, target: PieceTokenizer) -> dict[str, str | bytes]:
    """Return the files of Marian or M2M100."""
    names = {i: token for token, i in source.vocabulary.items()}
    ids = {"pad_token": source.pad_id, "eos_token": source.end_id, "unk_token": source.unknown_id}
    config: Json = {key: names[i] for key, i in ids.items()}
    proto = source.processor.serialized_model_proto()
    if source.takes_codes:
        separate = source.vocabulary != target.vocabulary
        config |= {"tokenizer_class": "MarianTokenizer", "separate_vocabs": separate}
        files = {"source.spm": proto, "target.spm": target.processor.serialized_model_proto()}
        vocabularies = {"vocab.json": source.vocabulary}
        if separate:
            vocabularies["target_vocab.json"] = target.vocabulary
        files |= {name: _json(vocabulary) for name, vocabulary in vocabularies.items()}
        return {**files, "tokenizer_config.json": _json(config)}
    languages = [token for token in source.vocabulary if is_language(token)]
    config |= {"tokenizer_class": "M2M100Tokenizer", "additional_special_tokens": languages}
    for key, i in (("src_lang", source.before[0]), ("tgt_lang", target.decoder_start[-1])):
        if is_language(names[i]):
            config[key] = names[i].strip("_")
    numbered = {token: i for token, i in source.vocabulary.items() if token not in languages}
    return {
        "sentencepiece.bpe.model": proto,
        "vocab.json": _json(numbered),
        "tokenizer_config.json": _json(config),
    }


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, ensure_ascii=False, indent=2) + "\n"


def _config(tokenizer: HuggingFaceTokenizer) -> Json:
    """Return `tokenizer_config.json` of the class that takes tokenizer.json as it is."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **tokenizer.special_tokens,
        "split_special_tokens": tokenizer.splits_special,
        "clean_up_tokenization_spaces": tokenizer.cleans_up,
    }


def _keras_hub(tokenizer: KerasHubTokenizer) -> tuple[Json, Json]:
    inner = tokenizer.keras_tokenizer
    settings = (tokenizer.lowercase, getattr(inner, "lowercase", False))
    if tokenizer.kind not in ("byte", "byte_pair") or any(settings):
        what = "a lowercasing" if any(settings) else "a"
        raise ValueError(
            f"{what} {tokenizer.kind} tokenizer is not written: no tokenizer.json gives the same "
            "ids; use a byte_pair or byte tokenizer without lowercase"
        )
    config: Json = {"tokenizer_class": "PreTrainedTokenizerFast"}
    if tokenizer.kind == "byte":
        content = _bytes()
    else:
        content = json.loads(inner._tokenizer.to_str())
        ids = (tokenizer.start_id, tokenizer.end_id, tokenizer.pad_id)
        names = zip(("bos_token", "eos_token", "pad_token"), ids, strict=True)
        config |= {name: inner.id_to_token(i) for name, i in names}
        # Without unsplittable tokens, the text "[END]" is text.
        config["split_special_tokens"] = not inner.unsplittable_tokens
    tokens = dict(content["model"]["vocab"])
    by_id = {i: token for token, i in tokens.items()}
    before, after = (
        [by_id[i] for i in ids] for ids in (tokenizer.input_start, tokenizer.source_end)
    )
    if before or after:
        content["post_processor"] = template(before, after, tokens)
    return content, config


def _bytes() -> Json:
    """Return the `tokenizer.json` whose ids are the bytes of UTF-8."""
    from keras_hub.src.tokenizers.byte_pair_tokenizer import bytes_to_unicode

    signs = dict(zip(*bytes_to_unicode(), strict=True))
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": {**level, "use_regex": False},
        "post_processor": None,
        "decoder": {**level, "use_regex": False},
        "model": {"type": "BPE", "vocab": {signs[bytes([i])]: i for i in range(256)}, "merges": []},
    }
