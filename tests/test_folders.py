"""Folders that commands write: one writer at a time, and nothing is replaced without permission."""

import os
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path

import pytest

from functional_models.folders import check_content, folder_path, make_folder, only_writer

HOLDS_UNTIL_KILLED = """
import sys, time
from pathlib import Path
from functional_models.folders import only_writer
with only_writer(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_second_writer_gets_the_process_that_holds_the_folder(tmp_path):
    for _ in range(2):
        with only_writer(tmp_path):
            message = rf"{tmp_path} is being written by process {os.getpid()} on .+ since 20\d\d-"
            with pytest.raises(BlockingIOError, match=message), only_writer(tmp_path):
                pass
    assert list(tmp_path.iterdir()) == []


def test_threads_exclude_each_other_and_other_folders_are_free(tmp_path):
    outcomes = []

    def write():
        try:
            with only_writer(tmp_path):
                outcomes.append("written")
        except BlockingIOError:
            outcomes.append("refused")

    (tmp_path / "other").mkdir()
    with ExitStack() as held:
        held.enter_context(only_writer(tmp_path))
        held.enter_context(only_writer(tmp_path / "other"))
        thread = threading.Thread(target=write)
        thread.start()
        thread.join()
    write()
    assert outcomes == ["refused", "written"]


def test_an_error_frees_the_folder(tmp_path):
    with pytest.raises(KeyboardInterrupt), only_writer(tmp_path):
        raise KeyboardInterrupt
    with only_writer(tmp_path):
        pass


def test_the_lock_of_a_killed_process_does_not_block(tmp_path):
    command = [sys.executable, "-c", HOLDS_UNTIL_KILLED, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        with (
            pytest.raises(BlockingIOError, match=f"written by process {process.pid} on"),
            only_writer(tmp_path),
        ):
            pass
        process.kill()
    assert (tmp_path / ".lock").exists()
    with only_writer(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", " ", "\t\n"])
def test_a_blank_name_is_no_folder(name):
    with pytest.raises(ValueError, match="the name of the folder is empty; give a name"):
        make_folder(name)


def test_files_pipes_and_what_lies_below_files_are_no_folders(tmp_path):
    (tmp_path / "file").write_text("")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "pipe", "file/below"):
        with pytest.raises(ValueError, match="is a file; give the path of a folder"):
            make_folder(tmp_path / name)


@pytest.mark.parametrize("name", ["model.json", "export.json"])
@pytest.mark.parametrize("below", ["new", "deep/er/new", "../link/new"])
def test_a_folder_inside_a_model_is_refused(tmp_path, name, below):
    (tmp_path / "model").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "model")
    inside = tmp_path / "model" / below
    assert folder_path(inside) == inside
    (tmp_path / "model" / name).write_text('{"format": 1, "spec": {}}')
    with pytest.raises(ValueError, match=r"lies inside the .*model"):
        folder_path(inside)
    folder_path(tmp_path / "model")  # the folder itself
    (tmp_path / "model" / name).write_text('{"of": "another program"}')
    assert folder_path(inside) == inside


@pytest.mark.parametrize("overwrite", [False, True])
def test_only_what_a_writer_replaces_may_be_overwritten(tmp_path, overwrite):
    own = ("model.json", "checkpoint.npz")
    check_content(tmp_path / "missing", own)
    (tmp_path / "notes.txt").write_text("mine")
    check_content(tmp_path, own)
    (tmp_path / "model.json").write_text("{}")
    if overwrite:
        check_content(tmp_path, own, overwrite=True)
    else:
        with pytest.raises(FileExistsError, match=r"holds a model .*another folder.* overwrite=Tr"):
            check_content(tmp_path, own)
    for name in ("comparison.json", "export.json", "config.json"):
        (tmp_path / name).write_text("{}")
        with pytest.raises(FileExistsError, match=r"holds .*; choose another folder") as caught:
            check_content(tmp_path, own, overwrite=overwrite)
        assert overwrite or "model.json" in str(caught.value)
        if overwrite:
            assert name in str(caught.value)
            assert "overwrite" not in str(caught.value)
        (tmp_path / name).unlink()


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs a folder that takes no files")
def test_a_folder_that_takes_no_files_is_not_said_to_be_written_by_another_process():
    with (
        pytest.raises(OSError, match=r"^cannot write '/proc': ") as caught,
        only_writer(Path("/proc")),
    ):
        pass
    assert not isinstance(caught.value, BlockingIOError)
    to = Path("/proc/model")
    with pytest.raises(OSError, match=r"^cannot write '/proc/model': .* give a path in a folder"):
        make_folder(to)
    with (
        pytest.raises(OSError, match=r"^cannot write '/proc/model': "),
        only_writer(to.parent, ".model.lock", what=to),
    ):
        pass
