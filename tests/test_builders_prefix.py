"""Prefix language models: the mask of a whole sequence, and decoding after a prompt."""

import json
from typing import Any

import numpy as np
import pytest
from decoding import decode_chunks
from quick import slow_unless
from reference import reference_logits
from small_models import (
    BATCH,
    GROUPED,
    LATENTS,
    TARGET_LENGTH,
    copy_weights,
    logits_of,
    probe_activations,
    random_model,
    random_tokens,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
    weights_by_name,
    with_prefix,
)

import builders
import plots

RELATIVE = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 7}
CASES: dict[str, dict[str, Any]] = {
    "learned positions": {"positions": "learned"},
    "coordinates": {"positions": "coordinates"},
    "no positions, no padding": {"positions": "none", "pad_token_id": None},
    "rotary, grouped heads and a window": {
        **GROUPED,
        "positions": "rotary",
        "rotary_dim": 4,
        "attention_window": 3,
        "block_overrides": ({}, {"attention_window": None}),
    },
    "chunks": {"positions": "rotary", "rotary_dim": 6, "attention_chunk": 4},
    "temperature": {"attention_temperature": 0.3, "attention_temperature_floor": 3},
    "ALiBi with a soft cap": {"positions": "alibi", "attention_soft_cap": 1.5},
    "relative buckets, sinks and a window": {
        **RELATIVE,
        "attention_sinks": True,
        "attention_window": 5,
    },
    "latents": {**LATENTS, "positions": "rotary"},
    "Keras layer": {"attention": "layer"},
    "scores in steps": {"attention_dropout": 0.3},
    "streams and values of the first block": {
        "merge": "hyper_connections",
        "num_streams": 3,
        "value_residual": True,
    },
}
QUICK = ("learned positions", "rotary, grouped heads and a window", "chunks", "latents")
QUICK += ("relative buckets, sinks and a window",)
LENGTHS = (7, 4, 0)
"""The lengths of the prefixes of a batch."""

each_case = pytest.mark.parametrize("name", slow_unless(lambda name: name in QUICK, CASES))


def prefix_spec(name: str = "learned positions") -> builders.TransformerSpec:
    return small_spec(prefix_lm=True, **CASES[name])


def expected_logits(spec: builders.TransformerSpec, model: Any, tokens: Any) -> np.ndarray:
    return reference_logits(json.loads(spec.to_json()), weights_by_name(model), tokens)


@each_case
def test_prefixes_of_several_lengths_have_the_logits_of_the_numpy_reference(name: str) -> None:
    spec = prefix_spec(name)
    model = shared_model(spec)
    tokens = with_prefix(random_tokens(spec), *LENGTHS)
    assert relative_error(logits_of(model, tokens), expected_logits(spec, model, tokens)) < 1e-5


@pytest.mark.sampled(1)
@each_case
def test_decoding_after_prompts_of_several_lengths_has_the_logits_of_each_row_alone(
    name: str,
) -> None:
    """Prompts are read in one step, padded on the left, and then token after token.

    The last token of a prompt is read twice, as in generation, which changes nothing.
    """
    spec = prefix_spec(name)
    model = shared_model(spec)
    rows = random_tokens(spec, padding=False)["tokens"]
    prompts, new = (7, 4, 1), TARGET_LENGTH - 7
    start = [7 - length for length in prompts]
    padded = np.stack([np.roll(row, first) for row, first in zip(rows, start, strict=True)])
    cache = builders.empty_cache(model, spec, BATCH, TARGET_LENGTH)
    several = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    one = builders.build_decode_step(model, spec, BATCH, 1, TARGET_LENGTH)
    prompt, cache = decode_chunks(several, padded[:, :7], [7], cache, start)
    after, _ = decode_chunks(one, padded[:, 6:], [1] * (new + 1), cache, start, index=6)
    for row, length in enumerate(prompts):
        tokens = with_prefix(rows[[row], : length + new], length)
        expected = expected_logits(spec, model, tokens)[0]
        assert relative_error(prompt[row, start[row] :], expected[:length]) < 1e-5
        assert relative_error(after[row], expected[length - 1 :]) < 1e-5


def test_several_tokens_after_the_first_step_are_causal() -> None:
    spec = prefix_spec()
    model = shared_model(spec)
    tokens = with_prefix(random_tokens(spec, padding=False), 5)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    cache = builders.empty_cache(model, spec, BATCH, TARGET_LENGTH)
    found, _ = decode_chunks(step, tokens["tokens"], [5, 3, 1, 2], cache)
    assert relative_error(found, logits_of(model, tokens)) < 1e-5


@pytest.mark.parametrize("length", [0, 1])
def test_a_prefix_of_at_most_one_token_is_the_causal_model(length: int) -> None:
    spec = prefix_spec()
    model, causal = random_model(spec), random_model(spec.replace(prefix_lm=False), seed=1)
    copy_weights(model, causal)
    tokens = random_tokens(spec)["tokens"]
    found = logits_of(model, with_prefix(tokens, length))
    np.testing.assert_allclose(found, logits_of(causal, tokens), rtol=1e-6, atol=1e-6)


def test_tokens_of_a_prefix_see_all_of_it_and_no_other_token_sees_a_later_one() -> None:
    spec = prefix_spec()
    model = shared_model(spec)
    tokens = with_prefix(random_tokens(spec, padding=False), 5)
    before = logits_of(model, tokens)
    for t in range(TARGET_LENGTH):
        changed = {**tokens, "tokens": replace_token(spec, tokens["tokens"], t)}
        moved = np.abs(logits_of(model, changed) - before).max(axis=(0, 2)) > 1e-6
        np.testing.assert_array_equal(moved, np.arange(TARGET_LENGTH) >= (0 if t < 5 else t))


def test_attention_scores_are_spread_over_the_prefix_within_the_window() -> None:
    spec = small_spec(prefix_lm=True, attention_window=3, pad_token_id=None)
    tokens = with_prefix(random_tokens(spec), *LENGTHS)
    scores = probe_activations(shared_model(spec), spec, tokens, "attention_scores")
    query, key = np.indices((TARGET_LENGTH, TARGET_LENGTH))
    for weights in scores.values():
        for row, length in enumerate(LENGTHS):
            seen = (key <= query) | ((key < length) & (query < length))
            expected = np.broadcast_to(seen & (abs(query - key) < 3), weights[row].shape)
            np.testing.assert_array_equal(weights[row] > 0, expected)


def test_the_graph_shows_the_prefix_and_its_mask() -> None:
    spec = small_spec(prefix_lm=True, num_layers=1, attention_window=3)
    model = builders.build(spec, abstract=True)
    assert list(model.input) == ["tokens", "prefix_length"]
    graph = plots.read_graph(model)
    taken = {edge.source for edge in graph.incoming["decoder.window_prefix_mask"]}
    assert taken == {"tokens", "prefix_length"}
    step = builders.build_decode_step(model, spec, 1, None, TARGET_LENGTH)
    assert "decoder.window_prefix_slot_mask" in plots.read_graph(step).index


def test_a_spec_without_the_prefix_does_not_describe_the_model() -> None:
    spec = prefix_spec()
    model = builders.build(spec, abstract=True)
    with pytest.raises(ValueError, match=r"the spec does not describe .*causal_mask is missing"):
        builders.build_decode_step(model, spec.replace(prefix_lm=False))


def test_documents_with_prefixes_cannot_share_a_row() -> None:
    spec = prefix_spec()
    with pytest.raises(ValueError, match=r"build_packed takes a spec of prefix_lm=False.*one pref"):
        builders.build_packed(builders.build(spec, abstract=True), spec)
