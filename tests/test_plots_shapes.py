"""Letters of axes: they hold for the shapes of the model when it runs."""

from __future__ import annotations

import keras
import numpy as np
import plots_models
import pytest
from keras import layers, ops
from small_models import GROUPED, TRANSLATOR, small_spec

import builders
import plots
from plots.axes import axes_of

SIZES = {"b": 2, "t": 11, "s": 13, "H": 41, "W": 37}
"""Primes, all different from each other and from the widths of the models."""


# Every model ------------------------------------------------------------------------------------


def calls_of(model):
    """Return layers and operations that are called once, by name."""
    return {op.name: op for op in model.operations if len(op._inbound_nodes) == 1}


def real_shapes(model, given):
    """Return the output shapes of every call when the model runs, by name."""
    calls = calls_of(model)
    outputs = {name: keras.tree.flatten(op.output) for name, op in calls.items()}
    probe = keras.Model(model.inputs, [t for tensors in outputs.values() for t in tensors])
    results = iter(probe([given[tensor._keras_history.operation.name] for tensor in model.inputs]))
    return {name: [next(results).shape for _ in tensors] for name, tensors in outputs.items()}


def inputs_of(graph, sizes):
    """Return arrays of ones for the inputs of a graph, with the sizes of their letters."""
    axes = axes_of(graph)
    arrays = {}
    for node_id in graph.inputs:
        node = graph.node(node_id)
        shape = [int(axis.quantity.at(sizes)) for axis in axes.outputs[node_id, 0]]
        arrays[node.name] = np.ones(shape, node.outputs[0].dtype)
    return arrays


def check_every_shape(model, sizes=SIZES):
    """Run the model, and compare the shape of every tensor with its letters."""
    graph = plots.read_graph(model)
    axes, lettered = axes_of(graph), plots.shapes(graph)
    shapes = real_shapes(model, inputs_of(graph, sizes))
    known = sizes | {letter: size for letter, size in lettered.letters.items() if size is not None}
    checked = 0
    for node in lettered.nodes:
        for number, tensor in enumerate(node.outputs) if node.name in shapes else ():
            real = shapes[node.name][number]
            assert len(tensor.letters) == len(real), node.id
            for axis, letter, size in zip(
                axes.outputs[node.id, number], tensor.letters, real, strict=True
            ):
                assert letter != "?", (node.id, tensor.letters)
                assert letter == axis.letter
                if letter.isalpha() and len(letter) == 1:
                    assert known[letter] == size, (node.id, tensor.letters, real)
                rounding = 1 if "/" in letter else 1e-9
                assert abs(axis.quantity.at(sizes) - size) < rounding, (node.id, letter)
                checked += 1
    assert checked > len(graph.nodes)
    for edge in lettered.edges:
        assert edge.tensor.letters == lettered.node(edge.source).outputs[edge.output].letters
    return lettered


def letters_of(graph, node_id):
    return " ".join(graph.node(node_id).outputs[0].letters)


BUILT = {
    "decoder": {**GROUPED, "head_dim": 10, "feedforward": "glu", "positions": "rotary"},
    "decoder of library layers": {"attention": "layer"},
    "decoder with distances": {"positions": "alibi", "norm_placement": "parallel"},
    "encoder": {"kind": "encoder_only", "masked_lm_head": True, "tie_embeddings": True},
    "decoder of experts": {"num_experts": 6, "num_active_experts": 2, "expert_dim": 11},
    "translator": {**TRANSLATOR, **GROUPED, "attention_dropout": 0.1, "qk_norm": True},
    "translator of one table": {
        **TRANSLATOR,
        "positions": "relative",
        "relative_buckets": 8,
        "share_embeddings": True,
        "tie_embeddings": True,
    },
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize("changes", BUILT.values(), ids=BUILT)
def test_letters_have_the_right_sizes_in_built_models(changes):
    spec = small_spec(num_layers=1, **changes)
    graph = check_every_shape(builders.build(spec))
    expected = {"b": None, "t": None, "d": spec.hidden_dim, "f": spec.expert_dim}
    expected |= {"v": spec.vocabulary_size}
    if spec.attention == "graph":
        expected |= {"n": spec.num_heads, "h": spec.head_dim}
    if spec.kind == "encoder_decoder":
        expected["s"] = None
    if spec.num_key_value_heads != spec.num_heads:
        expected["k"] = spec.num_key_value_heads
    assert graph.letters == expected


def test_letters_of_a_translator_are_those_of_the_glossary():
    spec = small_spec(**TRANSLATOR, **GROUPED, attention_dropout=0.1)
    graph = plots.shapes(plots.read_graph(builders.build(spec, abstract=True)))
    for place, letters in {
        "source": "b s",
        "target": "b t",
        "encoder.token_embedding": "b s d",
        "decoder.position_embedding": "1 t d",
        "encoder.block_0.self_attention.scores": "b n s s",
        "decoder.causal_mask": "1 t t",
        "decoder.attention_mask": "b t t",
        "decoder.block_1.cross_attention.query": "b t n h",
        "decoder.block_1.cross_attention.key": "b s k h",
        "decoder.block_1.cross_attention.scores": "b n t s",
        "decoder.block_1.cross_attention.weighted_values": "b t n h",
        "decoder.block_1.feedforward.up": "b t f",
        "logits": "b t v",
    }.items():
        assert letters_of(graph, place) == letters


def test_a_decoding_step_has_different_letters_for_its_cache_and_the_source():
    spec = small_spec(**TRANSLATOR, **GROUPED)
    step = builders.build_decode_step(builders.build(spec), spec, 2, 1, 11)
    graph = plots.shapes(plots.read_graph(step))
    assert graph.letters["s"] is None
    assert letters_of(graph, "decoder.block_0.self_attention.key_cache") == "b k h 11"
    assert letters_of(graph, "decoder.block_0.cross_attention.key_cache") == "b k h s"
    assert letters_of(graph, "decoder.block_0.self_attention.attend_to_cache") == "b 1 n h"


def test_equal_blocks_have_equal_letters_so_that_they_fold():
    spec = small_spec(num_layers=3)
    graph = plots.shapes(plots.read_graph(builders.build(spec, abstract=True)))
    assert plots.fold(graph).repeats == {"decoder.block_0": 3}


# Models of users --------------------------------------------------------------------------------


def test_letters_of_a_hand_written_encoder_decoder_need_no_layer_names():
    graph = check_every_shape(plots_models.encoder_decoder())
    assert graph.letters == {
        "b": None,
        "t": None,
        "s": None,
        "d": plots_models.WIDTH,
        "n": plots_models.HEADS,
        "h": plots_models.HEAD_WIDTH,
        "f": plots_models.INNER,
        "v": plots_models.VOCABULARY,
    }
    assert letters_of(graph, "target") == "b t"


def reshaped_attention(x, memory, n=3, h=5):
    """Attention as in tutorials: Dense, reshape, transpose, matmul, and back."""

    def heads(y):
        y = layers.Reshape((-1, n, h))(layers.Dense(n * h)(y))
        return ops.transpose(y, (0, 2, 1, 3))

    query, key, value = heads(x), heads(memory), heads(memory)
    weights = ops.softmax(ops.matmul(query, ops.swapaxes(key, -1, -2)) / h**0.5)
    mixed = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
    mixed = layers.Reshape((-1, n * h), name="together")(mixed)
    return layers.Dense(x.shape[-1], name="output")(mixed)


def test_heads_and_lengths_are_found_in_attention_by_reshape_and_matmul():
    target, source = keras.Input((None, 7), name="target"), keras.Input((None, 7), name="source")
    x = target + reshaped_attention(target, source)
    x = x + layers.Dense(7)(layers.Dense(23, "relu")(x))
    graph = check_every_shape(keras.Model([target, source], x))
    assert graph.letters == {"b": None, "t": None, "s": None, "d": 7, "n": 3, "h": 5, "f": 23}
    assert letters_of(graph, "softmax#1") == "b n t s"
    assert letters_of(graph, "matmul#2") == "b n t h"
    assert letters_of(graph, "together") == "b t 15"


def test_heads_are_found_in_attention_by_einsum():
    x = keras.Input((None, 7), name="x")
    query, key, value = (layers.EinsumDense("btd,dnh->btnh", (None, 3, 5))(x) for _ in range(3))
    weights = ops.softmax(ops.einsum("btnh,bsnh->bnts", query, key))
    mixed = ops.einsum("bnts,bsnh->btnh", weights, value)
    y = x + layers.EinsumDense("...nh,nhd->...d", 7)(mixed)
    graph = check_every_shape(keras.Model(x, y))
    assert graph.letters == {"b": None, "t": None, "d": 7, "n": 3, "h": 5}
    assert letters_of(graph, "einsum#1") == "b n t t"


def test_axes_of_the_same_size_have_one_letter_only_if_they_are_the_same():
    tokens = keras.Input((7,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 7, name="table")(tokens)
    x = x + layers.Dense(7, name="down")(layers.Dense(7, name="up")(x))
    y = layers.Dense(7, name="other")(x)
    graph = plots.shapes(plots.read_graph(keras.Model(tokens, [x, y[:, 0]])))
    assert letters_of(graph, "table") == "b 7 d"
    assert letters_of(graph, "up") == "b 7 f"
    assert letters_of(graph, "other") == "b 7 v"  # as many as the table has rows
    unlike = layers.Dense(5, name="unlike")(x)
    graph = plots.shapes(plots.read_graph(keras.Model(tokens, [x, unlike])))
    assert letters_of(graph, "unlike") == "b 7 5"


def test_a_width_between_two_projections_of_attention_is_no_feed_forward():
    """Values of single-head attention go from d to another width and back, too."""
    x = keras.Input((None, 7), name="x")
    query, value = layers.Dense(5)(x), layers.Dense(11, name="value")(x)
    y = x + layers.Dense(7)(layers.Attention()([query, value, layers.Dense(5)(x)]))
    graph = check_every_shape(keras.Model(x, y))
    assert graph.letters == {"b": None, "t": None, "d": 7}
    assert letters_of(graph, "value") == "b t 11"


def test_free_sizes_of_images_are_height_and_width_and_derive_when_halved():
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(5, 3, strides=2, padding="same", name="half")(image)
    y = layers.MaxPooling2D(2, name="quarter")(layers.ZeroPadding2D(1, name="padded")(x))
    y = layers.Conv2DTranspose(7, 2, strides=2, name="up")(y)
    y = layers.Cropping2D(1, name="cropped")(y)
    valid = layers.Conv2D(7, 3, name="valid")(image)
    flat = layers.Reshape((-1, 7), name="flat")(valid)
    pooled = layers.Dense(11, name="classes")(layers.GlobalAveragePooling2D()(y))
    graph = check_every_shape(keras.Model(image, [pooled, flat, y]))
    assert graph.letters == {"b": None, "H": None, "W": None}
    assert letters_of(graph, "half") == "b H/2 W/2 5"
    assert letters_of(graph, "padded") == "b H/2+2 W/2+2 5"
    assert letters_of(graph, "valid") == "b H-2 W-2 7"
    assert letters_of(graph, "flat") == "b H·W-2H-2W+4 7"
    assert letters_of(graph, "classes") == "b 11"


def test_up_sampling_restores_the_letters_that_down_sampling_halves():
    image = keras.Input((32, None, 3), name="image")
    down = layers.Conv2D(3, 3, strides=2, padding="same", name="down")(image)
    up = layers.UpSampling2D(2, name="up")(down)
    graph = plots.shapes(plots.read_graph(keras.Model(image, image + up)))
    assert letters_of(graph, "up") == "b 32 W 3"
    assert letters_of(graph, "down") == "b 16 W/2 3"


def test_slices_and_joins_of_a_free_length_derive_their_sizes():
    x = keras.Input((None, 5), name="x")
    first, last = x[:, :-1], x[:, 3:]
    joined = ops.concatenate([first, x], axis=1)
    repeated = ops.repeat(x, 3, axis=1)
    padded = ops.pad(x, ((0, 0), (1, 1), (0, 0)))
    outputs = [first, last, joined, repeated, padded, x[:, 0], x[..., None, 1:], x[:, ::2]]
    graph = check_every_shape(keras.Model(x, outputs))
    letters = [letters_of(graph, node_id) for node_id, _ in graph.outputs]
    assert letters[:4] == ["b t-1 5", "b t-3 5", "b 2t-1 5", "b 3t 5"]
    assert letters[4:] == ["b t+2 5", "b 5", "b t 1 4", "b t/2 5"]


def test_letters_follow_operations_that_move_axes():
    x, y = keras.Input((None, 5), name="x"), keras.Input((None, 7), name="y")
    outputs = {
        "t b 5": ops.moveaxis(x, 1, 0),
        "5 t b": ops.transpose(x, (2, 1, 0)),
        "5 b": ops.transpose(x[:, 0]),
        "b 5 t": layers.Permute((2, 1))(x),
        "b 1 t 5": ops.expand_dims(x, 1),
        "b 2 t 5": ops.stack([x, x], axis=1),
        "b t 1": ops.mean(x, axis=-1, keepdims=True),
        "b 3 7": layers.RepeatVector(3)(ops.max(y, axis=1)),
        "b s 7 3": ops.one_hot(ops.cast(y, "int32"), 3),
        "b 7": ops.take(y, 0, axis=1),
        "b t s": layers.Dot(axes=2)([x, layers.Dense(5)(y)]),
        "b 35": layers.Flatten()(layers.Reshape((5, 7))(layers.Dense(35)(x[:, 0]))),
        "b t 11": layers.LSTM(11, return_sequences=True)(x),
        "b 22": layers.Bidirectional(layers.GRU(11))(x),
        "b s 13": layers.TimeDistributed(layers.Dense(13))(y),
    }
    graph = check_every_shape(keras.Model([x, y], list(outputs.values())))
    assert [letters_of(graph, node_id) for node_id, _ in graph.outputs] == list(outputs)


def test_time_distributed_models_fold_time_into_the_batch():
    frame = keras.Input((5,), name="frame")
    inner = keras.Model(frame, layers.Dense(3, name="inner")(frame), name="each")
    clip = keras.Input((None, 5), name="clip")
    y = layers.Dense(2, name="outer")(layers.TimeDistributed(inner, name="every")(clip))
    graph = plots.shapes(plots.read_graph(keras.Model(clip, y), open_nested=True))
    assert letters_of(graph, "every.inner") == "b·t 3"
    assert letters_of(graph, "outer") == "b t 2"


def test_a_keras_hub_backbone_has_its_letters():
    import keras_hub

    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 14, "intermediate_dim": 23}
    model = keras_hub.models.GPT2Backbone(vocabulary_size=31, max_sequence_length=17, **sizes)
    graph = check_every_shape(model)
    assert graph.letters == {"b": None, "t": None, "d": 14}
    assert letters_of(graph, "padding_mask") == "b t"  # the two inputs meet in the blocks


def test_a_mask_of_scores_has_the_length_of_the_keys_and_not_of_the_heads():
    scores = keras.Input((3, None, None), name="scores")
    mask = keras.Input((1, 1, None), dtype="bool", name="mask")
    weights = layers.Softmax(name="weights")(scores, mask=mask)
    graph = check_every_shape(keras.Model([scores, mask], weights))
    assert letters_of(graph, "weights") == "b 3 t s"
    assert letters_of(graph, "mask") == "b 1 1 s"


def test_a_mask_of_a_layer_without_a_rule_does_not_unite_axes_of_known_size():
    class Hide(layers.Layer):
        def call(self, scores, mask=None):
            return scores * ops.cast(mask, "float32")

    scores = keras.Input((3, None, None), name="scores")
    mask = keras.Input((1, 1, None), dtype="bool", name="mask")
    model = keras.Model([scores, mask], Hide(name="y")(scores, mask))
    graph = plots.shapes(plots.read_graph(model))
    assert letters_of(graph, "y") == "b 3 t s"
    assert letters_of(graph, "mask") == "b 1 1 u"  # a length of its own, as far as one can tell


@pytest.mark.parametrize(
    "indices", [[0, 2], [[0, 2], [1, 1]]], ids=["a list of them", "a table of them"]
)
def test_take_replaces_one_axis_by_those_of_the_indices(indices):
    x = keras.Input((3, None, 5), name="x")
    taken = ops.take(x, np.array(indices), axis=1)
    graph = check_every_shape(keras.Model(x, taken))
    expected = ["b", *(str(n) for n in np.shape(indices)), "t", "5"]
    assert letters_of(graph, "take#1") == " ".join(expected)


def test_a_product_with_a_constant_vector_sums_over_the_last_axis():
    x = keras.Input((None, 7), name="x")
    y = keras.Input((None, 5, 7), name="y")
    outputs = [ops.matmul(x, np.ones(7, "float32")), ops.matmul(y, np.ones(7, "float32"))]
    outputs.append(ops.matmul(np.ones(5, "float32"), y))
    graph = plots.shapes(plots.read_graph(keras.Model([x, y], outputs)))
    assert letters_of(graph, "x") == "b t 7"
    assert letters_of(graph, "y") == "b s 5 7"
    assert {letters_of(graph, node_id)[0] for node_id, _ in graph.outputs} == {"b"}


def test_slices_with_negative_steps_derive_their_sizes_from_the_end():
    x = keras.Input((None, 5), name="x")
    slices = {
        "b t 5": x[:, ::-1],
        "b t-1 5": x[:, :0:-1],
        "b t-2 5": x[:, -3::-1],
        "b 2 5": x[:, -2:-4:-1],
        "b t/2 5": x[:, ::-2],
    }
    graph = check_every_shape(keras.Model(x, list(slices.values())))
    assert [letters_of(graph, node_id) for node_id, _ in graph.outputs] == list(slices)


def test_padding_derives_sizes_for_every_form_of_pad_width():
    x = keras.Input((None, 5), name="x")
    for width, letters in ((1, "b+2 t+2 7"), ((1, 2), "b+3 t+3 8"), (((2, 1),), "b+3 t+3 8")):
        graph = plots.shapes(plots.read_graph(keras.Model(x, ops.pad(x, width))))
        assert letters_of(graph, "pad#1") == letters


@pytest.mark.parametrize("padding", ["valid", "same"])
@pytest.mark.parametrize(
    "options",
    [
        {"strides": 2},
        {"strides": 3, "output_padding": 0},
        {"strides": 3, "output_padding": (2, 1)},
        {"dilation_rate": 2},
    ],
)
def test_sizes_of_transposed_convolutions_are_those_that_keras_computes(padding, options):
    image = keras.Input((None, None, 3), name="image")
    layer = layers.Conv2DTranspose(5, (2, 3), padding=padding, name="up", **options)
    axes = axes_of(plots.read_graph(keras.Model(image, layer(image))))
    expected = layer.compute_output_shape((SIZES["b"], SIZES["H"], SIZES["W"], 3))
    found = [axis.quantity.at(SIZES) for axis in axes.outputs["up", 0]]
    assert found == list(expected)


def test_an_embedding_called_with_reverse_false_names_the_width():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    table = layers.ReversibleEmbedding(11, 7, name="table")
    y = layers.Dense(5, name="y")(table(tokens, reverse=False))
    graph = plots.shapes(plots.read_graph(keras.Model(tokens, y)))
    assert letters_of(graph, "table") == "b t d"


# Unknown layers ---------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="tests")
class Mystery(layers.Layer):
    """A layer without a rule."""

    def call(self, x, other=None):
        return x

    def compute_output_shape(self, input_shape, *others):
        return (*input_shape[:1], None, None, *input_shape[2:])


def test_an_unknown_layer_keeps_axes_of_the_same_size_at_the_same_place():
    class Unknown(layers.Layer):
        def call(self, x):
            return ops.concatenate([x, x], axis=-1)

    x = keras.Input((None, 5), name="x")
    graph = plots.shapes(plots.read_graph(keras.Model(x, Unknown(name="y")(x))))
    assert letters_of(graph, "y") == "b t 10"


def test_free_sizes_that_derive_from_nothing_are_unknown():
    x = keras.Input((None, 5), name="x")
    graph = plots.shapes(plots.read_graph(keras.Model(x, Mystery(name="y")(x))))
    assert letters_of(graph, "y") == "b ? ? 5"
    assert graph.letters == {"b": None, "t": None}


def test_another_class_with_a_known_name_falls_back_to_the_unknown_layer():
    class Attention(layers.Layer):
        def call(self, everything):
            return everything

    x = keras.Input((None, 5), name="x")
    graph = plots.shapes(plots.read_graph(keras.Model(x, Attention(name="y")(x))))
    assert letters_of(graph, "y") == "b t 5"


def test_another_class_with_another_configuration_falls_back_to_the_unknown_layer():
    class Bidirectional(layers.Layer):
        def call(self, x):
            return x

        def get_config(self):
            return {**super().get_config(), "layer": "an LSTM"}

    x = keras.Input((None, 5), name="x")
    graph = plots.shapes(plots.read_graph(keras.Model(x, Bidirectional(name="y")(x))))
    assert letters_of(graph, "y") == "b t 5"


def test_letters_survive_json_and_are_drawn_on_edges_and_in_the_legend():
    from plots.renderers.dot import graph_to_dot

    graph = plots.shapes(plots.read_graph(plots_models.encoder_decoder(blocks=1)))
    assert plots.Graph.from_json(graph.to_json()) == graph
    text = graph_to_dot(graph).to_string()
    assert text.count("b n t s") == 0
    assert "b s n h" in text
    assert "v = 13: vocabulary" in text
    assert "→ b t v" in text
