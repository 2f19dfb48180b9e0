"""The content of `tokenizer.json`: that of a folder, or the same for a folder with older files.

The form is that of the package `tokenizers`: a normalizer, a pre-tokenizer, a model, a
post-processor and a decoder. `transformers` converts older files in the same way, in its module
`convert_slow_tokenizer` (version 4.57), and changes some parts by the settings of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from functional_models.checks import check_is_file, check_link, read_json
from functional_models.hugging_face.tokenizers_sentencepiece import (
    SENTENCEPIECE_CLASSES,
    sentencepiece_json,
)
from functional_models.hugging_face.tokenizers_settings import Settings
from functional_models.hugging_face.tokenizers_template import template

Json = dict[str, Any]

SENTENCEPIECE_FILES = ("spiece.model", "tokenizer.model", "sentencepiece.bpe.model")
FILES = ("tokenizer.json", "vocab.txt", "vocab.json with merges.txt", *SENTENCEPIECE_FILES)

_WORD_PIECES = ("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert", "MPNet")
_BYTE_PAIRS = ("GPT2", "CodeGen", "Qwen2", "Roberta", "Bart", "Longformer", "LED")

QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def tokenizer_json(settings: Settings) -> Json:
    """Return the content of `tokenizer.json`, changed by the other settings of its folder.

    Raises:
        FileNotFoundError: none of `FILES` is there.
        ValueError: a file is damaged, or there is no conversion for its class.
    """
    path = settings.folder / "tokenizer.json"
    for name in ("tokenizer.json", "vocab.txt", "vocab.json", "merges.txt", *SENTENCEPIECE_FILES):
        check_link(settings.folder / name)
    if path.exists():
        found = read_json(path)
        if not isinstance(found, dict):
            raise ValueError(f"{path} is damaged: it has no tokenizer")
        if {"kind", "sha256"} <= found.keys():
            raise ValueError(
                f"{path} was written by functional_models; load it with load_tokenizer"
            )
        if not isinstance(found.get("model"), dict):
            raise ValueError(f"{path} is damaged: it has no tokenizer")
    else:
        found = _from_older_files(settings)
    # Texts are padded and cut by their users.
    found["truncation"] = found["padding"] = None
    _set_prefix_space(found, settings)
    _set_normalizer(found, settings)
    return found


def _from_older_files(settings: Settings) -> Json:
    folder = settings.folder
    if (folder / "vocab.txt").exists():
        _check_class(settings, folder / "vocab.txt", _WORD_PIECES)
        return _word_pieces(settings, folder / "vocab.txt")
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        _check_class(settings, folder / "vocab.json", _BYTE_PAIRS)
        return _byte_pairs(settings, folder / "vocab.json", folder / "merges.txt")
    for path in (folder / name for name in SENTENCEPIECE_FILES):
        if path.exists():
            _check_class(settings, path, SENTENCEPIECE_CLASSES)
            return sentencepiece_json(settings, path)
    raise FileNotFoundError(
        f"there is no tokenizer in {folder}: it has none of {', '.join(FILES)}"
        f"{'' if folder.is_dir() else ' (and the folder is missing)'}"
    )


def _check_class(settings: Settings, path: Path, known: Sequence[str]) -> None:
    check_is_file(path)
    if settings.class_name not in known:
        raise ValueError(
            f"{path} is of a class that has no conversion ({settings.class_name or 'none named'}; "
            f"known are {', '.join(known)}); load the folder with transformers and save it again, "
            "which writes a tokenizer.json"
        )


# Parts that settings change ----------------------------------------------------------------------


def _set_prefix_space(found: Json, settings: Settings) -> None:
    pre_tokenizer, wanted = (
        found.get("pre_tokenizer") or {},
        settings.get("add_prefix_space", False),
    )
    if "add_prefix_space" in pre_tokenizer and wanted is not None:
        pre_tokenizer["add_prefix_space"] = wanted


def _set_normalizer(found: Json, settings: Settings) -> None:
    """Apply the settings of BERT's classes, such as `do_lower_case`."""
    normalizer = found.get("normalizer") or {}
    if normalizer.get("type") != "BertNormalizer" or settings.get("do_lower_case") is None:
        return
    normalizer["lowercase"] = settings.get("do_lower_case")
    normalizer["strip_accents"] = settings.get("strip_accents")
    normalizer["handle_chinese_chars"] = settings.get("tokenize_chinese_chars", True)


# Older files -------------------------------------------------------------------------------------


def _word_pieces(settings: Settings, path: Path) -> Json:
    """Return BERT's tokenizer; line i of the file is token i."""
    vocabulary = {line: i for i, line in enumerate(_lines(path))}
    start, end = settings.token("cls_token") or "[CLS]", settings.token("sep_token") or "[SEP]"
    return {
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": settings.get("tokenize_chinese_chars", True),
            "strip_accents": settings.get("strip_accents"),
            "lowercase": settings.get("do_lower_case", True),
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "model": {
            "type": "WordPiece",
            "unk_token": settings.token("unk_token") or "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": vocabulary,
        },
        "post_processor": template([start], [end], vocabulary),
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
    }


def _byte_pairs(settings: Settings, vocabulary: Path, merges: Path) -> Json:
    """Return the byte-level tokenizer of GPT-2, RoBERTa or Qwen."""
    lines = _lines(merges)
    lines = lines[1:] if lines[:1] and lines[0].startswith("#version") else lines
    pairs = [line.split() for line in lines if line.strip()]
    if wrong := [pair for pair in pairs if len(pair) != 2]:
        raise ValueError(f"{merges} is damaged: a line has {len(wrong[0])} tokens, not 2")
    ids = read_json(vocabulary)
    prefix_space = bool(settings.get("add_prefix_space", False))
    split = {"type": "ByteLevel", "add_prefix_space": prefix_space, "trim_offsets": True}
    found: Json = {
        "normalizer": None,
        "pre_tokenizer": {**split, "use_regex": True},
        "model": {"type": "BPE", "vocab": ids, "merges": pairs},
        "post_processor": None,
        "decoder": {**split, "use_regex": True},
    }
    if settings.class_name == "Qwen2":
        pattern = {"type": "Split", "pattern": {"Regex": QWEN_SPLIT}, "behavior": "Isolated"}
        steps = [{**pattern, "invert": False}, {**split, "use_regex": False}]
        found["normalizer"] = {"type": "NFC"}
        found["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": steps}
    cls, sep = settings.token("cls_token"), settings.token("sep_token")
    if cls and sep:
        found["post_processor"] = template([cls], [sep], ids)
    elif settings.get("add_bos_token", False) and settings.token("bos_token"):
        found["post_processor"] = template([str(settings.token("bos_token"))], [], ids)
    return found


def _lines(path: Path) -> list[str]:
    """Return the lines of a file; white space, except line ends, may be part of tokens."""
    try:
        lines = path.read_text("utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    return lines if lines[-1] else lines[:-1]
