"""What is said of random models is true: it is compared with what changes of inputs move."""

import keras
import numpy as np
import pytest
from random_models import LENGTH, random_model

import plots
from plots.graph import Graph

SEEDS = 60
NOTHING, SURELY = 0.0, 1e-4
"""Movements of outputs that no rounding makes or hides."""

ONE_WAY = {"nothing", "itself", "causal"}


def batches(model, seed):
    """Return a batch, and another vector or id for each of its positions."""
    random = np.random.default_rng(seed)
    if keras.backend.is_int_dtype(model.inputs[0].dtype):
        batch = random.integers(0, 11, (3, LENGTH), "int32")
        return batch, (batch + random.integers(1, 11, batch.shape, "int32")) % 11
    return random.normal(size=(2, 3, LENGTH, 5)).astype("float32")


def moved(model):
    """Return how far outputs (positions, changed positions) of a sample and of others move."""
    own, others = np.zeros((LENGTH, LENGTH)), 0.0
    for seed in range(3):
        batch, other = batches(model, seed)
        before = keras.ops.convert_to_numpy(model(batch, training=False))
        for position in range(LENGTH):
            changed = batch.copy()
            changed[0, position] = other[0, position]
            after = keras.ops.convert_to_numpy(model(changed, training=False))
            by = np.abs(after - before).max(axis=-1)
            own[:, position] = np.maximum(own[:, position], by[0])
            others = max(others, by[1:].max())
    return own, others


@pytest.mark.sampled(3)
@pytest.mark.filterwarnings("error:the check of")  # of a check that failed
@pytest.mark.filterwarnings("ignore:__array__")
@pytest.mark.parametrize("seed", range(SEEDS))
def test_what_is_said_of_a_random_model_is_true(seed):
    keras.utils.set_random_seed(seed)
    model, steps = random_model(seed)
    graph = plots.read_graph(model)
    assert graph.parameters == model.count_params()
    assert Graph.from_json(graph.to_json()) == graph
    before = [keras.ops.convert_to_numpy(variable) for variable in model.variables]
    checks = plots.check(model)
    said_so = [check for check in checks if check.note.kind == "description"]
    verdicts = {check.property: check.verdict for check in [*checks, *said_so]}
    for old, variable in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, keras.ops.convert_to_numpy(variable))
    own, others = moved(model)
    if not own.any():  # a tensor was subtracted from itself
        assert verdicts["effects"] == "none", steps
        return
    said, future = verdicts["causality"], np.triu(own, 1).max()
    assert future <= SURELY or said not in ONE_WAY, (steps, said, future)
    assert future > NOTHING or said in ONE_WAY, (steps, said)
    assert np.tril(own, -1).max() <= SURELY or said != "itself", steps
    said = verdicts["batch"]
    assert others <= SURELY or said in ("mixed", "counted"), (steps, others)
    assert others > NOTHING or said == "independent", steps
