"""Merges and norm placements: what they compute, at the start and in training."""

import itertools
import math
from typing import Any

import keras
import numpy as np
import pytest
from small_models import (
    TARGET_LENGTH,
    as_array,
    logits_of,
    probe_activations,
    random_tokens,
    relative_error,
    replace_token,
    shared_model,
    small_spec,
)

import builders
from builders.depth import Depth, deep_norm, deep_norm_gain
from builders.merges import Add, Merge
from functional_models.claims.initialisation import sandwich_norm_stream
from plots.measuring.gradients import gradient

PLACEMENTS = ("post", "pre", "output", "sandwich", "parallel", "parallel_shared_norm", "none")
DEEP_NORM = {"norm_placement": "post", "merge": "scaled", "skip_scale": "deep_norm"}


# Stream and placements --------------------------------------------------------------------------


class Boxed:
    """A stream that is no tensor, so that only its merge can use it."""

    def __init__(self, x: Any) -> None:
        self.x = x


class BoxedMerge(Merge):
    """Add to a stream in a box; the last sublayer takes it out again."""

    def read(self, scope: Any, stream: Any) -> Any:
        return stream.x if isinstance(stream, Boxed) else stream

    def write(self, scope: Any, stream: Any, output: Any) -> Any:
        x = Add().write(scope, self.read(scope, stream), output)
        is_last = scope.block_index == scope.spec.num_layers - 1
        return x if is_last and "self_attention" not in scope.path else Boxed(x)


@pytest.mark.usefixtures("isolated_registry")
@pytest.mark.parametrize("norm_placement", [name for name in PLACEMENTS if name != "post"])
def test_a_placement_uses_the_stream_through_its_merge_alone(norm_placement: str) -> None:
    """With a norm on the stream, a merge has to return what that norm takes."""
    builders.register_component("merge", "boxed")(BoxedMerge)
    spec = small_spec(norm_placement=norm_placement)
    boxed = builders.build(spec.replace(merge="boxed"), abstract=True)
    added = builders.build(spec, abstract=True)
    assert [layer.name for layer in boxed.layers] == [layer.name for layer in added.layers]


@pytest.mark.usefixtures("isolated_registry")
def test_the_factors_of_a_registered_merge_are_its_own() -> None:
    builders.register_component("merge", "own")(Add)
    assert small_spec(merge="own", skip_scale=0.5, branch_scale=0.25).skip_scale == 0.5
    with pytest.raises(ValueError, match=r"merge='own' is a custom component"):
        builders.count_parameters(small_spec(merge="own"))


@pytest.mark.parametrize(
    ("norm_placement", "merge"),
    [*zip(PLACEMENTS, itertools.cycle(("highway", "layer_scale")), strict=False)],
)
def test_every_placement_and_merge_is_causal(norm_placement: str, merge: str) -> None:
    spec = small_spec(norm_placement=norm_placement, merge=merge)
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    before, after = logits_of(model, tokens), logits_of(model, replace_token(spec, tokens, 7))
    np.testing.assert_allclose(after[:, :7], before[:, :7], rtol=0, atol=1e-6)
    assert np.abs(after[:, 7] - before[:, 7]).max() > 1e-3


def test_an_encoder_with_a_window_sees_both_sides_and_no_farther() -> None:
    spec = small_spec(kind="encoder_only", num_layers=1, attention_window=3, positions="none")
    model = shared_model(spec)
    tokens = random_tokens(spec, padding=False)
    shape = (len(tokens), TARGET_LENGTH, -1)
    after = logits_of(model, replace_token(spec, tokens, 5)).reshape(shape)
    changed = np.abs(after - logits_of(model, tokens).reshape(shape)).max(axis=(0, 2)) > 1e-5
    assert np.flatnonzero(changed).tolist() == [3, 4, 5, 6, 7]


# Factors ----------------------------------------------------------------------------------------


def test_the_factors_of_deep_norm_are_those_of_the_paper() -> None:
    """Wang et al. 2022, figure 2, in numbers for 6 + 6 and 100 + 100 blocks."""
    for blocks, encoder, decoder in ((6, (1.418, 0.497), (2.060, 0.343)),
                                     (100, (3.416, 0.206), (4.162, 0.170))):  # fmt: skip
        spec = small_spec(kind="encoder_decoder", num_layers=blocks)
        for stack, expected in (("encoder", encoder), ("decoder", decoder)):
            found = deep_norm(spec, Depth(stack, 0)), deep_norm_gain(spec, stack)
            assert found == pytest.approx(expected, abs=5e-4)
    alone = small_spec(num_layers=8)
    assert deep_norm(alone, Depth("decoder", 3)) == 2.0
    assert deep_norm_gain(alone, "decoder") == pytest.approx(64**-0.25)


def test_the_initializer_of_deep_norm_scales_values_and_feedforward_kernels() -> None:
    spec = small_spec(num_layers=4, hidden_dim=128, intermediate_dim=512, initializer="deep_norm")
    model = builders.build(spec.replace(feedforward="glu"))
    gain = (8 * 4) ** -0.25
    block = "decoder.block_3"
    scaled = ("self_attention.value", "self_attention.output")
    scaled += ("feedforward.gate", "feedforward.up", "feedforward.down")
    for name in ("self_attention.query", "self_attention.key", *scaled):
        fans = 128 + (512 if name.startswith("feedforward") else 128)
        expected = math.sqrt(2 / fans) * (gain if name in scaled else 1)
        kernel = as_array(model.get_layer(f"{block}.{name}").kernel.value)
        assert kernel.std() == pytest.approx(expected, rel=0.03), name


def test_layernorm_scaling_divides_what_block_l_reads_by_the_root_of_l() -> None:
    spec = small_spec(num_layers=3, norm_scale="inverse_sqrt_depth")
    names = [
        f"decoder.block_{i}.feedforward.{part}" for i in (1, 2) for part in ("norm", "norm_scale")
    ]
    tokens = random_tokens(spec)
    second, scaled_second, third, scaled_third = probe_activations(
        shared_model(spec), spec, tokens, names
    ).values()
    np.testing.assert_allclose(scaled_second, second / math.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(scaled_third, third / math.sqrt(3), rtol=1e-6)


# At the start of training -----------------------------------------------------------------------


def test_rezero_is_the_identity_at_the_start_and_trains_its_factors_first() -> None:
    """So the logits do not depend on the depth, and the kernels of branches get no gradient."""
    spec = builders.variant("rezero", kind="decoder_only", dropout=0.0)
    tokens = np.arange(33, dtype="int32").reshape(3, 11) + 1
    shallow, deep = (builders.build(spec.replace(num_layers=n)) for n in (1, 5))
    for layer in shallow.layers:
        if layer.weights and "block" not in layer.name:
            deep.get_layer(layer.name).set_weights(layer.get_weights())
    np.testing.assert_array_equal(logits_of(deep, tokens), logits_of(shallow, tokens))
    for name, size in gradients_of(deep, tokens).items():
        if "block" in name:
            assert (size > 0) == name.endswith("branch_scale/scale"), name


def gradients_of(model: keras.Model, tokens: np.ndarray) -> dict[str, float]:
    """Return the largest gradient of a loss by weight."""
    fixed = [v.value for v in model.non_trainable_variables]
    names = [v.path for v in model.trainable_variables]
    at = {v.path: keras.ops.convert_to_tensor(v.value) for v in model.trainable_variables}

    def loss(values: Any) -> Any:
        outputs = model.stateless_call([values[name] for name in names], fixed, tokens)
        return cross_entropy(tokens, outputs[0])

    return {name: float(np.abs(as_array(g)).max()) for name, g in gradient(loss, at).items()}


def cross_entropy(labels: np.ndarray, logits: Any) -> Any:
    ops = keras.ops
    return ops.mean(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("norm_placement", ["output", "sandwich"])
def test_the_stream_has_variance_1_plus_2_l_where_branches_end_in_a_norm(
    norm_placement: str,
) -> None:
    measured = sandwich_norm_stream(norm_placement, width=128, num_layers=6, seeds=2)
    assert measured.verdict == "agrees", measured.summary


def update_size(spec: builders.TransformerSpec, rate: float = 1e-3) -> float:
    """Return how much a step of gradient descent on all kernels of blocks changes the output.

    As in theorem 4.2 of Wang et al. 2022; norms and biases, which it leaves out, stay as they are.
    """
    keras.utils.set_random_seed(1)
    model = builders.build(spec)
    hidden = keras.Model(model.input, [model.get_layer("logits").input, model.output])
    tokens = np.random.default_rng(1).integers(1, 97, (4, 8)).astype("int32")
    weights = hidden.trainable_variables
    at = {v.path: keras.ops.convert_to_tensor(v.value) for v in weights}

    def run(values: Any) -> Any:
        fixed = [v.value for v in hidden.non_trainable_variables]
        return hidden.stateless_call([values[v.path] for v in weights], fixed, tokens)[0]

    def loss(values: Any) -> Any:
        labels = np.roll(tokens, -1, axis=1)
        return cross_entropy(labels, run(values)[1])

    moved = {
        name: at[name] - rate * slope if "block" in name and name.endswith("kernel") else at[name]
        for name, slope in gradient(loss, at).items()
    }
    change = as_array(run(moved)[0]) - as_array(run(at)[0])
    return float(np.sqrt(np.mean(change**2)))


@pytest.mark.slow
def test_the_update_of_deep_norm_does_not_grow_with_depth_as_that_of_post_norm_does() -> None:
    sizes = {"vocabulary_size": 97, "hidden_dim": 32, "num_heads": 2, "positions": "none"}
    slopes = {}
    for name, fields in {
        "post": {"norm_placement": "post"},
        "deep_norm": {**DEEP_NORM, "initializer": "deep_norm"},
    }.items():
        specs = [builders.TransformerSpec(num_layers=n, **sizes, **fields) for n in (4, 16)]
        shallow, deep = (update_size(spec) for spec in specs)
        slopes[name] = math.log(deep / shallow) / math.log(16 / 4)
    assert slopes["deep_norm"] < 0.1, slopes
    assert slopes["post"] > 0.5, slopes


# Stochastic depth -------------------------------------------------------------------------------


def test_stochastic_depth_drops_whole_branches_of_rows_more_often_in_later_blocks() -> None:
    rate = 0.6
    spec = small_spec(num_layers=3, stochastic_depth=rate)
    model = shared_model(spec)
    found = {}
    for i in range(3):
        for part in ("self_attention", "feedforward"):
            layer = model.get_layer(f"decoder.block_{i}.{part}.stochastic_depth")
            assert layer.rate == pytest.approx(rate * (i + 1) / 3)
            found[i, part] = layer
    x = np.random.default_rng(0).normal(size=(499, 5, 7)).astype("float32")
    y = as_array(found[2, "feedforward"](x, training=True))
    kept = np.abs(y).max(axis=(1, 2)) > 0
    assert kept.mean() == pytest.approx(1 - rate, abs=0.1)
    np.testing.assert_allclose(y[kept], x[kept] / (1 - rate), rtol=1e-5)
    tokens = random_tokens(spec)
    plain = shared_model(spec.replace(stochastic_depth=0.0))
    assert relative_error(logits_of(model, tokens), logits_of(plain, tokens)) < 1e-6


def test_a_highway_passes_the_stream_where_its_gate_is_closed() -> None:
    spec = small_spec(merge="highway", final_norm=False)
    model = shared_model(spec)
    for layer in model.layers:
        if layer.name.endswith("transform_gate"):
            layer.bias.assign(layer.bias * 0 - 1e4)
    names = ["decoder.add_positions", "decoder.block_1.feedforward.residual"]
    start, end = probe_activations(model, spec, random_tokens(spec), names).values()
    np.testing.assert_allclose(end, start, atol=1e-6)
