"""Folders of Hugging Face: tiny models that PyTorch made, and variants of their configurations.

`tests/peers/make_golden.py` writes the folders, with the inputs and the outputs of PyTorch.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_folders import GOLDEN
from quick import slow_unless
from small_models import as_array, relative_error

import builders
import functional_models as fm
from functional_models.hugging_face.convert import family_of, spec_from
from functional_models.hugging_face.silent import REQUIRED
from functional_models.hugging_face.weight_files import stored_tensors
from functional_models.hugging_face.weights import Tensors

CASES = sorted(path.name for path in GOLDEN.iterdir())


def read(folder: str | Path, **options: Any) -> Any:
    """Return the text model of a folder that has no tokenizer."""
    with pytest.warns(UserWarning, match="without a tokenizer"):
        return fm.from_hugging_face(folder, **options)


def outputs(model: Any, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model by name, for the inputs that are stored."""
    tokens: Any = stored["tokens"]
    if "source" in stored:
        tokens = {"source": stored["source"], "target": tokens}
    elif "segments" in stored:
        tokens = {"tokens": tokens, "segments": stored["segments"]}
    found = model.model(tokens, training=False)
    found = found if isinstance(found, dict) else {"logits": found}
    return {key: as_array(value) for key, value in found.items()}


# Cases of another wiring or layout than all quick ones are quick too.
SLOW = (
    *("bloom_untied", "camembert", "distilbert_base", "electra_base", "falcon_one_norm", "gemma"),
    *(
        "gpt_neo_options",
        "gptj_tied",
        "llama_base",
        "llama_linear",
        "mbart_untied",
        "mistral_tied",
        "mpt_options",
    ),
    *("mt5", "mt5_tied", "opt_options", "pegasus", "phi3_partial", "phi_grouped", "qwen3_windows"),
    *("stablelm", "starcoder2_plain", "t5_options", "xlm_roberta", "bert_untied", "electra"),
    *("gemma3_text_options", "cohere_options", "smollm3_options", "olmo", "olmo_options"),
    *("olmo3_options", "exaone4_full", "qwen2_moe_dense", "modernbert_base", "modernbert_options"),
)


@pytest.mark.parametrize("name", slow_unless(lambda name: name not in SLOW, CASES))
def test_a_folder_has_the_outputs_of_pytorch(name: str) -> None:
    stored = dict(np.load(GOLDEN / name / "expected.npz"))
    model = read(GOLDEN / name)
    found = outputs(model, stored)
    compared = [key for key in ("logits", "hidden", "pooled", "class_logits") if key in stored]
    assert compared
    for key in compared:
        real = slice(None) if key in ("pooled", "class_logits") else stored["real"]
        assert relative_error(found[key][real], stored[key][real]) < 1e-5


# Configurations ---------------------------------------------------------------------------------


def config_of(name: str, file: str = "config.json") -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDEN / name / file).read_text())
    return config


def spec_of(config: dict[str, Any], tensors_of: str = "") -> builders.TransformerSpec:
    """Return the spec of a configuration, with what the tensors of a case tell."""
    family, head = family_of(config)
    tensors = Tensors(stored_tensors(GOLDEN / tensors_of) if tensors_of else {}, family)
    return spec_from(family, head, config, tensors)


@pytest.mark.parametrize("name", CASES)
def test_transformers_5_writes_the_same_model_in_other_words(name: str) -> None:
    old = spec_of(config_of(name), tensors_of=name)
    new = spec_of(config_of(name, "config.new.json"), tensors_of=name)
    if name == "mt5_tied":  # of the same folder, both versions compute other logits
        assert (old.scale_logits, new.scale_logits) == (True, False)
        new = new.replace(scale_logits=True)
    for field in dataclasses.fields(old):
        assert getattr(new, field.name) == getattr(old, field.name), field.name


def other_value(key: str, config: dict[str, Any]) -> Any:
    """Return another value that a key of a configuration may have."""
    value = config[key]
    if key in ("bos_token_id", "eos_token_id"):
        return config.get("pad_token_id")
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 3 * value + 4
    if isinstance(value, float):
        return value / 2 + 0.03
    if isinstance(value, str):
        return "relu" if value != "relu" else "silu"
    return 7 if value is None else ["another"]


WINDOW_KEYS = ("sliding_window", "use_sliding_window", "max_window_layers")
# Of blocks that are listed.
PERIODS = ("sliding_window_pattern", "no_rope_layer_interval", "full_attention_interval")


def has_effect(key: str, config: dict[str, Any]) -> bool:
    """Return whether a key that is used determines something, given the other keys."""
    if key in ("bos_token_id", "eos_token_id"):
        return config.get("pad_token_id") is not None
    if key == "original_max_position_embeddings":
        return config["rope_scaling"] is not None
    if key in ("interleave_moe_layer_step", "no_rope_layer_interval"):  # in place of a list
        return False
    if key in PERIODS and (config.get("layer_types") or config.get("no_rope_layers")):
        return False
    if key in ("id2label", "num_labels", "problem_type"):
        return config["architectures"][0].endswith("ForSequenceClassification")
    if key == "classifier_activation":
        return config["architectures"] == ["ModernBertForMaskedLM"]
    if key == "transformers_version":
        return config["tie_word_embeddings"]
    if key in ("n_group", "topk_group") and config["model_type"] == "deepseek_v2":
        return config["topk_method"] != "greedy"
    if key == "_remove_final_layer_norm":
        return config["do_layer_norm_before"]
    if config["model_type"] == "falcon" and key in ("num_kv_heads", "multi_query"):
        return config["new_decoder_architecture"] == (key == "num_kv_heads")
    types = config.get("layer_types")
    if types is None:
        return key != "sliding_window" or config.get("use_sliding_window", True)
    return key not in WINDOW_KEYS or (key, "sliding_attention" in types) == ("sliding_window", True)


@pytest.mark.parametrize("name", CASES)
def test_every_key_that_is_used_changes_the_spec_or_is_refused(name: str) -> None:
    config = config_of(name)
    family, _ = family_of(config)
    spec = spec_of(config)
    used = [key for key in family.used & config.keys() if has_effect(key, config)]
    assert used
    for key in used:
        try:
            changed = spec_of({**config, key: other_value(key, config)})
        except ValueError:
            continue
        assert changed != spec, key


@pytest.mark.parametrize("name", CASES)
def test_no_key_is_ignored(name: str) -> None:
    config = config_of(name)
    family, _ = family_of(config)
    with pytest.raises(ValueError, match=r"bonus=3 has an unknown meaning.*no key is ignored"):
        spec_of({**config, "bonus": 3})
    for key, allowed in family.required.items():
        value = next(x for x in (True, False, "other", 1.5) if x not in allowed)
        with pytest.raises(ValueError, match=f"{key}="):
            spec_of({**config, key: value})
    spec = spec_of(config)
    for key in config.keys() - family.used - {"model_type", "architectures"}:
        assert family.reason(key) or key in {**family.required, **REQUIRED, **family.aliases}, key
        assert spec_of({k: v for k, v in config.items() if k != key}) == spec
    for alias in config.keys() & family.aliases.keys():
        with pytest.raises(ValueError, match=f"{alias}=.*two names of one setting"):
            spec_of({**config, alias: 5})


@pytest.mark.sampled(9)
@pytest.mark.parametrize("name", CASES)
def test_null_switches_a_setting_off(name: str) -> None:
    config = config_of(name)
    family, _ = family_of(config)
    switches = [k for k in family.used if isinstance(family.defaults.get(k), bool)]
    for key in set(switches) - set(family.never_null):
        read: list[Any] = []
        for value in (None, False):
            try:
                read.append(spec_of({**config, key: value}))
            except ValueError:
                read.append("refused")
        assert read[0] == read[1], key


# Settings that need care ------------------------------------------------------------------------


def test_windows_follow_from_the_first_block_that_has_them() -> None:
    config = {k: v for k, v in config_of("qwen2_windows").items() if k != "layer_types"}
    assert spec_of(config).windows == (5, 5)
    assert spec_of({**config, "max_window_layers": 2}).windows == (None, None)
    assert spec_of({**config, "use_sliding_window": False}).windows == (None, None)
    assert spec_of({**config, "max_window_layers": 1}).windows == (None, 5)
    for types in ([], ["full_attention"], "full_attention", ["full_attention", "chunked"]):
        with pytest.raises(ValueError, match="layer_types"):
            spec_of({**config, "layer_types": types})
    mixed = {**config, "layer_types": ["sliding_attention", "full_attention"]}
    assert spec_of(mixed).windows == (5, None)
    with pytest.raises(ValueError, match="sliding_window is null"):
        spec_of({**mixed, "use_sliding_window": False})


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"rope_type": "dynamic", "factor": 2.0}, "rope_type='dynamic': no rotary_scaling"),
        ({"type": "su", "short_factor": [1.0]}, "rope_type='su': no rotary_scaling"),
        ({"rope_type": "linear"}, "no factor"),
        ({"rope_type": "linear", "type": "yarn", "factor": 2.0}, "two types, linear and yarn"),
        ({"rope_type": "linear", "factor": 2.0, "mscale": 1.0}, "mscale=1.0, of unknown meaning"),
        ({"rope_type": "linear", "factor": "2"}, "rotary_factor='2'"),
        (
            {"rope_type": "yarn", "factor": 4.0, "attention_factor": -1.0},
            "rotary_magnitude=-1.0: must be a positive number",
        ),
        ({"rope_type": "yarn", "factor": 4.0, "truncate": 0}, "rotary_whole_pairs=0: must be True"),
        ({"rope_type": "yarn"}, "no factor"),
        (
            {"rope_theta": 3.0, "rope_type": "default"},
            "rope_theta=10000.0 and rope_theta=3.0: given with two",
        ),
        ([1, 2], "cannot be read"),
    ],
)
def test_other_rotary_positions_are_refused(scaling: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of({**config_of("llama"), "rope_scaling": scaling})


@pytest.mark.parametrize(
    ("scaling", "message"),
    [
        ({"original_max_position_embeddings": 11}, "embeddings=13 and, in rope_scaling, 11"),
        ({"factor": 2.0}, "factor=2.0: must be 2.84615, which follows from max_pos"),
        ({"attention_factor": 1.0}, r"attention_factor=1.0: must be 1.1865, which follows"),
        ({"short_factor": [1.0]}, r"rotary_short_factors=\(1.0,\): must be 2 numbers"),
        ({"long_factor": None}, "rotary_long_factors=None: must be 2 numbers"),
        ({"short_mscale": 1.1}, "short_mscale=1.1, of unknown meaning"),
        ({"type": "yarn"}, "rope_type='yarn': no scaling of phi3; allowed: default, longrope, su"),
    ],
)
def test_other_rotary_positions_of_phi3_are_refused(scaling: dict[str, Any], message: str) -> None:
    config = config_of("phi3_longrope")
    given = config["rope_scaling"]
    assert spec_of({**config, "rope_scaling": {**given, "type": "su"}}) == spec_of(config)
    with pytest.raises(ValueError, match=message):
        spec_of({**config, "rope_scaling": {**given, **scaling}})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"no_rope_layers": [1, 1, 0]}, r"no_rope_layers=\[1, 1, 0\]: must be a list of 0 or 1"),
        ({"moe_layers": [4]}, r"moe_layers=\[4\]: must be a list of some of 4 blocks"),
        ({"layer_types": ["sliding_attention"] * 4}, "layer_types has 'sliding_attention'"),
        ({"attention_chunk_size": None}, "attention_chunk_size is null"),
        ({"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "'linear': must be 'default'"),
    ],
)
def test_other_blocks_of_llama4_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of({**config_of("llama4_text"), **keys})


def test_blocks_of_llama4_follow_from_intervals_where_there_are_no_lists() -> None:
    config = config_of("llama4_text")
    short = {k: v for k, v in config.items() if k not in ("moe_layers", "no_rope_layers")}
    assert spec_of(short) == spec_of(config)
    spec = spec_of({**short, "interleave_moe_layer_step": 2, "no_rope_layer_interval": 2})
    assert [block.num_experts for block in spec.blocks("decoder")] == [0, 5, 0, 5]
    assert [block.positions for block in spec.blocks("decoder")] == ["rotary", "none"] * 2
    dense = spec_of({**config, "moe_layers": [], "attn_temperature_tuning": False})
    assert dense.num_experts == 0
    assert not any(block.attention_temperature for block in dense.blocks("decoder"))


def test_alibi_of_one_position_is_refused() -> None:
    config = config_of("mpt")
    assert spec_of({**config, "max_seq_len": 2}).max_sequence_length == 2
    with pytest.raises(ValueError, match="max_seq_len=1: transformers then adds the ALiBi bias of"):
        spec_of({**config, "max_seq_len": 1})


def test_every_fourth_block_of_qwen3_next_has_attention_where_no_types_are_listed() -> None:
    config = {k: v for k, v in config_of("qwen3_next").items() if k != "layer_types"}
    assert spec_of(config) == spec_of(config_of("qwen3_next"))
    mixers = [block.mixer for block in spec_of(config).blocks("decoder")]
    assert mixers == ["gated_delta"] * 3 + ["attention"]
    spec = spec_of({**config, "full_attention_interval": 2})
    assert [block.mixer for block in spec.blocks("decoder")] == ["gated_delta", "attention"] * 2


def test_gpt_oss_needs_its_rotary_settings() -> None:
    config = {k: v for k, v in config_of("gpt_oss").items() if k != "rope_scaling"}
    with pytest.raises(ValueError, match="rope_scaling is missing, for which versions of transf"):
        spec_of(config)


def test_rotary_settings_may_be_written_at_their_defaults() -> None:
    config = config_of("llama_yarn")
    scaling = config["rope_scaling"]
    written = {"attention_factor": 0.1 * np.log(4.0) + 1, "truncate": True, "beta_fast": 32.0}
    assert spec_of({**config, "rope_scaling": {**scaling, **written}}) == spec_of(config)
    factors = {"mscale": 1.0, "mscale_all_dim": 0.5}  # of PyTorch: _compute_yarn_parameters
    other = spec_of({**config, "rope_scaling": {**scaling, **factors}})
    expected = (0.1 * np.log(4.0) + 1) / (0.05 * np.log(4.0) + 1)
    assert other.rotary_magnitude == pytest.approx(expected, rel=1e-12)
    with pytest.raises(ValueError, match=r"rope_scaling=.* and rope_parameters="):
        spec_of({**config, "rope_parameters": scaling})


@pytest.mark.parametrize(
    ("name", "base"),
    [("llama", 1e4), ("mixtral", 1e6), ("smollm3", 2e6), ("llama4_text", 5e5), ("phi3", 1e4)],
)
def test_the_base_of_a_family_is_that_of_both_versions_of_transformers(
    name: str, base: float
) -> None:
    config = {k: v for k, v in config_of(name).items() if not k.startswith("rope_")}
    assert spec_of(config).rotary_base == base


def test_the_gelu_of_the_first_gemma_is_the_approximation() -> None:
    config = config_of("gemma")
    assert spec_of({**config, "hidden_act": "gelu"}).activation == "gelu_tanh"
    with pytest.raises(ValueError, match="'relu' and hidden_activation='gelu_pytorch_tanh'"):
        spec_of({**config, "hidden_act": "relu", "hidden_activation": "gelu_pytorch_tanh"})


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("llama", {"max_position_embeddings": None}, "max_position_embeddings: max_sequence_len"),
        ("phi", {"partial_rotary_factor": 0.4}, "partial_rotary_factor.*: rotary_dim=3: must"),
        ("smollm3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5: must be 1, or abs"),
        (
            "exaone4",
            {"rope_scaling": {"rope_type": "default", "partial_rotary_factor": 0.5}},
            "partial_rotary_factor=0.5: must be 1, or absent",
        ),
        ("t5", {"scale_decoder_outputs": None}, "scale_decoder_outputs=None: must have a value"),
        ("umt5", {"is_gated_act": None}, "is_gated_act=None: must have a value, or be absent"),
        (
            "qwen3_next",
            {"layer_types": ["linear_attention", "mamba"] * 2},
            "layer_types has 'mamba'; allowed: linear_attention, full_attention",
        ),
        ("gpt_neox", {"rotary_pct": 0.5, "partial_rotary_factor": 1.0}, "=1.0 and rotary_pct=0.5"),
        ("gpt_neox", {"rope_theta": 500, "rotary_emb_base": None}, "without rotary_emb_base"),
        ("modernbert", {"local_rope_theta": None}, "local_rope_theta=None: must have a value"),
    ],
)
def test_a_refusal_names_the_keys(name: str, keys: dict[str, Any], message: str) -> None:
    config = {**config_of(name), **keys}
    family, head = family_of(config)
    with pytest.raises(ValueError, match=message):
        spec_from(family, head, config, Tensors({}, family))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"problem_type": "multi_label_classification"}, "problem_type='multi_label_classifica"),
        ({"problem_type": "regression"}, "problem_type='regression': must be 'single_label_cla"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label=.*: must have the numbers from 0"),
        ({"id2label": {"0": "a"}}, r"id2label.*\('a',\): must be two or more different texts"),
        ({"id2label": {"0": "a", "1": "a"}}, "id2label.*must be two or more different texts"),
        ({"id2label": ["a", "b"]}, "id2label.*cannot be read"),
        ({"num_labels": 2}, "id2label=.* and num_labels=2: remove one of them"),
    ],
)
def test_other_classes_are_refused(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of({**config_of("roberta_classes"), **keys})


def test_classes_have_the_names_and_the_order_of_their_numbers() -> None:
    config = {k: v for k, v in config_of("bert_classes").items() if k != "id2label"}
    assert spec_of(config).classes == ("LABEL_0", "LABEL_1")
    assert spec_of({**config, "num_labels": 3}).classes == ("LABEL_0", "LABEL_1", "LABEL_2")
    assert spec_of({**config, "id2label": {"1": "a", "0": "b"}}).classes == ("b", "a")
    assert not spec_of({**config, "architectures": ["BertModel"]}).classes


@pytest.mark.parametrize(
    "head", ["ModernBertForSequenceClassification", "ModernBertForTokenClassification"]
)
def test_a_head_that_no_spec_has_is_refused_by_name(head: str) -> None:
    with pytest.raises(ValueError, match=f"the outputs of {head} are not those of a spec"):
        family_of({**config_of("modernbert"), "architectures": [head]})


def test_a_padding_token_that_ends_texts_is_not_masked() -> None:
    config = {**config_of("llama"), "pad_token_id": 2, "eos_token_id": [7, 2]}
    assert spec_of(config).pad_token_id is None
    assert spec_of({**config, "eos_token_id": 7}).pad_token_id == 2
    assert spec_of({**config, "pad_token_id": -1}).pad_token_id is None


@pytest.mark.parametrize(
    ("variant", "name", "keys"),
    [
        ("opus_mt_en_de", "marian", {"scale_embedding": True}),
        ("t5_small", "t5", {}),
        ("llama2_7b", "llama", {}),
        ("gemma2_2b", "gemma2", {}),
        ("pythia_70m", "gpt_neox", {}),
        ("gpt_oss_20b", "gpt_oss", {}),
        ("llama4_scout", "llama4_text", {}),
        ("phi3.5_mini", "phi3_longrope", {}),
    ],
)
def test_a_variant_of_the_registry_is_wired_as_its_family(
    variant: str, name: str, keys: dict[str, Any]
) -> None:
    ours, theirs = builders.variant(variant), spec_of({**config_of(name), **keys})
    for field in dataclasses.fields(ours):
        value = getattr(ours, field.name)
        if isinstance(value, str | bool) and field.name not in ("initializer", "logit_bias"):
            assert getattr(theirs, field.name) == value, field.name
