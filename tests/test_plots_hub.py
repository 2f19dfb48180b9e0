"""Every backbone of KerasHub opens, and all of its skip paths are found."""

import pytest
from hub_images import IMAGE_MODELS
from hub_multimodal import MULTIMODAL_MODELS
from hub_text import TEXT_MODELS

import plots

HUB_MODELS = {**TEXT_MODELS, **IMAGE_MODELS, **MULTIMODAL_MODELS}

CLOSED = {
    "ContentAndQueryEmbedding": "one of its outputs does not depend on its inputs",
    "DINOV2Embedding": "no call inside takes its weight",
    "DINOV3Embedding": "no call inside takes its weight",
    "DepthAnythingDepthEstimationHead": "KerasTensor cannot be used as input to a TensorFlow",
    "DepthAnythingFeatureFusionLayer": "KerasTensor cannot be used as input to a TensorFlow",
    "MetaCLIP2VisionEmbedding": "no call inside takes its weight",
    "PaliGemmaVitEmbeddings": "no call inside takes its weight",
    "Qwen3_5GatedDeltaNet": "no call inside takes its weight",
    "RWKV7TimeMix": "KerasTensor cannot be used as input to a TensorFlow",
    "SAMPromptEncoder": "no call inside takes its weight",
    "SigLIPTextEmbedding": "Cannot broadcast shape",
    "ViTPatchingAndEmbedding": "no call inside takes its weight",
    "VideoPrismPatchingAndEmbedding": "no call inside takes its weight",
    "VideoPrismTemporalEmbedding": "The total size of the tensor must be unchanged",
}
"""Composite layers that stay closed -> the reason. None is around a skip path that was counted."""


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
    for note in graph.notes:
        class_name = graph.node(note.about[0]).class_name
        assert CLOSED[class_name] in note.text
