"""Text in local files, plain or gzip-compressed, and files that are written whole or not at all."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

from plots.files import replaced_whole

__all__ = ["read_bytes", "read_lines", "read_pairs", "read_text", "replaced_whole", "write_whole"]

StrPath = str | os.PathLike[str]


def read_bytes(path: StrPath) -> bytes:
    """Gives the content of a file; one whose name ends in `.gz` is decompressed.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the path is a folder, or the `.gz` file is damaged or not one.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a text file")
    if not path.exists():
        raise FileNotFoundError(
            f"there is no file {path}; give the path of an existing text file, plain or .gz"
        )
    content = path.read_bytes()
    if path.suffix != ".gz":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(
            f"{path} cannot be decompressed ({error}); it is damaged, cut short, or not gzip: "
            "fetch it again, or drop .gz from its name if it is plain text"
        ) from error


def read_text(path: StrPath) -> str:
    """Gives the text of a UTF-8 file, plain or `.gz`; a byte order mark at its start is dropped.

    Line ends are given as they are, so that the text is the file's, character for character.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file is empty or blank, or is not UTF-8.
    """
    content = read_bytes(path)
    try:
        # The BOM is cut here and not by "utf-8-sig", so that offsets in errors are the file's.
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
            f"{' of the decompressed text' if Path(path).suffix == '.gz' else ''} "
            f"({error.reason}); convert it, e.g. iconv -f LATIN1 -t UTF-8"
        ) from error
    if not text.strip():
        raise ValueError(f"{path} has no text; give a file that has some")
    return text


def read_lines(path: StrPath) -> list[str]:
    r"""Gives the lines of a UTF-8 file, plain or `.gz`, without their line ends (`\n` or `\r\n`).

    Only these end a line: `str.splitlines` also breaks at form feeds, U+0085, U+2028 and others,
    which would put two aligned files out of step.

    Raises:
        FileNotFoundError, ValueError: as in `read_text`.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if not lines[-1]:
        lines.pop()  # what follows the last line end is no line
    return lines


def read_pairs(source_path: StrPath, target_path: StrPath | None = None) -> list[tuple[str, str]]:
    """Gives (source, target) pairs from two aligned files, or from one file of two tabbed columns.

    Args:
        source_path: the source lines or, when `target_path` is left out, a file with a source, a
            tab and a target on every line. Plain or `.gz`.
        target_path: the target lines; line i translates line i of the source.

    Returns:
        The pairs in file order, outer spaces stripped. Lines that are blank on both sides are left
        out.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: a file is empty or not UTF-8; the two differ in their number of lines; a tabbed
            line does not have two columns; a line has text on one side only.
    """
    pairs: list[tuple[str, str]] = []
    if target_path is None:
        where = str(source_path)
        for number, line in enumerate(read_lines(source_path), start=1):
            columns = line.split("\t") if line.strip() else ["", ""]
            if len(columns) != 2:
                raise ValueError(
                    f"{where}, line {number}: {len(columns)} column(s), expected 2 (source, tab, "
                    "target); mend the line, or give two aligned files"
                )
            pairs.append((columns[0].strip(), columns[1].strip()))
    else:
        where = f"{source_path} and {target_path}"
        sources, targets = read_lines(source_path), read_lines(target_path)
        if len(sources) != len(targets):
            raise ValueError(
                f"{source_path} has {len(sources)} lines and {target_path} has {len(targets)}; "
                "aligned files have one line for each line of the other"
            )
        pairs = [(s.strip(), t.strip()) for s, t in zip(sources, targets, strict=True)]
    for number, (source, target) in enumerate(pairs, start=1):
        if bool(source) != bool(target):
            raise ValueError(
                f"{where}, line {number}: the {'target' if source else 'source'} is blank; give "
                "text on both sides, or blank both to leave the line out"
            )
    return [pair for pair in pairs if pair[0]]


def write_whole(path: StrPath, content: str | bytes) -> None:
    """Writes a file whole or not at all: an interruption leaves the old file, or none.

    Text is written as UTF-8, with its line ends as they are.
    """
    with replaced_whole(path) as temporary:
        temporary.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
