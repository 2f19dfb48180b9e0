"""Every mistake of a table is found by running, and nothing once it is put right."""

import re

import keras
import pytest
from mistaken_values import (
    distances_added,
    equal_units,
    frozen_table,
    last_row_for_all,
    mean_of_squares,
    power_of_the_variance,
    stopped_inside,
)

import plots

FOUND = {
    "last row for all": (last_row_for_all, "same vector at every position", "finding"),
    "power of the variance": (power_of_the_variance, "512 times smaller", "finding"),
    "mean of squares": (mean_of_squares, "8 times smaller", "finding"),
    "distances added": (distances_added, "prefer what is far", "finding"),
    "equal units": (equal_units, "Units that stay equal", "finding"),
    "stopped inside": (stopped_inside, "behind an ops.stop_gradient", "finding"),
    "frozen table": (frozen_table, "Frozen random vectors", "remark"),
}


def told(model):
    return [check.note for check in plots.check(model) if check.note.kind != "description"]


@pytest.mark.parametrize("name", FOUND)
def test_a_mistake_in_values_is_found_and_nothing_once_it_is_put_right(name):
    build, words, kind = FOUND[name]
    keras.utils.set_random_seed(1)
    (note,) = [note for note in told(build(True)) if re.search(words, note.text)]
    assert note.kind == kind
    assert note.about
    right = told(build(False))
    assert not [n.text for n in right if n.kind == "finding" or re.search(words, n.text)]
