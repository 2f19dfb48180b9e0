"""Mistakes in norms, sums, series of layers and dropouts are found, and their twins are fine."""

import keras
import pytest
from hand_made_transformers import findings_of, remarks_of
from keras import layers, ops

import plots

T, D, N, H, V, INNER = 11, 15, 3, 5, 31, 23


def texts_of(model):
    return [" ".join(note.text for note in found(model)) for found in (findings_of, remarks_of)]


def norm(x):
    return layers.LayerNormalization()(x)


def stack(sublayer=lambda x, f: x + f(norm(x)), inner=None, final=norm, blocks=2, causal=False):
    ids = keras.Input((T,), dtype="int32")
    index = ops.cumsum(ops.ones_like(ids), axis=1) - 1
    x = layers.Embedding(V, D)(ids) + layers.Embedding(T, D)(index)
    feedforward = inner or (lambda y: layers.Dense(D)(layers.Dense(INNER, activation="relu")(y)))
    for _ in range(blocks):
        x = sublayer(x, lambda y: layers.MultiHeadAttention(N, H)(y, y, use_causal_mask=causal))
        x = sublayer(x, feedforward)
    return keras.Model(ids, layers.Dense(7)(final(x)))


def test_the_stack_without_mistakes_is_fine():
    assert texts_of(stack()) == texts_of(stack(causal=True)) == ["", ""]


TWICE = {
    "operator": lambda x, f: (y := f(norm(x))) + y,
    "layer": lambda x, f: layers.Add()([y := f(norm(x)), y]),
    "dropout": lambda x, f: (y := f(norm(x))) + layers.Dropout(0.1)(y),
    "both": lambda x, f: x + f(norm(x)) + x,
    "nested layers": lambda x, f: layers.Add()([layers.Add()([f(norm(x)), x]), x]),
    "one list": lambda x, f: layers.Add()([x, f(norm(x)), x]),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("form", TWICE)
def test_a_tensor_that_is_added_twice_is_found(form):
    words = "shortcut added twice" if form in ("both", "nested layers", "one list") else "to itself"
    assert words in texts_of(stack(TWICE[form]))[0]


@pytest.mark.parametrize("add", [lambda x, y: x + y, lambda *both: layers.Add()(both), ops.add])
def test_a_norm_added_to_its_input_is_a_remark_and_no_sublayer(add):
    x = keras.Input((T, D))
    model = keras.Model(x, layers.Dense(7)(add(x, norm(x))))
    assert "x + norm(x)" in texts_of(model)[1]
    assert plots.skip_paths(plots.read_graph(model)) == ()


# --- norms --------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [(1, 2), 1, [2, 1]])
@pytest.mark.parametrize("kind", [layers.LayerNormalization, layers.RMSNormalization])
def test_a_norm_over_positions_is_found(axis, kind):
    model = stack(lambda x, f: x + f(kind(axis=axis)(x)), causal=True)
    assert "A norm over positions" in texts_of(model)[0]


def test_a_norm_over_positions_and_features_may_be_meant_without_a_causal_mask():
    both = layers.LayerNormalization(axis=(1, 2))  # as in TSMixer
    found, remarks = texts_of(stack(final=both))
    assert not found
    assert "A norm over positions" in remarks


def test_a_norm_over_one_feature_is_found():
    x = keras.Input((T, 1))
    y = norm(x)
    assert "norm over one number" in texts_of(keras.Model(x, layers.Dense(7)(y)))[0]
    x = keras.Input((T, D))
    assert texts_of(keras.Model(x, layers.Dense(7)(norm(x)))) == ["", ""]


@pytest.mark.parametrize("final", [norm, lambda x: norm(layers.Dropout(0.1)(x))])
def test_a_norm_of_a_norm_is_a_remark(final):
    def post(x, f):
        return norm(x + f(x))

    found, remarks = texts_of(stack(post, final=final))
    assert not found
    assert "norm of a norm" in remarks
    assert texts_of(stack(post, final=lambda x: x)) == ["", ""]


# --- series of layers ---------------------------------------------------------------------------

LINEAR = {
    "dense": lambda x: layers.Dense(D, activation="gelu")(layers.Dense(INNER)(x)),
    "dropout": lambda x: layers.Dense(D)(layers.Dropout(0.1)(layers.Dense(INNER)(x))),
    "name": lambda x: layers.Dense(D)(layers.Dense(INNER, activation="linear")(x)),
    "convolution": lambda x: layers.Conv1D(D, 1)(layers.Conv1D(INNER, 1)(x)),
}
NOT_LINEAR = {
    "activation": lambda x: layers.Dense(D)(ops.gelu(layers.Dense(INNER)(x))),
    "bottleneck": lambda x: layers.Dense(D)(layers.Dense(2)(x)),
    "norm": lambda x: layers.Dense(D)(norm(layers.Dense(INNER)(x))),
    "gate": lambda x: layers.Dense(D)(layers.Dense(INNER)(x) * layers.Dense(INNER)(x)),
    "several takers": lambda x: sum(layers.Dense(D)(y) for y in [layers.Dense(INNER)(x)] * 2),
}


@pytest.mark.parametrize("form", [*LINEAR, *NOT_LINEAR])
def test_two_wide_linear_maps_in_series_are_found(form):
    found = texts_of(stack(inner=(LINEAR | NOT_LINEAR)[form], blocks=1))[0]
    assert ("No activation between" in found) == (form in LINEAR)


def residual_network(kept):
    image = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same")(image)
    for is_kept in kept:
        y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(x)))
        y = layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same")(y))
        x = layers.ReLU()(x + y if is_kept else y)
    return keras.Model(image, layers.Dense(7)(layers.GlobalAveragePooling2D()(x)))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("lacking", [0, 2, 3])
def test_a_block_without_its_addition_is_found(lacking):
    found = texts_of(residual_network([number != lacking for number in range(4)]))[0]
    assert "No skip path leads past" in found
    assert texts_of(residual_network([True] * 4)) == ["", ""]


def test_dropouts_of_most_features_and_on_the_stream_are_remarks():
    often = stack(lambda x, f: x + layers.Dropout(0.9)(f(norm(x))))
    assert "dropout of 0.9" in texts_of(often)[1]
    assert texts_of(stack(lambda x, f: x + layers.Dropout(0.1)(f(norm(x))))) == ["", ""]
    for on_stream in (
        lambda x, f: layers.Dropout(0.1)(norm(x + f(x))),
        lambda x, f: norm(layers.Dropout(0.1)(x + f(x))),
    ):
        found, remarks = texts_of(stack(on_stream, final=lambda x: x))
        assert not found
        assert "dropout on the residual stream" in remarks
