"""Skip paths are found by structure."""

import keras
import numpy as np
import plots_models
import pytest
from keras import layers, ops

import plots
from plots.stream_edges import stream_edges


def paths_of(model):
    return plots.skip_paths(plots.read_graph(model))


def ends(model):
    return [(path.source, path.target) for path in paths_of(model)]


def test_a_pre_norm_stream_runs_from_the_embedding_to_the_last_merge():
    names = [
        f"decoder.block_{n}.{part}.residual"
        for n in (0, 1)
        for part in ("self_attention", "feedforward")
    ]
    stream = ["decoder.embedding_dropout", *names]
    assert ends(plots_models.decoder_only("pre")) == list(zip(stream, names, strict=False))


def test_post_norm_paths_begin_at_the_norm_on_the_stream():
    assert ends(plots_models.decoder_only("post", blocks=1)) == [
        ("decoder.embedding_dropout", "decoder.block_0.self_attention.residual"),
        ("decoder.block_0.self_attention.norm", "decoder.block_0.feedforward.residual"),
    ]


def test_a_path_lists_the_calls_that_it_bypasses():
    path = paths_of(plots_models.decoder_only("pre", blocks=1))[1]
    names = ("norm", "up", "down", "dropout")
    assert path.bypassed == tuple(f"decoder.block_0.feedforward.{name}" for name in names)
    assert path.through == ()
    assert not path.projected


@pytest.mark.parametrize(
    ("placement", "norms"),
    [
        ("pre", ("branch_start",)),
        ("post", ("stream",)),
        ("sandwich", ("branch_start", "branch_end")),
        ("none", ()),
    ],
)
def test_norm_placement_is_reported(placement, norms):
    for path in paths_of(plots_models.encoder_decoder(placement)):
        assert (path.placement, path.norms) == (placement, norms), path
        assert path.norm_on_stream == (placement == "post")


def test_the_final_norm_of_a_pre_norm_stack_does_not_make_it_post_norm():
    assert {path.placement for path in paths_of(plots_models.decoder_only("pre"))} == {"pre"}


def test_a_model_without_residual_connections_has_no_skip_paths():
    assert paths_of(plots_models.decoder_only("pre", residual=False)) == ()


def test_adding_positions_to_embeddings_is_no_skip_path():
    tokens = keras.Input((None,), dtype="int32")
    assert paths_of(keras.Model(tokens, plots_models.embedded("encoder", tokens))) == ()


def test_positions_that_take_only_the_shape_of_the_embedding_are_no_skip_path():
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(13, 7)(tokens)

    class PositionEmbedding(layers.Layer):  # as in KerasHub: called on the embeddings
        def call(self, inputs):
            return keras.ops.zeros_like(inputs)

    assert paths_of(keras.Model(tokens, x + PositionEmbedding()(x))) == ()


def test_python_plus_and_ops_add_close_skip_paths_too():
    x = keras.Input((7,), name="x")
    y = x + layers.Dense(7, activation="relu", name="a")(x)
    z = keras.ops.add(layers.Dense(7, activation="relu", name="b")(y), y)
    assert ends(keras.Model(x, z)) == [("x", "add#1"), ("add#1", "add#2")]


def test_subclasses_of_add_count():
    class MyAdd(layers.Add):
        pass

    x = keras.Input((7,), name="x")
    assert ends(keras.Model(x, MyAdd(name="m")([layers.Dense(7)(x), x]))) == [("x", "m")]


def test_other_merges_are_no_skip_paths():
    x = keras.Input((7,), name="x")
    branch = layers.Dense(7, activation="relu")(x)
    assert paths_of(keras.Model(x, layers.Multiply()([x, branch]))) == ()
    assert paths_of(keras.Model(x, layers.Concatenate()([x, branch]))) == ()


def test_identities_on_the_shortcut_belong_to_the_path():
    x = keras.Input((7,), name="x")
    kept = layers.Identity(name="same")(layers.Dropout(0.1, name="drop")(x))
    branch = layers.Dense(7, activation="relu", name="hidden")(x)
    (path,) = paths_of(keras.Model(x, layers.Add(name="merge")([branch, kept * 0.5])))
    assert path.line == ("x", "drop", "same", "multiply#1", "merge")
    assert path.bypassed == ("hidden",)


def test_a_constant_divided_by_the_stream_is_no_identity():
    x = keras.Input((7,), name="x")
    branch = layers.Dense(7, activation="relu", name="hidden")(x)
    (path,) = paths_of(keras.Model(x, branch + x / 2.0))
    assert path.line == ("x", "true_divide#1", "add#1")
    assert paths_of(keras.Model(x, branch + 2.0 / x)) == ()


def test_a_merge_of_nothing_but_identities_is_no_skip_path():
    x = keras.Input((7,))
    assert paths_of(keras.Model(x, x + layers.Dropout(0.1)(x))) == ()
    assert paths_of(keras.Model(x, x + x)) == ()


def test_a_product_with_weights_that_are_computed_is_a_linear_map_of_them():
    """Of a hypernetwork: x W(h) + b(h) has two linear maps of h."""
    x, task = keras.Input((13,)), keras.Input((6,))
    hidden = layers.Dense(11, activation="relu")(task)
    weights = layers.Reshape((13, 7))(layers.Dense(91)(hidden))
    y = ops.einsum("bi,bio->bo", x, weights) + layers.Dense(7)(hidden)
    assert plots.skip_paths(plots.read_graph(keras.Model([x, task], y))) == ()


def test_linear_maps_of_a_mean_and_of_the_rest_are_no_skip_path():
    """As in DLinear (Zeng et al. 2023, Are Transformers Effective for Time Series Forecasting?)."""
    x = keras.Input((23, 3))
    mean = layers.AveragePooling1D(5, strides=1, padding="same")(x)
    parts = (layers.Dense(7)(layers.Permute((2, 1))(part)) for part in (mean, x - mean))
    assert paths_of(keras.Model(x, layers.Add()([*parts]))) == ()


def test_two_parallel_linear_maps_are_no_skip_path():
    x = keras.Input((7,))
    assert paths_of(keras.Model(x, layers.Dense(5)(x) + layers.Dense(5)(x))) == ()


def test_parallel_sublayers_in_one_merge_are_bypassed_together():
    x = keras.Input((5, 7), name="x")
    y = layers.LayerNormalization(name="norm")(x)
    a = layers.MultiHeadAttention(3, 2, name="attention")(y, y)
    f = layers.Dense(7, activation="relu", name="mlp")(y)
    (path,) = paths_of(keras.Model(x, layers.Add(name="merge")([x, a, f])))
    assert (path.source, path.bypassed) == ("x", ("norm", "attention", "mlp"))
    assert path.placement == "pre"


def test_parallel_sublayers_added_one_by_one_both_start_at_the_stream():
    x = keras.Input((7,), name="x")
    a, f = (layers.Dense(7, activation="relu", name=name)(x) for name in ("a", "f"))
    assert ends(keras.Model(x, (x + a) + f)) == [("x", "add#1"), ("x", "add#2")]


def test_calls_of_a_shared_layer_have_paths_of_their_own():
    x, dense = keras.Input((7,), name="x"), layers.Dense(7, activation="relu", name="hidden")
    y = layers.Add(name="first")([x, dense(x)])
    z = layers.Add(name="second")([y, dense(y)])
    first, second = paths_of(keras.Model(x, z))
    assert (first.bypassed, second.bypassed) == (("hidden",), ("hidden@2",))


def test_a_tied_embedding_has_one_stream():
    tokens = keras.Input((None,), dtype="int32")
    table = layers.ReversibleEmbedding(13, 7, name="embedding")
    x = table(tokens)
    x = layers.Add(name="merge")([x, layers.Dense(7, activation="relu")(x)])
    assert ends(keras.Model(tokens, table(x, reverse=True))) == [("embedding", "merge")]


def test_a_convolution_on_the_shortcut_makes_a_projected_path():
    image = keras.Input((17, 19, 3), name="image")
    short = layers.Conv2D(5, 1, strides=2, name="shortcut")(image)
    x = layers.Conv2D(5, 3, strides=2, padding="same", activation="relu")(image)
    x = layers.Conv2D(5, 3, padding="same")(x)
    (path,) = paths_of(keras.Model(image, layers.Add(name="merge")([short, x])))
    assert (path.source, path.through, path.projected) == ("image", ("shortcut",), True)


def test_a_resnet_has_one_path_per_block_and_projects_at_every_stage():
    model = keras.applications.ResNet50(weights=None, input_shape=(32, 32, 3), classes=7)
    paths = paths_of(model)
    assert len(paths) == 3 + 4 + 6 + 3
    projected = [path.target for path in paths if path.projected]
    assert projected == [f"conv{stage}_block1_add" for stage in (2, 3, 4, 5)]
    assert {path.placement for path in paths} == {"branch_end"}


def test_the_stream_of_an_encoder_ends_where_the_decoder_takes_from_it():
    source, x = keras.Input((5, 7), name="source"), keras.Input((3, 7), name="x")
    encoded = layers.Add(name="encoder_merge")([source, layers.Dense(7, activation="relu")(source)])
    encoded = layers.LayerNormalization(name="final_norm")(encoded)
    attended = layers.MultiHeadAttention(3, 2, name="attention")(x, encoded)
    graph = plots.read_graph(keras.Model([source, x], layers.Add(name="merge")([x, attended])))
    on_paths, joints = stream_edges(graph, plots.skip_paths(graph))
    assert list(on_paths) == [("source", "encoder_merge"), ("x", "merge")]
    assert list(joints) == [("encoder_merge", "final_norm")]


# Outputs, signs and shapes


def dense(x, width=None):
    return layers.Dense(width or x.shape[-1], activation="relu")(x)


def split(x):
    return keras.ops.split(dense(x, 14), 2, axis=-1)


def lstm(x):
    return layers.LSTM(7, return_sequences=True, return_state=True)(x)


def modulated(x, condition, modulation):
    """Return two sublayers of a DiT: a norm that is scaled and shifted, and a gate."""
    for _ in range(2):
        shift, scale, gate = modulation(condition)
        hidden = dense(layers.LayerNormalization()(x) * (1 + scale) + shift)
        x = x + gate * hidden
    return x


def split_modulation(condition):
    return keras.ops.split(keras.ops.expand_dims(layers.Dense(21)(condition), 1), 3, axis=-1)


def sliced_modulation(condition):
    together = keras.ops.expand_dims(layers.Dense(21)(condition), 1)
    return [together[..., start : start + 7] for start in (0, 7, 14)]


def two_outputs(x):
    y = keras.Input((5, 7))
    return keras.Model(y, [dense(y), dense(y)])(x)


def stage(x):
    """Return a stage of pixels as tokens, and back."""
    y = layers.Reshape((15, 7))(x)
    y = y + dense(y)
    return layers.Reshape((3, 5, 7))(y)


PATHS = {
    # what is given -> (shape of x, function of x, number of skip paths)
    "one half to the other": ((5, 7), lambda x: (lambda a, b: a + dense(b))(*split(x)), 0),
    "one half to itself": ((5, 7), lambda x: (lambda a, b: [a + dense(a), b])(*split(x)), 1),
    "both halves": ((5, 7), lambda x: (lambda a, b: [a + dense(a), b + dense(b)])(*split(x)), 2),
    "coupled halves": ((5, 7), lambda x: (lambda a, b: a + dense(b + dense(a)))(*split(x)), 1),
    "a list of three": ((5, 7), lambda x: keras.ops.add(*split(x)), 0),
    "states": ((5, 7), lambda x: (lambda y, h, c: h + dense(c))(*lstm(x)), 0),
    "sequence and state": (
        (5, 7),
        lambda x: (lambda y, h, c: y + dense(keras.ops.expand_dims(h, 1)))(*lstm(x)),
        0,
    ),
    "outputs of a model": ((5, 7), lambda x: (lambda a, b: a + dense(b))(*two_outputs(x)), 0),
    "output of a model": ((5, 7), lambda x: (lambda a, b: [b, a + dense(a)])(*two_outputs(x)), 1),
    "unstacked": ((2, 7), lambda x: (lambda a, b: a + dense(b))(*keras.ops.unstack(x, axis=1)), 0),
    "slices": ((5, 7), lambda x: x[:, :2] + dense(x[:, 3:]), 0),
    "equal slices": ((5, 7), lambda x: x[:, :2] + dense(x[:, :2]), 1),
    "a slice and a part": ((5, 7), lambda x: x[:, :2] + dense(keras.ops.split(x, [2], 1)[0]), 0),
    "halves of a GLU": ((5, 7), lambda x: (lambda a, b: a * keras.ops.sigmoid(b))(*split(x)), 0),
    "modulation, split": (
        (5, 7),
        lambda x: modulated(x, keras.ops.mean(x, axis=1), split_modulation),
        2,
    ),
    "modulation, sliced": (
        (5, 7),
        lambda x: modulated(x, keras.ops.mean(x, axis=1), sliced_modulation),
        2,
    ),
    "average": ((5, 7), lambda x: layers.Average()([dense(x), x]), 1),
    "half the sum": ((5, 7), lambda x: (x + dense(x)) * 0.5, 1),
    "weighted": ((5, 7), lambda x: 0.3 * x + 0.7 * dense(x), 1),
    "from x": ((5, 7), lambda x: x - dense(x), 1),
    "minus x": ((5, 7), lambda x: layers.Subtract()([dense(x), x]), 1),
    "negated": ((5, 7), lambda x: -x + dense(x), 1),
    "centred": ((5, 7), lambda x: x - keras.ops.mean(x, axis=-1, keepdims=True), 0),
    "three subtractions": ((5, 7), lambda x: (x - dense(x)) - dense(x), 2),
    "Python's sum": ((5, 7), lambda x: sum([x, dense(x), dense(x)]), 2),
    "sum of a stack": ((5, 7), lambda x: keras.ops.sum(keras.ops.stack([x, dense(x)], 2), 2), 1),
    "mean of a stack": ((5, 7), lambda x: keras.ops.mean(keras.ops.stack([dense(x), x]), 0), 1),
    "sum of another axis": ((5, 7), lambda x: keras.ops.sum(keras.ops.stack([x, dense(x)]), 1), 0),
    "copies": ((5, 7), lambda x: keras.ops.stop_gradient(keras.ops.copy(x)) + dense(x), 1),
    "crop by slice": ((9, 7), lambda x: x[:, 1:-1] + layers.Conv1D(7, 3, activation="relu")(x), 1),
    "crop": ((9, 7), lambda x: layers.Cropping1D(1)(x) + layers.Conv1D(7, 3)(dense(x)), 1),
    "last step": ((5, 7), lambda x: x[:, -1] + layers.LSTM(7)(x), 1),
    "reversed": ((5, 7), lambda x: x[:, ::-1] + dense(x), 0),
    "shifted": ((5, 7), lambda x: x[:, 1:] + dense(x[:, :-1]), 0),
    "padded features": (
        (5, 7),
        lambda x: keras.ops.pad(x, [[0, 0], [0, 0], [0, 4]]) + dense(x, 11),
        1,
    ),
    "padded with ones": (
        (5, 7),
        lambda x: keras.ops.pad(x, [[0, 0], [0, 0], [0, 4]], constant_values=1) + dense(x, 11),
        0,
    ),
    "zero padding": (
        (5, 7),
        lambda x: (
            layers.ZeroPadding1D(1)(x) + layers.Conv1D(7, 1)(layers.ZeroPadding1D(1)(dense(x)))
        ),
        1,
    ),
    "reshaped": ((3, 5, 7), lambda x: stage(stage(x)), 2),
    "reshaped on the stream": (
        (3, 5, 7),
        lambda x: layers.Reshape((15, 7))(x) + layers.Reshape((15, 7))(dense(x)),
        1,
    ),
    "flat": ((1, 7), lambda x: keras.ops.squeeze(x, 1) + dense(layers.Flatten()(x)), 1),
    "transposed": (
        (5, 7),
        lambda x: layers.Permute((2, 1))(x) + layers.Permute((2, 1))(dense(x)),
        1,
    ),
    "transposed on one side": ((7, 7), lambda x: keras.ops.transpose(x, (0, 2, 1)) + dense(x), 0),
    "transposed and back": (
        (5, 7),
        lambda x: keras.ops.swapaxes(keras.ops.moveaxis(x, 1, 2), -1, 1) + dense(x),
        1,
    ),
    "symmetric": ((7, 7), lambda x: x + keras.ops.transpose(x, (0, 2, 1)), 0),
    "times a gate": ((5, 7), lambda x: x + x * dense(x), 1),
    "times a shared gate": ((5, 7), lambda x: (lambda g: (x + x * g) + dense(x) * g)(dense(x)), 2),
    "one plus a gate": ((5, 7), lambda x: x * (1 + dense(x)), 0),
    "times a constant": ((5, 7), lambda x: x + x * 2, 0),
    "times a vector": ((5, 7), lambda x: x + keras.ops.multiply(x, np.arange(7.0)), 0),
    "minus times a gate": ((5, 7), lambda x: x - x * dense(x), 1),
    "gate": ((5, 7), lambda x: x * (1 - (g := dense(x))) + dense(x) * g, 0),
}


@pytest.mark.parametrize(("shape", "function", "number"), PATHS.values(), ids=PATHS)
def test_skip_paths_lead_along_one_value(shape, function, number):
    x = keras.Input(shape)
    assert len(paths_of(keras.Model(x, function(x)))) == number


def test_a_learned_scale_of_the_features_makes_a_projected_path():
    x = keras.Input((5, 7), name="x")
    scale = keras.Variable(keras.ops.ones(7))
    (path,) = paths_of(keras.Model(x, keras.ops.multiply(x, scale) + dense(x)))
    assert path.projected
    assert path.line == ("x", "multiply#1", "add#1")


# Sums that are no residual blocks


def block(x, width=6):
    return layers.Dense(width)(layers.Dense(13, activation="gelu")(x))


def interpolated(x, y):
    """y + g * (x - y), where y depends on x."""
    y = block(x)
    return y + layers.Dense(6, activation="sigmoid")(y) * (x - y)


def masked_interpolation(x, mask):
    return x + (block(x) - x) * mask


def detached(x, _):
    """What is predicted from the output of a block, without a gradient, is added to it."""
    return x + block(ops.stop_gradient(x))


@pytest.mark.parametrize("make", [interpolated, masked_interpolation, detached])
def test_interpolations_and_detached_branches_are_no_skip_paths(make):
    x, y = (keras.Input((5, 6), name=name) for name in "xy")
    assert plots.skip_paths(plots.read_graph(keras.Model([x, y], make(x, y)))) == ()


def test_positions_of_queries_that_depend_on_an_input_are_injected_again_in_every_sublayer():
    x, boxes = keras.Input((5, 6), name="x"), keras.Input((5, 4), name="boxes")
    y, positions = x, block(boxes)
    for _ in range(2):
        query = y + positions
        y = layers.LayerNormalization()(y + layers.MultiHeadAttention(2, 3)(query, y))
    graph = plots.read_graph(keras.Model([x, boxes], y))
    assert [path.source for path in plots.skip_paths(graph)] == ["x", "layer_normalization#1"]
