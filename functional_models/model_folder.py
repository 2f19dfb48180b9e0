"""Model folders: what `save` writes and `load` reads.

    model.json            format, spec, and the names of the other parts; written last
    weights-<hash>.keras  the Keras model
    tokenizer-<hash>/     or source_tokenizer-<hash>/ and target_tokenizer-<hash>/

`model.json` names the other parts, and what has another content gets another name. So the folder
holds the old model or the new one at any moment, and never half of each.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
from functional_models.files import write_whole
from functional_models.tokenizers import MANIFEST as TOKENIZER_MANIFEST
from functional_models.tokenizers import Tokenizer, load_tokenizer

FORMAT = 1
MANIFEST = "model.json"


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds."""

    spec: builders.TransformerSpec
    model: Any
    tokenizers: Mapping[str, Tokenizer]


def make_folder(folder: str | Path) -> Path:
    """Make a folder, and those above it, where there are none.

    Raises:
        ValueError: there is a file of that name.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{folder} cannot be made: it, or one above it, is a file; give the path of a folder"
        ) from None
    return folder


def write_model_folder(folder: str | Path, content: ModelFolder) -> None:
    """Write a model folder whole, or leave the old one as it was.

    Raises:
        ValueError: there is a file of that name.
    """
    folder = make_folder(folder)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        written = Path(scratch) / "weights.keras"
        content.model.save(written, include_optimizer=False)
        weights = f"weights-{_hash(written)}.keras"
        os.replace(written, folder / weights)
        tokenizers = {}
        for role, tokenizer in content.tokenizers.items():
            tokenizer.save(Path(scratch) / role)
            # Its manifest holds the hashes of all its other files.
            name = f"{role}-{_hash(Path(scratch) / role / TOKENIZER_MANIFEST)}"
            if not (folder / name).exists():
                os.replace(Path(scratch) / role, folder / name)
            tokenizers[role] = name
    manifest = {
        "format": FORMAT,
        "spec": json.loads(content.spec.to_json()),
        "weights": weights,
        "tokenizers": tokenizers,
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    for old in folder.glob("weights-*.keras"):
        if old.name != weights:
            old.unlink()
    for old in folder.glob("*tokenizer-*"):
        if old.name not in tokenizers.values():
            shutil.rmtree(old)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def read_model_folder(folder: str | Path) -> ModelFolder:
    """Read a model folder.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: the folder is of a newer format, or its content is damaged.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    names = _read_manifest(folder)["tokenizers"]
    tokenizers = {role: load_tokenizer(folder / name) for role, name in names.items()}
    model = builders.build(spec)
    restore_weights(model, folder)
    return ModelFolder(spec, model, tokenizers)


def read_spec(folder: str | Path) -> builders.TransformerSpec:
    """Read the spec of a model folder.

    Raises:
        FileNotFoundError, ValueError: as `read_model_folder`.
    """
    spec = json.dumps(_read_manifest(Path(folder))["spec"])
    try:
        return builders.TransformerSpec.from_json(spec)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{Path(folder) / MANIFEST}: {error}") from error


def restore_weights(model: Any, folder: str | Path) -> None:
    """Bring a model to the weights of a model folder.

    Raises:
        FileNotFoundError, ValueError: as `read_model_folder`.
    """
    folder = Path(folder)
    weights = folder / _read_manifest(folder)["weights"]
    if not weights.exists():
        raise FileNotFoundError(
            f"{folder} is half-written: {weights.name} is missing; save the model again, or copy "
            "the whole folder"
        )
    try:
        model.load_weights(weights)
    except Exception as error:
        raise ValueError(
            f"{weights} cannot be read ({type(error).__name__}); it is damaged: save the model "
            "again, or copy the whole folder"
        ) from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {folder}; give one that `save` wrote")
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is no model folder, or was never finished: it has no {MANIFEST}; give a "
            "folder that `save` wrote"
        )
    try:
        manifest = json.loads(path.read_text("utf-8"))
        version = manifest["format"]
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} is damaged; save the model again") from None
    if version != FORMAT:
        raise ValueError(
            f"{folder} has format {version}, this version reads format {FORMAT}; upgrade "
            "functional-models"
        )
    for key, kind in (("spec", dict), ("weights", str), ("tokenizers", dict)):
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"{path} is damaged: it has no proper {key}; save the model again")
    return manifest
