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
from plots.axes.unions import CallWithAxes
from plots.costs.zero_cost import LAYERS, is_zero_cost
from plots.declarations import axis_labels, declared_tensors, product_labels
from plots.graph import Node
from plots.layers import ClassRules, is_norm, is_reversed_embedding

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
    return flops.without(*(f"activation {name}" for name in own_activations(node.config)))


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


def own_activations(config: Mapping[str, Any]) -> Iterator[str]:
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
    return total(product(sizes, *labels) for labels in product_labels(declaration, sizes))


def product(
    sizes: Mapping[str, Quantity], left: Sequence[str], right: Sequence[str], result: Sequence[str]
) -> Quantity:
    """Return 2 x the sizes of all letters but those of one operand only; 0 if none is summed."""
    both = {*left} & {*right}
    if both <= {*result}:
        return Quantity()
    return prod((sizes[label] for label in sorted(both | {*result})), start=Quantity(2))
