"""What plugins say about a graph: numbers on its calls, words about places, and its skip paths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from typing import Literal, TypeVar

Quantity = Mapping[str, float]
"""A polynomial in free sizes: monomial -> coefficient.

Monomials are letters in alphabetical order with spaces between ("b t t" is b t²), and "" for a
constant.
"""

Number = TypeVar("Number", float, Fraction)

NormPlace = Literal["branch_start", "branch_end", "stream"]
"""First on the branch, last on the branch, or on the stream right after the merge."""

Placement = Literal["pre", "post", "sandwich", "branch_end", "none"]
"""How a residual block is normalised; see `SkipPath.placement`."""


@dataclass(frozen=True, slots=True)
class SkipPath:
    """One way past one or more sublayers.

    Attributes:
        source: Id of the call where the branch leaves the stream.
        target: Id of the merge where it comes back.
        through: Ids of the calls on the path between the two, in order (a dropout, a projection);
            most often none.
        bypassed: Ids of the calls that the path leads past, in the graph's order.
        norms: Where norms lie: first or last on the branch, on the stream.
        projected: Whether `through` holds more than identities, such as the 1x1 convolution on
            the shortcut of a ResNet, so that the input does not arrive unchanged.
    """

    source: str
    target: str
    through: tuple[str, ...]
    bypassed: tuple[str, ...]
    norms: tuple[NormPlace, ...]
    projected: bool = False

    @property
    def line(self) -> tuple[str, ...]:
        """Ids along the path, both ends included."""
        return (self.source, *self.through, self.target)

    @property
    def norm_on_stream(self) -> bool:
        """Whether what goes on from the merge is normalised first (post-norm)."""
        return "stream" in self.norms

    @property
    def norm_on_branch(self) -> bool:
        """Whether a norm is first or last on the branch, and the stream leads past it."""
        return "branch_start" in self.norms or "branch_end" in self.norms

    @property
    def placement(self) -> Placement:
        """The norm's place in the words of the field.

        "post" (stream), "pre" (branch start), "sandwich" (branch start and end), "branch_end"
        (only there), or "none".
        """
        if "stream" in self.norms:
            return "post"
        if "branch_start" in self.norms:
            return "sandwich" if "branch_end" in self.norms else "pre"
        return "branch_end" if "branch_end" in self.norms else "none"


@dataclass(frozen=True, slots=True)
class Overlay:
    """One quantity, counted or measured for calls or edges: a line in every box, and its colour.

    Attributes:
        name: Unique in the graph, such as "parameters" or "gradients".
        title: What a legend says, such as "parameters" or "RMS of the gradient".
        unit: What comes after a number: "", "B", "FLOP".
        values: Id of a call, or of an edge (`Edge.id`) -> its quantity.
        whole: The quantity of the whole model, of which shares are reckoned. Not always the sum of
            `values`: of a folded run of blocks only one is still there.
        combine: How the value of a folded group comes from those of its calls: their "sum", or the
            "last" one, which is that of what comes out of the group.
        scale: Whether colours follow the numbers or their logarithms.
        sizes: Values of letters at which polynomials are evaluated for shares and colours.
    """

    name: str
    title: str
    unit: str
    values: Mapping[str, Quantity] = field(hash=False)
    whole: Quantity = field(default_factory=dict, hash=False)
    combine: Literal["sum", "last"] = "sum"
    scale: Literal["linear", "log"] = "linear"
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)

    def number(self, quantity: Quantity) -> float:
        """A quantity at `sizes`; letters that are not there count as 1."""
        return sum(
            coefficient * prod(self.sizes.get(letter, 1) for letter in monomial.split())
            for monomial, coefficient in quantity.items()
        )

    def share(self, place: str) -> float:
        """The part of the whole that the call or edge with this id has, from 0 to 1, at `sizes`."""
        whole = self.number(self.whole)
        return self.number(self.values.get(place, {})) / whole if whole else 0.0

    def text(self, place: str) -> str:
        """What a box says: "1.18 MFLOP b t", and if there is a whole the share: "590 k (7.2 %)"."""
        said = quantity_text(self.values[place], self.unit)
        return f"{said} ({percent_text(self.share(place))})" if self.whole else said


DIFFERENCES = ("added", "removed", "moved", "changed", "reshaped", "rewired")
"""Kinds of notes on what is different from another graph."""


@dataclass(frozen=True, slots=True)
class Note:
    """Words about some places of a graph, or about the whole.

    Attributes:
        kind: What sort of note it is: "finding", "deviates", one of `DIFFERENCES`, "difference" for
            the sum of them, or a plugin's own word. Pictures have a colour for each.
        about: Ids of the calls and edges that it is about; none for the whole graph.
        text: One or two sentences.
        reference: Where it can be read up (a paper and its section, an address), or "".
    """

    kind: str
    about: tuple[str, ...]
    text: str
    reference: str = ""

    @property
    def full_text(self) -> str:
        """The text with its reference in brackets."""
        return f"{self.text} ({self.reference})" if self.reference else self.text


def total_of(quantities: Iterable[Mapping[str, Number]]) -> dict[str, Number]:
    """The sum of polynomials, without terms that are zero."""
    total: dict[str, Number] = {}
    for quantity in quantities:
        for monomial, coefficient in quantity.items():
            there = total.get(monomial)
            total[monomial] = coefficient if there is None else there + coefficient
    return {monomial: total[monomial] for monomial in sorted(total) if total[monomial]}


def product_of(first: Mapping[str, Number], *others: Mapping[str, Number]) -> dict[str, Number]:
    """The product of polynomials, without terms that are zero."""
    product = total_of([first])
    for other in others:
        product = total_of(
            {" ".join(sorted(f"{left} {right}".split())): product[left] * other[right]}
            for left in product
            for right in other
        )
    return product


def quantity_text(quantity: Quantity, unit: str = "") -> str:
    """A polynomial as text, its largest power first: "1.57 kFLOP b t² + 1.18 MFLOP b t"."""
    terms = []
    for monomial in sorted(quantity, key=lambda m: (-len(m.split()), m)):
        letters = sorted(monomial.split(), key=str.lower)
        powers = [
            letter + ("" if letters.count(letter) == 1 else _superscript(letters.count(letter)))
            for letter in dict.fromkeys(letters)
        ]
        terms.append(" ".join([number_text(quantity[monomial], unit), *powers]))
    return " + ".join(terms) or number_text(0, unit)


def number_text(number: float, unit: str = "") -> str:
    """Three significant digits and the unit with its prefix: 590592 B is "591 kB", 0.0123 as is."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * factor:
            return f"{_three_digits(number / factor)} {prefix}{unit}"
    return f"{_three_digits(number)} {unit}".strip()


def counted(number: int, noun: str) -> str:
    """A number with its noun: "1 call", "1,200 calls"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent_text(share: float) -> str:
    """A share from 0 to 1 as "7.2 %"; what is there but rounds to nothing as "< 0.1 %"."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _three_digits(number: float) -> str:
    text = f"{number:.3g}"
    return f"{float(text):.0f}" if "e+" in text else text


def _superscript(power: int) -> str:
    return "".join("⁰¹²³⁴⁵⁶⁷⁸⁹"[int(digit)] for digit in str(power))
