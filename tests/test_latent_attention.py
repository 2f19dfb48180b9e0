"""Latent attention: what its cache holds, and derived graphs that use kernels of other layers."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from decoding import ONE_BY_ONE, UNEVEN, decode_logits, initial_cache, shallow_spec
from small_models import (
    BATCH,
    LATENTS,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    TRANSLATOR,
    as_array,
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

ROTARY = {**LATENTS, "positions": "rotary", "query_latent_dim": 9, "norm": "rms"}


def test_a_cache_holds_latents_and_rotated_keys_which_all_heads_share() -> None:
    spec = shallow_spec(**TRANSLATOR, **ROTARY)
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


@pytest.mark.sampled(1)
@pytest.mark.parametrize("num_tokens", [None, 1])
def test_left_padded_rows_have_the_logits_of_each_row_alone(num_tokens: int | None) -> None:
    """Rotated keys are in the cache, so that their positions start at the first token of a row."""
    spec = shallow_spec(**ROTARY)
    model, tokens = shared_model(spec), random_tokens(spec, padding=False)
    lengths = (TARGET_LENGTH, 7, 5)
    start = [TARGET_LENGTH - length for length in lengths]
    padded = np.stack([np.roll(tokens[row], start[row]) for row in range(BATCH)])
    chunks = UNEVEN if num_tokens is None else ONE_BY_ONE
    logits = decode_logits(model, spec, padded, chunks, num_tokens, start=start)
    for row, length in enumerate(lengths):
        alone = logits_of(model, tokens[[row], :length])
        assert relative_error(logits[[row], start[row] :], alone) <= 1e-5


def test_a_decode_step_is_saved_and_loaded_with_the_kernels_that_it_uses(tmp_path: Path) -> None:
    spec = shallow_spec(**ROTARY)
    step = builders.build_decode_step(random_model(spec), spec)
    step.save(tmp_path / "step.keras")
    loaded = keras.saving.load_model(tmp_path / "step.keras")
    inputs: dict[str, Any] = {
        "tokens": np.array([[3]], "int32"),
        "index": np.int32(0),
        "start": np.zeros(1, "int32"),
        "cache": builders.empty_cache(step, spec),
    }
    expected, found = (as_array(graph(inputs)["logits"]) for graph in (step, loaded))
    np.testing.assert_array_equal(found, expected)


def test_a_loaded_model_decodes_as_it_computes_whole_sequences(tmp_path: Path) -> None:
    spec = shallow_spec(**ROTARY)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    assert relative_error(decode_logits(loaded, spec, tokens), logits_of(model, tokens)) <= 1e-5


def test_blocks_that_share_layers_share_the_products_with_their_kernels() -> None:
    spec = shallow_spec(**ROTARY, num_layers=3, distinct_blocks=1)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    assert relative_error(decode_logits(model, spec, tokens), logits_of(model, tokens)) <= 1e-5


def test_decoding_uses_low_rank_updates_of_the_kernels_of_latents() -> None:
    spec = shallow_spec(**ROTARY)
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
    spec = shallow_spec(**ROTARY)
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
