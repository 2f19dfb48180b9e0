"""Activations and gradients along the depth show the effect of skip paths and norms."""

from functools import cache

import keras
import numpy as np
import plots_models
import pytest
from keras import layers, ops
from small_models import small_spec

import builders
import plots

BLOCKS = 11


@cache
def deep(norm_placement, merge="add"):
    keras.utils.set_random_seed(1)
    sizes = {"num_layers": BLOCKS, "norm_placement": norm_placement, "merge": merge}
    return plots.depth_profile(builders.build_decoder_only(small_spec(**sizes)))


MODEL = plots_models.decoder_only()
GRAPH = plots.read_graph(MODEL)
INPUTS = plots.random_inputs(MODEL, seed=1)


def numbers(overlay):
    return {place: overlay.number(value) for place, value in overlay.values.items()}


@pytest.mark.slow
def test_a_profile_has_an_entry_for_every_sublayer_with_and_without_skip_paths():
    parts = [
        f"decoder.block_{block}.{part}"
        for block in range(BLOCKS)
        for part in ("self_attention", "feedforward")
    ]
    residual, ablated = deep("pre"), deep("none", merge="none")
    assert residual.places == tuple(f"{part}.residual" for part in parts)
    assert [place.rpartition(".")[0] for place in ablated.places] == parts
    for found in (residual, ablated):
        assert len(found.variance) == len(found.skip_gradient) == len(found.branch_gradient) == 22


@pytest.mark.slow
def test_variance_grows_with_depth_in_pre_norm_but_not_in_post_norm():
    growing = deep("pre").variance
    thirds = [np.mean(growing[start : start + 7]) for start in (0, 7, 14)]
    assert thirds[0] < thirds[1] < thirds[2]
    assert growing[-1] > 10 * growing[0]
    # After the first norm a branch is added to what has variance 1.
    assert all(0.5 < variance < 4 for variance in deep("post").variance[1:])


@pytest.mark.slow
def test_gradients_vanish_without_skip_paths_and_bypass_sublayers_with_them():
    ablated, residual = deep("none", merge="none"), deep("pre")
    assert ablated.branch_gradient[-1] > 1000 * ablated.branch_gradient[0]
    assert not any(ablated.skip_gradient)
    assert [*ablated.gradients] == ["branch"]
    assert residual.skip_gradient[0] > residual.skip_gradient[-1]
    # From the second block on, more comes back past a sublayer than through it.
    both = zip(residual.skip_gradient[2:], residual.branch_gradient[2:], strict=True)
    assert all(past > through for past, through in both)


def test_skip_and_branch_are_the_sums_over_all_edges_that_part_there():
    model = plots_models.decoder_only("post", blocks=1)
    found = plots.depth_profile(model, INPUTS)
    edges = plots.edge_gradients(model, INPUTS)
    start = "decoder.embedding_dropout"
    attention = "decoder.block_0.self_attention"
    branch = sum(edges[f"{start} -> {attention}.{x}.inputs"] for x in ("query", "key", "value"))
    skip = edges[f"{start} -> {attention}.residual.inputs.0"]
    assert found.branch_gradient[0] == pytest.approx(np.linalg.norm(branch), rel=1e-5)
    assert found.skip_gradient[0] == pytest.approx(np.linalg.norm(skip), rel=1e-5)
    merged = plots.call_values(model, INPUTS)[f"{attention}.residual"][0]
    assert found.variance[0] == pytest.approx(merged.var(), rel=1e-5)


def test_tiny_gradients_do_not_underflow():
    model = plots_models.decoder_only(blocks=1)

    def profile(scale):
        return plots.depth_profile(model, INPUTS, loss=lambda y: scale * ops.sum(y * y))

    large, small = profile(1), profile(1e-25)
    np.testing.assert_allclose(
        small.branch_gradient, 1e-25 * np.array(large.branch_gradient), rtol=1e-4
    )
    np.testing.assert_allclose(small.skip_gradient, 1e-25 * np.array(large.skip_gradient), 1e-4)


def test_the_variance_of_infinity_is_infinite_and_that_of_nan_is_nan():
    x = keras.Input((5,), name="x")
    with_branch = layers.Add(name="first")([x, layers.Dense(5, "relu")(x)])
    model = keras.Model(x, layers.Add(name="second")([with_branch, layers.Dense(5)(with_branch)]))
    for worst in (np.inf, np.nan):
        given = np.ones((3, 5), "float32")
        model.layers[1].set_weights([np.eye(5), np.zeros(5)])
        model.layers[3].set_weights([np.zeros((5, 5)), np.array([worst, 0, 0, 0, 0])])
        variance = plots.depth_profile(model, given).variance
        assert variance[0] == 0
        np.testing.assert_equal(variance[1], worst)


def test_a_profile_can_be_restricted_to_one_of_two_stacks():
    found = plots.depth_profile(plots_models.encoder_decoder(blocks=1), within="decoder")
    parts = ("self_attention", "cross_attention", "feedforward")
    assert found.places == tuple(f"decoder.block_0.{part}.residual" for part in parts)
    plain = plots_models.encoder_decoder("pre", blocks=1, residual=False)
    cross = plots.depth_profile(plain, within="decoder").branch_gradient[1]
    edge = "decoder.block_0.self_attention.dropout -> decoder.block_0.cross_attention.norm.inputs"
    gradient = plots.edge_gradients(plain)[edge]
    assert cross == pytest.approx(np.linalg.norm(gradient), rel=1e-4)


def test_a_model_without_depth_is_an_error():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(5)])
    with pytest.raises(ValueError, match="neither skip paths nor numbered blocks"):
        plots.depth_profile(model)
    with pytest.raises(ValueError, match="blocks within 'encoder'"):
        plots.depth_profile(MODEL, within="encoder")


def test_activations_are_measured_for_every_call_that_returns_floats():
    graph = plots.activations(GRAPH, MODEL, INPUTS)
    root, variance = (numbers(graph.overlay(f"activation {name}")) for name in ("RMS", "variance"))
    values = {
        node_id: arrays[0]
        for node_id, arrays in plots.call_values(MODEL, INPUTS).items()
        if arrays[0].dtype.kind == "f"
    }
    assert root.keys() == variance.keys() == values.keys()
    for node_id, array in values.items():
        assert root[node_id] == pytest.approx(np.sqrt(np.mean(array**2)), rel=1e-5)
        assert variance[node_id] == pytest.approx(array.var(), rel=1e-5)
    assert not graph.notes
    assert plots.Graph.from_json(graph.to_json()) == graph


def test_masked_scores_do_not_count_and_the_first_nan_is_noted():
    x = keras.Input((5,), name="x")
    hidden = ops.where(ops.greater(x, 0), x, -np.inf)
    root = layers.Lambda(ops.sqrt, name="root")(x)
    graph = plots.read_graph(model := keras.Model(x, [hidden, layers.Dense(3, name="after")(root)]))
    inputs = np.array([[-1, 4, -1, 1, 1], [4, 4, 1, 1, 1]], "float32")
    measured = plots.activations(graph, model, inputs)
    sizes = numbers(measured.overlay("activation RMS"))
    assert sizes["where#1"] == pytest.approx(np.sqrt((3 * 16 + 5) / 8))
    assert sizes["root"] == pytest.approx(np.sqrt((3 * 4 + 5) / 8))
    (note,) = measured.notes
    assert note.about == ("root",)
    assert note.text.startswith("2 of the 10 numbers")
    measured.to_json()


def test_gradients_are_on_every_call_and_on_the_edges_where_they_part():
    graph = plots.gradients(GRAPH, MODEL, INPUTS)
    sizes = numbers(graph.overlay("gradients"))
    assert "logits" in sizes
    assert "tokens" not in sizes
    edges = plots.edge_gradients(MODEL, INPUTS)
    first, second = (f"decoder.block_0.{part}" for part in ("self_attention", "feedforward"))
    ways = [f"{first}.residual -> {second}.{end}" for end in ("norm.inputs", "residual.inputs.0")]
    for edge in ways:
        assert sizes[edge] == pytest.approx(np.sqrt(np.mean(edges[edge] ** 2)), rel=1e-5)
    both = np.sqrt(np.mean((edges[ways[0]] + edges[ways[1]]) ** 2))
    assert sizes[f"{first}.residual"] == pytest.approx(both, rel=1e-5)
    assert f"{second}.up -> {second}.down.inputs" not in sizes
    assert plots.Graph.from_json(graph.to_json()) == graph


def test_gradients_with_nan_are_left_out_and_the_last_call_with_them_is_noted():
    x = keras.Input((5,), name="x")
    y = layers.Dense(5, name="before", use_bias=False)(x)
    root = layers.Lambda(ops.sqrt, name="root")(y)
    model = keras.Model(x, layers.Dense(3, name="after")(root))
    model.get_layer("before").set_weights([np.diag([0.0, 1, 1, 1, 1])])
    graph = plots.gradients(plots.read_graph(model), model, np.ones((2, 5)))
    assert numbers(graph.overlay("gradients")).keys() == {"root", "after"}
    (note,) = graph.notes
    assert (note.kind, note.about) == ("finding", ("before",))
    assert note.text.startswith("2 of the 10 numbers of the gradient")
    graph.to_json()


def test_a_graph_of_closed_models_is_measured_without_opening_them():
    inner_x = keras.Input((7,))
    inner = keras.Model(inner_x, layers.Dense(7, name="inside")(inner_x), name="inner")
    x = keras.Input((7,), name="x")
    model = keras.Model(x, inner(x))
    for nested, name in ((False, "inner"), (True, "inner.inside")):
        graph = plots.activations(plots.read_graph(model, nested), model)
        assert numbers(graph.overlay("activation RMS")).keys() == {"x", name}


@pytest.mark.parametrize("name", ["activations", "gradients", "attention"])
def test_measuring_a_graph_without_its_model_is_an_error(name):
    with pytest.raises(ValueError, match=f"{name}.*there is only its graph"):
        plots.apply_plugins(GRAPH, [name])


def test_the_graph_of_another_model_is_an_error():
    other = keras.Sequential([keras.Input((3,), name="other"), layers.Dense(5, name="else")])
    with pytest.raises(ValueError, match="was not read from the model"):
        plots.activations(GRAPH, other)


def test_overlays_survive_folding():
    graph = plots.apply_plugins(GRAPH, ["skip_paths", "gradients", "activations"], MODEL)
    folded = plots.fold(graph, depth=2)
    group = "decoder.block_0.feedforward.*"
    last = "decoder.block_0.feedforward.dropout"
    for name in ("gradients", "activation variance"):
        assert folded.overlay(name).values[group] == graph.overlay(name).values[last]
