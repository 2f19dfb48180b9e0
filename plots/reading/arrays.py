"""Arrays and long lists in configurations and arguments, as shape, dtype and digest."""

from __future__ import annotations

import json
from collections.abc import Iterator
from hashlib import sha256
from typing import Any

MOST_VALUES = 64
"""Arrays and lists of more values are described."""

_SERIALISED = ("__numpy__", "__tensor__")


def description_of(value: Any) -> Any:
    """Return an array or list of many values as its shape, dtype and digest; None for others.

    The description has the form of a serialised object, {"class_name": "array", "config": ...}.
    Values are equal if and only if the digests are; that of weights, which training changes, is
    left out. A small array is returned as a list.
    """
    given, dtype = _unpacked(value)
    if isinstance(given, list | tuple):
        return _described_list(given, dtype)
    if not (hasattr(given, "shape") and hasattr(given, "dtype")) or isinstance(given, str):
        return None
    array = _as_numpy(given)
    if array is None:
        return None
    if hasattr(given, "assign") or getattr(given, "requires_grad", False):  # training changes it
        return _description(array, None, has_digest=False)
    return array.tolist() if array.size <= MOST_VALUES else _description(array, None)


def long_list_as_array(value: list[Any] | tuple[Any, ...]) -> Any:
    """Return a list of many numbers, which may be nested, as an array; None for others."""
    return _as_array(value, None) if _has_many_scalars(value) else None


def _unpacked(value: Any) -> tuple[Any, str | None]:
    """Return the values and dtype of an array that Keras has serialised, else the value itself."""
    if isinstance(value, dict) and value.get("class_name") in _SERIALISED:
        config = value.get("config")
        if isinstance(config, dict) and isinstance(config.get("value"), list):
            is_long = _has_many_scalars(config["value"])
            return (config["value"] if is_long else value), config.get("dtype")
    return value, None


def _described_list(value: list[Any] | tuple[Any, ...], dtype: str | None) -> Any:
    if not _has_many_scalars(value):
        return None
    array = _as_array(value, dtype)
    if array is not None:
        return _description(array, dtype)
    text = json.dumps(value, default=str)  # of lists of several lengths, or with None in them
    return {"class_name": "list", "config": {"length": len(value), "digest": _digest(text)}}


def _description(array: Any, dtype: str | None, has_digest: bool = True) -> dict[str, Any]:
    config = {"shape": list(array.shape), "dtype": dtype or _dtype_name(array)}
    digest = {"digest": _digest_of_array(array)} if has_digest else {}
    return {"class_name": "array", "config": config | digest}


def _dtype_name(array: Any) -> str:
    return "string" if array.dtype.kind == "U" else str(array.dtype)


def _digest_of_array(array: Any) -> str:
    import numpy as np

    if array.dtype.kind == "U":
        return _digest(json.dumps(array.tolist()))
    little = array.astype(array.dtype.newbyteorder("<"))
    return sha256(np.ascontiguousarray(little).tobytes()).hexdigest()[:8]


def _digest(text: str) -> str:
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _as_numpy(value: Any) -> Any:
    import keras

    try:
        return keras.ops.convert_to_numpy(value)
    except Exception:  # such as a symbolic tensor, which has no values
        return None


def _as_array(value: Any, dtype: str | None) -> Any:
    """Return a nested list as an array; None if it is ragged, or mixes numbers and texts."""
    import numpy as np

    kinds = {str if isinstance(leaf, str) else type(leaf) for leaf in _leaves(value)}
    if not (kinds == {str} or kinds <= {bool, int, float}):
        return None
    try:
        array = np.asarray(value, None if dtype in (None, "bfloat16") else dtype)
    except (OverflowError, TypeError, ValueError):
        return None
    return array if array.dtype.kind in "biufU" else None


def _has_many_scalars(value: Any) -> bool:
    """Return whether a list holds more than `MOST_VALUES` plain values, and nothing else."""
    leaves = list(_leaves(value))
    return len(leaves) > MOST_VALUES and all(
        leaf is None or isinstance(leaf, bool | int | float | str) for leaf in leaves
    )


def _leaves(value: Any) -> Iterator[Any]:
    for item in value:
        if isinstance(item, list | tuple):
            yield from _leaves(item)
        else:
            yield item
