"""Mixture of experts: feed-forward layers of which a router chooses some for every token."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from builders.expert_layers import (
    Combine,
    Dispatch,
    ExpertCapacity,
    RouterLosses,
    ScaledRows,
    TopExperts,
)
from builders.initializers import initializer
from builders.scope import LayerScope

Tensor = Any


def mixture_of_experts(
    scope: LayerScope,
    x: Tensor,
    layers: Callable[[LayerScope, Tensor], Tensor],
    real: Tensor | None = None,
) -> Tensor:
    """Wire the weighted sum of the outputs of a token's experts: (b, t, d) -> (b, t, d).

    y = sum of w_i(x) expert_i(x) over the a experts with the highest scores (Shazeer et al. 2017,
    section 2), or that of expert_i(w_i(x) x) with `scale_expert_inputs`, and the output of the
    shared expert, where there is one.

    Args:
        scope: of the sublayer.
        x: (b, t, d).
        layers: wires the layers of one expert.
        real: bool (b, 1, t), `False` for padding, which counts in no loss or load of experts;
            `None`: all tokens count.
    """
    spec = scope.spec
    weights, chosen = route(scope, x, real)  # (b, t, a)
    dispatch = scope.layer("dispatch", Dispatch, spec.num_experts)
    rows, places, sizes = dispatch(x, chosen)  # (m, d), (b, t, a), (e,)
    shares = [weights]
    if spec.scale_expert_inputs:
        rows, shares = scope.layer("scaled_rows", ScaledRows)(rows, places, weights), []
    experts = scope.within("experts")
    experts.spec, experts.rows_per_expert = spec.of_expert, sizes
    rows = layers(experts, rows)
    x_of_experts = scope.layer("combine", Combine)(rows, places, *shares)  # (b, t, d)
    if not spec.shared_expert_dim:
        return x_of_experts
    return scope.layer("sum", keras.layers.Add)([x_of_experts, shared_expert(scope, x, layers)])


def route(scope: LayerScope, x: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """Wire the weights of each token's experts, float32 (b, t, a), and the experts, int (b, t, a).

    All of it is in float32, whatever the precision of the model (Fedus et al. 2022, section 2.4).
    """
    spec = scope.spec
    e, dtype = spec.num_experts, "float32"
    mask = () if real is None else (real,)  # Keras would record a mask of None as an argument
    kernel = initializer(scope, "router", fan_in=spec.hidden_dim, fan_out=e)
    logits = scope.layer(
        "router",
        keras.layers.Dense,
        e,
        use_bias=spec.router_bias,
        kernel_initializer=kernel,
        dtype=dtype,
    )(x)  # (b, t, e)
    layer = scope.layer("router_scores", keras.layers.Activation, spec.router_scores, dtype=dtype)
    scores = layer(logits)
    top_experts = scope.layer(
        "top_experts",
        TopExperts,
        spec.num_active_experts,
        renormalize=spec.renormalize_scores,
        scale=spec.router_scale,
        groups=spec.num_expert_groups,
        active_groups=spec.num_active_groups,
        group_score_experts=spec.group_score_experts,
        correction_rate=spec.router_correction_rate,
        dtype=dtype,
    )
    counts_load = spec.router_correction_rate is not None
    weights, chosen = top_experts(scores, *(mask if counts_load else ()))
    if spec.balance_loss or spec.router_z_loss:
        losses = scope.layer(
            "router_losses", RouterLosses, spec.balance_loss, spec.router_z_loss, dtype=dtype
        )
        weights = losses(weights, logits, scores, chosen, *mask)
    if spec.capacity_factor is not None:
        capacity = scope.layer("capacity", ExpertCapacity, spec.capacity_factor, e, dtype=dtype)
        weights = capacity(weights, chosen, *mask)
    return weights, chosen


def shared_expert(
    scope: LayerScope, x: Tensor, layers: Callable[[LayerScope, Tensor], Tensor]
) -> Tensor:
    """Wire the expert that all tokens go through: (b, t, d) -> (b, t, d)."""
    spec = scope.spec
    part = scope.within("shared_expert")
    part.spec = spec.of_shared_expert
    output = layers(part, x)
    if not spec.shared_expert_gate:
        return output
    share = part.layer(
        "share",
        keras.layers.Dense,
        1,
        activation="sigmoid",
        use_bias=False,
        kernel_initializer=initializer(part, "share", fan_in=spec.hidden_dim, fan_out=1),
    )(x)  # (b, t, 1)
    return part.layer("shared", keras.layers.Multiply)([output, share])
