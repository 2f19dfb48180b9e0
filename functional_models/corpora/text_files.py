"""Read text and sentence pairs from local files, plain or gzip-compressed."""

from __future__ import annotations

import gzip
import os
import shutil
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from difflib import get_close_matches
from typing import Any, BinaryIO, cast

from functional_models.checks import check_path
from functional_models.corpora.decoding import decode_pieces, split_lines
from functional_models.corpora.stored import (
    Pair,
    StoredPairs,
    StoredTexts,
    stored_pairs,
    stored_texts,
    temporary_file,
)
from functional_models.reading import Reading

StrPath = str | os.PathLike[str]

_NAMED = "embedded"  # a corpus that is not a file


@contextmanager
def _opened(path: StrPath) -> Iterator[tuple[BinaryIO, str]]:
    """Open a file, decompressed if it is gzip, with a name for errors."""
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
        raise ValueError(
            f"{path} is a pipe; write its content to a file, and give the path of the file"
        )
    with path.open("rb") as given, ExitStack() as stack:
        file: Any = given
        if not given.seekable():
            file = stack.enter_context(temporary_file())
            shutil.copyfileobj(given, file)
            file.seek(0)
        is_gzip = file.read(2) == b"\x1f\x8b"  # whatever the name of the file
        file.seek(0)
        if not is_gzip:
            yield file, str(path)
            return
        try:
            yield (
                cast("BinaryIO", gzip.GzipFile(fileobj=file)),
                f"the decompressed content of {path}",
            )
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(
                f"{path} is gzip but cannot be decompressed ({error}); it is damaged or cut off: "
                "copy it again"
            ) from error


def store_files(paths: Iterable[StrPath], *, progress: bool = False) -> StoredTexts:
    """Return the texts of UTF-8 files, plain or gzip-compressed, without byte order marks.

    Line ends are not changed. The texts go to a temporary file; `progress` shows how far it is.

    Raises:
        FileNotFoundError: a file does not exist.
        ValueError: a path is a folder or a device; a file is empty, blank, no plain text, not
            UTF-8, or damaged gzip.
    """
    return stored_texts(_text_pieces(path, progress) for path in paths)


def _text_pieces(path: StrPath, progress: bool) -> Iterator[str]:
    is_blank = True
    reading = Reading(f"reading {path}", None, "characters", shown=progress)
    with _opened(path) as (file, name), reading:
        for piece in reading.counted_pieces(decode_pieces(file, name)):
            is_blank = is_blank and piece.isspace()
            yield piece
    if is_blank:
        raise ValueError(f"{path} has no text; give a file with text")


def read_lines(text: StoredTexts) -> Iterator[str]:
    r"""Yield the lines of a stored file, without their line ends.

    Line ends are `\n` and `\r\n`, and `\r` in a file without `\n`; see `decode_lines`.
    """
    (pieces,) = text.in_pieces()
    has_newlines = any("\n" in piece for piece in pieces)
    (pieces,) = text.in_pieces()
    return split_lines(pieces, has_newlines)


def read_pairs(
    source_path: StrPath, target_path: StrPath | None = None, *, progress: bool = False
) -> StoredPairs:
    """Return (source, target) pairs from two aligned files, or from a tab-separated file.

    Args:
        source_path: a file of source lines or, without `target_path`, a file with source, tab and
            target on each line. Plain or gzip-compressed.
        target_path: a file of target lines; line i is the translation of line i of the source.
        progress: show the progress with long files.

    Returns:
        The pairs in file order, without surrounding spaces. Lines that are blank on both sides are
        skipped.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or not UTF-8; the numbers of lines differ; a tab-separated line
            does not have two columns; a line is blank on one side only.
    """
    return stored_pairs(_pairs(source_path, target_path, progress))


def _pairs(source_path: StrPath, target_path: StrPath | None, progress: bool) -> Iterator[Pair]:
    sources = store_files([source_path], progress=progress)
    lines: Iterator[Any]
    if target_path is None:
        where = str(source_path)
        lines = (line.split("\t") if line.strip() else ["", ""] for line in read_lines(sources))
    else:
        where = f"{source_path} and {target_path}"
        targets = store_files([target_path], progress=progress)
        numbers = [sum(1 for _ in read_lines(text)) for text in (sources, targets)]
        if numbers[0] != numbers[1]:
            raise ValueError(
                f"{source_path} has {numbers[0]} lines and {target_path} has {numbers[1]}; "
                "aligned files have the same number of lines; to train on text, give one file"
            )
        lines = zip(read_lines(sources), read_lines(targets), strict=True)
    for number, columns in enumerate(lines, start=1):
        if len(columns) != 2:
            plural = "s" * (len(columns) != 1)
            raise ValueError(
                f"{where}, line {number}: {len(columns)} column{plural}, expected 2 (source, tab, "
                "target); correct the line, or give two aligned files"
            )
        source, target = map(str.strip, columns)
        if bool(source) != bool(target):
            raise ValueError(
                f"{where}, line {number}: the {'target' if source else 'source'} is blank; give "
                "text on both sides, or leave both blank to skip the line"
            )
        if source:
            yield source, target
