"""`plots.check` runs every model of keras.applications, KerasHub and the registry, and is right."""

import inspect
import warnings

import keras
import pytest
from hub_images import IMAGE_MODELS
from hub_multimodal import MULTIMODAL_MODELS
from hub_text import TEXT_MODELS
from small_models import ALL_VARIANTS, reduced_variant

import builders
import plots

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        keras.backend.backend() != "tensorflow",
        reason="the same on every backend, as other tests show, and slow where all is compiled",
    ),
]

APPLICATIONS = [n for n, f in vars(keras.applications).items() if inspect.isfunction(f)]
SIDES = {"InceptionResNetV2": 75, "InceptionV3": 75, "Xception": 71}  # the smallest
HUB_MODELS = {**TEXT_MODELS, **IMAGE_MODELS, **MULTIMODAL_MODELS}
MISTAKES = {
    "ESM2": "transformer_layer_0",  # its attention masks the queries of padding, not the keys
    "ESM2, pre": "transformer_layer_0",
    "RoformerV2": "transformer_layer_0",  # as ESM2
    "XLNet": "xlnet_encoder_0",  # its mask is reshaped where it should be transposed
}
"""KerasHub's models in which padding reaches real positions -> where."""
NOT_RUNNING = ("Moonshine",)  # KerasHub itself fails to compute them at this size


def findings(model):
    checks = plots.check(model)
    assert "numbers" in {check.property for check in checks}  # it ran
    return [check.note for check in checks if check.note.kind == "finding"]


@pytest.mark.parametrize("name", APPLICATIONS)
def test_an_application_has_no_finding(name):
    side = SIDES.get(name, 64)
    try:
        model = getattr(keras.applications, name)(weights=None, input_shape=(side, side, 3))
    except ValueError:  # it has one size only
        model = getattr(keras.applications, name)(weights=None)
    assert findings(model) == []


@pytest.mark.parametrize("name", [name for name in HUB_MODELS if name not in NOT_RUNNING])
def test_a_backbone_has_the_mistakes_that_are_known(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras on layers of KerasHub without `build`
        model = HUB_MODELS[name][0]()
    found = findings(model)
    assert [note.about for note in found] == ([(MISTAKES[name],)] if name in MISTAKES else [])


@pytest.mark.parametrize(("name", "kind"), ALL_VARIANTS)
def test_a_variant_has_no_finding_and_sees_what_its_kind_says(name, kind):
    spec = reduced_variant(name, kind)
    checks = plots.check(builders.build(spec))
    assert [check.note for check in checks if check.note.kind == "finding"] == []
    seen = {check.verdict for check in checks if check.property == "causality"}
    assert seen == {"all"} if kind == "encoder_only" else {"causal", "prefix"} & seen
    assert ("prefix" in seen) == spec.prefix_lm
    assert {check.verdict for check in checks if check.property == "padding"} <= {"ignored"}
