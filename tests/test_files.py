"""Local text files: what is read is what was written, and bad ones are named."""

import gzip
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plots.files
from functional_models.files import read_lines, read_pairs, read_text, write_whole


def write_gzip(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode("utf-8")))
    return path


def test_plain_and_compressed_files_give_the_same_text(tmp_path):
    text = "Olá, mundo!\r\nsegunda linha\n"
    (tmp_path / "a.txt").write_bytes(text.encode("utf-8"))
    write_gzip(tmp_path / "a.txt.gz", text)
    assert read_text(tmp_path / "a.txt") == text
    assert read_text(str(tmp_path / "a.txt.gz")) == text


def test_a_byte_order_mark_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfx")
    assert read_text(tmp_path / "a.txt") == "x"


def test_only_newlines_end_lines(tmp_path):
    (tmp_path / "a.txt").write_bytes("a\x0cb\u2028c\x85d\r\n\ne".encode())
    assert read_lines(tmp_path / "a.txt") == ["a\x0cb\u2028c\x85d", "", "e"]


def test_aligned_files_are_paired_line_by_line(tmp_path):
    (tmp_path / "a.pt").write_text("um\n\n três \n", encoding="utf-8")
    write_gzip(tmp_path / "a.en.gz", "one\n\nthree\n")
    assert read_pairs(tmp_path / "a.pt", tmp_path / "a.en.gz") == [("um", "one"), ("três", "three")]


def test_a_tsv_file_gives_the_same_pairs_as_two_aligned_ones(tmp_path):
    write_gzip(tmp_path / "a.tsv.gz", "um\tone\r\n\r\ntrês\tthree")
    assert read_pairs(tmp_path / "a.tsv.gz") == [("um", "one"), ("três", "three")]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere\.txt"):
        read_text(tmp_path / "nowhere.txt")


def test_a_folder_is_no_text_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder"):
        read_text(tmp_path)


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_a_blank_file_is_refused(tmp_path, content):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.txt has no text"):
        read_text(tmp_path / "a.txt")


def test_the_first_byte_that_is_not_utf_8_is_located(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfcaf\xe9 com leite")
    with pytest.raises(ValueError, match=r"a\.txt is not UTF-8: byte 0xe9 at offset 6"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("damage", [lambda data: b"plain", lambda data: data[:-9]])
def test_a_damaged_gzip_file_is_named(tmp_path, damage):
    path = tmp_path / "a.gz"
    path.write_bytes(damage(gzip.compress(b"some text that is long enough")))
    with pytest.raises(ValueError, match=r"a\.gz cannot be decompressed"):
        read_text(path)


def test_aligned_files_of_unequal_length_are_refused_with_both_counts(tmp_path):
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
def test_a_bad_tsv_line_is_located(tmp_path, bad_line, message):
    (tmp_path / "a.tsv").write_text(f"um\tone\n{bad_line}\n")
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / "a.tsv")


@given(st.text())
def test_what_is_written_is_read_back(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("files") / "a.txt"
    write_whole(path, text)
    assert path.read_bytes().decode("utf-8") == text


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def fail(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("write", [write_whole, plots.files.write_whole])
def test_a_link_stays_one_and_what_it_leads_to_is_replaced(tmp_path, write):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "folder" / "real.txt")
    for content in (b"first", b"second"):
        write(tmp_path / "link.txt", content)
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "folder" / "real.txt").read_bytes() == content
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["real.txt"]


@pytest.mark.parametrize("write", [write_whole, plots.files.write_whole])
def test_files_have_the_rights_of_new_ones_and_the_process_keeps_its_mask(
    tmp_path, write, monkeypatch
):
    def no_other(mask):
        raise AssertionError("another thread would make a file with these rights meanwhile")

    old = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", no_other)
        write(tmp_path / "a.txt", b"x")
    finally:
        monkeypatch.undo()
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640
