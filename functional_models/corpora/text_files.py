"""Read text and sentence pairs from local files, plain or gzip-compressed."""

from __future__ import annotations

import gzip
import os
import stat
import zlib
from difflib import get_close_matches

from functional_models.checks import check_path
from functional_models.corpora.decoding import decode_lines, decode_text

StrPath = str | os.PathLike[str]

_NAMED = "embedded"  # a corpus that is not a file


def _read_bytes(path: StrPath) -> tuple[bytes, str]:
    """Return the content of a file, decompressed if it is gzip, and a name for errors."""
    path = check_path("a text file", path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a text file")
    if not path.exists():
        hint = f" (did you mean {_NAMED!r}?)" if get_close_matches(str(path), [_NAMED]) else ""
        raise FileNotFoundError(
            f"there is no file {path}{hint}; give the path of an existing text file, plain or .gz"
        )
    if stat.S_ISCHR(path.stat().st_mode) or stat.S_ISBLK(path.stat().st_mode):
        raise ValueError(f"{path} is a device; give the path of a text file")
    if path.is_fifo() and not path.is_relative_to("/dev/fd"):  # a named pipe may never end
        raise ValueError(f"{path} is a pipe; write its content to a file, and give that")
    content = path.read_bytes()
    if not content.startswith(b"\x1f\x8b"):  # gzip, whatever the name of the file
        return content, str(path)
    try:
        return gzip.decompress(content), f"the decompressed content of {path}"
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} is gzip but cannot be decompressed ({error}); it is damaged or cut off: copy "
            "it again"
        ) from error


def read_text(path: StrPath) -> str:
    """Return the text of a UTF-8 file, plain or gzip-compressed, without a byte order mark.

    Line ends are not changed.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is a folder or a device; the file is empty, blank, no plain text, not
            UTF-8, or damaged gzip.
    """
    text = decode_text(*_read_bytes(path))
    if not text or text.isspace():
        raise ValueError(f"{path} has no text; give a file with text")
    return text


def read_lines(path: StrPath) -> list[str]:
    r"""Return the lines of a UTF-8 file, plain or gzip-compressed, without their line ends.

    Line ends are `\n` and `\r\n`, and `\r` in a file without `\n`; see `decode_lines`.

    Raises:
        FileNotFoundError, ValueError: as in `read_text`.
    """
    lines = decode_lines(*_read_bytes(path))
    if not any(line.strip() for line in lines):
        raise ValueError(f"{path} has no text; give a file with text")
    return lines


def read_pairs(source_path: StrPath, target_path: StrPath | None = None) -> list[tuple[str, str]]:
    """Return (source, target) pairs from two aligned files, or from a tab-separated file.

    Args:
        source_path: a file of source lines or, without `target_path`, a file with source, tab and
            target on each line. Plain or gzip-compressed.
        target_path: a file of target lines; line i is the translation of line i of the source.

    Returns:
        The pairs in file order, without surrounding spaces. Lines that are blank on both sides are
        skipped.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or not UTF-8; the numbers of lines differ; a tab-separated line
            does not have two columns; a line is blank on one side only.
    """
    pairs: list[tuple[str, str]] = []
    if target_path is None:
        where = str(source_path)
        for number, line in enumerate(read_lines(source_path), start=1):
            columns = line.split("\t") if line.strip() else ["", ""]
            if len(columns) != 2:
                raise ValueError(
                    f"{where}, line {number}: {len(columns)} column(s), expected 2 (source, tab, "
                    "target); correct the line, or give two aligned files"
                )
            pairs.append((columns[0].strip(), columns[1].strip()))
    else:
        where = f"{source_path} and {target_path}"
        sources, targets = read_lines(source_path), read_lines(target_path)
        if len(sources) != len(targets):
            raise ValueError(
                f"{source_path} has {len(sources)} lines and {target_path} has {len(targets)}; "
                "aligned files have the same number of lines"
            )
        pairs = [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]
    for number, (source, target) in enumerate(pairs, start=1):
        if bool(source) != bool(target):
            raise ValueError(
                f"{where}, line {number}: the {'target' if source else 'source'} is blank; give "
                "text on both sides, or leave both blank to skip the line"
            )
    return [pair for pair in pairs if pair[0]]
