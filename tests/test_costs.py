"""Costs computed from a spec equal those of the graph built from it."""

import math
import re
from collections.abc import Callable
from typing import Any

import keras
import pytest
from products import BACKEND, requires_graph_tracing, traced_flops
from quick import slow_unless
from small_models import (
    BATCH,
    GROUPED,
    LATENTS,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    TRANSLATOR,
    dtype_policy_scope,
    shared_model,
    small_spec,
)

import builders
from builders import components
from builders.cache import cache_entries, memory_entries
from builders.costs import BACKWARD_PER_FORWARD, PRECISIONS

SPECS: dict[str, dict[str, Any]] = {
    "plain": {},
    "gated": {"feedforward": "glu"},
    "grouped heads": GROUPED,
    "multi-query, gated, tied": {
        "num_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 5,
        "feedforward": "glu",
        "tie_embeddings": True,
        "logit_bias": True,
    },
    "unfused attention": {"attention_dropout": 0.1, "attention_soft_cap": 3.0},
    "window": {"attention_window": 3},
    "a window in every other block": {
        "num_layers": 3,
        "attention_window": 3,
        "block_overrides": ({}, {"attention_window": None}),
    },
    "window longer than the sequence": {"attention_window": 13},
    "relative positions": {"positions": "relative", "relative_buckets": 8},
    "gated attention": {"attention_gate": True, **GROUPED},
    "gated attention of a translator with latents": {
        **TRANSLATOR,
        **LATENTS,
        "attention_gate": True,
    },
    "relative positions by block": {
        "positions": "relative",
        "relative_buckets": 8,
        "relative_by_block": True,
    },
    "ALiBi": {"positions": "alibi", **GROUPED},
    "parallel sublayers": {"norm_placement": "parallel", "norm": "rms", "qk_norm": True},
    "narrow embeddings": {"embedding_dim": 11},
    "narrow embeddings, tied": {"embedding_dim": 11, "tie_embeddings": True},
    "Keras layer": {"attention": "layer"},
    "blocks that differ, gates": {
        **GROUPED,
        "merge": "highway",
        "attention_window": 3,
        "block_overrides": (
            {"feedforward": "glu", "num_key_value_heads": 6},
            {"attention_window": None, "intermediate_dim": 19},
        ),
    },
    "prefix": {"prefix_lm": True, "attention_window": 3},
    "latents": {**LATENTS, "query_latent_dim": 9},
    "latents, window, tokens for queries": {**LATENTS, "attention_window": 3, "num_layers": 1},
    "streams": {"merge": "hyper_connections", "num_streams": 3},
    "streams, parallel sublayers": {"merge": "static_hyper_connections", "num_streams": 3}
    | {"norm_placement": "parallel"},
    "steps on the sphere": {"merge": "spherical", "norm": "unit", "feedforward": "scaled_glu"}
    | {"qk_norm": True, "qk_norm_heads": "tied", "logit_gain": True},
    "memories of fixed size, and attention": {
        "num_layers": 3,
        "mixer": "gated_delta",
        "delta_value_heads": 4,
        "delta_value_dim": 3,
        "block_overrides": ({}, {"mixer": "attention"}),
    },
    "shared blocks, skips": {
        "num_layers": 5,
        "distinct_blocks": 2,
        "block_skips": "unet",
        "value_residual": True,
    },
    "gated parallel sublayers": {"norm_placement": "parallel_shared_norm", "merge": "highway"},
    "translator": TRANSLATOR,
    "translator with unequal stacks": {**TRANSLATOR, "num_encoder_layers": 3, "num_layers": 1},
    "translator, grouped heads, gated, tied, window": {
        **TRANSLATOR,
        **GROUPED,
        "feedforward": "glu",
        "tie_embeddings": True,
        "attention_window": 3,
    },
    "translator with shared embeddings": {
        **TRANSLATOR,
        "share_embeddings": True,
        "tie_embeddings": True,
    },
    "translator with narrow embeddings": {**TRANSLATOR, "embedding_dim": 11},
    "translator with latents": {**TRANSLATOR, **LATENTS},
}
ENCODERS: dict[str, dict[str, Any]] = {
    "encoder": {"num_segments": 3},
    "encoder with pooler": {"pooler": True, **GROUPED},
    "encoder with classes": {"classes": ("a", "b", "c"), "class_pooling": "mean"},
    "encoder with logits": {"masked_lm_head": True, "pooler": True, "feedforward": "glu"},
    "encoder with tied logits": {
        "masked_lm_head": True,
        "tie_embeddings": True,
        "embedding_dim": 11,
    },
    "encoder of a projected sum": {"embedding_dim": 11, "embedding_projection": "sum"}
    | {"masked_lm_head": True, "embedding_norm": True, "num_segments": 3},
}
ENCODERS = {name: {"kind": "encoder_only", **changes} for name, changes in ENCODERS.items()}
ALL_SPECS = SPECS | ENCODERS
SLOW = [
    ALL_SPECS[name]
    for name in (
        "gated parallel sublayers",
        "latents, window, tokens for queries",
        "translator with latents",
        "window longer than the sequence",
        "translator",
        "translator with unequal stacks",
        "translator with narrow embeddings",
        "encoder with logits",
    )
]


def inputs_of(spec: builders.TransformerSpec) -> Any:
    target = (BATCH, TARGET_LENGTH)
    if spec.num_segments:
        return {"tokens": target, "segments": target}
    if spec.prefix_lm:
        return {"tokens": target, "prefix_length": target[:1]}
    if spec.kind != "encoder_decoder":
        return target
    return {"source": (BATCH, SOURCE_LENGTH), "target": target}


def source_of(spec: builders.TransformerSpec) -> int | None:
    return SOURCE_LENGTH if spec.kind == "encoder_decoder" else None


def test_traced_flops_count_matrix_products() -> None:
    ops = keras.ops

    def function(x: Any) -> Any:
        x = ops.cast(x, "float32")
        x = ops.matmul(ops.transpose(x), x)  # (3, 2) (2, 3): 2 * 18
        return ops.einsum("ab,cb->ac", ops.tanh(x), x * x)  # (3, 3) (3, 3): 2 * 27

    if BACKEND != "torch":
        assert traced_flops(function, (2, 3)) == 2 * 18 + 2 * 27


# FLOPs ------------------------------------------------------------------------------------------


@pytest.mark.sampled(10)
@requires_graph_tracing
@pytest.mark.parametrize(
    "changes", slow_unless(lambda changes: changes not in SLOW, ALL_SPECS.values()), ids=ALL_SPECS
)
def test_flops_of_whole_sequences_equal_those_of_the_graph(changes: dict[str, Any]) -> None:
    spec = small_spec(**changes)
    model = shared_model(spec)
    counted = builders.count_flops(spec, TARGET_LENGTH, source_of(spec))
    assert counted.total == sum(counted.values())
    assert BATCH * counted.total == traced_flops(model, inputs_of(spec))


@pytest.mark.sampled(1)
@pytest.mark.skipif(BACKEND != "tensorflow", reason="uses TensorFlow's GradientTape")
@pytest.mark.parametrize("name", ["plain", "unfused attention", "translator with unequal stacks"])
def test_a_training_step_takes_three_times_the_flops_of_the_forward_pass(name: str) -> None:
    import tensorflow as tf

    spec = small_spec(**SPECS[name])
    model = builders.build(spec)

    def step(inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(model(inputs, training=True))
        return tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    counted = builders.count_flops(spec, TARGET_LENGTH, source_of(spec))
    assert counted.training == (1 + BACKWARD_PER_FORWARD) * counted.total
    assert BATCH * counted.training == traced_flops(step, inputs_of(spec))


@pytest.mark.sampled(2)
@requires_graph_tracing
@pytest.mark.parametrize(
    "changes", slow_unless([*SPECS.values()][::2].__contains__, SPECS.values()), ids=SPECS
)
def test_flops_of_decoding_equal_those_of_the_decode_graph(changes: dict[str, Any]) -> None:
    spec = small_spec(**changes)
    step = builders.build_decode_step(shared_model(spec), spec, BATCH, 1, TARGET_LENGTH)
    cache = cache_entries(spec, BATCH, TARGET_LENGTH, "float32")
    cache |= memory_entries(spec, BATCH, SOURCE_LENGTH, "float32")
    inputs = {"tokens": (BATCH, 1), "index": (), "start": (BATCH,), "cache": cache}
    counted = builders.count_decode_flops(spec, TARGET_LENGTH, source_of(spec))
    assert BATCH * counted.total == traced_flops(step, inputs)


@pytest.mark.sampled(1)
@requires_graph_tracing
@pytest.mark.parametrize("name", [name for name in SPECS if "translator" in name])
def test_flops_of_encoding_equal_those_of_the_encode_graph(name: str) -> None:
    spec = small_spec(**SPECS[name])
    encode = builders.build_encode(shared_model(spec), spec)
    counted = builders.count_encode_flops(spec, SOURCE_LENGTH)
    assert BATCH * counted.total == traced_flops(encode, (BATCH, SOURCE_LENGTH))


def test_flops_are_counted_by_component() -> None:
    spec = small_spec(**TRANSLATOR, **GROUPED, num_encoder_layers=1)
    t, s, d, f, v, n, k, h = TARGET_LENGTH, SOURCE_LENGTH, 14, 23, 31, 6, 3, 5
    assert builders.count_flops(spec, t, s) == {
        "encoder.self_attention.projections": 2 * s * d * h * (2 * n + 2 * k),
        "encoder.self_attention.scores": 2 * s * s * n * h,
        "encoder.self_attention.weighted_values": 2 * s * s * n * h,
        "encoder.feedforward": 2 * s * 2 * d * f,
        "decoder.self_attention.projections": 2 * 2 * t * d * h * (2 * n + 2 * k),
        "decoder.self_attention.scores": 2 * 2 * t * t * n * h,
        "decoder.self_attention.weighted_values": 2 * 2 * t * t * n * h,
        "decoder.cross_attention.projections": 2 * 2 * d * h * (t * 2 * n + s * 2 * k),
        "decoder.cross_attention.scores": 2 * 2 * t * s * n * h,
        "decoder.cross_attention.weighted_values": 2 * 2 * t * s * n * h,
        "decoder.feedforward": 2 * 2 * t * 2 * d * f,
        "logits": 2 * t * d * v,
    }


def test_the_training_flops_of_gpt3_equal_those_of_the_paper() -> None:
    """Brown et al. 2020, table D.1: 3.14e23 for 300 billion tokens of 6 N FLOPs, without scores."""
    spec = builders.variant("gpt3_175b")
    counts = builders.count_flops(spec, spec.max_sequence_length)
    scores = (
        counts["decoder.self_attention.scores"] + counts["decoder.self_attention.weighted_values"]
    )
    per_token = 3 * (counts.total - scores) / spec.max_sequence_length
    assert 300e9 * per_token == pytest.approx(3.14e23, rel=0.005)


DECODERS = [
    name
    for name in builders.list_variants("decoder_only")
    if builders.variant(name, kind="decoder_only").mixer == "attention"
]
FIRST_OF_FAMILY = {builders.variant_info(name).summary: name for name in reversed(DECODERS)}


@pytest.mark.parametrize("name", slow_unless([*FIRST_OF_FAMILY.values()].__contains__, DECODERS))
def test_a_token_takes_two_flops_per_matrix_parameter_and_more_per_key(name: str) -> None:
    """2 N, and for each key in each block 4 n h (Kaplan et al. 2020, table 1), without latents.

    N counts a shared block every time; what mixes several streams is not in it.
    """
    spec = builders.variant(name, kind="decoder_only", attention_bias=False, feedforward_bias=False)
    spec = spec.replace(attention_output_bias=False, logit_bias=False, attention="graph")
    spec = spec.replace(distinct_blocks=None, router_bias=False, attention_sinks=False)
    spec = spec.replace(router_correction_rate=None)
    if spec.feedforward == "scaled_glu":  # whose gains are no matrices
        spec = spec.replace(feedforward="glu")
    parameters = builders.count_parameters(spec, active=True)
    weights = parameters.attention + parameters["feedforward"]
    d, e, v = spec.hidden_dim, spec.embedding_dim, spec.vocabulary_size
    weights += d * v if d == e else 2 * d * e + e * v  # these all have tied embeddings
    per_width = 2 * spec.num_layers * spec.num_heads
    per_key = per_cached = per_width * (spec.head_dim + spec.value_dim)
    if spec.latent_dim is not None:  # scores and values of a step are as wide as the latents
        per_cached = per_width * (spec.rotary_dim + 2 * spec.latent_dim)
    whole, step = builders.count_flops(spec, 7), builders.count_decode_flops(spec, 7)
    merges = "decoder.merges"
    assert whole.total - whole.get(merges, 0) == 7 * (2 * weights + 7 * per_key)
    assert step.total - step.get(merges, 0) == 2 * weights + 7 * per_cached


def test_a_window_limits_the_flops_of_decoding_but_not_of_whole_sequences() -> None:
    wide, narrow = small_spec(), small_spec(attention_window=5)
    for length in (1, 5):
        assert builders.count_decode_flops(wide, length) == builders.count_decode_flops(
            narrow, length
        )
    assert builders.count_decode_flops(narrow, 17) == builders.count_decode_flops(narrow, 5)
    assert builders.count_flops(narrow, 17) == builders.count_flops(wide, 17)


# Bytes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("changes", SPECS.values(), ids=SPECS)
def test_cache_bytes_equal_the_size_of_the_cache_entries(
    changes: dict[str, Any], dtype: str
) -> None:
    spec = small_spec(**changes)
    compute_dtype = keras.DTypePolicy(dtype).compute_dtype

    def entry_bytes(entries: dict[str, tuple[Any, str]]) -> int:
        sizes = {"int32": 4, "bool": 1, "float32": 4, "float16": 2, "bfloat16": 2}
        return sum(math.prod(shape) * sizes[dtype] for shape, dtype in entries.values())

    for length in (1, 3, 11, 17):
        entries = cache_entries(spec, 1, length, compute_dtype)
        assert builders.count_cache_bytes(spec, length, dtype) == entry_bytes(entries)
        entries = memory_entries(spec, 1, length, compute_dtype)
        if entries:
            assert builders.count_source_cache_bytes(spec, length, dtype) == entry_bytes(entries)


def test_a_source_cache_without_padding_token_has_no_mask() -> None:
    spec = small_spec(kind="encoder_decoder")
    without = spec.replace(pad_token_id=None)
    masks = [builders.count_source_cache_bytes(one, 13) for one in (spec, without)]
    assert masks[0] - masks[1] == 13


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", PRECISIONS)
def test_memory_equals_the_size_of_model_and_optimizer_variables(dtype: str) -> None:
    spec = small_spec()
    with dtype_policy_scope(dtype):
        model = builders.build(spec)
    optimizer = keras.optimizers.AdamW()
    optimizer.build(model.trainable_variables)

    def variable_bytes(variables: list[keras.Variable]) -> int:
        sizes = {"float32": 4, "float16": 2, "bfloat16": 2}
        return sum(math.prod(one.shape) * sizes[one.dtype] for one in variables)

    memory = builders.count_memory(builders.count_parameters(spec).total, dtype)
    assert memory.weights == memory.gradients == variable_bytes(model.variables)
    moments = [one for one in optimizer.variables if "momentum" in one.path or "veloc" in one.path]
    assert memory.moments == variable_bytes(moments)
    assert memory.training == memory.weights + memory.gradients + memory.moments


# Bad input --------------------------------------------------------------------------------------

TRANSLATOR_SPEC = small_spec(**TRANSLATOR)
BAD_INPUTS: list[tuple[Callable[[], Any], str]] = [
    (lambda: builders.count_flops(small_spec(), 0), "length=0: must be a positive int"),
    (lambda: builders.count_decode_flops(small_spec(), -1), "length=-1: must be a positive int"),
    (lambda: builders.count_flops(small_spec(), True), "length=True: must be a positive int"),
    (lambda: builders.count_flops(small_spec(), 2.5), "length=2.5: must be a positive int"),
    (
        lambda: builders.count_flops(small_spec(), 18),
        "length=18: must be at most max_sequence_length=17 where positions='learned'",
    ),
    (
        lambda: builders.count_cache_bytes(small_spec(positions="sinusoidal"), 18),
        "at most max_sequence_length=17 where positions='sinusoidal'",
    ),
    (
        lambda: builders.count_flops(TRANSLATOR_SPEC, 3, 18),
        "source_length=18: must be at most max_sequence_length=17",
    ),
    (
        lambda: builders.count_encode_flops(TRANSLATOR_SPEC, 0),
        "source_length=0: must be a positive int",
    ),
    (
        lambda: builders.count_flops(small_spec(), 3, 5),
        "source_length=5: must be None for a spec of kind='decoder_only'",
    ),
    (
        lambda: builders.count_encode_flops(small_spec(), 5),
        "a model with encoder and decoder, given one of kind='decoder_only', which has no encoder",
    ),
    (
        lambda: builders.count_decode_flops(small_spec(kind="encoder_only"), 5),
        "a model with decoder, given one of kind='encoder_only', which has no decoder",
    ),
    (
        lambda: builders.count_cache_bytes(small_spec(kind="encoder_only"), 5),
        "count_cache_bytes takes a spec of a model with decoder",
    ),
    (
        lambda: builders.count_flops(small_spec(kind="encoder_only"), 3, 5),
        "source_length=5: must be None for a spec of kind='encoder_only'",
    ),
    (
        lambda: builders.count_source_cache_bytes(small_spec(), 5),
        "count_source_cache_bytes takes a spec of a model with encoder and decoder",
    ),
    (
        lambda: builders.count_memory(7, "float8"),
        "unknown dtype 'float8' (did you mean 'float32'?); allowed: float32, bfloat16, float16",
    ),
    (
        lambda: builders.count_cache_bytes(small_spec(), 5, "int8"),
        "unknown dtype 'int8'; allowed: float32",
    ),
]


@pytest.mark.parametrize(
    ("call", "message"), BAD_INPUTS, ids=[message[:40] for _, message in BAD_INPUTS]
)
def test_errors_of_bad_input_name_the_allowed_values(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        call()


@pytest.mark.parametrize("positions", ["rotary", "alibi", "none"])
def test_positions_without_a_table_have_no_maximum_length(positions: str) -> None:
    spec = small_spec(positions=positions, head_dim=6)
    assert builders.count_flops(spec, 1009).total > 0
    assert builders.count_cache_bytes(spec, 1009) > 0


def test_counting_flops_of_a_custom_component_raises_an_error(monkeypatch) -> None:
    monkeypatch.setattr(components, "_components", dict(components._components))
    builders.register_component("feedforward", "own")(lambda *_: None)
    for count in (builders.count_flops, builders.count_decode_flops):
        with pytest.raises(ValueError, match=r"feedforward='own' is a custom component"):
            count(small_spec(feedforward="own"), 3)
