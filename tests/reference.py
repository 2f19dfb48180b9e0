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
* Qiu et al. 2025, "Gated Attention for Large Language Models".
* OpenAI 2025, gpt-oss (sinks of attention, clamped GLU, YaRN without rounding).
* Dong et al. 2019, "UniLM", figure 1; Raffel et al. 2020, section 3.2.1 (prefixes).
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
from reference_feedforward import feedforward, mixture
from reference_mixers import attention, gated_delta, visible_keys
from reference_operations import activation, normalize, soft_cap
from reference_positions import (
    add_coordinates,
    score_bias,
    sinusoidal_concat_positions,
    sinusoidal_positions,
)
from reference_spec import Spec, Weights, fill_derived_fields, of_block
from reference_streams import (
    close_streams,
    factor,
    merge,
    open_streams,
    owner,
    read_stream,
    stream_into,
)

# Blocks -----------------------------------------------------------------------------------------


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
    bias = score_bias(spec, weights, "encoder", x.shape[1], causal=False, block=index)
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
    prefix: np.ndarray | None = None,
) -> np.ndarray:
    """Return the logits (b, t, v) of target (b, t); memory (b, s, d) adds cross-attention.

    The prefix has the number of tokens of each row that attend to each other, (b,).
    """
    x = embed(spec, weights, "decoder", target)
    keys = padding_mask(spec if spec["mask_target_padding"] else {"pad_token_id": None}, target)
    streams, values = [open_streams(spec, x)], []
    for index in range(spec["num_layers"]):
        x, own = stream_into(spec, weights, "decoder", streams), of_block(spec, index)
        x = add_coordinates(own, index, x)
        visible = visible_keys(own, keys, causal=True, prefix=prefix)
        given = keys, visible, values, memory, memory_keys
        streams.append(decoder_block(own, weights, index, x, *given))
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
    mask: np.ndarray,
    values: list,
    memory: np.ndarray | None,
    memory_keys: np.ndarray | None,
) -> np.ndarray:
    """Apply a block of a decoder to x (b, t, d), whose self-attention has a mask (b, t, t)."""
    length = x.shape[1]
    bias = None
    if spec["mixer"] == "attention":
        causal = not spec["prefix_lm"]
        bias = score_bias(spec, weights, "decoder", length, causal, block=index)
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
        rows = hidden[:, 0] @ kernel + bias
        form = spec["pooler_activation"]
        outputs["pooled"] = np.tanh(rows) if form == "tanh" else activation(form, rows)
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
        tokens: (b, t) for a decoder, {"tokens": (b, t), "prefix_length": (b,)} for one with
            prefixes, {"source": (b, s), "target": (b, t)} for an encoder-decoder, (b, s) or
            {"tokens": (b, s), "segments": (b, s)} for an encoder.

    Returns:
        Logits (b, t, v); for an encoder, a dict of all outputs.
    """
    full = fill_derived_fields(spec)
    weights = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    if full["kind"] == "decoder_only" and full["prefix_lm"]:
        return decode(full, weights, tokens["tokens"], prefix=tokens["prefix_length"])
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
