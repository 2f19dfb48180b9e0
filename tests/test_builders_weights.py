"""Names, shapes, initial values and training of the weights of a spec."""

import itertools
import json
from typing import Any

import keras
import numpy as np
import pytest
from quick import slow_unless
from reference_weights import parameter_count, weight_shapes
from small_models import (
    ALL_KINDS,
    KINDS,
    TARGET_LENGTH,
    logits_of,
    random_model,
    random_tokens,
    small_spec,
    train_one_step,
    variables_by_name,
    weights_by_name,
)
from small_models import LATENTS as SMALL_LATENTS

import builders

each_kind = pytest.mark.parametrize("kind", KINDS)

EXPERTS = {"num_experts": 6, "num_active_experts": 2, "expert_dim": 11}
LATENTS = {**SMALL_LATENTS, "positions": "rotary", "query_latent_dim": 9}
BLOCKS = (
    {"num_key_value_heads": 2, "intermediate_dim": 19},
    {"feedforward": "glu", "qk_norm": True},
)
SPEC_CHANGES: list[dict[str, Any]] = [
    {},
    {"norm_placement": "post"},
    {"final_norm": False, "positions": "sinusoidal"},
    {"positions": "none", "attention_bias": False, "merge": "none"},
    {"tie_embeddings": True, "logit_bias": True},
    {"tie_embeddings": True, "logit_bias": False, "head_dim": 5},
    {"tie_embeddings": True, "embedding_dim": 5, "scale_logits": True},
    {"embedding_dim": 5},
    {"embedding_dim": 5, "embedding_projection": "sum", "tie_embeddings": True},
    {"share_embeddings": True},
    {"share_embeddings": True, "tie_embeddings": True, "num_encoder_layers": 3},
    {"attention": "layer", "head_dim": 5, "logit_bias": True},
    {"num_heads": 6, "num_key_value_heads": 3, "head_dim": 5, "block_overrides": BLOCKS},
    {"norm_placement": "sandwich", "norm": "rms", "feedforward": "glu", "qk_norm": True}
    | {"merge": "layer_scale"},
    {"norm_placement": "parallel", "norm_bias": False, "feedforward_bias": False}
    | {"merge": "highway"},
    {"norm_placement": "parallel_shared_norm", "merge": "rezero"},
    {"norm_placement": "output", "merge": "highway"},
    {"norm_placement": "none", "embedding_norm": True, "attention_output_bias": False}
    | {"merge": "rezero"},
    {"norm": "rms", "norm_offset": True, "final_norm": False},
    {"norm_placement": "sandwich", "merge": "hyper_connections"},
    {"norm_placement": "none", "merge": "spherical", "norm": "unit", "feedforward": "scaled_glu"}
    | {"qk_norm": True, "qk_norm_heads": "tied", "logit_gain": True}
    | {"kernel_constraint": "unit_norm"},
    {"positions": "coordinates", "num_layers": 3, "distinct_blocks": 1},
    {"kind": "decoder_only", "mixer": "gated_delta", "delta_value_heads": 4}
    | {"num_layers": 3, "block_overrides": ({}, {"mixer": "attention"}, {})},
    {"norm_placement": "parallel", "merge": "static_hyper_connections", "num_streams": 3},
    {"num_layers": 5, "block_skips": "unet", "value_residual": True},
    {"num_layers": 5, "block_skips": "embedding", "distinct_blocks": 2, "value_residual": True},
    {"positions": "relative", "relative_buckets": 12, "relative_max_distance": 13},
    {"positions": "relative", "relative_buckets": 12, "relative_max_distance": 13}
    | {"relative_by_block": True, "num_layers": 3, "distinct_blocks": 2},
    {"positions": "rotary", "rotary_dim": 6, "attention_gate": True},
    {"positions": "alibi", "num_heads": 3, "head_dim": 5},
    LATENTS,
    {**SMALL_LATENTS, "norm": "rms", "attention_bias": False},
    {**EXPERTS, "router_bias": True, "router_correction_rate": 0.1},
    {**EXPERTS, "feedforward": "glu", "feedforward_bias": False}
    | {"shared_expert_dim": 5, "shared_expert_gate": True},
    {"positions": "none", "block_overrides": ({"positions": "relative"}, {})},
]


ENCODER_HEADS: list[dict[str, Any]] = [
    {"pooler": True, "num_segments": 3},
    {"masked_lm_head": True, "tie_embeddings": True, "logit_bias": True},
    {"masked_lm_head": True, "pooler": True, "norm": "rms", "embedding_dim": 5},
    {"masked_lm_head": True, "tie_embeddings": True, "embedding_dim": 5},
    {"masked_lm_head": True, "tie_embeddings": True, "embedding_dim": 5, "num_segments": 3}
    | {"embedding_projection": "sum", "embedding_norm": True, "distinct_blocks": 1},
    {"masked_lm_head": True, "embedding_dim": 5, "embedding_projection": "sum"},
    {"classes": ("a", "b", "c"), "class_pooling": "mean", "masked_lm_head": True},
    {"classes": ("a", "b"), "pooler": True, "pooler_activation": "gelu"},
]


def all_specs() -> list[builders.TransformerSpec]:
    all_kinds = [
        small_spec(**{"kind": kind, **changes})
        for kind in ALL_KINDS
        for changes in SPEC_CHANGES
        if kind == "encoder_decoder" or "share_embeddings" not in changes
        if kind == changes.get("kind", kind)
    ]
    return all_kinds + [small_spec(kind="encoder_only", **changes) for changes in ENCODER_HEADS]


def fields_of(spec: builders.TransformerSpec) -> dict[str, Any]:
    return json.loads(spec.to_json())


# Names, shapes, counts --------------------------------------------------------------------------


@pytest.fixture(scope="module", params=all_specs(), ids=range(len(all_specs())))
def built(request: pytest.FixtureRequest) -> tuple[builders.TransformerSpec, keras.Model]:
    return request.param, builders.build(request.param, abstract=True)


@pytest.mark.sampled(26)
def test_a_model_has_exactly_the_weights_of_its_spec(
    built: tuple[builders.TransformerSpec, keras.Model],
) -> None:
    spec, model = built
    shapes = {name: tuple(v.shape) for name, v in variables_by_name(model).items()}
    assert shapes == weight_shapes(fields_of(spec))
    trainable = {id(v) for v in model.trainable_weights}
    others = [name for name, v in variables_by_name(model).items() if id(v) not in trainable]
    assert others == [name for name in shapes if name.endswith(".top_experts.correction")]
    assert model.count_params() == parameter_count(fields_of(spec))


def test_every_weight_is_an_attribute_of_the_layer_in_its_name(
    built: tuple[builders.TransformerSpec, keras.Model],
) -> None:
    """Names are public, since users read and set weights as `model.get_layer(name).kernel`."""
    spec, model = built
    if spec.attention == "layer":
        side = "encoder" if spec.kind == "encoder_only" else "decoder"
        layer = model.get_layer(f"{side}.block_0.self_attention.attention")
        assert len(layer.weights) == (8 if spec.attention_bias else 4)
        return
    for name, shape in weight_shapes(fields_of(spec)).items():
        layer_name, variable = name.rsplit(".", 1)
        assert tuple(getattr(model.get_layer(layer_name), variable).shape) == shape, name


# Training ---------------------------------------------------------------------------------------


TRAINED: dict[str, dict[str, Any]] = {
    "pre": {"norm_placement": "pre"},
    "post, tied": {"norm_placement": "post", "tie_embeddings": True, "logit_bias": True},
    "no residual connections": {
        "merge": "none",
        "num_layers": 1,
        "attention_dropout": 0.1,
        "logit_bias": True,
    },
    "layer": {"attention": "layer"},
    "skips across shared blocks": {"num_layers": 3, "distinct_blocks": 1}
    | {"block_skips": "embedding", "value_residual": True},
    "mirrored skips, mixed values": {"block_skips": "unet", "value_residual": True},
    "streams": {"merge": "hyper_connections", "num_streams": 3},
    "streams of fixed weights": {"merge": "static_hyper_connections", "num_streams": 3},
    "experts": {
        **EXPERTS,
        "feedforward": "glu",
        "router_bias": True,
        "shared_expert_dim": 5,
        "shared_expert_gate": True,
        "router_correction_rate": 0.1,
    },
    "latents": LATENTS,
    "gates, output norms": {"norm_placement": "output", "merge": "highway"},
    "channel scales, shared norm": {"norm_placement": "parallel_shared_norm"}
    | {"merge": "layer_scale", "block_overrides": BLOCKS[1:]},
}


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(
        lambda name, kind: (kind == "encoder_decoder") == (name == "pre"),
        itertools.product(TRAINED, KINDS),
    ),
)
def test_one_training_step_changes_every_weight(name: str, kind: str) -> None:
    spec = small_spec(kind=kind, **TRAINED[name])
    model = random_model(spec)
    before = weights_by_name(model)
    train_one_step(model, random_tokens(spec))
    for name, after in weights_by_name(model).items():
        change = np.abs(after - before[name])
        assert np.isfinite(after).all(), name
        is_bias_of_keys = name.endswith("key.bias") and not any(
            spec.of_block(i).qk_norm for i in (0, 1)
        )
        if name.endswith("self_attention.shared_key.bias"):  # which is rotated here
            is_bias_of_keys = False
        if is_bias_of_keys or (name.endswith("key_norm.beta") and spec.positions != "rotary"):
            # adds the same to all scores of a query, so the softmax cancels it
            assert change.max() < 1e-4, name
        elif name.endswith("position_embedding.embeddings"):
            used = TARGET_LENGTH if name.startswith("decoder") else 13
            assert (change[:used].max(axis=-1) > 1e-6).all(), name
            assert not change[used:].any(), name
        else:
            assert change.max() > 1e-6, name


def test_shared_and_tied_embeddings_are_one_trained_table() -> None:
    spec = small_spec(kind="encoder_decoder", share_embeddings=True, tie_embeddings=True)
    model = random_model(spec)
    tokens = {  # disjoint, so that the changed rows show which use trained them
        "source": np.full((3, 5), 11, "int32"),
        "target": np.full((3, TARGET_LENGTH), 13, "int32"),
    }
    before = weights_by_name(model)["token_embedding.embeddings"]
    train_one_step(model, tokens)
    change = np.abs(weights_by_name(model)["token_embedding.embeddings"] - before).max(axis=-1)
    assert (change > 1e-6).all()  # the softmax reaches every row
    assert sum("token_embedding" in name for name in weights_by_name(model)) == 1


@pytest.mark.parametrize(
    ("kind", "attention_dropout"),
    slow_unless(
        lambda kind, rate: kind == "decoder_only" and rate == 0,
        itertools.product(KINDS, (0.0, 0.1)),
    ),
)
def test_training_on_a_row_of_padding_only_keeps_weights_finite(
    kind: str, attention_dropout: float
) -> None:
    spec = small_spec(kind=kind, attention_dropout=attention_dropout)
    model = random_model(spec)
    tokens = random_tokens(spec)
    for array in tokens.values() if isinstance(tokens, dict) else (tokens,):
        array[1] = 0
    train_one_step(model, tokens, learning_rate=0.1)
    assert all(np.isfinite(value).all() for value in weights_by_name(model).values())


@pytest.mark.slow
@pytest.mark.parametrize("norm_placement", ["post", "pre"])
def test_a_model_overfits_one_batch(norm_placement: str) -> None:
    spec = small_spec(norm_placement=norm_placement, hidden_dim=34, intermediate_dim=67)
    model = builders.build(spec)
    tokens = random_tokens(spec, padding=False)
    model.compile(
        optimizer=keras.optimizers.Adam(3e-3),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    history = model.fit(
        np.tile(tokens[:, :-1], (50, 1)), np.tile(tokens[:, 1:], (50, 1)), batch_size=3, verbose=0,
        epochs=6,
    )  # fmt: skip
    assert history.history["loss"][-1] < 0.02


# Initialization ---------------------------------------------------------------------------------


@pytest.mark.sampled(1)
@each_kind
@pytest.mark.parametrize("attention", ["graph", "layer"])
def test_weights_are_reproducible_by_seed_and_all_kernels_differ(kind: str, attention: str) -> None:
    spec = small_spec(kind=kind, attention=attention)
    keras.utils.set_random_seed(23)
    first = weights_by_name(builders.build(spec))
    again = weights_by_name(builders.build(spec))
    keras.utils.set_random_seed(23)
    same = weights_by_name(builders.build(spec))
    kernels = [name for name in first if name.endswith(("kernel", "embeddings"))]
    for name in kernels:
        np.testing.assert_array_equal(first[name], same[name])
        assert (first[name] != again[name]).any(), name
    first_values = {name: tuple(np.sort(first[name].ravel())[:3]) for name in kernels}
    assert len(set(first_values.values())) == len(kernels)


@pytest.mark.sampled(3)
@each_kind
@pytest.mark.parametrize(
    "initializer", ["glorot_uniform", "glorot_packed", "normal", "depth_scaled", "t5"]
)
def test_initial_kernels_have_the_standard_deviation_of_the_initializer(
    kind: str, initializer: str
) -> None:
    """All widths differ, so that a wrong fan-in or fan-out fails."""
    d, n, h, f, v = 94, 3, 37, 131, 211
    spec = small_spec(
        kind=kind,
        vocabulary_size=v,
        source_vocabulary_size=v,
        num_layers=2,
        num_encoder_layers=3,
        hidden_dim=d,
        num_heads=n,
        head_dim=h,
        intermediate_dim=f,
        max_sequence_length=101,
        initializer=initializer,
        initializer_range=0.05,
    )
    fans = {
        "query.kernel": (d, n * h),
        "key.kernel": (d, n * h),
        "value.kernel": (d, n * h),
        "output.kernel": (n * h, d),
        "up.kernel": (d, f),
        "down.kernel": (f, d),
        "logits.kernel": (d, v),
        "embeddings": (d, d),
    }
    decoder_sublayers = 2 * 2 if kind == "decoder_only" else 3 * 2
    for name, value in weights_by_name(builders.build(spec)).items():
        if name.endswith(("bias", "beta")):
            assert not value.any(), name
            continue
        if name.endswith("gamma"):
            assert (value == 1).all(), name
            continue
        (fan,) = (fan for end, fan in fans.items() if name.endswith(end))
        is_glorot = initializer.startswith("glorot")
        if initializer == "glorot_packed" and fan == (d, n * h):
            fan = d, 3 * n * h
        expected = (2 / sum(fan)) ** 0.5 if is_glorot else 0.05
        if initializer == "depth_scaled" and name.endswith(("output.kernel", "down.kernel")):
            sublayers = decoder_sublayers if name.startswith("decoder") else 2 * 3
            expected /= sublayers**0.5
        if initializer == "t5":  # Mesh TensorFlow, the code of Raffel et al. 2020
            expected = fan[0] ** -0.5
            expected = (d * h) ** -0.5 if name.endswith("query.kernel") else expected
            expected = 1.0 if name.endswith("token_embedding.embeddings") else expected
        assert value.std() == pytest.approx(expected, rel=0.05), name
        assert abs(value.mean()) < 0.1 * expected, name
        if is_glorot:
            assert np.abs(value).max() <= expected * 3**0.5 * (1 + 1e-6), name


@each_kind
def test_a_new_model_predicts_a_nearly_uniform_distribution(kind: str) -> None:
    """The initial loss is then near log(v)."""
    spec = small_spec(kind=kind)
    logits = logits_of(builders.build(spec), random_tokens(spec))
    assert logits.std() < 2.0
