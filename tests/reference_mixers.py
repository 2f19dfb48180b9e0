"""Attention and Gated DeltaNet of the reference Transformer, in NumPy float64; see `reference`."""

import math

import numpy as np
from reference_latents import latent_heads
from reference_operations import activation, divide_by_spread, normalize, sigmoid, soft_cap, softmax
from reference_positions import rotate
from reference_spec import Weights


def visible_keys(
    spec: dict, keys: np.ndarray, causal: bool, prefix: np.ndarray | None = None
) -> np.ndarray:
    """Return which keys each position attends to, (b, t, t); keys (b, 1, t) are no padding.

    The prefix has the number of tokens, (b,), that also attend to later ones among them.
    """
    length = keys.shape[-1]
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]  # of a key, for each query
    seen = ahead <= 0 if causal else np.ones((length, length), bool)
    seen = np.repeat(seen[None], len(keys), axis=0)
    for row, number in enumerate([] if prefix is None else prefix):
        seen[row, :number, :number] = True
    is_limited = causal or spec["kind"] == "encoder_only"
    if spec["attention_window"] is not None and is_limited:
        seen = seen & (abs(ahead) < spec["attention_window"])
    if spec["attention_chunk"] is not None and is_limited:
        for query, key in np.ndindex(length, length):
            size = spec["attention_chunk"]
            seen[:, query, key] &= query // size == key // size
    return keys & seen


def normalize_heads(
    spec: dict, weights: Weights, attention: str, role: str, heads: np.ndarray
) -> np.ndarray:
    """Apply the norm of queries or keys (b, t, n, h)."""
    name = f"{attention}.{role}_norm"
    if not spec["qk_norm_gain"]:
        joint = spec["qk_norm_heads"] == "joint"
        together = heads.reshape(*heads.shape[:2], -1) if joint else heads
        return divide_by_spread(spec, together).reshape(heads.shape)
    if spec["qk_norm_heads"] == "joint":
        together = heads.reshape(*heads.shape[:2], -1)
        return normalize(spec, weights, name, together).reshape(heads.shape)
    if spec["qk_norm_heads"] == "separate":
        return divide_by_spread(spec, heads) * weights[f"{name}.scale"]
    if spec["qk_norm_heads"] == "tied":  # s_qk, whose weights are d^(-1/2) times smaller
        gain = weights[f"{attention}.query_key_gain.scale"] * math.sqrt(spec["hidden_dim"])
        return divide_by_spread(spec, heads) * gain
    return normalize(spec, weights, name, heads)


def attention(
    spec: dict,
    weights: Weights,
    name: str,
    x: np.ndarray,
    memory: np.ndarray,
    mask: np.ndarray,
    bias: np.ndarray | None = None,
    values: list | None = None,
) -> np.ndarray:
    """Multi-head attention of x (b, t, d) to memory (b, s, d); mask (b, t, s), True = visible.

    Self-attention has a bias (n, t, s), rotates queries and keys if positions are rotary, may scale
    queries by their position, and appends its values to those of the blocks before it.
    """
    is_self = bias is not None

    def project(role: str, inputs: np.ndarray) -> np.ndarray:
        heads = np.einsum("bsd,dnh->bsnh", inputs, weights[f"{name}.{role}.kernel"])
        heads = heads + weights[f"{name}.{role}.bias"] if spec["attention_bias"] else heads
        has_norm, is_late = spec["qk_norm"] and role != "value", spec["qk_norm_after_rotary"]
        if has_norm and not is_late:
            heads = normalize_heads(spec, weights, name, role, heads)
        if spec["positions"] == "rotary" and role != "value" and is_self:
            heads = rotate(spec, heads)
        if has_norm and is_late:
            heads = normalize_heads(spec, weights, name, role, heads)
        if role == "query" and is_self:
            for p in range(heads.shape[1]):
                steps = (p + 1) // spec["attention_temperature_floor"]
                factor = 1.0 + spec["attention_temperature"] * math.log(1.0 + steps)
                heads[:, p] = heads[:, p] * factor
        return heads

    if spec["latent_dim"] is not None:
        rotates = spec["positions"] == "rotary" and is_self
        query, key, value = latent_heads(spec, weights, name, x, memory, rotates)
    else:
        query, key, value = project("query", x), project("key", memory), project("value", memory)
    if values is not None:
        values.append(value)
        if spec["value_residual"] and len(values) > 1:
            share = weights[f"{name}.mixed_value.share"]
            value = (1.0 - share) * value + share * values[0]
    # Query head i uses key head i // groups.
    groups = spec["num_heads"] // spec["num_key_value_heads"]
    key, value = np.repeat(key, groups, axis=2), np.repeat(value, groups, axis=2)
    scale = spec["attention_scale"] or 1.0 / math.sqrt(spec["head_dim"])
    scores = np.einsum("btnh,bsnh->bnts", query, key) * scale
    scores = soft_cap(scores, spec["attention_soft_cap"])
    scores = scores if bias is None else scores + bias
    scores = np.where(mask[:, None, :, :], scores, -1e30)
    if spec["attention_sinks"]:  # a column more, which has no value
        sinks = weights[f"{name}.sinks.logits"][None, :, None, None]
        column = np.broadcast_to(sinks, (*scores.shape[:-1], 1))
        shares = softmax(np.concatenate([scores, column], axis=-1))[..., :-1]
    else:
        shares = softmax(scores)
    mixed = np.einsum("bnts,bsnh->btnh", shares, value)
    if spec["attention_gate"]:
        gate = np.tensordot(x, weights[f"{name}.output_gate.kernel"], axes=1)
        gate = gate + weights[f"{name}.output_gate.bias"] if spec["attention_bias"] else gate
        mixed = mixed * sigmoid(gate)
    output = np.einsum("btnh,nhd->btd", mixed, weights[f"{name}.output.kernel"])
    return output + weights[f"{name}.output.bias"] if spec["attention_output_bias"] else output


def convolve(kernel: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Return silu of a convolution of each channel with the tokens before it: x (b, t, n, h)."""
    output = np.zeros_like(x)
    for token in range(x.shape[1]):
        for back in range(min(len(kernel), token + 1)):
            output[:, token] += kernel[len(kernel) - 1 - back] * x[:, token - back]
    return activation("silu", output)


def gated_delta(
    spec: dict, weights: Weights, name: str, x: np.ndarray, real: np.ndarray
) -> np.ndarray:
    """Return a Gated DeltaNet of x (b, t, d), token by token; real (b, t) is no padding."""

    def project(role: str) -> np.ndarray:
        return np.tensordot(x, weights[f"{name}.{role}.kernel"], axes=1)

    def unit(heads: np.ndarray) -> np.ndarray:
        groups = spec["delta_value_heads"] // spec["delta_key_heads"]
        heads = np.repeat(heads, groups, axis=2)
        return heads / np.sqrt((heads**2).sum(axis=-1, keepdims=True) + 1e-6)

    query, key, value = (
        convolve(
            weights[f"{name}.{role}_convolution.kernel"], project(role) * real[..., None, None]
        )
        for role in ("query", "key", "value")
    )
    query, key = unit(query) / math.sqrt(spec["delta_key_dim"]), unit(key)
    rate, bias = (weights[f"{name}.decay_rate.{part}"] for part in ("rate", "bias"))
    decay = np.exp(-np.exp(rate) * np.log1p(np.exp(project("decay") + bias)))
    beta = sigmoid(project("beta"))
    memory = np.zeros((*value[:, 0].shape[:2], spec["delta_key_dim"], spec["delta_value_dim"]))
    read = np.zeros_like(value)
    for token in range(x.shape[1]):
        decayed = memory * decay[:, token, :, None, None]
        change = value[:, token] - np.einsum("bnh,bnhj->bnj", key[:, token], decayed)
        change = change * beta[:, token, :, None]
        corrected = decayed + np.einsum("bnh,bnj->bnhj", key[:, token], change)
        memory = np.where(real[:, token, None, None, None], corrected, memory)
        read[:, token] = np.einsum("bnh,bnhj->bnj", query[:, token], memory)
    spread = np.sqrt((read**2).mean(axis=-1, keepdims=True) + spec["norm_epsilon"])
    read = read / spread * weights[f"{name}.read_norm.scale"] * activation("silu", project("gate"))
    return np.einsum("btnj,njd->btd", read, weights[f"{name}.output.kernel"])
