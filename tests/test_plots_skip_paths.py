"""Skip paths are found by structure."""

import keras
import plots_models
import pytest
from keras import layers

import plots
from plots.skips import stream_edges


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


def test_blocks_hidden_in_single_layers_show_no_skip_path():
    keras_hub = pytest.importorskip("keras_hub")
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=13,
        num_layers=2,
        num_heads=3,
        hidden_dim=6,
        intermediate_dim=11,
        max_sequence_length=17,
    )
    assert paths_of(backbone) == ()


def test_the_stream_of_an_encoder_ends_where_the_decoder_takes_from_it():
    source, x = keras.Input((5, 7), name="source"), keras.Input((3, 7), name="x")
    encoded = layers.Add(name="encoder_merge")([source, layers.Dense(7, activation="relu")(source)])
    encoded = layers.LayerNormalization(name="final_norm")(encoded)
    attended = layers.MultiHeadAttention(3, 2, name="attention")(x, encoded)
    graph = plots.read_graph(keras.Model([source, x], layers.Add(name="merge")([x, attended])))
    on_paths, joints = stream_edges(graph, plots.skip_paths(graph))
    assert list(on_paths) == [("source", "encoder_merge"), ("x", "merge")]
    assert list(joints) == [("encoder_merge", "final_norm")]
