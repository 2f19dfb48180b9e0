"""Folders that commands write: a lock for their only writer, and checks of their content.

A folder never loses content without permission: a writer refuses one that holds something else.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from functional_models.checks import check_path

LOCK = ".lock"

RUN, MODEL, COMPARISON, EXPORT = "checkpoint.npz", "model.json", "comparison.json", "export.json"
CLAIMS = "claims.json"
"""Files that identify the content of a folder."""

_CONTENT = {
    RUN: "a training run",
    MODEL: "a model",
    COMPARISON: "a comparison",
    CLAIMS: "measured claims",
    EXPORT: "an exported model",
    "saved_model.pb": "a SavedModel",
    "config.json": "a KerasHub or Hugging Face model",
    "tokenizer.json": "a tokenizer",
}
GO_ON = "choose another folder, or replace it with overwrite=True (--overwrite)"


def folder_path(folder: str | os.PathLike[str]) -> Path:
    """Return the path of a folder to write.

    Raises:
        TypeError: it is not a path.
        ValueError: it is blank, or a file, or lies inside the folder of a model.
    """
    path = check_path("a folder", folder)
    if not str(folder).strip():
        raise ValueError(
            "the name of the folder is empty; give a name, or . for the current folder"
        )
    if path.exists() and not path.is_dir():
        raise ValueError(f"{folder} is a file; give the path of a folder")
    for parent in path.resolve().parents:
        for name, what in ((MODEL, "model folder"), (EXPORT, "exported model")):
            if _is_manifest(parent / name):
                raise ValueError(f"{folder} lies inside the {what} {parent}; choose another place")
    return path


def make_folder(folder: str | os.PathLike[str]) -> Path:
    """Make a folder and its parents, if they are missing.

    Raises:
        ValueError: as `folder_path`, or one of its parents is a file.
        OSError: the system does not allow it.
    """
    path = folder_path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise ValueError(
            f"{folder} cannot be made: it, or one of its parents, is a file; give the path of "
            "a folder"
        ) from None
    except OSError as error:
        raise _unwritable(folder, error) from None
    return path


def _unwritable(path: str | os.PathLike[str], error: OSError) -> OSError:
    from plots.files import unwritable  # the package takes longer to import than this module

    return unwritable(path, error)


def check_content(folder: Path, own: tuple[str, ...], *, overwrite: bool = False) -> None:
    """Check that a folder holds nothing that a writer would destroy or mix with its own files.

    Args:
        folder: the folder, which may be missing.
        own: the files among `_CONTENT` that the writer replaces if `overwrite` is true.
        overwrite: permission to replace them.

    Raises:
        FileExistsError: it holds something else.
    """
    for name, what in _CONTENT.items():
        if not os.path.lexists(folder / name):
            continue
        if name not in own:
            raise FileExistsError(f"{folder} holds {what} ({name}); choose another folder")
        if not overwrite:
            raise FileExistsError(f"{folder} holds {what} ({name}); {GO_ON}")


def _is_manifest(path: Path) -> bool:
    """Return whether a file is a manifest that this package wrote."""
    if not path.is_file():
        return False
    try:
        manifest = json.loads(path.read_bytes())
        return isinstance(manifest, dict) and manifest.keys() >= {"format", "spec"}
    except (OSError, ValueError, RecursionError):
        return False


@contextmanager
def only_writer(
    folder: Path, name: str = LOCK, *, what: str | os.PathLike[str] | None = None
) -> Iterator[None]:
    """Hold the lock of a folder; the operating system frees it if the process is killed.

    Readers need no lock. The lock file names its owner, and is removed at the end.

    Args:
        folder: the folder of the lock file.
        name: the name of the lock file.
        what: what is written, for errors; by default the folder.

    Raises:
        BlockingIOError: another process or thread writes the folder; the message names it.
        OSError: the folder is not writable.
    """
    path = folder / name
    what = folder if what is None else what
    lock = FileLock(path)
    try:
        try:
            lock.acquire(blocking=False)
        except Timeout:
            path.open("ab").close()  # fails where no lock file can be made, as in /proc
            raise BlockingIOError(
                f"{what} is being written by {_holder(path)}; wait until that ends, or choose "
                "another folder"
            ) from None
    except BlockingIOError:
        raise
    except OSError as error:
        raise _unwritable(what, error) from None
    try:
        with suppress(OSError):  # such as a full disk: the lock works without it
            started = time.strftime("%Y-%m-%d %H:%M:%S")
            who = {"pid": os.getpid(), "host": socket.gethostname(), "since": started}
            path.write_text(json.dumps(who), "utf-8")
        yield
    finally:
        with suppress(OSError):
            path.unlink(missing_ok=True)  # before the release, while no other process can hold it
        lock.release()


def _holder(lock: Path) -> str:
    """Describe the process that holds a lock."""
    try:
        who: dict[str, Any] = json.loads(lock.read_text("utf-8"))
        return f"process {who['pid']} on {who['host']} since {who['since']}"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
