"""Reading text and sentence pairs from files."""

import gzip
from pathlib import Path

import pytest

from functional_models.corpora.text_files import read_lines as stored_lines
from functional_models.corpora.text_files import read_pairs, store_files


def read_text(path):
    (text,) = store_files([path])
    return text


def read_lines(path):
    return list(stored_lines(store_files([path])))


def write_gzip(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode("utf-8")))
    return path


def test_plain_and_compressed_files_have_the_same_text(tmp_path):
    text = "Olá, mundo!\r\nsegunda linha\n"
    (tmp_path / "a.txt").write_bytes(text.encode("utf-8"))
    write_gzip(tmp_path / "a.txt.gz", text)
    assert read_text(tmp_path / "a.txt") == text
    assert read_text(str(tmp_path / "a.txt.gz")) == text


def test_a_byte_order_mark_is_dropped(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx")
    assert read_text(tmp_path / "a.txt") == "x"


def test_only_newlines_end_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\x0cb\u2028c\x85d\r\n\ne".encode())
    assert read_lines(tmp_path / "a.txt") == ["a\x0cb\u2028c\x85d", "", "e"]


def test_carriage_returns_end_lines_in_a_file_without_newlines(tmp_path):
    (tmp_path / "a.pt").write_bytes("um\r\rtrês\r".encode())
    (tmp_path / "a.en").write_bytes(b"one\n\nthree")
    assert read_pairs(tmp_path / "a.pt", tmp_path / "a.en") == (("um", "one"), ("três", "three"))
    (tmp_path / "a.txt").write_bytes(b"a\rb\r\nc\r\n")
    assert read_lines(tmp_path / "a.txt") == ["a\rb", "c"]


def test_aligned_files_are_paired_line_by_line(tmp_path):
    (tmp_path / "a.pt").write_text("um\n\n três \n", encoding="utf-8")
    write_gzip(tmp_path / "a.en.gz", "one\n\nthree\n")
    assert read_pairs(tmp_path / "a.pt", tmp_path / "a.en.gz") == (("um", "one"), ("três", "three"))


def test_a_tsv_file_has_the_pairs_of_two_aligned_files(tmp_path):
    write_gzip(tmp_path / "a.tsv.gz", "um\tone\r\n\r\ntrês\tthree")
    assert read_pairs(tmp_path / "a.tsv.gz") == (("um", "one"), ("três", "three"))


def test_a_missing_file_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        read_text(tmp_path / "nowhere.txt")


def test_a_folder_raises(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_text(tmp_path)


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_a_blank_file_raises(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.txt has no text"):
        read_text(tmp_path / "a.txt")


def test_invalid_utf_8_raises_with_its_offset(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9 com leite")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8: byte 0xe9 at offset 6"):
        read_text(tmp_path / "a.txt")


def test_a_damaged_gzip_file_raises(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"some text that is long enough")[:-9])
    with pytest.raises(ValueError, match=r"a\.gz is gzip but cannot be decompressed"):
        read_text(path)


@pytest.mark.parametrize("name", ["a.txt", "a.GZ", "a"])
def test_the_content_shows_whether_a_file_is_compressed(tmp_path, name):
    assert read_text(write_gzip(tmp_path / name, "olá")) == "olá"
    (tmp_path / f"{name}.gz").write_text("plain")
    assert read_text(tmp_path / f"{name}.gz") == "plain"


def test_a_compressed_file_with_other_content_raises(tmp_path):
    (tmp_path / "a.gz").write_bytes(gzip.compress("olá".encode("utf-16")))
    with pytest.raises(ValueError, match=r"decompressed content of .*a\.gz is UTF-16"):
        read_text(tmp_path / "a.gz")


@pytest.mark.parametrize("given", [3, None, b"a", ["a"]])
def test_another_type_than_a_path_raises(given):
    with pytest.raises(TypeError, match=f"given as a path, not as {type(given).__name__}"):
        read_text(given)


def test_a_device_raises():
    with pytest.raises(ValueError, match="/dev/zero is a device"):
        read_text("/dev/zero")


def test_aligned_files_of_unequal_length_raise_with_both_counts(tmp_path):
    (tmp_path / "a").write_text("1\n2\n3\n")
    (tmp_path / "b").write_text("1\n2\n")
    with pytest.raises(ValueError, match=r"has 3 lines and .* has 2"):
        read_pairs(tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize(
    ("bad_line", "message"),
    [
        ("no tab", r"line 2: 1 column"),
        ("a\tb\tc", r"line 2: 3 column"),
        ("a\t ", r"line 2: the target is blank"),
        ("\tb", r"line 2: the source is blank"),
    ],
)
def test_an_invalid_tsv_line_raises_with_its_number(tmp_path, bad_line, message):
    (tmp_path / "a.tsv").write_text(f"um\tone\n{bad_line}\n")
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "a.tsv")
