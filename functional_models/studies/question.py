"""What the settings of a study differ in, in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import builders
from functional_models.studies.settings import Setting


def differing_fields(settings: Sequence[Setting]) -> dict[str, list[Any]]:
    """Return the fields of spec and recipe that differ, with their value in each setting."""
    rows = [
        {**setting.spec.to_dict(), **dataclasses.asdict(setting.recipe)} for setting in settings
    ]
    columns = {field: [row[field] for row in rows] for field in rows[0]}
    return {
        field: values for field, values in columns.items() if any(v != values[0] for v in values)
    }


def question(settings: Sequence[Setting]) -> str:
    """Return what a study asks, in a sentence."""
    count = f"{len(settings)} setting{'s' * (len(settings) != 1)}"
    fields = differing_fields(settings)
    if not fields:
        return f"{count}, with one recipe."
    parts = []
    for field, values in fields.items():
        shown = list(dict.fromkeys(map(_shown, values)))
        listed = ", ".join(shown) if len(shown) < 9 else f"{len(shown)} values"
        parts.append(f"{field} ({listed})")
    *others, last = parts
    joined = f"{', '.join(others)} and {last}" if others else last
    return f"{count}, which differ in {joined}."


def blocks(settings: Sequence[Setting]) -> list[str]:
    """Return what a block of the settings computes, a line for each formula.

    Of an encoder-decoder this is a block of the decoder.
    """
    import plots

    lines: dict[str, list[str]] = {}  # formula -> settings
    for setting in {s.spec: s for s in reversed(settings)}.values():
        model = builders.build(setting.spec, abstract=True)
        formulas = plots.block_formulas(plots.read_graph(model))
        *_, last = formulas.values() or [("no skip path",)]
        lines.setdefault(", ".join(last), []).insert(0, setting.group)
    return [f"{', '.join(names)}: {formula}" for formula, names in reversed(lines.items())]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if len(str(value)) < 40 else f"{str(value)[:37]}..."
