"""`plots.check` finds inputs that a model takes, where random numbers of any kind do not fit it."""

import warnings

import keras
import pytest
from keras import layers, ops

import plots


class Masked(layers.Layer):
    """Hides frames of clips, (b, clips, frames, features), by a mask (b, clips, frames)."""

    def call(self, x, mask):
        rows = ops.reshape(x, (-1, x.shape[-1]))
        kept = rows * ops.cast(ops.reshape(mask, (-1, 1)), x.dtype)
        return ops.reshape(kept, ops.shape(x))

    def compute_output_spec(self, x, mask):
        return keras.KerasTensor(x.shape, x.dtype)


def clips():
    x = keras.Input((None, None, 5), name="clips")
    mask = keras.Input((None, None), dtype="bool", name="mask")
    return keras.Model([x, mask], layers.Dense(3)(Masked()(x, mask)))


class Chosen(layers.Layer):
    """The vector of the sample that the first number of each box names; others are an error."""

    def call(self, x, boxes):
        number = ops.cast(ops.floor(boxes[..., 0]), "int32")
        known = ops.convert_to_numpy(ops.logical_and(number >= 0, number < ops.shape(x)[0]))
        if not known.all():
            raise ValueError("a box of an unknown sample")
        return ops.take(x, number, axis=0)

    def compute_output_spec(self, x, boxes):
        return keras.KerasTensor((*boxes.shape[:2], x.shape[-1]), x.dtype)


def boxes():
    x, places = keras.Input((7,), name="image"), keras.Input((None, 5), name="boxes")
    return keras.Model([x, places], layers.Dense(3)(Chosen()(x, places)))


class Rows(layers.Embedding):
    """A table without rows for ids that are too large, on every backend."""

    def call(self, ids):
        if ops.convert_to_numpy(ids).max() >= self.input_dim:
            raise ValueError("no such row")
        return super().call(ids)

    def compute_output_spec(self, ids):
        return keras.KerasTensor((*ids.shape, self.output_dim))


def answers():
    """Which of 11 questions was asked, and whether the answer was right, as one id of 22."""
    asked, answer = (keras.Input((13,), dtype="int32", name=n) for n in ("asked", "answer"))
    return keras.Model([asked, answer], layers.Dense(3)(Rows(22, 5)(asked + 11 * answer)))


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="its tracers have no values to refuse")
@pytest.mark.parametrize("make", [clips, boxes, answers])
def test_a_model_runs_on_inputs_that_fit_it(make):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        checks = plots.check(make())
    verdicts = {check.property: check.verdict for check in checks}
    assert verdicts["numbers"] == "finite"
    assert verdicts["dead weights"] == "alive"
    assert not [check.note.text for check in checks if check.note.kind == "finding"]


def test_what_was_made_to_fit_is_said():
    text = plots.diagnosis_text(boxes())
    assert "random inputs (one sample of 13 positions" in " ".join(text.split())
