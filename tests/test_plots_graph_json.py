"""Graphs as JSON: equal in every process and after reading; damaged files raise an error."""

import itertools
import json
import re
from dataclasses import replace

import keras
import plots_models
import pytest
from keras import layers

import plots
from plots.conformance import sample_graphs
from plots.skips import mark_skip_paths

SAMPLE = sample_graphs(large=False)["annotated"]


def unnamed():
    x = keras.Input((3,), name="x")
    hidden = layers.Dense(3)
    return keras.Model(x, hidden(layers.Dropout(0.1)(hidden(x) + x)) * 2.0)


def test_names_generated_by_keras_are_left_out():
    """They depend on what else was built; test_plots_graph compares with another process."""
    text = plots.read_graph(unnamed()).to_json()
    assert '"dense#1@2"' in text
    assert not re.search(r'"name": "(dense|dropout|add|multiply)', text)
    assert plots.Graph.from_json(text).node("dense#1@2").name == "dense#1@2"


@pytest.mark.parametrize("make", [unnamed, plots_models.encoder_decoder])
def test_a_graph_read_back_is_equal_and_draws_the_same(make):
    graph = mark_skip_paths(plots.read_graph(make()))
    read = plots.Graph.from_json(graph.to_json())
    assert read == graph
    assert read.to_json() == graph.to_json()
    assert plots.to_text(read) == plots.to_text(graph)
    assert plots.to_mermaid(read) == plots.to_mermaid(graph)
    assert read.overlays == graph.overlays == ()


def test_results_of_plugins_are_read_back():
    read = plots.Graph.from_json(SAMPLE.to_json().encode())
    assert read == SAMPLE
    for part in ("repeats", "letters", "pictures", "overlays", "notes", "skip_paths", "stream"):
        assert getattr(read, part) == getattr(SAMPLE, part), part
    assert [dict(o.values) for o in read.overlays] == [dict(o.values) for o in SAMPLE.overlays]
    assert [dict(n.config) for n in read.nodes] == [dict(n.config) for n in SAMPLE.nodes]


def changed(change):
    document = json.loads(SAMPLE.to_json())
    change(document)
    return json.dumps(document)


def swap_calls(document):
    document["nodes"].reverse()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot read a graph from text that is not JSON"),
        ("{" * 100_000, "cannot read a graph from text that is not JSON"),
        (b"\xff\xfe\x00", "cannot read a graph from text that is not JSON"),
        ("[1, 2]", 'not a graph: expected a JSON object with "format": "functional graph"'),
        ('{"format": "something else"}', "not a graph"),
        (changed(lambda d: d.update(version=99)), "version 99, but only 3 can be read"),
        (changed(lambda d: d.pop("version")), "version None"),
        (changed(lambda d: d.pop("nodes")), "damaged .*nodes"),
        (changed(lambda d: d["nodes"][0].pop("id")), "damaged .*id"),
        (changed(lambda d: d["nodes"][0].update(colour="red")), "damaged .*colour"),
        (changed(lambda d: d["edges"][0].pop("tensor")), "damaged .*tensor"),
        (changed(lambda d: d["nodes"].append(d["nodes"][0])), "several calls with the id 'tokens'"),
        (changed(lambda d: d["edges"].append(d["edges"][0])), "several edges with the id 'tokens"),
        (changed(swap_calls), "the call .* comes before .*, its source"),
        (changed(lambda d: d["nodes"].pop()), "the edge .* starts or ends at an unknown call"),
        (changed(lambda d: d["edges"][0].update(output=7)), "starts at an unknown output"),
        (
            changed(lambda d: d["inputs"].append("x")),
            "inputs of the graph 'stack' refer to the unknown 'x'",
        ),
        (changed(lambda d: d["outputs"].append(["x", 0])), "outputs .* unknown 'x'"),
        (
            changed(lambda d: d["outputs"].append(["logits", 3])),
            r"the output logits\[3\] of 'stack' is unknown",
        ),
        (changed(lambda d: d["stream"].append(["x", "logits"])), "the stream .* unknown 'x'"),
        (changed(lambda d: d["skip_paths"][0]["through"].append("x")), "skip_paths .* unknown 'x'"),
        (changed(lambda d: d["pictures"].update(x="")), "pictures .* unknown 'x'"),
        (changed(lambda d: d["notes"][0]["about"].append("x")), "notes .* unknown 'x'"),
        (changed(lambda d: d["overlays"][0]["values"].update(x={})), "overlays .* unknown 'x'"),
        (changed(lambda d: d.update(parameters=10**400)), r"damaged \(graph.parameters must be"),
        (
            changed(lambda d: d["nodes"][0]["outputs"][0].update(shape=[10**400])),
            r"damaged \(graph.nodes\[0\].outputs\[0\].shape\[0\] must be a number of at most",
        ),
        (
            changed(lambda d: d["edges"][0]["tensor"].update(shape=[10**29, 11])),
            "the number of elements of the edge .* must be a number of at most",
        ),
        (changed(lambda d: d["nodes"][1].update(config={"units": 10**400})), "damaged .*units"),
        (changed(lambda d: d.update(parameters=-3)), "parameters of the graph 'stack' must be 0"),
        (changed(lambda d: d["nodes"][1].update(parameters=-3)), "parameters of the call .* -3"),
        (
            changed(lambda d: d["nodes"][0]["outputs"][0].update(shape=[None, -3])),
            "the shape of the call .* must be 0 or more, given -3",
        ),
        (changed(lambda d: d.update(repeats={"x": 0})), "'x' stands for 0 blocks"),
    ],
)
def test_damaged_text_raises_an_error_with_the_reason(text, says):
    with pytest.raises(ValueError, match=says):
        plots.Graph.from_json(text)


PARTS = json.loads(SAMPLE.to_json())
PLACES = [
    *((key,) for key in PARTS),
    *(("nodes", 1, key) for key in PARTS["nodes"][1]),
    *(("edges", 1, key) for key in PARTS["edges"][1]),
    *(("notes", 0, key) for key in PARTS["notes"][0]),
    *(("overlays", 0, key) for key in PARTS["overlays"][0]),
    *(("skip_paths", 0, key) for key in PARTS["skip_paths"][0]),
]


def test_a_wrong_value_anywhere_is_read_or_raises_value_error():
    for place, wrong in itertools.product(PLACES, (None, 7, "x", [[7]], {"x": 7})):
        document = json.loads(SAMPLE.to_json())
        part = document
        for step in place[:-1]:
            part = part[step]
        part[place[-1]] = wrong
        try:
            read = plots.Graph.from_json(json.dumps(document))
        except ValueError:
            continue
        assert isinstance(read, plots.Graph), (place, wrong)


def test_numbers_that_are_not_finite_raise_an_error():
    graph = sample_graphs(large=False)["one call"]
    overlay = plots.Overlay("a", "a", "", {"x": {"": float("nan")}})
    with pytest.raises(ValueError, match="not JSON compliant"):
        replace(graph, overlays=(overlay,)).to_json()
