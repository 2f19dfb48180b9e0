"""A run whose loss or weights are not finite ends, and nothing that was trained is lost."""

import keras
import numpy as np
import pytest
from small_text_models import TEXT, text_model
from test_training import RECIPE, largest_difference, recording, weights_of

from functional_models.callbacks import DivergedError, Record


def test_a_weight_that_is_not_finite_raises():
    record = recording(Record(), "mixed_bfloat16")
    record.on_epoch_begin(0)
    record.on_train_batch_end(0)
    kernel = record.model.trainable_variables[0]
    values = np.zeros(kernel.shape)
    values[2, 1] = np.inf
    kernel.assign(values)
    message = (
        rf"the loss is 0.5, but {kernel.path} is not finite at step 1; use float32 in place of"
    )
    with pytest.raises(DivergedError, match=message):
        record.on_epoch_end(0, {"cross_entropy": 0.5, "token_accuracy": 0.5, "tokens": 7.0})


def test_a_loss_that_is_not_finite_raises():
    for loss in (np.nan, np.inf):
        record = recording(Record())
        record.on_epoch_begin(0)
        record.on_train_batch_end(0)
        with pytest.raises(ValueError, match=rf"the loss is {loss} at step 1; use a lower"):
            record.on_epoch_end(0, {"cross_entropy": loss, "token_accuracy": 0.5, "tokens": 7.0})
        assert record.rows == []


class Poison(keras.callbacks.Callback):
    """Makes a weight infinite before an interval, and keeps the weights of the reports."""

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.reports = []
        self._interval = interval

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._interval:
            weight = self.model.trainable_variables[0]
            weight.assign(np.full(weight.shape, np.inf))

    def on_epoch_end(self, epoch, logs=None):
        self.reports.append(weights_of(self.model))


@pytest.mark.parametrize("in_folder", [False, True])
@pytest.mark.parametrize("interval", [0, 2])
def test_a_run_that_diverges_leaves_the_model_of_the_last_report(interval, in_folder, tmp_path):
    lm = text_model("decoder_only", dropout=0.1)
    poison = Poison(interval)
    poison.reports.append(weights_of(lm.model))
    folder = tmp_path / "run" if in_folder else None
    with pytest.raises(DivergedError, match=rf"is nan at step {3 * (interval + 1)}; use a lower"):
        lm.fit(TEXT, recipe=RECIPE, folder=folder, callbacks=(poison,), progress=False)
    assert len(poison.reports) == 1 + interval
    assert largest_difference(weights_of(lm.model), poison.reports[-1]) == 0
    if in_folder:  # the run goes on from there
        rows = lm.fit(TEXT, recipe=RECIPE, folder=folder, progress=False)
        assert [row["step"] for row in rows] == [3, 6, 9, 11]
