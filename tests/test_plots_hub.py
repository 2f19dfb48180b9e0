"""Every backbone of KerasHub opens, and all of its skip paths are found."""

import inspect
import re
from typing import Any

import pytest
from hub_images import IMAGE_MODELS
from hub_multimodal import MULTIMODAL_MODELS
from hub_text import TEXT_MODELS
from keras_hub import models

import plots
from plots.graph import Graph

HUB_MODELS = {**TEXT_MODELS, **IMAGE_MODELS, **MULTIMODAL_MODELS}

PARTS = {
    "CLIPTextEncoder": "CLIP",
    "CLIPVisionEncoder": "CLIP",
    "MetaCLIP2TextEncoder": "MetaCLIP2",
    "MetaCLIP2VisionEncoder": "MetaCLIP2",
    "SigLIPTextEncoder": "SigLIP",
    "SigLIPVisionEncoder": "SigLIP",
}
"""Backbones that are read as a part of another one -> its name."""

CLOSED = {
    "ContentAndQueryEmbedding": "one of its outputs does not depend on its inputs",
    "DINOV2Embedding": "no call inside takes its weight",
    "DINOV3Embedding": "no call inside takes its weight",
    "DepthAnythingFeatureFusionLayer": "no call inside takes its weight",
    "SAM3Embedding": "no call inside takes its weight",
    "DisentangledSelfAttention": "Invalid dtype: NoneType",
    "EsmSelfAttention": "Iterating over a symbolic KerasTensor is not supported",
    "GptOssAttention": "Invalid dtype: NoneType",
    "SAMPromptEncoder": "no call inside takes its weight",
    "SmolLM3Attention": "no call inside takes its weight",
    "SigLIPTextEmbedding": "Cannot broadcast shape",
    "VideoPrismTemporalEmbedding": "The total size of the tensor must be unchanged",
    # Functions
    "BilinearInterpolate": "takes no symbolic tensors",
    "ChunkGatedDeltaRule": "repeats its calls, as a loop does",
    "Distance2Bbox": "takes no symbolic tensors",
    "Interpolate": "takes no symbolic tensors",
    "RnnGeneralizedDeltaRule": "takes no symbolic tensors",
}
"""Composite layers that stay closed, and functions that are one call -> the reason.

None is around a skip path that was counted. A layer whose call takes not all of its weights must be
closed, so that its box has all of them.
"""

WITH_UNUSED_WEIGHTS = ("BASNet", "DepthAnything")
"""Backbones that use a part of their image encoder only, which Keras counts as a whole."""

REPEATS = {name: [3] for name in TEXT_MODELS} | {
    "Bart": [3, 3],
    "EdRec": [2, 2],
    "GptOss": [],  # a pattern of two kinds of attention, of which there are three
    "Moonshine": [2, 2],
    "Qwen3_5": [2],  # then an attention
    "Qwen3_5Moe": [2],
    "RWKV7": [],  # the first layer differs, and two others are not a stack
    "T5": [3, 3],
    "T5Gemma": [2, 2],
    "T5Gemma2": [2, 2],
    "Whisper": [3, 3],
}
"""Number of equal layers of a backbone of text, which are folded if it is opened."""


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
    assert (graph.parameters == model.count_params()) == (name not in WITH_UNUSED_WEIGHTS)
    for note in graph.notes:
        class_name = graph.node(note.about[0]).class_name
        assert CLOSED[class_name] in note.text
    for read in (closed, graph):
        assert Graph.from_json(read.to_json()) == read
        check_pictures(plots.fold(plots.parameters(read)))


def check_pictures(folded: Graph) -> None:
    """Check that the renderers of text draw all calls."""
    assert plots.to_text(folded).count("\n") > len(folded.nodes)
    assert plots.to_mermaid(folded).count("\n n") >= len(folded.nodes)
    assert plots.to_html(folded).startswith("<!doctype html>")


NOT_FOLDED = {
    "SmolLM3": "the attention of the third layer stays closed",
    "T5Gemma": "the decoder's layers, opened, are not found equal",
    "T5Gemma2": "the decoder's layers, opened, are not found equal",
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(
            name,
            marks=[pytest.mark.xfail(reason=NOT_FOLDED[name], strict=True)]
            if name in NOT_FOLDED
            else [],
        )
        for name in REPEATS
    ],
)
def test_the_equal_layers_of_an_opened_backbone_fold(name):
    graph = plots.read_graph(TEXT_MODELS[name][0](), open_nested=True, open_layers=True)
    assert list(plots.fold(graph).repeats.values()) == REPEATS[name]


@pytest.mark.slow
def test_every_backbone_is_here():
    def is_backbone(value: Any) -> bool:
        return inspect.isclass(value) and issubclass(value, models.Backbone)

    read = {getattr(models, f"{name.partition(',')[0]}Backbone") for name in HUB_MODELS}
    abstract = {models.Backbone, models.FeaturePyramidBackbone}
    others = {value for _, value in inspect.getmembers(models, is_backbone)} - read - abstract
    assert {each.__name__ for each in others} == set(PARTS)
    for whole in set(PARTS.values()):
        classes = {type(part) for part in HUB_MODELS[whole][0]()._flatten_layers()}
        assert classes >= {each for each in others if PARTS[each.__name__] == whole}


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
