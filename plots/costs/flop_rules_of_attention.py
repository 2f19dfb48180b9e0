"""Floating-point operations of attention, and of layers that are whole Transformer blocks.

See `plots.costs.flop_rules` for what is counted. The letters are those of the glossary: b batch,
t and s lengths of queries and keys, d width, n and k heads of queries and of keys, h width of a
head.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from plots.annotations import Quantity, total_of
from plots.costs.flop_rules import (
    AxesOfTensor,
    MeasuredCall,
    count,
    declared_flops,
    flop_rule,
    times,
)
from plots.declaration import DOT_PRODUCT_ATTENTION

# Steps ------------------------------------------------------------------------------------------


@flop_rule("DotProductAttention")
def _scores_and_mixing(call: MeasuredCall) -> Quantity:
    """softmax(q k^T) v: (b, t, n, h), (b, s, k, h) twice -> (b, t, n, h)."""
    return declared_flops(call, DOT_PRODUCT_ATTENTION)


@flop_rule("AdditiveAttention", "Attention")
def _single_head(call: MeasuredCall) -> Quantity:
    """Query (b, t, d), value and key (b, s, d); additive scores are no product of matrices."""
    query, value = call.inputs["inputs.0"], call.inputs["inputs.1"]
    mixing = times(2, count(call.output), value[1].quantity)
    if call.node.config.get("score_mode") != "dot":
        return mixing
    return total_of([times(2, count(query), value[1].quantity), mixing])


# Layers with projections ------------------------------------------------------------------------


@flop_rule("MultiHeadAttention")
def _multi_head(call: MeasuredCall) -> Quantity:
    """Queries, keys and values (b, ..., d), over all axes between the first and the last."""
    config, query, (key, value) = call.node.config, call.inputs["query"], _keys_and_values(call)
    n, h, v = config["num_heads"], config["key_dim"], config["value_dim"] or config["key_dim"]
    axes = config["attention_axes"] or range(1, len(query) - 1)
    keys = count(key[place] for place in axes)
    projected = [(query, n * h), (key, n * h), (value, n * v)]
    if "cache" in call.inputs:  # (b, 2, s, n, h), of keys that are known already
        keys = call.inputs["cache"][2].quantity
        given = {c.port for c in call.node.constants if c.value is not None} | {*call.inputs}
        projected = projected if "cache_update_index" in given else projected[:1]
    projected += [(query, n * v)] if config.get("use_gate") else []  # of what is mixed
    attended = times(2 * n * (h + v), count(query[:-1]), keys)
    return total_of([_projections([*projected, (call.output, n * v)]), attended])


@flop_rule("GroupedQueryAttention")
def _grouped_query(call: MeasuredCall) -> Quantity:
    """Queries (b, t, d), keys and values (b, s, d)."""
    config, query, (key, value) = call.node.config, call.inputs["query"], _keys_and_values(call)
    heads, h = config["num_query_heads"] * config["head_dim"], config["head_dim"]
    projected = [(axes, config["num_key_value_heads"] * h) for axes in (key, value)]
    projected += [(query, heads), (call.output, heads)]
    projected += [(query, heads)] if config.get("use_gate") else []
    attended = times(4 * heads, count(query[:-1]), key[1].quantity)
    return total_of([_projections(projected), attended])


def _keys_and_values(call: MeasuredCall) -> tuple[AxesOfTensor, AxesOfTensor]:
    value = call.inputs["value"]
    return call.inputs.get("key", value), value


def _projections(projected: Iterable[tuple[AxesOfTensor, int]]) -> Quantity:
    """Products between tensors and all heads together, whose width is given."""
    return total_of([times(2 * width, count(axes)) for axes, width in projected])


# Whole blocks -----------------------------------------------------------------------------------


@flop_rule("BloomDecoder", "GPTNeoXDecoder", "TransformerDecoder", "TransformerEncoder")
def _plain_block(call: MeasuredCall) -> Quantity | None:
    n = call.node.config["num_heads"]
    return _block(call, n, n, _width(call) // n, call.node.config["intermediate_dim"])


@flop_rule("FNetEncoder")
def _fourier_block(call: MeasuredCall) -> Quantity | None:
    return _block(call, 0, 0, 0, call.node.config["intermediate_dim"])


@flop_rule("ViTEncoder")
def _vision_blocks(call: MeasuredCall) -> Quantity | None:
    config = call.node.config
    n = config["num_heads"]
    h = config["hidden_dim"] // n
    return _block(call, n, n, h, config["mlp_dim"], blocks=config["num_layers"])


@flop_rule("ViTPatchingAndEmbedding")
def _patches(call: MeasuredCall) -> Quantity:
    """A convolution without overlap, which makes a vector of each patch."""
    config = call.node.config
    numbers = prod(config["patch_size"]) * config["num_channels"] * config["num_patches"]
    return times(2 * numbers * config["hidden_dim"], call.first[0].quantity)


@flop_rule("T5TransformerLayer")
def _t5_block(call: MeasuredCall) -> Quantity | None:
    config = call.node.config
    n, kernels = config["num_heads"], 3 if config["use_gated_activation"] else 2
    return _block(call, n, n, config["key_value_dim"], config["intermediate_dim"], kernels)


@flop_rule("LlamaTransformerDecoder", "MistralTransformerDecoder")
def _gated_block(call: MeasuredCall) -> Quantity | None:
    config = call.node.config
    n, k = config["num_query_heads"], config["num_key_value_heads"]
    h = config.get("head_dim") or _width(call) // n
    return _block(call, n, k, h, config["intermediate_dim"], kernels=3)


@flop_rule("Gemma3DecoderBlock", "GemmaDecoderBlock")
def _gemma_block(call: MeasuredCall) -> Quantity | None:
    """As in the paper's code, `intermediate_dim` is that of gate and up together."""
    config = call.node.config
    n, k = config["num_query_heads"], config["num_key_value_heads"]
    f = config["intermediate_dim"] // config.get("gate_dim_reduction", 2)
    return _block(call, n, k, config["head_dim"], f, kernels=3)


def _width(call: MeasuredCall) -> int:
    return int(call.first[-1].quantity[""])


def _block(
    call: MeasuredCall, n: int, k: int, h: int, f: int, kernels: int = 2, blocks: int = 1
) -> Quantity | None:
    """Self-attention, cross-attention where there is an encoder, and a feed-forward.

    None if its weights are not those of these matrices and some vectors: then it is another block
    with the same name.

    Args:
        call: Of x (b, t, d).
        n: Heads of the queries.
        k: Heads of the keys and values.
        h: Width of a head.
        f: Width of the feed-forward.
        kernels: How many matrices (d, f) the feed-forward has: 3 if it is gated.
        blocks: How many such blocks there are in the layer.
    """
    x, d = call.first, _width(call)
    streams = (axes for port, axes in call.inputs.items() if port in _FROM_ENCODER)
    memory = next(streams, None)
    of_x = 2 * d * h * (n + k) + kernels * d * f
    lengths = [x[1].quantity]
    of_memory = 0
    if memory is not None:
        of_x += 2 * d * n * h
        of_memory = int(2 * n * h * memory[-1].quantity[""])
        lengths.append(memory[1].quantity)
    weights = call.node.parameters + call.node.shared_parameters
    vectors = weights - blocks * (of_x + of_memory)
    if not 0 <= vectors <= _VECTORS * blocks * max(d, f):
        return None
    products = times(2 * blocks * of_x, count(x[:-1]))
    of_keys = [times(4 * blocks * n * h, count(x[:-1]), length) for length in lengths]
    keys = times(2 * of_memory, count(memory[:-1])) if memory is not None else {}
    return total_of([products, keys, *of_keys])


_FROM_ENCODER = ("encoder_sequence", "encoder_hidden_states")
_VECTORS = 32  # biases and gains of a block, and the relative positions of T5, in widths
