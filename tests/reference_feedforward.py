"""Feed-forward layers and experts of the reference Transformer; see `reference`."""

import math

import numpy as np
from reference_operations import activation, sigmoid, softmax
from reference_spec import Weights


def feedforward(
    spec: dict, weights: Weights, name: str, x: np.ndarray, expert: int | None = None
) -> np.ndarray:
    """Return the output of a feed-forward layer, or of an expert: x (..., d) -> (..., d)."""

    def dense(role: str, inputs: np.ndarray) -> np.ndarray:
        kernel, bias = (weights.get(f"{name}.{role}.{part}") for part in ("kernel", "bias"))
        if expert is not None:
            kernel, bias = kernel[expert], None if bias is None else bias[expert]
        return inputs @ kernel + bias if spec["feedforward_bias"] else inputs @ kernel

    if spec["feedforward"] == "glu":
        inner = activation(spec["activation"], dense("gate", x)) * dense("up", x)
    elif spec["feedforward"] == "scaled_glu":
        gate, up = (
            weights[f"{name}.{role}_gain.scale"] * math.sqrt(spec["hidden_dim"]) * dense(role, x)
            for role in ("gate", "up")
        )
        inner = activation(spec["activation"], gate) * up
    elif spec["feedforward"] == "clamped_glu":
        limit = spec["glu_limit"]
        gate, linear = np.minimum(dense("gate", x), limit), dense("up", x).clip(-limit, limit)
        inner = activation(spec["activation"], gate) * (linear + 1.0)
    elif spec["feedforward"] == "mlp":
        inner = activation(spec["activation"], dense("up", x))
    else:
        raise ValueError(f"the reference has no feed-forward {spec['feedforward']!r}")
    return dense("down", inner)


def choose_experts(spec: dict, scores: np.ndarray, correction: np.ndarray) -> list[int]:
    """Return the experts of one token with scores (e,)."""
    preference = scores + correction
    groups = np.split(np.arange(len(scores)), spec["num_expert_groups"])
    highest = [np.sort(preference[group])[::-1][: spec["group_score_experts"]] for group in groups]
    best = sorted(range(len(groups)), key=lambda g: -highest[g].sum())[: spec["num_active_groups"]]
    allowed = [expert for g in best for expert in groups[g]]
    return sorted(allowed, key=lambda expert: -preference[expert])[: spec["num_active_experts"]]


def mixture(spec: dict, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Return the weighted sum of the outputs of each token's experts: (b, t, d) -> (b, t, d)."""
    logits = x @ weights[f"{name}.router.kernel"]
    logits = logits + weights[f"{name}.router.bias"] if spec["router_bias"] else logits
    scores = softmax(logits)
    if spec["router_scores"] == "sigmoid":
        scores = sigmoid(logits)
    correction = np.zeros(spec["num_experts"])
    if spec["router_correction_rate"] is not None:
        correction = weights[f"{name}.top_experts.correction"]
    output = np.zeros_like(x)
    for row in np.ndindex(x.shape[:2]):
        chosen = choose_experts(spec, scores[row], correction)
        shares = scores[row][chosen]
        if spec["renormalize_scores"]:
            shares = shares / shares.sum()
        for expert, share in zip(chosen, shares, strict=True):
            share = spec["router_scale"] * share
            inputs = share * x[row] if spec["scale_expert_inputs"] else x[row]
            y = feedforward(spec, weights, f"{name}.experts", inputs, expert)
            output[row] += y if spec["scale_expert_inputs"] else share * y
    if spec["shared_expert_dim"]:
        shared = feedforward(spec, weights, f"{name}.shared_expert", x)
        if spec["shared_expert_gate"]:
            gate = x @ weights[f"{name}.shared_expert.share.kernel"]
            shared = shared * sigmoid(gate)
        output = output + shared
    return output
