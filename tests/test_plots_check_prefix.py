"""What is said about masks that show a prefix in both directions."""

import keras
import numpy as np
import pytest
from keras import ops
from small_models import random_model, small_spec

import builders
import plots

WORDS = "self-attention that is causal after a prefix, and in both directions in it"


def description(graph_or_model):
    return plots.diagnosis_text(graph_or_model).replace("\n", " ")


@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_dropout": 0.1}, {"attention": "layer"}, {"pad_token_id": None}],
    ids=str,
)
def test_structure_tells_a_prefix_by_the_role_of_its_mask(changes):
    spec = small_spec(prefix_lm=True, **changes)
    graph = plots.read_graph(builders.build(spec, abstract=True), open_nested=True)
    assert plots.findings(graph) == ()
    text = description(graph)
    assert "Transformer decoder: 2 blocks with 4 residual paths" in text
    assert WORDS in text
    assert "remark" not in text


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "changes", [{}, {"positions": "rotary", "rotary_dim": 4, "num_layers": 1}], ids=str
)
def test_running_a_model_shows_its_prefix(changes):
    model = random_model(small_spec(prefix_lm=True, **changes))
    text = description(model)
    assert WORDS in text
    assert "sees those before, and the first 6 see each other, of 'tokens'" in text
    assert "finding" not in text.replace("No findings", "")


@pytest.mark.slow
def test_a_window_in_a_prefix_is_no_finding():
    spec = small_spec(prefix_lm=True, attention_window=3)
    model = random_model(spec)
    causality = [check for check in plots.check(model) if check.property == "causality"]
    assert [check.note.kind for check in causality] == ["description"]
    assert plots.findings(model) == ()
    assert WORDS in description(model)


@keras.saving.register_keras_serializable(package="tests")
class MaskOfAPrefix(keras.layers.Layer):
    """Says that it shows a prefix, and shows all keys."""

    graph_declaration = {"signature": "bt,b->btt", "role": "prefix_mask"}  # noqa: RUF012

    def call(self, tokens, length):
        keys = ops.expand_dims(ops.ones_like(tokens), 1) + ops.zeros_like(tokens)[:, :, None]
        return ops.greater(keys, 0 * length[:, None, None])

    def compute_output_spec(self, tokens, length):
        return keras.KerasTensor((*tokens.shape, tokens.shape[1]), dtype="bool")


def test_a_mask_that_shows_more_than_a_prefix_is_a_finding():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    length = keras.Input((), dtype="int32", name="length")
    mask = MaskOfAPrefix()(tokens, length)
    x = keras.layers.Embedding(31, 14)(tokens)
    x = x + keras.layers.MultiHeadAttention(2, 7)(x, x, attention_mask=mask)
    logits = keras.layers.Dense(31)(keras.layers.LayerNormalization()(x))
    model = keras.Model([tokens, length], logits, name="causal_lm")
    (finding,) = [check for check in plots.check(model) if check.note.kind == "finding"]
    assert (finding.property, finding.verdict) == ("causality", "all")


def test_random_inputs_have_a_prefix_of_half_of_the_length():
    model = builders.build(small_spec(prefix_lm=True, max_sequence_length=29))
    inputs = plots.random_inputs(model, batch=3, length=11)
    np.testing.assert_array_equal(inputs["prefix_length"], [5, 5, 5])
    assert inputs["tokens"].shape == (3, 11)


def test_attention_maps_show_the_prefix_that_is_given():
    model = random_model(small_spec(prefix_lm=True, num_layers=1))
    tokens = np.full((1, 7), 3, "int32")
    inputs = {"tokens": tokens, "prefix_length": np.array([3], "int32")}
    (found,) = plots.attention_maps(model, inputs).values()
    query, key = np.indices((7, 7))
    expected = (key <= query) | ((key < 3) & (query < 3))
    np.testing.assert_array_equal(found.weights[0] > 0, np.broadcast_to(expected, (2, 7, 7)))


def test_a_model_of_others_with_a_prefix_is_described_by_running_it():
    seen = np.maximum(np.tri(11), np.arange(11)[None] < 4).astype(bool)[None]
    tokens = keras.Input((11,), dtype="int32")
    x = keras.layers.Embedding(31, 14)(tokens)
    x = x + keras.layers.MultiHeadAttention(2, 7)(x, x, attention_mask=seen)
    model = keras.Model(tokens, keras.layers.Dense(31)(keras.layers.LayerNormalization()(x)))
    text = description(model)
    assert WORDS in text
    assert "the first 4 see each other" in text
