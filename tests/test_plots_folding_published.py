"""Folding of published architectures, as their papers count the blocks. All of it is slow."""

import time
from dataclasses import replace

import keras
import pytest
from hub_backbones import backbone_of
from unnamed_models import residual_dense

import plots
from plots.skips import mark_skip_paths

pytestmark = pytest.mark.slow

APPLICATIONS = {
    "ConvNeXtTiny": [3, 3, 9, 3],
    "DenseNet121": [6, 12, 24, 16],
    "EfficientNetB0": [2, 2, 3],  # those after the first blocks of stages 4, 5 and 6
    "EfficientNetV2B0": [2, 4, 7],
    "InceptionResNetV2": [10, 20, 9],
    "InceptionV3": [2],
    "MobileNet": [5],
    "MobileNetV2": [2, 3, 2, 2],
    "ResNet50": [3, 4, 6, 3],
    "ResNet152": [3, 8, 36, 3],
    "NASNetMobile": [3, 3, 3],  # the first of four cells halves or projects its second input
    "VGG16": [2, 2, 3],
    "Xception": [8],
}


@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications_fold_as_published(name):
    graph = mark_skip_paths(plots.read_graph(getattr(keras.applications, name)(weights=None)))
    folded = plots.fold(plots.list_plugins()["parameters"](graph))
    assert list(folded.repeats.values()) == APPLICATIONS[name]


@pytest.mark.filterwarnings("ignore:.*does not support masking", "ignore:.*unbuilt state")
@pytest.mark.parametrize(
    ("name", "closed", "opened"),
    [
        ("gpt2", [3], [3]),
        ("llama3", [3], [3]),
        ("bert", [3], [3]),
        ("bart", [3, 3], [3, 3]),
        ("t5", [2, 2], [3, 3]),  # the first layer makes the relative biases of all
    ],
)
def test_backbones_fold_as_published(name, closed, opened):
    model = backbone_of(name)
    assert list(plots.fold(plots.read_graph(model)).repeats.values()) == closed
    graph = plots.read_graph(model, open_layers=True)
    assert list(plots.fold(graph).repeats.values()) == opened


def test_folding_takes_time_in_proportion_to_the_number_of_calls():
    graph = plots.read_graph(residual_dense(2))
    first = graph.nodes[0]
    incoming = [graph.incoming[node.id] for node in graph.nodes[4:7]]
    nodes, edges, last = [first], [], first.id
    for number in range(3333):
        new = {old.id: f"{old.class_name.lower()}#{number}" for old in graph.nodes[4:7]}
        nodes += [replace(n, id=new[n.id], layer=new[n.id]) for n in graph.nodes[4:7]]
        for edge in (edge for ins in incoming for edge in ins):
            source = new.get(edge.source, last)
            edges.append(replace(edge, source=source, target=new[edge.target]))
        last = nodes[-1].id
    deep = plots.Graph("deep", tuple(nodes), tuple(edges), (first.id,), ((last, 0),), 0, 0)
    start = time.process_time()
    assert list(plots.fold(deep).repeats.values()) == [3333]
    assert time.process_time() - start < 5  # seconds; 1 on a machine that does nothing else
