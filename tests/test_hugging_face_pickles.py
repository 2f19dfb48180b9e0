"""Files of `torch.save`: tensors are read without running anything, and all else is refused.

`tests/peers/make_pickles.py` writes the golden files with PyTorch.
"""

import io
import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from functional_models.hugging_face import pickle_files
from functional_models.hugging_face.pickle_files import pickled_tensors, read_pickle
from functional_models.hugging_face.weight_files import PICKLE, PICKLE_INDEX, stored_tensors

GOLDEN = Path(__file__).parent / "golden" / "pickles"
FORMATS = ["zip.bin", "older.bin"]


@pytest.mark.parametrize("name", FORMATS)
def test_tensors_are_those_that_pytorch_wrote(name: str) -> None:
    tensors = pickled_tensors(GOLDEN / name)
    expected = np.load(GOLDEN / "expected.npz")
    assert tensors.keys() == {*expected.files, "ids", "mask"}
    for key in expected.files:
        found = tensors[key].read()
        assert found.shape == expected[key].shape
        np.testing.assert_array_equal(found.astype("float64"), expected[key], err_msg=key)
    types = {key: tensors[key].type for key in ("half", "bfloat", "double", "ids", "mask")}
    assert list(types.values()) == ["F16", "BF16", "F64", "I64", "BOOL"]
    assert not tensors["ids"].is_float
    assert tensors["plain"].equals(tensors["tied"])
    assert not tensors["half"].equals(tensors["bfloat"])
    assert tensors["transposed"].equals(tensors["transposed"])


def test_a_folder_may_have_one_pickle_or_shards(tmp_path: Path) -> None:
    shutil.copy(GOLDEN / "zip.bin", tmp_path / PICKLE)
    assert "plain" in stored_tensors(tmp_path)
    (tmp_path / PICKLE).rename(tmp_path / "pytorch_model-00001-of-00001.bin")
    places = ", ".join(
        f'"{name}": "pytorch_model-00001-of-00001.bin"'
        for name in pickled_tensors(GOLDEN / "zip.bin")
    )
    (tmp_path / PICKLE_INDEX).write_text(f'{{"weight_map": {{{places}}}}}')
    assert stored_tensors(tmp_path)["plain"].path.name == "pytorch_model-00001-of-00001.bin"


# What is refused --------------------------------------------------------------------------------


class Runs:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def in_zip(content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
    return file.getvalue()


def older(*objects: Any) -> bytes:
    start = [pickle_files._MAGIC, pickle_files._VERSION, {"little_endian": True}]
    return b"".join(pickle.dumps(x, protocol=2) for x in (*start, *objects))


def test_a_pickle_that_runs_something_is_refused_with_its_name(tmp_path: Path) -> None:
    path, witness = tmp_path / PICKLE, tmp_path / "witness"
    attack = {"weight": Runs(f"touch {witness}")}
    forms = [in_zip(pickle.dumps(attack, protocol)) for protocol in range(pickle.HIGHEST_PROTOCOL)]
    for content in (*forms, older(attack, []), pickle.dumps(attack)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=rf"{PICKLE} is a pickle that names \w+.system, "):
            stored_tensors(tmp_path)
    assert not witness.exists()
    pickle.loads(pickle.dumps(attack))  # the attack is one
    assert witness.exists()


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (np.float64(2), "numpy._core.multiarray.scalar"),
        (np.ones(2), "numpy._core.numeric._frombuffer|numpy._core.multiarray._reconstruct"),
        (getattr, "builtins.getattr"),
        (pickle.Unpickler, "_pickle.Unpickler"),
        (io.BytesIO(b""), "_io.BytesIO"),
    ],
)
def test_no_other_name_is_known(tmp_path: Path, value: Any, name: str) -> None:
    path = tmp_path / PICKLE
    path.write_bytes(in_zip(pickle.dumps(value)))
    with pytest.raises(ValueError, match=f"is a pickle that names ({name}), "):
        pickled_tensors(path)


def test_other_objects_than_tensors_are_refused(tmp_path: Path) -> None:
    path = tmp_path / PICKLE
    for value in ([1], {"a": 1}, OrderedDict(a={"b": 2})):
        path.write_bytes(in_zip(pickle.dumps(value)))
        with pytest.raises(ValueError, match="holds something else than tensors by name"):
            pickled_tensors(path)
        assert read_pickle(path) == value


def changed(name: str, old: bytes, new: bytes) -> Callable[[], bytes]:
    def make() -> bytes:
        content = (GOLDEN / name).read_bytes()
        assert old in content
        return content.replace(old, new)

    return make


def with_lengths(change: Callable[[list[Any]], object]) -> Callable[[], bytes]:
    """Return an older file whose tensor has other sizes."""

    class Storage:
        pass

    class Writer(pickle._Pickler):
        def persistent_id(self, value: Any) -> Any:
            return (
                ("storage", Named("torch FloatStorage"), "0", "cpu", 6)
                if value is Storage
                else None
            )

    class Named:
        def __init__(self, name: str) -> None:
            self.name = name

    def save_named(pickler: Any, named: Named) -> None:
        module, name = named.name.split()
        pickler.write(pickle.GLOBAL + f"{module}\n{name}\n".encode())

    class Tensor:
        def __init__(self, arguments: list[Any]) -> None:
            self.arguments = arguments

    def save_tensor(pickler: Any, tensor: Tensor) -> None:
        save_named(pickler, Named("torch._utils _rebuild_tensor_v2"))
        pickler.save(tuple(tensor.arguments))
        pickler.write(pickle.REDUCE)

    Writer.dispatch = {**pickle._Pickler.dispatch, Named: save_named, Tensor: save_tensor}

    def make() -> bytes:
        arguments = [Storage, 0, (2, 3), (3, 1), False, None]
        change(arguments)
        file = io.BytesIO(older())
        file.seek(0, io.SEEK_END)
        Writer(file, 2).dump({"a": Tensor(arguments)})
        file.write(pickle.dumps(["0"], 2) + (6).to_bytes(8, "little") + bytes(24))
        return file.getvalue()

    return make


def put(index: int, value: Any) -> Callable[[list[Any]], object]:
    return lambda arguments: arguments.__setitem__(index, value)


DAMAGED = [
    lambda: b"",
    lambda: b"PK",
    lambda: b"<html>" * 9,
    lambda: (GOLDEN / "zip.bin").read_bytes()[:2000],
    lambda: (GOLDEN / "older.bin").read_bytes()[:-7],
    lambda: (GOLDEN / "older.bin").read_bytes()[:700],
    lambda: in_zip(b""),
    lambda: in_zip(b"\x80\x02}."[:-1]),
    lambda: older(),
    lambda: older({"a": 1}, ["0"]),
    changed("zip.bin", b"little", b"bigger"),
    changed("zip.bin", b"FloatStorage", b"BoolStorages"),
    with_lengths(put(2, (3, 3))),
    with_lengths(put(1, 1)),
    with_lengths(put(1, -1)),
    with_lengths(put(3, (3, -1))),
    with_lengths(put(3, (3,))),
    with_lengths(put(2, ("2", 3))),
    with_lengths(put(0, None)),
]


@pytest.mark.parametrize("number", range(len(DAMAGED)))
def test_a_damaged_pickle_is_refused_in_one_line(tmp_path: Path, number: int) -> None:
    path = tmp_path / PICKLE
    path.write_bytes(DAMAGED[number]())
    with pytest.raises(ValueError, match=f"{PICKLE} is (damaged|a pickle that names)") as error:
        pickled_tensors(path)
    assert "\n" not in str(error.value)


def test_the_tensor_of_those_sizes_is_read(tmp_path: Path) -> None:
    path = tmp_path / PICKLE
    path.write_bytes(with_lengths(put(3, (1, 2)))())
    assert pickled_tensors(path)["a"].read().shape == (2, 3)
