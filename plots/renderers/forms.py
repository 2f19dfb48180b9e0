"""Forms of DOT texts: graphs that differ in nothing that moves a line have the same layout.

The parts of a deep stack of equal blocks differ in the names of calls and in the numbers in their
titles. One of them is laid out, and the others take its positions.
"""

from __future__ import annotations

import re
from typing import NamedTuple

_STRING = r'"(?:[^"\\]|\\.)*"'
_NAMES = re.compile(rf"^(subgraph )?({_STRING})(?: -> ({_STRING}))?", re.MULTILINE)
_TOOLTIP = re.compile(rf"tooltip={_STRING}")
_WORDS = re.compile(rf"label={_STRING}|(?<=>)[^<]+(?=<)")
_DIGIT = re.compile("[0-9]")


class Form(NamedTuple):
    """What the layout of a graph depends on, and its names.

    Attributes:
        text: The DOT text with numbers in the place of names, without tooltips, and with "0" for
            each digit in a label: all digits of a font for diagrams are equally wide.
        names: The names of nodes and clusters as they are in the text, in order. Graphs with the
            same form differ in nothing but these and the digits.
    """

    text: str
    names: tuple[str, ...]


def form_of(text: str) -> Form:
    """Return the form of a graph that pydot has written: one statement in a line."""
    numbers: dict[str, int] = {}

    def number(found: re.Match[str]) -> str:
        start, first, second = found.groups()
        ends = [str(numbers.setdefault(name, len(numbers))) for name in (first, second) if name]
        return (start or "") + " -> ".join(ends)

    numbered = _NAMES.sub(number, _TOOLTIP.sub("", text))
    words = _WORDS.sub(lambda found: _DIGIT.sub("0", found[0]), numbered)
    return Form(words, tuple(numbers))
