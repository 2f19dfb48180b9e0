"""The files of weights of a folder, single or sharded, read one tensor at a time.

Where a folder has both, safetensors are read and pickles are not. A file of safetensors is the
length of the header, 8 bytes; the header, JSON with type, shape and place of every tensor; and the
tensors, row by row, all little-endian (https://github.com/huggingface/safetensors).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from functional_models.checks import check_is_file, read_json
from functional_models.hugging_face.pickle_files import pickled_tensors
from functional_models.hugging_face.stored_tensor import WIDTHS, StoredTensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_LONGEST_HEADER = 100 << 20
_POINTER = b"version https://git-lfs.github.com/"

# Other files of weights, for the message of a folder without those that are read.
_OTHER_FORMATS = {
    "adapter_config.json": "an adapter (LoRA): merge it into its model with peft "
    "(merge_and_unload), and save that",
    "*.bin": f"a pickle, of another name than {PICKLE}: rename it, if it has the weights",
    "*.h5": "weights of TensorFlow",
    "*.msgpack": "weights of Flax",
    "*.gguf": "the whole model as GGUF: give the path of that file",
}


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a folder by name, without reading them.

    Raises:
        FileNotFoundError: there are no files of weights, or a shard is missing.
        ValueError: a damaged index or file.
    """
    for single, index, read in (
        (SINGLE, INDEX, _tensors_of_file),
        (PICKLE, PICKLE_INDEX, pickled_tensors),
    ):
        if (folder / single).exists():
            return _read(folder / single, read)
        if (folder / index).exists():
            return _sharded(folder, folder / index, read)
    raise FileNotFoundError(_no_weights(folder))


def _sharded(
    folder: Path, index: Path, read: Callable[[Path], dict[str, StoredTensor]]
) -> dict[str, StoredTensor]:
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
        found |= _read(folder / file, read)
    for name in found.keys() ^ names.keys():
        where = f"not in {names[name]}" if name in names else "not named there"
        raise ValueError(f"{index} and the files of weights disagree: {name} is {where}")
    return found


def _read(path: Path, read: Callable[[Path], dict[str, StoredTensor]]) -> dict[str, StoredTensor]:
    check_is_file(path)
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ValueError(
                f"{path} is a pointer of Git LFS, in place of the file; run `git lfs pull` in the "
                "folder, or download the file again"
            )
    return read(path)


def _tensors_of_file(path: Path) -> dict[str, StoredTensor]:
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
    if any(end > size for _, end in rows):
        raise _truncated(path, size)
    return {name: tensor for name, (tensor, _) in zip(header, rows, strict=True)}


def _stored(path: Path, start: int, entry: Mapping[str, Any]) -> tuple[StoredTensor, int]:
    """Return a tensor of a header, and the first byte after it."""
    first, end = entry["data_offsets"]
    shape, kind = tuple(entry["shape"]), entry["dtype"]
    if not all(isinstance(n, int) and n >= 0 for n in (*shape, first, end)):
        raise ValueError("no size")
    if end - first != math.prod(shape) * WIDTHS[kind]:
        raise ValueError("another size than its shape")
    return StoredTensor(path, kind, shape, start + first), start + end


def _truncated(path: Path, size: int) -> ValueError:
    return ValueError(
        f"{path} is truncated, or no safetensors: its header names tensors beyond its {size:,} "
        "bytes; download it again"
    )


def _no_weights(folder: Path) -> str:
    message = f"{folder} has neither {SINGLE} nor {PICKLE}, nor an index of their shards"
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
