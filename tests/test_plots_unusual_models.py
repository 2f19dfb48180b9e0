"""`plots.check` says what is true of unusual models, on every backend, and changes nothing."""

import keras
import numpy as np
import pytest
import unusual_inputs  # noqa: F401 - registers models
from unusual_models import NEEDS_TEXTS, UNUSUAL

import plots

QUICK = {
    "causal_decoder_without_the_first_output",
    "mean_that_divides_by_the_padded_length",
    "noise_in_inference",
    "squares_below_the_range_of_float16",
    "one_id",
}
_OF_EVERY_MODEL = ("numbers finite", "batch independent", "dead weights alive", "sharing shared")


def said(checks):
    """Return what checks say, as a truth of `unusual_models` is written."""
    lines = set()
    for check in checks:
        kind = "" if check.note.kind == "description" else f"{check.note.kind} "
        lines.add(f"{kind}{check.property} {check.verdict}")
    return "; ".join(sorted(lines - {*_OF_EVERY_MODEL}))


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[] if n in QUICK else [pytest.mark.slow]) for n in UNUSUAL]
)
def test_what_is_true_of_a_model_is_said_and_nothing_else(name):
    keras.utils.set_random_seed(1)
    build, truth = UNUSUAL[name]
    if name in NEEDS_TEXTS and keras.backend.backend() != "tensorflow":
        with pytest.raises(ValueError, match="texts, which Keras computes on TensorFlow only"):
            plots.check(build())
        return
    model = build()
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    checks = plots.check(model)
    assert said(checks) == truth
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    assert all(check.witness for check in checks if check.note.kind != "description")
