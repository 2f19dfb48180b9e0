"""Whichever of several equal blocks without names lacks its addition is found."""

import keras
import pytest
from hand_made_transformers import findings_of
from keras import layers
from model_bricks import TOKENS, D, attend, embedded, ffn, ids, norm


def dense(x):
    return layers.Dense(D)(layers.Dense(17, activation="relu")(norm(x)))


def convolutions(x):
    y = layers.Conv1D(D, 3, padding="same", activation="relu")(x)
    return layers.BatchNormalization()(layers.Conv1D(D, 3, padding="same")(y))


def model_of(block, lacking):
    x = y = keras.Input((11, D))
    for number in range(4):
        y = block(y) if number == lacking else y + block(y)
    return keras.Model(x, layers.Dense(7)(norm(y)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize("block", [dense, convolutions])
@pytest.mark.parametrize("lacking", range(4))
def test_a_block_without_its_addition_is_found(block, lacking):
    (found,) = findings_of(model_of(block, lacking))
    assert "although 3 equal blocks beside have one" in found.text
    assert not findings_of(model_of(block, None))


def transformer(lacking, f=ffn):
    tokens = ids()
    x = embedded(tokens)
    for number in range(3):
        x = x + attend(norm(x))
        y = f(norm(x))
        x = y if number == lacking else x + y
    return keras.Model(tokens, layers.Dense(TOKENS)(norm(x)))


@pytest.mark.parametrize("lacking", range(3))
def test_a_feedforward_without_its_addition_is_found_also_in_the_last_block(lacking):
    found = findings_of(transformer(lacking))
    assert ["although 2 equal blocks beside have one" in note.text for note in found] == [True]
    assert not findings_of(transformer(None))


def test_layers_of_another_size_behind_the_blocks_are_a_head():
    tokens = ids()
    x = embedded(tokens)
    for _ in range(2):
        x = x + attend(norm(x))
        x = x + ffn(norm(x))
    x = layers.Dense(D)(layers.Dense(19, activation="relu")(norm(x)))
    assert not findings_of(keras.Model(tokens, layers.Dense(TOKENS)(norm(x))))
