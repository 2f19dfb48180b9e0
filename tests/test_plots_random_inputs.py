"""Random inputs fit what a model takes: ids their tables, numbers their dtypes and shapes."""

import keras
import numpy as np
import plots_models
import pytest
from keras import layers, ops
from small_models import small_spec

import builders  # makes dotted names possible on PyTorch, too
import plots


def test_random_tokens_are_no_padding_and_fit_the_table_of_positions():
    spec = small_spec(vocabulary_size=3, pad_token_id=1, max_sequence_length=11)
    tokens = plots.random_inputs(builders.build_decoder_only(spec))["tokens"]
    assert tokens.shape == (2, 11)
    assert set(tokens.ravel()) == {0, 2}
    model = plots_models.decoder_only(blocks=1)
    assert plots.random_inputs(model, batch=3, length=99)["tokens"].shape == (3, 17)
    ids = keras.Input((None,), dtype="int32", name="ids")
    masked = keras.Model(ids, layers.Embedding(11, 7, mask_zero=True)(ids))
    assert (plots.random_inputs(masked)["ids"] > 0).all()


def test_a_table_of_ids_behind_a_cast_is_no_table_of_positions():
    ids = keras.Input((None,), dtype="int64", name="ids")
    x = layers.Embedding(3, 7, mask_zero=True)(ops.cast(ids, "int32"))
    inputs = plots.random_inputs(keras.Model(ids, x), batch=5, length=13)
    assert inputs["ids"].shape == (5, 13)
    assert set(inputs["ids"].ravel()) == {1, 2}  # and 0 is the padding


def test_random_inputs_fit_their_dtypes_and_are_the_same_for_the_same_seed():
    ids = keras.Input((5,), name="ids")  # float, a common mistake
    mask, flags = (keras.Input((None,), dtype=d, name=d) for d in ("bool", "int8"))
    x = layers.Embedding(7, 3)(ids) * ops.cast(ops.expand_dims(flags, 2), "float32")
    model = keras.Model([ids, mask, flags], [x, mask])
    inputs = plots.random_inputs(model, seed=2)
    assert {name: (a.dtype.name, a.shape) for name, a in inputs.items()} == {
        "ids": ("float32", (2, 5)),
        "bool": ("bool", (2, 16)),
        "int8": ("int8", (2, 16)),
    }
    assert set(inputs["ids"].ravel()) <= set(range(7))
    assert inputs["bool"].all()
    assert (inputs["int8"] == 1).all()
    again, other = plots.random_inputs(model, seed=2), plots.random_inputs(model, seed=3)
    np.testing.assert_array_equal(again["ids"], inputs["ids"])
    assert (other["ids"] != inputs["ids"]).any()


def test_a_random_input_without_axes_is_one_number():
    x, scale = keras.Input((3,), name="x"), keras.Input(batch_shape=(), name="scale")
    inputs = plots.random_inputs(keras.Model([x, scale], x * scale))
    assert {name: array.shape for name, array in inputs.items()} == {"x": (2, 3), "scale": ()}


def text_vectorization():
    layer = layers.TextVectorization(max_tokens=11, output_sequence_length=5)
    layer.adapt(["a b c"])
    return layer


@pytest.mark.parametrize(
    "make",
    [
        layers.Identity,
        lambda: layers.Hashing(11),
        lambda: layers.StringLookup(vocabulary=["a", "b"]),
        pytest.param(text_vectorization, marks=pytest.mark.slow),
    ],
)
def test_random_inputs_of_strings_are_an_error(make):
    shape = () if make is text_vectorization else (3,)
    words = keras.Input(shape, dtype="string", name="words")
    x = make()(words)
    y = x if make is layers.Identity else layers.Embedding(11, 7)(x)
    model = keras.Model(words, y)
    graph = plots.read_graph(model)
    for measure in (
        plots.random_inputs,
        plots.attention_maps,
        plots.depth_profile,
        lambda model: plots.activations(graph, model),
        lambda model: plots.gradients(graph, model),
    ):
        with pytest.raises(ValueError, match="'words' has the dtype string"):
            measure(model)


@pytest.mark.parametrize(
    ("dtype", "layer", "allowed"),
    [
        ("int8", layers.Embedding(999, 3), range(128)),  # ids above are negative in int8
        ("uint8", layers.Embedding(999, 3, mask_zero=True), range(1, 256)),
        ("bool", layers.Embedding(7, 3), (0, 1)),
        ("int64", layers.CategoryEncoding(5, output_mode="multi_hot"), range(5)),
        ("int32", layers.CategoryEncoding(1), (0,)),
    ],
)
def test_random_ids_fit_the_dtype_and_the_layer_that_takes_them(dtype, layer, allowed):
    given = keras.Input((13,), dtype=dtype, name="given")
    found = plots.random_inputs(keras.Model(given, layer(given)), batch=17)["given"]
    assert found.dtype == dtype
    assert {int(n) for n in found.ravel()} <= {*allowed}
    assert len(set(found.ravel())) > len(allowed) / 4


def test_random_floats_that_become_integers_are_normal():
    x = keras.Input((97,), name="x")
    bins = layers.Discretization(bin_boundaries=[-1.0, 0.0, 1.0])(x)
    found = plots.random_inputs(keras.Model(x, layers.Embedding(4, 3)(bins)), batch=11)["x"]
    assert abs(found.mean()) < 0.2
    assert abs(found.std() - 1) < 0.2
