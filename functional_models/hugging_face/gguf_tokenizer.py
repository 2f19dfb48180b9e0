"""Tokenizers of GGUF files, in the form of `tokenizer.json`.

Byte-level ones, of the kind "gpt2". How text is cut into words is not stored, but named; the names
that are known here are those of `llama-vocab.cpp` of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functional_models.hugging_face.tokenizers import HuggingFaceTokenizer, tokenizer_of
from functional_models.hugging_face.tokenizers_json import QWEN_SPLIT
from functional_models.hugging_face.tokenizers_settings import Settings

Keys = Mapping[str, Any]
Json = dict[str, Any]

_PREFIX = "tokenizer.ggml."
_NAMED = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",
    "pad_token": "padding_token_id",
}
"""Special token -> key of its id, as it is spelled there."""

_USED = {"model", "pre", "tokens", "token_type", "merges", "add_bos_token", "add_eos_token"}
_SILENT = {
    "scores",  # of other kinds
    "add_space_prefix",  # likewise
    *(f"{name}_token_id" for name in ("eot", "eom", "mask")),
    *(f"fim_{part}_token_id" for part in ("pre", "suf", "mid", "pad", "rep", "sep")),
}
_TEMPLATE = "tokenizer.chat_template"

_CONTROL, _USER_DEFINED = 3, 4  # types of tokens

_LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}


def _cut_by(pattern: str) -> list[Json]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    return [{**split, "invert": False}, {**_BYTES, "use_regex": False}]


_CUTS: dict[str, list[Json]] = {
    "gpt-2": [{**_BYTES, "use_regex": True}],
    "smollm": [
        {"type": "Digits", "individual_digits": True},
        {**_BYTES, "use_regex": True},
    ],
    "llama-bpe": _cut_by(_LLAMA_SPLIT),
    "qwen2": _cut_by(QWEN_SPLIT),
}


def read_gguf_tokenizer(path: Path, keys: Keys) -> HuggingFaceTokenizer:
    """Return the tokenizer that the keys of a GGUF file describe.

    Raises:
        ValueError: it is of another kind, or damaged.
    """
    given = {k.removeprefix(_PREFIX): v for k, v in keys.items() if k.startswith(_PREFIX)}
    if unknown := sorted(given.keys() - {*_USED, *_SILENT, *_NAMED.values()}):
        raise ValueError(f"{path}: {_PREFIX}{unknown[0]} has an unknown meaning")
    tokens = given.get("tokens") or []
    templates = {k.removeprefix(_TEMPLATE): v for k, v in keys.items() if k.startswith(_TEMPLATE)}
    config = {
        "backend": "gguf",  # what follows is all that is said about tokens around a text
        "add_bos_token": given.get("add_bos_token", given.get("pre") == "llama-bpe"),
        "add_eos_token": given.get("add_eos_token", False),
        "chat_template": {k.lstrip(".") or "default": v for k, v in templates.items() if k != "s"},
    }
    for name, key in _NAMED.items():
        if key in given and given[key] < len(tokens):
            config[name] = tokens[given[key]]
    settings = Settings(path, config, special={}, added={}, model={}, generation={})
    return tokenizer_of(settings, lambda settings: _content(given))


def _content(given: Keys) -> Json:
    kind, cut = given.get("model"), given.get("pre")
    if kind != "gpt2" or cut not in _CUTS:
        raise ValueError(
            f"no conversion of tokenizer.ggml.model={kind!r} with tokenizer.ggml.pre={cut!r}; "
            f"known is 'gpt2' with {', '.join(_CUTS)}"
        )
    tokens, types = given["tokens"], given["token_type"]
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {
        "added_tokens": [
            {"id": i, "content": token, "special": type_ == _CONTROL, **flags}
            for i, (token, type_) in enumerate(zip(tokens, types, strict=True))
            if type_ in (_CONTROL, _USER_DEFINED)
        ],
        "normalizer": {"type": "NFC"} if cut == "qwen2" else None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": _CUTS[cut]},
        "model": {
            "type": "BPE",
            "vocab": {token: i for i, token in enumerate(tokens)},
            "merges": [merge.split(" ") for merge in given["merges"]],
            "ignore_merges": cut == "llama-bpe",
        },
        "post_processor": None,
        "decoder": {**_BYTES, "use_regex": True},
    }
