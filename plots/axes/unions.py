"""Which axes of a graph's tensors are one and the same: a union-find over axes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from fractions import Fraction
from math import floor

from plots.axes.calls import CallWithAxes

AxisId = int
Formula = tuple[tuple[Fraction, tuple[AxisId, ...]], ...]
"""The size of an axis from those of others: a sum of (factor, axes whose sizes are multiplied)."""


class AxisUnions:
    """Axes by number, put together as calls turn out to hand them on.

    Attributes:
        roles: (letter of the glossary, axis) where a call says what an axis is.
        attends: (query length, key length) of every attention.
        splits: Axes that one axis was split into, such as the heads and the width of a head.
        projections: (from, to) of every product with a matrix of weights.
        multiplied: Axes of tensors that were multiplied with each other, not with weights.
        products: Of these products, (axes that both factors and the product have, all others).
    """

    def __init__(self) -> None:
        self.roles: list[tuple[str, AxisId]] = []
        self.attends: list[tuple[AxisId, AxisId]] = []
        self.splits: list[tuple[AxisId, ...]] = []
        self.projections: list[tuple[AxisId, AxisId]] = []
        self.multiplied: list[AxisId] = []
        self.products: list[tuple[tuple[AxisId, ...], tuple[AxisId, ...]]] = []
        self._above: list[AxisId] = []
        self._sizes: list[int | None] = []
        self._formulas: dict[AxisId, Formula] = {}
        self._named: dict[tuple[str | AxisId, ...], AxisId] = {}

    def new(self, size: int | None = None) -> AxisId:
        """A new axis, so far the same as no other; a size of None is free."""
        self._above.append(len(self._above))
        self._sizes.append(size)
        return self._above[-1]

    def find(self, axis: AxisId) -> AxisId:
        """The one axis that stands for all that are the same."""
        while self._above[axis] != axis:
            self._above[axis] = self._above[self._above[axis]]
            axis = self._above[axis]
        return axis

    def size(self, axis: AxisId) -> int | None:
        """Its size; None where it is free."""
        return self._sizes[self.find(axis)]

    def formula(self, axis: AxisId) -> Formula | None:
        """What its size is reckoned from, if a call has said so."""
        return self._formulas.get(self.find(axis))

    def same(self, first: AxisId, second: AxisId) -> None:
        """Say that two axes are one; nothing happens if they have different sizes."""
        first, second = sorted((self.find(first), self.find(second)))
        sizes = {self._sizes[first], self._sizes[second]} - {None}
        if first == second or len(sizes) > 1:
            return
        self._above[second] = first
        self._sizes[first] = next(iter(sizes), None)
        if second in self._formulas:
            self._formulas.setdefault(first, self._formulas.pop(second))

    def all_same(self, first: Iterable[AxisId], second: Iterable[AxisId]) -> None:
        """Say that axes are the same one by one, as far as both go."""
        for a, b in zip(first, second, strict=False):
            self.same(a, b)

    def broadcast(self, given: Iterable[AxisId], result: AxisId) -> None:
        """Say that `result` is what axes at the same place of several tensors broadcast to.

        A free axis next to one of a known size may be that one or of size 1, so it is left alone.
        """
        wide = [axis for axis in given if self.size(axis) != 1] or list(given)
        known = [axis for axis in wide if self.size(axis) is not None]
        if known or self.size(result) is None:
            for axis in known or wide:
                self.same(axis, result)

    def stretch(self, given: AxisId, result: AxisId) -> None:
        """Say that one axis is broadcast to another: the same, unless it is of size 1."""
        if self.size(given) != 1:
            self.same(given, result)

    def derive_size(self, axis: AxisId, *terms: tuple[Fraction | int, tuple[AxisId, ...]]) -> None:
        """Say how a free axis has its size from those of others: terms as in `Formula`."""
        formula = tuple((Fraction(factor), axes) for factor, axes in terms if factor)
        if len(formula) == 1 and formula[0][0] == 1 and len(formula[0][1]) == 1:
            self.same(axis, formula[0][1][0])
        elif self.size(axis) is None:
            size = Fraction(0)
            for factor, axes in formula:
                for other in axes:
                    factor *= Fraction(self.size(other) or 0)
                size += factor
            if all(self.size(other) is not None for _, axes in formula for other in axes):
                self._sizes[self.find(axis)] = floor(size)
            else:
                self._formulas.setdefault(self.find(axis), formula)

    def named(self, *name: str | AxisId, size: int | None = None) -> AxisId:
        """The axis with this name, made when first asked for, such as one of a layer's weights."""
        if name not in self._named:
            self._named[name] = self.new(size)
        return self._named[name]

    def folded(self, first: AxisId, second: AxisId) -> AxisId:
        """The axis that two become which are folded into one."""
        axis = self.named("folded", self.find(first), self.find(second))
        self.derive_size(axis, (1, (first, second)))
        return axis


@dataclass(frozen=True)
class Call(CallWithAxes[AxisId]):
    """A call as rules about axes see it.

    Attributes:
        axes: Where to say which of its axes are the same.
    """

    axes: AxisUnions

    def size(self, axis: AxisId) -> int | None:
        """Size of an axis; None where it is free."""
        return self.axes.size(axis)

    def weight_axis(self, name: str, like: AxisId) -> AxisId:
        """An axis of the layer's weights, the same for all of its calls; it is one with `like`."""
        axis = self.axes.named(self.node.layer, name)
        self.axes.same(axis, like)
        return axis
