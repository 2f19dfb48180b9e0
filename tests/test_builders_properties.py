"""Properties of every model: causality, padding, batching, lengths, names and precision."""

import itertools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
from quick import slow_unless
from small_models import (
    BATCH,
    KINDS,
    LATENTS,
    SOURCE_LENGTH,
    TARGET_LENGTH,
    copy_weights,
    dtype_policy_scope,
    logits_of,
    random_model,
    random_tokens,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
    target_of,
    variables_by_name,
    with_target,
)

import builders

WIRINGS = [  # every way to apply a mask to the scores
    {"attention": "graph"},
    {"attention": "graph", "attention_dropout": 0.3},
    {"attention": "layer"},
    {**LATENTS, "positions": "rotary"},
]
each_kind = pytest.mark.parametrize("kind", KINDS)
WIRING_NAMES = ("fused", "unfused", "layer", "latents")
each_wiring = pytest.mark.parametrize("wiring", WIRINGS, ids=WIRING_NAMES)


@pytest.fixture
def dtype_policy(request: pytest.FixtureRequest) -> Iterator[str]:
    with dtype_policy_scope(request.param):
        yield request.param


def repeated(tokens: Any, times: int) -> Any:
    """Return a batch that contains all rows several times, one batch after the other."""
    if isinstance(tokens, dict):
        return {side: np.tile(array, (times, 1)) for side, array in tokens.items()}
    return np.tile(tokens, (times, 1))


# Causality --------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@each_wiring
@pytest.mark.parametrize(
    ("kind", "norm_placement"),
    slow_unless(
        lambda kind, norm_placement: (kind == "encoder_decoder") == (norm_placement == "pre"),
        itertools.product(KINDS, ("post", "pre")),
    ),
)
def test_a_target_token_changes_its_own_logits_but_no_earlier_ones(
    kind: str, wiring: dict[str, Any], norm_placement: str
) -> None:
    spec = small_spec(kind=kind, norm_placement=norm_placement, **wiring)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    inputs = repeated(tokens, TARGET_LENGTH)
    changed = [replace_token(spec, target_of(tokens), t) for t in range(TARGET_LENGTH)]
    all_before = np.split(logits_of(model, inputs), TARGET_LENGTH)
    all_after = logits_of(model, with_target(inputs, np.concatenate(changed)))
    for t, after in enumerate(np.split(all_after, TARGET_LENGTH)):
        before = all_before[t]
        np.testing.assert_allclose(after[:, :t], before[:, :t], rtol=0, atol=1e-6)
        assert (np.abs(after[:, t] - before[:, t]).max(axis=-1) > 1e-3).all()


def test_every_source_token_changes_the_logits_of_every_target_position() -> None:
    spec = small_spec(kind="encoder_decoder")
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    before = logits_of(model, tokens)
    inputs = repeated(tokens, SOURCE_LENGTH)
    for s, source in enumerate(np.split(inputs["source"], SOURCE_LENGTH)):
        source[:, s] = source[:, s] % (spec.source_vocabulary_size - 1) + 1
    for after in np.split(logits_of(model, inputs), SOURCE_LENGTH):
        assert (np.abs(after - before).max(axis=-1) > 1e-6).all()


def test_a_model_without_residual_connections_or_positions_is_causal() -> None:
    spec = small_spec(merge="none", positions="none")
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    after = logits_of(model, replace_token(spec, tokens, 7))
    np.testing.assert_allclose(after[:, :7], logits_of(model, tokens)[:, :7], rtol=0, atol=1e-6)


# Padding ----------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@each_wiring
@each_kind
def test_padding_after_the_target_does_not_change_logits(kind: str, wiring: dict[str, Any]) -> None:
    spec = small_spec(kind=kind, pad_token_id=7, **wiring)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    target = np.pad(target_of(tokens), ((0, 0), (0, 5)), constant_values=7)
    after = logits_of(model, with_target(tokens, target))
    assert after.shape[1] == TARGET_LENGTH + 5
    np.testing.assert_allclose(
        after[:, :TARGET_LENGTH], logits_of(model, tokens), rtol=0, atol=2e-5
    )


@pytest.mark.sampled(2)
@each_wiring
def test_padding_after_the_source_does_not_change_logits(wiring: dict[str, Any]) -> None:
    spec = small_spec(kind="encoder_decoder", pad_token_id=7, **wiring)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    padded = {**tokens, "source": np.pad(tokens["source"], ((0, 0), (0, 3)), constant_values=7)}
    assert relative_error(logits_of(model, padded), logits_of(model, tokens)) < 1e-5


def test_without_a_padding_token_trailing_zeros_change_logits() -> None:
    spec = small_spec(kind="encoder_decoder", pad_token_id=None)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    longer = {**tokens, "source": np.pad(tokens["source"], ((0, 0), (0, 3)))}
    assert relative_error(logits_of(model, longer), logits_of(model, tokens)) > 1e-3


@pytest.mark.sampled(3)
@each_wiring
@each_kind
def test_the_embedding_of_the_padding_token_affects_no_other_position(
    kind: str, wiring: dict[str, Any]
) -> None:
    """Padding inside a sequence is masked too, in source and target."""
    spec = small_spec(kind=kind, pad_token_id=7, **wiring)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    before = logits_of(model, tokens)
    for name, variable in variables_by_name(model).items():
        if name.endswith("token_embedding.embeddings"):
            table = keras.ops.convert_to_numpy(variable.value).copy()
            table[7] = -3.0 * table[7] + 1.0
            variable.assign(table)
    after = logits_of(model, tokens)
    real = target_of(tokens) != 7
    np.testing.assert_allclose(after[real], before[real], rtol=0, atol=1e-6)
    assert np.abs(after[~real] - before[~real]).max() > 1e-3


@pytest.mark.sampled(1)
@each_wiring
@each_kind
def test_a_row_of_padding_only_is_finite_and_does_not_affect_other_rows(
    kind: str, wiring: dict[str, Any]
) -> None:
    spec = small_spec(kind=kind, **wiring)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    before = logits_of(model, tokens)
    for array in tokens.values() if isinstance(tokens, dict) else (tokens,):
        array[1] = 0
    after = logits_of(model, tokens)
    assert np.isfinite(after).all()
    np.testing.assert_allclose(after[[0, 2]], before[[0, 2]], rtol=0, atol=1e-6)


# Batches ----------------------------------------------------------------------------------------


@each_kind
def test_logits_do_not_depend_on_the_order_or_the_other_rows_of_a_batch(kind: str) -> None:
    spec = small_spec(kind=kind)
    model = shared_model(spec)
    tokens = random_tokens(spec)

    def rows(indices: list[int]) -> Any:
        if isinstance(tokens, dict):
            return {side: array[indices] for side, array in tokens.items()}
        return tokens[indices]

    together = logits_of(model, tokens)
    reordered = logits_of(model, rows([2, 0, 1]))
    np.testing.assert_allclose(reordered, together[[2, 0, 1]], rtol=0, atol=2e-5)
    for row in range(BATCH):
        np.testing.assert_allclose(
            logits_of(model, rows([row])), together[[row]], rtol=0, atol=2e-5
        )


@pytest.mark.sampled(1)
@each_kind
def test_predict_equals_a_call(kind: str) -> None:
    spec = small_spec(kind=kind)
    model = random_model(spec)
    tokens = random_tokens(spec)
    assert relative_error(model.predict(tokens, verbose=0), logits_of(model, tokens)) < 1e-5


# Length -----------------------------------------------------------------------------------------


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("positions", "method"),
    slow_unless(
        lambda positions, method: method == "call" or positions == "learned",
        itertools.product(("learned", "sinusoidal", "sinusoidal_concat"), ("call", "predict")),
    ),
)
@each_kind
def test_a_sequence_longer_than_the_position_table_is_rejected(
    positions: str, method: str, kind: str
) -> None:
    spec = small_spec(kind=kind, positions=positions)
    model = shared_model(spec)
    fits, too_long = (np.ones((BATCH, length), "int32") for length in (17, 18))
    translates = kind == "encoder_decoder"
    inputs = {"source": fits, "target": fits} if translates else fits
    assert np.isfinite(logits_of(model, inputs)).all()
    sides = {"target": "decoder"} | ({"source": "encoder"} if translates else {})
    for side, stack in sides.items():
        exceeds = {**inputs, side: too_long} if translates else too_long
        if method == "predict":  # which on JAX leaves a model without weights when it fails
            model = builders.build(spec)
        with pytest.raises(ValueError, match=r"max_sequence_length=17.*18") as error:
            model(exceeds) if method == "call" else model.predict(exceeds, verbose=0)
        assert stack in str(error.value)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="other backends have static shapes"
)
def test_an_unknown_length_is_checked_at_run_time() -> None:
    import tensorflow as tf

    model = builders.build(small_spec())
    run = tf.function(model, input_signature=[tf.TensorSpec((None, None), tf.int32)])
    assert run(tf.ones((BATCH, 17), tf.int32)).shape == (BATCH, 17, 31)
    with pytest.raises(tf.errors.InvalidArgumentError, match="max_sequence_length=17"):
        run(tf.ones((BATCH, 18), tf.int32))


# Kinds and names --------------------------------------------------------------------------------


@each_kind
def test_a_builder_rejects_a_spec_of_another_kind(kind: str) -> None:
    other = {"decoder_only": "encoder_decoder", "encoder_decoder": "decoder_only"}[kind]
    build_other = getattr(builders, f"build_{other}")
    with pytest.raises(ValueError, match=f"build_{other}.*'{other}'.*'{kind}'"):
        build_other(small_spec(kind=kind))


def test_a_builder_takes_a_spec_or_the_name_of_a_variant_with_changes() -> None:
    changes = {"num_layers": 1, "vocabulary_size": 31}
    by_name = builders.build_decoder_only("pre_norm_learned", **changes)
    spec = builders.variant("pre_norm_learned", kind="decoder_only")
    by_spec = builders.build_decoder_only(spec, **changes)
    assert by_name.count_params() == by_spec.count_params()
    assert by_name.output_shape == (None, None, 31)
    with pytest.raises(TypeError, match="TransformerSpec or the name of a variant"):
        builders.build_decoder_only({"num_layers": 1})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="did you mean 'num_layers'"):
        builders.build_decoder_only(spec, num_layer=1)


@pytest.mark.parametrize(
    ("kind", "attention"),
    slow_unless(
        lambda kind, attention: (kind == "encoder_decoder") == (attention == "layer"),
        itertools.product(KINDS, ("graph", "layer")),
    ),
)
def test_two_models_of_one_spec_have_the_same_layer_and_weight_names(
    kind: str, attention: str
) -> None:
    spec = small_spec(kind=kind, attention=attention, dropout=0.1, embedding_dropout=0.1)
    first, second = builders.build(spec), builders.build(spec)
    assert [layer.name for layer in first.layers] == [layer.name for layer in second.layers]
    assert [w.path for w in first.weights] == [w.path for w in second.weights]
    assert first.name == second.name


@each_kind
@pytest.mark.parametrize("positions", ["learned", "sinusoidal", "sinusoidal_concat", "none"])
def test_a_model_has_dynamic_batch_size_and_length(kind: str, positions: str) -> None:
    """The batch size 1 of the position embeddings must not become that of the model."""
    model = shared_model(small_spec(kind=kind, positions=positions))
    assert model.output_shape == (None, None, 31)


@each_kind
def test_every_operation_of_a_model_has_a_name_given_by_the_builder(kind: str) -> None:
    """Diagrams would otherwise show a name generated by Keras."""
    spec = small_spec(kind=kind, attention_dropout=0.1, scale_embeddings=True)
    allowed = ("encoder.", "decoder.", "logits", "tokens", "source", "target")
    for operation in builders.build(spec).operations:
        assert operation.name.startswith(allowed), operation.name


@each_kind
def test_models_have_no_implicit_masks(kind: str) -> None:
    for layer in shared_model(small_spec(kind=kind)).layers:
        outputs = layer.output if isinstance(layer.output, list | tuple) else [layer.output]
        assert all(getattr(x, "_keras_mask", None) is None for x in outputs), layer.name


# Precision --------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@each_wiring
@pytest.mark.parametrize(
    ("kind", "dtype_policy", "tolerance"),
    slow_unless(
        lambda kind, policy, _: (kind == "encoder_decoder") == (policy == "mixed_bfloat16"),
        [
            (kind, policy, tolerance)
            for kind in KINDS
            for policy, tolerance in (("mixed_bfloat16", 4e-2), ("mixed_float16", 6e-3))
        ],
    ),
    indirect=["dtype_policy"],
)
def test_half_precision_logits_are_close_and_masks_are_exact(
    kind: str, wiring: dict[str, Any], dtype_policy: str, tolerance: float
) -> None:
    spec = small_spec(kind=kind, **wiring)
    half = shared_model(spec)
    keras.config.set_dtype_policy("float32")
    full = shared_model(spec)
    copy_weights(full, half)
    assert half.compute_dtype == dtype_policy.removeprefix("mixed_")

    tokens = random_tokens(spec)
    before = logits_of(half, tokens)
    assert np.isfinite(before).all()
    assert relative_error(before, logits_of(full, tokens)) < tolerance

    t = 6
    after = logits_of(half, with_target(tokens, replace_token(spec, target_of(tokens), t)))
    np.testing.assert_array_equal(after[:, :t], before[:, :t])
    assert (after[:, t] != before[:, t]).any()


@pytest.mark.parametrize("dtype_policy", ["mixed_bfloat16"], indirect=True)
@pytest.mark.parametrize("positions", ["sinusoidal", "sinusoidal_concat"])
def test_half_precision_distinguishes_distant_positions(positions: str, dtype_policy: str) -> None:
    """Angles must be computed in float32, since bfloat16 rounds position 511 to 512."""
    length = 1021
    spec = small_spec(positions=positions, max_sequence_length=length)
    table = next(
        layer for layer in builders.build(spec).layers if layer.name == "decoder.position_embedding"
    )
    half = keras.ops.convert_to_numpy(
        keras.ops.cast(table(np.arange(length, dtype="int32")[None]), "float32")
    )[0]
    position = np.arange(length)[:, None]
    angles = position / 10000.0 ** (np.arange(7) / 7)
    sines = half[:, 0::2] if positions == "sinusoidal" else half[:, :7]
    cosines = half[:, 1::2] if positions == "sinusoidal" else half[:, 7:]
    np.testing.assert_allclose(sines, np.sin(angles), rtol=0, atol=5e-3)
    np.testing.assert_allclose(cosines, np.cos(angles), rtol=0, atol=5e-3)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype_policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
@each_wiring
@each_kind
def test_half_precision_logits_of_a_row_of_padding_only_are_finite(
    kind: str, wiring: dict[str, Any], dtype_policy: str
) -> None:
    spec = small_spec(kind=kind, **wiring)
    tokens = random_tokens(spec)
    for array in tokens.values() if isinstance(tokens, dict) else (tokens,):
        array[1] = 0
    assert np.isfinite(logits_of(shared_model(spec), tokens)).all()


@pytest.mark.parametrize(
    ("dtype_policy", "unit_roundoff"),
    [("mixed_bfloat16", 2.0**-8), ("mixed_float16", 2.0**-11)],
    indirect=["dtype_policy"],
)
def test_half_precision_attention_weights_are_rounded_once(
    dtype_policy: str, unit_roundoff: float
) -> None:
    """The softmax is computed in float32 and only its result is rounded."""
    model = builders.build(small_spec(attention_dropout=0.1))
    softmax = model.get_layer("decoder.block_0.self_attention.softmax")
    scores = keras.ops.cast(
        np.random.default_rng(0).normal(size=(3, 2, 5, 101)).astype("float32"),
        dtype_policy.removeprefix("mixed_"),
    )
    weights = keras.ops.convert_to_numpy(keras.ops.cast(softmax(scores), "float32"))
    given = keras.ops.convert_to_numpy(keras.ops.cast(scores, "float32")).astype("float64")
    exact = np.exp(given) / np.exp(given).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(weights, exact, rtol=1.01 * unit_roundoff, atol=1e-7)
