"""Every backbone of KerasHub opens, and all of its skip paths are found."""

import inspect
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import keras
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
    "BilinearInterpolate": "takes no symbolic tensors",
    "ChunkGatedDeltaRule": "repeats its calls, as a loop does",
    "Distance2Bbox": "takes no symbolic tensors",
    "Gather": "it is a function of TensorFlow",  # which DeBERTa calls in a method
    "Interpolate": "takes no symbolic tensors",
    "RnnGeneralizedDeltaRule": "takes no symbolic tensors",
}
"""Functions that are one call -> the reason. All composite layers are opened."""

UNUSED = {
    "BASNet": ["unused_weights"],  # the first layers of its image encoder
    "DINOV2": ["embeddings"],
    "DINOV3": ["embeddings"],
    "DepthAnything": ["functional#1.embeddings", "neck.fusion_stage_0", "unused_weights"],
    "SAM": ["sam_prompt_encoder#1"],
    "SAM3PromptableConcept": ["sam3_vision_encoder#1.backbone.embeddings"],
    "SmolLM3": ["transformer_layer_2.self_attn"],
}
"""Backbones with weights that no call takes -> the opened layers that have them."""

REPEATS = {name: [3] for name in TEXT_MODELS} | {
    "Bart": [3, 3],
    "EdRec": [2, 2],
    "GptOss": [2, 2],  # a pattern of two kinds of attention
    "Moonshine": [2, 2],
    "Qwen3_5": [2],  # then an attention
    "Qwen3_5Moe": [2],
    # The first layer has another norm, and makes the value that the others take. A dropout follows.
    "RWKV7": [2, 2],
    "SmolLM3": [2],  # the third layer has no positions
    "T5": [3, 3],
    "T5Gemma": [2, 2],
    "T5Gemma2": [2, 2],
    "Whisper": [3, 3],
    # Images. A stage of two blocks, of which the first projects or widens, has nothing to fold.
    "BASNet": [3, 3],  # the stages of its encoder are models that end before an activation
    "CSPNet, dark": [2],
    "DINOV2": [2],
    "DINOV3": [2],
    # Convolutions and bottlenecks in pairs, 16 bins in two sums, and two of three layers of the
    # decoder, with the calls that refine the boxes of the layer before.
    "DFine": [2, 2, 2, 2, 2, 15, 15, 2],
    "DeepLabV3": [2],
    "DeiT": [2],
    "DenseNet": [3],  # and two blocks, which show no growth
    "DepthAnything": [],  # each layer feeds another part of the neck
    "EfficientNet": [2],  # the first of two blocks has no drop, the first of three a stride
    "HGNetV2": [2],  # convolutions of equal sizes in one of three blocks
    "MiT": [2],
    "MobileNet": [2],
    "MobileNetV5": [],
    "ResNet, V2": [],
    "ResNet, VD": [],
    "ResNet, basic": [2],  # without a projection in the first stage
    "ResNet, bottleneck": [],
    "RetinaNet": [2],
    "SegFormer": [2],
    "SwinTransformer": [2],  # in the second stage, which is one window, nothing is shifted
    "VGG": [],
    "ViT": [12],
    "ViTDet": [2, 2],  # local and global attention
    "Xception": [2],
    # Several kinds of data
    "BLIP2, OPT": [2, 2],  # cross-attention in every other one of three layers of the queries
    "BLIP2, T5": [2, 2, 2],
    "CLIP": [2, 2],
    "Flux": [2, 4],
    "Gemma3n": [2, 3, 3],  # with a slice for each of the layers of text
    "MetaCLIP2": [2, 2],
    "PARSeq": [2],
    "PaliGemma": [2, 3],
    "SAM": [2, 2],
    # The second layer of the decoder takes boxes that the first one predicts.
    "SAM3PromptableConcept": [2, 2, 2, 3],
    "SigLIP": [2, 2],
    # Two text encoders, whose second to last layer is taken, and T5, each twice; and the stages of
    # both sides of the VAE. The three layers between them differ.
    "StableDiffusion3": [2] * 10,
    "VideoPrism": [2, 2, 2],
}
"""Numbers of equal layers of an opened backbone that are folded."""


def is_drawn(graph: Graph, path: Path) -> bool:
    """Return whether an SVG shows all calls of a graph."""
    plots.draw(graph, path)
    titles = {each.text for each in ElementTree.parse(path).iter() if each.tag.endswith("}title")}
    return titles >= set(graph.index)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", HUB_MODELS)
def test_a_backbone_has_the_skip_paths_of_its_constructor(name, tmp_path):
    make, number = HUB_MODELS[name]
    model = make()
    closed = plots.read_graph(model, open_nested=True)
    graph = plots.read_graph(model, open_nested=True, open_layers=True)
    assert len(plots.skip_paths(graph)) == number
    assert graph.parameters == closed.parameters == model.count_params()
    assert sum(node.parameters for node in graph.nodes if node.owns_weights) == graph.parameters
    for note in graph.notes:
        if note.kind == "closed":
            assert CLOSED[graph.node(note.about[0]).class_name] in note.text
    unused = [node for node in graph.nodes if node.kind == "weights"]
    assert sorted(node.namespace or node.id for node in unused) == UNUSED.get(name, [])
    assert sorted(plots.fold(graph).repeats.values()) == sorted(REPEATS[name])
    counts = [plots.flops(read).overlay("flops").whole for read in (closed, graph)]
    assert counts[0] == counts[1] or any(count.missing for count in counts)
    for read in (closed, graph):
        assert Graph.from_json(read.to_json()) == read
        if keras.backend.backend() == "tensorflow":  # of the same graphs on others
            check_pictures(plots.fold(plots.parameters(read)), tmp_path)


def check_pictures(folded: Graph, folder: Path) -> None:
    """Check that the renderers draw all calls."""
    assert plots.to_text(folded).count("\n") > len(folded.nodes)
    assert plots.to_mermaid(folded).count("\n n") >= len(folded.nodes)
    assert plots.to_html(folded).startswith("<!doctype html>")
    assert is_drawn(folded, folder / "model.svg")


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
