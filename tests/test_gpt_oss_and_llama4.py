"""Properties of gpt-oss, Llama 4 and longrope: sinks, chunks, temperatures, clamps and lengths."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from decoding import ONE_BY_ONE, UNEVEN, decode_chunks, decode_logits
from small_models import (
    BATCH,
    TARGET_LENGTH,
    as_array,
    logits_of,
    probe_activations,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
    train_one_step,
    weights_by_name,
)

import builders
from builders.attention_layers import AttentionTemperature, masked_softmax
from builders.expert_layers import ScaledRows
from builders.feedforward import ClampedGate
from functional_models.generation import Generator
from functional_models.prompts import Prompts
from functional_models.samplers import make_sampler

MODELS = ("gpt_oss_20b", "llama4_scout", "llama4_maverick", "phi3.5_mini")
each_model = pytest.mark.parametrize("name", MODELS)
LONGROPE: dict[str, Any] = {
    "positions": "rotary",
    "rotary_dim": 4,
    "rotary_scaling": "longrope",
    "rotary_factor": 3.0,
    "rotary_original_length": 7,
    "rotary_short_factors": (1.0, 1.5),
    "rotary_long_factors": (2.0, 7.0),
}


def spec_of(name: str, **changes: Any) -> builders.TransformerSpec:
    return reduced_variant(name, "decoder_only").replace(pad_token_id=7, **changes)


# Every model ------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@each_model
def test_a_token_changes_no_earlier_logits_and_padding_changes_none(name: str) -> None:
    spec = spec_of(name)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    before = logits_of(model, tokens)
    after = logits_of(model, replace_token(spec, tokens, 6))
    np.testing.assert_allclose(after[:, :6], before[:, :6], rtol=0, atol=1e-6)
    assert (np.abs(after[:, 6] - before[:, 6]).max(axis=-1) > 1e-3).all()
    padded = logits_of(model, np.pad(tokens, ((0, 0), (0, 5)), constant_values=7))
    np.testing.assert_allclose(padded[:, :TARGET_LENGTH], before, rtol=0, atol=2e-5)


@pytest.mark.sampled(2)
@each_model
def test_one_training_step_changes_every_weight(name: str) -> None:
    spec = spec_of(name, num_active_experts=6 if "phi" not in name else 0)
    if "maverick" in name:
        spec = spec.replace(block_overrides=spec.block_overrides[1:])
    model = random_model(spec)
    before = weights_by_name(model)
    train_one_step(model, random_tokens(spec))
    after = weights_by_name(model)
    assert [name for name in before if (before[name] == after[name]).all()] == []


@pytest.mark.slow
@each_model
def test_a_saved_model_returns_the_same_logits_and_decodes(name: str, tmp_path: Path) -> None:
    spec = spec_of(name)
    model, tokens = random_model(spec), random_tokens(spec, padding=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    logits = logits_of(model, tokens)
    np.testing.assert_array_equal(logits_of(loaded, tokens), logits)
    assert relative_error(decode_logits(loaded, spec, tokens), logits) < 1e-5


# Sinks ------------------------------------------------------------------------------------------


def test_sinks_take_the_share_of_a_softmax_with_one_more_column() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(2, 3, 5, 7)).astype("float32")
    mask = np.tril(np.ones((1, 5, 7), bool))
    sinks = rng.normal(size=(1, 3, 1, 1)).astype("float32")
    found = as_array(masked_softmax(scores, mask, sinks, dtype="float32"))
    exponentials = np.exp(scores.astype("float64")) * mask[:, None]
    total = exponentials.sum(-1, keepdims=True) + np.exp(sinks.astype("float64"))
    np.testing.assert_allclose(found, exponentials / total, atol=1e-6)
    nothing = as_array(masked_softmax(scores, np.zeros((1, 5, 7), bool), sinks, dtype="float32"))
    np.testing.assert_array_equal(nothing, np.zeros_like(nothing))
    far = as_array(masked_softmax(1e6 * scores, mask, 1e6 * sinks, dtype="float32"))
    assert np.isfinite(far).all()


def test_sinks_far_below_the_scores_change_nothing_and_far_above_leave_no_attention() -> None:
    spec = small_spec(attention_sinks=True)
    model, plain = random_model(spec), random_model(spec.replace(attention_sinks=False))
    weights, tokens = weights_by_name(model), random_tokens(spec)
    for variable in plain.weights:
        variable.assign(weights[variable.path.replace("/", ".")])
    for value in (-1e4, 1e4):
        for layer in model.layers:
            if layer.name.endswith(".sinks"):
                layer.logits.assign(np.full(2, value))
        found = probe_activations(model, spec, tokens, "attention_scores")
        sums = np.stack([array.sum(axis=-1) for array in found.values()])
        np.testing.assert_allclose(sums, float(value < 0), atol=1e-5)
        error = relative_error(logits_of(model, tokens), logits_of(plain, tokens))
        assert (error < 1e-5) == (value < 0)


# Chunks and temperatures ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["decoder_only", "encoder_only"])
def test_a_token_of_another_chunk_changes_nothing(kind: str) -> None:
    outputs = {"pooler": True} if kind == "encoder_only" else {}
    spec = small_spec(kind=kind, attention_chunk=4, **outputs)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)

    def hidden(given: np.ndarray) -> np.ndarray:
        found = model(given)
        return as_array(found["hidden"] if isinstance(found, dict) else found)

    changed = np.abs(hidden(replace_token(spec, tokens, 5)) - hidden(tokens)).max(axis=(0, 2))
    seen = {5, 6, 7} if kind == "decoder_only" else {4, 5, 6, 7}
    assert {*np.flatnonzero(changed > 1e-6)} == seen


def test_chunks_have_a_ring_buffer_and_one_chunk_is_full_attention() -> None:
    spec = small_spec(attention_chunk=4, block_overrides=({}, {"attention_chunk": None}))
    model = shared_model(spec)
    cache = builders.empty_cache(model, spec, BATCH, TARGET_LENGTH)
    slots = {name: entry.shape[3] for name, entry in cache.items() if "key_cache" in name}
    assert list(slots.values()) == [4, 11]
    assert cache["decoder.chunk_position_cache"].shape == (BATCH, 4)
    assert builders.count_cache_bytes(spec, 11) == sum(
        as_array(entry).nbytes // BATCH for entry in cache.values()
    )
    tokens = random_tokens(spec, padding=False)
    expected = logits_of(model, tokens)
    for chunks, number in ((ONE_BY_ONE, 1), (UNEVEN, None)):
        assert relative_error(decode_logits(model, spec, tokens, chunks, number), expected) < 1e-5
    whole = spec.replace(attention_chunk=TARGET_LENGTH)
    full = spec.replace(attention_chunk=None, block_overrides=())
    found = [logits_of(random_model(one), tokens) for one in (whole, full)]
    assert relative_error(*found) < 1e-6


def test_left_padded_rows_have_the_chunks_and_temperatures_of_each_row_alone() -> None:
    spec = small_spec(attention_chunk=4, attention_temperature=0.7, attention_temperature_floor=3)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    start = [0, 4, 6]
    padded = np.stack([np.roll(tokens[row], start[row]) for row in range(BATCH)])
    logits = decode_logits(model, spec, padded, UNEVEN, start=start)
    assert np.isfinite(logits).all()
    for row, first in enumerate(start):
        alone = logits_of(model, tokens[[row], : TARGET_LENGTH - first])
        assert relative_error(logits[[row], first:], alone) < 1e-5


def test_temperatures_grow_by_steps_of_the_position() -> None:
    query = np.ones((1, 9, 2, 3), "float32")
    positions = np.arange(-1, 8, dtype="int32")[None]
    found = as_array(AttentionTemperature(0.5, 4)(query, positions))
    steps = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])  # (p + 1) // 4
    np.testing.assert_allclose(found[0, :, 1, 2], 1 + 0.5 * np.log(1 + steps), rtol=1e-6)


# Experts ----------------------------------------------------------------------------------------


def test_clamped_gates_are_limited_from_above_and_values_on_both_sides() -> None:
    gate, up = np.float32([[-9, 0.5, 9, 9]]), np.float32([[9, -9, 0.25, 9]])
    found = as_array(ClampedGate("linear", 2.0)(gate, up))
    np.testing.assert_allclose(found, [[-9 * 3, 0.5 * -1, 2 * 1.25, 2 * 3]])


def test_rows_are_multiplied_by_the_weights_of_their_choices() -> None:
    places = np.array([[[3, 0], [1, 2]]], "int32")
    weights = np.array([[[2, 3], [5, 7]]], "float32")
    rows = np.ones((4, 2), "float32")
    found = as_array(ScaledRows()(rows, places, weights))
    np.testing.assert_array_equal(found[:, 0], [3, 5, 7, 2])


# Lengths ----------------------------------------------------------------------------------------


def test_longrope_has_the_long_factors_beyond_the_original_length() -> None:
    spec = small_spec(**LONGROPE)
    tokens = random_tokens(spec, padding=False)
    same = spec.replace(rotary_short_factors=spec.rotary_long_factors)
    other = spec.replace(rotary_long_factors=spec.rotary_short_factors)
    whole, long, short = (random_model(one) for one in (spec, same, other))
    assert relative_error(logits_of(whole, tokens), logits_of(long, tokens)) < 1e-6
    assert relative_error(logits_of(whole, tokens), logits_of(short, tokens)) > 1e-3
    first = tokens[:, :7]
    assert relative_error(logits_of(whole, first), logits_of(short, first)) < 1e-6


@pytest.mark.sampled(1)
@pytest.mark.parametrize("max_length", [7, 11])
def test_the_slots_of_the_cache_choose_the_factors_of_longrope(max_length: int) -> None:
    spec = small_spec(**LONGROPE)
    factors = spec.rotary_short_factors if max_length <= 7 else spec.rotary_long_factors
    names = ("rotary_short_factors", "rotary_long_factors")
    model, fixed = random_model(spec), random_model(spec.replace(**dict.fromkeys(names, factors)))
    tokens = random_tokens(spec, padding=False)[:, :6]
    for chunks, number in (([1] * 6, 1), ([4, 2], None)):
        step = builders.build_decode_step(model, spec, BATCH, number, max_length)
        cache = builders.empty_cache(model, spec, BATCH, max_length)
        found, _ = decode_chunks(step, tokens, chunks, cache)
        assert relative_error(found, logits_of(fixed, tokens)) < 1e-5


def test_prompts_are_not_padded_beyond_the_original_length() -> None:
    spec = small_spec(**{**LONGROPE, "rotary_original_length": 40}, max_sequence_length=99)
    assert spec.length_borders == {40}
    plain = small_spec(max_sequence_length=99)
    for length, new, slots in ((5, 36, 40), (33, 8, 40), (40, 1, 40), (30, 20, 64), (4, 4, 32)):
        prompt = [np.ones(length, "int32")]
        batch = Prompts(prompt, np.array([new]), spec)
        assert batch.tokens.shape[1] - 1 == slots
        assert batch.limits[0] - batch.index == new
        assert (batch.tokens[0] == 1).sum() == length
        assert Prompts(prompt, np.array([new]), plain).tokens.shape[1] - 1 >= slots


@pytest.mark.slow
@pytest.mark.parametrize("number", [15, 31])  # after 9 tokens, within the border and beyond it
def test_generated_tokens_are_those_of_the_whole_sequence(number: int) -> None:
    spec = small_spec(**{**LONGROPE, "rotary_original_length": 24}, max_sequence_length=64)
    model = random_model(spec)
    prompt = np.arange(1, 10, dtype="int32")
    generator = Generator(model, spec, end_id=99)  # no token
    [[new]] = generator([prompt], make_sampler("greedy"), max_new_tokens=number)
    assert len(new) == number
    logits = logits_of(model, np.concatenate([prompt, new[:-1]])[None])
    np.testing.assert_array_equal(logits[0, 8:].argmax(axis=-1), new)
