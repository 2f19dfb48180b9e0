"""FLOPs of one call: by what its layer declares, or by a rule of its class.

Counted are matrix products and convolutions, 2 FLOPs per multiply-add (Kaplan et al. 2020, section
2.1), and no elementwise operations (activations, norms, softmax, biases). Attention computes all
scores, the masked ones too, so all are counted.

A layer of yours declares its products (see `plots.declaration`). For classes that cannot,
`FLOP_RULES["TheirLayer"] = rule` adds a function that takes a `MeasuredCall` and returns FLOPs as
`Quantity`, or None if it cannot tell. Subclasses use the rule of their base class.

Letters in docstrings are those of `plots.axes.letters.GLOSSARY`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeVar

from plots.annotations import Quantity
from plots.axes.shapes import Axis
from plots.axes.unions import CallWithAxes
from plots.declaration import (
    DOT_PRODUCT_ATTENTION,
    Declaration,
    axis_labels,
    parse_equation,
    product_labels,
)
from plots.graph import Node
from plots.operation_kinds import (
    is_additive_merge,
    is_identity_like,
    is_norm,
    is_reversed_embedding,
    is_shape_only,
)

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class MeasuredCall(CallWithAxes[Axis]):
    """A call with the sizes and letters of its axes.

    Attributes:
        floats: Ports of floating-point tensors.
    """

    floats: frozenset[str] = frozenset()


Rule = Callable[[MeasuredCall], Quantity | None]
SomeRule = TypeVar("SomeRule", bound=Rule)

FLOP_RULES: dict[str, Rule] = {}
"""Class name -> rule."""

WITHOUT_PRODUCTS: set[str] = {
    "Embedding",
    "LayerScale",
    "Merge",
    "Normalization",
    "PReLU",
    "PositionEmbedding",
    "RotaryEmbedding",
    "Softmax",
    "TokenAndPositionEmbedding",
}
"""Layers without matrix products, although they have weights or several floating-point inputs.

Norms, merges, identities and shapes (`plots.operation_kinds`) have none either.
"""

PRODUCTS_WITHOUT_RULE: set[str] = {
    "Conv",
    "ConvTranspose",
    "Correlate",
    "DepthwiseConv",
    "Inner",
    "SeparableConv",
    "Tensordot",
    "Vdot",
}
"""Operations that are products and have no rule; all other operations are none."""


def flops_of(call: MeasuredCall) -> Quantity | None:
    """Return the FLOPs of one call; None if it may have products that no rule knows."""
    node = call.node
    rule = next((FLOP_RULES[n] for n in (node.class_name, *node.bases) if n in FLOP_RULES), None)
    try:
        if node.declaration is not None and node.declaration.products is not None:
            return declared_flops(call, node.declaration)
        if rule is not None:
            return rule(call)
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return None  # another class with a known name and other arguments
    if node.is_a(PRODUCTS_WITHOUT_RULE):
        return None
    has_weights = node.parameters + node.shared_parameters > 0
    may_multiply = has_weights or (node.kind == "layer" and len(call.floats) > 1)
    return None if may_multiply and not _has_no_products(node) else Quantity()


def is_known(node: Node) -> bool:
    """Whether a layer declares its products, or a rule knows those of its class."""
    if node.declaration is not None and node.declaration.products is not None:
        return True
    return node.is_a({*FLOP_RULES, *WITHOUT_PRODUCTS}) or is_norm(node)


def _has_no_products(node: Node) -> bool:
    kinds = (is_norm, is_additive_merge, is_identity_like, is_shape_only)
    return node.is_a(WITHOUT_PRODUCTS) or any(is_kind(node) for is_kind in kinds)


def flop_rule(*class_names: str) -> Callable[[SomeRule], SomeRule]:
    """Decorator that registers a function as the rule of these classes."""

    def register(rule: SomeRule) -> SomeRule:
        FLOP_RULES.update(dict.fromkeys(class_names, rule))
        return rule

    return register


def count(axes: Iterable[Axis]) -> Quantity:
    """Return the number of elements of a tensor with these axes."""
    return prod((axis.quantity for axis in axes), start=Quantity(1))


def _total(quantities: Iterable[Quantity]) -> Quantity:
    return sum(quantities, Quantity())


# Declared ---------------------------------------------------------------------------------------


def declared_flops(call: MeasuredCall, declaration: Declaration) -> Quantity:
    """Return the FLOPs of declared products.

    Raises:
        KeyError: if a letter occurs only in arguments that are not given.
    """
    tensors = [(text, call.inputs[p]) for p, text in declaration.inputs.items() if p in call.inputs]
    tensors += zip(declaration.outputs, call.outputs, strict=True) if declaration.outputs else ()
    sizes = {letter: Quantity(size) for letter, size in declaration.sizes.items()}
    for text, axes in tensors:
        for label, axis in zip(axis_labels(text, len(axes)), axes, strict=True):
            if sizes.get(label, {"": 1}) == {"": 1}:  # an axis of size 1 is broadcast
                sizes[label] = axis.quantity
    covered = sum(label.startswith("...") for label in sizes)
    return _total(_product(*p, sizes) for p in product_labels(declaration, covered))


def _product(
    left: Sequence[str], right: Sequence[str], result: Sequence[str], sizes: Mapping[str, Quantity]
) -> Quantity:
    """2 x the sizes of all letters but those of one operand only; 0 if none is summed over."""
    both = {*left} & {*right}
    if both <= {*result}:
        return Quantity()
    return prod((sizes[label] for label in sorted(both | {*result})), start=Quantity(2))


@flop_rule("DotProductAttention")
def _dot_product_attention(call: MeasuredCall) -> Quantity:
    return declared_flops(call, DOT_PRODUCT_ATTENTION)


# Products ---------------------------------------------------------------------------------------


@flop_rule("Dense")
def _dense(call: MeasuredCall) -> Quantity:
    """2 x elements of the output x width of the input."""
    return 2 * count(call.output) * call.first[-1].quantity


@flop_rule("EinsumDense")
def _einsum_dense(call: MeasuredCall) -> Quantity:
    return _einsum_product(call, call.node.config["equation"], [call.first, None])


@flop_rule("Einsum")
def _einsum(call: MeasuredCall) -> Quantity | None:
    equation = call.node.config["subscripts"]
    operands = [call.inputs.get(str(i)) for i in range(equation.split("->")[0].count(",") + 1)]
    if len(operands) > 2:
        return None  # the backend chooses the order of several products
    return _einsum_product(call, equation, operands) if len(operands) == 2 else Quantity()


def _einsum_product(call: MeasuredCall, equation: str, operands: list[Axes | None]) -> Quantity:
    ranks = [None if axes is None else len(axes) for axes in operands]
    (left, right), result = parse_equation(equation, ranks, len(call.output))
    sizes: dict[str, Quantity] = {}
    for labels, axes in zip([left, right, result], [*operands, call.output], strict=True):
        for label, axis in zip(labels, axes, strict=True) if axes is not None else ():
            sizes[label] = axis.quantity
    return _product(left, right, result, sizes)


@flop_rule("Dot", "Matmul")
def _matmul(call: MeasuredCall) -> Quantity:
    if "axes" in call.node.config:  # the layer, which names axes of both inputs
        axes = call.node.config["axes"]
        summed = call.inputs["inputs.0"][axes if isinstance(axes, int) else axes[0]].quantity
    elif "x1" in call.inputs:
        summed = call.inputs["x1"][-1].quantity
    else:
        constant = next(constant for constant in call.node.constants if constant.port == "x1")
        summed = Quantity((constant.shape or (1,))[-1] or 1)
    return 2 * count(call.output) * summed


@flop_rule("ReversibleEmbedding")
def _reversible_embedding(call: MeasuredCall) -> Quantity:
    return _dense(call) if is_reversed_embedding(call.node) else Quantity()


# Convolutions -----------------------------------------------------------------------------------


@flop_rule("BaseConv", "Conv1D", "Conv2D", "Conv3D")
def _convolution(call: MeasuredCall) -> Quantity:
    """2 x positions x kernel size x input channels of a group x output channels."""
    config = call.node.config
    positions, channels = (
        _split_channels(call, call.output)[0],
        _split_channels(call, call.first)[1],
    )
    factor = 2 * prod(config["kernel_size"]) * config["filters"] // config["groups"]
    return factor * positions * channels


@flop_rule("BaseConvTranspose", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _transposed_convolution(call: MeasuredCall) -> Quantity:
    """As the convolution whose gradient it is, with the positions of the input."""
    config = call.node.config
    return 2 * prod(config["kernel_size"]) * config["filters"] * count(call.first)


@flop_rule("BaseDepthwiseConv", "DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_convolution(call: MeasuredCall) -> Quantity:
    return 2 * prod(call.node.config["kernel_size"]) * count(call.output)


@flop_rule("BaseSeparableConv", "SeparableConv1D", "SeparableConv2D")
def _separable_convolution(call: MeasuredCall) -> Quantity:
    """A depthwise convolution, then one with a kernel of size 1."""
    config = call.node.config
    positions, channels = (
        _split_channels(call, call.output)[0],
        _split_channels(call, call.first)[1],
    )
    products = prod(config["kernel_size"]) + config["filters"]
    return 2 * config["depth_multiplier"] * products * positions * channels


def _split_channels(call: MeasuredCall, axes: Axes) -> tuple[Quantity, Quantity]:
    """(positions, channels) of a tensor; the batch counts with the positions."""
    last = call.node.config["data_format"] == "channels_last"
    place = len(axes) - 1 if last else len(axes) - 1 - len(call.node.config["kernel_size"])
    return count(axes[:place] + axes[place + 1 :]), axes[place].quantity


# Recurrence, and layers around others -----------------------------------------------------------

_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


@flop_rule("GRU", "LSTM", "RNN", "SimpleRNN")
def _recurrent(call: MeasuredCall) -> Quantity:
    """At every step and in each gate, the input and the last state times a matrix each."""
    class_name, config = call.node.class_name, call.node.config
    if "cell" in config:
        class_name, config = config["cell"]["class_name"], config["cell"]["config"]
    batch, length, width = call.first
    units, gates = config["units"], _GATES[class_name.removesuffix("Cell")]
    return 2 * gates * units * count((batch, length)) * (width.quantity + units)


@flop_rule("Bidirectional")
def _bidirectional(call: MeasuredCall) -> Quantity | None:
    forward, backward = (_inner(call, which) for which in ("layer", "backward_layer"))
    return None if forward is None or backward is None else forward + backward


@flop_rule("TimeDistributed")
def _time_distributed(call: MeasuredCall) -> Quantity | None:
    """FLOPs of the inner layer, for which the steps are a larger batch."""
    return _inner(call, "layer")


def _inner(call: MeasuredCall, which: str) -> Quantity | None:
    inner = call.node.config[which]
    node = replace(call.node, class_name=inner["class_name"], bases=(), config=inner["config"])
    return flops_of(replace(call, node=node))


# Attention --------------------------------------------------------------------------------------


@flop_rule("AdditiveAttention", "Attention")
def _single_head(call: MeasuredCall) -> Quantity:
    """Query (b, t, d), value and key (b, s, d); additive scores are no matrix product."""
    query, s = call.inputs["inputs.0"], call.inputs["inputs.1"][1].quantity
    scores = 2 * count(query) * s if call.node.config.get("score_mode") == "dot" else Quantity()
    return scores + 2 * count(call.output) * s


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
    projected += [(query, n * v)] if config.get("use_gate") else []
    attended = 2 * n * (h + v) * count(query[:-1]) * keys
    return _projections([*projected, (call.output, n * v)]) + attended


@flop_rule("GroupedQueryAttention")
def _grouped_query(call: MeasuredCall) -> Quantity:
    """Queries (b, t, d), keys and values (b, s, d)."""
    config, query, (key, value) = call.node.config, call.inputs["query"], _keys_and_values(call)
    heads, h = config["num_query_heads"] * config["head_dim"], config["head_dim"]
    projected = [(axes, config["num_key_value_heads"] * h) for axes in (key, value)]
    projected += [(query, heads), (call.output, heads)]
    projected += [(query, heads)] if config.get("use_gate") else []
    return _projections(projected) + 4 * heads * count(query[:-1]) * key[1].quantity


def _keys_and_values(call: MeasuredCall) -> tuple[Axes, Axes]:
    value = call.inputs["value"]
    return call.inputs.get("key", value), value


def _projections(projected: Iterable[tuple[Axes, int]]) -> Quantity:
    """Products of tensors with the kernels of all heads, given their width in all."""
    return _total(2 * width * count(axes) for axes, width in projected)


# Transformer blocks of KerasHub ------------------------------------------------------------------


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
    """A convolution without overlap that makes a vector of each patch."""
    config = call.node.config
    elements = prod(config["patch_size"]) * config["num_channels"] * config["num_patches"]
    return 2 * elements * config["hidden_dim"] * call.first[0].quantity


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
    """As in the authors' code, `intermediate_dim` is that of gate and up together."""
    config = call.node.config
    n, k = config["num_query_heads"], config["num_key_value_heads"]
    f = config["intermediate_dim"] // config.get("gate_dim_reduction", 2)
    return _block(call, n, k, config["head_dim"], f, kernels=3)


def _width(call: MeasuredCall) -> int:
    return int(call.first[-1].quantity[""])


_FROM_ENCODER = ("encoder_sequence", "encoder_hidden_states")
_VECTORS = 32  # biases and gains of a block, and the relative positions of T5, in widths


def _block(
    call: MeasuredCall, n: int, k: int, h: int, f: int, kernels: int = 2, blocks: int = 1
) -> Quantity | None:
    """Self-attention, cross-attention if there is an encoder, and a feed-forward.

    None if the weights are not those of these matrices and some vectors: then it is another block
    with the same name.

    Args:
        call: Of x (b, t, d).
        n: Query heads.
        k: Key and value heads.
        h: Width of a head.
        f: Width of the feed-forward.
        kernels: Matrices (d, f) of the feed-forward: 3 if it is gated.
        blocks: Number of such blocks in the layer.
    """
    x, d = call.first, _width(call)
    memory = next((axes for port, axes in call.inputs.items() if port in _FROM_ENCODER), None)
    of_x = 2 * d * h * (n + k) + kernels * d * f
    lengths = [x[1].quantity]
    of_memory = 0
    if memory is not None:
        of_x += 2 * d * n * h
        of_memory = int(2 * n * h * memory[-1].quantity[""])
        lengths.append(memory[1].quantity)
    vectors = call.node.parameters + call.node.shared_parameters - blocks * (of_x + of_memory)
    if not 0 <= vectors <= _VECTORS * blocks * max(d, f):
        return None
    attended = _total(4 * blocks * n * h * count(x[:-1]) * length for length in lengths)
    of_keys = 2 * of_memory * count(memory[:-1]) if memory is not None else Quantity()
    return 2 * blocks * of_x * count(x[:-1]) + of_keys + attended
