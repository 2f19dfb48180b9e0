"""What is no text in UTF-8 is named, with advice that does no damage."""

import bz2
import io
import lzma
import pickle
import random
import re
import sqlite3
import tarfile
import zipfile
import zlib

import pytest

from functional_models.corpora.decoding import decode_lines, decode_text

LANGUAGES = {
    "English": "The quick brown fox, 1,234.50, jumps.\r\nOver the lazy dog; and so on.\r\n",
    "French": "Café déjà vu, à l’été: «\xa0Noël\xa0» — 12\xa0€ … œuvre.\n" * 3,
    "Russian": "Съешь же ещё этих мягких французских булок, да выпей чаю.\n",
    "Chinese": "一二三四五六七八九十。漢字かな交じり文\n中文也可以。你好，世界！\n" * 3,
    "Japanese": "ひらがなだけのぶんしょうです\n" * 3,
    "Korean": "한국어 문장입니다\n" * 3,
    "Hindi": "हिन्दी में लिखा\n" * 3,
    "Arabic": "مرحبا بالعالم كيف حالك اليوم\n",
    "Emoji": "😀😃😄 hi 😀\n" * 3,
    "Letter": "x",
}
WIDE = ("UTF-16LE", "UTF-16BE", "UTF-32LE", "UTF-32BE")


def error_of(content):
    with pytest.raises(ValueError, match="the file") as caught:
        decode_text(content, "the file")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("language", LANGUAGES)
def test_utf_8_is_decoded(language):
    text = LANGUAGES[language]
    assert decode_text(text.encode(), "the file") == text
    assert decode_text(text.encode("utf-8-sig"), "the file") == text


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("encoding", WIDE)
def test_wide_encodings_are_named_so_that_iconv_restores_the_text(language, encoding):
    text = LANGUAGES[language]
    with_mark, without = ("\ufeff" + text).encode(encoding), text.encode(encoding)
    for content, named in ((with_mark, encoding[:6]), (without, encoding)):
        advised = re.search(r"iconv -f (\S+) -t UTF-8", error_of(content))[1]
        assert advised == named
        assert content.decode(advised) == text


def in_zip(name):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, "text")
    return buffer.getvalue()


def in_tar():
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.txt"))
    return buffer.getvalue()


def database():
    connection = sqlite3.connect(":memory:")
    connection.execute("create table a (b)")
    return connection.serialize()


TEXT = LANGUAGES["French"].encode() * 9
BINARY = {
    "bzip2": (bz2.compress(TEXT), "is compressed with bzip2, not plain text; .*bunzip2"),
    "xz": (lzma.compress(TEXT), "is compressed with xz, .*xz -d"),
    "zstd": (b"\x28\xb5\x2f\xfd" + TEXT, "is compressed with zstd"),
    "lzma": (lzma.compress(TEXT, lzma.FORMAT_ALONE), "is binary data"),
    "zlib": (zlib.compress(TEXT), "is binary data"),
    "zip": (in_zip("a.txt"), "is a ZIP archive, .*unzip"),
    "docx": (in_zip("[Content_Types].xml"), "is a document of an office program"),
    "tar": (in_tar(), "is a tar archive; .*tar -xf"),
    "pdf": (b"%PDF-1.7\n" + TEXT, "is a PDF document, .*pdftotext"),
    "rtf": (b"{\\rtf1 hello}", "is an RTF document"),
    "sqlite": (database(), "is an SQLite database"),
    "png": (b"\x89PNG\r\n\x1a\n", "is a picture"),
    "random": (random.Random(0).randbytes(997), "is binary data"),
    "zeros": (bytes(97), "is binary data"),
    "pickle": (pickle.dumps([0.1, {"a": 3}] * 9), "(has control characters|is binary data)"),
    "NUL in text": (b"some text" * 9 + b"\0\n", r"has control characters \(0x00 at offset 81\)"),
    "NUL as separator": (b"a=1\0b=2\0" * 9, r"has control characters \(0x00 at offset 3\)"),
}


@pytest.mark.parametrize("name", BINARY)
def test_binary_content_is_named_and_never_to_be_converted(name):
    content, message = BINARY[name]
    error = error_of(content)
    assert re.match(f"the file {message}", error)
    assert "iconv" not in error


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Café… «Noël»\r\n", "windows-1252"),
        ("café", "latin-1"),
        (LANGUAGES["Russian"], "windows-1251"),
        (LANGUAGES["Russian"], "koi8-r"),
        ("漢字かな交じり文", "shift_jis"),
        ("中文也可以。你好", "gb18030"),
    ],
)
def test_other_encodings_of_text_are_to_be_converted(text, encoding):
    error = error_of(text.encode(encoding))
    assert re.match(r"the file is not UTF-8: byte 0x\w\w at offset \d+, line 1 .*iconv", error)
    assert "LATIN1" not in error


def test_damaged_utf_8_is_not_to_be_converted():
    """Conversion would change the characters that are correct."""
    error = error_of(TEXT[:100] + b"\xff" + TEXT)
    assert "byte 0xff at offset 100, line 2" in error
    assert "iconv -c -f UTF-8 -t UTF-8" in error
    assert "WINDOWS" not in error
    cut = "Olá, é".encode()[:-1]
    assert re.search("ends in the middle of a character: .*remove the last 1 bytes", error_of(cut))


@pytest.mark.parametrize(
    "text", ["", "\n", "\x1b[1mbold\x1b[0m", "a\x0cb\x08", "BZh is text", "PK", "%PD"]
)
def test_unusual_text_is_text(text):
    assert decode_text(text.encode(), "the file") == text


@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"a\n\nb\n", ["a", "", "b"]),
        (b"a\r\n \r\nb", ["a", " ", "b"]),
        (b"a\r\rb\r", ["a", "", "b"]),
        (b"\xef\xbb\xbfa\x0bb\rc\n", ["a\x0bb\rc"]),
        ("a\x85b\u2028c".encode(), ["a\x85b\u2028c"]),
    ],
)
def test_lines_end_with_newlines_or_else_carriage_returns(content, lines):
    assert decode_lines(content, "the file") == lines
