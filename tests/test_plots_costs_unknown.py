"""FLOPs that are not known are said to be "at least", wherever a number is shown or summed."""

import functools
from dataclasses import replace
from typing import ClassVar

import keras
import pytest
from keras import layers, ops
from plots_models import decoder_only
from products import SIZES, B, T, flops_of, requires_graph_tracing, traced_flops
from quick import slow_unless

import plots
from plots.annotations import Quantity
from plots.renderers.dot import graph_to_dot


def flops(model, **options):
    return plots.flops(plots.read_graph(model, **options))


def after_dense(call, shape=(None, 12)):
    """Return a model of a Dense layer, whose 2 x 12 x 12 FLOPs are known, and a call."""
    x = keras.Input(shape, name="x")
    return keras.Model(x, call(layers.Dense(12, name="known")(x)))


def gram(x):
    return ops.matmul(x, ops.swapaxes(x, 1, 2))


class Gram(layers.Layer):
    def call(self, x):
        return gram(x)


class GramDense(layers.Dense):
    def call(self, x):
        return super().call(gram(gram(x)))


class GramDropout(layers.Dropout):
    def call(self, x):
        return gram(x)


class WhiteningNorm(layers.Layer):
    def build(self, shape):
        self.matrix = self.add_weight(shape=(shape[-1], shape[-1]), name="matrix")

    def call(self, x):
        return ops.matmul(x, self.matrix)


class GramCell(layers.SimpleRNNCell):
    def call(self, x, states):
        return super().call(ops.matmul(x, ops.matmul(ops.transpose(x), x)), states)


class Elementwise(layers.Layer):
    def call(self, x, other=None, scaled=True):
        return ops.tanh(x) * 2 + other if scaled else gram(x)


class GramOfMasked(layers.Layer):
    def __init__(self):
        super().__init__()
        self.supports_masking = True

    def call(self, x, mask=None):
        return x if mask is None else gram(x)


class GramOperation(keras.Operation):
    def call(self, x):
        return gram(x)

    def compute_output_spec(self, x):
        return keras.KerasTensor((*x.shape[:2], x.shape[1]), dtype=x.dtype)


class TanhOperation(GramOperation):
    def call(self, x):
        return ops.tanh(x) * x.shape[0]

    def compute_output_spec(self, x):
        return keras.KerasTensor(x.shape, dtype=x.dtype)


class Around(layers.Layer):
    """Calls a layer inside."""

    def __init__(self, inside):
        super().__init__()
        self.inside = inside

    def call(self, x):
        return self.inside(x) + 1


def low_rank(layer, *sublayers):
    """Return a call of a layer, with LoRA in these layers inside."""

    def call(x):
        y = layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer(x)
        for sublayer in sublayers:
            getattr(layer, sublayer).enable_lora(1)
        return y

    return call


def quantized(layer, mode):
    def call(x):
        y = layer(x, x)
        layer.query_dense.quantize(mode)
        return y

    return call


UNKNOWN = {
    "a Lambda": layers.Lambda(gram),
    "a layer with one input": Gram(),
    "a layer with a mask": lambda x: GramOfMasked()(layers.Masking()(x)),
    "a layer in every step": layers.TimeDistributed(layers.Lambda(lambda x: x)),
    "a subclass of a layer with products": GramDense(5),
    "a subclass of a layer without products": GramDropout(0.1),
    "a class named like a norm": WhiteningNorm(),
    "an activation function": layers.Activation(gram),
    "an activation inside": layers.Dense(3, activation=gram),
    "a lambda as an activation": layers.Dense(3, activation=lambda x: x * 2),
    "a layer with products as an activation": layers.Dense(12, activation=layers.Dense(12)),
    "a partial function": layers.Dense(3, activation=functools.partial(gram)),
    "an operation of one's own": GramOperation(),
    "a subclass of a layer without products inside": Around(GramDropout(0.1)),
    "a layer with products inside a layer inside": Around(Around(layers.Activation(gram))),
    "a cell of one's own": layers.RNN(GramCell(5)),
    "LoRA inside an attention": low_rank(layers.MultiHeadAttention(2, 3), "query_dense"),
    "map": lambda x: ops.map(lambda row: ops.matmul(row, ops.transpose(row)), x),
    "vectorized_map": lambda x: ops.vectorized_map(lambda row: row * 2, x),
    "scan": lambda x: ops.scan(lambda carry, row: (carry, row), x[0], x)[1],
    "while_loop": lambda x: ops.while_loop(lambda y: True, lambda y: (y,), (x,))[0],
    "fft": lambda x: ops.fft((x, x))[0],
    "sort": ops.sort,
    "top_k": lambda x: ops.top_k(x, 3)[0],
    "resize": lambda x: ops.image.resize(x[..., None], (5, 7)),
    "svd": lambda x: ops.svd(x, compute_uv=False),
}


@pytest.mark.parametrize(
    "call",
    [
        *UNKNOWN.values(),
        pytest.param(quantized(layers.MultiHeadAttention(2, 3), "int8"), marks=pytest.mark.slow),
    ],
    ids=[*UNKNOWN, "a quantized attention"],
)
def test_unknown_work_is_at_least_and_has_a_note(call):
    graph = flops(after_dense(call, (11, 12)))
    overlay = graph.overlay("flops")
    assert overlay.title == "FLOPs, at least"
    assert overlay.whole.missing
    assert overlay.whole.get("b", 0) >= 2 * 11 * 12 * 12
    (note,) = graph.notes
    assert note.kind == "uncounted"
    assert note.about[0] != "known"


NONE = {
    "a function of Keras": layers.Activation("mish"),
    "a layer as an activation": layers.Activation(layers.LeakyReLU(0.2)),
    "copied pixels": lambda x: layers.UpSampling2D()(layers.Reshape((11, 4, 3))(x)),
    "pooling": layers.GlobalAveragePooling1D(),
    "a norm": layers.GroupNormalization(3),
    "augmentation": lambda x: layers.RandomFlip()(layers.Reshape((11, 4, 3))(x)),
    "a Lambda of such operations": layers.Lambda(lambda x: ops.relu(x)[:, ::2] / 3),
    "a layer of such operations": lambda x: Elementwise()(x, other=x),
    "an operation of one's own": TanhOperation(),
    "a layer of layers of such operations": Around(Around(layers.Lambda(ops.tanh))),
    "an activation function of such operations": layers.Activation(lambda x: x * ops.tanh(x)),
    "operations": lambda x: ops.norm(ops.softmax(ops.cumsum(x, 1)[:, ::2] * 2), axis=-1),
}


@pytest.mark.parametrize("call", NONE.values(), ids=NONE)
def test_calls_without_products_leave_the_count_exact(call):
    graph = flops(after_dense(call, (11, 12)))
    assert graph.overlay("flops").whole == {"b": 2 * 11 * 12 * 12}
    assert not graph.notes


def test_reading_leaves_no_calls_behind_at_layers_that_a_lambda_uses():
    dense = layers.Dense(12)
    model = after_dense(lambda x: layers.Lambda(lambda y: dense(y))(dense(x)), (11, 12))
    before = len(dense._inbound_nodes), len(dense._outbound_nodes)
    assert flops(model).overlay("flops").whole.missing == {"Lambda"}
    assert (len(dense._inbound_nodes), len(dense._outbound_nodes)) == before


def test_every_operation_of_keras_is_a_product_or_known_to_have_none_or_noted():
    """The names in the set are operations that exist, so that none is misspelt."""
    from keras.src.ops import core, einops, image, linalg, math, nn, numpy

    from plots.costs.flop_rules import FLOP_RULES
    from plots.costs.zero_cost import OPERATIONS

    modules = (core, einops, image, linalg, math, nn, numpy)
    known = {name for module in modules for name in vars(module)}
    assert OPERATIONS - {"Shape"} <= known
    assert OPERATIONS.isdisjoint(FLOP_RULES)


# Adapters and quantization ----------------------------------------------------------------------


def adapted(mode=None, lora=True):
    tokens = keras.Input((T,), dtype="int32", name="tokens")
    made = [
        layers.Embedding(31, 12),
        layers.Dense(16),
        layers.EinsumDense("btd,dnh->btnh", output_shape=(None, 2, 7), bias_axes="nh"),
        layers.Reshape((T, 14)),
        *([layers.Conv1D(5, 3, groups=1)] if mode is None else []),
    ]
    x = tokens
    for layer in made:
        x = layer(x)
        if layer.weights:
            if mode is not None:
                layer.quantize(mode)
            if lora:
                layer.enable_lora(3)
    return keras.Model(tokens, x)


@requires_graph_tracing
@pytest.mark.parametrize("mode", slow_unless(lambda mode: mode is None, [None, "int8", "int4"]))
def test_adapters_cost_what_the_backend_computes(mode):
    model = adapted(mode)
    graph = flops(model)
    assert not graph.notes
    assert flops_of(model, **SIZES) == traced_flops(lambda x: model(x), (B, T)) > 0


def test_adapters_add_the_product_of_their_two_factors():
    x = keras.Input((10, 32), name="x")
    dense = layers.Dense(48)
    model = keras.Model(x, dense(x))
    plain = flops_of(model, b=1)
    assert plain == 2 * 10 * 32 * 48
    dense.enable_lora(4)
    assert flops_of(model, b=1) == plain + 2 * 32 * 4 * 48
    wrapped = keras.Model(x, layers.TimeDistributed(dense)(x))
    assert flops_of(wrapped, b=1) == plain + 10 * 2 * 32 * 4 * 48


# Layers around layers ---------------------------------------------------------------------------


@requires_graph_tracing
def test_layers_around_layers_cost_what_the_backend_computes():
    clip = keras.Input((3, 2, 6), name="clip")
    x = layers.TimeDistributed(layers.SpectralNormalization(layers.Dense(11)))(clip)
    x = layers.TimeDistributed(layers.Bidirectional(layers.LSTM(3, unroll=True)))(x)
    model = keras.Model(clip, x)
    graph = flops(model)
    assert not graph.notes
    assert flops_of(model, b=B) == traced_flops(lambda x: model(x), ((B, 3, 2, 6), "float32")) > 0


@requires_graph_tracing
def test_a_recurrent_convolution_costs_what_the_backend_computes():
    clip = keras.Input((3, 11, 13, 2), name="clip")
    options = {"strides": 2, "padding": "same", "unroll": True}
    model = keras.Model(clip, layers.ConvLSTM2D(5, (3, 2), **options)(clip))
    expected = traced_flops(lambda x: model(x), ((B, 3, 11, 13, 2), "float32"))
    assert flops_of(model, b=B) == expected > 0


# Where numbers are shown and summed -------------------------------------------------------------


def with_unknown_work():
    """Return a decoder with a layer of unknown products in its first block."""
    model = decoder_only(blocks=2)
    graph = plots.read_graph(model)
    norm = next(node for node in graph.nodes if node.name.endswith("block_0.feedforward.up"))
    unknown = replace(norm, class_name="Surprise", bases=())
    return replace(graph, nodes=tuple(unknown if n is norm else n for n in graph.nodes)), norm.id


def test_every_total_that_an_unknown_call_is_part_of_is_at_least():
    graph, place = with_unknown_work()
    graph = plots.flops(graph)
    assert graph.overlay("flops").text(place) == "not counted"
    folded = plots.fold(graph, depth=2)
    text = folded.overlay("flops").text("decoder.block_0.feedforward.*")
    assert text.startswith("at least ")
    assert "%" not in text
    other = graph.overlay("flops").text(place.replace("block_0", "block_1"))
    assert "(≤ " in other
    assert "at least" not in other
    for shown in (plots.to_text(graph), graph_to_dot(graph).to_string()):
        assert "FLOPs, at least: " in shown
        assert "(without Surprise)" in shown
        assert "at least: at least" not in shown
    assert "at least" in plots.to_mermaid(folded)
    again = plots.Graph.from_json(graph.to_json())
    assert again == graph
    assert again.overlay("flops").whole.missing == {"Surprise"}


def test_a_comparison_of_lower_bounds_says_so_and_has_no_difference():
    x = keras.Input((10, 12), name="x")
    known = keras.Model(x, layers.Dense(12, name="known")(x))
    unknown = after_dense(layers.Lambda(gram), (10, 12))
    table = plots.comparison_table(
        {name: plots.read_graph(m) for name, m in (("known", known), ("unknown", unknown))}
    )
    first, second = table.splitlines()[1:]
    assert "at least" not in first
    assert "at least 2.88 kFLOP b (without Lambda)" in second
    report = plots.difference_text(
        plots.compare_graphs(plots.read_graph(known), plots.read_graph(unknown))
    )
    (line,) = (line for line in report.splitlines() if line.startswith("operations"))
    assert line == "operations 2.88 kFLOP b -> at least 2.88 kFLOP b (without Lambda)"


def test_the_memory_of_calls_inside_a_closed_model_is_at_least():
    i = keras.Input((5,), name="i")
    inner = keras.Model(i, layers.Dense(3)(layers.Dense(7)(i)), name="inner")
    x = keras.Input((5,), name="x")
    model = keras.Model(x, inner(x))
    closed, opened = (
        plots.memory(plots.read_graph(model, open_nested=nested)) for nested in (False, True)
    )
    assert closed.overlay("activation_memory").title == "activations, at least"
    assert closed.overlay("activation_memory").whole.missing == {"calls inside Functional"}
    assert opened.overlay("activation_memory").whole == {"b": 4 * (5 + 7 + 3)}
    for graph in (closed, opened):
        assert graph.overlay("weight_memory").title == "weights"


def test_the_memory_of_text_is_unknown():
    words = keras.Input((3,), dtype="string", name="words")
    ids = layers.StringLookup(vocabulary=["a", "b"])(words)
    graph = plots.memory(plots.read_graph(keras.Model(words, ids)))
    overlay = graph.overlay("activation_memory")
    assert overlay.text("words") == "not counted"
    assert overlay.whole.missing == {"text"}


# Advice -----------------------------------------------------------------------------------------


class Block(layers.Layer):
    def __init__(self, **options):
        super().__init__(**options)
        self.inside = layers.Dense(12)

    def call(self, x):
        return self.inside(x)


def test_the_advice_to_open_is_given_only_where_it_was_not_taken_and_helps():
    nested = keras.Sequential([keras.Input((11, 12)), layers.Lambda(gram)], name="nested")
    model = after_dense(lambda x: WhiteningNorm()(nested(Block()(x))), (11, 12))
    texts = "\n".join(note.text for note in flops(model).notes)
    assert texts.count("open_nested=True") == 1
    assert texts.count("open_layers=True") == 1
    graph = flops(model, open_nested=True, open_layers=True)
    texts = "\n".join(note.text for note in graph.notes)
    assert "open_" not in texts
    assert {note.about[0] for note in graph.notes} == {"nested.lambda#1", "whitening_norm#1"}


@pytest.mark.slow
def test_opening_never_lowers_the_count_without_saying_so():
    import keras_hub

    sizes = {"num_query_heads": 4, "num_key_value_heads": 2, "hidden_dim": 16, "head_dim": 6}
    model = keras_hub.models.GemmaBackbone(31, 2, intermediate_dim=22, **sizes)
    closed, opened = (flops(model, open_nested=o, open_layers=o) for o in (False, True))
    assert not closed.notes
    assert not opened.notes
    assert closed.overlay("flops").whole == opened.overlay("flops").whole


def test_a_layer_declares_that_it_computes_what_its_base_class_does():
    class Renamed(layers.Dense):
        graph_declaration: ClassVar = {"like": "Dense"}

        def call(self, x):
            return super().call(x)

    graph = flops(after_dense(Renamed(5), (11, 12)))
    assert graph.overlay("flops").whole == {"b": 2 * 11 * 12 * (12 + 5)}


def test_a_lower_bound_is_not_equal_to_an_exact_number():
    assert Quantity(3) != Quantity(3).without("a")
    assert Quantity(3).without("a") == Quantity({"": 3, "without": ["a"]})
    assert (2 * Quantity({"b": 3}).without("a") + 1).total_text() == "at least 6 b + 1 (without a)"
    many = Quantity(1).without(*"edcba")
    assert many.total_text() == "at least 1 (without a, b, c and 2 more)"


def test_stacked_cells_are_a_product_each():
    cells = layers.StackedRNNCells([layers.GRUCell(2), layers.LSTMCell(5)])
    graph = flops(after_dense(layers.RNN(cells), (11, 12)))
    products = 3 * 2 * (12 + 2) + 4 * 5 * (2 + 5)
    assert graph.overlay("flops").whole == {"b": 2 * 11 * (12 * 12 + products)}
