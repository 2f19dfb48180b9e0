"""DeepSeek: released configurations, and what their table refuses or leaves out."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from golden_folders import GOLDEN
from safetensors.numpy import load_file, save_file

import builders
import functional_models as fm
from functional_models.conversion.matching import differences
from functional_models.hugging_face.convert import family_of

YARN = {
    "beta_fast": 32,
    "beta_slow": 1,
    "factor": 40,
    "original_max_position_embeddings": 4096,
    "type": "yarn",
}
RELEASED: dict[str, dict[str, Any]] = {  # the keys of config.json, without the silent ones
    "deepseek_v2_lite": {
        "architectures": ["DeepseekV2ForCausalLM"],
        "model_type": "deepseek_v2",
        "bos_token_id": 100000,
        "eos_token_id": 100001,
        "first_k_dense_replace": 1,
        "hidden_size": 2048,
        "intermediate_size": 10944,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 1408,
        "moe_layer_freq": 1,
        "n_group": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "norm_topk_prob": False,
        "num_attention_heads": 16,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 27,
        "num_key_value_heads": 16,
        "q_lora_rank": None,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707},
        "rope_theta": 10000,
        "routed_scaling_factor": 1.0,
        "scoring_func": "softmax",
        "topk_group": 1,
        "topk_method": "greedy",
        "v_head_dim": 128,
        "vocab_size": 102400,
    },
    "deepseek_v3": {
        "architectures": ["DeepseekV3ForCausalLM"],
        "model_type": "deepseek_v3",
        "bos_token_id": 0,
        "eos_token_id": 1,
        "first_k_dense_replace": 3,
        "hidden_size": 7168,
        "intermediate_size": 18432,
        "kv_lora_rank": 512,
        "max_position_embeddings": 163840,
        "moe_intermediate_size": 2048,
        "moe_layer_freq": 1,
        "n_group": 8,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_attention_heads": 128,
        "num_experts_per_tok": 8,
        "num_hidden_layers": 61,
        "num_key_value_heads": 128,
        "num_nextn_predict_layers": 1,
        "q_lora_rank": 1536,
        "qk_nope_head_dim": 128,
        "qk_rope_head_dim": 64,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {**YARN, "mscale": 1.0, "mscale_all_dim": 1.0},
        "rope_theta": 10000,
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 4,
        "topk_method": "noaux_tc",
        "v_head_dim": 128,
        "vocab_size": 129280,
    },
}
V2: dict[str, Any] = {
    **RELEASED["deepseek_v2_lite"],
    "first_k_dense_replace": 1,
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "moe_intermediate_size": 1536,
    "n_group": 8,
    "n_routed_experts": 160,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "q_lora_rank": 1536,
    "routed_scaling_factor": 16.0,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
}
RELEASED["deepseek_v2"] = V2


def spec_of(config: dict[str, Any]) -> builders.TransformerSpec:
    family, head = family_of(config)
    return builders.TransformerSpec(**family.spec_fields(config, head))


@pytest.mark.parametrize("name", RELEASED)
def test_a_released_configuration_is_the_variant_of_its_name_and_is_written_again(
    name: str,
) -> None:
    config, ours = RELEASED[name], builders.variant(name)
    assert differences(ours, spec_of(config)) == {}
    written = family_of(config)[0].config(ours)
    for key in ("mscale", "mscale_all_dim"):
        assert written["rope_scaling"][key] == config["rope_scaling"][key]
    names = {key: config[key] for key in ("architectures", "model_type")}
    assert differences(spec_of({**names, **written}), ours) == {}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kv_lora_rank": None}, "kv_lora_rank=None: must be the width of the latents"),
        ({"head_dim": 128}, "head_dim=128: must be 64, or absent"),
        ({"qk_head_dim": 128}, "qk_head_dim=128: must be 192, or absent"),
        ({"n_shared_experts": None}, "n_shared_experts=None: must be a positive int"),
        ({"topk_method": "noaux_tc"}, "must be greedy or group_limited_greedy"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps=1e-05: must be 1e-06, or absent"),
        ({"scoring_func": "sigmoid"}, "scoring_func='sigmoid': must be 'softmax'"),
        ({"num_key_value_heads": 8}, "num_key_value_heads=8: must be 16, as num_heads"),
        ({"moe_layer_freq": 2}, "moe_layer_freq=2: must be 1"),
        ({"partial_rotary_factor": 0.5}, "partial_rotary_factor=0.5 has an unknown meaning"),
        ({"quantization_config": {"fmt": "e4m3"}}, "quantization_config=.*must be None"),
    ],
)
def test_settings_that_no_spec_has_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spec_of({**RELEASED["deepseek_v2_lite"], **changes})


def test_without_its_factor_yarn_leaves_the_scale_of_the_scores() -> None:
    config = RELEASED["deepseek_v3"]
    plain = spec_of({**config, "rope_scaling": YARN})
    assert (plain.attention_scale, plain.rotary_magnitude) == (None, None)
    other = spec_of({**config, "rope_scaling": {**YARN, "mscale_all_dim": 0.5}})
    assert other.attention_scale == pytest.approx(192**-0.5 * (0.05 * np.log(40) + 1) ** 2)
    assert other.rotary_magnitude is None


def test_any_scale_of_the_scores_is_written() -> None:
    for changes in ({"head_dim": 96}, {"attention_scale": 0.0717}, {"rotary_magnitude": 1.3}):
        spec = builders.variant("deepseek_v3", **changes)
        names = {key: RELEASED["deepseek_v3"][key] for key in ("architectures", "model_type")}
        written = family_of(names)[0].config(spec)
        assert differences(spec, spec_of({**names, **written})) == {}


def test_all_blocks_may_have_one_layer_or_experts() -> None:
    config = RELEASED["deepseek_v3"]
    for first, experts in ((0, 256), (61, 0)):
        spec = spec_of({**config, "first_k_dense_replace": first})
        assert {block.num_experts for block in spec.blocks("decoder")} == {experts}


def test_a_block_that_predicts_later_tokens_is_left_out_and_no_other(tmp_path: Path) -> None:
    """With `num_nextn_predict_layers`, the block after the last one has an `eh_proj`."""
    folder = shutil.copytree(GOLDEN / "deepseek_v3", tmp_path / "v3")
    tensors = load_file(folder / "model.safetensors")
    further = {"model.layers.2.mlp.gate.weight": np.ones((3, 5), "float16")}
    save_file({**tensors, **further}, folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tensor layers\.2\.mlp\.gate\.weight"):
        fm.from_hugging_face(folder)
    further["model.layers.2.eh_proj.weight"] = np.ones((3, 5), "float16")
    save_file({**tensors, **further}, folder / "model.safetensors")
    with pytest.warns(UserWarning, match="without a tokenizer"):
        assert fm.from_hugging_face(folder).spec.num_layers == 2
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    with pytest.warns(UserWarning, match="without a tokenizer"):
        assert fm.from_hugging_face(folder).spec.num_layers == 2
