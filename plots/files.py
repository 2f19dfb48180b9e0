"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def write_whole(to_file: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file whole or not at all; missing folders are made.

    Raises:
        OSError: if the folder cannot be made or the file not written; what was there stays.
    """
    path = Path(to_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a picture to {str(path)!r}: it is a folder")
    # In the same folder, because only within one file system is replacing a file one step.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
