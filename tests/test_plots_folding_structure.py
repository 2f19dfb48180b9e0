"""Folding by structure: models without names, or with names that mean nothing."""

import functools
import random
from itertools import pairwise
from math import prod

import keras
import plots_models
import pytest
from keras import layers
from small_graphs import WIDTH, made
from unnamed_models import (
    DIFFERENT,
    REPEATED,
    closed_layers,
    conformer,
    conv_mixer,
    dense_net,
    dilated,
    encoder_decoder,
    growing_rates,
    many_inputs,
    mixer,
    mobile_net,
    post_norm,
    res_net,
    residual_dense,
    two_streams,
    vision_transformer,
)

import plots
from plots.folding import block_runs
from plots.graph import check_graph
from plots.hierarchy import enclosing_namespaces, find_namespaces
from plots.renderers.html import page_data
from plots.skips import mark_skip_paths

# Building these takes longest; the others have blocks of the same kinds.
SLOW = {vision_transformer, post_norm, mixer, conformer, mobile_net, two_streams, closed_layers}


def params(models):
    slow = pytest.mark.slow
    return [pytest.param(model, marks=slow) if model in SLOW else model for model in models]


@functools.cache
def graph_of(model):
    return mark_skip_paths(plots.read_graph(model()))


def times_of(graph, node):
    """Return how many calls one stands for, from all folded blocks around it."""
    names = {*enclosing_namespaces(find_namespaces(graph)[node.id]), node.id}
    return prod(graph.repeats.get(name, 1) for name in names)


@pytest.mark.sampled(8)
@pytest.mark.parametrize("model", params(REPEATED))
def test_blocks_without_names_are_folded(model):
    whole = graph_of(model)
    folded = plots.fold(whole)
    assert list(folded.repeats.values()) == REPEATED[model]
    check_graph(folded)
    assert plots.fold(folded) == folded
    # Opening blocks have some calls of their own.
    extra = [i for note in folded.notes if "first of" in note.text for i in note.about]
    stand_for = sum(1 if n.id in extra else times_of(folded, n) for n in folded.nodes)
    assert stand_for == len(whole.nodes)


@pytest.mark.parametrize("model", DIFFERENT)
def test_what_does_not_repeat_is_not_folded(model):
    assert plots.fold(graph_of(model)) == graph_of(model)


def test_six_equal_blocks_are_drawn_as_one():
    classes = [node.class_name for node in plots.fold(graph_of(residual_dense)).nodes]
    assert classes == ["InputLayer", "LayerNormalization", "Dense", "Add", "Dense"]


@pytest.mark.parametrize("model", params(REPEATED))
def test_the_calls_of_a_run_correspond_one_by_one(model):
    graph = graph_of(model)
    for run in block_runs(graph):
        place = {i: (block, at) for block, ids in enumerate(run.calls) for at, i in enumerate(ids)}
        for before, after in pairwise(run.calls[2:]):  # the first ones take from outside
            for one, other in zip(before, after, strict=True):
                assert graph.node(one).class_name == graph.node(other).class_name
                for edge, like in zip(graph.incoming[one], graph.incoming[other], strict=True):
                    block, at = place.get(edge.source, (None, edge.source))
                    expected = (block, at) if block is None else (block + 1, at)
                    assert place.get(like.source, (None, like.source)) == expected


@functools.cache
def counted(model):
    plugins = plots.list_plugins()
    return plugins["flops"](plugins["memory"](plugins["parameters"](graph_of(model))))


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("model", params(REPEATED))
def test_counts_of_a_folded_graph_add_up_to_those_of_the_whole(model, blocks):
    graph = counted(model)
    folded = plots.fold(graph, blocks=blocks)
    for overlay in folded.overlays:
        values = [
            times_of(folded, node) * overlay.number(overlay.values[node.id])
            for node in folded.nodes
            if node.id in overlay.values
        ]
        assert sum(values) == pytest.approx(overlay.number(overlay.whole))


@pytest.mark.parametrize("model", params([conv_mixer, mixer]))
def test_names_do_not_matter(model):
    numbers = random.Random(17)
    name = lambda: "".join(numbers.choices("abc_123-", k=9)).replace("_", "x", 1)  # noqa: E731

    def renamed(layer):
        return type(layer).from_config({**layer.get_config(), "name": f"n{name()}"})

    named = keras.models.clone_model(model(), clone_function=renamed)
    folded = plots.fold(mark_skip_paths(plots.read_graph(named)))
    assert list(folded.repeats.values()) == REPEATED[model]


# Notes


def notes_of(model, *plugins):
    graph = graph_of(model)
    for plugin in plugins:
        graph = plots.list_plugins()[plugin](graph)
    folded = plots.fold(graph)
    assert {note.kind for note in folded.notes} <= {"varies"}
    return [([folded.node(i).class_name for i in n.about], n.text) for n in folded.notes]


def test_numbers_that_change_with_the_depth_are_ranges():
    assert notes_of(growing_rates) == [(["Dropout"], "rate 0\N{EN DASH}0.2")]
    assert notes_of(dilated) == [(["Conv1D", "Conv1D"], "dilation_rate 1\N{EN DASH}16")]


def test_growing_blocks_show_the_range_of_their_shape_and_that_counts_are_means():
    shape = "returns (None, {0}, {0}, 10\N{EN DASH}22)"
    expected = [shape.format(8), shape.format(4)]
    assert notes_of(dense_net) == [(["Concatenate"], text) for text in expected]
    notes = notes_of(dense_net, "parameters")
    assert notes[::2] == [(["Concatenate"], text) for text in expected]
    for calls, text in notes[1::2]:
        assert text == "counts are means of the 5 blocks"
        assert len(calls) > 1
        assert calls[-1] == "Concatenate"  # all calls of the block


def test_the_first_block_of_a_stage_shows_its_projection():
    projection = ["Conv2D", "BatchNormalization"]
    assert notes_of(res_net) == [
        (["Conv2D"], "strides 2, then 1"),
        (projection, "in the first of 4 blocks only"),
        (["Conv2D"], "strides 2, then 1"),
        (projection, "in the first of 3 blocks only"),
    ]


def test_letters_of_axes_do_not_change_what_is_folded():
    graph = plots.read_graph(res_net())
    expected = plots.apply_plugins(graph, ["fold"]).repeats
    assert len(expected) == 3
    assert plots.apply_plugins(graph, ["shapes", "fold"]).repeats == expected


@pytest.mark.parametrize(
    ("numbers", "times"),
    [
        ([0.1, 0.2, 0.3, 0.4], [4]),
        ([0.1, 0.1, 0.1, 0.1], [4]),
        ([0.4, 0.3, 0.2, 0.1], [4]),
        ([0.1, 0.2], [2]),
        ([0.1, 0.4, 0.1, 0.4], [2, 2]),
        ([0.1, 0.1, 0.4, 0.4], [2, 2]),
        ([0.1, 0.4, 0.2, 0.3], [2, 2]),
    ],
)
def test_numbers_have_to_progress(numbers, times):
    calls = [("x", "InputLayer", [])]
    for place, number in enumerate(numbers):
        source = calls[-1][0]
        calls.append((f"dense#{place}", "Dense", [source], {"units": WIDTH}))
        calls.append((f"dropout#{place}", "Dropout", [calls[-1][0]], {"rate": number}))
        calls.append((f"add#{place}", "Add", [source, calls[-1][0]]))
    assert list(plots.fold(made(*calls)).repeats.values()) == times


@pytest.mark.parametrize(
    ("windows", "times", "note"),
    [
        ([None] * 6, [6], "index 0\N{EN DASH}5"),
        ([3, None] * 3, [3, 3], "index 0\N{EN DASH}4"),
        ([3, None] * 2, [2, 2], "index 0\N{EN DASH}2"),
        ([3, 3, 64] * 2, [2, 2, 2], "index 0\N{EN DASH}3"),
    ],
)
def test_blocks_may_know_their_index(windows, times, note):
    calls = [("x", "InputLayer", [])]
    for index, window in enumerate(windows):
        config = {"units": WIDTH, "index": index, "window": window}
        calls.append((f"layer_{index}", "Dense", [calls[-1][0]], config))
    folded = plots.fold(made(*calls))
    assert list(folded.repeats.values()) == times
    assert note in [found.text for found in folded.notes]


# Names of blocks


@pytest.mark.parametrize(
    ("name", "block"),
    [("Block-{}-{}", "Block_3"), ("{1}_{0}", "block_1"), ("layer{}.{}", "layer3"), ("", "block_1")],
)
def test_blocks_have_the_common_start_of_their_names(name, block):
    x = inputs = keras.Input((7,), name="x")
    for number in range(3, 7):
        called = functools.partial(name.format, number)
        y = layers.LayerNormalization(name=called("norm") or None)(x)
        y = layers.Dense(7, name=called("mlp") or None)(y)
        x = layers.Add(name=called("sum") or None)([x, y])
    folded = plots.fold(plots.read_graph(keras.Model(inputs, x)))
    assert folded.repeats == {block: 4}
    assert set(find_namespaces(folded).values()) == {"", block}


def test_a_new_namespace_has_no_name_that_is_in_use():
    x = inputs = keras.Input((7,), name="x")
    x = layers.Dense(7, activation="relu", name="block_1.other")(x)
    for _ in range(4):
        x = x + layers.Dense(7)(layers.LayerNormalization()(x))
    folded = plots.fold(plots.read_graph(keras.Model(inputs, x)))
    assert folded.repeats == {"block_2": 4}


def test_numbered_blocks_decide_where_a_block_begins():
    graph = plots.read_graph(plots_models.decoder_only("pre", blocks=3))
    assert plots.fold(graph).repeats == {"decoder.block_0": 3}


# Renderers


@pytest.mark.parametrize("model", [residual_dense, encoder_decoder, res_net, many_inputs])
def test_the_explorer_has_the_same_blocks(model):
    data = page_data(graph_of(model))
    assert [len(run["names"]) for run in data["runs"]] == REPEATED[model]
    for run in data["runs"]:
        for name, ids in zip(run["names"], run["calls"], strict=True):
            assert all(f"{data['calls'][i]['namespace']}.".startswith(f"{name}.") for i in ids)
