"""The words on boxes: numbers of configurations, wrapped and shared layers, names and prefixes."""

import re

import keras
import pytest
from keras import layers
from small_graphs import made

import plots
from plots.renderers.labels import class_of, details_of, frame_title, shared_of, title_of
from plots.skips import mark_skip_paths


@pytest.mark.parametrize(
    ("layer", "shape", "details"),
    [
        (
            layers.Conv2D(5, (3, 7), (1, 2), activation="relu"),
            (17, 19, 2),
            "5 filters 3×7, stride 1×2, relu",
        ),
        (
            layers.Conv2D(6, 3, 2, "same", groups=2),
            (17, 19, 2),
            "6 filters 3×3, stride 2, same, groups 2",
        ),
        (
            layers.Conv1D(5, 3, dilation_rate=2, padding="causal"),
            (17, 2),
            "5 filters kernel 3, dilation 2, causal",
        ),
        (layers.DepthwiseConv2D(3, padding="same"), (17, 19, 2), "3×3, same"),
        (layers.MaxPooling2D(3), (17, 19, 2), "3×3"),
        (layers.AveragePooling1D(3, strides=2), (17, 2), "pool 3, stride 2"),
        (layers.ZeroPadding2D(((0, 1), (2, 2))), (17, 19, 2), "padding 0+1 × 2"),
        (layers.UpSampling2D(2, interpolation="bilinear"), (17, 19, 2), "× 2×2, bilinear"),
        (layers.Dense(1301), (3,), "1,301 units"),
        (layers.Dense(1), (3,), "1 unit"),
        (layers.Dense(5, activation=layers.LeakyReLU()), (3,), "5 units, LeakyReLU"),
        (layers.EinsumDense("btd,dnh->btnh", (None, 5, 7)), (11, 3), "5 × 7"),
        (layers.LSTM(5), (11, 3), "5 units"),
        (layers.Bidirectional(layers.GRU(5), merge_mode="sum"), (11, 3), "5 units, sum"),
        (layers.Dropout(0.3), (3,), "rate 0.3"),
        (layers.Activation("silu"), (3,), "silu"),
        (layers.Reshape((7, 1)), (7,), "7×1"),
        (layers.LayerNormalization(), (3,), ""),
        (layers.Flatten(), (3, 5), ""),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_box_shows_the_numbers_that_are_not_defaults(layer, shape, details):
    x = keras.Input(shape)
    graph = plots.read_graph(keras.Model(x, layer(x)))
    assert details_of(graph.nodes[-1], graph) == details


def test_attention_and_embeddings_show_heads_and_tables():
    tokens = keras.Input((11,), dtype="int32")
    x = layers.Embedding(1301, 6)(tokens)
    y = layers.MultiHeadAttention(3, 5)(x, x)
    z = layers.GroupQueryAttention(7, 6, 2)(y, y)
    graph = plots.read_graph(keras.Model(tokens, z))
    shown = [details_of(node, graph) for node in graph.nodes if node.parameters]
    assert shown == ["1,301 × 6", "3 heads × 5", "6 query heads, 2 key-value heads × 7"]


def test_mixtures_show_their_experts_and_how_many_a_token_takes():
    calls = [("x", "InputLayer", []), ("y", "Router", ["x"], {"num_experts": 8, "top_k": 2})]
    graph = made(*calls, ("z", "Experts", ["y"], {"experts": 8, "units": 7}))
    assert [details_of(graph.node(name), graph) for name in "yz"] == [
        "8 experts, top 2",
        "8 experts, 7 units",
    ]


@pytest.mark.parametrize("value", ["many", None, True, {"a": 1}, [None, "b"], -0.5, [[1, [2]]]])
def test_configurations_of_other_layers_with_the_same_keys_do_no_harm(value):
    keys = ("filters", "kernel_size", "strides", "padding", "units", "rate", "size", "pool_size")
    keys += ("num_heads", "key_dim", "target_shape", "input_dim", "groups", "activation", "layer")
    keys += ("num_experts", "top_k")
    graph = made(("x", "InputLayer", []), ("y", "Mine", ["x"], dict.fromkeys(keys, value)))
    assert "{" not in details_of(graph.node("y"), graph)
    assert class_of(graph.node("y")) == "Mine"


def test_a_box_names_the_layer_inside_a_wrapper():
    x = keras.Input((11, 3))
    y = layers.Bidirectional(layers.LSTM(5, return_sequences=True))(x)
    z = layers.TimeDistributed(layers.Dense(7))(y)
    graph = plots.read_graph(keras.Model(x, z), open_nested=False)
    words = plots.to_text(graph)
    assert "Bidirectional LSTM (5 units)" in words
    assert "Dense (7 units)" in words


def siamese(name):
    """Return two inputs that a model and a layer encode with the same weights."""
    encoder = keras.Sequential([keras.Input((7,)), layers.Dense(5), layers.Dense(3)], name=name)
    last, other = layers.Dense(2), layers.Dense(11)
    inputs = [keras.Input((7,)), keras.Input((7,))]
    ends = [other(last(encoder(x))) for x in inputs]
    return keras.Model(inputs, layers.Subtract()(ends))


@pytest.mark.parametrize("name", ["encoder", None])
def test_calls_with_the_same_weights_are_marked_in_one_colour(name, tmp_path):
    graph = plots.read_graph(siamese(name), open_nested=True)
    marks = {node.id: shared_of(node, graph) for node in graph.nodes}
    alone = [node for node in graph.nodes if node.config.get("units") in (2, 11)]
    assert {marks[node.id][0] for node in alone} == {"shared × 2"}
    colours = {node.config["units"]: marks[node.id][1] for node in alone}
    assert all(marks[node.id][1] == colours[node.config["units"]] for node in alone)
    assert len(set(colours.values())) == 2
    assert sum(mark is not None for mark in marks.values()) == len(alone) == 4
    # The model says it once around each of its calls, and no number of a call is shown.
    plots.draw(graph, tmp_path / "model.svg")
    text = (tmp_path / "model.svg").read_text("utf-8")
    assert text.count(f">{name or 'sequential'} (shared × 2)<") == 2
    assert not any(set(words) & set("#@") for words in re.findall(r">([^<>]+)</text>", text))


def test_layers_that_are_called_once_or_have_no_weights_are_not_marked():
    x = keras.Input((7,))
    relu = layers.ReLU()
    graph = plots.read_graph(keras.Model(x, relu(layers.Dense(5)(relu(x)))))
    assert not any(shared_of(node, graph) for node in graph.nodes)


@pytest.mark.parametrize("prefix", ["my_net_", "net2_part_", ""])
def test_a_prefix_of_all_names_is_left_out(prefix):
    calls = [("x", "InputLayer", [])]
    for number in range(3):
        for part in ("norm", "up", "down"):
            calls.append((f"{prefix}{part}_{number}", "Dense", [calls[-1][0]], {"units": 7}))
    graph = mark_skip_paths(made(*calls))
    titles = [title_of(node, graph) for node in graph.nodes[1:]]
    assert titles == [f"{part}_{number}" for number in range(3) for part in ("norm", "up", "down")]


def test_numbers_of_blocks_are_not_taken_for_a_prefix():
    calls = [("x", "InputLayer", [])]
    for number in range(7):
        calls.append((f"block_{number}", "Dense", [calls[-1][0]], {"units": 7}))
    graph = made(*calls)
    assert [title_of(node, graph) for node in graph.nodes[1:]] == [f"block_{k}" for k in range(7)]


def test_titles_of_frames_have_no_numbers_of_calls():
    graph = made(
        ("x", "InputLayer", []), ("mlp#1.up", "Dense", ["x"]), ("mlp#1.down", "Dense", ["x"])
    )
    assert frame_title("mlp#1", graph) == "mlp"


def test_a_number_that_varies_between_folded_blocks_is_only_in_the_note():
    x = y = keras.Input((7,))
    for number in range(5):
        z = layers.Dense(7, name=f"block_{number}.dense")(layers.LayerNormalization()(y))
        y = layers.Add()([y, layers.Dropout(0.1 * (number + 1), name=f"block_{number}.drop")(z)])
    folded = plots.fold(plots.apply_plugins(plots.read_graph(keras.Model(x, y)), ["skip_paths"]))
    (drop,) = (node for node in folded.nodes if node.class_name == "Dropout")
    assert [note.kind for note in folded.notes_about[drop.id]] == ["varies"]
    assert details_of(drop, folded) == ""
    (dense,) = (node for node in folded.nodes if node.class_name == "Dense")
    assert details_of(dense, folded) == "7 units"
