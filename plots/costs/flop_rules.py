"""Floating-point operations of one call, by class.

Counted are products of matrices and convolutions, a multiplication and its addition being two
operations, as in Kaplan et al. 2020, section 2.1; what works element by element (activations,
norms, softmax, biases) is not. Of attention all scores are counted, the masked ones too, because
that is what is computed.

A class that derives from one of these counts as well. Add your own:
`flop_rules.FLOP_RULES["MyLayer"] = rule`, a function that takes a `MeasuredCall` and gives the
operations as a polynomial in the letters of free axes, or None if it cannot tell.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TypeVar

from plots.annotations import Quantity, product_of, total_of
from plots.axes.calls import CallWithAxes
from plots.axes.shapes import Axis
from plots.declaration import Declaration, axis_labels, parse_equation, product_labels
from plots.graph import Constant, Node
from plots.operation_kinds import (
    is_additive_merge,
    is_identity_like,
    is_norm,
    is_reversed_embedding,
    is_shape_only,
)

AxesOfTensor = tuple[Axis, ...]


@dataclass(frozen=True)
class MeasuredCall(CallWithAxes[Axis]):
    """A call with the sizes and letters of its axes, as rules about operations see it.

    Attributes:
        floats: Ports that take floats.
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
"""Layers that multiply no matrices, although they have weights or take several tensors of floats.

Norms and what `plots.operation_kinds` calls merges, identities and shapes are known besides.
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
"""Bare operations that are products and have no rule; all others are none."""


def flops_of(call: MeasuredCall) -> Quantity | None:
    """The operations of one call; None if it may do some that no rule knows."""
    node = call.node
    rule = next((FLOP_RULES[n] for n in (node.class_name, *node.bases) if n in FLOP_RULES), None)
    try:
        if node.declaration is not None and node.declaration.products is not None:
            return declared_flops(call, node.declaration)
        if rule is not None:
            return rule(call)
    except (AttributeError, IndexError, KeyError, StopIteration, TypeError, ValueError):
        return None  # a foreign class with a name that is known here, but other arguments
    if node.is_a(PRODUCTS_WITHOUT_RULE):
        return None
    return {} if _is_known_to_be_without_products(node) or not _may_multiply(call) else None


def is_known(node: Node) -> bool:
    """Whether a layer declares its products, or a rule knows those of its class."""
    if node.declaration is not None and node.declaration.products is not None:
        return True
    return node.is_a({*FLOP_RULES, *WITHOUT_PRODUCTS}) or is_norm(node)


def _is_known_to_be_without_products(node: Node) -> bool:
    return (
        node.is_a(WITHOUT_PRODUCTS)
        or is_norm(node)
        or is_additive_merge(node)
        or is_identity_like(node)
        or is_shape_only(node)
    )


def _may_multiply(call: MeasuredCall) -> bool:
    """Whether there is something to multiply with: weights, or in a layer a second tensor."""
    node = call.node
    has_weights = node.parameters + node.shared_parameters > 0
    return has_weights or (node.kind == "layer" and len(call.floats) > 1)


def flop_rule(*class_names: str) -> Callable[[SomeRule], SomeRule]:
    """Decorator that makes a function the rule of these classes."""

    def register(rule: SomeRule) -> SomeRule:
        FLOP_RULES.update(dict.fromkeys(class_names, rule))
        return rule

    return register


def count(axes: Iterable[Axis]) -> Quantity:
    """How many numbers a tensor with these axes has."""
    return product_of({"": 1}, *(axis.quantity for axis in axes))


def times(factor: float, *quantities: Quantity) -> Quantity:
    """The product of a number and of polynomials."""
    return product_of({"": factor}, *quantities)


# Products ---------------------------------------------------------------------------------------


@flop_rule("Dense")
def _dense(call: MeasuredCall) -> Quantity:
    """2 x numbers of the output x width of the input."""
    return times(2, count(call.output), call.first[-1].quantity)


@flop_rule("EinsumDense")
def _einsum_dense(call: MeasuredCall) -> Quantity:
    return _einsum_product(call, call.node.config["equation"], [call.first, None])


@flop_rule("Einsum")
def _einsum(call: MeasuredCall) -> Quantity | None:
    equation = call.node.config["subscripts"]
    places = range(equation.split("->")[0].count(",") + 1)
    operands = [call.inputs.get(str(place)) for place in places]
    if len(operands) > 2:
        return None  # the order of several products is the backend's
    return _einsum_product(call, equation, operands) if len(operands) == 2 else {}


def _einsum_product(
    call: MeasuredCall, equation: str, operands: list[AxesOfTensor | None]
) -> Quantity:
    """2 x the sizes of all letters; nothing if no letter is summed over."""
    ranks = [None if axes is None else len(axes) for axes in operands]
    (left, right), result = parse_equation(equation, ranks, len(call.output))
    sizes: dict[str, Quantity] = {}
    for labels, axes in zip([left, right, result], [*operands, call.output], strict=True):
        for label, axis in zip(labels, axes, strict=True) if axes is not None else ():
            sizes[label] = axis.quantity
    return _product(left, right, result, sizes)


def _product(
    left: Sequence[str], right: Sequence[str], result: Sequence[str], sizes: Mapping[str, Quantity]
) -> Quantity:
    """2 x the sizes of all letters but those of one operand only; 0 if none is summed over."""
    both = {*left} & {*right}
    if both <= {*result}:
        return {}
    return times(2, *(sizes[label] for label in sorted(both | {*result})))


def declared_flops(call: MeasuredCall, declaration: Declaration) -> Quantity:
    """Return the operations of declared products.

    Raises:
        KeyError: if a letter is one of arguments that are not given.
    """
    tensors = [(text, call.inputs[p]) for p, text in declaration.inputs.items() if p in call.inputs]
    tensors += zip(declaration.outputs, call.outputs, strict=True) if declaration.outputs else ()
    sizes: dict[str, Quantity] = {letter: {"": n} for letter, n in declaration.sizes.items()}
    for text, axes in tensors:
        for label, axis in zip(axis_labels(text, len(axes)), axes, strict=True):
            if sizes.get(label, {"": 1}) == {"": 1}:  # one of size 1 is broadcast
                sizes[label] = axis.quantity
    covered = sum(label.startswith("...") for label in sizes)
    products = product_labels(declaration, covered)
    return total_of([_product(*labels, sizes) for labels in products])


@flop_rule("Dot", "Matmul")
def _matmul(call: MeasuredCall) -> Quantity:
    if "axes" in call.node.config:  # the layer, of which axes of both inputs are named
        axes = call.node.config["axes"]
        summed = call.inputs["inputs.0"][axes if isinstance(axes, int) else axes[0]].quantity
    elif "x1" in call.inputs:
        summed = call.inputs["x1"][-1].quantity
    else:
        summed = {"": (_constant(call.node, "x1").shape or (1,))[-1] or 1}
    return times(2, count(call.output), summed)


def _constant(node: Node, port: str) -> Constant:
    return next(constant for constant in node.constants if constant.port == port)


@flop_rule("ReversibleEmbedding")
def _reversible_embedding(call: MeasuredCall) -> Quantity:
    return _dense(call) if is_reversed_embedding(call.node) else {}


# Convolutions -----------------------------------------------------------------------------------


@flop_rule("BaseConv", "Conv1D", "Conv2D", "Conv3D")
def _convolution(call: MeasuredCall) -> Quantity:
    """2 x positions x size of the kernel x channels in of a group x channels out."""
    config = call.node.config
    positions, given = _split_channels(call, call.output)[0], _split_channels(call, call.first)[1]
    return times(
        2 * prod(config["kernel_size"]) * config["filters"] // config["groups"], positions, given
    )


@flop_rule("BaseConvTranspose", "Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose")
def _transposed_convolution(call: MeasuredCall) -> Quantity:
    """As the convolution whose gradient it is, so positions are those of the input."""
    config = call.node.config
    return times(2 * prod(config["kernel_size"]) * config["filters"], count(call.first))


@flop_rule("BaseDepthwiseConv", "DepthwiseConv1D", "DepthwiseConv2D")
def _depthwise_convolution(call: MeasuredCall) -> Quantity:
    return times(2 * prod(call.node.config["kernel_size"]), count(call.output))


@flop_rule("BaseSeparableConv", "SeparableConv1D", "SeparableConv2D")
def _separable_convolution(call: MeasuredCall) -> Quantity:
    """A depthwise convolution, then one with a kernel of size 1."""
    config = call.node.config
    positions, given = _split_channels(call, call.output)[0], _split_channels(call, call.first)[1]
    products = prod(config["kernel_size"]) + config["filters"]
    return times(2 * config["depth_multiplier"] * products, positions, given)


def _split_channels(call: MeasuredCall, axes: AxesOfTensor) -> tuple[Quantity, Quantity]:
    """(positions, channels) of a tensor; the batch counts with the positions."""
    last = call.node.config["data_format"] == "channels_last"
    place = len(axes) - 1 if last else len(axes) - 1 - len(call.node.config["kernel_size"])
    return count(axes[:place] + axes[place + 1 :]), axes[place].quantity


# Recurrence, and layers around others -----------------------------------------------------------

_GATES = {"SimpleRNN": 1, "GRU": 3, "LSTM": 4}


@flop_rule("GRU", "LSTM", "RNN", "SimpleRNN")
def _recurrent(call: MeasuredCall) -> Quantity:
    """At every step and in each gate: the input and the last state, each times a matrix."""
    class_name, config = call.node.class_name, call.node.config
    if "cell" in config:
        class_name, config = config["cell"]["class_name"], config["cell"]["config"]
    batch, length, width = call.first
    units, gates = config["units"], _GATES[class_name.removesuffix("Cell")]
    widths = total_of([width.quantity, {"": units}])
    return times(2 * gates * units, count((batch, length)), widths)


@flop_rule("Bidirectional")
def _both_ways(call: MeasuredCall) -> Quantity | None:
    ways = [_inner(call, which) for which in ("layer", "backward_layer")]
    counted = [operations for operations in ways if operations is not None]
    return total_of(counted) if len(counted) == len(ways) else None


@flop_rule("TimeDistributed")
def _in_every_step(call: MeasuredCall) -> Quantity | None:
    """What the layer inside does, for which the steps are a larger batch."""
    return _inner(call, "layer")


def _inner(call: MeasuredCall, which: str) -> Quantity | None:
    inner = call.node.config[which]
    node = replace(call.node, class_name=inner["class_name"], bases=(), config=inner["config"])
    return flops_of(replace(call, node=node))
