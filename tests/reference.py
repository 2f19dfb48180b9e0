"""A reference Transformer in NumPy float64 that all builders are tested against.

Written from the papers, with loops over layers and literal einsums; clarity comes before speed. It
imports neither Keras nor this project, so that the two implementations share no errors.

* Vaswani et al. 2017, "Attention Is All You Need": post-norm, sinusoidal positions, scaled and
  shared embeddings.
* Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture": pre-norm, with a
  norm after the last block.
* Ainslie et al. 2023, "GQA" (grouped heads); Beltagy et al. 2020, "Longformer" (windows).
* Su et al. 2021, "RoFormer" (rotary), Chen et al. 2023, Peng et al. 2023, "YaRN", and the Llama 3.1
  release (its scalings); Press et al. 2022, "Train Short, Test Long" (ALiBi); Raffel et al. 2020
  (T5's buckets).
* Zhang and Sennrich 2019, "Root Mean Square Layer Normalization"; Shazeer 2020, "GLU Variants".
* Ding et al. 2021, "CogView" (sandwich norm); Black et al. 2022, "GPT-NeoX-20B" (parallel
  sublayers); Gemma Team 2024, "Gemma 2" (soft caps); Henry et al. 2020 (norms of queries and keys).
* Shazeer et al. 2017, "Outrageously Large Neural Networks" (experts); Dai et al. 2024,
  "DeepSeekMoE" (shared ones); DeepSeek 2024, "V2" (groups) and "V3" (corrected choices).
* Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"; So et al. 2021, "Primer" (squared ReLU).

Letters: `b` batch, `t` target (query) length, `s` source (key) length, `d` hidden_dim, `n` heads,
`k` key/value heads, `h` head_dim, `f` intermediate_dim, `v` vocabulary_size.

A spec is a plain mapping, the JSON object of a `TransformerSpec`; derived fields may be None.
Weights are keyed "<layer name>.<variable name>", such as
`decoder.block_0.self_attention.query.kernel`.
"""

import math
from collections.abc import Mapping

import numpy as np

Spec = Mapping[str, object]
Weights = Mapping[str, np.ndarray]


# The spec ---------------------------------------------------------------------------------------


def fill_derived_fields(spec: Spec) -> dict:
    """Return the spec with the values of all derived fields filled in."""
    derived = {
        "num_encoder_layers": spec["num_layers"],
        "source_vocabulary_size": spec["vocabulary_size"],
        "embedding_dim": spec["hidden_dim"],
        "intermediate_dim": 4 * spec["hidden_dim"],
        "num_key_value_heads": spec["num_heads"],
        "head_dim": spec["hidden_dim"] // spec["num_heads"],
        "final_norm": spec["norm_placement"] not in ("post", "none"),
        "norm_bias": spec["norm"] == "layer",
        "attention_output_bias": spec["attention_bias"],
        "rotary_dim": spec["head_dim"] or spec["hidden_dim"] // spec["num_heads"],
        "rotary_original_length": spec["max_sequence_length"],
        "attention_scale": None,
        "attention_soft_cap": None,
        "logit_soft_cap": None,
        "attention_window": None,
        "full_attention_every": None,
        "pad_token_id": None,
        "expert_dim": spec["intermediate_dim"] or 4 * spec["hidden_dim"],
        "num_active_groups": spec["num_expert_groups"],
        "router_correction_rate": None,
    }
    return derived | {field: value for field, value in spec.items() if value is not None}


# Operations -------------------------------------------------------------------------------------


def activation(name: str, x: np.ndarray) -> np.ndarray:
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "relu_squared":
        return np.maximum(x, 0.0) ** 2
    if name == "silu":
        return x / (1.0 + np.exp(-x))
    if name == "gelu":  # x * Phi(x), Phi the standard normal CDF
        return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    raise ValueError(f"the reference has no activation {name!r}")


def normalize(spec: dict, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    """Apply the norm of the spec over the last axis."""
    if spec["norm"] == "rms":
        x = x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + spec["norm_epsilon"])
        return x * (weights[f"{name}.scale"] + (1.0 if spec["norm_offset"] else 0.0))
    if spec["norm"] != "layer":
        raise ValueError(f"the reference has no norm {spec['norm']!r}")
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    x = (x - mean) / np.sqrt(variance + spec["norm_epsilon"]) * weights[f"{name}.gamma"]
    return x + weights[f"{name}.beta"] if spec["norm_bias"] else x


def soft_cap(x: np.ndarray, cap: float | None) -> np.ndarray:
    return x if cap is None else cap * np.tanh(x / cap)


def softmax(scores: np.ndarray) -> np.ndarray:
    exponentials = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def sinusoidal_positions(length: int, d: int) -> np.ndarray:
    """PE(p, 2i) = sin(p / 10000^(2i/d)), PE(p, 2i+1) = cos of the same angle; shape (length, d)."""
    table = np.zeros((length, d))
    for position in range(length):
        for channel in range(d):
            angle = position / 10000.0 ** (2 * (channel // 2) / d)
            table[position, channel] = math.sin(angle) if channel % 2 == 0 else math.cos(angle)
    return table


def sinusoidal_concat_positions(length: int, d: int) -> np.ndarray:
    """All sines, then all cosines, as in the TensorFlow text tutorial; shape (length, d)."""
    half = d // 2
    table = np.zeros((length, d))
    for position in range(length):
        for channel in range(half):
            angle = position * (1.0 / 10000.0 ** (channel / half))
            table[position, channel] = math.sin(angle)
            table[position, half + channel] = math.cos(angle)
    return table


def rotary_frequencies(spec: dict) -> tuple[list[float], float]:
    """Return the radians per position of every pair of channels, and the factor of the rotation."""
    r, factor, scaling = spec["rotary_dim"], spec["rotary_factor"], spec["rotary_scaling"]
    original = spec["rotary_original_length"]
    slow, fast = spec["rotary_low_freq_factor"], spec["rotary_high_freq_factor"]
    found = []
    for pair in range(r // 2):
        frequency = spec["rotary_base"] ** (-2.0 * pair / r)
        wavelength = 2.0 * math.pi / frequency
        if scaling == "linear":
            frequency /= factor
        elif scaling == "llama3":
            if wavelength > original / slow:
                frequency /= factor
            elif wavelength > original / fast:
                smooth = (original / wavelength - slow) / (fast - slow)
                frequency = (1.0 - smooth) * frequency / factor + smooth * frequency
        elif scaling == "yarn":

            def dimension(rotations: float) -> float:
                return (
                    r
                    * math.log(original / (rotations * 2.0 * math.pi))
                    / (2.0 * math.log(spec["rotary_base"]))
                )

            low = max(math.floor(dimension(fast)), 0)
            high = min(math.ceil(dimension(slow)), r - 1)
            ramp = min(max((pair - low) / max(high - low, 0.001), 0.0), 1.0)
            frequency = frequency / factor * ramp + frequency * (1.0 - ramp)
        elif scaling != "none":
            raise ValueError(f"the reference has no rotary scaling {scaling!r}")
        found.append(frequency)
    return found, 0.1 * math.log(factor) + 1.0 if scaling == "yarn" else 1.0


def rotate(spec: dict, x: np.ndarray) -> np.ndarray:
    """Rotate channels i and i + r/2 of heads (b, t, n, h) as points in the plane."""
    frequencies, magnitude = rotary_frequencies(spec)
    half = spec["rotary_dim"] // 2
    output = x.copy()
    for position in range(x.shape[1]):
        for pair, frequency in enumerate(frequencies):
            angle = position * frequency
            rotation = magnitude * np.exp(1j * angle)
            points = (x[:, position, :, pair] + 1j * x[:, position, :, pair + half]) * rotation
            output[:, position, :, pair] = points.real
            output[:, position, :, pair + half] = points.imag
    return output


def alibi_slopes(heads: int) -> list[float]:
    if math.log2(heads).is_integer():
        return [2.0 ** (-8.0 * (head + 1) / heads) for head in range(heads)]
    power = 2 ** math.floor(math.log2(heads))
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: heads - power]


def t5_bucket(spec: dict, ahead: int, causal: bool) -> int:
    """Return the bucket of a key that is `ahead` tokens after the query."""
    number, first = spec["relative_buckets"], 0
    distance = max(-ahead, 0)
    if not causal:
        number //= 2
        distance, first = abs(ahead), number if ahead > 0 else 0
    exact = number // 2
    if distance < exact:
        return first + distance
    share = math.log(distance / exact) / math.log(spec["relative_max_distance"] / exact)
    return first + min(exact + int(share * (number - exact)), number - 1)


def score_bias(
    spec: dict, weights: Weights, side: str, length: int, causal: bool
) -> np.ndarray | float:
    """Return the position bias of the self-attention scores, (n, t, t)."""
    bias = np.zeros((spec["num_heads"], length, length))
    for query in range(length):
        for key in range(length):
            if spec["positions"] == "alibi":
                bias[:, query, key] = -abs(query - key) * np.array(alibi_slopes(len(bias)))
            elif spec["positions"] == "relative":
                row = t5_bucket(spec, key - query, causal)
                bias[:, query, key] = weights[f"{side}.relative_position_bias.embeddings"][row]
    return bias


# Sublayers --------------------------------------------------------------------------------------


def attention(
    spec: dict,
    weights: Weights,
    name: str,
    x: np.ndarray,
    memory: np.ndarray,
    mask: np.ndarray,
    bias: np.ndarray | None = None,
) -> np.ndarray:
    """Multi-head attention of x (b, t, d) to memory (b, s, d); mask (b, t, s), True = visible.

    Self-attention has a bias (n, t, s), and rotates queries and keys if positions are rotary.
    """

    def project(role: str, inputs: np.ndarray) -> np.ndarray:
        heads = np.einsum("bsd,dnh->bsnh", inputs, weights[f"{name}.{role}.kernel"])
        heads = heads + weights[f"{name}.{role}.bias"] if spec["attention_bias"] else heads
        if spec["qk_norm"] and role != "value":
            heads = normalize(spec, weights, f"{name}.{role}_norm", heads)
        if spec["positions"] == "rotary" and role != "value" and bias is not None:
            heads = rotate(spec, heads)
        return heads

    query, key, value = project("query", x), project("key", memory), project("value", memory)
    # Query head i uses key head i // groups.
    groups = spec["num_heads"] // spec["num_key_value_heads"]
    key, value = np.repeat(key, groups, axis=2), np.repeat(value, groups, axis=2)
    scale = spec["attention_scale"] or 1.0 / math.sqrt(spec["head_dim"])
    scores = np.einsum("btnh,bsnh->bnts", query, key) * scale
    scores = soft_cap(scores, spec["attention_soft_cap"])
    scores = scores if bias is None else scores + bias
    scores = np.where(mask[:, None, :, :], scores, -1e30)
    mixed = np.einsum("bnts,bsnh->btnh", softmax(scores), value)
    output = np.einsum("btnh,nhd->btd", mixed, weights[f"{name}.output.kernel"])
    return output + weights[f"{name}.output.bias"] if spec["attention_output_bias"] else output


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
        scores = 1.0 / (1.0 + np.exp(-logits))
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
            y = feedforward(spec, weights, f"{name}.experts", x[row], expert)
            output[row] += spec["router_scale"] * share * y
    if spec["shared_expert_dim"]:
        shared = feedforward(spec, weights, f"{name}.shared_expert", x)
        if spec["shared_expert_gate"]:
            gate = x @ weights[f"{name}.shared_expert.share.kernel"]
            shared = shared / (1.0 + np.exp(-gate))
        output = output + shared
    return output


def block(spec: dict, weights: Weights, name: str, x: np.ndarray, sublayers: dict) -> np.ndarray:
    """Apply the sublayers of a block, functions by name; without residual, `x +` is dropped."""
    stream = 1.0 if spec["residual"] else 0.0
    placement, block_input, changes = spec["norm_placement"], x, 0.0
    for part, function in sublayers.items():
        at = f"{name}.{part}"
        if placement == "post":  # norm(x + f(x))
            x = normalize(spec, weights, f"{at}.norm", stream * x + function(at, x))
        elif placement == "pre":  # x + f(norm(x))
            x = stream * x + function(at, normalize(spec, weights, f"{at}.norm", x))
        elif placement == "sandwich":  # x + norm(f(norm(x)))
            change = function(at, normalize(spec, weights, f"{at}.norm", x))
            x = stream * x + normalize(spec, weights, f"{at}.output_norm", change)
        elif placement == "parallel":  # x + f(norm(x)) + g(norm(x))
            changes = changes + function(at, normalize(spec, weights, f"{at}.norm", block_input))
            x = stream * block_input + changes
        elif placement == "none":  # x + f(x)
            x = stream * x + function(at, x)
        else:
            raise ValueError(f"the reference has no norm placement {placement!r}")
    return x


# Stacks -----------------------------------------------------------------------------------------


def embedding_table(spec: dict, weights: Weights, side: str) -> np.ndarray:
    name = "token_embedding" if spec["share_embeddings"] else f"{side}.token_embedding"
    return weights[f"{name}.embeddings"]


def embed(
    spec: dict, weights: Weights, side: str, tokens: np.ndarray, segments: np.ndarray | None = None
) -> np.ndarray:
    x = embedding_table(spec, weights, side)[tokens].astype(np.float64)  # (b, t, d)
    if spec["embedding_dim"] != spec["hidden_dim"]:
        x = x @ weights[f"{side}.embedding_projection.kernel"]
    length, d = x.shape[1:]
    if spec["scale_embeddings"]:
        x = x * math.sqrt(d)
    if spec["num_segments"]:
        x = x + weights[f"{side}.segment_embedding.embeddings"][segments]
    if spec["positions"] == "learned":
        x = x + weights[f"{side}.position_embedding.embeddings"][:length]
    elif spec["positions"] == "sinusoidal":
        x = x + sinusoidal_positions(length, d)
    elif spec["positions"] == "sinusoidal_concat":
        x = x + sinusoidal_concat_positions(length, d)
    elif spec["positions"] not in ("none", "rotary", "alibi", "relative"):
        raise ValueError(f"the reference has no positions {spec['positions']!r}")
    return normalize(spec, weights, f"{side}.embedding_norm", x) if spec["embedding_norm"] else x


def padding_mask(spec: dict, tokens: np.ndarray) -> np.ndarray:
    """Return True for keys that are not padding, (b, 1, s)."""
    if spec["pad_token_id"] is None:
        return np.ones(tokens.shape, bool)[:, None, :]
    return (tokens != spec["pad_token_id"])[:, None, :]


def encode(
    spec: dict, weights: Weights, source: np.ndarray, segments: np.ndarray | None = None
) -> np.ndarray:
    x = embed(spec, weights, "encoder", source, segments)
    length = source.shape[1]
    mask = padding_mask(spec, source) & np.ones((1, length, 1), bool)
    bias = score_bias(spec, weights, "encoder", length, causal=False)
    feed = mixture if spec["num_experts"] else feedforward
    sublayers = {
        "self_attention": lambda at, y: attention(spec, weights, at, y, y, mask, bias),
        "feedforward": lambda at, y: feed(spec, weights, at, y),
    }
    for index in range(spec["num_encoder_layers"]):
        x = block(spec, weights, f"encoder.block_{index}", x, sublayers)
    return normalize(spec, weights, "encoder.final_norm", x) if spec["final_norm"] else x


def decode(
    spec: dict,
    weights: Weights,
    target: np.ndarray,
    memory: np.ndarray | None = None,
    memory_keys: np.ndarray | None = None,
) -> np.ndarray:
    """Return the logits (b, t, v) of target (b, t); memory (b, s, d) adds cross-attention."""
    x = embed(spec, weights, "decoder", target)
    length = target.shape[1]
    visible = padding_mask({**spec, "pad_token_id": None}, target)
    if spec["mask_target_padding"]:
        visible = padding_mask(spec, target)
    causal = visible & np.tril(np.ones((length, length), bool))[None]
    windowed = causal.copy()
    if spec["attention_window"] is not None:  # the query and the tokens before it
        windowed &= ~np.tril(np.ones((length, length), bool), -spec["attention_window"])
    bias = score_bias(spec, weights, "decoder", length, causal=True)
    self_mask = windowed
    sublayers = {
        "self_attention": lambda at, y: attention(spec, weights, at, y, y, self_mask, bias)
    }
    if memory is not None:
        cross_mask = memory_keys & np.ones((1, length, 1), bool)
        sublayers["cross_attention"] = lambda at, y: attention(
            spec, weights, at, y, memory, cross_mask
        )
    feed = mixture if spec["num_experts"] else feedforward
    sublayers["feedforward"] = lambda at, y: feed(spec, weights, at, y)
    for index in range(spec["num_layers"]):
        every = spec["full_attention_every"]  # 2: full attention in blocks 1, 3, 5, ...
        self_mask = causal if every and (index + 1) % every == 0 else windowed
        x = block(spec, weights, f"decoder.block_{index}", x, sublayers)
    if spec["final_norm"]:
        x = normalize(spec, weights, "decoder.final_norm", x)
    return output(spec, weights, "decoder", x)


def output(spec: dict, weights: Weights, side: str, x: np.ndarray) -> np.ndarray:
    """Return the logits (b, t, v) of hidden states (b, t, d)."""
    if spec["scale_logits"]:
        x = x / math.sqrt(spec["hidden_dim"])
    if spec["tie_embeddings"] and spec["embedding_dim"] != spec["hidden_dim"]:
        x = x @ weights["logit_projection.kernel"]
    if spec["tie_embeddings"]:
        logits = x @ embedding_table(spec, weights, side).T
    else:
        logits = x @ weights["logits.kernel"]
    logits = logits + weights["logits.bias"] if spec["logit_bias"] else logits
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
    return outputs


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
