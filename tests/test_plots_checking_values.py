"""Every mistake of a table is found by running, and nothing once it is put right."""

import re

import keras
import numpy as np
import pytest
from keras import layers, ops
from mistaken_gates import equal_steps
from mistaken_inputs import (
    codes_without_a_loss,
    condition_before_a_norm,
    mask_of_placed_sums,
    mean_of_later_steps,
    rows_without_a_key,
)
from mistaken_parts import (
    divided_by_a_deviation,
    mask_that_is_inverted,
    masking_after_positions,
    not_adapted,
)
from mistaken_products import (
    copies_of_one_state,
    one_number_for_each_position,
    shortened_keys_under_a_triangle,
    tokens_rolled_between_groups,
)
from mistaken_values import (
    distances_added,
    equal_queries,
    equal_units,
    frozen_table,
    gains_of_zero,
    last_row_for_all,
    mask_of_the_first_sample,
    mean_of_squares,
    pooled_in_a_function,
    power_of_the_variance,
    reciprocal_root,
    rotated_apart,
    softmax_in_a_layer,
    stopped_inside,
    tokens_shifted_left,
    unused_gains,
)
from model_bricks import T

import plots

FOUND = {
    "last row for all": (last_row_for_all, "same vector at every position", "finding"),
    "power of the variance": (power_of_the_variance, "512 times smaller", "finding"),
    "mean of squares": (mean_of_squares, "8 times smaller", "finding"),
    "distances added": (distances_added, "prefer what is far", "finding"),
    "rotated apart": (rotated_apart, "do not cancel", "finding"),
    "unused gains": (unused_gains, "does not use them", "finding"),
    "reciprocal root": (reciprocal_root, "64 times larger", "finding"),
    "tokens shifted left": (tokens_shifted_left, "up to 1 later position, and", "finding"),
    "equal queries": (equal_queries, "Queries that are all equal", "finding"),
    "equal units": (equal_units, "Units that stay equal", "finding"),
    "gains of zero": (gains_of_zero, "one behind the other", "finding"),
    "mask of the first sample": (mask_of_the_first_sample, "with the other samples", "finding"),
    "stopped inside": (stopped_inside, "behind an ops.stop_gradient", "finding"),
    "divided by a deviation": (divided_by_a_deviation, "the same at all positions", "finding"),
    "masking after positions": (masking_after_positions, "mask that hides nothing", "finding"),
    "mask that is inverted": (mask_that_is_inverted, "Padding of .* changes", "finding"),
    "mask of sums with positions": (mask_of_placed_sums, "mask that hides nothing", "finding"),
    "mean of later steps": (mean_of_later_steps, "have causal padding", "finding"),
    "rows without a key": (rows_without_a_key, "in front of .* NaN", "finding"),
    "condition before a norm": (condition_before_a_norm, "input without effect", "finding"),
    "codes without a loss": (codes_without_a_loss, "behind an ops.stop_gradient", "finding"),
    "equal steps": (equal_steps, "Equal steps: all 11 steps", "finding"),
    "shortened keys": (shortened_keys_under_a_triangle, "take a triangular mask", "finding"),
    "rolled groups": (tokens_rolled_between_groups, "with a causal mask", "finding"),
    "copies of one state": (copies_of_one_state, "Keys that are all equal", "finding"),
    "one number a position": (one_number_for_each_position, "none of it reaches", "finding"),
    "not adapted": (not_adapted, "before `adapt`", "remark"),
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


@pytest.mark.parametrize("how", ["made once", "drawn"])
def test_noise_inside_a_function_is_found_if_it_is_the_same_in_each_run(how):
    x = keras.Input((5,))
    once = np.random.default_rng(0).standard_normal(3).astype("float32")

    def sample(given):
        mean, deviation = given
        noise = once if how == "made once" else keras.random.normal(ops.shape(mean))
        return mean + ops.exp(deviation) * noise

    latent = layers.Lambda(sample, output_shape=(3,))([layers.Dense(3)(x), layers.Dense(3)(x)])
    found = [n.text for n in plots.findings(keras.Model(x, layers.Dense(2)(latent)))]
    assert any("Noise that is a constant" in text for text in found) == (how == "made once")


@pytest.mark.sampled(1)
@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_vectors_are_masked_by_an_input_of_any_name_and_convention(hidden):
    """It is told apart by what it does; a product of scores and flags masks nothing."""
    frames, flags = keras.Input((T, 5)), keras.Input((T,), name="valid")
    shown = flags if hidden == 0.0 else 1.0 - flags

    def model(masked):
        query, key, value = (layers.Dense(3)(frames) for _ in range(3))
        scores = masked(ops.matmul(query, ops.transpose(key, (0, 2, 1))))
        return keras.Model([frames, flags], ops.matmul(ops.softmax(scores), value))

    right = plots.check(model(lambda s: s + (1.0 - shown[:, None]) * -1e9))
    assert [c.verdict for c in right if c.property == "padding"] == ["ignored"]
    assert not [c.note.text for c in right if c.note.kind == "finding"]
    wrong = plots.check(model(lambda s: s * shown[:, None]))
    assert [c.note.kind for c in wrong if c.property == "padding"] == ["finding"]


@pytest.mark.parametrize("shapes", [[(5,)], [(11, 5), (7, 5)]], ids=["one", "two lengths"])
def test_a_model_that_does_not_run_is_not_said_to_be_fine(shapes):
    def refuse(x):
        if isinstance(x, keras.KerasTensor):
            return x
        raise RuntimeError("no numbers please")

    x = [keras.Input(shape) for shape in shapes]
    refused = [layers.Lambda(refuse, output_shape=(3,))(layers.Dense(3)(one)) for one in x]
    model = keras.Model(x, refused)
    with pytest.warns(UserWarning, match="no numbers please"):
        text = " ".join(plots.diagnosis_text(model).split())
    assert "which failed: RuntimeError: no numbers please." in text


@pytest.mark.parametrize(
    ("build", "words"),
    [(pooled_in_a_function, "summary over features"), (softmax_in_a_layer, "softmax over axis 1")],
)
def test_rules_look_into_functions(build, words):
    assert [note for note in plots.findings(build(True)) if re.search(words, note.text)]
    assert not plots.findings(build(False))
