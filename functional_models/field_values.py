"""Values of spec and recipe fields that are given as text."""

from __future__ import annotations

import dataclasses
from typing import Any

from builders import TransformerSpec
from builders.fields import rule_of


def parse_field(name: str, text: str) -> Any:
    """Parse the value of a field as `plots.parsing.parse_value` does, except for the word none.

    Where `none` is a name that the field takes, as in merge=none, it is that name.
    """
    from plots.parsing import parse_value  # the package takes longer to import than a spec

    value = parse_value(text)
    field = {field.name: field for field in dataclasses.fields(TransformerSpec)}.get(name)
    is_name = field is not None and "none" in rule_of(field).names
    return "none" if value is None and is_name else value
