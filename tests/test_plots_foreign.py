"""Every model of `keras.applications`, and a Vision Transformer of KerasHub, as a graph.

Skip paths are those of the published architectures, and FLOPs those that their papers or the table
of torchvision report: https://docs.pytorch.org/vision/stable/models.html, its column GFLOPS, which
counts a multiply-add once.
"""

import inspect
import json
import math
import warnings
import xml.etree.ElementTree as ElementTree
from typing import NamedTuple

import keras
import pytest
from keras import layers
from products import BACKEND, requires_graph_tracing, traced_flops

import plots
from builders.abstract import without_weights
from plots.graph import Graph
from plots.renderers.graphviz import svg

pytestmark = pytest.mark.slow

# Skip paths -------------------------------------------------------------------------------------


def repeated(depth, repeats):
    """Repeats of the blocks of a stage, scaled as by EfficientNet (Tan and Le 2019, section 3)."""
    return [math.ceil(depth * blocks) for blocks in repeats]


def without_first(repeats):
    """The first block of a stage changes the width or the resolution, and has no skip path."""
    return sum(blocks - 1 for blocks in repeats)


DEPTHS = (1.0, 1.1, 1.2, 1.4, 1.8, 2.2, 2.6, 3.1)  # of EfficientNetB0 to B7
EFFICIENT_NET = (1, 2, 2, 3, 3, 4, 1)
EFFICIENT_NET_V2 = (1, 2, 2, 3, 5, 8)  # B0; Tan and Le 2021, and the authors' code
V2_LARGE = {
    "S": (2, 4, 4, 6, 9, 15),  # table 4
    "M": (3, 5, 5, 7, 14, 18, 5),
    "L": (4, 7, 7, 10, 19, 25, 7),
}
CONV_NEXT = {"Tiny": 3 + 3 + 9 + 3} | dict.fromkeys(
    ("Small", "Base", "Large", "XLarge"), 3 + 3 + 27 + 3
)
RES_NET = {"50": 3 + 4 + 6 + 3, "101": 3 + 4 + 23 + 3, "152": 3 + 8 + 36 + 3}

SKIP_PATHS = {
    **{f"ConvNeXt{size}": blocks for size, blocks in CONV_NEXT.items()},
    **{f"DenseNet{depth}": 0 for depth in (121, 169, 201)},
    **{
        f"EfficientNetB{size}": without_first(repeated(depth, EFFICIENT_NET))
        for size, depth in enumerate(DEPTHS)
    },
    **{
        f"EfficientNetV2B{size}": without_first(repeated(depth, EFFICIENT_NET_V2))
        for size, depth in enumerate(DEPTHS[:4])
    },
    # The first stage keeps the width of the stem: its first block has a skip path too.
    **{f"EfficientNetV2{size}": 1 + without_first(r) for size, r in V2_LARGE.items()},
    "InceptionResNetV2": 10 + 20 + 10,
    "InceptionV3": 0,
    "MobileNet": 0,
    "MobileNetV2": without_first((1, 2, 3, 4, 3, 3, 1)),  # Sandler et al. 2018, table 2
    "MobileNetV3Large": 10,  # Howard et al. 2019, table 1: rows of equal width and stride 1
    "MobileNetV3Small": 6,  # table 2
    # Every cell has one sum of the last cell's output with a branch of it (Zoph et al. 2018,
    # figure 4): N normal cells three times, two reductions, and two in the stem.
    "NASNetLarge": 3 * 6 + 2 + 2,
    "NASNetMobile": 3 * 4 + 2 + 2,
    **{f"ResNet{depth}": blocks for depth, blocks in RES_NET.items()},
    **{f"ResNet{depth}V2": blocks for depth, blocks in RES_NET.items()},
    "VGG16": 0,
    "VGG19": 0,
    "Xception": 3 + 8 + 1,  # Chollet 2017, figure 5
}

# FLOPs ------------------------------------------------------------------------------------------

MULTIPLY_ADDS = {  # in 10^9, at the default size of the input
    "ConvNeXtTiny": 4.46,  # torchvision, where no paper is named
    "ConvNeXtSmall": 8.68,
    "ConvNeXtBase": 15.36,
    "ConvNeXtLarge": 34.36,
    "DenseNet121": 2.83,
    "DenseNet169": 3.36,
    "DenseNet201": 4.29,
    "EfficientNetB0": 0.39,  # Tan and Le 2019, table 2
    "EfficientNetB3": 1.83,
    "EfficientNetB4": 4.39,
    "EfficientNetB5": 10.27,
    "EfficientNetB6": 19.07,
    "EfficientNetB7": 37.75,
    "EfficientNetV2S": 8.37,
    "EfficientNetV2M": 24.58,
    "EfficientNetV2L": 56.08,
    "InceptionV3": 5.71,
    "MobileNet": 0.569,  # Howard et al. 2017, table 8
    "MobileNetV2": 0.300,  # Sandler et al. 2018, table 4
    "MobileNetV3Large": 0.219,  # Howard et al. 2019, table 3
    "MobileNetV3Small": 0.056,
    "NASNetLarge": 23.8,  # Zoph et al. 2018, table 2
    "NASNetMobile": 0.564,
    "ResNet50": 3.8,  # He et al. 2016, table 1
    "ResNet101": 7.6,
    "ResNet152": 11.3,
    "VGG16": 15.47,
    "VGG19": 19.63,
    "Xception": 8.4,  # timm's model card of legacy_xception
}


class Application(NamedTuple):
    name: str
    model: keras.Model
    closed: Graph
    opened: Graph


@pytest.fixture(scope="module", params=SKIP_PATHS)
def application(request):
    with without_weights():
        model = getattr(keras.applications, request.param)(weights=None)
    graphs = (plots.read_graph(model, open_nested=o, open_layers=o) for o in (False, True))
    return Application(request.param, model, *graphs)


def flops_of(graph):
    """Return the overlay, and FLOPs of one image of 224 x 224 pixels if its size is free."""
    overlay = plots.flops(graph).overlay("flops")
    return overlay, overlay.number(overlay.whole)


def flat_layers(model):
    for layer in model.layers:
        yield from flat_layers(layer) if isinstance(layer, keras.Model) else [layer]


def counted_by_layers(model):
    """Count the multiply-adds of convolutions and products by their kernels, times two."""
    total = 0
    for layer in flat_layers(model):
        if isinstance(layer, layers.SeparableConv2D):
            positions = math.prod(layer.output.shape[1:3])
            kernels = (layer.depthwise_kernel, layer.pointwise_kernel)
            total += 2 * positions * sum(math.prod(kernel.shape) for kernel in kernels)
        elif isinstance(layer, layers.Conv2D | layers.DepthwiseConv2D | layers.Dense):
            positions = math.prod(layer.output.shape[1:-1])
            total += 2 * positions * math.prod(layer.kernel.shape)
    return total


def test_every_constructor_is_here():
    made = inspect.getmembers(keras.applications, inspect.isfunction)
    assert {name for name, _ in made} == set(SKIP_PATHS)


def test_skip_paths_are_those_of_the_architecture(application):
    for graph in (application.closed, application.opened):
        assert len(plots.skip_paths(graph)) == SKIP_PATHS[application.name]


def test_flops_are_those_of_the_kernels_and_those_that_are_published(application):
    overlay, number = flops_of(application.opened)
    assert overlay.title == "FLOPs"
    if application.name in MULTIPLY_ADDS:
        assert number / 2e9 == pytest.approx(MULTIPLY_ADDS[application.name], rel=0.02)
    if None not in application.model.input_shape[1:]:
        assert number == counted_by_layers(application.model)
    at_most, _ = flops_of(application.closed)
    has_models = any(node.kind == "model" for node in application.closed.nodes)
    assert bool(at_most.whole.missing) == has_models
    assert has_models or at_most.whole == overlay.whole


def test_weights_are_those_that_keras_counts(application):
    model = application.model
    size = sum(math.prod(v.shape) * keras_bytes(v.dtype) for v in model.weights)
    trainable = sum(math.prod(v.shape) for v in model.trainable_weights)
    for graph in (application.closed, application.opened):
        assert graph.parameters == model.count_params()
        assert graph.trainable_parameters == trainable
        graph = plots.memory(plots.parameters(graph))
        assert graph.overlay("weight_memory").whole == {"": size}
        values = graph.overlay("parameters").values
        assert sum(value[""] for value in values.values()) == model.count_params()


def keras_bytes(dtype):
    return {"float32": 4, "int64": 8, "int32": 4}[dtype]


def test_json_gives_the_same_graph_again(application):
    for graph in (application.closed, application.opened):
        text = graph.to_json()
        again = Graph.from_json(text)
        assert again == graph
        assert again.to_json() == text


@pytest.mark.filterwarnings("ignore:.*too large to read:UserWarning")
def test_every_renderer_draws_it(application):
    graph = plots.apply_plugins(application.opened, ["skip_paths", "parameters", "flops"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is above the limits of Mermaid
        mermaid = plots.to_mermaid(graph)
    assert mermaid.count("\n n") >= len(graph.nodes) - mermaid.count("subgraph")
    assert plots.to_text(graph).count("\n") > len(graph.nodes)
    nodes = json.loads(plots.to_model_explorer(graph))["graphs"][0]["nodes"]
    assert len(nodes) == len(graph.nodes)
    assert plots.to_html(graph).startswith("<!doctype html>")
    root = ElementTree.fromstring(svg(graph))
    drawn = [g for g in root.iter("{http://www.w3.org/2000/svg}g") if g.get("class") == "node"]
    assert len(drawn) >= len(graph.nodes)


@requires_graph_tracing
@pytest.mark.parametrize("name", ["MobileNetV2", "EfficientNetB0", "ResNet50V2", "Xception"])
def test_flops_are_those_that_the_backend_computes(name):
    if BACKEND == "jax":
        pytest.skip("as TensorFlow, in more time")
    model = getattr(keras.applications, name)(weights=None, input_shape=(72, 72, 3))
    graph = plots.read_graph(model, open_nested=True)
    computed = traced_flops(lambda x: model(x), ((1, 72, 72, 3), "float32"))
    assert flops_of(graph)[1] == computed


def test_a_vision_transformer_costs_what_is_published():
    """ViT-B/16 on 224 x 224 pixels, with the class token: 17.56 (torchvision), closed or opened.

    The number includes the products of queries and keys, and of scores and values, which others
    leave out (16.87); the head of 1,000 classes, 0.0008, is not in a backbone.
    """
    import keras_hub

    sizes = {"num_layers": 12, "num_heads": 12, "hidden_dim": 768, "mlp_dim": 3072}
    with without_weights():
        model = keras_hub.models.ViTBackbone(image_shape=(224, 224, 3), patch_size=16, **sizes)
    for opens in (False, True):
        graph = plots.read_graph(model, open_layers=opens)
        overlay, number = flops_of(graph)
        assert overlay.title == "FLOPs"
        assert number / 2e9 == pytest.approx(17.56, rel=0.001)
    assert len(plots.skip_paths(graph)) == 2 * 12
