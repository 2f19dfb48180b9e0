"""Write files whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from pathlib import Path


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
    target.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, because renaming is atomic only within one file system.
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    temporary.open("xb").close()  # creates it with the permissions of a new file
    try:
        if callable(content):
            content(temporary)
        else:
            temporary.write_bytes(content.encode() if isinstance(content, str) else content)
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return Path(path)
