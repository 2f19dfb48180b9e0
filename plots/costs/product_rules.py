"""FLOPs of layers and operations that are one product: Dense, Einsum, tables and convolutions."""

from __future__ import annotations

from math import prod

from plots.annotations import Quantity
from plots.axes.rules import equation_of
from plots.costs.flop_rules import (
    MeasuredCall,
    Weights,
    count,
    flop_rule,
    product,
    weight_rule,
    width,
)
from plots.layers import is_reversed_embedding

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
    return product({label: axis.quantity for label, axis in pairs}, *labels)


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
    config, channels = call.node.config, channels_of(call)
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
    kernel = prod(config["kernel_size"]) * channels_of(call)
    return Weights(others=config["filters"] * (kernel + config["use_bias"]))


@flop_rule("BaseDepthwiseConv", "DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_convolution(call: MeasuredCall) -> Quantity:
    return 2 * prod(call.node.config["kernel_size"]) * count(call.output)


@weight_rule("BaseDepthwiseConv", "DepthwiseConv1D", "DepthwiseConv2D")
def _weights_of_depthwise_convolution(call: MeasuredCall) -> Weights:
    config = call.node.config
    channels = channels_of(call) * config["depth_multiplier"]
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
    channels = channels_of(call) * config["depth_multiplier"]
    kernels = channels * (prod(config["kernel_size"]) + config["filters"])
    return Weights(others=kernels + config["filters"] * config["use_bias"])


def _positions_and_channels(call: MeasuredCall) -> tuple[Quantity, Quantity]:
    """(positions of the output, channels of the input); the batch counts with the positions."""
    place = _channel_axis(call)
    return count(call.output[:place] + call.output[place + 1 :]), call.first[place].quantity


def channels_of(call: MeasuredCall) -> int:
    """Return the number of channels of the input."""
    return int(call.first[_channel_axis(call)].quantity[""])


def _channel_axis(call: MeasuredCall) -> int:
    config = call.node.config
    last = config["data_format"] == "channels_last"
    return len(call.first) - 1 - (0 if last else len(config["kernel_size"]))
