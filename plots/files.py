"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_whole(to_file: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file whole or not at all; missing folders are made.

    Raises:
        OSError: if the folder cannot be made or the file not written; what was there stays.
    """
    path = Path(to_file)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a picture to {str(path)!r}: it is a folder")
    Path(os.path.realpath(path)).parent.mkdir(parents=True, exist_ok=True)
    with replaced_whole(path) as temporary:
        temporary.write_bytes(data)
    return path


@contextmanager
def replaced_whole(to_file: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary file of the same suffix to write to; it becomes `to_file` at the end.

    An interruption or an error inside the `with` leaves the old file, or none. A symbolic link
    stays one, and what it leads to is replaced.

    Raises:
        OSError: if its folder is missing, or nothing can be written there.
    """
    path = Path(os.path.realpath(to_file))
    # In the same folder, because only within one file system is replacing a file one step.
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(4)}{path.suffix}")
    temporary.open("xb").close()  # a new one, with the rights that new files have
    try:
        yield temporary
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
