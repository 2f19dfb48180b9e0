"""Mixtures of experts: numbers, routing, losses and the products of sorted rows."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from decoding import decode_logits, is_not_padding
from keras import ops
from products import flops_of
from reference import reference_logits
from small_models import (
    TARGET_LENGTH,
    as_array,
    dtype_policy_scope,
    logits_of,
    random_model,
    random_tokens,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
    variables_by_name,
    weights_by_name,
)

import builders
import plots
from builders import grouped_products
from builders.expert_layers import ExpertCapacity, ExpertDense, RouterLosses, TopExperts

BACKEND = keras.backend.backend()
EXPERTS: dict[str, Any] = {
    "num_layers": 1,
    "num_experts": 6,
    "num_active_experts": 2,
    "expert_dim": 11,
    "feedforward": "glu",
}
SHARED = {"shared_expert_dim": 5}
GROUPS = {"num_expert_groups": 3, "num_active_groups": 2}
OPTIONS: dict[str, dict[str, Any]] = {
    "Mixtral": {"feedforward_bias": False},
    "Qwen1.5-MoE": {**SHARED, "shared_expert_gate": True, "renormalize_scores": False},
    "Switch": {"num_active_experts": 1, "renormalize_scores": False, "feedforward": "mlp"},
    "gpt-oss": {"router_bias": True, "num_active_experts": 5},
    "DeepSeek-V2": {**SHARED, **GROUPS, "renormalize_scores": False, "router_scale": 1.7},
    "DeepSeek-V3": {
        **GROUPS,
        "group_score_experts": 2,
        "router_scores": "sigmoid",
        "router_correction_rate": 0.01,
    },
    "all experts": {"num_active_experts": 6},
    "an encoder-decoder": {"kind": "encoder_decoder", "balance_loss": 0.1},
}


def expert_spec(**changes: Any) -> builders.TransformerSpec:
    return small_spec(**{**EXPERTS, **changes})


# Numbers ----------------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@pytest.mark.parametrize("changes", OPTIONS.values(), ids=OPTIONS)
def test_logits_equal_the_numpy_reference_and_those_of_decoding(changes: dict[str, Any]) -> None:
    spec = expert_spec(**changes)
    model = random_model(spec)
    tokens = random_tokens(spec)
    expected = reference_logits(json.loads(spec.to_json()), weights_by_name(model), tokens)
    logits = logits_of(model, tokens)
    assert relative_error(logits, expected) < 1e-5
    if spec.kind == "decoder_only":
        real = is_not_padding(spec, tokens)
        decoded = decode_logits(model, spec, tokens)
        assert relative_error(decoded[real], expected[real]) < 1e-5


def test_equal_experts_are_a_dense_layer() -> None:
    spec = expert_spec()
    mixture, tokens = random_model(spec), random_tokens(spec)
    dense = random_model(
        spec.replace(num_experts=0, num_active_experts=0, intermediate_dim=spec.expert_dim)
    )
    values = weights_by_name(dense)
    for name, variable in variables_by_name(mixture).items():
        value = values.get(name.replace(".experts.", "."))
        if value is not None:
            variable.assign(np.broadcast_to(value, variable.shape))
    assert relative_error(logits_of(mixture, tokens), logits_of(dense, tokens)) < 1e-5


# Routing ----------------------------------------------------------------------------------------


def test_the_experts_of_a_token_depend_on_no_later_token_and_no_other_row() -> None:
    spec = expert_spec(num_layers=2)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    name = "decoder.block_1.feedforward.top_experts"
    probe = builders.build_probe(model, spec, name)
    before, after = (probe(x)[name] for x in (tokens, replace_token(spec, tokens, 7)))
    alone = probe(tokens[1:2])[name]
    for all_of, changed, one in zip(before, after, alone, strict=True):
        np.testing.assert_allclose(as_array(changed)[:, :7], as_array(all_of)[:, :7], atol=1e-6)
        np.testing.assert_allclose(as_array(one), as_array(all_of)[1:2], atol=1e-6)


def test_routing_is_in_float32_in_half_precision() -> None:
    spec = expert_spec()
    tokens = random_tokens(spec)
    with dtype_policy_scope("mixed_bfloat16"):
        model = random_model(spec)
        name = "decoder.block_0.feedforward"
        found = builders.build_probe(
            model, spec, [f"{name}.norm", f"{name}.router_scores", f"{name}.experts.up"]
        )(tokens)
    normed, scores, up = (found[f"{name}.{end}"] for end in ("norm", "router_scores", "experts.up"))
    kernel = weights_by_name(model)[f"{name}.router.kernel"]
    logits = as_array(normed).astype("float64") @ kernel
    expected = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(as_array(scores), expected, rtol=1e-5)
    assert keras.backend.standardize_dtype(up.dtype) == "bfloat16"


def test_corrections_move_against_the_load_in_training_only() -> None:
    layer = TopExperts(1, correction_rate=0.25)
    scores = np.float32([[[0.5, 0.3, 0.2], [0.4, 0.5, 0.1], [0.6, 0.3, 0.1]]])
    layer(scores)
    assert not as_array(layer.correction.value).any()
    layer(scores, training=True)  # 2, 1 and 0 tokens
    np.testing.assert_array_equal(as_array(layer.correction.value), [-0.25, 0, 0.25])
    weights, chosen = layer(scores)
    np.testing.assert_array_equal(as_array(chosen)[..., 0], [[2, 1, 0]])
    np.testing.assert_array_equal(as_array(weights), np.ones((1, 3, 1)))  # one, renormalized


def test_an_expert_takes_the_first_tokens_of_a_sequence_up_to_its_capacity() -> None:
    layer = ExpertCapacity(1.5, 4)
    chosen = np.int32([[[0, 1], [0, 2], [1, 0], [0, 3]], [[2, 0]] * 4])
    weights = np.arange(1, 17, dtype="float32").reshape(2, 4, 2)
    np.testing.assert_array_equal(as_array(layer(weights, chosen)), weights)
    kept = [[[1, 1], [1, 1], [1, 1], [0, 1]], [[1, 1]] * 3 + [[0, 0]]]  # ceil(1.5 * 8 / 4) = 3
    found = as_array(layer(weights, chosen, training=True))
    np.testing.assert_array_equal(found, weights * np.float32(kept))


# Losses -----------------------------------------------------------------------------------------


def test_the_losses_are_those_of_the_papers() -> None:
    layer = RouterLosses(0.3, 0.7)
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(2, 5, 4)).astype("float32")
    scores = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    chosen = np.argsort(-scores)[..., :2].astype("int32")
    weights = np.take_along_axis(scores, chosen, -1)
    inputs = weights, logits, scores, chosen
    np.testing.assert_array_equal(as_array(layer(*inputs)), weights)
    assert layer.losses == []
    layer(*inputs, training=True)
    balance, z = (float(as_array(loss)) for loss in layer.losses)
    share = [(chosen == expert).sum() / chosen.size for expert in range(4)]
    mean = scores.reshape(-1, 4).mean(axis=0)
    assert balance == pytest.approx(0.3 * 4 * np.dot(share, mean), rel=1e-5)
    assert z == pytest.approx(0.7 * np.mean(np.log(np.exp(logits).sum(-1)) ** 2), rel=1e-5)


def test_balanced_experts_have_a_loss_of_one_factor() -> None:
    layer = RouterLosses(0.3, 0.0)
    chosen = np.int32([[[0, 1], [2, 3], [1, 2], [3, 0]]])
    scores = np.full((1, 4, 4), 0.9, "float32")  # sigmoids need not add up to 1
    layer(np.ones((1, 4, 2), "float32"), scores, scores, chosen, training=True)
    assert float(as_array(layer.losses[0])) == pytest.approx(0.3)


@pytest.mark.parametrize("kind", ["decoder_only", "encoder_only"])
def test_padding_is_no_load_of_experts_and_adds_to_no_loss(kind: str) -> None:
    spec = expert_spec(kind=kind, balance_loss=0.3, router_z_loss=0.7, capacity_factor=0.8)
    spec = spec.replace(router_correction_rate=0.1, pad_token_id=0)
    tokens = np.int32([[5, 3, 7, 2, 9, 11, 4]])
    found = []
    for given in (tokens, np.pad(tokens, ((0, 1), (0, 4)))):
        model = random_model(spec)
        model(given, training=True)
        corrections = [w for w in model.weights if w.name == "correction"]
        found.append([as_array(value) for value in (*model.losses, *corrections)])
    assert len(found[0]) == spec.num_layers * 3
    for alone, padded in zip(*found, strict=True):
        np.testing.assert_allclose(padded, alone, rtol=1e-5)


def test_fit_adds_the_losses_to_that_of_the_logits_and_evaluate_does_not() -> None:
    spec = expert_spec(balance_loss=0.0, router_z_loss=10.0)
    tokens = random_tokens(spec)
    losses = []
    for factor in (10.0, 20.0):
        model = random_model(spec.replace(router_z_loss=factor))
        model.compile(
            keras.optimizers.SGD(1e-9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            run_eagerly=BACKEND == "tensorflow",
            jit_compile=False,
        )
        fitted = model.fit(tokens, tokens, batch_size=3, verbose=0).history["loss"][0]
        losses.append((fitted, model.evaluate(tokens, tokens, batch_size=3, verbose=0)))
    (once, alone), (twice, again) = losses
    assert alone == pytest.approx(again, rel=1e-4)
    assert once > alone + 1
    assert twice - once == pytest.approx(once - alone, rel=1e-3)


# Costs ------------------------------------------------------------------------------------------


def test_counted_flops_are_those_of_the_graph() -> None:
    spec = expert_spec(**SHARED, shared_expert_gate=True)
    whole = flops_of(builders.build(spec, abstract=True), b=1, t=TARGET_LENGTH)
    assert builders.count_flops(spec, TARGET_LENGTH).total == whole


@pytest.mark.slow
def test_counted_flops_of_decoding_are_those_of_the_graph() -> None:
    spec = expert_spec(feedforward="mlp")
    step = builders.build_decode_step(shared_model(spec), spec, 1, 1, TARGET_LENGTH)
    assert builders.count_decode_flops(spec, TARGET_LENGTH).total == flops_of(step)


def test_active_parameters_are_those_of_as_many_experts_as_a_token_goes_through() -> None:
    spec = expert_spec(**SHARED)
    counts = builders.count_parameters(spec)
    active = builders.count_parameters(spec, active=True)
    of_expert = 2 * 14 * 11 + 11 * 14 + 2 * 11 + 14  # gate, up, down, and their biases
    assert counts.total - active.total == counts["feedforward"] - active["feedforward"]
    assert counts.total - active.total == spec.num_layers * 4 * of_expert
    dense = builders.count_parameters(small_spec())
    assert builders.count_parameters(small_spec(), active=True) == dense


@pytest.mark.skipif(BACKEND == "jax", reason="multiplies blocks, with some rows more")
def test_an_expert_multiplies_its_own_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = []
    product = ops.matmul
    monkeypatch.setattr(ops, "matmul", lambda x, w: rows.append(x.shape[0]) or product(x, w))
    layer = ExpertDense(4, 7, use_bias=False)
    layer(np.ones((23, 5), "float32"), ops.convert_to_tensor(np.int32([5, 0, 11, 7])))
    assert rows == [5, 0, 11, 7]


# Files ------------------------------------------------------------------------------------------


def test_a_saved_model_returns_the_same_logits(tmp_path: Path) -> None:
    spec = expert_spec(**OPTIONS["DeepSeek-V3"], **SHARED, balance_loss=0.1, capacity_factor=1.5)
    model, tokens = random_model(spec), random_tokens(spec)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(logits_of(loaded, tokens), logits_of(model, tokens))
    step = builders.build_decode_step(loaded, spec, len(tokens), None, TARGET_LENGTH)
    assert step.get_layer("decoder.block_0.feedforward.experts.up")


# Products of sorted rows ------------------------------------------------------------------------

SIZES = {
    "uneven": [5, 0, 11, 7],
    "one": [0, 0, 23, 0],
    "first": [23, 0, 0, 0],
    "last": [0, 0, 0, 23],
}


def gradients(
    function: Callable[..., Any], arrays: list[np.ndarray], upstream: np.ndarray, compiled: bool
) -> list[np.ndarray]:
    """Return the gradients of the sum of a function times `upstream`."""
    if BACKEND == "jax":
        import jax

        def total(*inputs: Any) -> Any:
            return ops.sum(function(*inputs) * upstream)

        return [np.asarray(x) for x in jax.jit(jax.grad(total, tuple(range(len(arrays)))))(*arrays)]
    if BACKEND == "torch":
        import torch

        inputs = [torch.tensor(array, requires_grad=True) for array in arrays]
        (function(*inputs) * torch.tensor(upstream)).sum().backward()
        return [x.grad.numpy() for x in inputs]
    import tensorflow as tf

    @tf.function(jit_compile=compiled)
    def compute(*inputs: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(function(*inputs) * upstream)
        return tape.gradient(total, inputs)

    return [x.numpy() for x in compute(*map(tf.constant, arrays))]


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("sizes", "compiled"),
    [(s, c) for s, c in itertools.product(SIZES, (False, True)) if BACKEND == "tensorflow" or c],
)
def test_rows_are_multiplied_by_the_kernels_of_their_experts(sizes: str, compiled: bool) -> None:
    rng = np.random.default_rng(0)
    m, i, j, e = 23, 5, 7, 4
    rows, kernels, upstream = (
        rng.normal(size=shape).astype("float32") for shape in ((m, i), (e, i, j), (m, j))
    )
    expert = np.repeat(np.arange(e), SIZES[sizes])
    of_kernels = np.zeros_like(kernels)
    np.add.at(of_kernels, expert, np.einsum("mi,mj->mij", rows, upstream))
    number = ops.convert_to_tensor(np.int32(SIZES[sizes]))

    def product(rows: Any, kernels: Any) -> Any:
        return grouped_products.grouped_product(rows, kernels, number)

    found = as_array(product(ops.convert_to_tensor(rows), ops.convert_to_tensor(kernels)))
    np.testing.assert_allclose(found, np.einsum("mi,mij->mj", rows, kernels[expert]), atol=1e-5)
    of_rows, of_found = gradients(product, [rows, kernels], upstream, compiled)
    np.testing.assert_allclose(
        of_rows, np.einsum("mj,mij->mi", upstream, kernels[expert]), atol=1e-5
    )
    np.testing.assert_allclose(of_found, of_kernels, atol=1e-5)


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch has one product for each expert")
def test_a_large_kernel_is_multiplied_in_parts_of_its_columns() -> None:
    rng = np.random.default_rng(2)
    m, i, j, e = 23, 1031, 1542, 3
    rows, kernels = (rng.normal(size=shape).astype("float32") for shape in ((m, i), (e, i, j)))
    on_cpu = grouped_products._runs_on_cpu()
    for dtype, parts in (("float32", 6 if on_cpu else 1), ("bfloat16", 1)):
        found = grouped_products._parts_of_kernel(ops.convert_to_tensor(kernels, dtype=dtype))
        assert found == parts, dtype
    prime = ops.convert_to_tensor(kernels[..., :1531])
    assert grouped_products._parts_of_kernel(prime) == 1

    sizes = ops.convert_to_tensor(np.int32([9, 0, 14]))
    upstream = rng.normal(size=(m, j)).astype("float32")

    def product(rows: Any, kernels: Any) -> Any:
        return grouped_products.grouped_product(rows, kernels, sizes)

    def in_blocks(rows: Any, kernels: Any) -> Any:
        return grouped_products._in_blocks(rows, kernels, sizes)

    arrays = [rows / i**0.5, kernels]
    expert = np.repeat([0, 2], [9, 14])
    expected = np.stack([x @ kernels[k] for x, k in zip(arrays[0], expert, strict=True)])
    found = as_array(in_blocks(*map(ops.convert_to_tensor, arrays)))
    np.testing.assert_allclose(found, expected, atol=2e-5)
    of_rows, _ = gradients(product, arrays, upstream, True)
    slopes = np.stack([kernels[k] @ g for g, k in zip(upstream, expert, strict=True)])
    np.testing.assert_allclose(of_rows, slopes, atol=1e-3)


@pytest.mark.parametrize("use_bias", [False, True])
def test_the_experts_can_be_called_on_symbolic_tensors(use_bias: bool) -> None:
    # If they cannot, reading a graph tries every guess of its sizes, with all experts each time.
    rows, sizes = keras.Input((5,)), keras.Input(batch_shape=(3,), dtype="int32")
    model = keras.Model([rows, sizes], ExpertDense(3, 7, use_bias=use_bias)(rows, sizes))
    (node,) = (n for n in plots.read_graph(model).nodes if n.class_name == "ExpertDense")
    assert "traced" in node.traits


def test_rows_are_looked_up_and_combined_with_their_gradients() -> None:
    rng = np.random.default_rng(1)
    chosen = np.int32([[2, 0], [1, 2], [0, 1], [2, 1], [2, 0]])
    order, places, sizes = grouped_products.sort_by_expert(ops.convert_to_tensor(chosen), 4)
    np.testing.assert_array_equal(as_array(sizes), [3, 3, 4, 0])
    assert (np.diff(chosen.ravel()[as_array(order)]) >= 0).all()
    np.testing.assert_array_equal(as_array(order)[as_array(places)], np.arange(10).reshape(5, 2))

    x, upstream = (rng.normal(size=shape).astype("float32") for shape in ((5, 3), (5, 2, 3)))

    def twice(x: Any) -> Any:
        rows = grouped_products.rows_of_tokens(x, order, places)
        return grouped_products.choices_of_rows(rows, places)

    expected = np.repeat(x[:, None], 2, axis=1)
    np.testing.assert_array_equal(as_array(twice(ops.convert_to_tensor(x))), expected)
    (found,) = gradients(twice, [x], upstream, compiled=False)
    np.testing.assert_allclose(found, upstream.sum(axis=1), atol=1e-6)
