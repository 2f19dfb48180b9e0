"""Values of the calls of a graph that depend on shapes alone, such as masks of positions.

They are computed with NumPy. No name of a call decides. What depends on the values of inputs or on
weights hides nothing here: that is padding, or a bias.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from typing import Any, NamedTuple

from plots.graph import Constant, Edge, Graph, Node, Shape
from plots.layers import JOINS, is_identity_like
from plots.traversal import Reachability

_FREE = 7
"""Size of an axis of variable size."""


_MOST = 2_000_000
"""Most numbers of one tensor that are computed."""


HIDDEN = -1e3
"""Largest score of a key that is masked."""


class Triangle(NamedTuple):
    """A pattern of a triangular mask.

    Attributes:
        is_added: Whether it holds 0 and large negative numbers, not 1 and 0.
        is_upper: Whether keys from a diagonal on are seen, or else those up to it.
        k: The diagonal: 0 for that of keys at the position of the query, 1 for the next one.
    """

    is_added: bool
    is_upper: bool
    k: int

    def seen(self, queries: int, keys: int) -> Any:
        """Return which keys each query sees, as a boolean array (queries, keys)."""
        import numpy as np

        lower = np.tri(queries, keys, self.k - self.is_upper, dtype=bool)
        return ~lower if self.is_upper else lower


TRIANGLES = {
    "lower triangular": Triangle(False, False, 0),
    "strictly lower triangular": Triangle(False, False, -1),
    "lower triangular and the diagonal above": Triangle(False, False, 1),
    "upper triangular": Triangle(False, True, 0),
    "strictly upper triangular": Triangle(False, True, 1),
    "hides the upper triangle": Triangle(True, False, 0),
    "hides the upper triangle and the diagonal": Triangle(True, False, -1),
    "hides the upper triangle but the first diagonal": Triangle(True, False, 1),
    "hides the lower triangle": Triangle(True, True, 0),
    "hides the lower triangle and the diagonal": Triangle(True, True, 1),
}
"""Patterns of triangular masks."""


VALUE_PATTERNS = (*TRIANGLES, "ones", "zeros", "counting")
"""Patterns of arrays (`Constant.pattern`), and traits of layers, that tell all values."""


class NeutralError(Exception):
    """A value depends on the values of inputs or on weights."""


class UnknownError(NeutralError):
    """A value may be anything."""


def sizes_of(shape: Shape) -> tuple[int, ...]:
    """Return the sizes of a shape, with one for its free axes."""
    sizes = tuple(_FREE if size is None else size for size in shape)
    if math.prod(sizes) > _MOST:
        raise UnknownError
    return sizes


def array_of(pattern: str, shape: Shape) -> Any:
    """Return an array with a pattern of `VALUE_PATTERNS`."""
    import numpy as np

    sizes = sizes_of(shape)
    if pattern in ("zeros", "ones"):
        return np.full(sizes, float(pattern == "ones"))
    if pattern == "counting":
        return np.arange(math.prod(sizes), dtype=float).reshape(sizes)
    if pattern in TRIANGLES:
        seen = np.broadcast_to(TRIANGLES[pattern].seen(*sizes[-2:]), sizes)
        return np.where(seen, 0.0, -1e9) if TRIANGLES[pattern].is_added else seen * 1.0
    raise UnknownError


class ShapeValues:
    """Values of the calls of a graph that depend on shapes alone, with scores of zero.

    Attributes:
        is_unsure: Whether a value that may be anything was taken to hide nothing.
    """

    def __init__(self, graph: Graph, flow: Reachability) -> None:
        self.graph = graph
        self.flow = flow
        self.is_unsure = False
        self._known: dict[tuple[str, int], Any] = {}

    def visible_in_one_call(self, masks: Sequence[Edge], constants: Sequence[Constant]) -> Any:
        """Return which keys the masks of a layer or fused operation leave visible, or None."""
        found = []
        for edge in masks:
            if len(edge.tensor.shape) > 2 or edge.port in ("attention_mask", "bias"):
                try:
                    value = self.of(edge.source, edge.output)
                except NeutralError as error:
                    self.is_unsure |= isinstance(error, UnknownError)
                    continue
                found.append(value > HIDDEN if edge.port == "bias" else value > 0)
        for constant in constants:
            if sum(size != 1 for size in constant.shape or ()) > 1:
                try:
                    value = self._of_constant(constant)
                except NeutralError:
                    self.is_unsure = True
                    continue
                is_bias = constant.port == "bias"
                found.append(value > HIDDEN if is_bias else value > 0)
        return reduce(lambda a, b: a & b, found) if found else None

    def of(self, node_id: str, output: int, as_softmax: bool = False) -> Any:
        """Return an output of a call, or the input of a softmax.

        Raises:
            NeutralError: if it depends on the values of inputs or on weights, or is unknown.
        """
        key = (node_id, -1 if as_softmax else output)
        if key not in self._known:
            try:
                self._known[key] = self._compute(self.graph.node(node_id), output, as_softmax)
            except NeutralError as error:
                self._known[key] = error
            except (ArithmeticError, IndexError, KeyError, TypeError, ValueError):
                self._known[key] = UnknownError()
        if isinstance(self._known[key], NeutralError):
            raise self._known[key]
        return self._known[key]

    def _compute(self, node: Node, output: int, as_softmax: bool) -> Any:
        import numpy as np

        shape = node.outputs[output].shape
        pattern = next((trait for trait in node.traits if trait in VALUE_PATTERNS), "")
        if pattern or node.operation in ("OnesLike", "ZerosLike"):
            return array_of(pattern or node.class_name.removesuffix("Like").lower(), shape)
        if node.role == "causal_mask":
            return array_of("lower triangular", shape)
        if node.role == "padding_mask":
            raise NeutralError
        if node.kind == "input":
            raise (NeutralError if len(shape) < 3 else UnknownError)
        if node.parameters or node.shared_parameters or "positions" in node.role:
            raise NeutralError
        if as_softmax:
            arguments = self._arguments(node)
            mask: Any = arguments.get("mask")
            scores = next(value for port, value in arguments.items() if port != "mask")
            if isinstance(scores, NeutralError):
                self.neutral(scores)
                scores = np.zeros(sizes_of(shape))
            if isinstance(mask, NeutralError):
                self.neutral(mask)
            hides = mask is not None and not isinstance(mask, NeutralError)
            if hides and node.role and 2 < np.ndim(mask) < len(shape):
                mask = np.expand_dims(mask, 1)  # (b, t, s), the same for all heads
            return np.where(np.asarray(mask) > 0, scores, -1e9) if hides else scores
        joins = [JOINS[trait] for trait in node.traits if trait in JOINS]
        joins += ["Add"] if node.role == "add" else []
        rule = _RULES.get(joins[0] if joins else node.operation)
        if rule is None and is_identity_like(node) and node.operation != "Negative":
            return self._first(node)
        if rule is None:
            depends = self.flow.depends_on_input(node.id)
            is_open = bool(node.role) or not (node.call_class or node.kind == "model")
            # A product of tensors, as of queries and keys, or a layer of Keras.
            raise (NeutralError if depends and is_open else UnknownError)
        return self._checked(node, rule(self, node, self._arguments(node)), shape)

    def _checked(self, node: Node, value: Any, shape: Shape) -> Any:
        import numpy as np

        sizes = sizes_of(shape)
        return np.broadcast_to(value, sizes) if np.ndim(value) <= len(sizes) else value

    def _first(self, node: Node) -> Any:
        edge = self.graph.incoming[node.id][0]
        return self.of(edge.source, edge.output)

    def _arguments(self, node: Node) -> dict[str, Any]:
        """Return the arguments of a call by port; an error in the place of one without value."""
        found: dict[str, Any] = {}
        for edge in self.graph.incoming[node.id]:
            try:
                found[edge.port] = self.of(edge.source, edge.output)
            except NeutralError as error:
                found[edge.port] = error
        for constant in node.constants:
            try:
                found[constant.port] = self._of_constant(constant, node.outputs[0].shape)
            except NeutralError as error:
                found[constant.port] = error
        return found

    def _of_constant(self, constant: Constant, result: Shape = ()) -> Any:
        """Return the value of a constant.

        Along axes that are free in `result`, a constant of an opened layer has the size for which
        the layer was traced.
        """
        if constant.shape:
            is_weight = constant.digest is None and not constant.pattern
            if is_weight or constant.pattern == "biases by distance":
                raise NeutralError
            shape: Shape = constant.shape
            if constant.pattern in VALUE_PATTERNS and 1 < len(shape) <= len(result):
                axes = zip(shape, result[len(result) - len(shape) :], strict=True)
                shape = tuple(None if free is None and size != 1 else size for size, free in axes)
            return array_of(constant.pattern, shape)
        return constant.value

    def neutral(self, *errors: Any) -> None:
        """Note that values hide nothing, as far as it is known."""
        self.is_unsure |= any(isinstance(error, UnknownError) for error in errors)


_Rule = Callable[[ShapeValues, Node, Mapping[str, Any]], Any]


def _operands(arguments: Mapping[str, Any]) -> list[Any]:
    return [value for port, value in sorted(arguments.items()) if port != "training"]


def _known(*values: Any) -> None:
    for value in values:
        if isinstance(value, NeutralError):
            raise value


def _joined(name: str, is_mask: bool) -> _Rule:
    """Return the rule of an operation of several operands; unknown ones are left out of a sum."""

    def rule(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
        import numpy as np

        operands = _operands(arguments)
        known = [value for value in operands if not isinstance(value, NeutralError)]
        if len(known) < len(operands):
            unknown = [value for value in operands if isinstance(value, NeutralError)]
            if not known or not is_mask or all(np.ndim(value) == 0 for value in known):
                raise next((e for e in unknown if isinstance(e, UnknownError)), unknown[0])
            values.neutral(*unknown)
        return reduce(getattr(np, name), [np.asarray(value, float) for value in known])

    return rule


def _numpy(name: str, *ports: str) -> _Rule:
    def rule(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
        import numpy as np

        operands = [arguments[port] for port in ports] if ports else _operands(arguments)
        _known(*operands)
        return getattr(np, name)(*(np.asarray(value, float) for value in operands)) * 1.0

    return rule


def _subtract(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    first, second = _operands(arguments)
    if isinstance(second, NeutralError) and not isinstance(first, float | int | NeutralError):
        values.neutral(second)
        return first
    _known(first, second)
    return first - second


def _where(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    import numpy as np

    condition, first, second = (arguments[port] for port in ("condition", "x1", "x2"))
    for_scores = np.zeros(())
    first, second = (
        for_scores if isinstance(v, NeutralError) else np.asarray(v, float) for v in (first, second)
    )
    if isinstance(condition, NeutralError):  # padding: nothing is hidden
        values.neutral(condition)
        return np.maximum(first, second)
    return np.where(np.asarray(condition) != 0, first, second)


def _triangle(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    import numpy as np

    given, k = arguments["x"], node.config.get("k", 0)
    _known(given)
    return np.tril(given, k) if node.class_name == "Tril" else np.triu(given, k)


def _concatenate(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    """Return joined scores; those that depend on values hide nothing."""
    import numpy as np

    parts = []
    for edge in values.graph.incoming[node.id]:
        value = arguments[edge.port]
        if isinstance(value, NeutralError):
            values.neutral(value)
            value = np.zeros(())
        parts.append(np.broadcast_to(value, sizes_of(edge.tensor.shape)))
    return np.concatenate(parts, axis=node.config.get("axis", -1))


def _cumsum(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    import numpy as np

    _known(arguments["x"])
    return np.cumsum(arguments["x"], axis=node.config.get("axis"))


def _expand(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    import numpy as np

    _known(arguments["x"])
    axis = node.config["axis"]
    return np.expand_dims(arguments["x"], tuple(axis) if isinstance(axis, list) else axis)


def _to_shape(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    (given,) = _operands(arguments)
    _known(given)
    return given.reshape(sizes_of(node.outputs[0].shape))


def _broadcast(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    _known(arguments["x"])
    return arguments["x"]


def _permuted(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    import numpy as np

    (given,) = _operands(arguments)
    _known(given)
    if node.class_name == "Swapaxes":
        return np.swapaxes(given, node.config["axis1"], node.config["axis2"])
    dims = node.config.get("dims")
    return np.transpose(given, [0, *dims] if dims else node.config.get("axes"))


def _item(values: ShapeValues, node: Node, arguments: Mapping[str, Any]) -> Any:
    _known(arguments["x"])
    given, rank = arguments["x"], len(node.outputs[0].shape)
    keys = {int(p.partition(".")[2] or 0): v for p, v in arguments.items() if p != "x"}
    parts: list[Any] = [_key(keys.get(place)) for place in range(max(keys, default=-1) + 1)]
    found = given[tuple(parts)]
    while found.ndim < rank:  # a None at the end of the key leaves no trace
        found = found[..., None] if Ellipsis in parts else found[(*parts, None)]
        parts.append(None)
    return found


def _key(value: Any) -> Any:
    if value is None or isinstance(value, int):
        return value
    if value == "...":
        return Ellipsis
    return slice(*(int(part) if part else None for part in str(value).split(":")))


_RULES: dict[str, _Rule] = {
    "Add": _joined("add", True),
    **dict.fromkeys(("Multiply", "LogicalAnd"), _joined("multiply", True)),
    "Minimum": _joined("minimum", True),
    **dict.fromkeys(("Maximum", "LogicalOr"), _joined("maximum", False)),
    **dict.fromkeys(("Divide", "TrueDivide"), _numpy("divide")),
    "Subtract": _subtract,
    "Greater": _numpy("greater"),
    "GreaterEqual": _numpy("greater_equal"),
    "Less": _numpy("less"),
    "LessEqual": _numpy("less_equal"),
    "Equal": _numpy("equal"),
    "NotEqual": _numpy("not_equal"),
    "LogicalNot": _numpy("logical_not"),
    "Negative": _numpy("negative"),
    "Abs": _numpy("abs"),
    "Absolute": _numpy("abs"),
    "Sign": _numpy("sign"),
    "Tanh": _numpy("tanh"),
    "Where": _where,
    "Tril": _triangle,
    "Triu": _triangle,
    "Concatenate": _concatenate,
    "Cumsum": _cumsum,
    "ExpandDims": _expand,
    "Reshape": _to_shape,
    "Squeeze": _to_shape,
    "BroadcastTo": _broadcast,
    "Transpose": _permuted,
    "Permute": _permuted,
    "Swapaxes": _permuted,
    "GetItem": _item,
}


def value_of(graph: Graph, flow: Reachability, node_id: str, output: int) -> Any:
    """Return the values of an output that depends on shapes alone; None if it does not."""
    values = ShapeValues(graph, flow)
    try:
        found = values.of(node_id, output)
    except NeutralError:
        return None
    return None if values.is_unsure else found


def pattern_of_output(graph: Graph, flow: Reachability, node_id: str, output: int) -> str:
    """Return the pattern of an output that depends on shapes alone, one of `VALUE_PATTERNS`."""
    found = value_of(graph, flow, node_id, output)
    for pattern in VALUE_PATTERNS[:-1]:
        if found is not None and found.ndim > 1 and _is(found, array_of(pattern, found.shape)):
            return pattern
    return ""


def _is(found: Any, other: Any) -> bool:
    import numpy as np

    return np.array_equal(found > HIDDEN, other > HIDDEN) and np.array_equal(found > 0, other > 0)
