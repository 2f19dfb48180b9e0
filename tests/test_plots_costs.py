"""Costs of calls: parameters, FLOPs and memory, against independent counts."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import keras
import plots_models
import pytest
from keras import layers, ops
from products import SIZES, B, S, T, flops_at, flops_of
from small_models import GROUPED, TRANSLATOR, dtype_policy_scope, small_spec

import builders
import plots
from plots.renderers.dot import graph_to_dot

# Parameters -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def resnet():
    return keras.applications.ResNet50(weights=None)


def test_parameters_add_up_to_what_keras_counts(resnet):
    tied = builders.build(small_spec(**TRANSLATOR, share_embeddings=True, tie_embeddings=True))
    for model in (resnet, tied, plots_models.decoder_only()):
        overlay = plots.parameters(plots.read_graph(model)).overlay("parameters")
        assert sum(value[""] for value in overlay.values.values()) == model.count_params()
        assert overlay.whole == {"": model.count_params()}
        assert sum(overlay.share(place) for place in overlay.values) == pytest.approx(1)


def test_parameters_of_a_shared_layer_are_those_of_its_first_call():
    x, shared = keras.Input((7,), name="x"), layers.Dense(7, name="shared")
    overlay = plots.parameters(plots.read_graph(keras.Model(x, shared(shared(x)))))
    assert overlay.overlay("parameters").values == {"shared": {"": 56}}


class TiedHead(layers.Layer):
    """Logits by the table of an embedding that it holds, and by a bias."""

    def __init__(self, embedding, bias=True, **kwargs):
        super().__init__(**kwargs)
        self.embedding, self.bias = embedding, 0
        if bias:
            self.bias = self.add_weight(shape=(embedding.input_dim,), name="bias")

    def call(self, x):
        return ops.matmul(x, ops.transpose(self.embedding.embeddings)) + self.bias


def with_tied_head(bias=True):
    tokens, table = keras.Input((None,), dtype="int32", name="tokens"), layers.Embedding(11, 7)
    return keras.Model(tokens, TiedHead(table, bias, name="head")(table(tokens)))


def test_weights_of_two_layers_are_counted_once_at_the_first():
    model = with_tied_head()
    graph = plots.memory(plots.parameters(plots.read_graph(model)))
    assert graph.overlay("parameters").values == {"embedding#1": {"": 77}, "head": {"": 11}}
    assert graph.overlay("weight_memory").whole == {"": 4 * model.count_params()}
    assert graph.node("head").shared_parameters == 77
    assert graph.node("head").trainable_parameters == 11


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_with_weights_of_another_one_is_noted_as_uncounted(bias):
    graph = plots.flops(plots.read_graph(with_tied_head(bias)))
    assert [note.about for note in graph.notes] == [("head",)]


def test_parameters_of_folded_boxes_are_those_of_their_layers():
    graph = plots.parameters(plots.read_graph(plots_models.decoder_only(blocks=3)))
    folded = plots.fold(graph, depth=2).overlay("parameters")
    width, inner = plots_models.WIDTH, plots_models.INNER
    kernels = 2 * width * inner + inner + width
    norm = 2 * width
    assert folded.values["decoder.block_0.feedforward.*"] == {"": kernels + norm}
    assert folded.whole == {"": graph.parameters}


# FLOPs, against builders ------------------------------------------------------------------------

COMPONENTS = {
    "query": "projections",
    "key": "projections",
    "value": "projections",
    "output": "projections",
    "scores": "scores",
    "weighted_values": "weighted_values",
}


def component_of(node):
    """Return the component of `builders.FlopCounts` that a call belongs to."""
    attention = re.fullmatch(r"(\w+)\.block_\d+\.(\w+_attention)\.(\w+)", node.name)
    if attention:
        stack, sublayer, step = attention.groups()
        return f"{stack}.{sublayer}.{COMPONENTS[step]}"
    if match := re.fullmatch(r"(\w+)\.block_\d+\.feedforward\.\w+", node.name):
        return f"{match[1]}.feedforward"
    if node.name.startswith(("pooler", "masked_lm_head", "classifier")):
        return node.namespace
    if node.label == "embedding_projection":
        return f"{node.namespace}.embedding"
    return "logits"


SPECS = {
    "grouped and gated": {**GROUPED, "feedforward": "glu"},
    "distances": {"positions": "alibi"},
    "window": {"attention_window": 3},
    "narrow embeddings, tied": {"embedding_dim": 11, "tie_embeddings": True},
    "translator": {**TRANSLATOR, **GROUPED, "num_encoder_layers": 3},
    "encoder": {"kind": "encoder_only", "masked_lm_head": True, "pooler": True}
    | {"classes": ("a", "b", "c"), "class_pooling": "mean"},
}


@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS)
def test_flops_are_those_that_builders_counts_for_each_component(changes):
    spec = small_spec(attention_dropout=0.1, **changes)  # with it, scores and mixing are two nodes
    graph = plots.flops(plots.read_graph(builders.build(spec, abstract=True)))
    overlay = graph.overlay("flops")
    assert overlay.title == "FLOPs"
    for t, s in ((1, 1), (T, S), (17, 2)):
        counted = {}
        for place in overlay.values:
            component = component_of(graph.node(place))
            number = replace(overlay, sizes={"b": B, "t": t, "s": s}).number(overlay.values[place])
            counted[component] = counted.get(component, 0) + number
        source = s if spec.kind == "encoder_decoder" else None
        expected = builders.count_flops(spec, t, source)
        assert counted == {name: B * number for name, number in expected.items()}


@pytest.mark.parametrize(
    "changes", [{}, {"attention": "layer"}, {"positions": "rotary", "head_dim": 10}]
)
def test_attention_in_one_node_costs_as_much_as_its_steps(changes):
    spec = small_spec(**TRANSLATOR, **changes)
    model = builders.build(spec, abstract=True)
    assert flops_of(model, **SIZES) == B * builders.count_flops(spec, T, S).total


def test_a_decoding_step_costs_what_builders_counts():
    spec = small_spec(**TRANSLATOR, **GROUPED)
    step = builders.build_decode_step(builders.build(spec), spec, B, 1, 17)
    assert flops_of(step, s=S) == B * builders.count_decode_flops(spec, 17, S).total


def test_flops_are_a_polynomial_in_the_length():
    spec = small_spec()
    overlay = plots.flops(plots.read_graph(builders.build(spec, abstract=True))).overlay("flops")
    d, f, n, h, v = 14, 23, 2, 7, 31
    linear = 2 * (2 * 4 * d * n * h + 2 * 2 * d * f) + 2 * d * v
    square = 2 * 2 * 2 * n * h
    assert overlay.whole == {"b t": linear, "b t t": square}
    share = 100 * 2 * d * v / (linear + 1024 * square)
    assert overlay.text("logits") == f"868 FLOP b t ({share:.1f} %)"


def test_shares_are_those_at_the_given_sizes():
    graph = plots.read_graph(builders.build(small_spec(), abstract=True))
    short, long = (
        plots.flops(graph, sizes={"t": length}).overlay("flops") for length in (1, 10**6)
    )
    place = "decoder.block_0.self_attention.attend"
    assert short.sizes == {"b": 1, "t": 1}
    assert short.share(place) < 0.05
    assert long.share(place) == pytest.approx(0.5, rel=0.01)  # of two blocks
    assert plots.flops(graph).overlay("flops").sizes == {"b": 1, "t": 1024}


# FLOPs of images --------------------------------------------------------------------------------


def test_resnet50_costs_what_its_paper_reports(resnet):
    """He et al. 2016, table 1: 3.8e9 multiply-adds, each two operations here."""
    independent = 0
    for layer in resnet.layers:
        if isinstance(layer, layers.Conv2D):
            positions = math.prod(layer.output.shape[1:3])
            independent += 2 * positions * math.prod(layer.kernel.shape)
        elif isinstance(layer, layers.Dense):
            independent += 2 * math.prod(layer.kernel.shape)
    graph = plots.flops(plots.shapes(plots.read_graph(resnet)))
    assert graph.overlay("flops").whole == {"b": independent}
    assert independent / 2 == pytest.approx(3.8e9, rel=0.02)
    assert graph.letters == {"b": None}
    assert graph.node("conv1_conv").outputs[0].letters == ("b", "112", "112", "64")


def test_an_image_of_free_size_costs_in_proportion_to_its_pixels():
    image = keras.Input((None, None, 3), name="image")
    x = layers.Conv2D(5, 3, strides=2, padding="same")(image)
    x = layers.Conv2D(7, 3, padding="same")(layers.MaxPooling2D(2)(x))
    overlay = plots.flops(plots.read_graph(keras.Model(image, x))).overlay("flops")
    assert overlay.whole == {"H W b": 2 * 9 * 3 * 5 / 4 + 2 * 9 * 5 * 7 / 16}
    assert overlay.sizes == {"b": 1, "H": 224, "W": 224}
    assert overlay.text("conv2d#1").startswith("67.5 FLOP b H W (")


# Uncounted calls --------------------------------------------------------------------------------


class TransformerEncoder(layers.Layer):
    """A layer with a known name, whose weights are not those of the known block."""

    def __init__(self, num_heads, intermediate_dim, **kwargs):
        super().__init__(**kwargs)
        self.num_heads, self.intermediate_dim = num_heads, intermediate_dim

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 997), name="kernel")

    def call(self, x):
        return ops.matmul(ops.matmul(x, self.kernel), ops.transpose(self.kernel))

    def get_config(self):
        own = {"num_heads": self.num_heads, "intermediate_dim": self.intermediate_dim}
        return {**super().get_config(), **own}


class Product(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

    def call(self, x):
        return ops.matmul(x, self.kernel)


@pytest.mark.parametrize("layer", [Product(name="y"), TransformerEncoder(2, 5, name="y")])
def test_layers_with_weights_and_without_a_rule_are_noted_as_uncounted(layer):
    x = keras.Input((None, 14), name="x")
    graph = plots.flops(plots.read_graph(keras.Model(x, layers.Dense(3)(layer(x)))))
    (note,) = graph.notes
    assert (note.kind, note.about) == ("uncounted", ("y",))
    assert "FLOP_RULES" in note.text
    assert graph.overlay("flops").title == "FLOPs, at least"
    assert graph.overlay("flops").text("y") == "not counted"
    assert len(plots.flops(graph).notes) == 1


def test_operations_that_are_products_without_a_rule_are_noted_as_uncounted():
    x = keras.Input((None, 7), name="x")
    row = keras.Input(batch_shape=(7,), name="row")
    products = [ops.tensordot(x, ops.ones((7, 5)), 1), ops.correlate(row, ops.ones(3))]
    graph = plots.flops(plots.read_graph(keras.Model([x, row], products)))
    assert [note.about for note in graph.notes] == [("tensordot#1",), ("correlate#1",)]
    assert {note.kind for note in graph.notes} == {"uncounted"}


class ScaledDotProduct(layers.Layer):
    def call(self, query, key, value):
        return ops.matmul(ops.softmax(ops.matmul(query, ops.swapaxes(key, 1, 2))), value)


def test_layers_of_several_float_inputs_are_noted_as_uncounted_also_without_weights():
    x = keras.Input((None, 7), name="x")
    mixed = ScaledDotProduct(name="mixed")(x, x, x)
    graph = plots.flops(plots.read_graph(keras.Model(x, layers.Add()([x, mixed]))))
    assert [note.about for note in graph.notes] == [("mixed",)]


def test_layers_that_take_a_mask_or_merge_have_no_products():
    class Masked(layers.Layer):
        def call(self, x, mask):
            return ops.where(mask, x, 0.0)

    x = keras.Input((None, 7), name="x")
    mask = keras.Input((None, 7), dtype="bool", name="mask")
    y = layers.Maximum()([x, Masked()(x, mask)])
    graph = plots.flops(plots.read_graph(keras.Model([x, mask], layers.Concatenate()([x, y]))))
    assert not graph.notes


@pytest.mark.slow
def test_nothing_in_built_models_is_uncounted():
    rotary = {"positions": "rotary", "head_dim": 10, "attention_dropout": 0.1}
    for changes in (*SPECS.values(), rotary):
        spec = small_spec(**changes)
        model = builders.build(spec)
        assert not plots.flops(plots.read_graph(model)).notes
        if spec.kind != "encoder_only":
            step = builders.build_decode_step(model, spec, B, 1, 17)
            assert not plots.flops(plots.read_graph(step)).notes


def test_a_rule_can_be_added(monkeypatch):
    from plots.costs.flop_rules import FLOP_RULES, count

    monkeypatch.setitem(FLOP_RULES, "Product", lambda call: 2 * 3 * count(call.first))
    x = keras.Input((None, 14), name="x")
    graph = plots.flops(plots.read_graph(keras.Model(x, Product()(x))))
    assert graph.overlay("flops").whole == {"b t": 2 * 3 * 14}
    assert not graph.notes


def test_norms_embeddings_and_dropouts_need_no_rule():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 5)(tokens)
    for layer in (layers.LayerNormalization(), layers.Dropout(0.1), layers.PReLU(shared_axes=[1])):
        x = layer(x)
    graph = plots.flops(plots.read_graph(keras.Model(tokens, x)))
    assert graph.overlay("flops").whole == {}
    assert not graph.notes


def test_closed_models_are_uncounted_and_folded_graphs_are_refused():
    inner_input = keras.Input((5,), name="inner_input")
    inner = keras.Model(inner_input, layers.Dense(3, name="dense")(inner_input), name="inner")
    x = keras.Input((5,), name="x")
    model = keras.Model(x, inner(x))
    (note,) = plots.flops(plots.read_graph(model)).notes
    assert "open_nested=True" in note.text
    assert flops_at(plots.read_graph(model, open_nested=True), b=B) == 2 * B * 5 * 3
    folded = plots.fold(plots.read_graph(plots_models.decoder_only()), depth=1)
    for count in (plots.flops, plots.memory):
        with pytest.raises(ValueError, match=r"is folded.*count first, then fold"):
            count(folded)


def test_a_time_distributed_model_costs_as_often_as_there_are_steps():
    frame = keras.Input((5,), name="frame")
    inner = keras.Model(frame, layers.Dense(3)(frame))
    clip = keras.Input((None, 5), name="clip")
    model = keras.Model(clip, layers.Dense(2)(layers.TimeDistributed(inner)(clip)))
    graph = plots.read_graph(model, open_nested=True)
    assert flops_at(graph, b=B, t=T) == 2 * B * T * (5 * 3 + 3 * 2)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"s": 3}, "sizes has 's', but free axes of this model are 'b', 't'"),
        ({"t": 0}, "the size of 't' is 0; it must be an int, 1 or more"),
        ({"t": 10**5000}, "the size of 't' must be at most 9,223,372,036,854,775,807"),
        ({"t": 1.5}, "the size of 't' is 1.5"),
    ],
)
def test_invalid_sizes_are_refused(sizes, message):
    graph = plots.read_graph(builders.build(small_spec(), abstract=True))
    for plugin in (plots.flops, plots.memory):
        with pytest.raises(ValueError, match=re.escape(message)):
            plugin(graph, sizes=sizes)


# Memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_float16"])
def test_memory_of_weights_and_activations_depends_on_their_dtype(dtype):
    with dtype_policy_scope(dtype):
        x = keras.Input((None, 7), dtype="float32", name="x")
        y = layers.Dense(5, name="y")(x)
        model = keras.Model(x, layers.Dense(5, name="z")(y) + y)
    graph = plots.memory(plots.read_graph(model))
    weights, activations = graph.overlay("weight_memory"), graph.overlay("activation_memory")
    stored = 2 if dtype == "bfloat16" else 4
    computed = 4 if dtype == "float32" else 2
    assert weights.whole == {"": stored * model.count_params()}
    assert weights.values["y"] == {"": stored * (7 * 5 + 5)}
    assert activations.values["x"] == {"b t": 4 * 7}
    assert activations.values["y"] == {"b t": computed * 5}
    assert activations.whole == {"b t": 4 * 7 + 3 * computed * 5}


@pytest.mark.slow
def test_memory_of_a_weight_is_that_of_its_own_dtype():
    x = keras.Input((7,), name="x")
    model = keras.Model(x, layers.Dense(5, name="y")(layers.Dense(11, name="kept")(x)))
    model.get_layer("y").quantize("int8")  # the kernel; a scale and a bias stay in float32
    graph = plots.memory(plots.read_graph(model))
    assert graph.overlay("weight_memory").values == {
        "kept": {"": 4 * (7 + 1) * 11},
        "y": {"": 11 * 5 + 4 * 5 + 4 * 5},
    }
    again = plots.Graph.from_json(graph.to_json())
    assert again.node("y").weight_bytes == 95


def test_weights_of_an_abstract_model_take_as_much_memory_as_real_ones():
    spec = small_spec(num_layers=3)
    with dtype_policy_scope("bfloat16"):
        abstract, real = (plots.read_graph(builders.build(spec, abstract=a)) for a in (True, False))
    found = [plots.memory(graph).overlay("weight_memory") for graph in (abstract, real)]
    assert found[0].values == found[1].values
    assert found[0].whole == {"": 2 * real.parameters}
    folded = plots.fold(plots.memory(real), depth=1)
    assert sum(node.weight_bytes for node in folded.nodes) == 2 * sum(
        node.parameters for node in folded.nodes
    )
    assert any(node.kind == "group" and node.weight_bytes for node in folded.nodes)


def test_memory_of_scores_grows_with_the_square_of_the_length():
    spec = small_spec(attention_dropout=0.1)
    overlay = plots.memory(plots.read_graph(builders.build(spec, abstract=True)))
    activations = overlay.overlay("activation_memory")
    scores = 3 * 4 * 2  # scores, softmax and dropout; float32; two heads
    assert activations.whole["b t t"] == 2 * scores + 1  # and the mask, a byte for each
    assert activations.whole["t t"] == 1  # the causal mask is the same for every row


# In pictures ------------------------------------------------------------------------------------


def test_totals_are_in_the_legend():
    graph = plots.read_graph(builders.build(small_spec(), abstract=True))
    graph = plots.apply_plugins(graph, ["skip_paths", "parameters", "flops"])
    text = graph_to_dot(graph).to_string()
    assert f"parameters: {graph.parameters / 1000:.3g} k<" in text
    assert "shares at b = 1, t = 1024" in text


def test_the_legend_says_when_nothing_is_counted():
    x = keras.Input((None, 14), name="x")
    text = graph_to_dot(plots.flops(plots.read_graph(keras.Model(x, Product()(x))))).to_string()
    assert "FLOPs, at least: 0 FLOP" in text


def test_overlays_replace_those_of_the_same_name_and_survive_json():
    graph = plots.read_graph(builders.build(small_spec(), abstract=True))
    graph = plots.flops(plots.flops(graph), sizes={"t": 5})
    assert [overlay.name for overlay in graph.overlays] == ["flops"]
    assert graph.overlay("flops").sizes == {"b": 1, "t": 5}
    again = plots.Graph.from_json(graph.to_json())
    assert again == graph
    assert again.overlay("flops").values == graph.overlay("flops").values


def test_plugins_are_listed_with_options_and_summary():
    plugins = plots.list_plugins()
    assert {"parameters", "flops", "memory", "shapes"} <= set(plugins)
    assert plugins["flops"].options == ("sizes",)
    assert "function of free sizes" in plugins["flops"].summary
