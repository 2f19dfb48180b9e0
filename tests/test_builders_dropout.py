"""Each dropout field acts at its own site in the graph, and only in training."""

import itertools
import json
from typing import Any

import keras
import numpy as np
import pytest
from quick import slow_unless
from reference import reference_logits
from small_models import (
    KINDS,
    copy_weights,
    logits_of,
    random_tokens,
    relative_error,
    shared_model,
    small_spec,
    weights_by_name,
)

import builders

SITES = (
    "dropout",
    "feedforward_dropout",
    "attention_dropout",
    "embedding_dropout",
    "activation_dropout",
    "final_dropout",
)
RATE_NEAR_ONE = 1 - 1e-9  # drops everything in practice
each_kind = pytest.mark.parametrize("kind", KINDS)
each_site = pytest.mark.parametrize("site", SITES)
each_attention = pytest.mark.parametrize("attention", ["graph", "layer"])


def spec_with_rate(site: str | None, rate: float, **changes: Any) -> builders.TransformerSpec:
    rates = dict.fromkeys(SITES, 0.0)
    if site is not None:
        rates[site] = rate
    return small_spec(**rates, **changes)


def dropped_edges(model: keras.Model) -> dict[tuple[str, str], float]:
    """Return the rates of all dropout layers by (layer before, layer after)."""
    edges = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.Dropout):
            (before,) = (
                t._keras_history.operation.name
                for t in layer._inbound_nodes[0].arguments.keras_tensors
            )
            after = [
                other.name
                for other in model.operations
                for node in other._inbound_nodes
                if layer.output in node.arguments.keras_tensors
            ]
            for name in after:
                edges[before, name] = layer.rate
    return edges


def expected_edges(spec: builders.TransformerSpec) -> dict[tuple[str, str], float]:
    """Return the rates for pre-norm blocks with residual connections and learned positions."""
    edges: dict[tuple[str, str], float] = {}
    two_stacks = spec.kind == "encoder_decoder"
    stacks = {"decoder": spec.num_layers}
    if two_stacks:
        stacks["encoder"] = spec.num_encoder_layers
    for side, layers in stacks.items():
        start = f"{side}.add_positions"
        edges[start, f"{side}.block_0.self_attention.norm"] = spec.embedding_dropout
        edges[start, f"{side}.block_0.self_attention.residual"] = spec.embedding_dropout
        for index in range(layers):
            block = f"{side}.block_{index}"
            attentions = ["self_attention"]
            if side == "decoder" and two_stacks:
                attentions.append("cross_attention")
            for part in (f"{block}.{name}" for name in attentions):
                edges[f"{part}.output", f"{part}.residual"] = spec.dropout
                edges[f"{part}.softmax", f"{part}.weighted_values"] = spec.attention_dropout
            part = f"{block}.feedforward"
            edges[f"{part}.down", f"{part}.residual"] = spec.feedforward_dropout
            edges[f"{part}.up", f"{part}.down"] = spec.activation_dropout
        readers = ["logits"]
        if side == "encoder":  # every cross-attention reads its output
            crossed = [f"decoder.block_{i}.cross_attention" for i in range(spec.num_layers)]
            readers = [f"{name}.{role}" for name in crossed for role in ("key", "value")]
        for reader in readers:
            edges[f"{side}.final_norm", reader] = spec.final_dropout
    return {edge: rate for edge, rate in edges.items() if rate}


# Placement --------------------------------------------------------------------------------------


@pytest.mark.sampled(4)
@each_kind
@each_site
def test_a_rate_adds_dropout_layers_at_its_site_only(kind: str, site: str) -> None:
    spec = spec_with_rate(site, 0.25, kind=kind)
    edges = dropped_edges(builders.build(spec))
    assert edges == expected_edges(spec)
    assert set(edges.values()) == {0.25}


@each_kind
def test_every_site_has_its_own_rate(kind: str) -> None:
    spec = small_spec(
        kind=kind,
        dropout=0.1,
        feedforward_dropout=0.2,
        attention_dropout=0.3,
        embedding_dropout=0.4,
        activation_dropout=0.5,
        final_dropout=0.6,
        num_encoder_layers=1,
    )
    assert dropped_edges(builders.build(spec)) == expected_edges(spec)


@each_kind
def test_feedforward_dropout_defaults_to_dropout(kind: str) -> None:
    default = small_spec(kind=kind, dropout=0.25)
    assert set(dropped_edges(builders.build(default)).values()) == {0.25}
    given = small_spec(kind=kind, dropout=0.25, feedforward_dropout=0.0)
    edges = dropped_edges(builders.build(given))
    assert edges == expected_edges(given)
    assert not any(before.endswith(".down") for before, _ in edges)


@pytest.mark.sampled(2)
@each_kind
@each_attention
def test_without_rates_training_and_inference_return_the_same_logits(
    kind: str, attention: str
) -> None:
    spec = spec_with_rate(None, 0.0, kind=kind, attention=attention)
    model = shared_model(spec)
    assert not [layer for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    tokens = random_tokens(spec)
    np.testing.assert_allclose(
        logits_of(model, tokens, training=True), logits_of(model, tokens), rtol=0, atol=1e-6
    )


# Training ---------------------------------------------------------------------------------------


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("attention", "site", "kind"),
    slow_unless(
        lambda attention, site, kind: kind == "decoder_only" or site == "attention_dropout",
        itertools.product(("graph", "layer"), SITES, KINDS),
    ),
)
def test_dropout_acts_in_training_but_not_at_inference(
    kind: str, site: str, attention: str
) -> None:
    spec = spec_with_rate(site, 0.5, kind=kind, attention=attention)
    plain = shared_model(spec_with_rate(None, 0.0, kind=kind, attention=attention))
    model = shared_model(spec, seed=1)
    copy_weights(plain, model)
    tokens = random_tokens(spec)

    inference = logits_of(model, tokens)
    assert relative_error(inference, logits_of(plain, tokens)) < 2e-6
    np.testing.assert_array_equal(inference, logits_of(model, tokens))

    first, second = (logits_of(model, tokens, training=True) for _ in range(2))
    assert relative_error(first, inference) > 1e-2
    assert relative_error(first, second) > 1e-2


# Effect -----------------------------------------------------------------------------------------


QUICK_WIRINGS = [
    ("decoder_only", "graph", "pre"),
    ("encoder_decoder", "graph", "post"),
    ("encoder_decoder", "layer", "pre"),
]


def zero_weights_of_site(site: str, weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return weights with which the reference drops everything at a site."""
    ends = {
        "dropout": ("_attention.output.kernel", "_attention.output.bias"),
        "feedforward_dropout": ("feedforward.down.kernel", "feedforward.down.bias"),
        "attention_dropout": ("_attention.value.kernel", "_attention.value.bias"),
        "embedding_dropout": ("token_embedding.embeddings", "position_embedding.embeddings"),
        "activation_dropout": ("feedforward.down.kernel",),
        "final_dropout": tuple(  # without a final norm, the norm of the last block
            f"{name}.{part}"
            for name in ("final_norm", "block_1.feedforward.norm")
            for part in ("gamma", "beta")
        ),
    }[site]
    return {
        name: np.zeros_like(value) if name.endswith(ends) else value
        for name, value in weights.items()
    }


@pytest.mark.sampled(2)
@each_site
@pytest.mark.parametrize(
    ("kind", "attention", "norm_placement"),
    slow_unless(
        lambda *case: case in QUICK_WIRINGS,
        itertools.product(KINDS, ("graph", "layer"), ("post", "pre")),
    ),
)
def test_a_rate_near_one_drops_everything_at_its_site_only(
    kind: str, site: str, attention: str, norm_placement: str
) -> None:
    """In particular, residual connections and other sublayers are never dropped."""
    inner = {"attention": attention, "norm_placement": norm_placement}
    # The logit bias keeps the logits nonzero when everything else is dropped.
    spec = spec_with_rate(site, RATE_NEAR_ONE, kind=kind, logit_bias=True, **inner)
    model = shared_model(spec)
    tokens = random_tokens(spec)
    weights = weights_by_name(model)
    fields = json.loads(spec.to_json())
    expected = reference_logits(fields, zero_weights_of_site(site, weights), tokens)
    assert relative_error(logits_of(model, tokens, training=True), expected) < 1e-5
    assert relative_error(expected, reference_logits(fields, weights, tokens)) > 1e-2
