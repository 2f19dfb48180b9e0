"""Weights that are never trained, baked-in positions and mismatched losses are found."""

import keras
import numpy as np
import pytest
from hand_made_transformers import (
    CLASSES,
    LENGTH,
    TOKENS,
    WIDTH,
    block,
    findings_of,
    in_steps,
    language_model,
    the_finding,
    tokens_input,
)
from keras import layers, ops

import plots

pytestmark = pytest.mark.usefixtures("fixed_seed")


# --- gradients and constants --------------------------------------------------------------------


def two_stages(between):
    x = keras.Input((WIDTH,))
    chosen = between(layers.Dense(CLASSES, name="first")(x))
    return keras.Model(x, layers.Dense(CLASSES, name="second")(layers.Concatenate()([x, chosen])))


BLOCKING = {
    "arg_max": lambda y: ops.one_hot(ops.argmax(y, axis=-1), CLASSES),
    "stop_gradient": lambda y: ops.stop_gradient(y),
    "cast": lambda y: ops.cast(ops.cast(y, "int32"), "float32"),
    "greater": lambda y: ops.cast(y > 0, "float32"),
}
PASSING = {
    "softmax": lambda y: ops.softmax(y),
    "top_k": lambda y: ops.top_k(y, 3)[0],
    "where": lambda y: ops.where(y > 0, y, 0.0),
    "straight through": lambda y: y + ops.stop_gradient(ops.round(y) - y),
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("kind", [*BLOCKING, *PASSING])
@pytest.mark.filterwarnings("ignore:Gradients do not exist", "ignore:The model does not have")
def test_weights_without_a_gradient_are_found_if_and_only_if_training_does_not_change_them(kind):
    model = two_stages((BLOCKING | PASSING)[kind])
    rng = np.random.default_rng(3)
    model.compile(optimizer=keras.optimizers.SGD(1.0), loss="mse", run_eagerly=True)
    first = model.get_layer("first")
    before = first.get_weights()[0]
    inputs, labels = rng.normal(size=(5, WIDTH)), rng.normal(size=(5, CLASSES))
    model.train_on_batch(inputs.astype("float32"), labels.astype("float32"))
    is_left = np.array_equal(before, first.get_weights()[0])
    assert is_left == (kind in BLOCKING)
    assert bool(findings_of(model)) == is_left
    if is_left:
        assert the_finding(model).about[0] == "first"


def test_frozen_weights_and_graphs_without_float_outputs_need_no_gradients():
    frozen = two_stages(BLOCKING["arg_max"])
    frozen.get_layer("first").trainable = False
    assert findings_of(frozen) == ()
    x = keras.Input((WIDTH,))
    assert findings_of(keras.Model(x, ops.argmax(layers.Dense(CLASSES)(x), axis=-1))) == ()


def test_constant_position_embeddings_are_found():
    def model(positions):
        tokens = tokens_input()
        x = layers.Embedding(TOKENS, WIDTH, name="tokens_embedding")(tokens)
        x = layers.Add(name="add_positions")([x, positions(tokens)])
        x = layers.LayerNormalization(name="norm")(block("block", x))
        return keras.Model(tokens, layers.Dense(CLASSES)(x))

    table = layers.Embedding(LENGTH, WIDTH, name="positions")
    angles = np.arange(LENGTH)[:, None] / 10_000 ** (2 * np.arange(WIDTH // 2) / WIDTH)
    sinusoids = np.concatenate([np.sin(angles), np.cos(angles)], axis=1).astype("float32")
    baked = model(lambda tokens: ops.expand_dims(table(ops.arange(LENGTH)), 0))
    assert "positions" not in [layer.name for layer in baked.layers]
    finding = the_finding(baked)
    assert finding.about == ("add_positions",)
    assert "never trained" in finding.text
    assert findings_of(model(lambda t: table(ops.cumsum(ops.ones_like(t), axis=1) - 1))) == ()
    assert findings_of(model(lambda t: ops.convert_to_tensor(sinusoids[None]))) == ()


TIED = {
    "matmul": lambda x, table: ops.matmul(x, ops.transpose(table)),
    "einsum": lambda x, table: ops.einsum("btd,vd->btv", x, ops.convert_to_numpy(table).copy()),
    "dot": lambda x, table: ops.dot(x, ops.transpose(table)),
    "weights": lambda x, table: ops.einsum("btd,vd->btv", x, table),
    "layer": lambda x, table: None,
}


@pytest.mark.parametrize("kind", TIED)
def test_a_copy_of_an_embedding_is_found_if_and_only_if_logits_do_not_follow_its_weights(kind):
    tokens = tokens_input()
    words = layers.ReversibleEmbedding(TOKENS, WIDTH, name="words")
    x = layers.LayerNormalization(name="norm")(words(tokens))
    logits = words(x, reverse=True) if kind == "layer" else TIED[kind](x, words.embeddings)
    model = keras.Model(tokens, logits, name="tagger")
    hidden = np.ones((1, LENGTH, WIDTH), "float32")
    head = keras.Model(x, logits)
    before = ops.convert_to_numpy(head(hidden))
    words.set_weights([2 * words.get_weights()[0]])
    is_copy = np.array_equal(before, ops.convert_to_numpy(head(hidden)))
    if kind in ("einsum", "layer", "weights"):  # a transposed one is a copy on some backends only
        assert is_copy == (kind == "einsum")
    if is_copy:
        assert the_finding(model).about == (f"{kind}#1", "words")
    else:
        assert findings_of(model) == ()


def test_a_constant_bias_on_attention_scores_is_no_table_of_positions():
    bias = np.random.default_rng(5).normal(size=(LENGTH, LENGTH)).astype("float32")
    attend = in_steps(lambda scores: scores + ops.convert_to_tensor(bias))
    assert findings_of(language_model(lambda tokens: attend, name="tagger")) == ()


# --- losses -------------------------------------------------------------------------------------


def compiled(activation, loss):
    x = keras.Input((WIDTH,))
    model = keras.Model(x, layers.Dense(CLASSES, activation=activation, name="last")(x))
    model.compile(loss=loss)
    return model


def test_a_softmax_before_a_loss_on_logits_is_found():
    on_logits = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    finding = the_finding(compiled("softmax", on_logits))
    assert finding.about == ("last",)
    assert "softmax of a softmax" in finding.text
    assert findings_of(compiled(None, on_logits)) == ()
    sigmoid = compiled("sigmoid", keras.losses.BinaryCrossentropy(from_logits=True))
    assert "sigmoid of a sigmoid" in the_finding(sigmoid).text


@pytest.mark.parametrize(
    "loss", ["sparse_categorical_crossentropy", keras.losses.CategoricalCrossentropy()]
)
def test_logits_for_a_loss_on_probabilities_are_found(loss):
    finding = the_finding(compiled(None, loss))
    assert finding.about == ("last",)
    assert "from_logits=True" in finding.text
    assert findings_of(compiled("softmax", loss)) == ()


def test_other_losses_allow_any_activation():
    assert findings_of(compiled(None, "mse")) == findings_of(compiled("softmax", "mse")) == ()


def test_a_softmax_is_found_behind_reshapes_and_identities():
    x = keras.Input((LENGTH, WIDTH))
    y = layers.Softmax(name="last.softmax")(layers.Dense(CLASSES)(x))
    model = keras.Model(x, layers.Reshape((LENGTH * CLASSES,))(layers.Activation("linear")(y)))
    model.compile(loss=keras.losses.CategoricalCrossentropy(from_logits=True))
    assert the_finding(model).about == ("last.softmax",)


def test_layers_after_a_dropout_train_when_gradients_are_computed():
    """In inference the softmax has all its mass on one class, so that no gradient passes it."""
    x = keras.Input((7,))
    y = layers.Dropout(0.1)(layers.Rescaling(1e6)(x))
    y = layers.Dense(5, "softmax")(layers.BatchNormalization(scale=False)(y))
    checks = plots.check(keras.Model(x, y))
    assert [check.verdict for check in checks if check.property == "dead weights"] == ["alive"]
