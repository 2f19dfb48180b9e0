"""Annotations that plugins add to graphs: overlays of quantities, notes, and skip paths."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from math import prod
from types import MappingProxyType
from typing import Any, Literal


class Quantity(Mapping[str, float]):
    """A polynomial in free sizes: monomial -> coefficient, such as {"b t t": 2, "": 3}.

    Monomials are letters in alphabetical order with spaces between ("b t t" is b t²), and "" for a
    constant. Immutable; a quantity is equal to a dict with the same terms. Sums and products leave
    out terms that are zero.

    A quantity that leaves something out is a lower bound. `missing` names what is left out, sums
    and products keep it, and `text` says "at least". As a dict, and so in JSON, the names have the
    key "without".
    """

    __slots__ = ("_terms", "missing")

    def __init__(
        self,
        terms: Mapping[str, Any] | float | Fraction = MappingProxyType({}),
        missing: Iterable[str] = (),
    ) -> None:
        self._terms: dict[str, Any] = dict(terms) if isinstance(terms, Mapping) else {"": terms}
        known = terms.missing if isinstance(terms, Quantity) else self._terms.pop(WITHOUT, ())
        self.missing: frozenset[str] = frozenset([*known, *missing])

    def __getitem__(self, monomial: str) -> float:
        return self._terms[monomial]

    def __iter__(self) -> Iterator[str]:
        return iter(self._terms)

    def __len__(self) -> int:
        return len(self._terms)

    def __bool__(self) -> bool:
        return bool(self._terms or self.missing)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Mapping):
            return NotImplemented
        other = Quantity(other)
        return (self._terms, self.missing) == (other._terms, other.missing)

    def __hash__(self) -> int:
        return hash((frozenset(self._terms.items()), self.missing))

    def __repr__(self) -> str:
        return f"Quantity({self.as_dict()!r})"

    def __add__(self, other: Mapping[str, float] | float) -> Quantity:
        terms, other = dict(self), Quantity(other)
        for monomial, coefficient in other.items():
            terms[monomial] = terms.get(monomial, 0) + coefficient
        terms = {monomial: n for monomial, n in sorted(terms.items()) if n}
        return Quantity(terms, self.missing | other.missing)

    def __mul__(self, other: Mapping[str, float] | float | Fraction) -> Quantity:
        other = Quantity(other)
        product = Quantity({}, self.missing | other.missing)
        for right, factor in other.items():
            pairs = [(" ".join(sorted(f"{left} {right}".split())), self[left]) for left in self]
            product += {monomial: coefficient * factor for monomial, coefficient in pairs}
        return product

    def __sub__(self, other: Mapping[str, float] | float) -> Quantity:
        return self + Quantity(other) * -1

    __radd__ = __add__
    __rmul__ = __mul__

    def without(self, *parts: str) -> Quantity:
        """Return it as a lower bound that leaves out these parts, too."""
        return Quantity(self, parts)

    @property
    def is_counted(self) -> bool:
        """Whether it is informative: False for zero with uncounted parts."""
        return bool(self._terms) or not self.missing

    def as_dict(self) -> dict[str, Any]:
        """Return it as a dict that `Quantity` takes."""
        return {**self, **({WITHOUT: sorted(self.missing)} if self.missing else {})}

    @property
    def letters(self) -> frozenset[str]:
        """The letters in it."""
        return frozenset(letter for monomial in self for letter in monomial.split())

    def at(self, sizes: Mapping[str, float]) -> float:
        """Return its value at sizes of its letters; those without a size count as 1."""
        return sum(
            coefficient * prod(sizes.get(letter, 1) for letter in monomial.split())
            for monomial, coefficient in self.items()
        )

    def text(self, unit: str = "") -> str:
        """Return it as text, the largest power first: "1.57 kFLOP b t² + 1.18 MFLOP b t".

        A lower bound is "at least 30.7 kFLOP b".
        """
        terms = []
        for monomial in sorted(self, key=lambda monomial: (-len(monomial.split()), monomial)):
            powers = Counter(sorted(monomial.split(), key=str.lower))
            letters = [a + ("" if n == 1 else str(n).translate(_POWERS)) for a, n in powers.items()]
            terms.append(" ".join([number_text(self[monomial], unit), *letters]))
        text = " + ".join(terms).replace("+ -", "- ") or number_text(0, unit)
        return _AT_LEAST * bool(self.missing) + text

    def total_text(self, unit: str = "") -> str:
        """Return it as text with the uncounted parts: "at least 3 FLOP b (without Lambda)"."""
        return self.text(unit) + self.reason_text

    @property
    def reason_text(self) -> str:
        """The uncounted parts, in parentheses after a space: " (without Lambda and Map)"; or ""."""
        if not self.missing:
            return ""
        names = sorted(self.missing)
        if len(names) > _MAX_MISSING:
            names[_MAX_MISSING - 1 :] = [f"{len(names) - _MAX_MISSING + 1} more"]
        return f" (without {' and '.join(filter(None, [', '.join(names[:-1]), names[-1]]))})"


_AT_LEAST = "at least "
WITHOUT = "without"
_MAX_MISSING = 4
_POWERS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")

NormPlace = Literal["branch_start", "branch_end", "stream"]
"""First on the branch, last on the branch, or on the stream right after the merge."""

Placement = Literal["pre", "post", "sandwich", "branch_end", "none"]
"""Norm placement of a residual block; see `SkipPath.placement`."""


@dataclass(frozen=True, slots=True)
class SkipPath:
    """A residual connection around one or more sublayers.

    Attributes:
        source: Id of the call where the branch leaves the stream.
        target: Id of the merge where the branch ends.
        through: Ids of the calls on the skip path between the two, in order (a dropout, a
            projection); usually none.
        bypassed: Ids of the bypassed calls, in the order of the graph.
        norms: Positions of norms: first or last on the branch, or on the stream.
        projected: Whether `through` has more than identities, such as the 1x1 convolution on the
            shortcut of a ResNet.
        gated: Whether the stream is multiplied by a gate on its way, as in a highway network:
            g f(x) + (1 - g) x.
    """

    source: str
    target: str
    through: tuple[str, ...]
    bypassed: tuple[str, ...]
    norms: tuple[NormPlace, ...]
    projected: bool = False
    gated: bool = False

    @property
    def line(self) -> tuple[str, ...]:
        """Ids along the path, including both ends."""
        return (self.source, *self.through, self.target)

    @property
    def norm_on_stream(self) -> bool:
        """Whether a norm follows the merge (post-norm)."""
        return "stream" in self.norms

    @property
    def placement(self) -> Placement:
        """Norm placement: "post" (stream), "pre" (branch start), "sandwich" (branch start and end),
        "branch_end" (only there), or "none".
        """
        if "stream" in self.norms:
            return "post"
        if "branch_start" in self.norms:
            return "sandwich" if "branch_end" in self.norms else "pre"
        return "branch_end" if "branch_end" in self.norms else "none"


@dataclass(frozen=True, slots=True)
class Overlay:
    """One quantity of calls or edges, which diagrams show as a line and a colour of each node.

    Attributes:
        name: Unique in the graph, such as "parameters" or "gradients".
        title: The title in a legend, such as "parameters" or "RMS of the gradient".
        unit: The unit, such as "", "B" or "FLOP".
        values: Id of a call, or of an edge (`Edge.id`) -> its quantity; also given as a dict.
        whole: The quantity of the whole model, the denominator of shares. Not the sum of
            `values` in a folded graph, where one block stands for several.
        combine: How to combine the values of the calls in a group: their "sum", or the "last" one,
            that of the output of the group.
        scale: Whether colours follow the numbers or their logarithms.
        sizes: Values of letters at which polynomials are evaluated for shares and colours.
    """

    name: str
    title: str
    unit: str
    values: Mapping[str, Quantity] = field(hash=False)
    whole: Quantity = field(default_factory=Quantity, hash=False)
    combine: Literal["sum", "last"] = "sum"
    scale: Literal["linear", "log"] = "linear"
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        values = {place: Quantity(terms) for place, terms in self.values.items()}
        object.__setattr__(self, "values", values)
        object.__setattr__(self, "whole", Quantity(self.whole))

    def __repr__(self) -> str:
        return f"<Overlay {self.name!r}: {counted(len(self.values), 'value')} in {self.title}>"

    def number(self, quantity: Quantity) -> float:
        """Return a quantity at `sizes`; letters without a size count as 1."""
        return quantity.at(self.sizes)

    def share(self, place: str) -> float:
        """Return the share of a call or edge in the whole, from 0 to 1, at `sizes`."""
        whole = self.number(self.whole)
        return self.number(self.values.get(place, Quantity())) / whole if whole else 0.0

    def text(self, place: str) -> str:
        """Return the value of a call or edge, with its share of the whole: "590 k (7.2 %)".

        Of a whole that is a lower bound, it is the largest possible share: "590 k (≤ 7.2 %)".
        """
        value = self.values[place]
        if value.missing:
            return value.text(self.unit) if value.is_counted else "not counted"
        text, share = value.text(self.unit), percent_text(self.share(place))
        if self.whole.missing and not share.startswith("<"):
            share = f"≤ {share}"
        return f"{text} ({share})" if self.whole else text

    def titled(self, place: str) -> str:
        """Return the value of a call or edge behind the title: "parameters: 590 k (7.2 %)"."""
        return f"{self.title}: {self._once(self.text(place))}"

    @property
    def total_text(self) -> str:
        """The whole with its uncounted parts, behind the title: "FLOPs: 36.9 kFLOP b t²"."""
        return f"{self.title}: {self.whole_text}"

    @property
    def whole_text(self) -> str:
        """The whole with its uncounted parts, to be read after the title."""
        return self._once(self.whole.total_text(self.unit))

    def _once(self, text: str) -> str:
        """Return a text without an "at least" that the title says already."""
        return text.removeprefix(_AT_LEAST) if self.title.endswith(_AT_LEAST.strip()) else text


DIFFERENCES = ("added", "removed", "moved", "changed", "reshaped", "rewired")
"""Kinds of notes on differences from another graph."""


@dataclass(frozen=True, slots=True)
class Note:
    """A text about calls and edges of a graph, or about the whole graph.

    Attributes:
        kind: "finding" for a mistake, "remark" for what may be meant, "closed", "deviates",
            "uncounted", "unused", "varies", one of `DIFFERENCES`, "difference" for their summary,
            or a word of the plugin. Diagrams have a colour for each.
        about: Ids of its calls and edges; none for the whole graph.
        text: One or two sentences.
        reference: A source, such as a section of a paper or an address, or "".
    """

    kind: str
    about: tuple[str, ...]
    text: str
    reference: str = ""

    @property
    def full_text(self) -> str:
        """The text with its reference in parentheses."""
        return f"{self.text} ({self.reference})" if self.reference else self.text


@dataclass(frozen=True, slots=True)
class Declaration:
    """Declaration of a layer about one of its calls; see `plots.layers`.

    Attributes:
        inputs: Argument (`Edge.port`) -> its axes, such as "btnh".
        outputs: Axes of every output; none if there is no signature.
        products: Equations of its matrix products; None if it does not declare them.
        sizes: Sizes of letters that no tensor has, and letters whose sizes are multiplied: "bta".
        role: One of `plots.layers.ROLES`, or "".
        like: Class whose `call` has the same matrix products, or "".
    """

    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    outputs: tuple[str, ...] = ()
    products: tuple[str, ...] | None = None
    sizes: Mapping[str, int | str] = field(default_factory=dict, hash=False)
    role: str = ""
    like: str = ""

    @property
    def known_sizes(self) -> dict[str, int]:
        """Letter -> its size, where that is declared as a number."""
        return {letter: size for letter, size in self.sizes.items() if isinstance(size, int)}

    @property
    def products_of_sizes(self) -> dict[str, str]:
        """Letter -> the letters whose sizes, multiplied, are its size."""
        return {letter: size for letter, size in self.sizes.items() if isinstance(size, str)}


def number_text(number: float, unit: str = "") -> str:
    """Return a number with three significant digits and an SI prefix: 590592 B is "591 kB"."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(number) >= 0.9995 * factor:
            return f"{_three_digits(number / factor)} {prefix}{unit}"
    return f"{_three_digits(number)} {unit}".strip()


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 call", "1,200 calls"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def shape_text(shape: tuple[int | None, ...]) -> str:
    """Return a shape as Keras prints it: "(None, 7, 16)"."""
    return f"({', '.join(map(str, shape))})"


def percent_text(share: float) -> str:
    """Return a share from 0 to 1 as "7.2 %"; positive shares that round to 0 as "< 0.1 %"."""
    return "< 0.1 %" if 0 < share < 0.0005 else f"{100 * share:.1f} %"


def _three_digits(number: float) -> str:
    text = f"{number:.3g}"
    return f"{float(text):.0f}" if "e+" in text else text
