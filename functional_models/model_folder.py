"""Model folders: what `save` writes and `load` reads.

    model.json            kind, format, spec, and the names of the other parts; written last
    weights-<hash>.keras  the Keras model
    tokenizer/            or source_tokenizer/ and target_tokenizer/

`model.json` names the weights, and each save gives them a new name. So the folder holds the old
model or the new one at any moment, and never half of each.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
from functional_models.files import write_whole
from functional_models.tokenizers import Tokenizer, load_tokenizer

FORMAT = 1
MANIFEST = "model.json"


@dataclass(frozen=True)
class ModelFolder:
    """What a model folder holds."""

    spec: builders.TransformerSpec
    model: Any
    tokenizers: Mapping[str, Tokenizer]


def write_model_folder(folder: str | Path, content: ModelFolder) -> None:
    """Write a model folder whole, or leave the old one as it was."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, tokenizer in content.tokenizers.items():
        tokenizer.save(folder / name)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        written = Path(scratch) / "weights.keras"
        content.model.save(written, include_optimizer=False)
        weights = f"weights-{hashlib.sha256(written.read_bytes()).hexdigest()[:12]}.keras"
        written.replace(folder / weights)
    manifest = {
        "format": FORMAT,
        "spec": json.loads(content.spec.to_json()),
        "weights": weights,
        "tokenizers": list(content.tokenizers),
    }
    write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
    for old in folder.glob("weights-*.keras"):
        if old.name != weights:
            old.unlink()


def read_model_folder(folder: str | Path) -> ModelFolder:
    """Read a model folder.

    Raises:
        FileNotFoundError: no such folder, or a file of it is missing.
        ValueError: the folder is of a newer format, or its content is damaged.
    """
    folder = Path(folder)
    spec = read_spec(folder)
    roles = _read_manifest(folder)["tokenizers"]
    tokenizers = {role: load_tokenizer(folder / role) for role in roles}
    model = builders.build(spec)
    restore_weights(model, folder)
    return ModelFolder(spec, model, tokenizers)


def read_spec(folder: str | Path) -> builders.TransformerSpec:
    """Read the spec of a model folder.

    Raises:
        FileNotFoundError, ValueError: as `read_model_folder`.
    """
    return builders.TransformerSpec.from_json(json.dumps(_read_manifest(Path(folder))["spec"]))


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
    missing = [key for key in ("spec", "weights", "tokenizers") if key not in manifest]
    if missing:
        raise ValueError(f"{path} is damaged: it has no {missing[0]}; save the model again")
    return manifest
