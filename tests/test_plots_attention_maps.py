"""Attention maps are the weights that the model computes, and pictures show them."""

import base64
import io

import keras
import numpy as np
import pytest
from keras import layers, ops
from PIL import Image
from small_models import TRANSLATOR, probe_activations, random_model, random_tokens, small_spec

import plots
from plots.measuring.attention_maps import (
    LONGEST,
    heads_png,
    maps_of,
    recording,
    reduce_blocks,
    visible_keys,
)
from plots.measuring.execution import Execution
from plots.renderers.boxes import picture_row

B, T, S, N, H = 2, 3, 7, 2, 5
RNG = np.random.default_rng(0)
SPEC = small_spec(**TRANSLATOR)
TRANSLATOR_MODEL, TOKENS = random_model(SPEC), random_tokens(SPEC)


def normal(*shape):
    return RNG.normal(size=shape).astype("float32")


def softmax(scores):
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def namespaced(maps):
    return {node_id.rpartition(".")[0]: found for node_id, found in maps.items()}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "changes",
    [{}, {"attention_dropout": 0.1, "positions": "rotary", "head_dim": 6}, {"attention": "layer"}],
    ids=["fused", "in steps", "library layer"],
)
def test_weights_are_those_of_the_probe(changes):
    spec = small_spec(**TRANSLATOR, **changes)
    model = random_model(spec) if changes else TRANSLATOR_MODEL
    expected = probe_activations(model, spec, TOKENS, "attention_scores")
    found = namespaced(plots.attention_maps(model, TOKENS))
    assert found.keys() == expected.keys()
    for name, weights in expected.items():
        np.testing.assert_allclose(found[name].weights, weights, rtol=0, atol=1e-6)
        assert found[name].kind == ("cross" if "cross" in name else "self")
        np.testing.assert_array_equal(found[name].mask, weights > 0)
    recorded = {}
    execution = Execution.of(model, TOKENS, compute=recording(recorded))
    for place, one in maps_of(execution, recorded).items():
        np.testing.assert_array_equal(visible_keys(execution, place, one.weights.shape), one.mask)


def test_weights_of_a_library_layer_are_its_own_with_implicit_masks():
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    x = layers.Embedding(11, H, mask_zero=True)(tokens)
    attention = layers.MultiHeadAttention(N, 3, name="attention")
    model = keras.Model(tokens, attention(x, x, use_causal_mask=True))
    given = np.array([[3, 5, 7, 0, 0]])
    weights = plots.attention_maps(model, given)["attention"].weights
    embedded = model.layers[1](given)
    _, own = attention(embedded, embedded, use_causal_mask=True, return_attention_scores=True)
    np.testing.assert_allclose(weights, ops.convert_to_numpy(own), rtol=0, atol=1e-6)
    np.testing.assert_array_equal(weights[0, 0, :3] > 0, np.tri(3, 5) > 0)  # of real tokens


def test_weights_of_other_library_layers_are_their_own():
    x, memory = keras.Input((T, H), name="x"), keras.Input((S, H), name="memory")
    grouped = layers.GroupQueryAttention(3, 4, 2, name="grouped")
    returned = grouped(x, memory, return_attention_scores=True)
    model = keras.Model([x, memory], [*returned, layers.Attention(name="single")([x, memory])])
    inputs = {"x": normal(B, T, H), "memory": normal(B, S, H)}
    maps = plots.attention_maps(model, inputs)
    mixed, scores, single = (ops.convert_to_numpy(y) for y in model([*inputs.values()]))
    np.testing.assert_allclose(maps["grouped"].weights, scores, rtol=0, atol=1e-6)
    expected = softmax(np.einsum("bth,bsh->bts", *inputs.values()))[:, None]
    np.testing.assert_allclose(maps["single"].weights, expected, rtol=0, atol=1e-6)
    assert {found.kind for found in maps.values()} == {"cross"}
    assert mixed.shape == single.shape


@pytest.mark.parametrize("with_values", ["positional", "keyword"])
def test_weights_of_the_fused_operation_are_the_softmax_of_its_scores(with_values):
    query, key, bias = normal(B, T, 4, H), normal(B, S, 2, H), normal(B, 4, T, S)
    q, k, v = (
        keras.Input(x.shape[1:], name=n) for n, x in zip("qkv", (query, key, key), strict=True)
    )
    add = keras.Input(bias.shape[1:], name="bias")
    if with_values == "positional":
        mixed = ops.dot_product_attention(q, k, v, bias=add, scale=0.7)
    else:
        mixed = ops.dot_product_attention(query=q, key=k, value=v, bias=add, scale=0.7)
    model = keras.Model([q, k, v, add], mixed)
    inputs = {"q": query, "k": key, "v": key, "bias": bias}
    ((name, found),) = plots.attention_maps(model, inputs).items()
    repeated = np.repeat(key, 2, axis=2)
    scores = np.einsum("btnh,bsnh->bnts", query, repeated) * 0.7 + bias
    np.testing.assert_allclose(found.weights, softmax(scores), rtol=0, atol=1e-6)
    assert (name, found.kind) == ("dot_product_attention#1", "cross")


@pytest.mark.parametrize("attention_axes", [None, (2,)], ids=["all positions", "rows"])
def test_weights_over_an_image_have_its_positions_in_one_row(attention_axes):
    image = keras.Input((3, 5, 7), name="image")
    layer = layers.MultiHeadAttention(N, 3, attention_axes=attention_axes, name="attention")
    model = keras.Model(image, layer(image, image))
    given = normal(B, 3, 5, 7)
    found = plots.attention_maps(model, given)["attention"]
    rows = given if attention_axes is None else given.reshape(B * 3, 5, 7)
    flat = rows.reshape(len(rows), -1, 7)
    query, key = (
        np.einsum("btd,dnh->bnth", flat, ops.convert_to_numpy(dense.kernel))
        for dense in (layer.query_dense, layer.key_dense)
    )
    expected = softmax(query @ key.swapaxes(2, 3) / 3**0.5)
    shape = (B, N, 15, 15) if attention_axes is None else (B, 3 * N, 5, 5)
    np.testing.assert_allclose(found.weights, expected.reshape(shape), rtol=0, atol=1e-6)
    graph = plots.apply_plugins(plots.read_graph(model), ["attention"], model)
    assert list(graph.pictures) == ["attention"]


def test_foreign_layers_with_known_names_have_no_maps():
    class MultiHeadAttention(layers.Layer):
        def call(self, query, value):
            return query + ops.mean(value, axis=1, keepdims=True)

    class DotProductAttention(layers.Layer):
        def call(self, queries, keys, values):
            return ops.matmul(ops.softmax(ops.matmul(queries, ops.swapaxes(keys, 1, 2))), values)

    x = keras.Input((T, H), name="x")
    model = keras.Model(x, DotProductAttention()(MultiHeadAttention()(x, x), x, x))
    assert plots.attention_maps(model) == {}


def heads_first(x, name):
    x = layers.Reshape((-1, N, H))(layers.Dense(N * H, name=name)(x))
    return ops.transpose(x, (0, 2, 1, 3))


def by_hand(softmax_call, queries, keys):
    """Attention (b, t, n h) as it is often written by hand, with the heads first."""
    query, key, value = (heads_first(x, None) for x in (queries, keys, keys))
    scores = ops.matmul(query, ops.transpose(key, (0, 1, 3, 2))) / H**0.5
    return ops.matmul(layers.Dropout(0.5)(softmax_call(scores)), value)


@pytest.mark.parametrize(
    "softmax_call",
    [ops.softmax, layers.Softmax(), layers.Activation("softmax")],
    ids=["operation", "layer", "activation"],
)
def test_maps_of_attention_in_steps_have_their_kind(softmax_call):
    x, memory = keras.Input((T, 5), name="x"), keras.Input((S, 11), name="memory")
    y = layers.LayerNormalization()(x)
    own, cross = by_hand(softmax_call, y, y), by_hand(softmax_call, y, memory)
    model = keras.Model([x, memory], [own, cross])
    maps = [*plots.attention_maps(model).values()]
    assert [(found.kind, found.weights.shape) for found in maps] == [
        ("self", (2, N, T, T)),
        ("cross", (2, N, T, S)),
    ]
    np.testing.assert_allclose(maps[1].weights.sum(-1), 1, rtol=0, atol=1e-6)


def test_a_softmax_without_scores_has_no_map():
    image, x = keras.Input((9, 9, 3), name="image"), keras.Input((T, 5), name="x")
    gate = layers.Multiply()([image, ops.softmax(image)])
    experts = ops.einsum("bte,bth->beh", ops.softmax(x), layers.Dense(7)(x))
    gone = ops.log_softmax(image)
    assert plots.attention_maps(keras.Model([image, x], [gate, experts, gone])) == {}


def test_the_entropy_of_equal_weights_is_the_logarithm_of_their_number():
    weights = np.zeros((1, 1, 2, 4), "float32")
    weights[..., 0, :2], weights[..., 1, :] = 1 / 2, 1 / 4
    assert plots.AttentionMap("self", weights).entropy == pytest.approx((1 + 2) / 2)


def pixels(picture):
    """The pixels of a PNG, (rows, columns, 3)."""
    with Image.open(io.BytesIO(picture)) as image:
        assert (image.format, image.mode) == ("PNG", "RGB")
        return np.array(image)


def test_a_picture_has_a_map_for_every_head_and_its_masked_cells_are_grey():
    weights = np.tile(np.eye(3, dtype="float32"), (6, 1, 1))
    mask = np.tile(np.tri(3, dtype=bool), (6, 1, 1))
    image = pixels(heads_png(weights, mask))
    cell, gap = 96 // 3, 6
    assert image.shape == (2 * 3 * cell + gap, 3 * 3 * cell + 2 * gap, 3)
    middles = [cell // 2 + k * cell for k in range(3)]
    corner = image[-3 * cell :, -3 * cell :][np.ix_(middles, middles)]
    white, full, grey = [255, 255, 255], [8, 48, 107], [208, 208, 208]
    assert corner.tolist() == [[full, grey, grey], [white, full, grey], [white, white, full]]
    assert (image[:, 3 * cell : 3 * cell + gap] == 255).all()


@pytest.mark.parametrize(("heads", "grid"), [(1, (1, 1)), (2, (1, 2)), (8, (2, 4)), (7, (2, 4))])
def test_heads_fill_a_grid_that_is_wider_than_high(heads, grid):
    image = pixels(heads_png(np.full((heads, 3, 3), 0.5), np.ones((heads, 3, 3), bool)))
    assert [round(side / 102) for side in image.shape[:2]] == list(grid)


def test_a_block_of_a_map_is_reduced_to_one_number():
    maps = normal(2, 5, 7)
    blocks = reduce_blocks(maps, (2, 2), np.maximum)
    assert blocks.shape == (2, 3, 4)
    assert blocks[1, 2, 3] == maps[1, 4, 6]
    assert blocks[0, 0, 1] == maps[0, 0:2, 2:4].max()
    np.testing.assert_array_equal(reduce_blocks(maps, (1, 1), np.maximum), maps)


def test_a_cell_of_a_long_sequence_shows_the_largest_weight_of_its_tokens():
    weights = np.zeros((1, 3, 1009))
    weights[0, 2, 100] = 1
    picture = pixels(heads_png(weights, np.ones(weights.shape, bool)))
    assert picture.shape[1] <= 2 * LONGEST
    assert [8, 48, 107] in picture.reshape(-1, 3).tolist()


@pytest.fixture(scope="module")
def drawn():
    graph = plots.read_graph(TRANSLATOR_MODEL)
    return plots.apply_plugins(
        graph, ["skip_paths", ("attention", {"inputs": TOKENS, "example": 1})], TRANSLATOR_MODEL
    )


def test_the_plugin_draws_every_attention_and_measures_its_entropy(drawn):
    maps = plots.attention_maps(TRANSLATOR_MODEL, TOKENS)
    assert list(drawn.pictures) == list(maps)
    overlay = drawn.overlay("attention entropy")
    for node_id, found in maps.items():
        assert overlay.number(overlay.values[node_id]) == pytest.approx(found.entropy)
        assert base64.b64decode(drawn.pictures[node_id]) == heads_png(
            found.weights[1], found.mask[1]
        )
    assert plots.Graph.from_json(drawn.to_json()) == drawn


def test_an_svg_embeds_the_pictures_and_a_png_shows_them(drawn, tmp_path):
    paths = [tmp_path / f"{name}.svg" for name in ("first", "second")]
    for path in paths:
        plots.draw(drawn, path, plugins=[])
    first, second = (path.read_bytes() for path in paths)
    assert first == second
    for picture in drawn.pictures.values():
        assert f'xlink:href="data:image/png;base64,{picture}"'.encode() in first
    assert b".png" not in first
    plots.draw(drawn, tmp_path / "model.png", plugins=[], dpi=40)
    plots.draw(drawn, tmp_path / "model.dot", plugins=[])
    assert b"<img" not in (tmp_path / "model.dot").read_bytes()
    assert (tmp_path / "model.png").stat().st_size > 1000


def test_a_large_picture_is_scaled_and_keeps_its_proportions():
    picture = base64.b64encode(heads_png(np.zeros((1, 3, 3)), np.ones((1, 3, 3), bool))).decode()
    assert 'width="48" height="48"' in picture_row(picture)
    wide = np.zeros((1, 2, 48))
    row = picture_row(base64.b64encode(heads_png(wide, wide == 0)).decode())
    assert 'width="48" height="2"' in row


def test_an_example_outside_of_the_batch_is_an_error():
    graph = plots.read_graph(TRANSLATOR_MODEL)
    with pytest.raises(ValueError, match="example is 3; the batch has the examples 0 to 2"):
        plots.apply_plugins(
            graph, [("attention", {"inputs": TOKENS, "example": 3})], TRANSLATOR_MODEL
        )


def test_a_model_without_attention_gets_no_picture():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(5)])
    graph = plots.read_graph(model)
    assert plots.apply_plugins(graph, ["attention"], model) == graph
