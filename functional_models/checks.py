"""Checks of numeric options and of manifests."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable
from numbers import Integral
from pathlib import Path
from typing import Any

from builders.errors import invalid_value

LARGEST_COUNT = 2**31 - 1
"""The most of anything that is counted: Keras and TensorFlow count steps and rows as int32."""

LARGEST_NUMBER = 3e38
"""Numbers are float32 in a training step and in a sampler."""

_LONGEST_NAME = 200
_FILE_NAME = re.compile(
    r"[^\s<>|?*]+\.(txt|text|md|csv|tsv|jsonl?|gz|bz2|xz|zip|html?|xml|py)", re.I
)

# Real-valued options of samplers: a test of the value, and its description.
_ALLOWED: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value > 0, "above 0; for deterministic output use greedy"),
    "p": (lambda value: 0 < value <= 1, "above 0 and at most 1"),
    "alpha": (lambda value: 0 <= value <= 1, "0 to 1"),
    # Powers of lengths stay far below the largest float32.
    "length_penalty": (lambda value: 0 <= value <= 10, "0 to 10; 0 compares log-probabilities"),
    "length_offset": (lambda value: 0 <= value <= 1000, "0 to 1000; 0 as in Hugging Face"),
    "repetition_penalty": (lambda value: value > 0, "above 0; 1 has no effect"),
    "encoder_repetition_penalty": (lambda value: value > 0, "above 0; 1 has no effect"),
    "min_p": (lambda value: 0 <= value < 1, "at least 0 and below 1"),
}


def check_link(path: Path) -> None:
    """Check that a path is no link to something that is missing, or to itself.

    Raises:
        FileNotFoundError: it is.
    """
    if path.is_symlink() and not path.exists():
        raise FileNotFoundError(
            f"{path} is a link to {os.readlink(path)}, where there is nothing; copy or download "
            "what it stands for"
        )


def check_is_file(path: Path) -> None:
    """Check that a path is an ordinary file, which can be read to its end.

    Raises:
        FileNotFoundError: it is a link to something that is missing.
        ValueError: it is a folder, a pipe or a device; one that is missing passes.
    """
    check_link(path)
    if path.exists() and not path.is_file():
        kind = "folder" if path.is_dir() else "pipe" if path.is_fifo() else "device or socket"
        raise ValueError(f"{path} is a {kind}; give the path of a file")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        FileNotFoundError: it is missing.
        ValueError: it is not an ordinary file, no JSON, or nested too deeply.
    """
    check_is_file(path)
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:  # the error may quote bytes of the file
        raise ValueError(f"{path} is not JSON ({type(error).__name__})") from None


def read_manifest(path: Path, version: int) -> dict[str, Any]:
    """Read the JSON file that describes a folder.

    Raises:
        ValueError: it is damaged, or of another format than `version`.
    """
    try:
        manifest: dict[str, Any] = read_json(path)
        found = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged, or not written by functional_models") from None
    if found != version:
        raise ValueError(
            f"{path} has format {found!r}, this version reads format {version}; upgrade "
            "functional-models, or save again with this version"
        )
    return manifest


def check_path(what: str, value: Any) -> Path:
    """Return a path as a `Path`.

    Raises:
        TypeError: it is neither a text nor a path.
    """
    if not isinstance(value, str | os.PathLike):
        raise TypeError(f"{what} must be given as a path, not as {type(value).__name__}")
    return Path(value)


def check_is_text(data: Any, function: str) -> None:
    """Check that data is not the name of a file, which is another kind of text.

    Raises:
        TypeError: it is a path object.
        ValueError: it is a short text that names a file or a data set.
    """
    if isinstance(data, list | tuple) and len(data) == 1:
        data = data[0]
    if isinstance(data, os.PathLike):
        raise TypeError(
            f"{function} takes a text or a list of texts, given {type(data).__name__}; load the "
            f"file: load_text_corpus({str(data)!r})"
        )
    if not isinstance(data, str) or len(data) > _LONGEST_NAME or "\n" in data:
        return
    is_name = data == "embedded" or data.startswith("tfds:")
    if is_name or _FILE_NAME.fullmatch(data) or (data.strip() and Path(data).exists()):
        raise ValueError(
            f"{data!r} is the name of a file or of a data set, and {function} takes text; load it: "
            f"load_text_corpus({data!r})"
        )


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Check that an option is an integer from `least` to `most`, by default `LARGEST_COUNT`.

    Raises:
        ValueError: it is not.
    """
    is_integer = isinstance(value, Integral) and not isinstance(value, bool)
    is_huge = is_integer and most is None and value > LARGEST_COUNT
    if not is_integer or is_huge or value < least or (most is not None and value > most):
        most = LARGEST_COUNT if is_huge else most
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise invalid_value(name, value, f"an integer, {allowed}")


def check_real(name: str, value: Any) -> None:
    """Check that the value of the real-valued sampler option `name` is allowed.

    Raises:
        ValueError: it is not.
    """
    is_allowed, allowed = _ALLOWED[name]
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    # Comparisons are False for NaN, and do not overflow for a huge int.
    if is_real and LARGEST_NUMBER < value < math.inf:
        allowed = f"at most {LARGEST_NUMBER}"
    if not (is_real and abs(value) <= LARGEST_NUMBER and is_allowed(value)):
        raise invalid_value(name, value, allowed)


def check_early_stopping(value: Any) -> bool | str:
    """Return a value of `early_stopping`: "never", `False` or `True`, which may be texts.

    Raises:
        ValueError: another value.
    """
    named: dict[str, bool | str] = {"never": "never", "false": False, "true": True}
    found = named.get(str(value).lower()) if isinstance(value, bool | str) else None
    if found is None:
        raise ValueError(f"early_stopping={value!r}: must be 'never', False or True")
    return found
