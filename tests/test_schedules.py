"""Schedules compared with their formulas, optimizer, serialization, and checks of recipes."""

import dataclasses
import re

import keras
import numpy as np
import pytest

from functional_models.optimizers import make_optimizer
from functional_models.recipe import SCHEDULES, Recipe, default_learning_rate
from functional_models.schedules import InverseSquareRoot, OfUpdates, schedule

STEPS = np.array([0, 1, 2, 11, 12, 13, 14, 29, 101, 997, 100_003])


def small_model():
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(5)])


def rates(thing, steps=STEPS):
    return np.array([float(thing(step)) for step in steps])


def test_inverse_square_root_equals_the_formula_of_the_paper():
    d, warmup = 512, 4000
    step = STEPS + 1.0  # the paper counts from 1
    expected = d**-0.5 * np.minimum(step**-0.5, step * warmup**-1.5)
    np.testing.assert_allclose(
        rates(InverseSquareRoot((d * warmup) ** -0.5, warmup)), expected, rtol=1e-5
    )


def test_inverse_square_root_peaks_at_the_end_of_the_warm_up():
    found = rates(InverseSquareRoot(0.3, 13), np.arange(40))
    assert found.argmax() == 12
    np.testing.assert_allclose(found.max(), 0.3, rtol=1e-6)


def test_cosine_rises_linearly_and_decays_to_a_tenth():
    peak, warmup, steps = 0.3, 13, 101
    recipe = Recipe(learning_rate=peak, warmup_steps=warmup, steps=steps)
    found = rates(schedule(recipe), np.arange(120))
    rise = peak / warmup + (peak - peak / warmup) * np.arange(warmup) / warmup
    progress = np.minimum((np.arange(warmup, 120) - warmup) / (steps - warmup), 1)
    fall = peak * (0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * progress)))
    np.testing.assert_allclose(found, [*rise, *fall], rtol=1e-5)
    np.testing.assert_allclose(found[steps:], peak / 10, rtol=1e-5)


@pytest.mark.parametrize("name", ["cosine", "inverse_sqrt"])
def test_without_warm_up_the_first_rate_is_the_peak(name):
    found = schedule(Recipe(schedule=name, learning_rate=0.3, warmup_steps=0))
    np.testing.assert_allclose(float(found(0)), 0.3, rtol=1e-6)


def test_a_warm_up_longer_than_the_run_only_rises():
    found = rates(schedule(Recipe(learning_rate=0.3, warmup_steps=100, steps=7)), np.arange(7))
    assert (np.diff(found) > 0).all()
    assert found.max() < 0.3


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("parts", [1, 2])
def test_a_schedule_is_restored_with_its_optimizer(name, parts):
    recipe = Recipe(
        schedule=name, learning_rate=0.03, warmup_steps=13, steps=101, gradient_accumulation=parts
    )
    optimizer = make_optimizer(recipe, small_model())
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    for each in (optimizer, again):
        each.build([keras.Variable(np.zeros(3, "float32"))])
    for step in (0, 12, 13, 57, 100):
        for each in (optimizer, again):
            each._iterations.assign(step)
        assert float(again.learning_rate) == float(optimizer.learning_rate)
    assert again.global_clipnorm == optimizer.global_clipnorm


def test_a_schedule_is_restored_from_its_config():
    made = InverseSquareRoot(0.3, 13)
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(made))
    assert isinstance(again, InverseSquareRoot)
    np.testing.assert_array_equal(rates(made), rates(again))


def test_a_stable_rate_decays_in_the_last_steps():
    recipe = Recipe(schedule="warmup_stable_decay", learning_rate=0.3, warmup_steps=13, steps=101)
    for decay, given in ((20, recipe), (29, dataclasses.replace(recipe, decay_steps=29))):
        found = rates(schedule(given), np.arange(103))
        np.testing.assert_allclose(found[:13], 0.3 * np.arange(1, 14) / 13, rtol=1e-6)
        np.testing.assert_allclose(found[13 : 102 - decay], 0.3, rtol=1e-6)
        left = 1 - np.sqrt(np.arange(decay + 1) / decay)
        np.testing.assert_allclose(found[101 - decay : 102], 0.3 * left, rtol=1e-5, atol=1e-7)
        assert found[102] == 0


@pytest.mark.parametrize("name", ["cosine", "inverse_sqrt", "warmup_stable_decay"])
def test_a_rate_belongs_to_an_update_and_not_to_a_part_of_its_batch(name):
    recipe = Recipe(schedule=name, learning_rate=0.3, warmup_steps=3, steps=13, batch_size=35)
    parts = schedule(dataclasses.replace(recipe, gradient_accumulation=5))
    assert isinstance(parts, OfUpdates)
    expected = rates(schedule(recipe), np.arange(13))
    np.testing.assert_array_equal(rates(parts, np.arange(65)), np.repeat(expected, 5))


def test_an_unknown_schedule_raises_with_those_allowed():
    with pytest.raises(ValueError, match="must be one of cosine, inverse_sqrt, warmup"):
        Recipe(schedule="linear")


@pytest.mark.parametrize("warmup", [0, -3])
def test_a_warm_up_below_one_step_raises(warmup):
    with pytest.raises(ValueError, match="1 or more"):
        InverseSquareRoot(0.3, warmup)


def test_weight_decay_excludes_biases_norms_and_embeddings():
    layers = [
        keras.layers.Embedding(7, 5),
        keras.layers.EinsumDense("abc,cde->abde", (None, 2, 3), bias_axes="de"),
        keras.layers.Reshape((-1, 6)),
        keras.layers.LayerNormalization(),
        keras.layers.RMSNormalization(),
        keras.layers.Dense(3),
    ]
    model = keras.Sequential([keras.Input((None,), dtype="int32"), *layers])
    recipe = Recipe(learning_rate=0.1, warmup_steps=0, weight_decay=0.5, schedule="constant")
    optimizer = make_optimizer(recipe, model)
    for weight in model.trainable_variables:
        weight.assign(np.ones(weight.shape))
    optimizer.build(model.trainable_variables)
    optimizer.apply([keras.ops.zeros(weight.shape) for weight in model.trainable_variables])
    for weight in model.trainable_variables:
        shrunk = 0.95 if weight.name == "kernel" else 1.0
        np.testing.assert_allclose(weight.numpy(), shrunk, rtol=1e-6, err_msg=weight.path)


@pytest.mark.parametrize(
    "bad",
    [
        {"steps": 0},
        {"steps": 2.5},
        {"steps": "10"},
        {"steps": True},
        {"batch_size": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"learning_rate": float("inf")},
        {"schedule": "linear"},
        {"schedule": None},
        {"warmup_steps": -1},
        {"weight_decay": -0.1},
        {"beta_2": 1.0},
        {"clip_norm": 0},
        {"label_smoothing": 1},
        {"gradient_accumulation": 0},
        {"gradient_accumulation": 5},  # of a batch of 32
        {"optimizer": "adam"},
        {"decay_steps": 0},
        {"z_loss": -1e-4},
        {"ema_decay": 1.0},
        {"report_every": 0},
        {"seed": -1},
        {"steps": 2**31},
        {"batch_size": 10**20},
        {"report_every": 2**63},
        {"warmup_steps": 2**31},
        {"seed": 2**32},
        {"clip_norm": 1e39},
        {"learning_rate": 10**39},
    ],
)
def test_bad_recipe_fields_raise(bad):
    ((name, value),) = bad.items()
    with pytest.raises(ValueError, match=re.escape(f"{name}={value!r}: must be ")):
        Recipe(**bad)


def test_a_number_with_more_digits_than_python_writes_is_shown_in_short():
    for name in ("steps", "learning_rate", "schedule"):
        with pytest.raises(ValueError, match=re.escape(f"{name}=1e+5000: must be ")):
            Recipe(**{name: 10**5000})
    assert Recipe(steps=2**31 - 1, seed=2**32 - 1, clip_norm=1e38).steps == 2**31 - 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ema_decay": 0.9, "gradient_accumulation": 2}, "Keras would average after every part"),
        ({"decay_steps": 5}, "the schedule 'cosine' has none"),
    ],
)
def test_recipe_fields_that_exclude_each_other_raise(fields, message):
    with pytest.raises(ValueError, match=message):
        Recipe(**fields)


def test_a_recipe_gets_its_learning_rate_and_warm_up_from_width_and_steps():
    assert Recipe(steps=73).for_width(101) == Recipe(
        steps=73, learning_rate=default_learning_rate(101), warmup_steps=36
    )
    assert Recipe().for_width(7).warmup_steps == 100
    given = Recipe(learning_rate=0.3, warmup_steps=0)
    assert given.for_width(101) == given
    with pytest.raises(ValueError, match=r"use Recipe\(\.\.\.\)\.for_width"):
        schedule(Recipe())


def test_the_default_learning_rate_is_close_to_the_rates_of_gpt_3():
    published = {768: 6e-4, 1024: 3e-4, 1536: 2.5e-4, 2048: 2e-4, 4096: 1.2e-4, 12288: 0.6e-4}
    for width, rate in published.items():  # Brown et al. 2020, Table 2.1
        assert 0.5 < default_learning_rate(width) / rate < 2
    assert default_learning_rate(3) == 0.01
