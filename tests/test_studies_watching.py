"""What runs in other processes do is written by workers and shown by who waits."""

import json

import keras
import numpy as np
import pytest

from functional_models.studies.execution import TensorBoardLogs, _check_can_be_sent
from functional_models.studies.watching import STATE, Watcher, WriteState


class Clock:
    """A clock that tests set."""

    now = 0.0

    def __call__(self):
        return self.now


def state(folder, step, loss):
    folder.mkdir(exist_ok=True)
    (folder / STATE).write_text(json.dumps({"step": step, "loss": loss}))


def test_a_line_shows_running_runs_and_the_time_left(tmp_path, capsys):
    clock = Clock()
    first, second, third = (tmp_path / f"{name}-seed_{name}-abc" for name in "123")
    watcher = Watcher({first: 10, second: 10, third: 10}, clock=clock)
    state(first, 4, 0.5)
    watcher.look()
    assert capsys.readouterr().out == ""  # for ten seconds
    clock.now = 10.0
    watcher.finish(third)
    state(second, 6, 2.0)
    watcher.look()
    assert capsys.readouterr().out == (
        "1 of 3 runs ended | 1-seed_1: step 4/10, loss 0.5000 | 2-seed_2: step 6/10, loss 2.0000 | "
        "about 10 s left\n"
    )
    clock.now = 20.0
    watcher.look()
    assert capsys.readouterr().out == ""  # intervals grow
    clock.now = 30.0
    state(first, 9, 0.25)
    watcher.look()
    # 5 steps of the first run and 10 of the third one in 30 seconds; 5 are left.
    assert capsys.readouterr().out.endswith("about 10 s left\n")


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"step": 1}'])
def test_a_state_that_cannot_be_read_is_not_shown(tmp_path, capsys, damage):
    clock = Clock()
    watcher = Watcher({tmp_path: 5}, clock=clock)
    (tmp_path / STATE).write_text(damage)
    clock.now = 60.0
    watcher.look()
    assert capsys.readouterr().out == "0 of 1 runs ended\n"


def test_a_worker_writes_its_state_at_intervals(tmp_path):
    clock = Clock()
    written = []
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            written.append(json.loads((tmp_path / STATE).read_bytes())["step"])
            clock.now += 1.0

    watchers = [WriteState(tmp_path, clock), Look()]
    model.fit(np.ones((5, 2)), np.ones((5, 1)), batch_size=1, verbose=0, callbacks=watchers)
    assert written == [1, 1, 3, 3, 5]
    assert not (tmp_path / STATE).exists()


def test_callbacks_that_workers_cannot_get_are_refused():
    _check_can_be_sent(TensorBoardLogs("logs"))
    with pytest.raises(ValueError, match=r"cannot be sent to workers .* workers=1"):
        _check_can_be_sent(lambda run: ())
