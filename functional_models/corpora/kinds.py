"""Kinds of items of the Portuguese -> English corpus: numbers, money and measures.

A kind is a function under `@kind`, which draws a value and returns it in both languages, in figures
and, if that is natural, in words.
"""

from __future__ import annotations

import datetime
import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import partial
from random import Random
from typing import Any, TypeVar

from babel.numbers import format_currency, format_decimal, format_percent
from babel.units import format_unit

from functional_models.corpora.number_words import (
    LARGEST_ORDINAL,
    english,
    english_ordinal,
    portuguese,
    portuguese_ordinal,
)

PT, EN = "pt_BR", "en_US"
HELD_OUT_PERCENT = 5  # of all values, for validation and again for test

T = TypeVar("T")


@dataclass(frozen=True)
class Phrase:
    """A text in Portuguese and English, with the prepositions that it takes in a sentence."""

    source: str
    target: str
    source_preposition: str = ""
    target_preposition: str = ""


@dataclass(frozen=True)
class Item:
    """A value in figures and, if that is natural, in words."""

    figures: Phrase
    words: Phrase | None = None
    reversible: bool = True  # whether the words have no other figures


def in_both(write: Callable[..., str], *values: Any, prepositions: Sequence[str] = ()) -> Phrase:
    """Return values as a function of Babel writes them in both languages, with ordinary spaces."""
    # CLDR also has no-break and thin spaces.
    texts = (re.sub(r"\s", " ", write(*values, locale=locale)) for locale in (PT, EN))
    return Phrase(*texts, *prepositions)


class Values:
    """Draws values of a split, so that no large value occurs in two splits.

    A value of at least four significant digits, a year, or a date with its year belongs to a single
    split, chosen by a hash of the value. Simpler values are too few and occur in all splits; their
    pairs are split by text (see `allows`).
    """

    def __init__(self, random: Random, split: str) -> None:
        self.random = random
        self.split = split
        self.kept_apart = False  # whether a value of the current pair belongs to the split

    def allows(self, source: str) -> bool:
        """Return whether a pair with this source may be in the split."""
        return self.kept_apart or split_of(source) == self.split

    def own(self, draw: Callable[[], T], name: Callable[[T], str | None]) -> T:
        """Draw until a value belongs to this split, or is too simple to have a name."""
        while True:
            value = draw()
            value_name = name(value)
            if value_name is None:
                return value
            if split_of(value_name) == self.split:
                self.kept_apart = True
                return value

    def number(self, most_digits: int, *, decimals: int = 0, significant: int = 9) -> Decimal:
        """Draw a positive number: first its number of digits, uniformly, and then the digits.

        Args:
            most_digits: maximum number of digits before the decimal point.
            decimals: exact number of digits after it; the last one is not 0.
            significant: maximum number of leading digits that are not 0.
        """
        digits = self.random.randint(1, most_digits)
        zeros = 0 if decimals else max(0, digits - self.random.randint(1, significant))

        def draw() -> Decimal:
            whole = self.random.randrange(10 ** (digits - 1), 10**digits)
            if not decimals:
                return Decimal(whole - whole % 10**zeros)
            fraction = 10 * self.random.randrange(10 ** (decimals - 1)) + self.random.randint(1, 9)
            return Decimal(whole) + Decimal(fraction).scaleb(-decimals)

        return self.own(draw, _name_of_number)

    def date(self) -> datetime.date:
        """Draw a date from 1930 to 2029, so that two digits determine the year."""
        first = datetime.date(1930, 1, 1).toordinal()
        last = datetime.date(2029, 12, 31).toordinal()
        return self.own(
            lambda: datetime.date.fromordinal(self.random.randint(first, last)),
            datetime.date.isoformat,
        )


def _name_of_number(value: Decimal) -> str | None:
    """Return the name that assigns a number to a split; `None` below four digits."""
    name = f"{value.normalize():f}"
    return name if len(name.replace(".", "").strip("0")) >= 4 else None


def split_of(name: str) -> str:
    """Return the split of a value or a source."""
    bucket = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest()) % 100
    if bucket < HELD_OUT_PERCENT:
        return "validation"
    return "test" if bucket < 2 * HELD_OUT_PERCENT else "train"


@dataclass(frozen=True)
class Kind:
    """A kind of item: its name, its role in sentences, and the function that draws it."""

    name: str
    role: str
    draw: Callable[[Values], Item]


KINDS: dict[str, Kind] = {}


def kind(role: str) -> Callable[[Callable[[Values], Item]], Callable[[Values], Item]]:
    """Register a function as a kind, under its name; sentences have slots for roles."""

    def register(draw: Callable[[Values], Item]) -> Callable[[Values], Item]:
        KINDS[draw.__name__] = Kind(draw.__name__, role, draw)
        return draw

    return register


def _number(value: Decimal) -> Item:
    return Item(in_both(format_decimal, value), Phrase(portuguese(value), english(value)))


@kind("number")
def cardinal(values: Values) -> Item:
    """Draw a cardinal below ten billion: 1.234 -> 1,234."""
    return _number(values.number(10, significant=5))


@kind("number")
def negative(values: Values) -> Item:
    """Draw a negative number: menos doze -> minus twelve."""
    return _number(-values.number(4))


@kind("number")
def decimal(values: Values) -> Item:
    """Draw a number with one to three decimals: três vírgula cinco -> three point five."""
    return _number(values.number(4, decimals=values.random.randint(1, 3)))


@kind("percent")
def percentage(values: Values) -> Item:
    """Draw a percentage: 12,5% -> 12.5%."""
    value = values.number(2, decimals=values.random.randint(0, 2))
    return Item(
        in_both(format_percent, value / 100, "#,##0.##%"),
        Phrase(f"{portuguese(value)} por cento", f"{english(value)} percent"),
    )


# Portuguese plural, whether it is feminine (the number agrees with it), English plural.
_NOUNS = (
    ("livros", False, "books"),
    ("alunos", False, "students"),
    ("carros", False, "cars"),
    ("votos", False, "votes"),
    ("ingressos", False, "tickets"),
    ("dias", False, "days"),
    ("páginas", True, "pages"),
    ("pessoas", True, "people"),
    ("casas", True, "houses"),
    ("cartas", True, "letters"),
    ("árvores", True, "trees"),
    ("cadeiras", True, "chairs"),
)


@kind("count")
def count(values: Values) -> Item:
    """Draw a number that agrees with a noun: duzentas casas -> two hundred houses."""
    value = values.number(6, significant=4)
    value = max(value, Decimal(2))
    source, feminine, target = values.random.choice(_NOUNS)
    figures = in_both(format_decimal, value)
    return Item(
        Phrase(f"{figures.source} {source}", f"{figures.target} {target}"),
        Phrase(f"{portuguese(value, feminine=feminine)} {source}", f"{english(value)} {target}"),
    )


def _ordinal(values: Values, *, feminine: bool) -> Item:
    value = values.random.choice(
        (values.random.randint(1, 20), values.random.randint(1, LARGEST_ORDINAL))
    )
    suffix = {1: "st", 2: "nd", 3: "rd"}.get(value % 10, "th")
    if value % 100 in (11, 12, 13):
        suffix = "th"
    return Item(
        Phrase(f"{value}{'ª' if feminine else 'º'}", f"{value}{suffix}"),
        Phrase(portuguese_ordinal(value, feminine=feminine), english_ordinal(value)),
    )


@kind("ordinal_masculine")
def ordinal_masculine(values: Values) -> Item:
    """Draw an ordinal: vigésimo primeiro -> twenty-first."""
    return _ordinal(values, feminine=False)


@kind("ordinal_feminine")
def ordinal_feminine(values: Values) -> Item:
    """Draw an ordinal: vigésima primeira -> twenty-first."""
    return _ordinal(values, feminine=True)


# Code, Portuguese singular and plural, English singular and plural, and the hundredths in English.
# Currencies with a feminine name or with hundredths other than "centavos" are excluded.
_CURRENCIES = (
    ("BRL", "real", "reais", "real", "reais", "centavo", "centavos"),
    ("USD", "dólar", "dólares", "dollar", "dollars", "cent", "cents"),
    ("EUR", "euro", "euros", "euro", "euros", "cent", "cents"),
)


@kind("money")
def money(values: Values) -> Item:
    """Draw an amount of at least 1: doze reais e um centavo -> twelve reais and one centavo."""
    code, *names = values.random.choice(_CURRENCIES)
    source_one, source_many, target_one, target_many, cent, cents = names
    value = values.number(6, decimals=values.random.choice((0, 2)), significant=4)
    whole, hundredths = divmod(int(value * 100), 100)
    source = f"{portuguese(whole)} {source_one if whole == 1 else source_many}"
    target = f"{english(whole)} {target_one if whole == 1 else target_many}"
    if hundredths:
        source += f" e {portuguese(hundredths)} {'centavo' if hundredths == 1 else 'centavos'}"
        target += f" and {english(hundredths)} {cent if hundredths == 1 else cents}"
    return Item(in_both(format_currency, value, code), Phrase(source, target))


# Role, CLDR unit, whether its Portuguese name is feminine, most digits, most decimals.
_UNITS = (
    ("length", "length-kilometer", False, 4, 1),
    ("length", "length-meter", False, 3, 2),
    ("length", "length-centimeter", False, 3, 1),
    ("length", "length-mile", True, 3, 1),
    ("length", "length-foot", False, 3, 0),
    ("weight", "mass-kilogram", False, 3, 2),
    ("weight", "mass-gram", False, 3, 0),
    ("weight", "mass-pound", True, 3, 1),
    ("duration", "duration-hour", True, 2, 1),
    ("duration", "duration-minute", False, 3, 0),
    ("duration", "duration-week", True, 2, 0),
    ("temperature", "temperature-celsius", False, 2, 1),
    ("temperature", "temperature-fahrenheit", False, 2, 0),
    ("volume", "volume-liter", False, 4, 1),
    ("volume", "volume-milliliter", False, 3, 0),
    ("area", "area-square-meter", False, 4, 1),
    ("area", "area-hectare", False, 3, 1),
    ("speed", "speed-kilometer-per-hour", False, 3, 0),
    ("speed", "speed-mile-per-hour", True, 3, 0),
)


def _measure(values: Values, role: str) -> Item:
    """Draw a quantity with a unit: 3,5 quilômetros -> 3.5 kilometers."""
    units = [unit for unit in _UNITS if unit[0] == role]
    _, unit, feminine, digits, decimals = values.random.choice(units)
    value = values.number(digits, decimals=values.random.randint(0, decimals))
    if role == "temperature" and values.random.random() < 0.3:
        value = -value
    figures = in_both(format_unit, value, unit, "long")
    if feminine and value != int(value):
        return Item(figures)  # whether "dois" agrees in "dois vírgula cinco horas" is disputed
    source, target = (text.split(" ", 1)[1] for text in (figures.source, figures.target))
    number = portuguese(value, feminine=feminine)
    return Item(figures, Phrase(f"{number} {source}", f"{english(value)} {target}"))


for _role in dict.fromkeys(unit[0] for unit in _UNITS):
    KINDS[_role] = Kind(_role, _role, partial(_measure, role=_role))
