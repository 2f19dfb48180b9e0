"""Conversion of KerasHub models, and back, preserves their outputs."""

import dataclasses

import keras_hub
import numpy as np
import pytest
from hub_backbones import (
    BACKBONES,
    GEMMA,
    GROUPED,
    QUICK_BACKBONES,
    T5,
    assert_same_hidden_states_and_logits,
    backbone_of,
    randomise,
    shared_backbone,
    theirs,
)
from keras_hub.src.models.qwen import qwen_attention
from keras_hub.src.models.qwen3 import qwen3_attention
from quick import slow_unless
from small_models import (
    as_array,
    flatten_outputs,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
)

import builders
import functional_models as fm
from builders.spec_fields import Regularization
from functional_models.conversion import matching
from functional_models.loading import wrap_model

# KerasHub's T5 warns about its own masks.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer '.*' .of type T5:UserWarning", "ignore:Layer '.*' looks like:UserWarning"
)


@pytest.fixture
def _unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Disable Qwen's fused attention, which ignores the window; TensorFlow has none."""
    for module in (qwen_attention, qwen3_attention):
        monkeypatch.setattr(module, "fused_attention_op_available", lambda: False)


@pytest.mark.sampled(1)
@pytest.mark.usefixtures("_unfused")
@pytest.mark.parametrize("name", slow_unless(QUICK_BACKBONES.__contains__, BACKBONES))
def test_a_converted_backbone_has_the_same_hidden_states_and_logits(name: str) -> None:
    """Converted back, it has the original weights."""
    backbone = shared_backbone(name)
    model = fm.from_keras_hub(backbone)
    assert_same_hidden_states_and_logits(model, backbone)
    again = fm.to_keras_hub(model, type(backbone).__name__)
    assert type(again) is type(backbone)
    assert len(again.weights) == len(backbone.weights)
    for ours, its in zip(again.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(as_array(ours.value), as_array(its.value), err_msg=its.path)


# Settings that KerasHub ignores -----------------------------------------------------------------

IGNORED = {
    "llama": (
        {"rope_position_scaling_factor": 3.0},
        {"rotary_scaling": "linear", "rotary_factor": 3.0},
    ),
    "gemma2": ({"query_head_dim_normalize": False}, {"attention_scale": 4**-0.5}),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", IGNORED)
def test_settings_that_keras_hub_ignores_raise_warnings(name: str) -> None:
    """If the first assertion fails, KerasHub applies the setting, and a family can support it."""
    cls, config = BACKBONES[name]
    setting, fields = IGNORED[name]
    plain = shared_backbone(name)
    changed = getattr(keras_hub.models, f"{cls}Backbone")(**config, **setting)
    randomise(changed)
    np.testing.assert_array_equal(theirs(changed, 0)["hidden"], theirs(plain, 0)["hidden"])
    with pytest.warns(UserWarning, match=f"{next(iter(setting))}=.*{next(iter(fields))}"):
        as_computed = fm.from_keras_hub(changed)
    assert as_computed.spec == fm.from_keras_hub(plain).spec
    as_set = fm.from_keras_hub(changed, **fields)
    assert {field: getattr(as_set.spec, field) for field in fields} == fields


# Errors -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_unsupported_settings_raise() -> None:
    models = keras_hub.models
    with pytest.raises(ValueError, match=r"FalconBackbone is not among .* GPT2Backbone, OPT"):
        fm.from_keras_hub(models.FalconBackbone(31, 2, 2, 14, 23))
    dropping = models.LlamaBackbone(**GROUPED, dropout=0.1)
    with pytest.raises(ValueError, match=r"LlamaBackbone with dropout=0.1.*supported: .dropout=0"):
        fm.from_keras_hub(dropping)
    t5 = fm.from_keras_hub(models.T5Backbone(**T5, dropout=0.3)).spec
    assert {t5.dropout, t5.activation_dropout, t5.final_dropout, t5.attention_dropout} == {0.3}
    half = models.GemmaBackbone(**GEMMA, use_post_ffw_norm=True)
    with pytest.raises(ValueError, match=r"use_post_ffw_norm=True.* or .*use_post_ffw_norm=True"):
        fm.from_keras_hub(half)
    with pytest.raises(TypeError, match=r"a backbone or a task .* not dict"):
        fm.from_keras_hub({})
    with pytest.raises(TypeError, match="CausalLM, Translator or TextEncoder, not Functional"):
        fm.to_keras_hub(builders.build_decoder_only("mini_gpt", num_layers=1, hidden_dim=14))


def test_fields_that_the_source_defines_cannot_be_changed() -> None:
    with pytest.raises(
        ValueError, match=r"num_layers=2: the GPT2Backbone defines it.*: pad_token_id"
    ):
        fm.from_keras_hub(shared_backbone("gpt2"), num_layers=2)
    changed = fm.from_keras_hub(shared_backbone("llama"), max_sequence_length=13).spec
    assert changed.max_sequence_length == 13
    original = fm.from_keras_hub(shared_backbone("llama")).spec
    assert changed == original.replace(max_sequence_length=13)


def test_unsupported_heads_raise() -> None:
    backbone = shared_backbone("bert")
    classifier = keras_hub.models.BertTextClassifier(backbone, num_classes=3)
    with pytest.raises(ValueError, match=r"BertTextClassifier has a head.*\.backbone"):
        fm.from_keras_hub(classifier)
    masked = keras_hub.models.BertMaskedLM(backbone)
    with pytest.raises(ValueError, match=r"activation='gelu'.*'gelu_tanh'.*\.backbone"):
        fm.from_keras_hub(masked)


def test_weights_that_would_not_be_converted_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of("gpt2")
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match=r"query_dense has 4 weights \(.*lora_kernel_a.*LoRA"):
        fm.from_keras_hub(backbone)
    model = fm.from_keras_hub(shared_backbone("bert"))
    for family in matching.FAMILIES:
        layers = {name: path for name, path in family.layers.items() if "pooler" not in name}
        shortened = dataclasses.replace(family, constants={**family.constants, "pooler": False})
        shortened = dataclasses.replace(shortened, layers=layers)
        if family.backbone == "BertBackbone":
            monkeypatch.setattr(matching, "FAMILIES", (shortened,))
    with pytest.raises(
        ValueError, match=r"has weights that are not supported: pooled_dense/kernel"
    ):
        fm.from_keras_hub(shared_backbone("bert"))
    with pytest.raises(ValueError, match=r"BertBackbone, differs in pooler=True"):
        fm.to_keras_hub(model)


def test_a_spec_without_a_backbone_raises() -> None:
    model = fm.from_keras_hub(shared_backbone("gpt2"))
    other = wrap_model(model.spec.replace(qk_norm=True), model.model, {})
    with pytest.raises(
        ValueError, match=r"no KerasHub backbone.*GPT2Backbone, differs in qk_norm=True"
    ):
        fm.to_keras_hub(other)
    layered = wrap_model(model.spec.replace(attention="layer"), model.model, {})
    with pytest.raises(ValueError, match=r"GPT2Backbone, differs in attention='layer'"):
        fm.to_keras_hub(layered)
    with pytest.raises(ValueError, match=r"unknown backbone 'GPTBackbone'.*mean 'GPT2Backbone'"):
        fm.to_keras_hub(model, "GPTBackbone")
    with pytest.raises(
        ValueError, match=r"no OPTBackbone.*activation='gelu_tanh' .backbone: 'relu'"
    ):
        fm.to_keras_hub(model, "OPTBackbone")


@pytest.mark.parametrize("name", Regularization.__annotations__)
def test_regularization_does_not_affect_the_choice_of_a_backbone(name: str) -> None:
    names = {"initializer": "normal", "kernel_constraint": "unit_norm"}
    value = names.get(name, 0.25)
    spec = builders.variant("gpt2_small").replace(**{name: value})
    assert matching.family_of_spec(spec, None).backbone == "GPT2Backbone"


# Published sizes --------------------------------------------------------------------------------

QUICK_VARIANTS = ("gemma2_2b", "qwen3_0.6b")
TAKEN = [
    "gpt2_small",
    "opt_125m",
    "bloom_560m",
    "llama2_7b",
    "llama2_70b",
    "llama3_8b",
    "llama3.2_1b",
    "mistral_7b",
    "gemma_2b",
    "gemma_7b",
    "gemma2_2b",
    "qwen2.5_0.5b",
    "qwen2.5_7b",
    "qwen3_0.6b",
    "phi3_mini_4k",
    "bert_base",
    "roberta_base",
    "distilbert_base",
    "albert_base",
    "bart_base",
    "t5_small",
    "t5_v1.1_small",
]


@pytest.mark.parametrize("name", slow_unless(QUICK_VARIANTS.__contains__, TAKEN))
def test_published_architectures_convert_to_backbones(name: str) -> None:
    """Specs of the registry agree with KerasHub in every field, such as epsilons."""
    kind = builders.variant_info(name).kinds[0]
    spec = reduced_variant(name, kind)
    if spec.positions == "rotary" and spec.head_dim * spec.num_heads == 12:
        spec = spec.replace(hidden_dim=12, head_dim=None)  # as wide as all heads together
    model = wrap_model(spec, random_model(spec), {})
    backbone = fm.to_keras_hub(model)
    again = fm.from_keras_hub(backbone, pad_token_id=spec.pad_token_id)
    tokens = random_tokens(spec)
    found, expected = flatten_outputs(again.model(tokens)), flatten_outputs(model.model(tokens))
    assert relative_error(found, expected) < 1e-5
