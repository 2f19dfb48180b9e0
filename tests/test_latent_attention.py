"""Latent attention: what its cache holds, and derived graphs that use kernels of other layers."""

from pathlib import Path

import keras
import numpy as np
import pytest
from decoding import decode_logits, initial_cache, shallow_spec
from small_models import (
    BATCH,
    ROTARY_LATENTS,
    SOURCE_LENGTH,
    TRANSLATOR,
    logits_of,
    random_model,
    random_tokens,
    randomise_weights,
    reduced_variant,
    relative_error,
    shared_model,
)

import builders
import functional_models as fm


def test_a_cache_holds_latents_and_rotated_keys_which_all_heads_share() -> None:
    spec = shallow_spec(**TRANSLATOR, **ROTARY_LATENTS)
    cache = initial_cache(shared_model(spec), spec, random_tokens(spec), 7)
    shapes = {name: tuple(entry.shape) for name, entry in cache.items() if "attention" in name}
    block = "decoder.block_0"
    assert shapes == {
        f"{block}.self_attention.shared_key_cache": (BATCH, 1, 7, 4),
        f"{block}.self_attention.latent_cache": (BATCH, 1, 7, 5),
        f"{block}.cross_attention.shared_key_cache": (BATCH, 1, SOURCE_LENGTH, 4),
        f"{block}.cross_attention.latent_cache": (BATCH, 1, SOURCE_LENGTH, 5),
    }


def test_the_cache_of_deepseek_v3_has_576_numbers_for_a_token_and_a_block() -> None:
    """DeepSeek-AI 2024, "DeepSeek-V2", table 1: (d_c + d_h^R) l."""
    spec = builders.variant("deepseek_v3")
    positions = 4 * 1000
    assert builders.count_cache_bytes(spec, 1000, "bfloat16") - positions == 2 * 61 * 576 * 1000


def test_a_loaded_model_decodes_as_it_computes_whole_sequences(tmp_path: Path) -> None:
    spec = shallow_spec(**ROTARY_LATENTS)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert relative_error(decode_logits(loaded, spec, tokens), logits_of(model, tokens)) <= 1e-5


def test_blocks_that_share_layers_share_the_products_with_their_kernels() -> None:
    spec = shallow_spec(**ROTARY_LATENTS, num_layers=3, distinct_blocks=1)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    assert relative_error(decode_logits(model, spec, tokens), logits_of(model, tokens)) <= 1e-5


def test_decoding_uses_low_rank_updates_of_the_kernels_of_latents() -> None:
    spec = shallow_spec(**ROTARY_LATENTS)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    before = logits_of(model, tokens)
    for role in ("key", "value"):
        layer = model.get_layer(f"decoder.block_0.self_attention.{role}")
        layer.enable_lora(2)
        for weight in (layer.lora_kernel_a, layer.lora_kernel_b):
            weight.assign(np.random.default_rng(3).normal(size=weight.shape))
    after = logits_of(model, tokens)
    assert relative_error(after, before) > 1e-2
    assert relative_error(decode_logits(model, spec, tokens), after) <= 1e-5


@pytest.mark.slow
def test_decoding_uses_quantized_kernels_of_latents() -> None:
    spec = shallow_spec(**ROTARY_LATENTS)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    with pytest.warns(UserWarning, match="quantize"):
        model.quantize("int8")
    expected = logits_of(model, tokens)
    assert relative_error(decode_logits(model, spec, tokens), expected) < 0.05


def test_the_names_of_other_libraries_lead_to_the_fields() -> None:
    for given, field in {"kv_lora_rank": "latent_dim", "q_lora_rank": "query_latent_dim"}.items():
        with pytest.raises(ValueError, match=f"{given!r} .did you mean {field!r}"):
            shallow_spec(**{given: 5})


@pytest.mark.slow
def test_a_reduced_deepseek_generates_the_same_in_a_batch_and_alone() -> None:
    """In the compiled loop, which chooses experts of some groups, with rows of unequal lengths."""
    spec = reduced_variant("deepseek_v3", "decoder_only")
    spec = spec.replace(vocabulary_size=256, max_sequence_length=53)
    lm = fm.CausalLM(spec, fm.train_tokenizer("byte", []))
    randomise_weights(lm.model)
    prompts = ["Once", "In the beginning"]
    together = lm.generate(prompts, "greedy", max_new_tokens=7)
    assert together == [lm.generate(one, "greedy", max_new_tokens=7) for one in prompts]
