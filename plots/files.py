"""Write files whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl


def write_whole(
    path: str | os.PathLike[str], content: str | bytes | Callable[[Path], object]
) -> Path:
    """Write a file whole or not at all, and return its path.

    The content goes to a temporary file in the same folder, which is flushed to the disk and then
    renamed. An error or an interruption leaves the old file as it is, or none, and no temporary
    file. Missing parent folders are created. A symbolic link stays a link; its target is replaced.

    Args:
        path: The file to write.
        content: Bytes; text, written as UTF-8 with its line ends unchanged; or a function that
            writes to the path it is given, a temporary file with the same suffix.

    Raises:
        IsADirectoryError: if `path` is a folder.
        OSError: if the folder cannot be created or the file cannot be written.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise IsADirectoryError(f"cannot write {str(path)!r}: it is a folder; give a file name")
    if target.exists() and not target.is_file():
        raise FileExistsError(f"cannot write {str(path)!r}: it is a pipe or a device")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise NotADirectoryError(
            f"cannot write {str(path)!r}: one of its folders is a file; give another path"
        ) from None
    except OSError as error:
        raise unwritable(path, error) from None
    remove_leftovers(target)
    # In the same folder, because renaming is atomic only within one file system.
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        held = temporary.open("xb")  # creates it with the permissions of a new file
    except OSError as error:
        raise unwritable(path, error) from None
    with held:
        try:
            _try_lock(held)
            if callable(content):
                content(temporary)
            else:
                temporary.write_bytes(content.encode() if isinstance(content, str) else content)
            with temporary.open("rb+") as written:
                os.fsync(written.fileno())
            os.replace(temporary, target)
        except BaseException as error:
            if isinstance(error, OSError) and error.errno and error.filename is None:
                error.filename = str(path)  # a full disk has no name by itself
            temporary.unlink(missing_ok=True)
            raise
    return Path(path)


def unwritable(path: str | os.PathLike[str], error: OSError) -> OSError:
    """Return the error for a file or folder that cannot be made, in the words of the system.

    Args:
        path: What the caller asked for, whatever file the system refused.
        error: The error of the system. That of a full disk keeps its number.
    """
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return type(error)(error.errno, error.strerror, str(path))
    return type(error)(
        f"cannot write {str(path)!r}: {error.strerror}; give a path in a folder where you may "
        "write, or ask for permission"
    )


def remove_leftovers(path: str | os.PathLike[str]) -> None:
    """Remove the temporary files of writers of `path` that were killed."""
    target = Path(os.path.realpath(path))
    if not target.parent.is_dir():
        return
    name = re.compile(re.escape(f".{target.stem}.") + "[0-9a-f]{8}" + re.escape(target.suffix))
    for found in target.parent.iterdir():
        if name.fullmatch(found.name):
            with suppress(OSError), found.open("rb") as file:
                if _try_lock(file):  # no living process writes it
                    found.unlink()


def _try_lock(file: BinaryIO) -> bool:
    """Lock a file until it is closed; return whether no other process holds it."""
    if sys.platform == "win32":  # an open file cannot be renamed there
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # held, or a file system without locks
        return False
    return True


def write_picture(path: str | os.PathLike[str], content: str | bytes) -> Path:
    """Write a picture or a text form as `write_whole`; replace nothing but its like.

    Raises:
        FileExistsError: if the file exists, is not empty and is of another kind, such as the
            manifest of a model under the name of a graph as JSON.
        OSError: as `write_whole`.
    """
    target = Path(os.path.realpath(path))
    if target.is_file():
        with target.open("rb") as file:
            old = file.read(_HEAD)
        new = content.encode() if isinstance(content, str) else content
        if old and _kind(old) != _kind(new[:_HEAD]):
            raise FileExistsError(
                f"cannot write {str(path)!r}: the file is there and is not a picture of this kind; "
                "give another name, or remove it first"
            )
    return write_whole(path, content)


_HEAD = 4096
_KINDS = {
    "png": rb"\x89PNG\r\n",
    "pdf": rb"%PDF-",
    "svg": rb"\s*(<\?xml[^>]*>\s*|<!--.*?-->\s*|<!DOCTYPE svg[^>]*>\s*)*<svg",
    "page": rb"<!doctype html>\s*<html[^>]* data-state=",
    "dot": rb"(strict )?(di)?graph ",
    "mermaid": rb"---\ntitle: .*?\nflowchart ",
    "graph": rb'\{\s*"edges": \[',
    "model explorer": rb'\{\s*"label": .*?"graphs": \[',
    "node data": rb'\{\s*"[^"\n]*": \{\s*"name": ',
    "text": rb"[^\n]*: [\d,]+ calls?, [\d,]+ edges?",
}


def _kind(head: bytes) -> str | bytes:
    """Return the kind of a file by its first bytes: a known one, or else its first line.

    A first line such as "{" says nothing, so that all of the bytes are returned.
    """
    for kind, pattern in _KINDS.items():
        if re.match(pattern, head, re.DOTALL):
            return kind
    line = head.partition(b"\n")[0]
    return line if len(line) >= 8 else head
