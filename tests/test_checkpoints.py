"""Checkpoints: written before the first step, exact after a kill, and refused when damaged."""

import json

import keras
import numpy as np
import pytest
from kills import copied_before_every_change
from small_text_models import corpus, text_model

from functional_models.callbacks import Checkpoint, Record
from functional_models.folders import RUN

ROW = {"step": 3, "loss": 1.5, "token_accuracy": 0.5, "tokens_per_second": 7.0, "seconds": 2.0}


class Stop(keras.callbacks.Callback):
    """Raises KeyboardInterrupt after a step."""

    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.mark.slow
def test_the_first_file_of_a_run_says_which_run_it_is(tmp_path):
    """Killed before its first report, a run is resumed, and another one is refused."""
    kind = "decoder_only"
    recipe = {"report_every": 3, "batch_size": 5, "progress": False, "folder": tmp_path}
    with pytest.raises(KeyboardInterrupt):
        text_model(kind).fit(corpus(kind), steps=11, callbacks=(Stop(),), **recipe)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint.npz"]
    before = (tmp_path / RUN).read_bytes()
    with pytest.raises(ValueError, match="holds a run with different steps"):
        text_model(kind).fit(corpus(kind), steps=12, **recipe)
    with pytest.raises(FileExistsError, match="holds a training run"):
        text_model(kind).save(tmp_path)
    assert (tmp_path / RUN).read_bytes() == before


def test_a_run_that_does_not_begin_leaves_no_checkpoint(tmp_path):
    class Fail(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            assert (tmp_path / RUN).exists()
            raise RuntimeError("no memory")

    kind = "decoder_only"
    recipe = {"report_every": 3, "batch_size": 5, "progress": False, "folder": tmp_path}
    with pytest.raises(RuntimeError, match="no memory"):
        text_model(kind).fit(corpus(kind), steps=11, callbacks=(Fail(),), **recipe)
    assert not list(tmp_path.iterdir())


def test_overwriting_replaces_another_run_and_resumes_the_same(compiled, tmp_path):
    def start(run, **options):
        checkpoint = Checkpoint(tmp_path, run, Record())
        checkpoint.start(compiled, **options)
        return checkpoint._record.rows

    record = Record()
    record.rows.append(ROW)
    checkpoint = Checkpoint(tmp_path, {"seed": 1}, record)
    checkpoint.set_model(compiled)
    checkpoint.on_epoch_end(0)
    assert start({"seed": 1}, overwrite=True) == start({"seed": 1}) == [ROW]
    with pytest.raises(ValueError, match=r"different seed \(1 saved, 2 given\).*overwrite=True"):
        start({"seed": 2})
    assert start({"seed": 2}, overwrite=True) == []
    assert start({"seed": 2}) == []


@pytest.fixture(scope="module")
def compiled():
    model = text_model("decoder_only").model
    model.compile("adamw", "mse")
    return model


def without(name):
    def change(arrays):
        del arrays[name]

    return change


def with_state(**changes):
    def change(arrays):
        arrays["state"] = np.array(json.dumps({**json.loads(str(arrays["state"])), **changes}))

    return change


def with_array(array):
    def change(arrays):
        arrays["array_0"] = array

    return change


@pytest.mark.parametrize(
    "damage",
    [
        without("state"),
        without("array_0"),
        with_state(run=None),
        with_state(rows=None),
        with_state(rows=[{"step": 3}]),
        with_state(rows=[3]),
        with_state(run=[]),
        with_array(np.zeros((2, 3))),
        with_array(np.array(["text"])),
        lambda arrays: arrays.update(state=np.array("[" * 100_000)),
        lambda arrays: arrays.update(state=np.array(b"\xff\x1b[31m")),
        lambda arrays: arrays.update(extra=np.zeros(3)),
    ],
)
def test_a_checkpoint_with_other_content_raises(checkpoint_arrays, compiled, tmp_path, damage):
    arrays = dict(checkpoint_arrays)
    damage(arrays)
    np.savez(tmp_path / RUN, **arrays)
    check_damaged(compiled, tmp_path)


@pytest.fixture(scope="module")
def folder(compiled, tmp_path_factory):
    """Return a folder with a checkpoint of two reports."""
    folder, record = tmp_path_factory.mktemp("run"), Record()
    record.rows.extend({**ROW, "step": step} for step in (3, 6))
    checkpoint = Checkpoint(folder, {"seed": 1}, record)
    checkpoint.set_model(compiled)
    checkpoint.on_epoch_end(0)
    return folder


@pytest.fixture(scope="module")
def checkpoint_arrays(folder):
    with np.load(folder / RUN) as saved:
        return {name: saved[name] for name in saved.files}


def huge_shape(data):
    return data.replace(b"'shape': (256, 14)", b"'shape': (9**14,)  ", 1)


def encrypted(data):
    """Set the flag of encryption in all headers of the archive."""
    for header, place in ((b"PK\x03\x04", 2), (b"PK\x01\x02", 4)):
        first, *members = data.split(header)
        data = header.join([first, *(m[:place] + b"\x01" + m[place + 1 :] for m in members)])
    return data


@pytest.mark.parametrize(
    "damage",
    [lambda data: b"", lambda data: data[: len(data) // 2], huge_shape, encrypted],
)
def test_a_damaged_checkpoint_raises(folder, compiled, tmp_path, damage):
    before = (folder / RUN).read_bytes()
    assert damage(before) != before
    (tmp_path / RUN).write_bytes(damage(before))
    check_damaged(compiled, tmp_path)


def test_a_compressed_checkpoint_raises(checkpoint_arrays, compiled, tmp_path):
    """A small file must not become a huge array."""
    np.savez_compressed(tmp_path / RUN, **checkpoint_arrays)
    check_damaged(compiled, tmp_path)


def check_damaged(model, folder):
    checkpoint = Checkpoint(folder, {}, Record())
    before = checkpoint.path.read_bytes()
    with pytest.raises(
        ValueError, match=r"checkpoint\.npz is damaged .* with overwrite=True"
    ) as caught:
        checkpoint.start(model)
    assert str(caught.value).isprintable()
    assert checkpoint.path.read_bytes() == before
    checkpoint.start(model, overwrite=True)
    assert checkpoint.path.read_bytes() != before


@pytest.mark.slow  # trains for every copy
def test_a_run_that_is_killed_anywhere_resumes_to_the_bit(tmp_path):
    kind = "decoder_only"
    recipe = {"steps": 4, "report_every": 2, "batch_size": 5, "progress": False}
    whole = text_model(kind)
    with copied_before_every_change(tmp_path / "run", tmp_path / "copies") as copies:
        whole.fit(corpus(kind), folder=tmp_path / "run", **recipe)
    names = {path.name.split("-")[0] for path in (tmp_path / "run").iterdir()}
    assert len(copies) > 30
    for copy in copies[::3]:
        resumed = text_model(kind)
        resumed.fit(corpus(kind), folder=copy, **recipe)
        for expected, weight in zip(whole.model.weights, resumed.model.weights, strict=True):
            np.testing.assert_array_equal(expected, weight)
        for kept in ("loss", "val_loss", "step"):
            assert [r[kept] for r in resumed.history] == [r[kept] for r in whole.history]
        assert {path.name.split("-")[0] for path in copy.iterdir()} == names
        assert len(list(copy.iterdir())) == 4
