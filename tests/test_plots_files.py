"""Files are written whole or not at all."""

import errno
import os
import stat
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from python_process import run_python

import plots
from plots.conformance import sample_graphs
from plots.files import write_picture, write_whole


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


def test_the_error_of_a_full_disk_names_the_file(tmp_path, monkeypatch):
    def full(file):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left on device: '.*a\.txt'"):
        write_whole(tmp_path / "a.txt", "x")
    assert list(tmp_path.iterdir()) == []


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


@pytest.mark.parametrize("renderer", plots.list_renderers().values(), ids=lambda r: r.name)
def test_a_picture_replaces_a_picture_of_its_kind_and_nothing_else(tmp_path, renderer):
    (suffix, *_), path = renderer.suffixes, tmp_path / "a"
    path = path.with_name(f"a{suffix}")
    graphs = sample_graphs(large=False)
    first, second = renderer(graphs["one call"]), renderer(graphs["annotated"])
    for content in (first, second, first):
        write_picture(path, content)
    path.write_bytes(b"")  # as of mktemp
    write_picture(path, first)
    for other in (
        b"my notes",
        b'{\n  "format": 1,\n  "spec": {}\n}',
        b"PK\3\4",
        b"{\n}",
        b"---\ntitle",
    ):
        path.write_bytes(other)
        with pytest.raises(FileExistsError, match="is not a picture of this kind; give another"):
            write_picture(path, first)
        assert path.read_bytes() == other


def test_a_figure_replaces_a_figure(tmp_path):
    figures = [plots.loss_curves({name: {"step": [1, 2], "loss": [3, 4]}}) for name in "ab"]
    for suffix in ("png", "svg"):
        for figure in figures:
            plots.save_figure(figure, tmp_path / f"a.{suffix}")
    (tmp_path / "a.png").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a picture of this kind"):
        plots.save_figure(figures[0], tmp_path / "a.png")


def test_contents_of_an_unknown_kind_replace_those_with_the_same_first_line(tmp_path):
    path = tmp_path / "a.csv"
    for content in ("call,class\na,b\n", "call,class\nc,d\n"):
        write_picture(path, content)
    path.write_text("name,price\n")
    with pytest.raises(FileExistsError, match="is not a picture of this kind"):
        write_picture(path, "call,class\nc,d\n")


def test_the_next_writer_removes_what_a_killed_one_left(tmp_path):
    path = tmp_path / "a.b.txt"
    others = [".a.b.0123456.txt", ".a.b.01234567.svg", ".b.01234567.txt", ".a.b.old.txt"]
    for name in (".a.b.01234567.txt", *others):
        (tmp_path / name).write_text("half")
    seen = []

    def write(temporary):  # another writer meanwhile
        write_whole(path, "second")
        seen.append(temporary.exists())
        temporary.write_text("first")

    write_whole(path, write)
    assert seen == [True]
    assert path.read_text() == "first"
    assert {path.name for path in tmp_path.iterdir()} == {"a.b.txt", *others}


def test_pipes_and_paths_below_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe.svg")
    with pytest.raises(FileExistsError, match="it is a pipe or a device"):
        write_whole(tmp_path / "pipe.svg", b"x")
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="one of its folders is a file"):
        write_whole(tmp_path / "file" / "a.svg", b"x")


def test_importing_it_imports_neither_keras_nor_numpy():
    code = "import sys, plots.files; print({'keras', 'numpy', 'matplotlib'} & set(sys.modules))"
    assert run_python(code).strip() == "set()"


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
@pytest.mark.parametrize("path", ["/proc/a.svg", "/proc/folder/a.svg"])
def test_a_folder_that_takes_no_files_names_what_was_asked_for(path):
    with pytest.raises(OSError, match=f"^cannot write '{path}': .*; give a path in a folder"):
        write_whole(path, "text")
