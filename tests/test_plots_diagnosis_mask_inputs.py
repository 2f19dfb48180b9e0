"""Masks that are inputs of a model: how they hide keys decides, and their names claim."""

import keras
import numpy as np
import pytest
from keras import layers, ops

import plots
from plots.attentions import find_attentions
from plots.checking.visibility import visibility

LENGTH, WIDTH = 11, 7


def weights_of(how, scores, mask):
    """Return attention weights that are masked in some way."""
    hidden = scores - 1e9 * (1 - mask)
    if how == "scores times mask":
        return ops.softmax(scores * mask)
    if how == "weights times mask":
        return ops.softmax(scores) * mask
    if how == "masked twice":
        return ops.softmax(hidden) * mask
    if how == "normalised again":
        weights = ops.softmax(scores) * mask
        return weights / ops.sum(weights, axis=-1, keepdims=True)
    if how == "both cases":
        return ops.softmax(scores * mask - 1e9 * (1 - mask))
    if how == "chosen":
        return ops.softmax(ops.where(mask > 0, scores, -1e9))
    if how == "added":
        return ops.softmax(scores + mask)
    assert how == "large number added"
    return ops.softmax(hidden)


def encoder(how, name, dtype="float32"):
    """Return an attention of float vectors with a mask as its second input, (t, t)."""
    x, given = keras.Input((LENGTH, WIDTH)), keras.Input((LENGTH, LENGTH), name=name, dtype=dtype)
    query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
    weights = weights_of(how, scores, ops.cast(given, "float32") if dtype != "float32" else given)
    y = layers.LayerNormalization()(x + layers.Dense(WIDTH)(ops.matmul(weights, value)))
    return keras.Model([x, given], layers.Dense(5)(y))


def notes_of(model):
    return [n for n in plots.diagnose(model).notes if n.kind in ("finding", "remark")]


@pytest.mark.parametrize("dtype", ["float32", "int32"])
@pytest.mark.parametrize(
    ("how", "name", "expected"),
    [
        ("scores times mask", "attention_mask", ("finding", "hides nothing")),
        ("scores times mask", "adjacency", ("remark", "the key is not hidden")),
        ("weights times mask", "attention_mask", ("finding", "A mask after the softmax")),
        ("weights times mask", "adjacency", ("remark", "sum to less than 1")),
    ],
)
def test_a_mask_input_that_multiplies_is_found_where_its_name_claims_a_mask(
    how, name, expected, dtype
):
    kind, words = expected
    assert [note.kind for note in notes_of(encoder(how, name, dtype)) if words in note.text] == [
        kind
    ]


@pytest.mark.sampled(3)
@pytest.mark.parametrize("name", ["attention_mask", "adjacency"])
@pytest.mark.parametrize(
    "how",
    ["masked twice", "normalised again", "both cases", "chosen", "added", "large number added"],
)
def test_a_mask_input_that_hides_keys_is_right(how, name):
    assert notes_of(encoder(how, name)) == []


@pytest.mark.parametrize(
    ("matrix", "expected"),
    [
        (np.arange(LENGTH)[None] < 5, "start"),
        ((np.arange(LENGTH)[None] < 5) | np.eye(LENGTH, dtype=bool), "start"),
        ((np.arange(LENGTH)[None] < 5) | np.tri(LENGTH, dtype=bool), "prefix"),
        (np.arange(LENGTH)[None] < LENGTH - 2, "start"),
    ],
)
def test_a_length_is_told_from_a_prefix(matrix, expected):
    found = visibility(np.broadcast_to(matrix, (LENGTH, LENGTH)), range(LENGTH))
    assert found.kind == expected


def graph_attention(how):
    """Return an attention whose scores are sums of a number of each node, as in GAT."""
    x, adjacency = keras.Input((LENGTH, WIDTH)), keras.Input((LENGTH, LENGTH))
    y = layers.Dense(13)(x)
    scores = layers.Dense(1)(y) + ops.transpose(layers.Dense(1)(y), (0, 2, 1))
    weights = weights_of(how, layers.LeakyReLU(0.2)(scores), adjacency)
    return keras.Model([x, adjacency], layers.Dense(5)(ops.matmul(weights, y)))


def test_sums_of_a_number_of_each_query_and_each_key_are_scores():
    (attention,) = find_attentions(plots.read_graph(graph_attention("chosen")))
    assert attention.axes == (1, 2)
    assert notes_of(graph_attention("chosen")) == []
    (note,) = notes_of(graph_attention("weights times mask"))
    assert "sum to less than 1" in note.text


def with_lengths(is_shown, pooled=False):
    """Return an encoder of tokens with their number as its second input.

    `is_shown` tells from positions (t,) and numbers (b, 1) which keys are shown, (b, t) or
    (b, t, t).
    """
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    number = keras.Input((1,), dtype="int32", name="count")
    x = layers.Embedding(97, WIDTH)(tokens)
    query, key, value = (layers.Dense(WIDTH)(x) for _ in range(3))
    scores = ops.matmul(query, ops.transpose(key, (0, 2, 1))) / WIDTH**0.5
    shown = is_shown(ops.arange(LENGTH)[None], number)
    mask = shown[:, None] if len(shown.shape) == 2 else shown
    y = x + ops.matmul(ops.softmax(ops.where(mask, scores, -1e9)), value)
    y = layers.LayerNormalization()(y)
    if pooled:
        shares = ops.cast(shown, "float32")[:, :, None]
        y = ops.sum(y * shares, axis=1) / (ops.sum(shares, axis=1) + 1e-6)
    return keras.Model([tokens, number], layers.Dense(3)(y))


def triangle_and_prefix(positions, number):
    earlier = ops.less_equal(positions[:, None], positions[:, :, None])  # (1, t, t)
    return ops.logical_or(earlier, ops.less(positions, number)[:, None])


@pytest.mark.parametrize("pooled", [False, True])
def test_an_encoder_with_lengths_is_no_decoder(pooled):
    text = " ".join(plots.diagnosis_text(plots.diagnose(with_lengths(ops.less, pooled))).split())
    assert "self-attention in both directions" in text
    assert "after the first n positions of 'tokens', n being 'count', changes no output" in text
    assert "causal" not in text
    assert "prefix" not in text
    assert "remark" not in text


@pytest.mark.parametrize("pooled", [False, True])
def test_a_length_that_hides_what_it_counts_is_a_remark(pooled):
    (note,) = notes_of(with_lengths(ops.greater_equal, pooled))
    assert (note.kind, note.about) == ("remark", ("count",))
    assert "The first positions of 'tokens', as many as 'count' gives, are hidden" in note.text


def test_the_length_of_a_prefix_is_no_inverted_one():
    diagnosed = plots.diagnose(with_lengths(triangle_and_prefix))
    assert "causal after a prefix" in " ".join(plots.diagnosis_text(diagnosed).split())
    assert not [note for note in diagnosed.notes if note.kind == "remark" and "count" in note.about]


def last_state(index, convolved=False):
    """Return a recurrent model that reads one state, at an index computed from the number."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    number = keras.Input((1,), dtype="int32", name="num_tokens")
    states = layers.Embedding(97, WIDTH)(tokens)
    if convolved:
        states = layers.Conv1D(WIDTH, 3, padding="same")(states)
    states = layers.GRU(13, return_sequences=True)(states)
    at = ops.one_hot(ops.clip(index(number), 0, LENGTH - 1)[:, 0], LENGTH)
    return keras.Model([tokens, number], layers.Dense(5)(ops.einsum("bt,btd->bd", at, states)))


def test_the_state_after_the_last_one_is_found():
    (note,) = notes_of(last_state(lambda number: number))
    assert (note.kind, note.about) == ("finding", ("num_tokens",))
    assert "One position too many" in note.text
    assert notes_of(last_state(lambda number: number - 1)) == []


def test_a_convolution_that_reads_the_next_position_reads_no_position_too_many():
    assert notes_of(last_state(lambda number: number - 1, convolved=True)) == []


def test_a_mask_of_a_length_that_shows_one_key_more_is_found():
    (note,) = notes_of(with_lengths(ops.less_equal))  # by the name "count"
    assert "One position too many" in note.text


@pytest.mark.parametrize("right", [False, True])
@pytest.mark.parametrize("form", ["product", "where"])
def test_numbers_to_be_added_to_scores_are_no_mask_of_a_layer(form, right):
    x, real = keras.Input((LENGTH, WIDTH)), keras.Input((LENGTH,), name="real")
    added = (1.0 - real) * -1e9 if form == "product" else ops.where(real > 0, 0.0, -1e9)
    mask = ops.cast(real, "bool") if right else added
    y = layers.MultiHeadAttention(2, 5)(x, x, attention_mask=mask[:, None])
    found = notes_of(keras.Model([x, real], layers.Dense(3)(x + y)))
    texts = [note.text for note in found if note.kind == "finding"]
    assert [text.startswith("Large negative numbers for a mask") for text in texts] == [True] * (
        not right
    )
