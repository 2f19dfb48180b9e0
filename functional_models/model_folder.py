"""Model folders, which `save` writes and `load` reads.

    model.json            manifest: format, spec, and the names of the other parts; written last
    weights-<hash>.keras  the Keras model
    tokenizer-<hash>/     or source_tokenizer-<hash>/ and target_tokenizer-<hash>/
    checkpoint.npz        state of a training run, if the folder is that of a run

The names of parts contain a hash of their content, so that the folder always holds the complete
old or the complete new model.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
from functional_models.checks import check_path, read_manifest
from functional_models.tokenizer_files import MANIFEST as TOKENIZER_MANIFEST
from functional_models.tokenizers import Tokenizer, load_tokenizer
from plots.files import write_whole

FORMAT = 1
MANIFEST = "model.json"
CHECKPOINT = "checkpoint.npz"
_PART = re.compile(r"weights-[0-9a-f]{12}\.keras|\w*tokenizer-[0-9a-f]{12}")


@dataclass(frozen=True)
class ModelFolder:
    """Content of a model folder."""

    spec: builders.TransformerSpec
    model: Any
    tokenizers: Mapping[str, Tokenizer]


def make_folder(folder: str | Path) -> Path:
    """Make a folder and its parents, if they are missing.

    Raises:
        ValueError: it, or one of its parents, is a file.
    """
    folder = check_path("the folder of a model", folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{folder} cannot be made: it, or one of its parents, is a file; give the path of "
            "a folder"
        ) from None
    return folder


def make_model_folder(folder: str | Path) -> Path:
    """Make a folder for a model, if it is missing.

    Raises:
        ValueError: it is a file, or has a `model.json` that is no manifest of a model.
    """
    folder = make_folder(folder)
    _parts(folder)
    return folder


def write_model_folder(folder: str | Path, content: ModelFolder) -> None:
    """Write a model folder; an interruption leaves the previous model.

    Deletes the weights and tokenizers that the previous manifest names, and nothing else. Damaged
    parts are replaced.

    Raises:
        ValueError: as `make_model_folder`.
    """
    folder = make_model_folder(folder)
    old = _parts(folder)
    new: set[str] = set()  # the parts that this call adds
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        written = Path(scratch) / "weights.keras"
        content.model.save(written, include_optimizer=False)
        weights = f"weights-{_hash(written)}.keras"
        sources = {weights: written}
        tokenizers = {}
        for role, tokenizer in content.tokenizers.items():
            tokenizer.save(Path(scratch) / role)
            tokenizers[role] = f"{role}-{_hash(Path(scratch) / role / TOKENIZER_MANIFEST)}"
            sources[tokenizers[role]] = Path(scratch) / role
        manifest = {
            "format": FORMAT,
            "spec": json.loads(content.spec.to_json()),
            "weights": weights,
            "tokenizers": tokenizers,
        }
        try:
            for name, source in sources.items():
                if _is_same(source, folder / name):
                    continue
                if (folder / name).exists():  # a damaged part of the previous model
                    os.replace(folder / name, Path(scratch) / f"damaged-{name}")
                new.add(name)
                os.replace(source, folder / name)
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        except BaseException:
            _delete(folder, new - _parts(folder))  # the manifest may already be the new one
            raise
    _delete(folder, old - set(sources))


def _parts(folder: Path) -> set[str]:
    """Return the names of the weights and tokenizers of the model in a folder, if there is one."""
    if not (folder / MANIFEST).exists():
        return set()
    try:
        manifest = _read_manifest(folder)
    except ValueError as error:
        raise ValueError(
            f"{error}; it is not overwritten: save to another folder, or remove {MANIFEST}"
        ) from None
    return {manifest["weights"], *manifest["tokenizers"].values()}


def _is_same(part: Path, other: Path) -> bool:
    """Return whether `other` has the content of a part, which is a file or a folder."""
    if part.is_dir():
        return all(_is_same(path, other / path.name) for path in part.iterdir())
    return other.is_file() and filecmp.cmp(part, other, shallow=False)


def _delete(folder: Path, names: Iterable[str]) -> None:
    """Delete parts of a model; names that this module does not give are skipped."""
    for path in (folder / name for name in names if _PART.fullmatch(name)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:12]


def read_model_folder(folder: str | Path) -> ModelFolder:
    """Read a model folder.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a newer format, or damaged content.
    """
    spec = read_spec(folder)
    folder = Path(folder)
    names = _read_manifest(folder)["tokenizers"]
    tokenizers = {role: _read_tokenizer(folder / name) for role, name in names.items()}
    model = builders.build(spec)
    restore_weights(model, folder)
    return ModelFolder(spec, model, tokenizers)


def _read_tokenizer(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    if not folder.name.endswith(f"-{_hash(folder / TOKENIZER_MANIFEST)}"):
        raise ValueError(
            f"{folder} is not the tokenizer that the model was saved with: its content does not "
            "have the hash in its name; copy the whole model folder again"
        )
    return tokenizer


def read_spec(folder: str | Path) -> builders.TransformerSpec:
    """Read the spec of a model folder.

    Raises:
        FileNotFoundError, ValueError: as `read_model_folder`.
    """
    folder = check_path("the folder of a model", folder)
    spec = json.dumps(_read_manifest(folder)["spec"])
    try:
        return builders.TransformerSpec.from_json(spec)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: {error}") from error


def restore_weights(model: Any, folder: str | Path) -> None:
    """Load the weights of a model folder into a model.

    Raises:
        FileNotFoundError, ValueError: as `read_model_folder`.
    """
    folder = Path(folder)
    weights = folder / _read_manifest(folder)["weights"]
    if not weights.exists():
        raise FileNotFoundError(
            f"{folder} is incomplete: {weights.name} is missing; save the model again, or copy the "
            "whole folder"
        )
    try:
        model.load_weights(weights)
    except Exception as error:
        raise ValueError(
            f"{weights} cannot be read ({type(error).__name__}): the file is damaged; save the "
            "model again, or copy the whole folder"
        ) from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        raise FileNotFoundError(
            f"there is no model folder {folder}; give a folder that `save` wrote"
        )
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is no complete model folder: it has no {MANIFEST}; give a folder that "
            "`save` wrote"
        )
    manifest = read_manifest(path, FORMAT)
    for key, kind in (("spec", dict), ("weights", str), ("tokenizers", dict)):
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"{path} is damaged: it has no valid {key}")
    if not all(isinstance(name, str) for name in manifest["tokenizers"].values()):
        raise ValueError(f"{path} is damaged: it has no valid tokenizers")
    return manifest
