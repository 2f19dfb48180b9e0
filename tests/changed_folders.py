"""Copies of the golden folders of Hugging Face, with other tensors, keys and files."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

Tensors = dict[str, np.ndarray]


@pytest.fixture
def copy(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that copies a golden folder, with other keys and tensors."""
    from golden_folders import GOLDEN
    from safetensors.numpy import load_file, save_file

    from functional_models.hugging_face.weight_files import SINGLE

    def make(
        name: str = "llama",
        change: Callable[[Tensors], object] = lambda tensors: None,
        **keys: Any,
    ) -> Path:
        folder = tmp_path / name
        shutil.copytree(GOLDEN / name, folder)
        tensors = load_file(folder / SINGLE)
        change(tensors)
        save_file(tensors, folder / SINGLE, {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, **keys}))
        return folder

    return make


def shard(folder: Path) -> None:
    """Write the tensors of a folder as two files and an index."""
    from safetensors.numpy import load_file, save_file

    from functional_models.hugging_face.weight_files import INDEX, SINGLE

    tensors = load_file(folder / SINGLE)
    (folder / SINGLE).unlink()
    names = sorted(tensors)
    places = {}
    for number, part in enumerate((names[::2], names[1::2]), 1):
        file = f"model-{number:05}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        places |= dict.fromkeys(part, file)
    index = {"metadata": {"total_size": 1}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))


def write(name: str, content: bytes) -> Callable[[Path], object]:
    """Return a function that writes a file of a folder."""
    return lambda folder: (folder / name).write_bytes(content)


def header(content: bytes) -> bytes:
    """Return the header of a file of safetensors."""
    return struct.pack("<Q", len(content)) + content
