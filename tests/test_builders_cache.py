"""Decoding caches: row order, contents and visibility."""

from typing import Any

import keras
import numpy as np
import pytest
from decoding import (
    ONE_BY_ONE,
    UNEVEN,
    decode_chunks,
    decode_logits,
    each_kind,
    initial_cache,
    is_not_padding,
    shallow_spec,
)
from small_models import (
    BATCH,
    GROUPED,
    ROTARY_LATENTS,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    TRANSLATOR,
    as_array,
    logits_of,
    random_tokens,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
    target_of,
    with_target,
)

import builders

# Rows -------------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "sinusoidal", "pad_token_id": None},
        {"attention_window": 3, "pad_token_id": None},
        {**TRANSLATOR, "pad_token_id": None},
        ROTARY_LATENTS,  # rotated keys are in the cache
    ],
    ids=["learned", "sinusoidal", "window", "translator", "latents"],
)
@pytest.mark.parametrize("num_tokens", [None, 1])
def test_left_padded_rows_have_the_logits_of_each_row_alone(
    changes: dict[str, Any], num_tokens: int | None
) -> None:
    """Slots before the start of a row are masked, even without a padding token."""
    spec = shallow_spec(**changes)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    target = target_of(tokens)
    lengths = (TARGET_LENGTH, 7, 5)
    start = [TARGET_LENGTH - length for length in lengths]
    padded = np.stack([np.roll(target[row], start[row]) for row in range(BATCH)])
    chunks = UNEVEN if num_tokens is None else ONE_BY_ONE
    logits = decode_logits(
        model, spec, with_target(tokens, padded), chunks, num_tokens, start=start
    )
    for row, length in enumerate(lengths):
        alone: Any = target[[row], :length]
        if spec.kind == "encoder_decoder":
            alone = {"source": tokens["source"][[row]], "target": alone}
        assert relative_error(logits[[row], start[row] :], logits_of(model, alone)) <= 1e-5


@each_kind
def test_rows_of_a_cache_can_be_reordered(kind: str) -> None:
    spec = shallow_spec(kind=kind)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    target, order = target_of(tokens), [2, 0, 1]
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    cache = initial_cache(model, spec, tokens, TARGET_LENGTH)
    logits, cache = decode_chunks(step, target[:, :5], [5], cache)
    expected, _ = decode_chunks(step, target[:, 5:], [6], cache, index=5)
    reordered = {
        name: keras.ops.take(entry, np.array(order), axis=0) for name, entry in cache.items()
    }
    logits, _ = decode_chunks(step, target[order, 5:], [6], reordered, index=5)
    assert relative_error(logits, expected[order]) <= 1e-6


@pytest.mark.sampled(2)
@pytest.mark.parametrize("window", [None, 3])
@pytest.mark.parametrize("prefix_length", [0, 4])
def test_a_token_of_a_chunk_does_not_change_earlier_logits(
    window: int | None, prefix_length: int
) -> None:
    spec = shallow_spec(attention_window=window)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    cache = initial_cache(model, spec, tokens, TARGET_LENGTH)
    if prefix_length:
        _, cache = decode_chunks(step, tokens[:, :prefix_length], [prefix_length], cache)
    chunk = tokens[:, prefix_length:]
    size = chunk.shape[1]
    before, _ = decode_chunks(step, chunk, [size], cache, index=prefix_length)
    for i in range(size):
        after, _ = decode_chunks(
            step, replace_token(spec, chunk, i), [size], cache, index=prefix_length
        )
        np.testing.assert_allclose(after[:, :i], before[:, :i], rtol=0, atol=1e-6)
        assert (np.abs(after[:, i] - before[:, i]).max(axis=-1) > 1e-3).all()


# Caches -----------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("window", "max_length", "slots"),
    [(None, 11, 11), (None, None, 17), (3, 11, 3), (13, 11, 11), (3, 2, 2)],
)
@each_kind
def test_a_cache_has_the_documented_shapes(
    window: int | None, max_length: int | None, slots: int, kind: str
) -> None:
    spec = small_spec(kind=kind, attention_window=window, **GROUPED)
    model = shared_model(spec)
    cache = initial_cache(model, spec, random_tokens(spec), max_length)
    positions = "decoder.window_position_cache" if window else "decoder.position_cache"
    expected: dict[str, tuple[Any, str]] = {positions: ((BATCH, slots), "int32")}
    lengths = {"self_attention": slots}
    if kind == "encoder_decoder":
        lengths["cross_attention"] = SOURCE_LENGTH
        expected["encoder.memory_mask"] = ((BATCH, 1, SOURCE_LENGTH), "bool")
    for block in range(2):
        for part, length in lengths.items():
            name = f"decoder.block_{block}.{part}"  # 3 key heads, 6 query heads
            expected[f"{name}.key_cache"] = ((BATCH, 3, 5, length), "float32")
            expected[f"{name}.value_cache"] = ((BATCH, 3, length, 5), "float32")
    found = {
        name: (tuple(entry.shape), keras.backend.standardize_dtype(entry.dtype))
        for name, entry in cache.items()
    }
    assert found == expected
    length = spec.max_sequence_length if max_length is None else max_length
    step = builders.build_decode_step(model, spec, BATCH, None, length)
    inputs = {name: (x.shape, x.dtype) for name, x in step.input["cache"].items()}
    outputs = {name: (x.shape, x.dtype) for name, x in step.output["cache"].items()}
    any_source = {
        name: (tuple(None if size == SOURCE_LENGTH else size for size in shape), dtype)
        for name, (shape, dtype) in expected.items()
    }
    assert inputs == outputs == any_source


def test_windowed_blocks_have_a_ring_buffer_and_the_others_all_slots() -> None:
    spec = small_spec(
        num_layers=3, attention_window=3, block_overrides=({}, {"attention_window": None})
    )
    cache = builders.empty_cache(builders.build(spec), spec, BATCH, 11)
    slots = {name: entry.shape[3] for name, entry in cache.items() if "key_cache" in name}
    assert list(slots.values()) == [3, 11, 3]
    assert cache["decoder.window_position_cache"].shape == (BATCH, 3)
    assert cache["decoder.position_cache"].shape == (BATCH, 11)


def test_the_source_cache_has_no_mask_without_a_padding_token() -> None:
    spec = shallow_spec(kind="encoder_decoder", pad_token_id=None)
    assert "encoder.memory_mask" not in initial_cache(
        shared_model(spec), spec, random_tokens(spec), 5
    )


def test_a_decode_step_returns_the_source_cache_unchanged() -> None:
    spec = shallow_spec(kind="encoder_decoder")
    model = shared_model(spec)
    tokens = random_tokens(spec)
    before = initial_cache(model, spec, tokens, TARGET_LENGTH)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    _, after = decode_chunks(step, tokens["target"], UNEVEN, before)
    for name in before:
        changed = (as_array(before[name]) != as_array(after[name])).any()
        assert changed == ("cross" not in name and "memory" not in name), name


def test_an_empty_cache_is_all_zeros_and_its_slots_are_masked() -> None:
    """Position 0 marks an empty slot, whatever its keys and values are."""
    spec = shallow_spec()
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    empty = builders.empty_cache(model, spec, BATCH, TARGET_LENGTH)
    assert not any(as_array(entry).any() for entry in empty.values())
    rng = np.random.default_rng(0)
    noise = {
        name: rng.normal(size=entry.shape).astype("float32") if "attention" in name else entry
        for name, entry in empty.items()
    }
    expected, _ = decode_chunks(step, tokens, UNEVEN, empty)
    logits, _ = decode_chunks(step, tokens, UNEVEN, noise)
    np.testing.assert_array_equal(logits, expected)


def test_a_cache_holds_the_positions_of_visible_tokens() -> None:
    spec = shallow_spec(pad_token_id=7)
    model = shared_model(spec)
    tokens = np.array([[7, 7, 5, 3, 2], [2, 3, 7, 4, 1], [5, 5, 5, 5, 5]], "int32")
    step = builders.build_decode_step(model, spec, BATCH, None, 7)
    cache = builders.empty_cache(model, spec, BATCH, 7)
    _, cache = decode_chunks(step, tokens, [2, 3], cache, start=[2, 0, 3])
    np.testing.assert_array_equal(
        as_array(cache["decoder.position_cache"]),
        [[0, 0, 1, 2, 3, 0, 0], [1, 2, 0, 4, 5, 0, 0], [0, 0, 0, 1, 2, 0, 0]],
    )


@pytest.mark.parametrize("num_tokens", [1, None])
def test_windowed_logits_are_correct_after_the_ring_buffer_is_full(
    num_tokens: int | None,
) -> None:
    spec = shallow_spec(attention_window=3, positions="none", max_sequence_length=5)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    chunks = ONE_BY_ONE if num_tokens else UNEVEN
    logits = decode_logits(model, spec, tokens, chunks, num_tokens, max_length=3)
    real = is_not_padding(spec, tokens)
    assert relative_error(logits[real], logits_of(model, tokens)[real]) <= 1e-5
