"""A Transformer in NumPy float64, the yardstick that every builder is measured against.

Written from the papers, with loops over layers and literal einsums, and slow on purpose. It imports
nothing of this project and no Keras, so that an error made here is not made there as well.

* Vaswani et al. 2017, "Attention Is All You Need": post-norm, sinusoidal positions, scaled and
  shared embeddings.
* Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture": pre-norm, with a
  norm after the last block.
* Ainslie et al. 2023, "GQA" (grouped heads); Beltagy et al. 2020, "Longformer" (windows).
* Hendrycks and Gimpel 2016, "Gaussian Error Linear Units"; So et al. 2021, "Primer" (squared ReLU).

Letters: `b` batch, `t` target (query) length, `s` source (key) length, `d` hidden_dim, `n` heads,
`k` key/value heads, `h` head_dim, `f` intermediate_dim, `v` vocabulary_size.

A spec is a plain mapping, the JSON object of a `TransformerSpec`; fields that follow from others
may be None. Weights are keyed "<layer name>.<variable name>", for example
`decoder.block_0.self_attention.query.kernel`.
"""

import math
from collections.abc import Mapping

import numpy as np

Spec = Mapping[str, object]
Weights = Mapping[str, np.ndarray]


# The spec ---------------------------------------------------------------------------------------


def with_derived(spec: Spec) -> dict:
    """Give every field that is None because it follows from the others its value."""
    derived = {
        "num_encoder_layers": spec["num_layers"],
        "source_vocabulary_size": spec["vocabulary_size"],
        "intermediate_dim": 4 * spec["hidden_dim"],
        "num_key_value_heads": spec["num_heads"],
        "head_dim": spec["hidden_dim"] // spec["num_heads"],
        "final_norm": spec["norm_placement"] == "pre",
    }
    given = {field: value for field, value in spec.items() if value is not None}
    return {"pad_token_id": None, **derived, **given}


# Leaves -----------------------------------------------------------------------------------------


def activation(name: str, x: np.ndarray) -> np.ndarray:
    if name == "relu":
        return np.maximum(x, 0.0)
    if name == "relu_squared":
        return np.maximum(x, 0.0) ** 2
    if name == "silu":
        return x / (1.0 + np.exp(-x))
    if name == "gelu":  # x * Phi(x), with the exact normal distribution
        return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))
    if name == "gelu_tanh":
        return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))
    raise ValueError(f"the reference has no activation {name!r}")


def layer_norm(weights: Weights, name: str, x: np.ndarray, epsilon: float) -> np.ndarray:
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    normed = (x - mean) / np.sqrt(variance + epsilon)
    return normed * weights[f"{name}.gamma"] + weights[f"{name}.beta"]


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
    """All sines, then all cosines, as the TensorFlow text tutorial has them; shape (length, d)."""
    half = d // 2
    table = np.zeros((length, d))
    for position in range(length):
        for channel in range(half):
            angle = position * (1.0 / 10000.0 ** (channel / half))
            table[position, channel] = math.sin(angle)
            table[position, half + channel] = math.cos(angle)
    return table


# Sublayers --------------------------------------------------------------------------------------


def attention(
    spec: dict, weights: Weights, name: str, x: np.ndarray, memory: np.ndarray, mask: np.ndarray
) -> np.ndarray:
    """Multi-head attention of x (b, t, d) to memory (b, s, d); mask (b, t, s), True = may look."""

    def project(role: str, inputs: np.ndarray) -> np.ndarray:
        heads = np.einsum("bsd,dnh->bsnh", inputs, weights[f"{name}.{role}.kernel"])
        return heads + weights[f"{name}.{role}.bias"] if spec["attention_bias"] else heads

    query, key, value = project("query", x), project("key", memory), project("value", memory)
    # Query head i has key head i // groups.
    groups = spec["num_heads"] // spec["num_key_value_heads"]
    key, value = np.repeat(key, groups, axis=2), np.repeat(value, groups, axis=2)
    scores = np.einsum("btnh,bsnh->bnts", query, key) / math.sqrt(spec["head_dim"])
    scores = np.where(mask[:, None, :, :], scores, -1e30)
    mixed = np.einsum("bnts,bsnh->btnh", softmax(scores), value)
    output = np.einsum("btnh,nhd->btd", mixed, weights[f"{name}.output.kernel"])
    return output + weights[f"{name}.output.bias"] if spec["attention_bias"] else output


def feedforward(spec: dict, weights: Weights, name: str, x: np.ndarray) -> np.ndarray:
    inner = x @ weights[f"{name}.up.kernel"] + weights[f"{name}.up.bias"]
    inner = activation(spec["activation"], inner)
    return inner @ weights[f"{name}.down.kernel"] + weights[f"{name}.down.bias"]


def apply_sublayer(spec: dict, weights: Weights, name: str, x: np.ndarray, function) -> np.ndarray:
    """Post: norm(x + f(x)). Pre: x + f(norm(x)). Without the residual the `x +` falls away."""
    norm = f"{name}.norm"
    epsilon = spec["norm_epsilon"]
    if spec["norm_placement"] == "pre":
        output = function(layer_norm(weights, norm, x, epsilon))
        return x + output if spec["residual"] else output
    if spec["norm_placement"] == "post":
        output = function(x)
        return layer_norm(weights, norm, x + output if spec["residual"] else output, epsilon)
    raise ValueError(f"the reference has no norm placement {spec['norm_placement']!r}")


# Stacks -----------------------------------------------------------------------------------------


def embedding_table(spec: dict, weights: Weights, side: str) -> np.ndarray:
    name = "token_embedding" if spec["share_embeddings"] else f"{side}.token_embedding"
    return weights[f"{name}.embeddings"]


def embed(spec: dict, weights: Weights, side: str, tokens: np.ndarray) -> np.ndarray:
    x = embedding_table(spec, weights, side)[tokens].astype(np.float64)  # (b, t, d)
    length, d = x.shape[1:]
    if spec["scale_embeddings"]:
        x = x * math.sqrt(d)
    if spec["positions"] == "learned":
        x = x + weights[f"{side}.position_embedding.embeddings"][:length]
    elif spec["positions"] == "sinusoidal":
        x = x + sinusoidal_positions(length, d)
    elif spec["positions"] == "sinusoidal_concat":
        x = x + sinusoidal_concat_positions(length, d)
    elif spec["positions"] != "none":
        raise ValueError(f"the reference has no positions {spec['positions']!r}")
    return x


def real_keys(spec: dict, tokens: np.ndarray) -> np.ndarray:
    """Keys that may be looked at, (b, 1, s): all that are not padding."""
    if spec["pad_token_id"] is None:
        return np.ones(tokens.shape, bool)[:, None, :]
    return (tokens != spec["pad_token_id"])[:, None, :]


def encode(spec: dict, weights: Weights, source: np.ndarray) -> np.ndarray:
    x = embed(spec, weights, "encoder", source)
    length = source.shape[1]
    mask = real_keys(spec, source) & np.ones((1, length, 1), bool)
    for index in range(spec["num_encoder_layers"]):
        name = f"encoder.block_{index}"
        at = f"{name}.self_attention"
        x = apply_sublayer(
            spec, weights, at, x, lambda y, at=at: attention(spec, weights, at, y, y, mask)
        )
        ff = f"{name}.feedforward"
        x = apply_sublayer(spec, weights, ff, x, lambda y, ff=ff: feedforward(spec, weights, ff, y))
    if spec["final_norm"]:
        x = layer_norm(weights, "encoder.final_norm", x, spec["norm_epsilon"])
    return x


def decode(
    spec: dict,
    weights: Weights,
    target: np.ndarray,
    memory: np.ndarray | None = None,
    memory_keys: np.ndarray | None = None,
) -> np.ndarray:
    """Logits (b, t, v) of target (b, t), with cross-attention to memory (b, s, d) if given."""
    x = embed(spec, weights, "decoder", target)
    length = target.shape[1]
    causal = np.tril(np.ones((length, length), bool))
    if spec.get("attention_window") is not None:  # the query and the tokens just before it
        causal &= ~np.tril(np.ones((length, length), bool), -spec["attention_window"])
    self_mask = real_keys(spec, target) & causal[None]
    for index in range(spec["num_layers"]):
        name = f"decoder.block_{index}"
        at = f"{name}.self_attention"
        x = apply_sublayer(
            spec, weights, at, x, lambda y, at=at: attention(spec, weights, at, y, y, self_mask)
        )
        if memory is not None:
            cross = f"{name}.cross_attention"
            cross_mask = memory_keys & np.ones((1, length, 1), bool)
            x = apply_sublayer(
                spec,
                weights,
                cross,
                x,
                lambda y, at=cross, m=cross_mask: attention(spec, weights, at, y, memory, m),
            )
        ff = f"{name}.feedforward"
        x = apply_sublayer(spec, weights, ff, x, lambda y, ff=ff: feedforward(spec, weights, ff, y))
    if spec["final_norm"]:
        x = layer_norm(weights, "decoder.final_norm", x, spec["norm_epsilon"])
    if spec["tie_embeddings"]:
        logits = x @ embedding_table(spec, weights, "decoder").T
    else:
        logits = x @ weights["logits.kernel"]
    return logits + weights["logits.bias"] if spec["logit_bias"] else logits


def reference_logits(
    spec: Spec, weights: Weights, tokens: np.ndarray | Mapping[str, np.ndarray]
) -> np.ndarray:
    """Logits in float64, without dropout, as a `TransformerSpec` of these values promises them.

    Args:
        spec: the fields of the spec.
        weights: arrays keyed "<layer name>.<variable name>".
        tokens: (b, t) for a decoder, {"source": (b, s), "target": (b, t)} for an encoder-decoder.

    Returns:
        Logits, (b, t, v).
    """
    full = with_derived(spec)
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    if full["kind"] == "decoder_only":
        return decode(full, weights, np.asarray(tokens))
    if full["kind"] == "encoder_decoder":
        source, target = np.asarray(tokens["source"]), np.asarray(tokens["target"])
        memory = encode(full, weights, source)
        return decode(full, weights, target, memory, real_keys(full, source))
    raise ValueError(f"the reference has no kind {full['kind']!r}")


# Weights ----------------------------------------------------------------------------------------


def weight_shapes(spec: Spec) -> dict[str, tuple[int, ...]]:
    """Name and shape of every weight that the spec promises; all of them trainable."""
    full = with_derived(spec)
    d, n, h = full["hidden_dim"], full["num_heads"], full["head_dim"]
    k = full["num_key_value_heads"]
    f, v = full["intermediate_dim"], full["vocabulary_size"]
    shapes: dict[str, tuple[int, ...]] = {}

    def norm(name: str) -> None:
        shapes[f"{name}.gamma"] = shapes[f"{name}.beta"] = (d,)

    def attend(name: str) -> None:
        for role, heads in (("query", n), ("key", k), ("value", k)):
            shapes[f"{name}.{role}.kernel"] = (d, heads, h)
            if full["attention_bias"]:
                shapes[f"{name}.{role}.bias"] = (heads, h)
        shapes[f"{name}.output.kernel"] = (n, h, d)
        if full["attention_bias"]:
            shapes[f"{name}.output.bias"] = (d,)
        norm(f"{name}.norm")

    stacks = [("decoder", full["num_layers"], v)]
    if full["kind"] == "encoder_decoder":
        stacks.append(("encoder", full["num_encoder_layers"], full["source_vocabulary_size"]))
    for side, layers, vocabulary in stacks:
        table = "token_embedding" if full["share_embeddings"] else f"{side}.token_embedding"
        shapes[f"{table}.embeddings"] = (vocabulary, d)
        if full["positions"] == "learned":
            shapes[f"{side}.position_embedding.embeddings"] = (full["max_sequence_length"], d)
        for index in range(layers):
            attend(f"{side}.block_{index}.self_attention")
            if side == "decoder" and len(stacks) == 2:
                attend(f"{side}.block_{index}.cross_attention")
            ff = f"{side}.block_{index}.feedforward"
            shapes |= {f"{ff}.up.kernel": (d, f), f"{ff}.up.bias": (f,)}
            shapes |= {f"{ff}.down.kernel": (f, d), f"{ff}.down.bias": (d,)}
            norm(f"{ff}.norm")
        if full["final_norm"]:
            norm(f"{side}.final_norm")
    if not full["tie_embeddings"]:
        shapes["logits.kernel"] = (d, v)
    if full["logit_bias"]:
        shapes["logits.bias"] = (v,)
    return shapes


def parameter_count(spec: Spec) -> int:
    """Number of trainable numbers, by closed formula and not by adding up `weight_shapes`."""
    full = with_derived(spec)
    d, inner = full["hidden_dim"], full["num_heads"] * full["head_dim"]
    f, v, layers = full["intermediate_dim"], full["vocabulary_size"], full["num_layers"]
    norm = 2 * d
    outer = full["num_key_value_heads"] * full["head_dim"]
    biases = inner + 2 * outer + d if full["attention_bias"] else 0
    attend = 2 * d * inner + 2 * d * outer + biases + norm
    feed = 2 * d * f + f + d + norm
    positions = full["max_sequence_length"] * d if full["positions"] == "learned" else 0
    logits = (0 if full["tie_embeddings"] else d * v) + (v if full["logit_bias"] else 0)
    final = norm if full["final_norm"] else 0

    if full["kind"] == "decoder_only":
        return v * d + positions + layers * (attend + feed) + final + logits
    tables = v if full["share_embeddings"] else v + full["source_vocabulary_size"]
    encoder = full["num_encoder_layers"] * (attend + feed)
    decoder = layers * (2 * attend + feed)
    return tables * d + 2 * (positions + final) + encoder + decoder + logits
