"""Models of keras-nlp, taken over and given back, compute what they computed."""

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
    assert_gives_hidden_states_and_logits,
    backbone_of,
    randomise,
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
from functional_models.conversion import choice, families
from functional_models.text_model import text_model_of

# keras-nlp's T5 warns of its own masks.
pytestmark = pytest.mark.filterwarnings(
    "ignore:Layer '.*' .of type T5:UserWarning", "ignore:Layer '.*' looks like:UserWarning"
)


@pytest.fixture
def _unfused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen's fused attention, which only TensorFlow lacks, leaves out the window it should have."""
    for module in (qwen_attention, qwen3_attention):
        monkeypatch.setattr(module, "fused_attention_op_available", lambda: False)


@pytest.mark.usefixtures("_unfused")
@pytest.mark.parametrize("name", slow_unless(QUICK_BACKBONES.__contains__, BACKBONES))
def test_a_backbone_taken_over_gives_its_hidden_states_and_logits(name: str) -> None:
    """And given back, it is the backbone that it came from."""
    backbone = backbone_of(name)
    model = fm.from_keras_hub(backbone)
    assert_gives_hidden_states_and_logits(model, backbone)
    again = fm.to_keras_hub(model, type(backbone).__name__)
    assert type(again) is type(backbone)
    assert len(again.weights) == len(backbone.weights)
    for ours, its in zip(again.weights, backbone.weights, strict=True):
        np.testing.assert_array_equal(as_array(ours.value), as_array(its.value), err_msg=its.path)


# What keras-nlp does not apply ------------------------------------------------------------------

IGNORED = {
    "llama": (
        {"rope_position_scaling_factor": 3.0},
        {"rotary_scaling": "linear", "rotary_factor": 3.0},
    ),
    "gemma2": ({"query_head_dim_normalize": False}, {"attention_scale": 4**-0.5}),
}


@pytest.mark.parametrize("name", IGNORED)
def test_a_setting_that_keras_nlp_does_not_apply_is_warned_of(name: str) -> None:
    """If the first assertion fails, keras-nlp applies it now, and a spec can say it."""
    cls, config = BACKBONES[name]
    setting, fields = IGNORED[name]
    plain = backbone_of(name)
    asking = getattr(keras_hub.models, f"{cls}Backbone")(**config, **setting)
    randomise(asking)
    np.testing.assert_array_equal(theirs(asking, 0)["hidden"], theirs(plain, 0)["hidden"])
    with pytest.warns(UserWarning, match=f"{next(iter(setting))}=.*{next(iter(fields))}"):
        as_computed = fm.from_keras_hub(asking)
    assert as_computed.spec == fm.from_keras_hub(plain).spec
    as_asked = fm.from_keras_hub(asking, **fields)
    assert {field: getattr(as_asked.spec, field) for field in fields} == fields


# What is refused --------------------------------------------------------------------------------


def test_what_a_spec_cannot_say_is_refused() -> None:
    models = keras_hub.models
    with pytest.raises(ValueError, match=r"FalconBackbone is not among .* GPT2Backbone, OPT"):
        fm.from_keras_hub(models.FalconBackbone(31, 2, 2, 14, 23))
    factors = {"rope_scaling_short_factor": [1.0] * 2, "rope_scaling_long_factor": [2.0] * 2}
    su = models.Phi3Backbone(**GROUPED, rope_scaling_type="su", **factors)
    with pytest.raises(ValueError, match=r"Phi3Backbone with rope_scaling_type='su'.*=None"):
        fm.from_keras_hub(su)
    dropping = models.LlamaBackbone(**GROUPED, dropout=0.1)
    with pytest.raises(ValueError, match=r"LlamaBackbone with dropout=0.1.*say .dropout=0"):
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


def test_fields_that_the_source_has_of_its_own_are_not_overwritten() -> None:
    with pytest.raises(ValueError, match=r"num_layers=2: the GPT2Backbone has.*: pad_token_id"):
        fm.from_keras_hub(backbone_of("gpt2"), num_layers=2)
    assert fm.from_keras_hub(backbone_of("llama"), max_sequence_length=13).spec == (
        fm.from_keras_hub(backbone_of("llama")).spec.replace(max_sequence_length=13)
    )


def test_heads_that_no_model_has_are_refused_and_their_backbone_is_not() -> None:
    backbone = backbone_of("bert")
    classifier = keras_hub.models.BertTextClassifier(backbone, num_classes=3)
    with pytest.raises(ValueError, match=r"BertTextClassifier has a head.*\.backbone"):
        fm.from_keras_hub(classifier)
    masked = keras_hub.models.BertMaskedLM(backbone)
    with pytest.raises(ValueError, match=r"activation='gelu'.*'gelu_tanh'.*\.backbone"):
        fm.from_keras_hub(masked)


def test_weights_that_nobody_reads_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    backbone = backbone_of("gpt2")
    backbone.enable_lora(2)
    with pytest.raises(ValueError, match=r"query_dense has 4 weights \(.*lora_kernel_a.*LoRA"):
        fm.from_keras_hub(backbone)
    model = fm.from_keras_hub(backbone_of("bert"))
    for family in families.FAMILIES:
        layers = {name: path for name, path in family.layers.items() if "pooler" not in name}
        shortened = dataclasses.replace(family, same={**family.same, "pooler": False})
        shortened = dataclasses.replace(shortened, layers=layers)
        if family.backbone == "BertBackbone":
            monkeypatch.setattr(choice, "FAMILIES", (shortened,))
    with pytest.raises(
        ValueError, match=r"has weights that no model here has: pooled_dense/kernel"
    ):
        fm.from_keras_hub(backbone_of("bert"))
    with pytest.raises(ValueError, match=r"BertBackbone, differs in pooler=True"):
        fm.to_keras_hub(model)


def test_a_model_that_no_backbone_computes_is_not_given_back() -> None:
    model = fm.from_keras_hub(backbone_of("gpt2"))
    other = text_model_of(model.spec.replace(qk_norm=True), model.model, {})
    with pytest.raises(ValueError, match=r"no backbone.*GPT2Backbone, differs in qk_norm=True"):
        fm.to_keras_hub(other)
    layered = text_model_of(model.spec.replace(attention="layer"), model.model, {})
    with pytest.raises(ValueError, match=r"GPT2Backbone, differs in attention='layer'"):
        fm.to_keras_hub(layered)
    with pytest.raises(ValueError, match=r"unknown backbone 'GPTBackbone'.*mean 'GPT2Backbone'"):
        fm.to_keras_hub(model, "GPTBackbone")
    with pytest.raises(ValueError, match=r"no OPTBackbone.*activation='gelu_tanh' .there 'relu'"):
        fm.to_keras_hub(model, "OPTBackbone")


# Published sizes --------------------------------------------------------------------------------

QUICK_VARIANTS = ("gpt2_small", "llama3.2_1b", "gemma2_2b", "qwen3_0.6b", "bert_base")
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
    "bart_base",
    "t5_small",
    "t5_v1.1_small",
]


@pytest.mark.parametrize("name", slow_unless(QUICK_VARIANTS.__contains__, TAKEN))
def test_a_published_architecture_is_that_of_a_backbone(name: str) -> None:
    """So the rows of the registry are what keras-nlp computes, to the last epsilon."""
    kind = builders.variant_info(name).kinds[0]
    spec = reduced_variant(name, kind)
    if spec.positions == "rotary" and spec.head_dim * spec.num_heads == 12:
        spec = spec.replace(hidden_dim=12, head_dim=None)  # as wide as the heads together
    model = text_model_of(spec, random_model(spec), {})
    backbone = fm.to_keras_hub(model)
    again = fm.from_keras_hub(backbone, pad_token_id=spec.pad_token_id)
    tokens = random_tokens(spec)
    found, expected = flatten_outputs(again.model(tokens)), flatten_outputs(model.model(tokens))
    assert relative_error(found, expected) < 1e-5
