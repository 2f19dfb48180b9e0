"""Decode the bytes of text files as UTF-8; say what files in other formats are, and what to do."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from unicodedata import category

_SAMPLE = 1 << 16  # bytes that are examined to say what a file is

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


def decode_text(content: bytes, name: str) -> str:
    """Return the text of UTF-8 bytes, without a byte order mark.

    Args:
        content: the bytes of a file.
        name: name of the file, for errors.

    Raises:
        ValueError: the content is not UTF-8 or no plain text; the error names the format where it
            is known, else the first byte that is not UTF-8.
    """
    _check_format(content, name)
    try:
        # Not "utf-8-sig", so that offsets in errors are those of the file.
        text = content.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} {_fault(content, error)}") from None
    if "\0" in text:
        raise ValueError(f"{name} {_not_text(content)}")
    return text


def decode_lines(content: bytes, name: str) -> list[str]:
    r"""Return the lines of UTF-8 bytes, without their line ends; arguments as in `decode_text`.

    Line ends are `\n` and `\r\n`, and `\r` in a text without `\n`: `str.splitlines` also splits at
    form feeds, U+0085, U+2028 and others, which would misalign two files.
    """
    text = decode_text(content, name)
    lines = text.split("\n") if "\n" in text else text.split("\r")
    lines = [line.removesuffix("\r") for line in lines]
    if not lines[-1]:
        lines.pop()  # no line follows the last line end
    return lines


def _check_format(content: bytes, name: str) -> None:
    """Raise a ValueError if the content starts like a format other than plain text."""
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
            if start == b"PK\x03\x04" and _OFFICE.search(content):
                what, advice = "a document of an office program or an e-book", "save it as text"
            raise ValueError(f"{name} is {what}, not plain text; {advice}")


def _fault(content: bytes, error: UnicodeDecodeError) -> str:
    """Say why bytes are not UTF-8, and what to do."""
    at = error.start
    line = content.count(b"\n", 0, at) + 1
    where = f"byte 0x{content[at]:02x} at offset {at}, line {line} ({error.reason})"
    near = content[max(0, at - _SAMPLE) : at + _SAMPLE]
    controls = len(re.findall(_CONTROLS, near))
    if controls > len(near) / 200 or 0 in near:
        return _not_text(content)
    decoded = near.decode("utf-8", errors="replace")
    damaged = decoded.count("\ufffd")
    whole = len(re.findall("[^\x00-\x7f]", decoded)) - damaged
    if whole and error.reason == "unexpected end of data":
        return (
            f"ends in the middle of a character: {where}; it is cut off: copy it again, or remove "
            f"the last {len(content) - at} bytes"
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


def _not_text(content: bytes) -> str:
    """Say what content with NUL or other control characters is, and what to do."""
    sample = content[:_SAMPLE]
    printable = len(re.findall(rb"[\t\n\r -~]", sample)) / len(sample)
    likely = {}
    for encoding, width in (("UTF-32LE", 4), ("UTF-32BE", 4), ("UTF-16LE", 2), ("UTF-16BE", 2)):
        if len(content) % width:
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
    found = re.search(_CONTROLS, content)
    if found and printable >= 0.75:
        where = f"0x{found[0][0]:02x} at offset {found.start()}"
        return f"has control characters ({where}), as no plain text has; give a text file"
    return "is binary data, not text in UTF-8; give a text file"
