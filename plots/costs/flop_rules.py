"""FLOPs of one call: by what its layer declares, or by a rule of its class.

Counted are matrix products and convolutions, 2 FLOPs per multiply-add (Kaplan et al. 2020, section
2.1), and no elementwise operations (activations, norms, softmax, biases). Attention computes all
scores, the masked ones too, so all are counted.

A layer of yours declares its products (see `plots.layers`). For classes that cannot,
`FLOP_RULES["TheirLayer"] = rule` adds a function that takes a `MeasuredCall` and returns FLOPs as
`Quantity`, or None if it cannot tell. Subclasses use the rule of their base class.

Letters in docstrings are those of `plots.axes.GLOSSARY`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from plots.annotations import Declaration, Quantity
from plots.axes import Axis
from plots.axes.rules import TRANSFORMER_BLOCKS, equation_of
from plots.axes.unions import CallWithAxes
from plots.graph import Node
from plots.layers import (
    DOT_PRODUCT_ATTENTION,
    ClassRules,
    axis_labels,
    declared_tensors,
    is_additive_merge,
    is_identity_like,
    is_norm,
    is_reversed_embedding,
    is_shape_only,
    product_labels,
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

FLOP_RULES = ClassRules[Rule]()
"""Class name -> rule."""

flop_rule = FLOP_RULES.register

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

Norms, merges, identities and shapes (`plots.layers`) have none either.
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
    try:
        if node.declaration is not None and node.declaration.products is not None:
            return declared_flops(call, node.declaration)
        if (rule := FLOP_RULES.of(node)) is not None:
            return rule(call)
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return None  # another class with a known name and other arguments
    if node.is_a(PRODUCTS_WITHOUT_RULE):
        return None
    has_weights = node.parameters + node.shared_parameters > 0
    may_multiply = has_weights or (node.kind == "layer" and len(call.floats) > 1)
    kinds = (is_norm, is_additive_merge, is_identity_like, is_shape_only)
    has_none = node.is_a(WITHOUT_PRODUCTS) or any(is_kind(node) for is_kind in kinds)
    return None if may_multiply and not has_none else Quantity()


def is_known(node: Node) -> bool:
    """Whether a layer declares its products, or a rule knows those of its class."""
    if node.declaration is not None and node.declaration.products is not None:
        return True
    return node.is_a({*FLOP_RULES, *WITHOUT_PRODUCTS}) or is_norm(node)


def count(axes: Iterable[Axis]) -> Quantity:
    """Return the number of elements of a tensor with these axes."""
    return prod((axis.quantity for axis in axes), start=Quantity(1))


def _total(quantities: Iterable[Quantity]) -> Quantity:
    return sum(quantities, Quantity())


def declared_flops(call: MeasuredCall, declaration: Declaration) -> Quantity:
    """Return the FLOPs of declared products.

    Raises:
        KeyError: if a letter occurs only in arguments that are not given.
    """
    sizes = {letter: Quantity(size) for letter, size in declaration.sizes.items()}
    for _, text, axes in declared_tensors(declaration, call.inputs, call.outputs):
        for label, axis in zip(axis_labels(text, len(axes)), axes, strict=True):
            if sizes.get(label, {"": 1}) == {"": 1}:  # an axis of size 1 is broadcast
                sizes[label] = axis.quantity
    return _total(_product(sizes, *labels) for labels in product_labels(declaration, sizes))


def _product(
    sizes: Mapping[str, Quantity], left: Sequence[str], right: Sequence[str], result: Sequence[str]
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


@flop_rule("Dot", "Einsum", "EinsumDense")
def _einsum(call: MeasuredCall) -> Quantity | None:
    equation, operands = equation_of(call)
    if len(operands) != 2:  # the backend chooses the order of several products
        return None if len(operands) > 2 else Quantity()
    labels, pairs = call.match(equation, operands)
    return _product({label: axis.quantity for label, axis in pairs}, *labels)


@flop_rule("Matmul")
def _matmul(call: MeasuredCall) -> Quantity:
    if "x1" in call.inputs:
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
    config, (positions, channels) = call.node.config, _positions_and_channels(call)
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
    config, (positions, channels) = call.node.config, _positions_and_channels(call)
    products = prod(config["kernel_size"]) + config["filters"]
    return 2 * config["depth_multiplier"] * products * positions * channels


def _positions_and_channels(call: MeasuredCall) -> tuple[Quantity, Quantity]:
    """(positions of the output, channels of the input); the batch counts with the positions."""
    last = call.node.config["data_format"] == "channels_last"
    place = len(call.output) - 1 - (0 if last else len(call.node.config["kernel_size"]))
    return count(call.output[:place] + call.output[place + 1 :]), call.first[place].quantity


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


@flop_rule("Bidirectional", "TimeDistributed")
def _wrapped(call: MeasuredCall) -> Quantity | None:
    """FLOPs of the inner layers; for that of a `TimeDistributed`, the steps are a larger batch."""
    config, total = call.node.config, Quantity()
    for inner in (config["layer"], config.get("backward_layer")):
        if inner is not None:
            change = {"class_name": inner["class_name"], "bases": (), "config": inner["config"]}
            flops = flops_of(replace(call, node=replace(call.node, **change)))
            if flops is None:
                return None
            total += flops
    return total


# Attention --------------------------------------------------------------------------------------


@flop_rule("AdditiveAttention", "Attention")
def _single_head(call: MeasuredCall) -> Quantity:
    """Query (b, t, d), value and key (b, s, d); additive scores are no matrix product."""
    query, s = call.inputs["inputs.0"], call.inputs["inputs.1"][1].quantity
    scores = 2 * count(query) * s if call.node.config.get("score_mode") == "dot" else Quantity()
    return scores + 2 * count(call.output) * s


@flop_rule("GroupedQueryAttention", "MultiHeadAttention")
def _projected_attention(call: MeasuredCall) -> Quantity:
    """Queries, keys and values (b, ..., d), over all axes between the first and the last."""
    config, query, value = call.node.config, call.inputs["query"], call.inputs["value"]
    key = call.inputs.get("key", value)
    if call.node.is_a({"GroupedQueryAttention"}):
        n, k = config["num_query_heads"], config["num_key_value_heads"]
        h, v, axes = config["head_dim"], config["head_dim"], range(1, 2)
    else:
        n = k = config["num_heads"]
        h, v = config["key_dim"], config["value_dim"] or config["key_dim"]
        axes = config["attention_axes"] or range(1, len(query) - 1)
    keys = count(key[place] for place in axes)
    projected = [(query, n * h), (key, k * h), (value, k * v)]
    if "cache" in call.inputs:  # (b, 2, s, n, h), of keys that are known already
        keys = call.inputs["cache"][2].quantity
        given = {c.port for c in call.node.constants if c.value is not None} | {*call.inputs}
        projected = projected if "cache_update_index" in given else projected[:1]
    projected += [(query, n * v)] if config.get("use_gate") else []
    projections = (2 * width * count(axes) for axes, width in [*projected, (call.output, n * v)])
    return _total(projections) + 2 * n * (h + v) * count(query[:-1]) * keys


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
_VECTORS = 32  # biases and gains of a block, and the relative positions of T5, in widths


@flop_rule(*TRANSFORMER_BLOCKS)
def _block(call: MeasuredCall) -> Quantity | None:
    """Self-attention, cross-attention if there is an encoder, and a feed-forward, of x (b, t, d).

    None if the weights are not those of these matrices and some vectors: then it is another block
    with the same name.
    """
    node, config, x = call.node, call.node.config, call.first
    d = int(x[-1].quantity[""])
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
        of_memory = int(2 * n * h * memory[-1].quantity[""])
        lengths.append(memory[1].quantity)
    vectors = node.parameters + node.shared_parameters - blocks * (of_x + of_memory)
    if not 0 <= vectors <= _VECTORS * blocks * max(d, f):
        return None
    attended = _total(4 * blocks * n * h * count(x[:-1]) * length for length in lengths)
    of_keys = 2 * of_memory * count(memory[:-1]) if memory is not None else Quantity()
    return 2 * blocks * of_x * count(x[:-1]) + of_keys + attended
