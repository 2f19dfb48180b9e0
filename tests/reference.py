"""A reference Transformer in NumPy float64 that all builders are tested against.

Written from the papers, with loops over layers and literal einsums; clarity comes before speed. It
imports neither Keras nor this project, so that the two implementations share no errors.

* Vaswani et al. 2017, "Attention Is All You Need": post-norm, sinusoidal positions, scaled and
  shared embeddings.
* Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture": pre-norm, with a
  norm after the last block.
* Ainslie et al. 2023, "GQA" (grouped heads); Beltagy et al. 2020, "Longformer" (windows).
* Su et al. 2021, "RoFormer" (rotary), Chen et al. 2023, Peng et al. 2023, "YaRN", Ding et al. 2024,
  "LongRoPE", and the Llama 3.1 release (its scalings); Press et al. 2022, "Train Short, Test Long"
  (ALiBi); Raffel et al. 2020 (T5's buckets).
* Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"; Shazeer 2020, "GLU Variants".
* Ding et al. 2021, "CogView" (sandwich norm); Black et al. 2022, "GPT-NeoX-20B" (parallel
  sublayers); Wang and Komatsuzaki 2021, GPT-J (one norm for them); OLMo Team 2024, "2 OLMo 2
  Furious" (norms on outputs); Gemma Team 2024, "Gemma 2" (soft caps); Henry et al. 2020 (norms of
  queries and keys).
* Wang et al. 2022, "DeepNet"; Bachlechner et al. 2020, "ReZero"; Touvron et al. 2021, "Going deeper
  with Image Transformers" (LayerScale); Srivastava et al. 2015, "Highway Networks"; Sun et al.
  2025, "The Curse of Depth" (LayerNorm scaling): merges and factors of the residual stream.
* Zhou et al. 2024, "Value Residual Learning"; Lan et al. 2020, "ALBERT" (shared blocks); the
  speedruns KellerJordan/modded-nanogpt and karpathy/nanochat (skips across blocks).
* Zhu et al. 2024, "Hyper-Connections"; Loshchilov et al. 2024, "nGPT"; Dehghani et al. 2019,
  "Universal Transformers" (positions and time steps before every block).
* Yang et al. 2024, "Gated Delta Networks", in the form of Qwen3-Next.
* DeepSeek-AI 2024, "DeepSeek-V2" (latent attention).
* Shazeer et al. 2017, "Outrageously Large Neural Networks" (experts); Dai et al. 2024,
  "DeepSeekMoE" (shared ones); DeepSeek 2024, "V2" (groups) and "V3" (corrected choices).
* Meta 2025, Llama 4 (chunks, temperatures, norms of rotated queries and keys, scaled inputs).
* OpenAI 2025, gpt-oss (sinks of attention, clamped GLU, YaRN without rounding).
* Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"; So et al. 2021, "Primer" (squared ReLU).

Letters: `b` batch, `t` target (query) length, `s` source (key) length, `d` hidden_dim, `n` heads,
`k` key/value heads, `h` head_dim, `f` intermediate_dim, `v` vocabulary_size.

A spec is a plain mapping, the JSON object of a `TransformerSpec`; derived fields may be None.
Weights are keyed "<layer name>.<variable name>", such as
`decoder.block_0.self_attention.query.kernel`.
"""

import math
from collections.abc import Mapping
from functools import partial

import numpy as np
from reference_latents import latent_heads
from reference_positions import (
    add_coordinates,
    rotate,
    score_bias,
    sinusoidal_concat_positions,
    sinusoidal_positions,
)
from reference_streams import (
    close_streams,
    factor,
    merge,
    on_sphere,
    open_streams,
    owner,
    read_stream,
    sigmoid,
    stream_into,
)

Spec = Mapping[str, object]
Weights = Mapping[str, np.ndarray]


# The spec ---------------------------------------------------------------------------------------


def fill_derived_fields(spec: Spec) -> dict:
    """Return the spec with the values of all derived fields filled in."""
    width = spec["head_dim"] or spec["hidden_dim"] // spec["num_heads"]
    delta_heads = spec["delta_key_heads"] or spec["num_heads"]
    gain = spec["norm"] != "unit" if spec["norm_gain"] is None else spec["norm_gain"]
    derived = {
        "num_encoder_layers": spec["num_layers"],
        "source_vocabulary_size": spec["vocabulary_size"],
        "embedding_dim": spec["hidden_dim"],
        "intermediate_dim": 4 * spec["hidden_dim"],
        "num_key_value_heads": spec["num_heads"],
        "head_dim": spec["hidden_dim"] // spec["num_heads"],
        "final_norm": spec["norm_placement"] not in ("post", "none"),
        "num_streams": 4 if "hyper_connections" in spec["merge"] else 1,
        "delta_key_heads": delta_heads,
        "delta_value_heads": delta_heads,
        "delta_key_dim": width,
        "delta_value_dim": spec["delta_key_dim"] or width,
        "norm_gain": gain,
        "norm_bias": spec["norm"] == "layer" and gain,
        "embedding_scale": None,
        "logit_scale": None,
        "branch_scale": {"rezero": 0.0, "layer_scale": 1e-4, "spherical": 0.05}.get(
            spec["merge"], 1.0
        ),
        "attention_output_bias": spec["attention_bias"],
        "rotary_dim": spec["head_dim"] or spec["hidden_dim"] // spec["num_heads"],
        "rotary_original_length": spec["max_sequence_length"],
        "rotary_magnitude": None,
        "latent_dim": None,
        "query_latent_dim": None,
        "attention_scale": None,
        "attention_soft_cap": None,
        "logit_soft_cap": None,
        "attention_window": None,
        "attention_chunk": None,
        "qk_norm_gain": gain or spec["qk_norm_heads"] in ("separate", "tied"),
        "distinct_blocks": None,
        "pad_token_id": None,
        "num_active_groups": spec["num_expert_groups"],
        "router_correction_rate": None,
    }
    full = derived | {field: value for field, value in spec.items() if value is not None}
    shared = full["rotary_dim"] if full["latent_dim"] is not None else 0
    return {"value_dim": full["head_dim"] - shared, **full}


# Operations -------------------------------------------------------------------------------------


def of_block(spec: dict, index: int) -> dict:
    """Return the spec of a block, with the changes that the pattern has for it."""
    pattern = spec["block_overrides"]
    return {**spec, **pattern[index % len(pattern)]} if pattern else spec


def visible_keys(spec: dict, keys: np.ndarray, causal: bool) -> np.ndarray:
    """Return which keys each position attends to, (b, t, t); keys (b, 1, t) are no padding."""
    length = keys.shape[-1]
    ahead = np.arange(length)[None, :] - np.arange(length)[:, None]  # of a key, for each query
    seen = ahead <= 0 if causal else np.ones((length, length), bool)
    is_limited = causal or spec["kind"] == "encoder_only"
    if spec["attention_window"] is not None and is_limited:
        seen = seen & (abs(ahead) < spec["attention_window"])
    if spec["attention_chunk"] is not None and is_limited:
        for query, key in np.ndindex(length, length):
            size = spec["attention_chunk"]
            seen[query, key] = seen[query, key] and query // size == key // size
    return keys & seen[None]


def activation(name: str, x: np.ndarray) -> np.ndarray:
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "relu_squared":
        return np.maximum(x, 0.0) ** 2
    if name == "silu":
        return x * sigmoid(x)
    if name == "gelu":  # x * Phi(x), Phi the standard normal CDF
        return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    if name == "gelu_sigmoid":
        return x * sigmoid(1.702 * x)
    raise ValueError(f"the reference has no activation {name!r}")


def normalize(spec: dict, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Apply the norm of the spec over the last axis."""
    x = divide_by_spread(spec, x)
    if spec["norm"] == "unit":
        return x
    if spec["norm"] == "rms":
        gain = weights[f"{name}.scale"] if spec["norm_gain"] else 1.0
        return x * (gain + (1.0 if spec["norm_offset"] else 0.0))
    x = x * weights[f"{name}.gamma"] if spec["norm_gain"] else x
    return x + weights[f"{name}.beta"] if spec["norm_bias"] else x


def divide_by_spread(spec: dict, x: np.ndarray) -> np.ndarray:
    """Apply the norm of the spec without its weights."""
    if spec["norm"] == "rms":
        return x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + spec["norm_epsilon"])
    if spec["norm"] == "unit":
        return on_sphere(spec, x)
    if spec["norm"] != "layer":
        raise ValueError(f"the reference has no norm {spec['norm']!r}")
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + spec["norm_epsilon"])


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


def soft_cap(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


# Sublayers --------------------------------------------------------------------------------------


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
        rotates = spec["positions"] == "rotary" and bias is not None
        norm = partial(normalize, spec, weights)
        query, key, value = latent_heads(spec, weights, name, x, memory, norm, rotates)
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


def block(
    spec: dict, weights: Weights, side: str, index: int, x: np.ndarray, sublayers: dict
) -> np.ndarray:
    """Apply the sublayers of a block, functions by name."""
    placement, block_input, changes = spec["norm_placement"], x, []
    name = f"{side}.block_{owner(spec, index)}"

    def read(at: str, stream: np.ndarray) -> np.ndarray:
        return read_stream(spec, weights, at, stream)

    def first_norm(at: str, y: np.ndarray) -> np.ndarray:
        if at.endswith(".self_attention") and not spec["attention_norm"]:
            return y
        return factor(spec, "norm_scale", side, index) * normalize(spec, weights, f"{at}.norm", y)

    for part, function in sublayers.items():
        at = f"{name}.{part}"
        if placement == "post":  # norm(x + f(x))
            x = normalize(
                spec, weights, f"{at}.norm", merge(spec, weights, at, index, x, function(at, x))
            )
        elif placement == "pre":  # x + f(norm(x))
            x = merge(spec, weights, at, index, x, function(at, first_norm(at, read(at, x))))
        elif placement == "output":  # x + norm(f(x))
            change = normalize(spec, weights, f"{at}.output_norm", function(at, read(at, x)))
            x = merge(spec, weights, at, index, x, change)
        elif placement == "sandwich":  # x + norm(f(norm(x)))
            change = function(at, first_norm(at, read(at, x)))
            change = normalize(spec, weights, f"{at}.output_norm", change)
            x = merge(spec, weights, at, index, x, change)
        elif placement == "parallel":  # x + f(norm(x)) + g(norm(x))
            changes.append(function(at, first_norm(at, read(name, block_input))))
        elif placement == "parallel_shared_norm":  # y = norm(x); x + f(y) + g(y)
            changes.append(function(at, first_norm(name, read(name, block_input))))
        elif placement == "none":  # x + f(x)
            x = merge(spec, weights, at, index, x, function(at, read(at, x)))
        else:
            raise ValueError(f"the reference has no norm placement {placement!r}")
    return merge(spec, weights, name, index, block_input, sum(changes)) if changes else x


# Stacks -----------------------------------------------------------------------------------------


def embedding_table(spec: dict, weights: Weights, side: str) -> np.ndarray:
    name = "token_embedding" if spec["share_embeddings"] else f"{side}.token_embedding"
    return weights[f"{name}.embeddings"]


def embed(
    spec: dict, weights: Weights, side: str, tokens: np.ndarray, segments: np.ndarray | None = None
) -> np.ndarray:
    x = embedding_table(spec, weights, side)[tokens].astype(np.float64)  # (b, t, d)
    projects_sum = spec["embedding_projection"] == "sum"
    if spec["embedding_dim"] != spec["hidden_dim"] and not projects_sum:
        x = x @ weights[f"{side}.embedding_projection.kernel"]
    length, d = x.shape[1:]
    if spec["scale_embeddings"]:
        x = x * math.sqrt(spec["hidden_dim"])
    x = x * (spec["embedding_scale"] or 1.0)
    if spec["num_segments"]:
        x = x + weights[f"{side}.segment_embedding.embeddings"][segments]
    if spec["positions"] == "learned":
        x = x + weights[f"{side}.position_embedding.embeddings"][:length]
    elif spec["positions"] == "sinusoidal":
        x = x + sinusoidal_positions(length, d)
    elif spec["positions"] == "sinusoidal_concat":
        x = x + sinusoidal_concat_positions(length, d)
    elif spec["positions"] not in ("none", "coordinates", "rotary", "alibi", "relative"):
        raise ValueError(f"the reference has no positions {spec['positions']!r}")
    x = normalize(spec, weights, f"{side}.embedding_norm", x) if spec["embedding_norm"] else x
    if not projects_sum:
        return x
    kernel, bias = (weights[f"{side}.embedding_projection.{part}"] for part in ("kernel", "bias"))
    return x @ kernel + bias


def padding_mask(spec: dict, tokens: np.ndarray) -> np.ndarray:
    """Return True for keys that are not padding, (b, 1, s)."""
    if spec["pad_token_id"] is None:
        return np.ones(tokens.shape, bool)[:, None, :]
    return (tokens != spec["pad_token_id"])[:, None, :]


def encode(
    spec: dict, weights: Weights, source: np.ndarray, segments: np.ndarray | None = None
) -> np.ndarray:
    x = embed(spec, weights, "encoder", source, segments)
    keys, streams, values = padding_mask(spec, source), [open_streams(spec, x)], []
    for index in range(spec["num_encoder_layers"]):
        x, own = stream_into(spec, weights, "encoder", streams), of_block(spec, index)
        x = add_coordinates(own, index, x)
        streams.append(encoder_block(own, weights, index, x, keys, values))
    x = close_streams(spec, streams[-1])
    return normalize(spec, weights, "encoder.final_norm", x) if spec["final_norm"] else x


def encoder_block(
    spec: dict, weights: Weights, index: int, x: np.ndarray, keys: np.ndarray, values: list
) -> np.ndarray:
    """Apply a block of an encoder to x (b, s, d).

    Keys (b, 1, s) are those that are not padding; values are those of the blocks before.
    """
    mask = visible_keys(spec, keys, causal=False)
    bias = score_bias(spec, weights, "encoder", x.shape[1], causal=False)
    feed = mixture if spec["num_experts"] else feedforward
    sublayers = {
        "self_attention": lambda at, y: attention(spec, weights, at, y, y, mask, bias, values),
        "feedforward": lambda at, y: feed(spec, weights, at, y),
    }
    return block(spec, weights, "encoder", index, x, sublayers)


def decode(
    spec: dict,
    weights: Weights,
    target: np.ndarray,
    memory: np.ndarray | None = None,
    memory_keys: np.ndarray | None = None,
) -> np.ndarray:
    """Return the logits (b, t, v) of target (b, t); memory (b, s, d) adds cross-attention."""
    x = embed(spec, weights, "decoder", target)
    keys = padding_mask(spec if spec["mask_target_padding"] else {"pad_token_id": None}, target)
    streams, values = [open_streams(spec, x)], []
    for index in range(spec["num_layers"]):
        x, own = stream_into(spec, weights, "decoder", streams), of_block(spec, index)
        x = add_coordinates(own, index, x)
        streams.append(decoder_block(own, weights, index, x, keys, values, memory, memory_keys))
    x = close_streams(spec, streams[-1])
    if spec["final_norm"]:
        x = normalize(spec, weights, "decoder.final_norm", x)
    return output(spec, weights, "decoder", x)


def decoder_block(
    spec: dict,
    weights: Weights,
    index: int,
    x: np.ndarray,
    keys: np.ndarray,
    values: list,
    memory: np.ndarray | None,
    memory_keys: np.ndarray | None,
) -> np.ndarray:
    """Apply a block of a decoder to x (b, t, d)."""
    length = x.shape[1]
    mask = visible_keys(spec, keys, causal=True)
    bias = None
    if spec["mixer"] == "attention":
        bias = score_bias(spec, weights, "decoder", length, causal=True)
    sublayers = {
        "self_attention": lambda at, y: attention(spec, weights, at, y, y, mask, bias, values)
    }
    if spec["mixer"] == "gated_delta":
        sublayers["self_attention"] = lambda at, y: gated_delta(spec, weights, at, y, keys[:, 0])
    if memory is not None:
        cross_mask = memory_keys & np.ones((1, length, 1), bool)
        sublayers["cross_attention"] = lambda at, y: attention(
            spec, weights, at, y, memory, cross_mask
        )
    feed = mixture if spec["num_experts"] else feedforward
    sublayers["feedforward"] = lambda at, y: feed(spec, weights, at, y)
    return block(spec, weights, "decoder", index, x, sublayers)


def output(spec: dict, weights: Weights, side: str, x: np.ndarray) -> np.ndarray:
    """Return the logits (b, t, v) of hidden states (b, t, d)."""
    if spec["scale_logits"]:
        x = x / math.sqrt(spec["hidden_dim"])
    x = x * (spec["logit_scale"] or 1.0)
    if spec["tie_embeddings"] and spec["embedding_dim"] != x.shape[-1]:
        x = x @ weights["logit_projection.kernel"]
    if spec["tie_embeddings"]:
        logits = x @ embedding_table(spec, weights, side).T
    else:
        logits = x @ weights["logits.kernel"]
    logits = logits + weights["logits.bias"] if spec["logit_bias"] else logits
    if spec["logit_gain"]:  # s_z
        logits = logits * weights["logit_gain.scale"] * math.sqrt(spec["hidden_dim"])
    return soft_cap(logits, spec["logit_soft_cap"])


def encoder_outputs(
    spec: dict, weights: Weights, tokens: np.ndarray, segments: np.ndarray | None
) -> dict[str, np.ndarray]:
    """Return hidden states (b, s, d) and the outputs of the heads (Devlin et al. 2019)."""
    hidden = encode(spec, weights, tokens, segments)
    outputs = {"hidden": hidden}
    if spec["pooler"]:
        kernel, bias = weights["pooler.dense.kernel"], weights["pooler.dense.bias"]
        outputs["pooled"] = np.tanh(hidden[:, 0] @ kernel + bias)
    if spec["masked_lm_head"]:
        head = hidden @ weights["masked_lm_head.dense.kernel"]
        head = activation(spec["activation"], head + weights["masked_lm_head.dense.bias"])
        head = normalize(spec, weights, "masked_lm_head.norm", head)
        outputs["logits"] = output(spec, weights, "encoder", head)
    if spec["classes"]:
        outputs["class_logits"] = class_logits(spec, weights, tokens, hidden, outputs)
    return outputs


def class_logits(
    spec: dict, weights: Weights, tokens: np.ndarray, hidden: np.ndarray, outputs: dict
) -> np.ndarray:
    """Return the logits of the classes (b, c), from the first token or the mean of all."""
    if spec["class_pooling"] == "first":
        vector = outputs.get("pooled", hidden[:, 0])
    else:
        real = tokens != spec["pad_token_id"]  # all of them without a padding token
        sums = np.einsum("bsd,bs->bd", hidden, real.astype(float))
        vector = sums / np.maximum(real.sum(axis=1), 1)[:, None]
    return vector @ weights["classifier.logits.kernel"] + weights["classifier.logits.bias"]


def reference_logits(
    spec: Spec, weights: Weights, tokens: np.ndarray | Mapping[str, np.ndarray]
) -> np.ndarray | dict[str, np.ndarray]:
    """Return the logits of a `TransformerSpec` in float64, without dropout.

    Args:
        spec: the fields of the spec.
        weights: arrays keyed "<layer name>.<variable name>".
        tokens: (b, t) for a decoder, {"source": (b, s), "target": (b, t)} for an encoder-decoder,
            (b, s) or {"tokens": (b, s), "segments": (b, s)} for an encoder.

    Returns:
        Logits (b, t, v); for an encoder, a dict of all outputs.
    """
    full = fill_derived_fields(spec)
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    if full["kind"] == "decoder_only":
        return decode(full, weights, np.asarray(tokens))
    if full["kind"] == "encoder_decoder":
        source, target = np.asarray(tokens["source"]), np.asarray(tokens["target"])
        memory = encode(full, weights, source)
        return decode(full, weights, target, memory, padding_mask(full, source))
    if full["kind"] == "encoder_only":
        given = tokens if isinstance(tokens, Mapping) else {"tokens": tokens, "segments": None}
        return encoder_outputs(full, weights, given["tokens"], given["segments"])
    raise ValueError(f"the reference has no kind {full['kind']!r}")
