"""Diagnoses describe the models of builders, KerasHub and Keras, and find nothing wrong in them."""

import itertools
import re
from typing import Any

import keras
import keras_hub
import pytest
from hub_backbones import BACKBONES
from quick import slow_unless
from small_models import ALL_KINDS, ALL_VARIANTS, reduced_variant, small_spec

import builders
import plots

NORMS = {
    "pre": "Pre-norm",
    "parallel": "Pre-norm",
    "parallel_shared_norm": "Pre-norm",
    "output": "Res-post-norm",
    "post": "Post-norm",
    "sandwich": "Sandwich-norm",
    "none": "Norm-free",
}
QUICK_BACKBONES = ("gpt2", "gpt_neo_x", "llama", "gemma2", "bert", "bart")
POSITIONS = {
    "sinusoidal_concat": "sinusoidal",
    "coordinates": "sinusoidal",
    "alibi": "ALiBi",
    "none": "no",
}


def diagnosed(spec):
    """The description and the findings of the graph of a spec."""
    graph = plots.read_graph(builders.build(spec, abstract=True), open_nested=True)
    (description,) = (n for n in plots.diagnose(graph).notes if n.kind == "description")
    return description.text, plots.findings(graph)


def check_description(description, spec):
    kind = spec.kind.removesuffix("_only").replace("_", "-")
    # A step on the sphere ends with a norm on the stream.
    title = "Post-norm" if spec.merge == "spherical" else NORMS[spec.norm_placement]
    assert description.startswith(f"{title} Transformer {kind}: ")
    blocks, paths = "2 blocks", 4
    if kind == "encoder-decoder":
        blocks, paths = "2 encoder blocks and 2 decoder blocks", 10
    if spec.norm_placement.startswith("parallel"):  # one for all sublayers of a block
        paths = 4 if kind == "encoder-decoder" else 2
    if spec.value_residual:  # the values of block 0 are added to those of block 1
        paths += len(spec.stacks)
    sort = "gated skip" if spec.merge == "highway" else "residual"
    assert f"{blocks} with {paths} {sort} paths" in description
    names_norm = spec.final_norm and spec.norm_placement != "post"
    assert (", final norm;" in description) == names_norm
    assert ("causal self-attention" in description) == (kind != "encoder" and not spec.prefix_lm)
    assert ("in both directions" in description) == (kind != "decoder" or spec.prefix_lm)
    assert f"; {POSITIONS.get(spec.positions, spec.positions)} positions" in description


@pytest.mark.sampled(5)
@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(*variant, marks=[] if index % 8 == 0 else [pytest.mark.slow])
        for index, variant in enumerate(ALL_VARIANTS)
    ],
)
def test_nothing_looks_wrong_in_a_variant(name, kind):
    spec = reduced_variant(name, kind)
    description, findings = diagnosed(spec)
    assert findings == ()
    check_description(description, spec)


COMPONENTS: list[dict[str, Any]] = [
    {"norm_placement": "parallel"},
    {"norm_placement": "parallel_shared_norm", "merge": "layer_scale"},
    {"norm_placement": "output", "merge": "highway"},
    {"norm_placement": "post", "merge": "scaled", "skip_scale": "deep_norm"},
    {"norm_placement": "sandwich"},
    {"positions": "alibi"},
    {"positions": "none"},
    {"attention": "layer"},
    {"attention_dropout": 0.1},
]


@pytest.mark.parametrize(
    ("changes", "kind"),
    slow_unless(
        lambda changes, kind: COMPONENTS.index(changes) % 3 == ALL_KINDS.index(kind),
        itertools.product(COMPONENTS, ALL_KINDS),
    ),
    ids=str,
)
def test_nothing_looks_wrong_in_a_component(changes, kind):
    spec = small_spec(kind=kind, **changes)
    description, findings = diagnosed(spec)
    assert findings == ()
    check_description(description, spec)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_ablations_without_norms_or_skip_paths_are_found(kind):
    streams = 2 if kind == "encoder_decoder" else 1
    _, findings = diagnosed(small_spec(kind=kind, norm_placement="none"))
    assert ["No norm" in finding.text for finding in findings] == [True] * streams
    description, (finding,) = diagnosed(small_spec(kind=kind, merge="none"))
    assert "no skip paths" in description
    assert "No skip path leads past any of the" in finding.text


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_nothing_looks_wrong_in_decode_steps_and_probes(kind):
    spec = small_spec(kind=kind)
    model = builders.build(spec)
    derived = [
        builders.build_decode_step(model, spec, batch_size=1, num_tokens=1),
        builders.build_probe(model, spec, what="attention_scores"),
    ]
    if kind == "encoder_decoder":
        derived.append(builders.build_encode(model, spec))
    assert [plots.findings(plots.read_graph(graph)) for graph in derived] == [()] * len(derived)


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name",
    [
        name if name in QUICK_BACKBONES else pytest.param(name, marks=pytest.mark.slow)
        for name in BACKBONES
    ],
)
@pytest.mark.filterwarnings("ignore:Layer '.*' .of type T5", "ignore:Layer '.*' looks like")
def test_nothing_looks_wrong_in_a_backbone_of_keras_hub(name):
    class_name, config = BACKBONES[name]
    backbone = getattr(keras_hub.models, f"{class_name}Backbone")(**config)
    graph = plots.read_graph(backbone, open_nested=True)
    assert plots.findings(graph) == ()
    text = plots.diagnosis_text(graph)
    assert re.search("closed layers?|of them closed", text)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("MobileNetV3Small", "6 residual paths; BatchNormalization last on the branch"),
        *(
            pytest.param(name, said, marks=pytest.mark.slow)
            for name, said in {
                "ResNet50": "16 residual paths, 4 of them projected; BatchNormalization last",
                "ResNet50V2": "16 residual paths, 7 of them projected; BatchNormalization first",
                "EfficientNetB0": "9 residual paths; BatchNormalization last on the branch",
                "ConvNeXtTiny": "18 residual paths; LayerNormalization;",
                "InceptionResNetV2": "40 residual paths; BatchNormalization",
                "DenseNet121": "Network with 58 concatenated skip connections: ",
                "VGG16": "Network without skip paths: 16 layers with weights",
            }.items()
        ),
    ],
)
def test_nothing_looks_wrong_in_an_application_of_keras(name, said):
    size = 75 if name.startswith("Inception") else 32
    with keras.StatelessScope(initialize_variables=False):
        model = getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3))
    graph = plots.read_graph(model, open_nested=True)
    assert plots.findings(graph) == ()
    assert said in plots.diagnosis_text(graph).replace("\n", " ")
