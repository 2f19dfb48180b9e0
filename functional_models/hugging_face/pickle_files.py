"""Tensors that `torch.save` wrote, read without running anything of the file.

A pickle is a program, which may import and call whatever it names. Here it can name a dictionary,
the types of storages, and the functions that make a tensor of a storage, which are those below;
any other name is refused. Numbers are read where they lie in the file. There are two formats:

* since PyTorch 1.6 an uncompressed zip: the pickle NAME/data.pkl, and storages NAME/data/KEY;
* before, five pickles: a magic number, the version, what the machine is like, the object, and the
  keys of its storages. Then each storage, after its number of elements in 8 bytes.

Source: `torch/serialization.py`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from functional_models.checks import check_is_file
from functional_models.hugging_face.stored_tensor import WIDTHS, StoredTensor, span

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_LONGEST_PICKLE = 100 << 20

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}


@dataclass
class _Storage:
    """Elements in a row, of which tensors are views. `start`: first byte in the file."""

    type: str
    size: int
    start: int = -1


@dataclass(frozen=True)
class _View:
    """A tensor, as the arguments of the function that makes it. Sizes count elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *others: Any) -> _View:
    numbers = (offset, *shape, *strides)
    if not isinstance(storage, _Storage) or not all(isinstance(n, int) and n >= 0 for n in numbers):
        raise ValueError("no tensor")
    if offset + span(tuple(shape), tuple(strides)) > storage.size:
        raise ValueError("a tensor beyond its storage")
    return _View(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *others: Any) -> Any:
    return data


KNOWN: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
    **{("torch", name): kind for name, kind in _STORAGES.items()},
}
"""Module and name in a pickle -> what it stands for."""


class _UnknownNameError(Exception):
    """A pickle names something that is not known."""


class _Reader(pickle.Unpickler):
    """Reads a pickle; `storages` are those that it names, by key."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in KNOWN:
            raise _UnknownNameError(f"{module}.{name}")
        return KNOWN[module, name]

    def persistent_load(self, pid: Any) -> _Storage:
        _, kind, key, _, size, *view = pid
        if kind not in WIDTHS or any(view):
            raise ValueError("another kind of storage")
        storage = self.storages.setdefault(key, _Storage(kind, size))
        if (storage.type, storage.size) != (kind, size):
            raise ValueError("a storage of two sizes")
        return storage


def pickled_tensors(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a file of `torch.save(model.state_dict(), path)` by name.

    Raises:
        ValueError: a damaged file, or one that holds something else; the error has the name of
            what its pickle would import.
    """
    found = read_pickle(path)
    if not isinstance(found, dict) or not all(
        isinstance(name, str) and isinstance(value, StoredTensor) for name, value in found.items()
    ):
        raise ValueError(
            f"{path} holds something else than tensors by name; save model.state_dict()"
        )
    return found


def read_pickle(path: Path) -> Any:
    """Return the object of a file of `torch.save`, with `StoredTensor` in place of tensors.

    Raises:
        ValueError: as `pickled_tensors`.
    """
    check_is_file(path)
    try:
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
            file.seek(0)
            found = _read_zip(file) if is_zip else _read_older(file)
        return _placed(found, path)
    except _UnknownNameError as error:
        raise ValueError(
            f"{path} is a pickle that names {error}, which no tensor needs, and nothing of it is "
            "run; if you trust its source, load it with torch and save it as safetensors"
        ) from None
    except OSError:
        raise
    except Exception as error:  # of unpickling, which has no common class
        raise ValueError(
            f"{path} is damaged, or no file of torch.save ({type(error).__name__}); download it "
            "again"
        ) from None


def _placed(found: Any, path: Path) -> Any:
    """Return an object with the places of its tensors in the file."""
    if isinstance(found, _View):
        kind, start = found.storage.type, found.storage.start
        steps, size = [], 1
        for n in reversed(found.shape):
            steps.append(size)
            size *= n
        in_rows = zip(found.shape, found.strides, reversed(steps), strict=True)
        strides = None if all(n < 2 or a == b for n, a, b in in_rows) else found.strides
        return StoredTensor(path, kind, found.shape, start + found.offset * WIDTHS[kind], strides)
    if isinstance(found, dict):
        return {key: _placed(value, path) for key, value in found.items()}
    return found


def _read_zip(file: BinaryIO) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        (name,) = (name for name in entries if name.endswith("/data.pkl"))
        folder = name.removesuffix("data.pkl")
        if entries[name].file_size > _LONGEST_PICKLE:
            raise ValueError("a long pickle")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("of another byte order")
        reader = _Reader(io.BytesIO(archive.read(name)))
        found = reader.load()
    for key, storage in reader.storages.items():
        entry = entries[f"{folder}data/{key}"]
        if entry.compress_type != zipfile.ZIP_STORED:
            raise ValueError("compressed")
        file.seek(entry.header_offset + 26)
        lengths = [int.from_bytes(file.read(2), "little") for _ in range(2)]  # name, extra field
        storage.start = entry.header_offset + 30 + sum(lengths)
        _check_end(file, storage, entry.file_size)
    return found


def _read_older(file: BinaryIO) -> Any:
    if (_load(file), _load(file)) != (_MAGIC, _VERSION) or not _load(file)["little_endian"]:
        raise ValueError("another format")
    reader = _Reader(file)
    found = reader.load()
    for key in _load(file):
        storage = reader.storages[key]
        storage.start = file.tell() + 8
        size = int.from_bytes(file.read(8), "little") * WIDTHS[storage.type]
        _check_end(file, storage, size)
        file.seek(storage.start + size)
    return found


def _load(file: BinaryIO) -> Any:
    return _Reader(file).load()


def _check_end(file: BinaryIO, storage: _Storage, size: int) -> None:
    """Check that a storage has a number of bytes, and that the file has them."""
    at = file.tell()
    end = file.seek(0, io.SEEK_END)
    file.seek(at)
    if size != storage.size * WIDTHS[storage.type] or storage.start + size > end:
        raise ValueError("a storage of another size")
