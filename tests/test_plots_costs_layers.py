"""FLOPs of single layers, and of whole blocks in one layer, against what the backend computes."""

import warnings

import keras
import pytest
from keras import layers, ops
from products import (
    BACKEND,
    SIZES,
    B,
    S,
    T,
    flops_at,
    flops_of,
    requires_graph_tracing,
    traced_flops,
)

import plots


def one_layer(layer, *shapes):
    inputs = [keras.Input(shape, name=f"x{number}") for number, shape in enumerate(shapes)]
    takes_list = isinstance(layer, layers.Attention | layers.Dot)
    return keras.Model(inputs, layer(inputs) if takes_list else layer(*inputs))


D, E = (None, 7), (None, 5)  # (t, d), (s, d)
IMAGE = (17, 19, 6)
LAYERS = {
    "dense": (lambda: layers.Dense(3), D),
    "dense in every step": (lambda: layers.TimeDistributed(layers.Dense(3)), D),
    "attention": (lambda: layers.MultiHeadAttention(3, 2), D, E),
    "attention of other widths": (
        lambda: layers.MultiHeadAttention(3, 2, value_dim=11, output_shape=13),
        D,
        E,
        (None, 3),
    ),
    "grouped attention": (lambda: layers.GroupQueryAttention(5, 6, 3), D, (None, 7)),
    "attention without projections": (lambda: layers.Attention(), D, (None, 7)),
    "additive attention": (lambda: layers.AdditiveAttention(), D, (None, 7)),
    "product of two inputs": (lambda: layers.Dot(axes=2), D, (None, 7)),
    "attention over rows": (
        lambda: layers.MultiHeadAttention(3, 2, attention_axes=2),
        IMAGE,
        IMAGE,
    ),
    "attention over an image": (lambda: layers.MultiHeadAttention(3, 2), IMAGE, IMAGE),
    "convolution": (lambda: layers.Conv2D(7, (3, 2), strides=2), IMAGE),
    "padded convolution": (lambda: layers.Conv2D(7, (3, 2), strides=2, padding="same"), IMAGE),
    "convolution in every step": (lambda: layers.TimeDistributed(layers.Conv1D(7, 3)), IMAGE),
    "transposed convolution": (lambda: layers.Conv2DTranspose(7, 3, strides=2), IMAGE),
    "depthwise convolution": (lambda: layers.DepthwiseConv2D(3, depth_multiplier=2), IMAGE),
    "separable convolution": (lambda: layers.SeparableConv2D(7, 3, depth_multiplier=2), IMAGE),
}


@requires_graph_tracing
@pytest.mark.parametrize(("make", "shapes"), [(m, s) for m, *s in LAYERS.values()], ids=LAYERS)
def test_flops_of_a_layer_are_those_that_the_backend_computes(make, shapes):
    layer = make()
    if BACKEND == "jax" and (isinstance(layer, layers.Conv2DTranspose) or len(shapes) == 3):
        pytest.skip("JAX multiplies with inserted zeros, and wants values as wide as keys")
    model = one_layer(layer, *shapes)
    lengths = [T, S, S]
    given = [
        ((B, *(lengths[i] if n is None else n for n in shape)), "float32")
        for i, shape in enumerate(shapes)
    ]
    assert flops_of(model, **SIZES) == traced_flops(lambda *x: model([*x]), *given) > 0


@pytest.mark.parametrize("value_dim", [None, 11])
def test_a_gate_of_an_attention_is_one_more_projection(value_dim):
    def model(use_gate):
        attention = layers.MultiHeadAttention(3, 2, value_dim=value_dim, use_gate=use_gate)
        return one_layer(attention, D, D)

    plain, gated = model(False), model(True)
    more = gated.count_params() - plain.count_params()  # (7, 3, v) and as many biases
    assert more == (7 + 1) * 3 * (value_dim or 2)
    assert flops_of(gated, **SIZES) - flops_of(plain, **SIZES) == 2 * B * T * more * 7 / 8


def test_a_gate_of_a_grouped_attention_is_one_more_projection_of_all_heads():
    plain, gated = (
        one_layer(layers.GroupQueryAttention(5, 6, 3, use_gate=gate), D, D) for gate in (0, 1)
    )
    assert flops_of(gated, **SIZES) - flops_of(plain, **SIZES) == 2 * B * T * 7 * 6 * 5


def test_products_of_operations_are_counted():
    x = keras.Input((None, 7), name="x")
    y = ops.matmul(x, ops.ones((7, 5)))  # 2 * 7 * 5 each
    y = ops.einsum("btd,bsd->bts", y, y)  # 2 * 5 each pair
    z = ops.einsum("bts,bt->bts", y, ops.max(x, -1))  # no sum, no product of matrices
    overlay = plots.flops(plots.read_graph(keras.Model(x, z))).overlay("flops")
    assert overlay.whole == {"b t": 70, "b t t": 10}


@pytest.mark.parametrize(
    ("make", "gates", "ways"),
    [
        (lambda: layers.LSTM(5), 4, 1),
        (lambda: layers.GRU(5), 3, 1),
        (lambda: layers.SimpleRNN(5), 1, 1),
        (lambda: layers.RNN(layers.GRUCell(5)), 3, 1),
        (lambda: layers.Bidirectional(layers.LSTM(5)), 4, 2),
    ],
)
def test_recurrent_layers_multiply_input_and_state_in_every_gate(make, gates, ways):
    assert flops_of(one_layer(make(), D), **SIZES) == ways * gates * B * T * 2 * 5 * (7 + 5)


def test_forward_and_backward_layers_that_differ_are_counted_each():
    there = layers.LSTM(5, return_sequences=True)
    back = layers.GRU(11, return_sequences=True, go_backwards=True)
    both = one_layer(layers.Bidirectional(there, backward_layer=back), D)
    products = 4 * 5 * (7 + 5) + 3 * 11 * (7 + 11)
    assert flops_of(both, **SIZES) == 2 * B * T * products


# Whole blocks in one layer ----------------------------------------------------------------------

PLAIN = {"num_layers": 2, "num_heads": 2, "hidden_dim": 14, "intermediate_dim": 23}
GROUPED_BLOCKS = {
    "num_layers": 2,
    "num_query_heads": 4,
    "num_key_value_heads": 2,
    "hidden_dim": 16,
    "intermediate_dim": 22,
}
BACKBONES = {
    "GPT2Backbone": {**PLAIN, "max_sequence_length": 17},
    "BartBackbone": {**PLAIN, "max_sequence_length": 17},
    "BertBackbone": {**PLAIN, "max_sequence_length": 17},
    "BloomBackbone": PLAIN,
    "GPTNeoXBackbone": {**PLAIN, "hidden_dim": 32},
    "FNetBackbone": {name: PLAIN[name] for name in PLAIN if name != "num_heads"},
    "T5Backbone": PLAIN,
    "GemmaBackbone": {**GROUPED_BLOCKS, "head_dim": 6},
    "Gemma3Backbone": {**GROUPED_BLOCKS, "head_dim": 6, "image_size": 16},
    "MistralBackbone": GROUPED_BLOCKS,
}


def backbone(name):
    import keras_hub

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # T5's own: masks that its layers do not hand on
        return getattr(keras_hub.models, name)(vocabulary_size=31, **BACKBONES[name])


def check_backbone(name):
    model = backbone(name)
    sources = {tensor.name: S if "encoder" in tensor.name else T for tensor in model.inputs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shapes = {name: ((B, length), "int32") for name, length in sources.items()}
        computed = traced_flops(model, shapes)
    graph = plots.flops(plots.read_graph(model))
    # TensorFlow counts no Fourier transform either.
    missing = {"FFT2"} if name == "FNetBackbone" else set()
    assert graph.overlay("flops").whole.missing == missing
    assert len(graph.notes) == len(missing)
    assert flops_at(graph, **SIZES) == computed


@requires_graph_tracing
def test_blocks_of_keras_hub_cost_what_the_backend_computes():
    check_backbone("BartBackbone")


@requires_graph_tracing
@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_blocks_of_every_backbone_cost_what_the_backend_computes(name):
    check_backbone(name)


@pytest.mark.parametrize("open_layers", [False, True])
def test_a_fourier_transform_is_not_counted_whether_its_block_is_open_or_not(open_layers):
    graph = plots.read_graph(backbone("FNetBackbone"), open_layers=open_layers)
    overlay = plots.flops(plots.shapes(graph)).overlay("flops")
    assert overlay.title == "FLOPs, at least"
    assert overlay.whole.missing == {"FFT2"}


@requires_graph_tracing
@pytest.mark.slow
def test_a_vision_transformer_costs_what_the_backend_computes():
    import keras_hub

    sizes = {"num_layers": 2, "num_heads": 2, "hidden_dim": 14, "mlp_dim": 23}
    model = keras_hub.models.ViTBackbone(image_shape=(32, 32, 3), patch_size=16, **sizes)
    computed = traced_flops(model, ((B, 32, 32, 3), "float32"))
    assert flops_of(model, b=B) == computed
