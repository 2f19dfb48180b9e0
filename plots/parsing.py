"""Plugins and the values of their options as text, the same in Python and on the command line."""

from __future__ import annotations

import json
from contextlib import suppress
from decimal import Decimal
from typing import Any


def parse_plugin(text: str) -> tuple[str, dict[str, Any]]:
    """Parse `NAME:OPTION=VALUE,...` into a plugin's name and its options.

    A value NAME=NUMBER is an entry of a mapping: `flops:sizes=t=128,sizes=b=2`.

    Raises:
        ValueError: if an option is not OPTION=VALUE.
    """
    name, _, rest = text.partition(":")
    options: dict[str, Any] = {}
    for assignment in filter(None, rest.split(",")):
        option, equals, value = assignment.partition("=")
        if not (option and equals):
            raise ValueError(
                f"the plugin {text!r}: {assignment!r} must be OPTION=VALUE, e.g. fold:depth=2"
            )
        key, is_entry, entry = value.partition("=")
        known = options.get(option, {})
        if is_entry and isinstance(known, dict):
            options[option] = {**known, key: parse_value(entry)}
        elif option in options:
            raise ValueError(f"the plugin {text!r} has the option {option!r} twice")
        else:
            options[option] = parse_value(value)
    return name, options


def parse_value(text: str) -> Any:
    """Parse a value of the command line.

    A number is written as in Python (6, .5, 1e-3, 1_000); 1e3 is an int. True, False, None and
    null are taken in any case. Anything else is JSON, or a text, with or without quotes.
    """
    words = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in words:
        return words[text.lower()]
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    with suppress(ValueError):
        return int(text)
    with suppress(ValueError):
        number = float(text)
        return int(Decimal(text)) if number.is_integer() and "." not in text else number
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # a word, such as sinusoidal
