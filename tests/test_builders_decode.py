"""Decode steps and other derived graphs return the same logits as the model."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from decoding import (
    UNEVEN,
    assert_cached_equals_uncached,
    decode_chunks,
    decode_logits,
    each_kind,
    initial_cache,
    is_not_padding,
    shallow_spec,
)
from quick import slow_unless
from small_models import (
    BATCH,
    GROUPED,
    LATENTS,
    ROTARY_LATENTS,
    TARGET_LENGTH,
    TRANSLATOR,
    VARIANTS_AND_KINDS,
    as_array,
    dtype_policy_scope,
    logits_of,
    probe_activations,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
    shared_model,
    small_spec,
    target_of,
    train_one_step,
)

import builders

RELATIVE = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 7}
CHANGES: dict[str, dict[str, Any]] = {
    "grouped heads": GROUPED,
    "translator with grouped heads": {**GROUPED, **TRANSLATOR},
    "multi-query": {"num_key_value_heads": 1},
    "window": {"attention_window": 3},
    "window without padding": {"attention_window": 3, "pad_token_id": None},
    "window of one token": {"attention_window": 1},
    "window longer than the sequence": {"attention_window": 13},
    "translator with grouped heads and a window": {**GROUPED, **TRANSLATOR, "attention_window": 3},
    "a window in every other block": {"num_layers": 3, "attention_window": 3}
    | {"block_overrides": ({}, {"attention_window": None})},
    "translator with a window in every other block": {
        **TRANSLATOR,
        **GROUPED,
        **RELATIVE,
        "num_layers": 2,
        "attention_window": 3,
        "block_overrides": ({}, {"attention_window": None}),
    },
    "a translator whose blocks have their own relative buckets": {
        **TRANSLATOR,
        **RELATIVE,
        "num_layers": 2,
        "relative_by_block": True,
        "block_overrides": ({"attention_window": 3}, {}),
    },
    "latents": {**LATENTS, "positions": "rotary", "query_latent_dim": 9, "attention_scale": 0.2},
    "latents with a window and relative buckets": {
        **LATENTS,
        **RELATIVE,
        "attention_window": 3,
        "attention_soft_cap": 1.5,
    },
    "translator with latents": {**TRANSLATOR, **LATENTS, "positions": "rotary", "norm": "rms"},
    "gated attention of a translator": {**TRANSLATOR, **GROUPED, "attention_gate": True},
    "gated attention to latents": {**LATENTS, "positions": "rotary", "attention_gate": True},
    "Keras layer": {"attention": "layer"},
    "translator with the Keras layer": {**TRANSLATOR, "attention": "layer"},
    "Keras layer with a window": {"attention": "layer", "attention_window": 3},
    "attention dropout": {"attention_dropout": 0.3},
    "translator with attention dropout": {**TRANSLATOR, "attention_dropout": 0.3},
    "learned positions": {"positions": "learned"},
    "sinusoidal positions": {"positions": "sinusoidal"},
    "concatenated sinusoids": {"positions": "sinusoidal_concat"},
    "no positions": {"positions": "none"},
    "rotary": {"positions": "rotary", "rotary_dim": 6},
    "scaled rotary with grouped heads and a window": {
        **GROUPED,
        "positions": "rotary",
        "rotary_dim": 4,
        "rotary_scaling": "yarn",
        "rotary_factor": 3.0,
        "attention_window": 3,
    },
    "rotary translator": {**TRANSLATOR, "positions": "rotary", "rotary_dim": 6, "qk_norm": True},
    "ALiBi": {"positions": "alibi", "num_heads": 3, "head_dim": 5},
    "ALiBi with a window": {"positions": "alibi", "attention_window": 3},
    "relative buckets": {**RELATIVE, "attention_soft_cap": 1.5},
    "translator with relative buckets": {**TRANSLATOR, **RELATIVE},
    "relative buckets with grouped heads and a window": {
        **GROUPED,
        **RELATIVE,
        "attention_window": 3,
    },
    "tied embeddings": {"tie_embeddings": True},
    "tied embeddings with a bias": {"tie_embeddings": True, "logit_bias": True},
    "shared embeddings": {**TRANSLATOR, "share_embeddings": True},
    "narrow embeddings, scaled logits": {
        "embedding_dim": 5,
        "tie_embeddings": True,
        "scale_logits": True,
    },
    "shared and tied embeddings": {**TRANSLATOR, "share_embeddings": True, "tie_embeddings": True},
    "no padding": {"pad_token_id": None},
    "visible target padding": {**TRANSLATOR, "mask_target_padding": False},
    "another padding token": {"pad_token_id": 7},
    "translator without padding": {**TRANSLATOR, "pad_token_id": None},
    "no biases, no residuals": {"attention_bias": False, "merge": "none"},
    "sandwich norms, soft caps": {
        "norm_placement": "sandwich",
        "norm": "rms",
        "norm_offset": True,
        "feedforward": "glu",
        "attention_scale": 0.7,
        "attention_soft_cap": 1.5,
        "logit_soft_cap": 2.5,
    },
    "parallel sublayers, query and key norms": {
        **GROUPED,
        "norm_placement": "parallel",
        "norm_bias": False,
        "embedding_norm": True,
        "qk_norm": True,
        "feedforward_bias": False,
        "attention_output_bias": False,
    },
    "translator without norms, with soft cap and scale": {
        **TRANSLATOR,
        "norm_placement": "none",
        "qk_norm": True,
        "attention_scale": 0.3,
        "attention_soft_cap": 1.5,
    },
    "skips from the embedding, shared blocks": {
        "num_layers": 5,
        "distinct_blocks": 2,
        "block_skips": "embedding",
        "value_residual": True,
        "norm_scale": "inverse_sqrt_depth",
    },
    "several streams": {"merge": "hyper_connections", "block_skips": "unet", "num_streams": 3},
    "translator with several streams": {
        **TRANSLATOR,
        "merge": "static_hyper_connections",
        "norm_placement": "sandwich",
        "distinct_blocks": 1,
    },
    "translator with mirrored skips and mixed values": {
        **TRANSLATOR,
        "num_layers": 5,
        "num_encoder_layers": 4,
        "block_skips": "unet",
        "value_residual": True,
        "attention_window": 3,
        "block_overrides": ({}, {"attention_window": None}),
    },
    "blocks that differ": {
        **GROUPED,
        "num_layers": 3,
        "positions": "rotary",
        "rotary_dim": 4,
        "attention_window": 3,
        "block_overrides": (
            {"rotary_base": 13.0, "feedforward": "glu"},
            {"attention_window": 5, "num_key_value_heads": 6, "intermediate_dim": 19},
            {"attention_window": None, "positions": "none", "qk_norm": True},
        ),
        "merge": "layer_scale",
    },
    "translator with blocks that differ, output norms, gates": {
        **TRANSLATOR,
        "num_layers": 3,
        "num_encoder_layers": 2,
        "attention_window": 3,
        "positions": "alibi",
        "block_overrides": ({"positions": "none"}, {"num_key_value_heads": 1}, {}),
        "norm_placement": "output",
        "merge": "highway",
    },
    "one norm for parallel sublayers, scaled": {
        "norm_placement": "parallel_shared_norm",
        "norm_scale": "inverse_sqrt_depth",
        "merge": "scaled",
        "skip_scale": 0.7,
        "branch_scale": "inverse_sqrt_layers",
    },
    "another number of encoder layers": {**TRANSLATOR, "num_encoder_layers": 1},
}


# Cached equals uncached -------------------------------------------------------------------------


# One of each differently wired family; `make test-all` runs the others.
QUICK_VARIANTS = (
    "vaswani_base",
    "gpt2_small",
    "bloom_560m",
    "llama3.2_1b",
    "gemma2_2b",
    "t5_small",
)
# Where every graph is compiled, a variant takes ten seconds; the specs below are wired as they are.
COMPILES = keras.backend.backend() == "jax"
VARIANTS = [row for row in VARIANTS_AND_KINDS if row[0] in QUICK_VARIANTS or not COMPILES]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(lambda name, kind: name in QUICK_VARIANTS, VARIANTS),
)
def test_cached_logits_of_every_variant_equal_uncached_logits(name: str, kind: str) -> None:
    spec = reduced_variant(name, kind)
    assert_cached_equals_uncached(shared_model(spec), spec)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), VARIANTS)
def test_cached_logits_of_every_variant_equal_uncached_logits_in_half_precision(
    name: str, kind: str
) -> None:
    """Use freshly initialized weights: random ones make attention so sharp that rounding to 8 bits
    changes the logits of some variants by more than the tolerance."""
    spec = reduced_variant(name, kind)
    keras.utils.set_random_seed(1)
    with dtype_policy_scope("mixed_bfloat16"):
        model = builders.build(spec)
    assert_cached_equals_uncached(model, spec, tolerance=2e-2)


# `make test-all` runs the others. The quick variants have grouped heads, sandwich norms, soft caps.
QUICK = ("window", "blocks that differ", "Keras layer")


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CHANGES],
)
def test_cached_logits_equal_uncached_logits(name: str) -> None:
    spec = shallow_spec(**CHANGES[name])
    assert_cached_equals_uncached(shared_model(spec), spec)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(TRANSLATOR, marks=pytest.mark.slow),
        pytest.param({**TRANSLATOR, "attention_dropout": 0.3}, marks=pytest.mark.slow),
        pytest.param({**TRANSLATOR, "attention": "layer"}, marks=pytest.mark.slow),
        pytest.param({**GROUPED, "attention_window": 3}, marks=pytest.mark.slow),
    ],
    ids=["decoder", "translator", "unfused", "layer", "grouped window"],
)
def test_a_decode_step_keeps_the_dtype_policy_of_its_model(changes: dict[str, Any]) -> None:
    """Also if the global policy has changed since the model was built."""
    spec = shallow_spec(**changes)
    with dtype_policy_scope("mixed_bfloat16"):
        model = shared_model(spec)
    assert_cached_equals_uncached(model, spec, tolerance=2e-2)
    cache = initial_cache(model, spec, random_tokens(spec), 5)
    dtypes = {name: keras.backend.standardize_dtype(x.dtype) for name, x in cache.items()}
    assert {dtype for name, dtype in dtypes.items() if "_attention." in name} == {"bfloat16"}


def test_a_source_of_one_token_and_a_cache_of_one_slot_are_allowed() -> None:
    """Keras warns of a softmax over an axis of size 1, and warnings are errors here."""
    spec = shallow_spec(kind="encoder_decoder")
    model = shared_model(spec)
    tokens = {side: x[:, :1] for side, x in random_tokens(spec, padding=False).items()}
    expected = logits_of(model, tokens)
    for num_tokens in (1, None):
        logits = decode_logits(model, spec, tokens, [1], num_tokens, max_length=1)
        assert relative_error(logits, expected) <= 1e-5
    for weights in builders.build_probe(model, spec)(tokens).values():
        np.testing.assert_array_equal(as_array(weights), np.ones((BATCH, 2, 1, 1)))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(TRANSLATOR, marks=pytest.mark.slow),
        pytest.param({"attention_window": 3}, marks=pytest.mark.slow),
    ],
    ids=["decoder", "translator", "window"],
)
def test_a_decode_step_with_dynamic_sizes_takes_any_batch_size_and_length(
    changes: dict[str, Any],
) -> None:
    spec = shallow_spec(**changes)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    step = builders.build_decode_step(model, spec, None, None, None)
    for rows, max_length in ((BATCH, 13), (1, TARGET_LENGTH)):
        batch = keras.tree.map_structure(itemgetter(slice(rows)), tokens)
        cache = initial_cache(model, spec, batch, max_length)
        logits, _ = decode_chunks(step, target_of(batch), UNEVEN, cache)
        real = is_not_padding(spec, batch)
        assert relative_error(logits[real], logits_of(model, batch)[real]) <= 1e-5


@pytest.mark.sampled(1)
@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends have static shapes"
)
@pytest.mark.parametrize("window", [None, 3])
def test_a_decode_step_can_be_traced_with_unknown_sizes(window: int | None) -> None:
    import tensorflow as tf

    spec = shallow_spec(attention_window=window)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    step = builders.build_decode_step(model, spec, None, None, None)
    shapes = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), step.input)
    run = tf.function(step, input_signature=[shapes])
    cache = initial_cache(model, spec, tokens, TARGET_LENGTH)
    logits, _ = decode_chunks(run, tokens, UNEVEN, cache)
    real = is_not_padding(spec, tokens)
    assert relative_error(logits[real], logits_of(model, tokens)[real]) <= 1e-5


# Weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"attention": "layer"}, {"tie_embeddings": True}])
@each_kind
@pytest.mark.slow
def test_derived_graphs_share_the_weights_of_the_model(kind: str, changes: dict[str, Any]) -> None:
    spec = shallow_spec(kind=kind, **changes)
    model = shared_model(spec)
    step = builders.build_decode_step(model, spec)
    graphs = [step] if kind == "decoder_only" else [step, builders.build_encode(model, spec)]
    weights = {id(weight) for weight in model.weights}
    assert {id(weight) for graph in graphs for weight in graph.weights} == weights
    assert {id(weight) for weight in builders.build_probe(model, spec).weights} < weights
    last = builders.build_probe(model, spec, "decoder.final_norm").weights
    logits = [w for w in model.weights if w.path.startswith("logits")]
    assert {id(weight) for weight in [*last, *logits]} == weights


@pytest.mark.sampled(1)
@pytest.mark.parametrize("attention", ["graph", "layer"])
@each_kind
def test_a_decode_step_of_a_loaded_model_returns_the_same_logits(
    kind: str, attention: str, tmp_path: Path
) -> None:
    spec = shallow_spec(kind=kind, attention=attention)
    model = random_model(spec)
    tokens = random_tokens(spec)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        decode_logits(loaded, spec, tokens), decode_logits(model, spec, tokens), rtol=0, atol=1e-6
    )


@pytest.mark.sampled(1)
@each_kind
def test_training_a_model_updates_its_decode_step(kind: str) -> None:
    spec = shallow_spec(kind=kind, num_layers=1)
    model = random_model(spec)
    tokens = random_tokens(spec, padding=False)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    target = target_of(tokens)
    before, _ = decode_chunks(
        step, target, UNEVEN, initial_cache(model, spec, tokens, TARGET_LENGTH)
    )
    train_one_step(model, tokens, learning_rate=0.1)
    after, _ = decode_chunks(
        step, target, UNEVEN, initial_cache(model, spec, tokens, TARGET_LENGTH)
    )
    assert relative_error(after, before) > 1e-3
    assert relative_error(after, logits_of(model, tokens)) <= 1e-5


def test_decode_returns_hidden_states_and_encode_returns_the_memory() -> None:
    spec = small_spec(kind="encoder_decoder")
    model = shared_model(spec)
    tokens = random_tokens(spec)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    output = step(
        {
            "tokens": tokens["target"],
            "index": 0,
            "start": [0] * BATCH,
            "cache": initial_cache(model, spec, tokens, TARGET_LENGTH),
        }
    )
    names = ["decoder.final_norm", "encoder.final_norm"]
    hidden, memory = probe_activations(model, spec, tokens, names).values()
    real = is_not_padding(spec, tokens)
    assert relative_error(as_array(output["hidden"])[real], hidden[real]) <= 1e-5
    found = builders.build_encode(model, spec)(tokens["source"])["memory"]
    assert relative_error(as_array(found), memory) <= 1e-5


@pytest.mark.parametrize("changes", [{}, ROTARY_LATENTS], ids=["default", "latents"])
def test_a_decode_step_is_saved_and_loaded_with_its_weights(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    spec = small_spec(**changes)
    step = builders.build_decode_step(random_model(spec), spec)
    step.save(tmp_path / "step.keras")
    loaded = keras.saving.load_model(tmp_path / "step.keras")
    inputs = {
        "tokens": np.array([[3]], "int32"),
        "index": np.int32(0),
        "start": np.zeros(1, "int32"),
        "cache": builders.empty_cache(step, spec),
    }
    expected, found = (as_array(graph(inputs)["logits"]) for graph in (step, loaded))
    np.testing.assert_array_equal(found, expected)


# Errors -----------------------------------------------------------------------------------------


def test_build_encode_requires_an_encoder() -> None:
    spec = small_spec()
    with pytest.raises(ValueError, match=r"encoder_decoder.*'decoder_only'.*build_decode_step"):
        builders.build_encode(builders.build(spec), spec)


@pytest.mark.parametrize("missing", ["index", "start", "decoder.position_cache"])
def test_a_missing_input_is_named(missing: str) -> None:
    spec = small_spec()
    model = builders.build(spec)
    cache = dict(builders.empty_cache(model, spec))
    inputs: dict[str, Any] = {"tokens": [[5]], "index": 0, "start": [0], "cache": cache}
    (cache if "cache" in missing else inputs).pop(missing)
    with pytest.raises(ValueError, match=f"input '{missing}' is missing; given: "):
        builders.build_decode_step(model, spec)(inputs)
