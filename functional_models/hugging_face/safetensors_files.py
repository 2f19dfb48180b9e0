"""Tensors of a file of safetensors, which are read when they are needed.

A file is the length of the header, 8 bytes; the header, JSON with type, shape and place of every
tensor; and the tensors, row by row, all little-endian. The tensors lie one after another and fill
the file. Source: https://github.com/huggingface/safetensors, which refuses other files too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functional_models.hugging_face.stored_tensor import WIDTHS, StoredTensor

_LONGEST_HEADER = 100 << 20


def tensors_of_file(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file by name, without reading them.

    Raises:
        ValueError: a truncated or damaged file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _truncated(path, size)
        content = file.read(length)
    try:
        header = json.loads(content, object_pairs_hook=_distinct)
        header.pop("__metadata__", None)
        rows = {name: _stored(path, 8 + length, entry) for name, entry in header.items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        # Other messages quote bytes of the file.
        reason = str(error) if type(error) is ValueError else type(error).__name__
        raise ValueError(
            f"{path} is damaged: its header is not that of safetensors ({reason}); download it "
            "again"
        ) from None
    if any(end > size for _, end in rows.values()):
        raise _truncated(path, size)
    _check_places(path, 8 + length, size, rows)
    return {name: tensor for name, (tensor, _) in rows.items()}


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object, whose keys must be distinct."""
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"it names {next(n for n in names if names.count(n) > 1)} twice")
    return found


def _stored(path: Path, start: int, entry: Mapping[str, Any]) -> tuple[StoredTensor, int]:
    """Return a tensor of a header, and the first byte after it."""
    first, end = entry["data_offsets"]
    shape, kind = tuple(entry["shape"]), entry["dtype"]
    if not all(type(n) is int and n >= 0 for n in (*shape, first, end)):
        raise ValueError("it has a size that is no number of elements or bytes")
    if kind not in WIDTHS:
        raise ValueError(f"it has the type {kind!r}; known are {', '.join(WIDTHS)}")
    if end - first != math.prod(shape) * WIDTHS[kind]:
        raise ValueError("it has a tensor of another size than that of its shape")
    return StoredTensor(path, kind, shape, start + first), start + end


def _check_places(
    path: Path, start: int, size: int, rows: Mapping[str, tuple[StoredTensor, int]]
) -> None:
    """Check that the tensors lie one after another, and fill the file."""
    at = start
    for name, (tensor, end) in sorted(rows.items(), key=lambda row: (row[1][0].offset, row[1][1])):
        if tensor.offset != at:
            what = "overlaps another tensor" if tensor.offset < at else "begins after unused bytes"
            raise ValueError(f"{path} is damaged: {name} {what}; download it again")
        at = end
    if at != size:
        raise ValueError(
            f"{path} is damaged: there are {size - at:,} bytes after its last tensor; download it "
            "again"
        )


def _truncated(path: Path, size: int) -> ValueError:
    return ValueError(
        f"{path} is truncated, or no safetensors: its header names tensors beyond its {size:,} "
        "bytes; download it again"
    )
