"""Blocks as formulas: what the code of a block says, read from its graph."""

import keras
import pytest

import builders
import plots

SIZES = {
    "vocabulary_size": 11,
    "num_layers": 2,
    "hidden_dim": 6,
    "num_heads": 3,
    "intermediate_dim": 7,
    "max_sequence_length": 5,
}


def formulas_of(model):
    return plots.block_formulas(plots.read_graph(model))


@pytest.mark.parametrize(
    ("placement", "formulas"),
    [
        ("pre", ("x + self_attention(norm(x))", "x + feedforward(norm(x))")),
        ("post", ("norm(x + self_attention(x))", "norm(x + feedforward(x))")),
        ("sandwich", ("x + norm(self_attention(norm(x)))", "x + norm(feedforward(norm(x)))")),
        ("parallel", ("x + self_attention(norm(x)) + feedforward(norm(x))",)),
        ("output", ("x + norm(self_attention(x))", "x + norm(feedforward(x))")),
        ("parallel_shared_norm", ("x + self_attention(norm(x)) + feedforward(norm(x))",)),
        ("none", ("x + self_attention(x)", "x + feedforward(x)")),
    ],
)
def test_a_block_is_what_its_norm_placement_says(placement, formulas):
    spec = builders.TransformerSpec(norm_placement=placement, **SIZES)
    model = builders.build(spec, abstract=True)
    assert list(formulas_of(model).values()) == [formulas]


def test_each_stack_has_its_block_and_the_memory_comes_from_the_encoder():
    spec = builders.TransformerSpec(kind="encoder_decoder", norm_placement="post", **SIZES)
    encoder, decoder = formulas_of(builders.build(spec, abstract=True)).values()
    assert encoder == ("norm(x + self_attention(x))", "norm(x + feedforward(x))")
    assert decoder == (
        "norm(x + self_attention(x))",
        "norm(x + cross_attention(x, encoder))",
        "norm(x + feedforward(x))",
    )


def test_positions_and_masks_are_left_out():
    spec = builders.TransformerSpec(positions="rotary", **SIZES)
    [block] = formulas_of(builders.build(spec, abstract=True)).values()
    assert block == ("x + self_attention(norm(x))", "x + feedforward(norm(x))")


def test_a_projected_skip_path_is_no_stream():
    x = keras.Input((5, 6))
    y = keras.layers.Dense(7)(x) + keras.layers.Dense(7)(keras.layers.Dense(11, "relu")(x))
    [formulas] = formulas_of(keras.Model(x, y)).values()
    assert formulas[0].startswith("shortcut(x) + ")


@pytest.mark.parametrize(
    ("merge", "formula"),
    [
        (keras.layers.Subtract, "Dense(x) − x"),
        (keras.layers.Average, "mean(x, Dense(x))"),
        (keras.layers.Add, "x + Dense(x)"),
    ],
)
def test_a_merge_has_its_sign(merge, formula):
    x = keras.Input((5, 6))
    y = merge()([keras.layers.Dense(6)(x), x])
    [formulas] = formulas_of(keras.Model(x, y)).values()
    assert formulas == (formula,)


def test_a_model_without_skip_paths_has_none():
    spec = builders.TransformerSpec(merge="none", **SIZES)
    assert formulas_of(builders.build(spec, abstract=True)) == {}


def test_unnamed_layers_have_their_class():
    x = inputs = keras.Input((5, 6))
    for _ in range(2):
        x = x + keras.layers.Dense(6)(keras.layers.LayerNormalization()(x))
    assert list(formulas_of(keras.Model(inputs, x)).values()) == [("x + Dense(norm(x))",)]
