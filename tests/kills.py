"""Copies of a folder as a kill before each of its file operations would leave it."""

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"}
_watched: list[tuple[str, list[Path], Path]] = []
_hooked: list[bool] = []


def _before(event: str, arguments: tuple) -> None:
    if event not in _EVENTS or not _watched or not isinstance(arguments[0], str | os.PathLike):
        return
    place, copies, to = _watched[-1]
    path = os.fspath(arguments[0])
    is_read = event == "open" and not arguments[2] & (os.O_WRONLY | os.O_RDWR)
    if is_read or not os.path.abspath(path).startswith(place):
        return
    watched = _watched.pop()  # copying opens files too
    copy = to / str(len(copies))
    if os.path.isdir(place):
        shutil.copytree(place, copy, symlinks=True)
        if not copies or _content(copy) != _content(copies[-1]):
            copies.append(copy)
        else:
            shutil.rmtree(copy)
    _watched.append(watched)


def _content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*"))
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in files}


@contextmanager
def copied_before_every_change(folder: Path, to: Path) -> Iterator[list[Path]]:
    """Yield the list of copies, which grows with every change of the folder."""
    if not _hooked:
        sys.addaudithook(_before)  # for the rest of the process
        _hooked.append(True)
    to.mkdir(parents=True)
    copies: list[Path] = []
    _watched.append((os.path.abspath(folder), copies, to))
    try:
        yield copies
    finally:
        _watched.clear()
