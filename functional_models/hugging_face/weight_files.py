"""The safetensors files of a folder, single or sharded, read one tensor at a time.

Format: the length of the header, 8 bytes; the header, JSON with type, shape and place of every
tensor; and the tensors, row by row, all little-endian (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from functional_models.checks import check_is_file, read_json

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_FLOATS: Mapping[str, Any] = {
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "F16": np.dtype("<f2"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_OTHER_SIZES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2, "I8": 1, "U8": 1}
_OTHER_SIZES |= {"BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}
_LONGEST_HEADER = 100 << 20
_CHUNK = 1 << 22  # elements that are compared at once

# Other formats of weights, for the message of a folder without safetensors.
_OTHER_FORMATS = {
    "adapter_config.json": "an adapter (LoRA): merge it into its model with peft "
    "(merge_and_unload), and save that",
    "*.bin": "weights as PyTorch pickles",
    "*.h5": "weights of TensorFlow",
    "*.msgpack": "weights of Flax",
    "*.gguf": "weights as GGUF",
}


@dataclass(frozen=True)
class StoredTensor:
    """Place of a tensor in a file.

    Attributes:
        path: the file.
        type: name of the type, as in the header.
        shape: the shape.
        offset: first byte in the file.
    """

    path: Path
    type: str
    shape: tuple[int, ...]
    offset: int

    @property
    def is_float(self) -> bool:
        """Whether the type is one that weights are read from."""
        return self.type in _FLOATS

    def read(self) -> np.ndarray:
        """Return the tensor, in its own type."""
        return self._read(0, math.prod(self.shape)).reshape(self.shape)

    def equals(self, other: StoredTensor) -> bool:
        """Return whether another tensor has the same shape and values."""
        if self.shape != other.shape:
            return False
        total = math.prod(self.shape)
        return all(
            np.array_equal(self._read(at, _CHUNK), other._read(at, _CHUNK))
            for at in range(0, total, _CHUNK)
        )

    def _read(self, first: int, count: int) -> np.ndarray:
        dtype = _FLOATS[self.type]
        count = min(count, math.prod(self.shape) - first)
        # Not from a mapped file, whose pages would count as memory of the process.
        raw = np.fromfile(
            self.path, "u1", count * dtype.itemsize, offset=self.offset + first * dtype.itemsize
        )
        return raw.view(dtype)


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder by name, without reading them.

    Raises:
        FileNotFoundError: there are no safetensors, or a shard is missing.
        ValueError: a damaged index or file.
    """
    if (folder / SINGLE).exists():
        return dict(_tensors_of_file(folder / SINGLE))
    if not (folder / INDEX).exists():
        raise FileNotFoundError(_no_weights(folder))
    return _sharded(folder)


def _sharded(folder: Path) -> dict[str, StoredTensor]:
    index = folder / INDEX
    content = read_json(index)
    names = content.get("weight_map") if isinstance(content, dict) else None
    if not isinstance(names, dict) or not all(
        isinstance(file, str) and Path(file).name == file for file in names.values()
    ):
        raise ValueError(f"{index} is damaged: its weight_map does not name a file of each tensor")
    files = sorted(set(names.values()))
    if missing := [name for name in files if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"{folder} is incomplete: {', '.join(missing)} of its {len(files)} files of weights "
            f"{'is' if len(missing) == 1 else 'are'} missing; download the whole folder again"
        )
    found: dict[str, StoredTensor] = {}
    for file in files:
        found |= _tensors_of_file(folder / file)
    for name in found.keys() ^ names.keys():
        where = f"not in {names[name]}" if name in names else "not named there"
        raise ValueError(f"{index} and the files of weights disagree: {name} is {where}")
    return found


def _tensors_of_file(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    check_is_file(path)
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > min(size - 8, _LONGEST_HEADER):
            raise _truncated(path, size)
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            rows = [_stored(path, 8 + length, entry) for entry in header.values()]
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise ValueError(
                f"{path} is damaged: its header is not that of safetensors "
                f"({type(error).__name__}); download it again"
            ) from None
    for name, (tensor, end) in zip(header, rows, strict=True):
        if end > size:
            raise _truncated(path, size)
        yield name, tensor


def _stored(path: Path, start: int, entry: Mapping[str, Any]) -> tuple[StoredTensor, int]:
    """Return a tensor of a header, and the first byte after it."""
    first, end = entry["data_offsets"]
    shape, kind = tuple(entry["shape"]), entry["dtype"]
    width = _FLOATS[kind].itemsize if kind in _FLOATS else _OTHER_SIZES[kind]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, first, end)):
        raise ValueError("no size")
    if end - first != math.prod(shape) * width:
        raise ValueError("another size than its shape")
    return StoredTensor(path, kind, shape, start + first), start + end


def _truncated(path: Path, size: int) -> ValueError:
    return ValueError(
        f"{path} is truncated, or no safetensors: its header names tensors beyond its {size:,} "
        "bytes; download it again"
    )


def _no_weights(folder: Path) -> str:
    message = f"{folder} has neither {SINGLE} nor {INDEX}"
    for pattern, what in _OTHER_FORMATS.items():
        if found := sorted(folder.glob(pattern)):
            advice = ""
            if ":" not in what:
                advice = (
                    "; load it with transformers and save it again with "
                    "model.save_pretrained(folder, safe_serialization=True)"
                )
            return f"{message}; {found[0].name} holds {what}{advice}"
    return f"{message}; download the files of weights too"
