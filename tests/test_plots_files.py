"""Files are written whole or not at all."""

import os
import stat
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from plots.files import write_whole


@given(st.text())
def test_text_is_written_as_utf_8_with_its_line_ends(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("files") / "a.txt"
    assert write_whole(path, text) == path
    assert path.read_bytes().decode("utf-8") == text


def test_missing_parent_folders_are_created(tmp_path):
    write_whole(str(tmp_path / "a" / "b" / "c.bin"), b"x")
    assert (tmp_path / "a" / "b" / "c.bin").read_bytes() == b"x"


def test_a_function_writes_to_a_temporary_file_with_the_same_suffix(tmp_path):
    path = tmp_path / "weights.npz"
    write_whole(path, lambda temporary: np.savez(temporary, a=np.arange(3)))
    with np.load(path) as saved:
        assert saved["a"].tolist() == [0, 1, 2]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("failing", ["os.replace", "os.fsync", "content"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def fail(target):
        if failing == "content":
            target.write_text("half")
        raise KeyboardInterrupt

    if failing != "content":
        monkeypatch.setattr(failing, lambda *_: fail(None))
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, fail if failing == "content" else b"new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_content_is_on_the_disk_before_the_file_is_renamed(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda file: (calls.append("fsync"), fsync(file)))
    monkeypatch.setattr(os, "replace", lambda *ends: (calls.append("replace"), replace(*ends)))
    write_whole(tmp_path / "a.txt", "x")
    assert calls == ["fsync", "replace"]


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError, match="it is a folder; give a file name"):
        write_whole(tmp_path, b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "folder" / "real.txt")
    for content in (b"first", b"second"):
        write_whole(tmp_path / "link.txt", content)
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "folder" / "real.txt").read_bytes() == content
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["real.txt"]


def test_files_have_the_permissions_of_new_ones_and_the_umask_is_not_changed(tmp_path, monkeypatch):
    def refuse(mask):
        raise AssertionError("another thread would create a file with these permissions meanwhile")

    old = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", refuse)
        write_whole(tmp_path / "a.txt", b"x")
    finally:
        monkeypatch.undo()
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o640


def test_importing_it_imports_neither_keras_nor_numpy():
    code = "import sys, plots.files; print({'keras', 'numpy', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
