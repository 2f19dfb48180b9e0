"""The file of a tokenizer, `tokenizer.json`: its settings, special ids and vocabulary.

It is complete and has a checksum. A tokenizer is compared with the one that is read back before
anything is written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functional_models.checks import read_manifest

MANIFEST = "tokenizer.json"
FORMAT = 2

TOKENIZER_KINDS = ("byte", "word_piece", "sentence_piece", "byte_pair")
"""Kinds that can be trained."""

_WHITE_SPACE = "\t\n\x0b\x0c\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e\u2000\u2009\u200b\u200d\u2028"
PROBES = (
    "a".join([*_WHITE_SPACE, "\u2029\u202f\u205f\u2060\u3000\ufeff", "b"]),
    "".join([*_WHITE_SPACE, "\n\n  \r\n\u3000\u3000", " "]),
    "The Café isn't at 1,234.50 €; [UNK] [END] </s> <|endoftext|> ##a ▁b Ġc «日本語» 😀 e\u0301",
)


def checked_content(tokenizer: Any) -> str:
    """Return the content of `tokenizer.json`, from which the same tokenizer is read.

    Args:
        tokenizer: a `tokenizer_base.Tokenizer`.

    Raises:
        ValueError: the tokenizer that is read differs, or a part of it cannot be saved; the error
            names the first difference.
    """
    try:
        manifest = {"format": FORMAT, **saved_fields(tokenizer), **tokenizer.to_manifest()}
        content = json.dumps({**manifest, "sha256": _checksum(manifest)}, indent=1) + "\n"
    except TypeError as error:
        raise ValueError(f"a setting of this {tokenizer.name} cannot be saved: {error}") from error
    try:
        found = first_difference(tokenizer, type(tokenizer).from_manifest(json.loads(content)))
    except Exception as error:
        found = f"{type(error).__name__}: {str(error)[:200]}"
    if found:
        raise ValueError(
            f"this {tokenizer.name} cannot be saved, because the tokenizer that is read back "
            f"differs: {found}"
        )
    return content


def saved_fields(tokenizer: Any) -> dict[str, Any]:
    """Return the fields of a tokenizer that are of types of JSON; `to_manifest` adds the others."""
    names = [f.name for f in dataclasses.fields(tokenizer) if f.metadata.get("saved", True)]
    return {name: getattr(tokenizer, name) for name in names}


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
        is_own = {"format", "kind", "sha256"} <= manifest.keys()
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


def read_tokenizer_file(folder: Path, classes: Mapping[str, Any], default: Any) -> Any:
    """Read the tokenizer of a folder.

    Args:
        folder: the folder.
        classes: classes of tokenizers by kind.
        default: the class of other kinds.

    Raises:
        FileNotFoundError: the folder or its `tokenizer.json` is missing.
        ValueError: `tokenizer.json` is damaged, or of another format.
    """
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
        return classes.get(manifest["kind"], default).from_manifest(manifest)
    except Exception as error:  # the libraries of tokenizers raise errors of many classes
        raise ValueError(
            f"{path} is damaged: no tokenizer can be made from it ({type(error).__name__}); save "
            "the tokenizer again"
        ) from error


def first_difference(tokenizer: Any, other: Any) -> str | None:
    """Describe the first difference between tokenizers; None if they encode alike.

    Compares the fields, the settings and vocabularies, and what the tokenizers make of tokens of
    the vocabulary and of unusual white space.
    """
    pairs = ((saved_fields(tokenizer), saved_fields(other)), (tokenizer.parts(), other.parts()))
    for name, kept, read in ((n, one[n], two.get(n)) for one, two in pairs for n in one):
        if _plain(kept) != _plain(read):
            if isinstance(kept, dict | list | bytes):
                return f"{name}: {_first_unequal(kept, read)}"
            return f"{name} is {_plain(kept)!r:.80}, read back as {_plain(read)!r:.80}"
    step = max(1, tokenizer.vocabulary_size // 200)
    ids = [[i, i] for i in range(0, tokenizer.vocabulary_size, step)]
    texts = tokenizer.decode(ids)
    for pair, a, b in zip(ids, texts, other.decode(ids), strict=True):
        if a != b:
            return f"the ids {pair} are decoded as {a!r:.80}, read back as {b!r:.80}"
    if tokenizer.kind == "byte":
        texts = []  # its ids are the bytes
    texts = [re.sub("[\x00\x02\x03]", "", text) for text in (*PROBES, *texts)]
    encoded = zip(texts, tokenizer.encode(texts), other.encode(texts), strict=True)
    for text, left, right in encoded:
        if left.tolist() != right.tolist():
            return f"{text!r:.80} is encoded as {left.tolist()}, read back as {right.tolist()}"
    return None


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
