"""Decode steps of small models, called the way a decode loop calls them."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytest
from small_models import (
    KINDS,
    TARGET_LENGTH,
    as_array,
    small_spec,
    target_of,
)

import builders

each_kind = pytest.mark.parametrize("kind", KINDS)
ONE_BY_ONE = [1] * TARGET_LENGTH
UNEVEN = [4, 1, 1, 5]


def shallow_spec(**changes: Any) -> builders.TransformerSpec:
    """Small spec of one block, where a second would only take time."""
    return small_spec(**{"num_layers": 1, **changes})


def first_cache(
    model: keras.Model, spec: builders.TransformerSpec, tokens: Any, max_length: int | None
) -> dict[str, Any]:
    """The cache before the first target token: of a translator, with its sources read."""
    cache = builders.empty_cache(model, spec, len(target_of(tokens)), max_length)
    if spec.kind == "decoder_only":
        return cache
    return {**cache, **builders.build_encode(model, spec)(tokens["source"])["cache"]}


def read(
    step: Any,
    target: np.ndarray,
    chunks: Sequence[int],
    cache: dict[str, Any],
    start: Sequence[int] | None = None,
    index: int = 0,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Logits (b, t, v) of target tokens read in chunks of these sizes, and the cache after."""
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


def decoded(
    model: keras.Model,
    spec: builders.TransformerSpec,
    tokens: Any,
    chunks: Sequence[int] = UNEVEN,
    num_tokens: int | None = None,
    max_length: int | None = TARGET_LENGTH,
    start: Sequence[int] | None = None,
) -> np.ndarray:
    """Logits (b, t, v) that a new decode step of a model gives, reading tokens in chunks."""
    target = target_of(tokens)
    step = builders.build_decode_step(model, spec, len(target), num_tokens, max_length)
    return read(step, target, chunks, first_cache(model, spec, tokens, max_length), start)[0]


def is_real(spec: builders.TransformerSpec, tokens: Any) -> np.ndarray:
    """Target positions that are no padding; what padding may see is nobody's business."""
    target = target_of(tokens)
    return np.ones(target.shape, bool) if spec.pad_token_id is None else target != spec.pad_token_id
