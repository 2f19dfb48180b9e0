"""Run decode steps of small models as a decoding loop does."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from small_models import (
    BATCH,
    KINDS,
    PREFIX_LENGTH,
    TARGET_LENGTH,
    as_array,
    logits_of,
    random_tokens,
    relative_error,
    small_spec,
    target_of,
    with_prefix,
)

import builders

each_kind = pytest.mark.parametrize("kind", KINDS)
ONE_BY_ONE = [1] * TARGET_LENGTH
UNEVEN = [PREFIX_LENGTH, 1, 1, 5]


def shallow_spec(**changes: Any) -> builders.TransformerSpec:
    """Return a small spec with one block, to save time."""
    return small_spec(**{"num_layers": 1, **changes})


def initial_cache(
    model: keras.Model, spec: builders.TransformerSpec, tokens: Any, max_length: int | None
) -> dict[str, Any]:
    """Return the cache before the first target token, with the encoded source if there is one."""
    cache = builders.empty_cache(model, spec, len(target_of(tokens)), max_length)
    if spec.kind == "decoder_only":
        return cache
    return {**cache, **builders.build_encode(model, spec)(tokens["source"])["cache"]}


def decode_chunks(
    step: Any,
    target: np.ndarray,
    chunks: Sequence[int],
    cache: dict[str, Any],
    start: Sequence[int] | None = None,
    index: int = 0,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Return the logits (b, t, v) of target tokens fed in chunks, and the updated cache."""
    starts = np.zeros(len(target), "int32") if start is None else np.array(start, "int32")
    logits = []
    for new in np.split(target, np.cumsum(chunks)[:-1], axis=1):
        state = {"index": np.int32(index), "start": starts, "cache": cache}
        output = step({"tokens": new, **state})
        assert output["cache"].keys() == cache.keys()
        logits.append(as_array(output["logits"]))
        cache = output["cache"]
        index += new.shape[1]
    return np.concatenate(logits, axis=1), cache


def decode_logits(
    model: keras.Model,
    spec: builders.TransformerSpec,
    tokens: Any,
    chunks: Sequence[int] = UNEVEN,
    num_tokens: int | None = None,
    max_length: int | None = TARGET_LENGTH,
    start: Sequence[int] | None = None,
) -> np.ndarray:
    """Build a decode step and return its logits (b, t, v) of target tokens fed in chunks."""
    target = target_of(tokens)
    step = builders.build_decode_step(model, spec, len(target), num_tokens, max_length)
    return decode_chunks(
        step, target, chunks, initial_cache(model, spec, tokens, max_length), start
    )[0]


def is_not_padding(spec: builders.TransformerSpec, tokens: Any) -> np.ndarray:
    """Return True at target positions that are not padding; logits of padding are unspecified."""
    target = target_of(tokens)
    return np.ones(target.shape, bool) if spec.pad_token_id is None else target != spec.pad_token_id


def assert_cached_equals_uncached(
    model: keras.Model, spec: builders.TransformerSpec, tolerance: float = 1e-5
) -> None:
    """Compare steps of one token, of all at once, and of uneven chunks with the whole sequence.

    A prefix is what the first step reads.
    """
    tokens = random_tokens(spec)
    target, real = target_of(tokens), is_not_padding(spec, tokens)
    cache = initial_cache(model, spec, tokens, TARGET_LENGTH)
    one = builders.build_decode_step(model, spec, BATCH, 1, TARGET_LENGTH)
    several = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    compiled = one.predict_on_batch
    for step, chunks in ((compiled, ONE_BY_ONE), (several, [TARGET_LENGTH]), (several, UNEVEN)):
        whole = with_prefix(tokens, chunks[0]) if spec.prefix_lm else tokens
        expected = logits_of(model, whole)[real]
        logits, _ = decode_chunks(step, target, chunks, cache)
        assert relative_error(logits[real], expected) <= tolerance, chunks
