"""Every backbone of KerasHub opens, and all of its skip paths are found."""

import re

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
    "DisentangledSelfAttention": "Invalid dtype: NoneType",
    "EsmSelfAttention": "Iterating over a symbolic KerasTensor is not supported",
    "GptOssAttention": "Invalid dtype: NoneType",
    "PaliGemmaVitEmbeddings": "no call inside takes its weight",
    "Qwen3_5GatedDeltaNet": "no call inside takes its weight",
    "RWKV7TimeMix": "KerasTensor cannot be used as input to a TensorFlow",
    "SAMPromptEncoder": "no call inside takes its weight",
    "SmolLM3Attention": "no call inside takes its weight",
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


BOTH_WAYS = "self-attention in both directions"
DESCRIBED = {
    "Llama": "^Pre-norm Transformer decoder: 3 blocks with 6 .*; causal self-attention; rotary",
    "GPTNeoX": "^Pre-norm Transformer decoder: 3 blocks with 3 .*; causal self-attention; rotary",
    "GPT2": "^Pre-norm Transformer decoder: 3 blocks with 6 .*; causal self-attention; learned",
    "Bloom": "^Pre-norm Transformer decoder: 3 blocks with 6 .*; causal self-attention; ALiBi",
    "Bert": f"^Post-norm Transformer encoder: 3 blocks with 6 .*; {BOTH_WAYS}; learned",
    "Bart": (
        f"^Post-norm Transformer encoder-decoder: 3 encoder blocks and 3 decoder blocks with 15 .*"
        f"; {BOTH_WAYS} in the encoder, causal self-attention in the decoder, cross-attention"
    ),
    "T5": (
        f"^Pre-norm Transformer encoder-decoder: 3 encoder blocks and 3 decoder blocks with 15 .*"
        f"; {BOTH_WAYS} in the encoder, causal self-attention in the decoder, .*; relative"
    ),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", DESCRIBED)
def test_an_opened_backbone_is_described_by_its_calls(name):
    graph = plots.read_graph(TEXT_MODELS[name][0](), open_nested=True, open_layers=True)
    notes = plots.diagnose(graph).notes
    assert not [note.text for note in notes if note.kind == "finding"]
    (description,) = (note.text for note in notes if note.kind == "description")
    assert re.search(DESCRIBED[name], description), description
