"""Equal axes of the tensors of a graph: a union-find over axes, and calls with axes.

(NetworkX has a `UnionFind`, but it cannot keep a size for each set, or refuse a union.)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import floor, prod
from typing import Generic, TypeVar

from plots.declarations import parse_equation
from plots.graph import Node

AxisId = int
SomeAxis = TypeVar("SomeAxis")
Formula = tuple[tuple[Fraction, tuple[AxisId, ...]], ...]
"""The size of an axis as a sum of (factor, axes whose sizes are multiplied)."""


class AxisUnions:
    """Axes by number, united as calls pass them on.

    Attributes:
        roles: (letter of the glossary, axis) where a call names an axis.
        attends: (query length, key length) of calls that have both, besides `find_attentions`.
        splits: Axes that one axis was split into, such as the heads and the width of a head.
        projections: (from, to) of every product with a kernel.
        products: (axes of both factors and the result, all other axes) of every product of
            tensors with each other.
    """

    def __init__(self) -> None:
        self.roles: list[tuple[str, AxisId]] = []
        self.attends: list[tuple[AxisId, AxisId]] = []
        self.splits: list[tuple[AxisId, ...]] = []
        self.projections: list[tuple[AxisId, AxisId]] = []
        self.products: list[tuple[tuple[AxisId, ...], tuple[AxisId, ...]]] = []
        self._parents: list[AxisId] = []
        self._sizes: list[int | None] = []
        self._formulas: dict[AxisId, Formula] = {}
        self._named: dict[tuple[str | AxisId, ...], AxisId] = {}

    def new(self, size: int | None = None) -> AxisId:
        """Add an axis; its size is None if it is free."""
        self._parents.append(len(self._parents))
        self._sizes.append(size)
        return self._parents[-1]

    def find(self, axis: AxisId) -> AxisId:
        """Return the axis that represents all axes united with this one."""
        while self._parents[axis] != axis:
            self._parents[axis] = self._parents[self._parents[axis]]
            axis = self._parents[axis]
        return axis

    def size(self, axis: AxisId) -> int | None:
        """Return the size of an axis; None if it is free."""
        return self._sizes[self.find(axis)]

    def formula(self, axis: AxisId) -> Formula | None:
        """Return the formula of an axis whose size a call derives from those of others."""
        return self._formulas.get(self.find(axis))

    def unite(self, first: AxisId, second: AxisId) -> None:
        """Unite two axes, unless they have different sizes."""
        first, second = sorted((self.find(first), self.find(second)))
        sizes = {self._sizes[first], self._sizes[second]} - {None}
        if first == second or len(sizes) > 1:
            return
        self._parents[second] = first
        self._sizes[first] = next(iter(sizes), None)
        if second in self._formulas:
            self._formulas.setdefault(first, self._formulas.pop(second))

    def unite_all(self, first: Iterable[AxisId], second: Iterable[AxisId]) -> None:
        """Unite axes pairwise, up to the end of the shorter sequence."""
        for a, b in zip(first, second, strict=False):
            self.unite(a, b)

    def broadcast(self, given: Iterable[AxisId], result: AxisId) -> None:
        """Unite `result` with the axes of several tensors that broadcast to it.

        A free axis next to one of a known size may be that one or of size 1, so it stays apart.
        """
        wide = [axis for axis in given if self.size(axis) != 1] or list(given)
        known = [axis for axis in wide if self.size(axis) is not None]
        if known or self.size(result) is None:
            for axis in known or wide:
                self.unite(axis, result)

    def stretch(self, given: AxisId, result: AxisId) -> None:
        """Unite an axis with the one that it broadcasts to, unless it is of size 1."""
        if self.size(given) != 1:
            self.unite(given, result)

    def derive_size(self, axis: AxisId, *terms: tuple[Fraction | int, tuple[AxisId, ...]]) -> None:
        """Derive the size of a free axis from those of others; terms are those of a `Formula`."""
        formula = tuple((Fraction(factor), axes) for factor, axes in terms if factor)
        if len(formula) == 1 and formula[0][0] == 1 and len(formula[0][1]) == 1:
            self.unite(axis, formula[0][1][0])
        elif self.size(axis) is None:
            if any(self.size(other) is None for _, axes in formula for other in axes):
                self._formulas.setdefault(self.find(axis), formula)
            else:
                products = (f * prod(self.size(a) or 0 for a in axes) for f, axes in formula)
                self._sizes[self.find(axis)] = floor(sum(products))

    def named(self, *name: str | AxisId, size: int | None = None) -> AxisId:
        """Return the axis with this name, such as one of a layer's weights; add it if it is new."""
        if name not in self._named:
            self._named[name] = self.new(size)
        return self._named[name]


@dataclass(frozen=True)
class CallWithAxes(Generic[SomeAxis]):
    """A call with the axes of its inputs and outputs.

    Attributes:
        node: The call.
        inputs: Axes of every input tensor by port, in the order of the arguments.
        outputs: Axes of every output tensor.
    """

    node: Node
    inputs: Mapping[str, tuple[SomeAxis, ...]]
    outputs: tuple[tuple[SomeAxis, ...], ...]

    @property
    def first(self) -> tuple[SomeAxis, ...]:
        """Axes of the first input; StopIteration if there is none."""
        return next(iter(self.inputs.values()))

    @property
    def output(self) -> tuple[SomeAxis, ...]:
        """Axes of the first output."""
        return self.outputs[0]

    def match(
        self, equation: str, operands: Sequence[tuple[SomeAxis, ...] | None]
    ) -> tuple[list[list[str]], list[tuple[str, SomeAxis]]]:
        """Return the labels of an einsum equation, and (label, axis) of its tensors and the output.

        Operands that are not tensors, such as kernels, are None.
        """
        ranks = [None if axes is None else len(axes) for axes in operands]
        labels = parse_equation(equation, [*ranks, len(self.output)])
        tensors = zip(labels, [*operands, self.output], strict=True)
        pairs = (zip(names, axes, strict=True) for names, axes in tensors if axes is not None)
        return labels, [*chain.from_iterable(pairs)]


@dataclass(frozen=True)
class Call(CallWithAxes[AxisId]):
    """A call as rules about axes see it; they unite axes in `axes`."""

    axes: AxisUnions

    def size(self, axis: AxisId) -> int | None:
        """Return the size of an axis; None if it is free."""
        return self.axes.size(axis)

    def weight_axis(self, name: str, like: AxisId) -> AxisId:
        """Return an axis of the layer's weights, shared by all of its calls, united with `like`."""
        axis = self.axes.named(self.node.layer, name)
        self.axes.unite(axis, like)
        return axis
