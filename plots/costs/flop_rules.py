"""FLOPs of one call, from the declaration of its layer or from a rule for its class.

Counted are matrix products and convolutions, 2 FLOPs per multiply-add (Kaplan et al. 2020, section
2.1), and no elementwise operations (activations, norms, softmax, biases). Attention computes all
scores, the masked ones too, so all are counted.

A layer of yours declares its products (see `plots.layers`). For classes that cannot,
`FLOP_RULES["TheirLayer"] = rule` adds a function that takes a `MeasuredCall` and returns FLOPs as
`Quantity`, or None if it cannot tell. Subclasses use the rule of their base class, unless they
override `call`. Classes without products are in `plots.costs.zero_cost`. The work of all others is
unknown, and leaves a `Quantity` that is a lower bound.

Letters in docstrings are those of `plots.axes.GLOSSARY`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from math import prod
from typing import Any, NamedTuple

from plots.annotations import Declaration, Quantity
from plots.axes import Axis
from plots.axes.rules import equation_of
from plots.axes.unions import CallWithAxes
from plots.costs.zero_cost import LAYERS, is_zero_cost
from plots.declarations import axis_labels, declared_tensors, product_labels
from plots.graph import Node
from plots.layers import (
    DOT_PRODUCT_ATTENTION,
    ClassRules,
    is_norm,
    is_reversed_embedding,
)

Axes = tuple[Axis, ...]


@dataclass(frozen=True)
class MeasuredCall(CallWithAxes[Axis]):
    """A call with the sizes and letters of its axes.

    Attributes:
        has_floats: Whether an input or output is a floating-point tensor.
    """

    has_floats: bool = True

    @property
    def weights(self) -> int:
        """Number of weights of the layer, shared ones included."""
        return self.node.parameters + self.node.shared_parameters


class Weights(NamedTuple):
    """Number of weights that a rule accounts for.

    Attributes:
        rows: Product of all axes of the kernel but the last; 0 for a layer without LoRA.
        columns: The last axis of the kernel.
        others: Weights besides that kernel.
    """

    rows: int = 0
    columns: int = 0
    others: int = 0

    @property
    def total(self) -> int:
        """All weights of the layer."""
        return self.rows * self.columns + self.others


Rule = Callable[[MeasuredCall], Quantity | None]

FLOP_RULES = ClassRules[Rule]()
"""Class name -> rule."""

WEIGHT_RULES = ClassRules[Callable[[MeasuredCall], Weights]]()
"""Class name -> the weights that its rule for FLOPs accounts for.

A layer with others does more than the rule knows: it has adapters (LoRA) inside, or is quantized.
"""

flop_rule = FLOP_RULES.register
weight_rule = WEIGHT_RULES.register


def flops_of(call: MeasuredCall) -> Quantity:
    """Return the FLOPs of one call; a lower bound if it may have products that no rule knows."""
    call = replace(call, node=_as_called(call.node))
    node = call.node
    flops = None
    try:
        if node.declaration is not None and node.declaration.products is not None:
            return declared_flops(call, node.declaration)
        if node.free_of_products:
            return Quantity()
        if (rule := FLOP_RULES.of(node)) is not None:
            flops = rule(call)
            flops = flops if flops is None else _of_all_weights(call, flops)
        elif is_zero_cost(node, call.has_floats):
            flops = Quantity()
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        flops = None  # another class with a known name and other arguments
    if flops is None:
        return Quantity(missing=[node.class_name])
    return flops.without(*(f"activation {name}" for name in _own_activations(node.config)))


def is_known(node: Node) -> bool:
    """Whether a layer declares its products, or a rule knows those of its class."""
    node = _as_called(node)
    if node.declaration is not None and node.declaration.products is not None:
        return True
    return FLOP_RULES.of(node) is not None or is_zero_cost(node, has_floats=True) or is_norm(node)


def _as_called(node: Node) -> Node:
    """Return the node without those base classes whose `call` it overrides."""
    if node.declaration is not None and node.declaration.like:
        return replace(node, bases=(node.declaration.like,), call_class="")
    names = (node.class_name, *node.bases)
    if node.call_class not in names:
        return node
    return replace(node, bases=names[1 : names.index(node.call_class) + 1])


def _of_all_weights(call: MeasuredCall, flops: Quantity) -> Quantity:
    """Return the FLOPs with those of LoRA; a lower bound if the layer has unknown weights."""
    rule = WEIGHT_RULES.of(call.node)
    if rule is None:
        return flops
    known, rank = rule(call), call.node.config.get("lora_rank") or 0
    if _is_quantized(call.node.config):  # its adapters are applied to the tokens one by one
        if not rank or is_reversed_embedding(call.node):
            return flops
        first = flops * Fraction(rank, known.columns)
        return _whole(flops + first + 2 * rank * count(call.output))
    adapters = rank * (known.rows + known.columns) if known.rows else 0
    if adapters and call.weights == known.total + adapters:  # else they are merged, and gone
        return flops + 2 * rank * known.rows * known.columns
    if call.weights == known.total:
        return flops
    if call.weights < known.total or call.node.call_class:
        return Quantity(missing=[call.node.class_name])  # of another class with a known name
    return flops.without(f"parts of {call.node.class_name}")


def _is_quantized(config: Mapping[str, Any]) -> bool:
    policy = config.get("dtype")
    inner = policy.get("config") if isinstance(policy, Mapping) else None
    return isinstance(inner, Mapping) and "source_name" in inner


def _whole(quantity: Quantity) -> Quantity:
    """Return a quantity with ints in place of fractions."""
    return Quantity({monomial: int(factor) for monomial, factor in quantity.items()})


_ACTIVATIONS = frozenset(
    """
    celu elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish hard_tanh leaky_relu
    linear log_sigmoid log_softmax mish relu relu6 selu sigmoid silu soft_shrink softmax softplus
    softsign sparse_plus sparse_sigmoid sparsemax squareplus swish tanh tanh_shrink threshold
    """.split()  # noqa: SIM905
)


def _own_activations(config: Mapping[str, Any]) -> Iterator[str]:
    """Yield the activation functions of a layer that are neither built in nor registered.

    Registered ones are taken to be elementwise, as their name says.
    """
    for key, value in config.items():
        if not key.endswith("activation") or value is None:
            continue
        if isinstance(value, str):
            if value not in _ACTIVATIONS:
                yield value
        elif not isinstance(value, Mapping):
            continue  # a switch, such as `use_gated_activation`
        elif value.get("class_name") == "function":
            if ">" not in str(value.get("config")):
                yield str(value.get("config"))
        elif value.get("class_name") not in LAYERS:
            yield str(value.get("class_name", "lambda"))


def count(axes: Iterable[Axis]) -> Quantity:
    """Return the number of elements of a tensor with these axes."""
    return prod((axis.quantity for axis in axes), start=Quantity(1))


def total(quantities: Iterable[Quantity]) -> Quantity:
    """Return the sum of quantities."""
    return sum(quantities, Quantity())


def width(axes: Axes) -> int:
    """Return the size of the last axis; KeyError if it is free."""
    return int(axes[-1].quantity[""])


def declared_flops(call: MeasuredCall, declaration: Declaration) -> Quantity:
    """Return the FLOPs of declared products.

    Raises:
        KeyError: if a letter occurs only in arguments that are not given.
    """
    sizes = {letter: Quantity(size) for letter, size in declaration.known_sizes.items()}
    for _, text, axes in declared_tensors(declaration, call.inputs, call.outputs):
        for label, axis in zip(axis_labels(text, len(axes)), axes, strict=True):
            if sizes.get(label, {"": 1}) == {"": 1}:  # an axis of size 1 is broadcast
                sizes[label] = axis.quantity
    for letter, factors in declaration.products_of_sizes.items():
        if letter not in sizes:  # of no tensor outside of the layer
            sizes[letter] = prod((sizes[factor] for factor in factors), start=Quantity(1))
    return total(_product(sizes, *labels) for labels in product_labels(declaration, sizes))


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


@weight_rule("Dense")
def _weights_of_dense(call: MeasuredCall) -> Weights:
    units = call.node.config["units"]
    return Weights(width(call.first), units, units * call.node.config["use_bias"])


@flop_rule("Dot", "Einsum", "EinsumDense")
def _einsum(call: MeasuredCall) -> Quantity | None:
    equation, operands = equation_of(call)
    if len(operands) != 2:  # the backend chooses the order of several products
        return None if len(operands) > 2 else Quantity()
    labels, pairs = call.match(equation, operands)
    return _product({label: axis.quantity for label, axis in pairs}, *labels)


@weight_rule("EinsumDense")
def _weights_of_einsum_dense(call: MeasuredCall) -> Weights:
    (_, kernel, result), pairs = call.match(*equation_of(call))
    sizes = {label: axis.quantity.get("", 0) for label, axis in pairs}
    *rows, columns = (int(sizes[label]) for label in kernel)
    if "lora_rank" in call.node.config and kernel[-1] not in result:
        raise ValueError("adapters of an axis that is summed over have no rule")
    bias = call.node.config["bias_axes"]
    return Weights(prod(rows), columns, int(prod(sizes[label] for label in bias)) if bias else 0)


@flop_rule("Matmul")
def _matmul(call: MeasuredCall) -> Quantity:
    if "x1" in call.inputs:
        summed = call.inputs["x1"][-1].quantity
    else:
        constant = next(constant for constant in call.node.constants if constant.port == "x1")
        summed = Quantity((constant.shape or (1,))[-1] or 1)
    return 2 * count(call.output) * summed


@flop_rule("Embedding")
def _embedding(call: MeasuredCall) -> Quantity:
    return Quantity()


@flop_rule("ReversibleEmbedding")
def _reversible_embedding(call: MeasuredCall) -> Quantity:
    return _dense(call) if is_reversed_embedding(call.node) else Quantity()


@weight_rule("Embedding", "ReversibleEmbedding")
def _weights_of_embedding(call: MeasuredCall) -> Weights:
    config = call.node.config
    tables = 1 if config.get("tie_weights", True) else 2
    if tables > 1 and is_reversed_embedding(call.node) and "lora_rank" in config:
        raise ValueError("adapters are of the other table")
    table = config["input_dim"] * config["output_dim"]
    return Weights(config["input_dim"], config["output_dim"], table * (tables - 1))


# Convolutions -----------------------------------------------------------------------------------


@flop_rule("BaseConv", "Conv1D", "Conv2D", "Conv3D")
def _convolution(call: MeasuredCall) -> Quantity:
    """2 x positions x kernel size x input channels of a group x output channels."""
    config, (positions, channels) = call.node.config, _positions_and_channels(call)
    factor = 2 * prod(config["kernel_size"]) * config["filters"] // config["groups"]
    return factor * positions * channels


@weight_rule("BaseConv", "Conv1D", "Conv2D", "Conv3D")
def _weights_of_convolution(call: MeasuredCall) -> Weights:
    config, channels = call.node.config, _channels(call)
    rows = prod(config["kernel_size"]) * channels // config["groups"]
    return Weights(rows, config["filters"], config["filters"] * config["use_bias"])


@flop_rule("BaseConvTranspose", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _transposed_convolution(call: MeasuredCall) -> Quantity:
    """As the convolution whose gradient it is, with the positions of the input."""
    config = call.node.config
    return 2 * prod(config["kernel_size"]) * config["filters"] * count(call.first)


@weight_rule("BaseConvTranspose", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _weights_of_transposed_convolution(call: MeasuredCall) -> Weights:
    config = call.node.config
    kernel = prod(config["kernel_size"]) * _channels(call)
    return Weights(others=config["filters"] * (kernel + config["use_bias"]))


@flop_rule("BaseDepthwiseConv", "DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_convolution(call: MeasuredCall) -> Quantity:
    return 2 * prod(call.node.config["kernel_size"]) * count(call.output)


@weight_rule("BaseDepthwiseConv", "DepthwiseConv1D", "DepthwiseConv2D")
def _weights_of_depthwise_convolution(call: MeasuredCall) -> Weights:
    config = call.node.config
    channels = _channels(call) * config["depth_multiplier"]
    return Weights(others=channels * (prod(config["kernel_size"]) + config["use_bias"]))


@flop_rule("BaseSeparableConv", "SeparableConv1D", "SeparableConv2D")
def _separable_convolution(call: MeasuredCall) -> Quantity:
    """A depthwise convolution, then one with a kernel of size 1."""
    config, (positions, channels) = call.node.config, _positions_and_channels(call)
    products = prod(config["kernel_size"]) + config["filters"]
    return 2 * config["depth_multiplier"] * products * positions * channels


@weight_rule("BaseSeparableConv", "SeparableConv1D", "SeparableConv2D")
def _weights_of_separable_convolution(call: MeasuredCall) -> Weights:
    config = call.node.config
    channels = _channels(call) * config["depth_multiplier"]
    kernels = channels * (prod(config["kernel_size"]) + config["filters"])
    return Weights(others=kernels + config["filters"] * config["use_bias"])


def _positions_and_channels(call: MeasuredCall) -> tuple[Quantity, Quantity]:
    """(positions of the output, channels of the input); the batch counts with the positions."""
    place = _channel_axis(call)
    return count(call.output[:place] + call.output[place + 1 :]), call.first[place].quantity


def _channels(call: MeasuredCall) -> int:
    """Return the number of channels of the input."""
    return int(call.first[_channel_axis(call)].quantity[""])


def _channel_axis(call: MeasuredCall) -> int:
    config = call.node.config
    last = config["data_format"] == "channels_last"
    return len(call.first) - 1 - (0 if last else len(config["kernel_size"]))


# Recurrent layers -------------------------------------------------------------------------------

_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


@flop_rule("GRU", "LSTM", "RNN", "SimpleRNN")
def _recurrent(call: MeasuredCall) -> Quantity:
    """Return the FLOPs of a matrix product of the input and one of the state, per step and gate."""
    products = sum(products for products, _ in _cells(call))
    return 2 * products * count(call.first[:2])


@weight_rule("GRU", "LSTM", "RNN", "SimpleRNN")
def _weights_of_recurrent(call: MeasuredCall) -> Weights:
    return Weights(others=sum(products + biases for products, biases in _cells(call)))


def _cells(call: MeasuredCall) -> Iterator[tuple[int, int]]:
    """Yield the size of the kernels and of the biases of every cell, from the first on.

    KeyError for a cell that is none of Keras.
    """
    class_name, config = call.node.class_name, call.node.config
    if "cell" in config:
        class_name, config = config["cell"]["class_name"], config["cell"]["config"]
    stacked = config["cells"] if class_name == "StackedRNNCells" else []
    cells = [(cell["class_name"], cell["config"]) for cell in stacked] or [(class_name, config)]
    inputs = width(call.first)
    for name, given in cells:
        if any(_own_activations(given)):
            raise KeyError(name)
        gates, units = _GATES[name.removesuffix("Cell")], given["units"]
        biases = 2 if given.get("reset_after") else 1
        yield gates * units * (inputs + units), gates * units * biases * given["use_bias"]
        inputs = units


@flop_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _recurrent_convolution(call: MeasuredCall) -> Quantity:
    """Return the FLOPs of a convolution of the input and one of the state, per step and gate."""
    config = call.node.config
    rank = len(config["kernel_size"])
    last = config["data_format"] == "channels_last"
    positions = call.output[-1 - rank : -1] if last else call.output[-rank:]
    return 2 * _convolved(call) * count((*call.first[:2], *positions))


@weight_rule("ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D")
def _weights_of_recurrent_convolution(call: MeasuredCall) -> Weights:
    config = call.node.config
    return Weights(others=_convolved(call) + 4 * config["filters"] * config["use_bias"])


def _convolved(call: MeasuredCall) -> int:
    """Return the size of all kernels."""
    config = call.node.config
    channels = _channels(call)
    return 4 * prod(config["kernel_size"]) * config["filters"] * (channels + config["filters"])


# Layers around layers ---------------------------------------------------------------------------


@flop_rule("TimeDistributed")
def _every_step(call: MeasuredCall) -> Quantity:
    """FLOPs of the inner layer, called on every step."""
    inputs = {port: _of_step(axes) for port, axes in call.inputs.items() if port != "mask"}
    step = replace(call, inputs=inputs, outputs=tuple(map(_of_step, call.outputs)))
    return call.first[1].quantity * flops_of(_of_inner(step, "layer"))


def _of_step(axes: Axes) -> Axes:
    """Return axes without that of the steps."""
    return (axes[0], *axes[2:])


@flop_rule("Bidirectional")
def _both_ways(call: MeasuredCall) -> Quantity:
    """FLOPs of two recurrent layers; the second is a copy unless it is given."""
    forward = _of_inner(call, "layer")
    config = call.node.config
    backward = _of_inner(call, "backward_layer" if config.get("backward_layer") else "layer")
    if (rule := WEIGHT_RULES.of(forward.node)) is None:
        return flops_of(forward) + flops_of(backward)
    known = rule(forward).total
    parts = zip((forward, backward), (known, call.weights - known), strict=True)
    return total(flops_of(_with_weights(part, number)) for part, number in parts)


@flop_rule("SpectralNormalization")
def _spectral(call: MeasuredCall) -> Quantity:
    """FLOPs of the inner layer, as in inference: training computes the norm of its kernel, too."""
    inner = _of_inner(call, "layer")
    vector = WEIGHT_RULES[inner.node.class_name](inner).columns
    return flops_of(_with_weights(inner, call.weights - vector))


def _of_inner(call: MeasuredCall, key: str) -> MeasuredCall:
    """Return the call of a layer in the configuration of the one around it."""
    given = call.node.config[key]
    change: dict[str, Any] = {"class_name": given["class_name"], "config": given["config"]}
    return replace(call, node=replace(call.node, bases=(), call_class="", **change))


def _with_weights(call: MeasuredCall, weights: int) -> MeasuredCall:
    return replace(call, node=replace(call.node, parameters=weights, shared_parameters=0))
