"""Numbers in Brazilian Portuguese and English words, with `num2words` where it is correct.

`num2words` is slow and has mistakes in Portuguese: a comma after the thousands ("mil, duzentos"),
and misspelled ordinals from 400 on ("quadrigentésimo" for "quadringentésimo"). Only its words below
a thousand and its ordinals below 400 are used; groups of three digits are joined here.
"""

from __future__ import annotations

from decimal import Decimal
from functools import cache

from num2words import num2words

LARGEST_ORDINAL = 399

_PORTUGUESE_GROUPS = (("bilhão", "bilhões"), ("milhão", "milhões"), ("mil", "mil"), ("", ""))
_ENGLISH_GROUPS = ("billion", "million", "thousand", "")


@cache
def _below_thousand(number: int, language: str) -> str:
    return num2words(number, lang=language)


def _groups(number: int) -> list[int]:
    """Return billions, millions, thousands and units, each below a thousand."""
    if not 0 <= number < 10**12:
        raise ValueError(f"expected a number from 0 to 10**12 - 1, got {number}")
    return [number // 10**power % 1000 for power in (9, 6, 3, 0)]


def portuguese(number: int | Decimal, *, feminine: bool = False) -> str:
    """Return a number in Portuguese words, with `feminine` in the form before a feminine noun.

    Decimals are read digit by digit, as in English: 3.14 is "três vírgula um quatro".
    """
    if number < 0:
        return "menos " + portuguese(-number, feminine=feminine)
    if number != int(number):
        digits = [_below_thousand(int(digit), "pt_BR") for digit in _fraction_digits(number)]
        return f"{portuguese(int(number))} vírgula {' '.join(digits)}"
    groups = _groups(int(number))
    if not any(groups):
        return "zero"
    last = max(position for position, group in enumerate(groups) if group)
    text = ""
    for position, group in enumerate(groups):
        if not group:
            continue
        words = _below_thousand(group, "pt_BR")
        if feminine and position >= 2:  # "duas mil casas", but "dois milhões de casas"
            words = _feminine(words)
        name = _PORTUGUESE_GROUPS[position][group > 1]
        if name == "mil" and group == 1:
            words = ""  # "mil", never "um mil"
        # "mil e cem", "mil e vinte e um", but "mil cento e um": "e" joins the last group if it is
        # below a hundred or a whole number of hundreds.
        joint = " e " if position == last and (group < 100 or group % 100 == 0) else " "
        text += (joint if text else "") + f"{words} {name}".strip()
    return text


def _feminine(words: str) -> str:
    """Return the feminine form of a number below a thousand."""
    forms = {"um": "uma", "dois": "duas"}
    return " ".join(
        forms.get(word, word[:-2] + "as" if word.endswith("entos") else word)
        for word in words.split()
    )


def english(number: int | Decimal) -> str:
    """Return a number in English words; decimals are read digit by digit."""
    if number < 0:
        return "minus " + english(-number)
    if number != int(number):
        digits = [_below_thousand(int(digit), "en") for digit in _fraction_digits(number)]
        return f"{english(int(number))} point {' '.join(digits)}"
    groups = _groups(int(number))
    text = ""
    for name, group in zip(_ENGLISH_GROUPS, groups, strict=True):
        if not group:
            continue
        joint = " and " if not name and group < 100 else ", "
        text += (joint if text else "") + f"{_below_thousand(group, 'en')} {name}".strip()
    return text or "zero"


def _fraction_digits(number: int | Decimal) -> str:
    return f"{number:f}".split(".")[1].rstrip("0")


@cache
def portuguese_ordinal(number: int, *, feminine: bool = False) -> str:
    """Return an ordinal in Portuguese words, e.g. 21: "vigésimo primeiro", "vigésima primeira"."""
    _check_ordinal(number)
    words = num2words(number, lang="pt_BR", to="ordinal").split()
    return " ".join(word[:-1] + "a" if feminine else word for word in words)


@cache
def english_ordinal(number: int) -> str:
    """Return an ordinal in English words, e.g. 21: "twenty-first"."""
    _check_ordinal(number)
    return num2words(number, lang="en", to="ordinal")


def _check_ordinal(number: int) -> None:
    if not 1 <= number <= LARGEST_ORDINAL:
        raise ValueError(f"expected an ordinal from 1 to {LARGEST_ORDINAL}, got {number}")


@cache
def english_year(year: int) -> str:
    """Return a year as it is read in English, e.g. 1984: "nineteen eighty-four"."""
    return num2words(year, lang="en", to="year")
