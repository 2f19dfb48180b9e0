"""FLOPs of recurrent layers, and of layers around another layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from math import prod
from typing import Any

from plots.annotations import Quantity
from plots.costs.flop_rules import (
    WEIGHT_RULES,
    Axes,
    MeasuredCall,
    Weights,
    count,
    flop_rule,
    flops_of,
    own_activations,
    total,
    weight_rule,
    width,
)
from plots.costs.product_rules import channels_of

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
        if any(own_activations(given)):
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
    channels = channels_of(call)
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
