"""Rules on numbers: logarithms and roots of what may be 0, and exponentials that overflow."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plots.diagnosis.activations import CLIPPED, activation_of, last_call
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import finding_rule, remark_rule
from plots.graph import Edge, Graph, Node
from plots.layers import (
    LINEAR_PROJECTIONS,
    PRODUCTS,
    is_identity_like,
    is_softmax,
    is_subtraction,
)
from plots.softmaxes import float_inputs, softmax_axes
from plots.traversal import data_flow

_ROUNDED = "Goodfellow et al. 2016, Deep Learning, section 4.1"
_ROOT = "docs.jax.dev/en/latest/faq.html, gradients contain NaN where using where"


@remark_rule(
    "A logarithm of a softmax: {places:take} probabilities of {others}, which are 0 for scores far "
    "below the largest, so that the logarithm is minus infinity. Take ops.log_softmax.",
    _ROUNDED,
)
def log_of_softmax(graph: Graph) -> Iterator[tuple[str, str]]:
    """The logarithm of a softmax, which is minus infinity where that is rounded to 0."""
    for node in graph.of_operation("Log"):
        if len(graph.incoming[node.id]) == 1:
            before = past_dropouts(graph, graph.incoming[node.id][0])
            if before is not None and activation_of(before) == "softmax":
                yield node.id, before.id


@finding_rule(
    "A logarithm of 0: {places:take} numbers of {others}, which may be 0, so that the result is "
    "minus infinity. Add a small number first, or take ops.log1p.",
    _ROUNDED,
)
def log_of_zero(graph: Graph) -> Iterator[tuple[str, str]]:
    """The logarithm of numbers that may be 0: of a ReLU, or of squares of an input."""
    flow = data_flow(graph)
    for node in graph.of_operation("Log", "Log10", "Log2"):
        if len(graph.incoming[node.id]) != 1:
            continue
        before = past_dropouts(graph, graph.incoming[node.id][0])
        while before is not None and before.operation in ("Mean", "Sum"):
            before = past_dropouts(graph, graph.incoming[before.id][0])
        if before is None or not flow.depends_on_input(before.id):
            continue
        is_square = before.operation in ("Abs", "Absolute", "Square") or _is_square(graph, before)
        sources = [graph.node(i) for i in (before.id, *flow.ancestors(before.id))]
        is_of_input = is_square and not any(source.parameters for source in sources)
        if is_of_input or activation_of(before) in CLIPPED:
            yield node.id, before.id


def _is_square(graph: Graph, node: Node) -> bool:
    """Return whether a call returns even powers of what it takes, or its product with itself."""
    exponents = [c.value for c in node.constants if isinstance(c.value, int | float)]
    edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
    if node.operation == "Power":
        return len(edges) == 1 and len(exponents) == 1 and exponents[0] in (2, 4)
    ends = {(edge.source, edge.output) for edge in edges}
    return node.is_a({"Multiply"}) and len(edges) == 2 and len(ends) == 1


@finding_rule(
    "A root of 0: {places:take} the distance of two outputs of the same layers, which is 0 for two "
    "equal inputs, where the gradient of the root is infinite, and NaN after a product with 0. "
    "Add a small number before the root.",
    _ROOT,
)
def root_of_zero(graph: Graph) -> Iterator[tuple[str, str]]:
    """The distance of two outputs of the same layers is a root without a small number."""
    for node in graph.of_operation("Norm", "Sqrt"):
        is_root = node.operation == "Sqrt" or node.config.get("ord") in (None, 2, "fro")
        if not is_root or len(graph.incoming[node.id]) != 1:
            continue
        before = graph.node(graph.incoming[node.id][0].source)
        while before.operation in ("Mean", "Square", "Sum") or _is_square(graph, before):
            before = graph.node(graph.incoming[before.id][0].source)
        terms = [last_call(graph, edge.source).layer for edge in graph.incoming[before.id]]
        if is_subtraction(before) and len(terms) == 2 and len({*terms}) == 1:
            yield node.id, before.id


@remark_rule(
    "A softmax in steps: {places} divides exponentials by their sum, and {others:take} scores "
    "without a limit: above 88 the exponential is infinite in float32, above 11 in float16, and "
    "the result NaN. Take ops.softmax, which subtracts the largest score.",
    _ROUNDED,
)
def bare_exponential(graph: Graph) -> Iterator[tuple[str, str]]:
    """A softmax in steps, exp(x) / sum(exp(x)), of scores without a limit."""
    for node in graph.nodes:
        if not is_softmax(node) and softmax_axes(graph, node):
            exponential = _exponential(graph, node)
            if exponential and _is_unlimited(graph, exponential):
                yield node.id, exponential.id


def _exponential(graph: Graph, node: Node) -> Node | None:
    """Return the exponential that a softmax in steps begins with."""
    before: Node | None = node
    while before is not None and before.operation != "Exp":
        floats = float_inputs(graph, before)
        before = graph.node(floats[0].source) if floats else None
    return before


def _is_unlimited(graph: Graph, exponential: Node) -> bool:
    """Return whether an exponential takes sums of products, past factors and constants."""
    edges: Sequence[Edge] = graph.incoming[exponential.id]
    while len(edges) == 1:
        node = graph.node(edges[0].source)
        if node.is_a(LINEAR_PROJECTIONS) or node.operation in PRODUCTS | {"Sum"}:
            return activation_of(node) in ("", "linear", "relu")
        if not (is_identity_like(node) or node.operation in ("Divide", "TrueDivide", "Where")):
            return False
        edges = float_inputs(graph, node)
    return False
