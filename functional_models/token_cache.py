"""Tokens of long texts, kept on disk for the next run that reads the same texts.

A run that is resumed, or one with another model, does not tokenize them again. The files are in
`~/.cache/functional_models/tokens`, or in that folder below `XDG_CACHE_HOME`. They may be deleted
at any time, and those that no run has read for a month are.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import numpy as np

from functional_models.corpora.stored import StoredTexts
from plots.files import write_whole

LONG = 20_000_000
"""Characters of a text from which on its tokens are kept: seconds of work."""

_MONTH = 30 * 24 * 3600  # seconds
_FORMAT = 1


def cache_folder() -> Path:
    """Return the folder of kept tokens."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return caches / "functional_models" / "tokens"


def place_of_tokens(texts: StoredTexts, tokenizer: str, end: bool, itemsize: int) -> Path | None:
    """Return the file for the tokens of texts; `None` if they are not kept.

    They are not if the text is short, or the folder cannot be written or has no room for them.

    Args:
        texts: the texts.
        tokenizer: all that the ids depend on besides the texts.
        end: whether each text has an end token.
        itemsize: bytes of a token, of which a character is at most one.
    """
    if texts.characters < LONG:
        return None
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError:
        return None
    if not os.access(folder, os.W_OK):
        return None
    digest = hashlib.blake2b(f"{_FORMAT} {end} {itemsize} {tokenizer}".encode(), digest_size=16)
    for content in texts.in_bytes():
        digest.update(content)
    place = folder / f"{digest.hexdigest()}.tokens"
    return place if place.exists() or free > itemsize * texts.characters else None


def kept_tokens(
    place: Path, dtype: np.dtype, write: Callable[[BinaryIO], None], *, shown: bool = False
) -> np.ndarray:
    """Return the tokens in a file, memory-mapped; the file is written first if there is none.

    Args:
        place: the file.
        dtype: type of the tokens.
        write: writes them.
        shown: name the file on stderr.
    """
    words = "read again from"
    if place.exists():
        with suppress(OSError):  # one of another user
            os.utime(place)
    else:
        remove_unused(place.parent)

        def fill(path: Path) -> None:
            with path.open("wb") as file:
                write(file)

        write_whole(place, fill)
        words = "kept for the next run in"
    tokens: np.ndarray = np.memmap(place, dtype, mode="r")
    if shown:
        print(f"{len(tokens):,} tokens, {words} {place}", file=sys.stderr, flush=True)
    return tokens


def remove_unused(folder: Path) -> None:
    """Remove the tokens that no run has read for a month."""
    for found in folder.glob("*.tokens"):
        with suppress(OSError):  # removed by another process
            if time.time() - found.stat().st_mtime > _MONTH:
                found.unlink()
