"""Decode the bytes of text files as UTF-8; say what files in other formats are, and what to do."""

from __future__ import annotations

import codecs
import io
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import BinaryIO
from unicodedata import category

BLOCK = 1 << 20
"""Bytes that are read at once."""

_SAMPLE = 1 << 16  # bytes that are examined to identify a file

_CONTROLS = rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]"

# Start of the content, name of the format, what to do. No text starts like this.
_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "compressed with gzip", "decompress it: gunzip"),
    (b"BZh", "compressed with bzip2", "decompress it: bunzip2"),
    (b"\xfd7zXZ\0", "compressed with xz", "decompress it: xz -d"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it: zstd -d"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "decompress it: lz4 -d"),
    (b"\x1f\x9d", "compressed with compress", "decompress it: uncompress"),
    (b"PK\x03\x04", "a ZIP archive", "extract the text: unzip"),
    (b"PK\x05\x06", "an empty ZIP archive", "give another file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "extract the text: 7z x"),
    (b"Rar!\x1a\x07", "a RAR archive", "extract the text: unrar x"),
    (b"%PDF-", "a PDF document", "extract its text, e.g. with pdftotext"),
    (b"{\\rtf", "an RTF document", "save it as plain text in UTF-8"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Office document", "save it as text in UTF-8"),
    (b"SQLite format 3\0", "an SQLite database", "write its text to a file: sqlite3 FILE"),
    (b"PAR1", "a Parquet file", "write its column of text to a file"),
    (b"\x89PNG\r\n", "a picture (PNG)", "give a text file"),
    (b"\xff\xd8\xff", "a picture (JPEG)", "give a text file"),
)
_OFFICE = re.compile(rb"\[Content_Types\]\.xml|mimetypeapplication/(vnd\.oasis|epub)")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_ODD = ("Cc", "Cn", "Co", "Cs")  # categories that text hardly has: control, unassigned, private


def decode_pieces(file: BinaryIO, name: str) -> Iterator[str]:
    """Yield the text of a UTF-8 file in pieces, without a byte order mark.

    Args:
        file: a file at its beginning, which can be searched.
        name: name of the file, for errors.

    Raises:
        ValueError: the content is not UTF-8 or no plain text; the error names the format where it
            is known, else the first byte that is not UTF-8.
    """
    _check_format(file, name)
    decoder = codecs.getincrementaldecoder("utf-8")()  # "utf-8-sig" has other offsets in errors
    has_nul, at = False, 0
    for block in chain(_blocks(file), [b""]):
        at += len(block)
        try:
            piece = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            start = at - len(error.object) + error.start
            raise ValueError(f"{name} {_fault(file, start, error.reason)}") from None
        if at == len(block):
            piece = piece.removeprefix("\ufeff")
        has_nul = has_nul or "\0" in piece
        if piece:
            yield piece
    if has_nul:
        raise ValueError(f"{name} {_not_text(file)}")


def decode_text(content: bytes, name: str) -> str:
    """Return the text of UTF-8 bytes; name and errors as in `decode_pieces`."""
    return "".join(decode_pieces(io.BytesIO(content), name))


def decode_lines(content: bytes, name: str) -> list[str]:
    r"""Return the lines of UTF-8 bytes, without their line ends; arguments as in `decode_text`.

    Line ends are `\n` and `\r\n`, and `\r` in a text without `\n`: `str.splitlines` also splits at
    form feeds, U+0085, U+2028 and others, which would misalign two files.
    """
    text = decode_text(content, name)
    return list(split_lines([text], "\n" in text))


def split_lines(pieces: Iterable[str], has_newlines: bool) -> Iterator[str]:
    """Yield the lines of a text in pieces; see `decode_lines`."""
    end = "\n" if has_newlines else "\r"
    parts: list[str] = []  # of a line that has not ended
    for piece in pieces:
        first, *others = piece.split(end)
        parts.append(first)
        for line in others:
            yield "".join(parts).removesuffix("\r")
            parts = [line]
    if last := "".join(parts).removesuffix("\r"):  # no line follows the last line end
        yield last


def _blocks(file: BinaryIO, stop: int | None = None) -> Iterator[bytes]:
    """Yield the content of a file in blocks, up to the offset `stop`."""
    file.seek(0)
    left = BLOCK if stop is None else stop
    while block := file.read(min(BLOCK, left)):
        yield block
        left -= len(block) if stop is not None else 0


def _check_format(file: BinaryIO, name: str) -> None:
    """Raise a ValueError if the content starts like a format other than plain text."""
    file.seek(0)
    content = file.read(BLOCK)
    for mark, encoding in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            raise ValueError(
                f"{name} is {encoding}, not UTF-8; convert it: iconv -f {encoding} -t UTF-8"
            )
    if content[257:262] == b"ustar":
        raise ValueError(f"{name} is a tar archive; extract the text: tar -xf")
    for start, what, advice in _FORMATS:
        if content.startswith(start):
            if start == b"BZh" and content[4:10] not in (b"1AY&SY", b"\x17rE8P\x90"):
                continue
            if start == b"PK\x03\x04" and any(map(_OFFICE.search, _blocks(file))):
                what, advice = "a document of an office program or an e-book", "save it as text"
            raise ValueError(f"{name} is {what}, not plain text; {advice}")


def _fault(file: BinaryIO, at: int, reason: str) -> str:
    """Say why the byte at an offset is not UTF-8, and what to do."""
    line = sum(block.count(b"\n") for block in _blocks(file, at)) + 1
    size = file.seek(0, io.SEEK_END)
    file.seek(max(0, at - _SAMPLE))
    near = file.read(at + _SAMPLE - file.tell())
    byte = near[min(at, _SAMPLE)]
    where = f"byte 0x{byte:02x} at offset {at}, line {line} ({reason})"
    controls = len(re.findall(_CONTROLS, near))
    if controls > len(near) / 200 or 0 in near:
        return _not_text(file)
    decoded = near.decode("utf-8", errors="replace")
    damaged = decoded.count("\ufffd")
    whole = len(re.findall("[^\x00-\x7f]", decoded)) - damaged
    if whole and reason == "unexpected end of data":
        return (
            f"ends in the middle of a character: {where}; it is cut off: copy it again, or remove "
            f"the last {size - at} bytes"
        )
    if whole > damaged:
        return (
            f"is not UTF-8: {where}, although other characters are; correct it, or drop such "
            "bytes: iconv -c -f UTF-8 -t UTF-8"
        )
    return (
        f"is not UTF-8: {where}; convert it from its encoding, e.g. Western European text of "
        "Windows: iconv -f WINDOWS-1252 -t UTF-8"
    )


def _not_text(file: BinaryIO) -> str:
    """Say what content with NUL or other control characters is, and what to do."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    sample = file.read(_SAMPLE)
    printable = len(re.findall(rb"[\t\n\r -~]", sample)) / len(sample)
    likely = {}
    for encoding, width in (("UTF-32LE", 4), ("UTF-32BE", 4), ("UTF-16LE", 2), ("UTF-16BE", 2)):
        if size % width:
            continue
        text = sample.decode(encoding, errors="replace")
        odd = sum(c == "\ufffd" or (category(c) in _ODD and c not in "\t\n\r\f") for c in text)
        # Most characters of a text are in one block of Unicode, or in the many of Chinese. Pairs of
        # ASCII characters are valid UTF-16, too, but of many blocks.
        largest = max(Counter(ord(c) >> 8 for c in text).values(), default=0)
        if text and odd <= len(text) / 50 and (largest > 0.6 * len(text) or printable < 0.75):
            likely[encoding] = (largest, sum(c.isascii() for c in text))
    if likely:
        best = max(likely, key=lambda encoding: likely[encoding])
        return (
            f"looks like {best} without a byte order mark, not UTF-8; convert it: iconv -f {best} "
            "-t UTF-8"
        )
    offset = 0
    for block in _blocks(file):
        if found := re.search(_CONTROLS, block):
            break
        offset += len(block)
    if found and printable >= 0.75:
        where = f"0x{found[0][0]:02x} at offset {offset + found.start()}"
        return f"has control characters ({where}), as no plain text has; give a text file"
    return "is binary data, not text in UTF-8; give a text file"
