"""The file of a tokenizer, `tokenizer.json`: its class, settings, special ids and vocabulary.

KerasHub's own files do not restore every tokenizer: it reads a vocabulary line by line and strips
white space, which may be part of a token. Here the vocabulary is JSON (or the model of
SentencePiece in base64), goes to the constructor, and a tokenizer is compared with the one that is
read back before anything is written.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import inspect
import json
import os
import re
from pathlib import Path
from typing import Any

from functional_models.checks import read_manifest

MANIFEST = "tokenizer.json"
FORMAT = 2

_TRANSIENT = {"name", "trainable", "dtype", "config_file", "vocabulary", "merges", "proto"}
_WHITE_SPACE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e\u2000\u2009\u200b\u200d\u2028"
_PROBES = (
    "a".join([*_WHITE_SPACE, "\u2029\u202f\u205f\u2060\u3000\ufeff", "b"]),
    "".join([*_WHITE_SPACE, "\n\n  \r\n\u3000\u3000", " "]),
    "The Café isn't at 1,234.50 €; [UNK] [END] </s> <|endoftext|> ##a ▁b Ġc «日本語» 😀 e\u0301",
)


def keras_classes() -> dict[str, Any]:
    """Return the KerasHub class of each kind."""
    from keras_hub import tokenizers

    return {
        "byte": tokenizers.ByteTokenizer,
        "word_piece": tokenizers.WordPieceTokenizer,
        "sentence_piece": tokenizers.SentencePieceTokenizer,
        "byte_pair": tokenizers.BytePairTokenizer,
    }


def checked_manifest(tokenizer: Any) -> str:
    """Return the content of `tokenizer.json`, from which the same tokenizer is read.

    Args:
        tokenizer: a `tokenizers.Tokenizer`.

    Raises:
        ValueError: the tokenizer that is read differs, or its class is not in
            `keras_hub.tokenizers`; the error names the first difference.
    """
    import keras_hub

    name = type(tokenizer.keras_tokenizer).__name__
    if getattr(keras_hub.tokenizers, name, None) is not type(tokenizer.keras_tokenizer):
        raise ValueError(
            f"a tokenizer of class {name} cannot be saved: only classes of keras_hub.tokenizers "
            "can be loaded"
        )
    try:
        manifest = {"format": FORMAT, **_manifest(tokenizer)}
        content = json.dumps({**manifest, "sha256": _checksum(manifest)}, indent=1) + "\n"
    except TypeError as error:
        raise ValueError(f"a setting of this {name} cannot be saved: {error}") from error
    try:
        found = first_difference(tokenizer, _made(json.loads(content), type(tokenizer)))
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:200]}"
    if found:
        raise ValueError(
            f"this {name} cannot be saved, because the tokenizer that is read back differs: {found}"
        )
    return content


def check_replaceable(path: Path, content: str, *, overwrite: bool) -> None:
    """Check that `Tokenizer.save` may write content to a path.

    Raises:
        FileExistsError: another tokenizer is there, and `overwrite` is false.
        ValueError: a file is there that `Tokenizer.save` did not write.
    """
    if not os.path.lexists(path):
        return
    try:
        found = path.read_bytes()
        manifest = json.loads(found)
        is_own = {"format", "class", "config"} <= manifest.keys()
    except (OSError, ValueError, AttributeError, RecursionError):
        is_own = False
    if not is_own:
        raise ValueError(
            f"{path} was not written by Tokenizer.save and is not overwritten; save to another "
            "folder, or remove it"
        )
    if found != content.encode() and not overwrite:
        size = manifest.get("vocabulary_size")
        raise FileExistsError(
            f"{path.parent} holds another tokenizer ({manifest.get('kind')!s:.20} of {size!s:.20} "
            "tokens); choose another folder, or replace it with overwrite=True"
        )


def read_tokenizer(folder: Path, cls: type) -> Any:
    """Read the tokenizer of a folder as a `cls`; see `tokenizers.load_tokenizer`."""
    path = folder / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"there is no tokenizer in {folder}: {MANIFEST} is missing"
            f"{'' if folder.is_dir() else ' (and so is the folder)'}; give a folder that "
            "Tokenizer.save wrote, or train a new tokenizer"
        )
    manifest = read_manifest(path, FORMAT)
    if manifest.pop("sha256", None) != _checksum(manifest):
        raise ValueError(
            f"{path} is damaged: it does not have the checksum that it names; copy it again, or "
            "save the tokenizer again"
        )
    try:
        return _made(manifest, cls)
    except Exception as error:  # KerasHub and its libraries raise errors of many classes
        raise ValueError(
            f"{path} is damaged: no tokenizer can be made from it ({type(error).__name__}); save "
            "the tokenizer again"
        ) from error


def first_difference(tokenizer: Any, other: Any) -> str | None:
    """Describe the first difference between tokenizers; None if they encode alike.

    Compares the fields, the settings and vocabularies of the KerasHub tokenizers, and what they
    make of tokens of the vocabulary and of unusual white space.
    """
    one, two = tokenizer.keras_tokenizer, other.keras_tokenizer
    settings = [name for name in _settings(type(one)) if hasattr(one, name)]
    for name, a, b in [
        *((name, getattr(tokenizer, name), getattr(other, name)) for name in _fields(tokenizer)),
        ("class", type(one).__name__, type(two).__name__),
        *((name, _plain(getattr(one, name)), _plain(getattr(two, name))) for name in settings),
    ]:
        if a != b:
            return f"{name} is {a!r:.80}, read back as {b!r:.80}"
    words, read = _vocabulary(one), _vocabulary(two)
    for name, kept in words.items():
        if kept != read[name]:
            return f"{name}: {_first_unequal(kept, read[name])}"
    step = max(1, tokenizer.vocabulary_size // 200)
    ids = [[i, i] for i in range(0, tokenizer.vocabulary_size, step)]
    texts = tokenizer.decode(ids)
    for pair, a, b in zip(ids, texts, other.decode(ids), strict=True):
        if a != b:
            return f"the ids {pair} are decoded as {a!r:.80}, read back as {b!r:.80}"
    if tokenizer.kind == "byte":
        texts = []  # its ids are the bytes
    texts = [re.sub("[\x00\x02\x03]", "", text) for text in (*_PROBES, *texts)]
    pairs = zip(texts, tokenizer.encode(texts), other.encode(texts), strict=True)
    for text, left, right in pairs:
        if left.tolist() != right.tolist():
            return f"{text!r:.80} is encoded as {left.tolist()}, read back as {right.tolist()}"
    return None


def _manifest(tokenizer: Any) -> dict[str, Any]:
    keras_tokenizer = tokenizer.keras_tokenizer
    config = {k: v for k, v in keras_tokenizer.get_config().items() if k not in _TRANSIENT}
    if not getattr(keras_tokenizer, "split_on_cjk", True):
        config["split_on_cjk"] = False  # missing in KerasHub's configuration
    vocabulary = _vocabulary(keras_tokenizer)
    if "proto" in vocabulary:
        vocabulary["proto"] = base64.b64encode(vocabulary["proto"]).decode()
    return {
        **{name: getattr(tokenizer, name) for name in _fields(tokenizer)},
        "class": type(keras_tokenizer).__name__,
        "config": config,
        "vocabulary": vocabulary,
    }


def _made(manifest: dict[str, Any], cls: type) -> Any:
    import keras_hub

    # Only classes of this namespace, so that a manifest cannot name arbitrary classes.
    keras_class = getattr(keras_hub.tokenizers, manifest["class"])
    vocabulary = dict(manifest["vocabulary"])
    if "proto" in vocabulary:
        vocabulary["proto"] = base64.b64decode(vocabulary["proto"], validate=True)
    keras_tokenizer = keras_class(**manifest["config"], **vocabulary)
    made = cls(keras_tokenizer, **{name: manifest[name] for name in _fields(cls)})
    ids = (made.pad_id, *made.target_start, made.end_id, *made.start_ids)
    size = int(keras_tokenizer.vocabulary_size())  # an error without a vocabulary
    is_of_kind = isinstance(keras_tokenizer, keras_classes()[made.kind])
    if not is_of_kind or size != made.vocabulary_size or not all(0 <= i < size for i in ids):
        raise ValueError("the kind or the special ids do not fit the vocabulary")
    return made


def _fields(tokenizer: Any) -> list[str]:
    """Return the names of the fields that are saved: all but the first, `keras_tokenizer`."""
    return [field.name for field in dataclasses.fields(tokenizer)][1:]


def _vocabulary(keras_tokenizer: Any) -> dict[str, Any]:
    """Return the constructor arguments that hold the vocabulary."""
    names = [name for name in ("vocabulary", "merges", "proto") if hasattr(keras_tokenizer, name)]
    found = {name: getattr(keras_tokenizer, name) for name in names}
    return {n: dict(v) if isinstance(v, dict) else v for n, v in found.items()}


def _settings(cls: type) -> list[str]:
    """Return the names of the constructor arguments of a class and its bases."""
    found = dict.fromkeys(
        name for base in cls.__mro__[:-1] for name in inspect.signature(base).parameters
    )
    return [name for name in found if name not in _TRANSIENT]


def _plain(value: Any) -> Any:
    """Return a setting as JSON restores it."""
    return json.loads(json.dumps(value, default=repr))


def _first_unequal(kept: Any, read: Any) -> str:
    """Describe the first difference of two vocabularies, lists or dicts."""
    if isinstance(kept, bytes) or isinstance(read, bytes) or type(kept) is not type(read):
        return "the content differs"
    if isinstance(kept, dict):
        kept, read = list(kept.items()), list(read.items())
    for i in range(max(len(kept), len(read))):
        a, b = (repr(items[i]) if i < len(items) else "missing" for items in (kept, read))
        if a != b:
            return f"entry {i} is {a:.80}, read back as {b:.80}"
    return "the order differs"


def _checksum(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
