"""Attentions are found by structure; diagnosis, attention maps and letters find the same ones."""

import keras
import numpy as np
import plots_models
import pytest
from hand_made_transformers import (
    CAUSAL,
    HEAD_WIDTH,
    HEADS,
    LEAKING,
    LENGTH,
    WIDTH,
    attention,
    encoder,
    language_model,
    translator,
)
from keras import layers, ops
from small_models import ALL_KINDS, small_spec

import builders
import plots
from plots.attentions import find_attentions

pytestmark = pytest.mark.usefixtures("fixed_seed")

SOURCE_LENGTH = 13


def projections(x, memory, width=WIDTH):
    """Queries (b, t, width), keys and values (b, s, width)."""
    return tuple(layers.Dense(width)(y) for y in (x, memory, memory))


def heads_first(x, memory):
    """Queries (b, n, t, h), keys and values (b, n, s, h)."""
    split = layers.Reshape((-1, HEADS, HEAD_WIDTH))
    parts = projections(x, memory, HEADS * HEAD_WIDTH)
    return tuple(ops.transpose(split(part), (0, 2, 1, 3)) for part in parts)


def joined(mixed):
    """Heads (b, n, t, h) as (b, t, width)."""
    mixed = layers.Reshape((-1, HEADS * HEAD_WIDTH))(ops.transpose(mixed, (0, 2, 1, 3)))
    return layers.Dense(WIDTH)(mixed)


def single_head(x, memory):
    query, key, value = projections(x, memory)
    return ops.softmax(query @ ops.swapaxes(key, 1, 2) / WIDTH**0.5) @ value


def scores_by_dot_layer(x, memory):
    query, key, value = projections(x, memory)
    weights = layers.Activation("softmax")(layers.Dot(axes=2)([query, key]))
    return layers.Dot(axes=(2, 1))([layers.Dropout(0.1)(weights), value])


def keys_before_queries(x, memory):
    """Scores (b, s, t), with the softmax over s."""
    query, key, value = projections(x, memory)
    weights = ops.softmax(key @ ops.transpose(query, (0, 2, 1)), axis=1)
    return ops.transpose(weights, (0, 2, 1)) @ value


def scores_transposed_before_softmax(x, memory):
    query, key, value = projections(x, memory)
    scores = layers.Permute((2, 1))(key @ ops.transpose(query, (0, 2, 1)))
    return layers.Softmax()(scores) @ value


def several_heads(x, memory):
    query, key, value = heads_first(x, memory)
    weights = layers.Softmax()(ops.matmul(query, ops.moveaxis(key, 2, 3)) / HEAD_WIDTH**0.5)
    return joined(ops.matmul(layers.Dropout(0.1)(weights), value))


def heads_in_the_batch(x, memory):
    """Scores (b n, t, s)."""
    query, key, value = (
        ops.reshape(part, (-1, part.shape[2], HEAD_WIDTH)) for part in heads_first(x, memory)
    )
    mixed = ops.softmax(query @ ops.swapaxes(key, 1, 2)) @ value
    return joined(ops.reshape(mixed, (-1, HEADS, x.shape[1], HEAD_WIDTH)))


def weights_reshaped_twice(x, memory):
    query, key, value = heads_first(x, memory)
    scores = ops.matmul(query, ops.swapaxes(key, 2, 3))
    flat = ops.reshape(scores, (-1, x.shape[1], memory.shape[1]))
    weights = ops.reshape(ops.softmax(flat), (-1, HEADS, x.shape[1], memory.shape[1]))
    return joined(ops.matmul(weights, value))


def heads_behind_queries(x, memory):
    """Scores (b, t, n, s) of an einsum."""
    query, key, value = (ops.transpose(part, (0, 2, 1, 3)) for part in heads_first(x, memory))
    weights = ops.softmax(ops.einsum("btnh,bsnh->btns", query, key))
    mixed = ops.einsum("btns,bsnh->btnh", weights, value)
    return layers.Dense(WIDTH)(layers.Reshape((-1, HEADS * HEAD_WIDTH))(mixed))


def additive(x, memory):
    """Bahdanau et al. 2015: v · tanh(q + k), by a projection to one number."""
    query, key, value = projections(x, memory)
    hidden = ops.tanh(ops.expand_dims(query, 2) + ops.expand_dims(key, 1))
    return ops.softmax(ops.squeeze(layers.Dense(1)(hidden), -1)) @ value


def additive_by_sums(x, memory):
    query, key, value = projections(x, memory)
    hidden = ops.tanh(layers.Add()([ops.expand_dims(key, 1), ops.expand_dims(query, 2)]))
    weights = ops.softmax(ops.sum(hidden * np.ones(WIDTH, "float32"), axis=-1))
    return ops.sum(ops.expand_dims(weights, -1) * ops.expand_dims(value, 1), axis=2)


MULTI_HEAD = [several_heads, heads_in_the_batch, weights_reshaped_twice, heads_behind_queries]
FORMS = [
    single_head,
    scores_by_dot_layer,
    keys_before_queries,
    scores_transposed_before_softmax,
    *MULTI_HEAD,
    additive,
    additive_by_sums,
]


def cross_attention(form):
    x = keras.Input((LENGTH, WIDTH), name="x")
    memory = keras.Input((SOURCE_LENGTH, WIDTH), name="memory")
    return keras.Model([x, memory], form(x, memory))


def source_of(graph, edge):
    """Name of the input that a tensor is computed from."""
    node = graph.node(edge.source)
    while node.kind != "input":
        node = graph.node(graph.incoming[node.id][0].source)
    return node.name


@pytest.mark.parametrize("form", FORMS)
def test_queries_keys_and_values_are_told_apart_by_structure(form):
    graph = plots.read_graph(cross_attention(form))
    (found,) = find_attentions(graph)
    assert not found.is_one_call
    assert not found.is_self
    assert source_of(graph, found.query) == "x"
    assert {source_of(graph, e) for e in (*found.keys, *found.values)} == {"memory"}
    (own,) = find_attentions(plots.read_graph(language_model(lambda tokens: lambda x: form(x, x))))
    assert own.is_self


@pytest.mark.parametrize("form", FORMS)
def test_attention_maps_of_every_form_have_queries_as_rows_and_sum_to_one(form):
    model = cross_attention(form)
    inputs = plots.random_inputs(model)
    (found,) = plots.attention_maps(model, inputs).values()
    heads = HEADS if form in MULTI_HEAD else 1
    assert found.weights.shape == (2, heads, LENGTH, SOURCE_LENGTH)
    assert found.kind == "cross"
    np.testing.assert_allclose(found.weights.sum(-1), 1, rtol=0, atol=1e-6)
    # Only the map of a query that is changed changes.
    changed = {name: array.copy() for name, array in inputs.items()}
    changed["x"][1, 5] += 1
    (other,) = plots.attention_maps(model, changed).values()
    differs = np.abs(other.weights - found.weights).max(axis=(1, 3)) > 1e-6
    assert np.argwhere(differs).tolist() == [[1, 5]]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("form", FORMS)
def test_diagnosis_maps_and_letters_find_the_same_attention(form):
    model = language_model(lambda tokens: lambda x: form(x, x))
    graph = plots.read_graph(model)
    (place,) = plots.attention_maps(model)
    (remark,) = (n for n in plots.diagnose(graph).notes if "next token" in n.text)
    assert remark.about == (place,)
    assert [a.id for a in find_attentions(graph)] == [place]
    crossed = plots.shapes(plots.read_graph(cross_attention(form)))
    letters = {letter for tensor in crossed.node(place).outputs for letter in tensor.letters}
    assert {"t", "s"} <= letters
    assert plots.shapes(graph).letters["t"] == LENGTH


def test_a_decoder_step_has_one_query():
    """Bahdanau et al. 2015, as written with `Dot(axes=1)`: scores (b, s, 1) and one state."""
    state, memory = keras.Input((1, WIDTH), name="state"), keras.Input((SOURCE_LENGTH, WIDTH))
    hidden = layers.Activation("tanh")(layers.Dense(5)(memory) + layers.Dense(5)(state))
    weights = layers.Softmax(axis=1)(layers.Dense(1)(hidden))
    model = keras.Model([state, memory], layers.Dot(axes=1)([weights, memory]))
    graph = plots.read_graph(model)
    (found,) = find_attentions(graph)
    assert source_of(graph, found.query) == "state"
    (weighted,) = plots.attention_maps(model).values()
    assert weighted.weights.shape == (2, 1, 1, SOURCE_LENGTH)


def test_masks_between_scores_and_softmax_belong_to_the_attention():
    x, mask = keras.Input((LENGTH, WIDTH)), keras.Input((1, LENGTH), dtype="bool", name="mask")
    scores = ops.where(mask, x @ ops.swapaxes(x, 1, 2), -1e9)
    graph = plots.read_graph(keras.Model([x, mask], ops.softmax(scores) @ x))
    (found,) = find_attentions(graph)
    assert (found.id, found.output) == ("softmax#1", "matmul#2")
    assert [edge.source for edge in found.masks] == ["mask"]
    assert [constant.value for constant in found.constants if constant.value is not None] == [-1e9]


def gated(x):
    return ops.softmax(x) * layers.Dense(WIDTH)(x)


def mixture_of_experts(x):
    return ops.einsum("bte,bth->beh", ops.softmax(layers.Dense(5)(x)), layers.Dense(7)(x))


def pooled_by_learned_weights(x):
    return ops.sum(ops.softmax(layers.Dense(1)(x), axis=1) * x, axis=1)


def similarities(x):
    return ops.softmax(x @ ops.swapaxes(x, 1, 2))


@pytest.mark.parametrize(
    "function", [gated, mixture_of_experts, pooled_by_learned_weights, similarities]
)
def test_a_softmax_without_queries_keys_or_values_is_no_attention(function):
    x = keras.Input((LENGTH, WIDTH))
    model = keras.Model(x, function(x))
    assert find_attentions(plots.read_graph(model)) == ()
    assert plots.attention_maps(model) == {}


def layer_over_an_image():
    image = keras.Input((3, 5, WIDTH))
    return keras.Model(image, layers.MultiHeadAttention(HEADS, HEAD_WIDTH)(image, image))


def grouped():
    x, memory = keras.Input((LENGTH, WIDTH)), keras.Input((SOURCE_LENGTH, WIDTH))
    return keras.Model([x, memory], layers.GroupQueryAttention(HEAD_WIDTH, 4, 2)(x, memory))


def additive_layer():
    x, memory = keras.Input((LENGTH, WIDTH)), keras.Input((SOURCE_LENGTH, WIDTH))
    return keras.Model([x, memory], layers.AdditiveAttention()([x, memory]))


def nested_encoder():
    x = keras.Input((LENGTH, WIDTH))
    inner = keras.Model(x, attention("inner")(x), name="inner_model")
    return keras.Model(x, inner(layers.LayerNormalization()(x)))


def built(**changes):
    return lambda: builders.build(small_spec(num_layers=1, **changes))


def decode_step(kind):
    spec = small_spec(kind=kind, num_layers=1)
    return builders.build_decode_step(builders.build(spec), spec, batch_size=2, num_tokens=1)


ZOO = {
    **{kind: lambda make=make: language_model(make) for kind, make in (CAUSAL | LEAKING).items()},
    "encoder": lambda: encoder(["pre"] * 4),
    "translator": translator,
    "decoder by einsum": plots_models.decoder_only,
    "encoder-decoder by einsum": plots_models.encoder_decoder,
    "layer over an image": layer_over_an_image,
    "grouped": grouped,
    "additive layer": additive_layer,
    "nested": nested_encoder,
    "no attention": lambda: keras.Sequential([keras.Input((3,)), layers.Dense(5)]),
    **{f"built {kind}": built(kind=kind) for kind in ALL_KINDS},
    **{f"built {kind} in steps": built(kind=kind, attention_dropout=0.1) for kind in ALL_KINDS},
    "step of a decoder": lambda: decode_step("decoder_only"),
    "step of an encoder-decoder": lambda: decode_step("encoder_decoder"),
    **{f"built {kind} by layers": built(kind=kind, attention="layer") for kind in ALL_KINDS},
}


@pytest.mark.sampled(10)
@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_there_is_a_map_for_every_attention_of_every_model(make):
    model = make()
    found = find_attentions(plots.read_graph(model, open_nested=True))
    maps = plots.attention_maps(model, open_nested=True)
    assert list(maps) == [attention.id for attention in found]
    assert [weights.kind for weights in maps.values()] == [
        "self" if attention.is_self else "cross" for attention in found
    ]
    for weighted in maps.values():
        np.testing.assert_allclose(weighted.weights.sum(-1), 1, rtol=0, atol=1e-5)
