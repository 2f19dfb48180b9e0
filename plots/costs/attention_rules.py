"""FLOPs of attention layers, and of whole Transformer blocks in one layer."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod

from plots.annotations import Quantity
from plots.axes.rules import TRANSFORMER_BLOCKS
from plots.costs.flop_rules import (
    MeasuredCall,
    Weights,
    count,
    declared_flops,
    flop_rule,
    total,
    weight_rule,
    width,
)
from plots.layers import DOT_PRODUCT_ATTENTION


@flop_rule("DotProductAttention")
def _dot_product_attention(call: MeasuredCall) -> Quantity:
    return declared_flops(call, DOT_PRODUCT_ATTENTION)


@flop_rule("AdditiveAttention", "Attention")
def _single_head(call: MeasuredCall) -> Quantity:
    """Query (b, t, d), value and key (b, s, d); additive scores are not a matrix product."""
    query, s = call.inputs["inputs.0"], call.inputs["inputs.1"][1].quantity
    scores = 2 * count(query) * s if call.node.config.get("score_mode") == "dot" else Quantity()
    return scores + 2 * count(call.output) * s


@weight_rule("AdditiveAttention")
def _weights_of_additive_attention(call: MeasuredCall) -> Weights:
    return Weights(others=width(call.inputs["inputs.0"]) * call.node.config["use_scale"])


@weight_rule("Attention")
def _weights_of_attention(call: MeasuredCall) -> Weights:
    config = call.node.config
    return Weights(others=config["use_scale"] + (config["score_mode"] == "concat"))


@flop_rule("GroupedQueryAttention", "MultiHeadAttention")
def _projected_attention(call: MeasuredCall) -> Quantity:
    """Queries, keys and values (b, ..., d), over all axes between the first and the last."""
    config, query, value = call.node.config, call.inputs["query"], call.inputs["value"]
    key = call.inputs.get("key", value)
    n, k, h, v = _heads(call)
    is_grouped = call.node.is_a({"GroupedQueryAttention"})
    axes = range(1, 2) if is_grouped else config["attention_axes"] or range(1, len(query) - 1)
    keys = count(key[place] for place in axes)
    projected = [(query, n * h), (key, k * h), (value, k * v)]
    if "cache" in call.inputs:  # (b, 2, s, n, h), of keys that are known already
        keys = call.inputs["cache"][2].quantity
        given = {c.port for c in call.node.constants if c.value is not None} | {*call.inputs}
        projected = projected if "cache_update_index" in given else projected[:1]
    projected += [(query, n * v)] if config.get("use_gate") else []
    projections = (2 * wide * count(axes) for axes, wide in [*projected, (call.output, n * v)])
    return total(projections) + 2 * n * (h + v) * count(query[:-1]) * keys


def _heads(call: MeasuredCall) -> tuple[int, int, int, int]:
    """Return the numbers of query and of key heads, and the widths of a key and of a value."""
    config = call.node.config
    if call.node.is_a({"GroupedQueryAttention"}):
        n, k = config["num_query_heads"], config["num_key_value_heads"]
        return n, k, config["head_dim"], config["head_dim"]
    n, h = config["num_heads"], config["key_dim"]
    return n, n, h, config["value_dim"] or h


@weight_rule("GroupedQueryAttention", "MultiHeadAttention")
def _weights_of_projected_attention(call: MeasuredCall, biases_of_keys: bool = True) -> Weights:
    config, query, value = call.node.config, call.inputs["query"], call.inputs["value"]
    n, k, h, v = _heads(call)
    key, out, bias = call.inputs.get("key", value), width(call.output), config["use_bias"]
    weights = n * h * (width(query) + bias) + k * h * (width(key) + bias * biases_of_keys)
    weights += k * v * (width(value) + bias) + out * (n * v + bias)
    weights += n * v * (width(query) + bias) if config.get("use_gate") else 0
    return Weights(others=weights)


@weight_rule("WhisperCachedMultiHeadAttention")
def _weights_without_biases_of_keys(call: MeasuredCall) -> Weights:
    return _weights_of_projected_attention(call, biases_of_keys=False)


@flop_rule(
    "BloomAttention",
    "CachedGemma3Attention",
    "CachedGemmaAttention",
    "CachedMistralAttention",
    "CachedMixtralAttention",
    "LlamaAttention",
    "Phi3Attention",
    "Qwen3Attention",
    "QwenAttention",
)
def _attention_of_keras_hub(call: MeasuredCall) -> Quantity | None:
    """Self-attention of x (b, t, d) with grouped heads, whose biases and norms may be there or not.

    None if it has other weights, or a cache.
    """
    config, x = call.node.config, call.first
    n = config.get("num_query_heads") or config["num_heads"]
    k, d = config.get("num_key_value_heads", n), width(x)
    h = config.get("head_dim") or d // n
    matrices = 2 * d * h * (n + k)
    biases = h * (n + 2 * k)
    vectors = {0, 2 * h, biases, biases + d, biases + 2 * h}
    if "cache" in call.inputs or call.weights - matrices not in vectors:
        return None
    return 2 * matrices * count(x[:-1]) + 4 * n * h * count(x[:-1]) * x[1].quantity


# Transformer blocks of KerasHub ------------------------------------------------------------------


@flop_rule("ViTPatchingAndEmbedding")
def _patches(call: MeasuredCall) -> Quantity:
    """A convolution without overlap that makes a vector of each patch."""
    config = call.node.config
    elements = prod(config["patch_size"]) * config["num_channels"] * config["num_patches"]
    return 2 * elements * config["hidden_dim"] * call.first[0].quantity


_GATED = {
    "Gemma3DecoderBlock",
    "GemmaDecoderBlock",
    "LlamaTransformerDecoder",
    "MistralTransformerDecoder",
}
_FROM_ENCODER = ("encoder_sequence", "encoder_hidden_states")


@flop_rule(*TRANSFORMER_BLOCKS)
def _block(call: MeasuredCall) -> Quantity | None:
    """Self-attention, cross-attention if there is an encoder, and a feed-forward, of x (b, t, d).

    None if there are fewer weights than those of these matrices: then it is another block with the
    same name. A lower bound if there are more than these and the biases and gains of a known block.
    """
    node, config, x = call.node, call.node.config, call.first
    d = width(x)
    is_fourier = node.is_a({"FNetEncoder"})  # which has no heads
    n = 0 if is_fourier else config.get("num_query_heads") or config["num_heads"]
    k = config.get("num_key_value_heads", n)
    h = config.get("head_dim") or config.get("key_value_dim") or d // max(n, 1)
    # As in the authors' code, `intermediate_dim` of Gemma is that of gate and up together.
    together = config.get("gate_dim_reduction", 2 if node.is_a({"GemmaDecoderBlock"}) else 1)
    f = config.get("mlp_dim") or config["intermediate_dim"] // together
    kernels = 3 if node.is_a(_GATED) or config.get("use_gated_activation") else 2
    blocks = config.get("num_layers", 1)
    memory = next((axes for port, axes in call.inputs.items() if port in _FROM_ENCODER), None)
    of_x = 2 * d * h * (n + k) + kernels * d * f
    lengths = [x[1].quantity]
    of_memory = 0
    if memory is not None:
        of_x += 2 * d * n * h
        of_memory = 2 * n * h * width(memory)
        lengths.append(memory[1].quantity)
    attended = total(4 * blocks * n * h * count(x[:-1]) * length for length in lengths)
    of_keys = 2 * of_memory * count(memory[:-1]) if memory is not None else Quantity()
    flops = 2 * blocks * of_x * count(x[:-1]) + of_keys + attended
    vectors = call.weights - blocks * (of_x + of_memory)
    known = {*_vectors(d, n * h, k * h, f, len(lengths), blocks)}
    known |= {*_vectors_without_biases(d, h, n, len(lengths))}
    if vectors < min(known) or node.call_class:
        return None
    if is_fourier:  # in the place of attention; as in an opened block
        flops = flops.without("FFT2")
    return flops if vectors in known else flops.without(f"parts of {node.class_name}")


def _vectors(d: int, q: int, k: int, f: int, attentions: int, blocks: int) -> Iterator[int]:
    """Yield numbers of biases and gains: of all, without those of keys, and without attention."""
    feedforward = f + d
    norms = 2 * d * (attentions + 1)
    for biases in (q + 2 * k + d, q + k + d):
        # The vision encoder has a norm behind its blocks.
        for last in (0, 2 * d):
            yield blocks * (attentions * biases + feedforward + norms) + last
    yield feedforward + norms


_BUCKETS = 32
"""Relative distances of T5, whose first block has their biases."""


def _vectors_without_biases(d: int, h: int, n: int, attentions: int) -> Iterator[int]:
    """Yield numbers of gains of RMS norms: one or two for each sublayer, and those of heads."""
    norms = d * (attentions + 1)
    for gains in (norms, 2 * norms):
        yield from (gains, gains + 2 * h, gains + _BUCKETS * n)
