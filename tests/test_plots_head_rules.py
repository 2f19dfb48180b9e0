"""Heads that do not fit their losses are found, also beside outputs without a loss."""

import keras
import pytest
from hand_made_transformers import findings_of, remarks_of
from keras import layers, losses, ops

import plots

T, D, CLASSES = 11, 15, 7
LOGITS = losses.SparseCategoricalCrossentropy(from_logits=True)


def texts_of(head, loss=None):
    x = keras.Input((T, D))
    model = keras.Model(x, head(layers.Dense(D, activation="relu")(x)))
    if loss is not None:
        model.compile(loss=loss)
    return [" ".join(note.text for note in found(model)) for found in (findings_of, remarks_of)]


def dense(activation=None, units=CLASSES):
    return layers.Dense(units, activation=activation)


@pytest.mark.parametrize(
    ("head", "loss", "words"),
    [
        (dense("sigmoid"), "categorical_crossentropy", "A sigmoid for"),
        (
            lambda x: ops.sigmoid(dense()(x)),
            losses.SparseCategoricalCrossentropy(),
            "A sigmoid for",
        ),
        (dense("softmax", 1), "binary_crossentropy", "axis of size 1"),
        (lambda x: layers.Softmax()(dense(units=1)(x)), None, "axis of size 1"),
        (lambda x: layers.Softmax(axis=1)(x[:, :1]), None, "axis of size 1"),
        (dense("sigmoid", 1), "categorical_crossentropy", "One class for"),
        (dense(None, 1), losses.CategoricalCrossentropy(from_logits=True), "One class for"),
        (dense("relu"), LOGITS, "ReLU on logits"),
        (lambda x: layers.ReLU()(dense()(x)), LOGITS, "ReLU on logits"),
        (dense("relu"), "sparse_categorical_crossentropy", "No probabilities"),
        (dense("tanh", 1), "binary_crossentropy", "No probabilities"),
        (dense("log_softmax"), "sparse_categorical_crossentropy", "No probabilities"),
        (
            lambda x: layers.Softmax(axis=1)(dense()(x)),
            "sparse_categorical_crossentropy",
            "over axis 1",
        ),
        (
            lambda x: ops.softmax(dense()(x), axis=-2),
            "sparse_categorical_crossentropy",
            "over axis 1",
        ),
        (lambda x: layers.Softmax()(dense("softmax")(x)), None, "softmax of a softmax"),
        (lambda x: ops.softmax(layers.Dropout(0.1)(dense("softmax")(x))), None, "of a softmax"),
        (lambda x: ops.sigmoid(ops.sigmoid(x)), None, "sigmoid of a sigmoid"),
    ],
)
def test_heads_that_do_not_fit_are_found(head, loss, words):
    assert words in texts_of(head, loss)[0]


@pytest.mark.parametrize(
    ("head", "loss"),
    [
        (dense("softmax"), "categorical_crossentropy"),
        (dense("sigmoid"), "binary_crossentropy"),
        (dense("sigmoid", 1), "binary_crossentropy"),
        (dense(), LOGITS),
        (lambda x: 30.0 * ops.tanh(dense()(x) / 30.0), LOGITS),
        (lambda x: ops.softmax(dense()(x), axis=1), None),  # such as the start of an answer
        (dense("softplus"), "mse"),
    ],
)
def test_heads_that_fit_are_fine(head, loss):
    assert texts_of(head, loss) == ["", ""]


def test_a_relu_before_a_squared_error_is_a_remark():
    found, remarks = texts_of(dense("relu"), "mse")
    assert not found
    assert "passes no gradient on where it returns 0" in remarks


@pytest.mark.parametrize("kind", [layers.BatchNormalization, layers.LayerNormalization])
def test_a_norm_on_logits_is_a_remark(kind):
    assert "norm on logits" in texts_of(lambda x: kind()(dense()(x)), LOGITS)[1]
    assert "norm on logits" in texts_of(lambda x: ops.softmax(kind()(dense()(x))))[1]
    assert texts_of(lambda x: dense()(kind()(x)), LOGITS) == ["", ""]


def two_outputs(loss):
    x = keras.Input((D,))
    outputs = [layers.Dense(CLASSES, "softmax", name=f"head_{n}")(x) for n in range(2)]
    model = keras.Model(x, outputs)
    model.compile(loss=loss)
    return model


@pytest.mark.parametrize(
    ("loss", "wrong"),
    [
        ([LOGITS, None], ["head_0"]),
        ([None, LOGITS], ["head_1"]),
        ({"head_1": LOGITS}, ["head_1"]),
        ({"head_1": LOGITS, "head_0": "sparse_categorical_crossentropy"}, ["head_1"]),
        (LOGITS, ["head_0", "head_1"]),
        ([None, "mse"], []),
    ],
)
def test_each_loss_is_checked_against_its_own_output(loss, wrong):
    assert [note.about[0] for note in findings_of(two_outputs(loss))] == wrong
    graph = plots.read_graph(two_outputs(loss))
    assert plots.Graph.from_json(graph.to_json()) == graph


def test_a_frozen_model_is_found_if_it_is_compiled_with_a_loss():
    model = two_outputs("sparse_categorical_crossentropy")
    assert findings_of(model) == ()
    model.trainable = False
    model.compile(loss="sparse_categorical_crossentropy")
    (finding,) = findings_of(model)
    assert "All weights are frozen" in finding.text


def test_an_output_that_no_call_takes_is_not_said_to_lead_anywhere():
    x = keras.Input((D,))
    inner_x = keras.Input((D,))
    inner = keras.Model(
        inner_x, [layers.Dense(D, "relu")(inner_x), layers.Dense(D, name="unused")(inner_x)]
    )
    (finding,) = findings_of(keras.Model(x, layers.Dense(CLASSES)(inner(x)[0])))
    assert "no call takes what they return" in finding.text
    assert "through ," not in finding.text
