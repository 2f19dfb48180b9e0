"""The files of weights of a folder, single or sharded, read one tensor at a time.

Where a folder has both, safetensors are read and pickles are not.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from functional_models.checks import check_is_file, check_link, read_json
from functional_models.hugging_face.pickle_files import pickled_tensors
from functional_models.hugging_face.safetensors_files import tensors_of_file
from functional_models.hugging_face.stored_tensor import StoredTensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLE, PICKLE_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"

_POINTER = b"version https://git-lfs.github.com/"

# Other files of weights, for the message of a folder without those that are read.
_OTHER_FORMATS = {
    "adapter_config.json": "an adapter (LoRA): merge it into its model with peft "
    "(merge_and_unload), and save that",
    "model-*-of-*.safetensors": f"a part of the weights: download {INDEX} and all parts too",
    "pytorch_model-*-of-*.bin": f"a part of the weights: download {PICKLE_INDEX} and all parts too",
    "*.safetensors": f"safetensors, of another name than {SINGLE}: rename it, if it has all "
    "weights by their names in transformers",
    "*.bin": f"a pickle, of another name than {PICKLE}: rename it, if it has the weights",
    "*.pth": f"a pickle, of another name than {PICKLE}: rename it, if it has the weights by their "
    "names in transformers",
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
        (SINGLE, INDEX, tensors_of_file),
        (PICKLE, PICKLE_INDEX, pickled_tensors),
    ):
        check_link(folder / single)
        check_link(folder / index)
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
        isinstance(file, str) and file not in ("", ".", "..") and Path(file).name == file
        for file in names.values()
    ):
        raise ValueError(f"{index} is damaged: its weight_map does not name a file of each tensor")
    if not names:
        raise ValueError(f"{index} is damaged: its weight_map names no tensor")
    files = sorted(set(names.values()))
    for file in files:
        check_link(folder / file)
    if missing := [name for name in files if not (folder / name).exists()]:
        raise FileNotFoundError(
            f"{folder} is incomplete: {', '.join(missing)} of its {len(files)} files of weights "
            f"{'is' if len(missing) == 1 else 'are'} missing; download the whole folder again"
        )
    found: dict[str, StoredTensor] = {}
    for file in files:
        own = _read(folder / file, read)
        for name in own:
            if names.get(name) != file:
                named = f"in {names[name]}" if name in names else "not named"
                raise ValueError(
                    f"{index} and the files of weights disagree: {name} is {named} there, and "
                    f"stored in {file}"
                )
        found |= own
    if absent := sorted(names.keys() - found.keys()):
        name = absent[0]
        raise ValueError(
            f"{index} and the files of weights disagree: {name} is not in {names[name]}"
        )
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
