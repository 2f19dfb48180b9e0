"""Model folders, which `save` writes and `load` reads.

    model.json            manifest: format, spec, and the names of the other parts; written last
    weights-<hash>.keras  the Keras model
    adapters-<hash>.npz   of a model with LoRA, whose weights are those without it
    tokenizer-<hash>/     or source_tokenizer-<hash>/ and target_tokenizer-<hash>/
    checkpoint.npz        state of a training run, if the folder is that of a run

The names of parts contain a hash of their content, so that the folder always holds the complete
old or the complete new model.
"""

from __future__ import annotations

import filecmp
import hashlib
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import builders
from functional_models.checks import check_is_file, check_path, read_json, read_manifest
from functional_models.folders import MODEL as MANIFEST
from functional_models.folders import RUN as CHECKPOINT
from functional_models.folders import check_content, folder_path, make_folder, only_writer
from functional_models.tokenizer_files import MANIFEST as TOKENIZER_MANIFEST
from functional_models.tokenizers import Tokenizer, load_tokenizer
from plots.files import remove_leftovers, write_whole

FORMAT = 1
_JOURNAL = "parts.json"
_CHUNK = 1 << 22
"""Elements of an array that are copied at once."""
_PART = re.compile(
    r"weights-[0-9a-f]{12}\.keras|adapters-[0-9a-f]{12}\.npz|\w*tokenizer-[0-9a-f]{12}"
)


@dataclass(frozen=True)
class ModelFolder:
    """Content of a model folder."""

    spec: builders.TransformerSpec
    model: Any
    tokenizers: Mapping[str, Tokenizer]


@contextmanager
def model_writer(
    folder: str | Path, *, overwrite: bool = False, resumes: bool = False
) -> Iterator[Path]:
    """Make a model folder and hold its lock; remove what killed writers left behind.

    Args:
        folder: the folder.
        overwrite: permission to replace a model or a run.
        resumes: whether the writer continues the run that the folder may hold.

    Raises:
        BlockingIOError: another process writes the folder.
        FileExistsError: it holds something else; with `overwrite`, anything but a model or a run.
        ValueError: it is a file, or has a `model.json` that is not a manifest of a model.
    """
    check_model_folder(folder, overwrite=overwrite, resumes=resumes)  # before it is made
    folder = make_folder(folder)
    with only_writer(folder):
        check_model_folder(folder, overwrite=overwrite, resumes=resumes)
        _clean(folder)
        yield folder


def check_model_folder(
    folder: str | Path, *, overwrite: bool = False, resumes: bool = False
) -> None:
    """Check that a model may be written to a folder; see `model_writer`."""
    folder = folder_path(folder)
    if (folder / MANIFEST).exists():
        _parts(folder)  # whose manifest is it?
    is_run = resumes and (folder / CHECKPOINT).exists()
    check_content(folder, (MANIFEST, CHECKPOINT), overwrite=overwrite or is_run)


def write_model_folder(
    folder: str | Path, content: ModelFolder, *, overwrite: bool = False
) -> None:
    """Write a model folder; an interruption leaves the previous model.

    Of an overwritten model, only the weights and tokenizers that its manifest names are deleted,
    and the checkpoint of its run.

    Raises:
        BlockingIOError, FileExistsError, ValueError: as `model_writer`.
    """
    with model_writer(folder, overwrite=overwrite) as path:
        replace_model(path, content, of_run=False)


def replace_model(folder: Path, content: ModelFolder, *, of_run: bool) -> None:
    """Write a model into a folder whose lock is held; see `write_model_folder`.

    Args:
        folder: the folder.
        content: the model.
        of_run: whether the model is that of the folder's checkpoint, which is deleted otherwise.
    """
    # Whose import takes that of Keras, which checks of a folder do without.
    from functional_models.lora import adapted_layers, without_adapters, write_adapters

    old = _parts(folder)
    new: set[str] = set()  # the parts that this call adds
    with tempfile.TemporaryDirectory(dir=folder, prefix=".saving-") as scratch:
        written = Path(scratch) / "weights.keras"
        try:
            with _weights_on_disk(), without_adapters(content.model):
                _without_optimizer(content.model).save(written)
            if adapted_layers(content.model):
                write_adapters(content.model, Path(scratch) / "adapters.npz")
        except OSError as error:
            if error.errno and error.filename is None:
                error.filename = str(folder)  # a full disk has no name by itself
            raise
        weights = f"weights-{_hash(written)}.keras"
        sources = {weights: written}
        adapters = None
        if (file := Path(scratch) / "adapters.npz").exists():
            adapters = f"adapters-{_hash(file)}.npz"
            sources[adapters] = file
        tokenizers = {}
        for role, tokenizer in content.tokenizers.items():
            tokenizer.save(Path(scratch) / role)
            tokenizers[role] = f"{role}-{_hash(Path(scratch) / role / TOKENIZER_MANIFEST)}"
            sources[tokenizers[role]] = Path(scratch) / role
        manifest = {
            "format": FORMAT,
            "spec": json.loads(content.spec.to_json()),
            "weights": weights,
            **({"adapters": adapters} if adapters else {}),
            "tokenizers": tokenizers,
        }
        # For the next writer, should this one be killed.
        (Path(scratch) / _JOURNAL).write_text(json.dumps(sorted(old.union(sources))))
        kept = Path(scratch) / CHECKPOINT
        try:
            for name, source in sources.items():
                if _is_same(source, folder / name):
                    continue
                if (folder / name).exists():  # a damaged part of the previous model
                    os.replace(folder / name, Path(scratch) / f"damaged-{name}")
                new.add(name)
                os.replace(source, folder / name)
            if not of_run and (folder / CHECKPOINT).exists():
                os.replace(folder / CHECKPOINT, kept)
            write_whole(folder / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        except BaseException:
            written_parts = _parts(folder)  # the manifest may already be the new one
            _delete(folder, new - written_parts)
            if kept.exists() and weights not in written_parts:
                os.replace(kept, folder / CHECKPOINT)
            raise
        _delete(folder, old - set(sources))


def _clean(folder: Path) -> None:
    """Remove what killed writers of a folder left behind; its lock is held."""
    for scratch in folder.glob(".saving-*"):
        try:
            names = set(read_json(scratch / _JOURNAL))
        except (OSError, ValueError, TypeError):
            names = set()
        _delete(folder, {name for name in names if isinstance(name, str)} - _parts(folder))
        shutil.rmtree(scratch)
    for name in (MANIFEST, CHECKPOINT):
        remove_leftovers(folder / name)


def _without_optimizer(model: Any) -> Any:
    """Return a model of the same layers that is not compiled, so that it has no optimizer.

    `model.save` would write the moments of AdamW, twice the size of the weights.
    """
    import keras

    return keras.Model(model.input, model.output, name=model.name) if model.compiled else model


@contextmanager
def _weights_on_disk() -> Iterator[None]:
    """Let Keras write weights to a file, large ones in pieces.

    Where memory allows, it would write the file in memory; and it copies every array, twice.
    """
    from keras.src.saving import saving_lib

    store = saving_lib.H5IOStore
    before = saving_lib.is_memory_sufficient, store.__setitem__
    saving_lib.is_memory_sufficient = lambda model: False
    store.__setitem__ = lambda self, key, value: _write_array(before[1], self, key, value)
    try:
        yield
    finally:
        saving_lib.is_memory_sufficient, store.__setitem__ = before


def _write_array(write: Any, store: Any, key: str, value: Any) -> None:
    """Write an array to a store of Keras, in pieces of rows if it is large."""
    import keras

    shape = tuple(value.shape)
    if len(shape) < 2 or math.prod(shape) <= _CHUNK or shape[0] == 1:
        write(store, key, value)
        return
    step = max(_CHUNK // math.prod(shape[1:]), 1)
    first = keras.ops.convert_to_numpy(value[:step])
    write(store, key, first)  # makes the group, and the attribute of bfloat16
    group = store._h5_entry_group
    attributes = dict(group[key].attrs)
    del group[key]
    whole = group.create_dataset(key, shape, first.dtype)
    whole.attrs.update(attributes)
    whole[:step] = first
    for at in range(step, shape[0], step):
        whole[at : at + step] = keras.ops.convert_to_numpy(value[at : at + step])


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
    adapters = [manifest["adapters"]] if "adapters" in manifest else []
    return {manifest["weights"], *adapters, *manifest["tokenizers"].values()}


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
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def read_model_folder(folder: str | Path) -> ModelFolder:
    """Read a model folder.

    Raises:
        FileNotFoundError: the folder or one of its files is missing.
        ValueError: a newer format, or damaged content.
    """
    folder = check_path("the folder of a model", folder)
    while True:
        manifest = _read_manifest(folder)
        try:
            return _read(folder, manifest)
        except (FileNotFoundError, ValueError):
            if _read_manifest(folder) == manifest:  # not replaced meanwhile by a writer
                raise


def _read(folder: Path, manifest: Mapping[str, Any]) -> ModelFolder:
    from functional_models.distribution import check_split  # which imports Keras

    spec = read_spec(folder)
    check_split(spec)
    names = manifest["tokenizers"]
    tokenizers = {role: _read_tokenizer(folder / name) for role, name in names.items()}
    model = builders.build(spec)
    restore_weights(model, folder)
    return ModelFolder(spec, model, tokenizers)


def _read_tokenizer(folder: Path) -> Tokenizer:
    try:
        tokenizer = load_tokenizer(folder)
    except Exception as error:  # damaged files may fail in any way
        if isinstance(error, OSError | ValueError) and str(folder) in str(error):
            raise
        raise ValueError(
            f"{folder} cannot be read ({type(error).__name__}): the tokenizer is damaged; save "
            "the model again, or copy the whole folder"
        ) from error
    if not folder.name.endswith(f"-{_hash(folder / TOKENIZER_MANIFEST)}"):
        raise ValueError(
            f"{folder} is not the tokenizer that the model was saved with: its content does not "
            "have the hash in its name; copy the whole model folder again"
        )
    return tokenizer


def read_spec(folder: str | Path) -> builders.TransformerSpec:
    """Read the spec of a model folder.

    Raises:
        FileNotFoundError, ValueError: see `read_model_folder`.
    """
    folder = check_path("the folder of a model", folder)
    spec = json.dumps(_read_manifest(folder)["spec"])
    try:
        return builders.TransformerSpec.from_json(spec)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{folder / MANIFEST}: {error}") from error


def restore_weights(model: Any, folder: str | Path) -> None:
    """Load the weights of a model folder into a model, with the adapters that it has.

    Raises:
        FileNotFoundError, ValueError: see `read_model_folder`.
    """
    from functional_models.lora import read_adapters

    folder = Path(folder)
    manifest = _read_manifest(folder)
    _restore(folder / manifest["weights"], _without_optimizer(model).load_weights)
    if "adapters" in manifest:
        _restore(folder / manifest["adapters"], partial(read_adapters, model))


def _restore(path: Path, read: Callable[[Path], None]) -> None:
    """Read a file of a model folder with a function; raise as `restore_weights`."""
    if not path.exists():
        raise FileNotFoundError(
            f"{path.parent} is incomplete: {path.name} is missing; save the model again, or copy "
            "the whole folder"
        )
    check_is_file(path)
    try:
        read(path)
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read ({type(error).__name__}): the file is damaged; save the "
            "model again, or copy the whole folder"
        ) from error


def _read_manifest(folder: Path) -> dict[str, Any]:
    path = folder / MANIFEST
    if not folder.is_dir():
        advice = "give a folder that `save` wrote"
        if str(folder) in builders.list_variants():
            advice = f"{folder} is a variant, which has no weights until a model of it is trained"
        elif folder.name == MANIFEST and folder.exists():
            advice = f"give the folder of this file, {folder.parent}"
        raise FileNotFoundError(f"there is no model folder {folder}; {advice}")
    if not path.exists():
        raise FileNotFoundError(
            f"{folder} is not a complete model folder: it has no {MANIFEST}; give a folder that "
            "`save` wrote"
        )
    manifest = read_manifest(path, FORMAT)
    for key, kind in (("spec", dict), ("weights", str), ("tokenizers", dict)):
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"{path} is damaged: it has no valid {key}")
    if not isinstance(manifest.get("adapters", ""), str):
        raise ValueError(f"{path} is damaged: it has no valid adapters")
    if not all(isinstance(name, str) for name in manifest["tokenizers"].values()):
        raise ValueError(f"{path} is damaged: it has no valid tokenizers")
    return manifest
