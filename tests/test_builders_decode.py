"""Graphs derived from a model compute what the model computes, token by token and step by step."""

from operator import itemgetter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from decoding import (
    ONE_BY_ONE,
    UNEVEN,
    decoded,
    each_kind,
    first_cache,
    is_real,
    read,
    shallow_spec,
)
from hypothesis import HealthCheck, assume, given, settings
from quick import slow_unless
from random_specs import examples, moved_by_rounding, small_specs
from small_models import (
    BATCH,
    GROUPED,
    KINDS,
    TARGET_LENGTH,
    TRANSLATOR,
    VARIANTS_AND_KINDS,
    as_array,
    computing_in,
    logits_of,
    probed,
    random_model,
    random_tokens,
    reduced_variant,
    relative_error,
    small_spec,
    target_of,
    train_one_step,
    weights_by_name,
)

import builders

BUCKETS = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 7}
CHANGES: dict[str, dict[str, Any]] = {
    "grouped heads": GROUPED,
    "grouped heads of a translator": {**GROUPED, **TRANSLATOR},
    "multi-query": {"num_key_value_heads": 1},
    "window": {"attention_window": 3},
    "window without padding": {"attention_window": 3, "pad_token_id": None},
    "window of the query alone": {"attention_window": 1},
    "window longer than the sequence": {"attention_window": 13},
    "window of a translator of grouped heads": {**GROUPED, **TRANSLATOR, "attention_window": 3},
    "a window in every other block": {"num_layers": 3, "attention_window": 3}
    | {"full_attention_every": 2},
    "a window in every other block, of a translator": {
        **TRANSLATOR,
        **GROUPED,
        **BUCKETS,
        "num_layers": 2,
        "attention_window": 3,
        "full_attention_every": 2,
    },
    "library layer": {"attention": "layer"},
    "library layer of a translator": {**TRANSLATOR, "attention": "layer"},
    "library layer with a window": {"attention": "layer", "attention_window": 3},
    "attention dropout": {"attention_dropout": 0.3},
    "attention dropout of a translator": {**TRANSLATOR, "attention_dropout": 0.3},
    "learned positions": {"positions": "learned"},
    "sinusoids": {"positions": "sinusoidal"},
    "sines, then cosines": {"positions": "sinusoidal_concat"},
    "no positions": {"positions": "none"},
    "rotary": {"positions": "rotary", "rotary_dim": 6},
    "scaled rotary of grouped heads with a window": {
        **GROUPED,
        "positions": "rotary",
        "rotary_dim": 4,
        "rotary_scaling": "yarn",
        "rotary_factor": 3.0,
        "attention_window": 3,
    },
    "rotary translator": {**TRANSLATOR, "positions": "rotary", "rotary_dim": 6, "qk_norm": True},
    "distances": {"positions": "alibi", "num_heads": 3, "head_dim": 5},
    "distances with a window": {"positions": "alibi", "attention_window": 3},
    "buckets": {**BUCKETS, "attention_soft_cap": 1.5},
    "buckets of a translator": {**TRANSLATOR, **BUCKETS},
    "buckets of grouped heads with a window": {**GROUPED, **BUCKETS, "attention_window": 3},
    "tied embeddings": {"tie_embeddings": True},
    "tied embeddings with a bias": {"tie_embeddings": True, "logit_bias": True},
    "shared embeddings": {**TRANSLATOR, "share_embeddings": True},
    "narrow embeddings, scaled logits": {
        "embedding_dim": 5,
        "tie_embeddings": True,
        "scale_logits": True,
    },
    "one table": {**TRANSLATOR, "share_embeddings": True, "tie_embeddings": True},
    "no padding": {"pad_token_id": None},
    "padding that targets may see": {**TRANSLATOR, "mask_target_padding": False},
    "padding of another token": {"pad_token_id": 7},
    "no padding in a translator": {**TRANSLATOR, "pad_token_id": None},
    "no biases, no residuals": {"attention_bias": False, "residual": False},
    "two norms a sublayer, soft caps": {
        "norm_placement": "sandwich",
        "norm": "rms",
        "norm_offset": True,
        "feedforward": "glu",
        "attention_scale": 0.7,
        "attention_soft_cap": 1.5,
        "logit_soft_cap": 2.5,
    },
    "parallel sublayers, norms of query and key": {
        **GROUPED,
        "norm_placement": "parallel",
        "norm_bias": False,
        "embedding_norm": True,
        "qk_norm": True,
        "feedforward_bias": False,
        "attention_output_bias": False,
    },
    "no norms, caps and scale of a translator": {
        **TRANSLATOR,
        "norm_placement": "none",
        "qk_norm": True,
        "attention_scale": 0.3,
        "attention_soft_cap": 1.5,
    },
    "layers of its own for the encoder": {**TRANSLATOR, "num_encoder_layers": 1},
}


def assert_decodes_as_it_reads(
    model: keras.Model, spec: builders.TransformerSpec, tolerance: float = 1e-5
) -> None:
    tokens = random_tokens(spec)
    target, real = target_of(tokens), is_real(spec, tokens)
    expected = logits_of(model, tokens)[real]
    cache = first_cache(model, spec, tokens, TARGET_LENGTH)
    one = builders.build_decode_step(model, spec, BATCH, 1, TARGET_LENGTH)
    several = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    compiled = one.predict_on_batch
    for step, chunks in ((compiled, ONE_BY_ONE), (several, [TARGET_LENGTH]), (several, UNEVEN)):
        logits, _ = read(step, target, chunks, cache)
        assert relative_error(logits[real], expected) <= tolerance, chunks


# Cached equals uncached -------------------------------------------------------------------------


# One of each family that is wired otherwise; the others are left to `make test-all`.
QUICK_VARIANTS = (
    "vaswani_base",
    "gpt2_small",
    "bloom_560m",
    "llama3.2_1b",
    "gemma2_2b",
    "t5_small",
)


@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(lambda name, kind: name in QUICK_VARIANTS, VARIANTS_AND_KINDS),
)
def test_every_variant_decodes_to_the_logits_of_whole_sequences(name: str, kind: str) -> None:
    spec = reduced_variant(name, kind)
    assert_decodes_as_it_reads(random_model(spec), spec)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), VARIANTS_AND_KINDS)
def test_every_variant_decodes_in_half_precision_to_the_logits_of_whole_sequences(
    name: str, kind: str
) -> None:
    """With weights as training starts from them: all random, they make attention so sharp that
    rounding to 8 bits alone, in either graph, moves the logits of some variants by more."""
    spec = reduced_variant(name, kind)
    keras.utils.set_random_seed(1)
    with computing_in("mixed_bfloat16"):
        model = builders.build(spec)
    assert_decodes_as_it_reads(model, spec, tolerance=2e-2)


QUICK = (
    "grouped heads",
    "two norms a sublayer, soft caps",
    "window",
    "a window in every other block",
    "library layer",
)  # the others are left to `make test-all`


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in CHANGES],
)
def test_decoding_gives_the_logits_of_whole_sequences(name: str) -> None:
    spec = shallow_spec(**CHANGES[name])
    assert_decodes_as_it_reads(random_model(spec), spec)


@pytest.mark.slow
@given(small_specs(KINDS))
@settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_random_specs_decode_to_the_logits_of_whole_sequences(
    spec: builders.TransformerSpec,
) -> None:
    model = random_model(spec)
    moved = moved_by_rounding(spec, weights_by_name(model), random_tokens(spec))
    assume(moved < 1e-5)  # others are correct to too few digits to tell
    assert_decodes_as_it_reads(model, spec, tolerance=5e-6 + 20 * moved)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        pytest.param(TRANSLATOR, marks=pytest.mark.slow),
        pytest.param({**TRANSLATOR, "attention_dropout": 0.3}, marks=pytest.mark.slow),
        pytest.param({**TRANSLATOR, "attention": "layer"}, marks=pytest.mark.slow),
        pytest.param({**GROUPED, "attention_window": 3}, marks=pytest.mark.slow),
    ],
    ids=["decoder", "translator", "explicit", "layer", "grouped window"],
)
def test_a_step_computes_in_the_precision_of_its_model(changes: dict[str, Any]) -> None:
    """Also where the setting has changed since the model was built."""
    spec = shallow_spec(**changes)
    with computing_in("mixed_bfloat16"):
        model = random_model(spec)
    assert_decodes_as_it_reads(model, spec, tolerance=2e-2)
    cache = first_cache(model, spec, random_tokens(spec), 5)
    kinds = {name: keras.backend.standardize_dtype(x.dtype) for name, x in cache.items()}
    assert {kind for name, kind in kinds.items() if "_attention." in name} == {"bfloat16"}


def test_a_source_of_one_token_and_a_cache_of_one_slot_work() -> None:
    """Keras warns of a softmax over a single number, and here warnings are errors."""
    spec = shallow_spec(kind="encoder_decoder")
    model = random_model(spec)
    tokens = {side: x[:, :1] for side, x in random_tokens(spec, padding=False).items()}
    expected = logits_of(model, tokens)
    for num_tokens in (1, None):
        logits = decoded(model, spec, tokens, [1], num_tokens, max_length=1)
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
def test_a_step_with_free_sizes_takes_any_batch_and_length(changes: dict[str, Any]) -> None:
    spec = shallow_spec(**changes)
    model = random_model(spec)
    tokens = random_tokens(spec)
    step = builders.build_decode_step(model, spec, None, None, None)
    for rows, max_length in ((BATCH, 13), (1, TARGET_LENGTH)):
        some = keras.tree.map_structure(itemgetter(slice(rows)), tokens)
        cache = first_cache(model, spec, some, max_length)
        logits, _ = read(step, target_of(some), UNEVEN, cache)
        real = is_real(spec, some)
        assert relative_error(logits[real], logits_of(model, some)[real]) <= 1e-5


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="other backends know sizes")
@pytest.mark.parametrize("window", [None, 3])
def test_sizes_may_be_unknown_when_the_graph_is_traced(window: int | None) -> None:
    import tensorflow as tf

    spec = shallow_spec(attention_window=window)
    model = random_model(spec)
    tokens = random_tokens(spec)
    step = builders.build_decode_step(model, spec, None, None, None)
    shapes = keras.tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), step.input)
    run = tf.function(step, input_signature=[shapes])
    cache = first_cache(model, spec, tokens, TARGET_LENGTH)
    logits, _ = read(run, tokens, UNEVEN, cache)
    real = is_real(spec, tokens)
    assert relative_error(logits[real], logits_of(model, tokens)[real]) <= 1e-5


# Weights ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"attention": "layer"}, {"tie_embeddings": True}])
@each_kind
@pytest.mark.slow
def test_derived_graphs_have_the_weights_of_the_model_and_no_others(
    kind: str, changes: dict[str, Any]
) -> None:
    spec = shallow_spec(kind=kind, **changes)
    model = random_model(spec)
    step = builders.build_decode_step(model, spec)
    graphs = [step] if kind == "decoder_only" else [step, builders.build_encode(model, spec)]
    weights = {id(weight) for weight in model.weights}
    assert {id(weight) for graph in graphs for weight in graph.weights} == weights
    assert {id(weight) for weight in builders.build_probe(model, spec).weights} < weights
    last = builders.build_probe(model, spec, "decoder.final_norm").weights
    of_logits = [w for w in model.weights if w.path.startswith("logits")]
    assert {id(weight) for weight in [*last, *of_logits]} == weights


@pytest.mark.parametrize("attention", ["graph", "layer"])
@each_kind
def test_a_step_of_a_model_from_disk_gives_the_same(
    kind: str, attention: str, tmp_path: Path
) -> None:
    spec = shallow_spec(kind=kind, attention=attention)
    model = random_model(spec)
    tokens = random_tokens(spec)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(
        decoded(loaded, spec, tokens), decoded(model, spec, tokens), rtol=0, atol=1e-6
    )


@each_kind
def test_training_the_model_trains_its_steps(kind: str) -> None:
    spec = shallow_spec(kind=kind, num_layers=1)
    model = random_model(spec)
    tokens = random_tokens(spec, padding=False)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    target = target_of(tokens)
    before, _ = read(step, target, UNEVEN, first_cache(model, spec, tokens, TARGET_LENGTH))
    train_one_step(model, tokens, learning_rate=0.1)
    after, _ = read(step, target, UNEVEN, first_cache(model, spec, tokens, TARGET_LENGTH))
    assert relative_error(after, before) > 1e-3
    assert relative_error(after, logits_of(model, tokens)) <= 1e-5


def test_a_step_returns_hidden_states_and_an_encoding_returns_the_memory() -> None:
    spec = small_spec(kind="encoder_decoder")
    model = random_model(spec)
    tokens = random_tokens(spec)
    step = builders.build_decode_step(model, spec, BATCH, None, TARGET_LENGTH)
    output = step(
        {
            "tokens": tokens["target"],
            "index": 0,
            "start": [0] * BATCH,
            "cache": first_cache(model, spec, tokens, TARGET_LENGTH),
        }
    )
    names = ["decoder.final_norm", "encoder.final_norm"]
    hidden, memory = probed(model, spec, tokens, names).values()
    real = is_real(spec, tokens)
    assert relative_error(as_array(output["hidden"])[real], hidden[real]) <= 1e-5
    found = builders.build_encode(model, spec)(tokens["source"])["memory"]
    assert relative_error(as_array(found), memory) <= 1e-5


# Errors -----------------------------------------------------------------------------------------


def deriving(build: str, model: keras.Model, spec: builders.TransformerSpec) -> keras.Model:
    if build == "build_probe":
        return builders.build_probe(model, spec, "attention_scores")
    return getattr(builders, build)(model, spec)


@pytest.mark.parametrize(
    ("build", "changes", "missing"),
    [
        ("build_decode_step", {"num_layers": 3}, "decoder.block_2"),
        ("build_probe", {"num_layers": 3}, "encoder.block_2"),
        ("build_encode", {"num_encoder_layers": 3}, "encoder.block_2"),
        ("build_decode_step", {"norm_placement": "pre", "final_norm": True}, "final_norm"),
        ("build_decode_step", {"tie_embeddings": False}, "logits"),
    ],
)
def test_the_error_of_another_spec_names_missing_weights(
    build: str, changes: dict[str, Any], missing: str
) -> None:
    spec = small_spec(**TRANSLATOR, norm_placement="post", tie_embeddings=True)
    with pytest.raises(ValueError, match=f"{missing}.*the spec that the model was built from"):
        deriving(build, builders.build(spec), spec.replace(**changes))


def test_a_spec_with_a_layer_of_another_class_is_refused() -> None:
    spec = small_spec(tie_embeddings=True, logit_bias=True)
    with pytest.raises(ValueError, match=r"'logits' is a AddBias.*a Dense there; use the spec"):
        builders.build_decode_step(builders.build(spec), spec.replace(tie_embeddings=False))


def test_encoding_needs_an_encoder() -> None:
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
