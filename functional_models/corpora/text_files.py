"""Read text and sentence pairs from local files, plain or gzip-compressed."""

from __future__ import annotations

import gzip
import os
import zlib
from pathlib import Path

StrPath = str | os.PathLike[str]


def _read_bytes(path: Path) -> bytes:
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
            f"{path} cannot be decompressed ({error}); it is damaged, truncated, or not gzip: "
            "download it again, or remove .gz from its name if it is plain text"
        ) from error


def read_text(path: StrPath) -> str:
    """Return the text of a UTF-8 file, plain or `.gz`, without a byte order mark.

    Line ends are not changed.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the path is a folder, the file is empty, blank or not UTF-8, or the `.gz` file
            is damaged or not gzip.
    """
    path = Path(path)
    content = _read_bytes(path)
    try:
        # Not "utf-8-sig", so that offsets in errors are those of the file.
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not UTF-8: byte 0x{content[error.start]:02x} at offset {error.start}"
            f"{' of the decompressed text' if path.suffix == '.gz' else ''} "
            f"({error.reason}); convert it, e.g. iconv -f LATIN1 -t UTF-8"
        ) from error
    if not text.strip():
        raise ValueError(f"{path} has no text; give a file with text")
    return text


def read_lines(path: StrPath) -> list[str]:
    r"""Return the lines of a UTF-8 file, plain or `.gz`, without their line ends.

    Line ends are `\n` and `\r\n`: `str.splitlines` also splits at form feeds, U+0085, U+2028 and
    others, which would misalign two files.

    Raises:
        FileNotFoundError, ValueError: as in `read_text`.
    """
    lines = [line.removesuffix("\r") for line in read_text(path).split("\n")]
    if not lines[-1]:
        lines.pop()  # no line follows the last line end
    return lines


def read_pairs(source_path: StrPath, target_path: StrPath | None = None) -> list[tuple[str, str]]:
    """Return (source, target) pairs from two aligned files, or from a tab-separated file.

    Args:
        source_path: a file of source lines or, without `target_path`, a file with source, tab and
            target on each line. Plain or `.gz`.
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
