"""The section on what happens inside the models: charts, differences side by side, dead parts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import builders
from functional_models.studies.inside.measuring import COLLAPSED, UNIFORM
from functional_models.studies.question import differing_fields
from functional_models.studies.report.inside_charts import Drawn, inside_charts
from functional_models.studies.report.profiles import (
    END,
    INITIALISATION,
    STACKS,
    facts,
    measurements,
    share_of,
)
from functional_models.studies.results import Study
from functional_models.studies.settings import Setting
from plots.differences.union import around_notes
from plots.figures import COLOURS
from plots.graph import Graph
from plots.skips import mark_skip_paths

MOST_PAIRS = 8
"""Number of settings that are shown beside the baseline."""

_MOST_NAMES = 4


@dataclass(frozen=True)
class Pair:
    """A setting beside the baseline: how the graphs of one block differ, and what was measured.

    Attributes:
        name: The setting.
        changes: The fields that differ, with both values, in words.
        picture: The difference of one block against one block, as SVG; "" if there is none.
        stack: The stack of the picture, if there are two and both differ; else "".
        rows: Cells by stack: what is measured, then before and after training, for both.
    """

    name: str
    changes: str
    picture: str
    stack: str
    rows: dict[str, list[list[str]]]


@dataclass(frozen=True)
class Section:
    """What the page shows of the inside of the models.

    Attributes:
        missing: What was not measured, in a sentence; "" if nothing is missing.
        legend: Names of settings and their colours.
        charts: The charts, in the order of the page.
        pairs: Settings beside the baseline.
        dead: Rows of cells about dead and saturated parts, of which the first has the titles.
    """

    missing: str
    legend: list[tuple[str, str]]
    charts: list[Drawn]
    pairs: list[Pair]
    dead: list[list[str]]


def inside_section(study: Study) -> Section:
    """Return the section of a study."""
    measured = [s for s in study.compared if _is_measured(study, s)]
    if not measured:
        text = "What happens inside was not measured; runs measure it since this version."
        return Section(text, [], [], [*_pairs(study)], [])
    others = [s.name for s in study.compared if s not in measured]
    missing = f"Not measured for {', '.join(others)}." if others else ""
    numbers = {setting.name: number for number, setting in enumerate(study.compared)}
    legend = [(s.name, COLOURS[numbers[s.name] % len(COLOURS)]) for s in measured]
    dead = [_dead_parts(study, setting) for setting in measured]
    return Section(missing, legend, inside_charts(study), [*_pairs(study)], [_DEAD_TITLES, *dead])


def _is_measured(study: Study, setting: Setting) -> bool:
    return any(run.key in study.inside for run in study.runs if run.setting == setting.name)


_DEAD_TITLES = [
    "setting",
    "hidden units that no token activates",
    "heads on one key",
    "heads on all keys alike",
    "weights without gradient",
]


def _dead_parts(study: Study, setting: Setting) -> list[str]:
    """Return cells about the parts of a setting that do nothing after training."""
    shares = [
        _share(study, setting.name, quantity)
        for quantity in ("inactive_units", "collapsed_heads", "uniform_heads")
    ]
    listed = measurements(study, setting.name, "zero_gradient", END)
    names = list(dict.fromkeys(found.place for run in listed for found in run))
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    weights = ", ".join(names[:_MOST_NAMES]) + more or "none"
    return [setting.name, *shares, weights]


def _share(study: Study, setting: str, quantity: str) -> str:
    share = share_of(study, setting, quantity, END)
    if share is None:
        return ""
    runs = measurements(study, setting, quantity, END)
    total = sum(found.number for found in runs[0])
    return f"{share:.1%} of {total:,}" if share else f"none of {total:,}"


def _pairs(study: Study) -> Iterator[Pair]:
    reference = study.reference
    before = _facts(study, reference)
    others = [setting for setting in study.compared if setting != reference]
    for number, setting in enumerate(others[:MOST_PAIRS]):
        after = _facts(study, setting)
        none = ("", "")
        rows: dict[str, list[list[str]]] = {}
        for stack, name in dict.fromkeys([*before, *after]):
            cells = (*before.get((stack, name), none), *after.get((stack, name), none))
            rows.setdefault(stack, []).append([name, *cells])
        changes = [
            f"{field} {values[0]} → {values[1]}"
            for field, values in differing_fields([reference, setting]).items()
        ]
        picture, drawn = block_difference(reference.spec, setting.spec)
        picture = with_own_ids(picture, f"block{number}-")
        yield Pair(setting.name, ", ".join(changes), picture, drawn, rows)


def _facts(study: Study, setting: Setting) -> dict[tuple[str, str], tuple[str, str]]:
    """Return numbers of a setting before and after training, by stack and name."""
    first, last = (facts(study, setting.name, time) for time in (INITIALISATION, END))
    return {key: (_number(first.get(key)), _number(last[key])) for key in last}


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"


def block_difference(
    before: builders.TransformerSpec, after: builders.TransformerSpec
) -> tuple[str, str]:
    """Return the difference of one block against one block as SVG; "" if the blocks are equal.

    Where both stacks of an encoder-decoder differ, only the decoder is drawn, which has all kinds
    of sublayers.

    Returns:
        The picture, and the stack that it is restricted to, or "".
    """
    import plots
    from plots.renderers.graphviz import svg

    old, new = _one_block(before), _one_block(after)
    if old == new:
        return "", ""
    whole = plots.diff(_graph(new), against=_graph(old))
    stacks = {id.partition(".")[0] for note in whole.notes for id in note.about} & {*STACKS}
    stack = STACKS[-1] if len(stacks) > 1 else ""
    notes = [
        note
        for note in whole.notes
        if not stack or not note.about or any(id.startswith(f"{stack}.") for id in note.about)
    ]
    picture = svg(around_notes(replace(whole, notes=tuple(notes)))).decode()
    return re.sub(r"^.*?(?=<svg)", "", picture, flags=re.S), stack


@lru_cache(maxsize=2)  # of the baseline, and of the other
def _graph(spec: builders.TransformerSpec) -> Graph:
    import plots

    return mark_skip_paths(plots.read_graph(builders.build(spec, abstract=True)))


def with_own_ids(picture: str, prefix: str) -> str:
    """Return an SVG whose ids differ from those of other pictures on the page."""
    picture = re.sub(r'\bid="', f'id="{prefix}', picture)
    picture = re.sub(r'href="#', f'href="#{prefix}', picture)
    return re.sub(r"url\(#", f"url(#{prefix}", picture)


def _one_block(spec: builders.TransformerSpec) -> builders.TransformerSpec:
    """Return a spec with one block in each stack; unchanged if it does not allow that."""
    changes: dict[str, Any] = {"num_layers": 1, "block_overrides": spec.block_overrides[:1]}
    if spec.to_dict()["num_encoder_layers"] is not None:
        changes["num_encoder_layers"] = 1
    try:
        return spec.replace(**changes)
    except ValueError:
        return spec


NOTES = {
    "Signals": "RMS over held-out tokens: of the residual stream after each sublayer (thick), and "
    "of what the sublayer adds to it (dashed).",
    "Gradients": "RMS of the gradient of the loss where a sublayer begins: of what comes back "
    "along the skip path (thick), and through the sublayer (dashed).",
    "Updates": "RMS of the change of the kernels of a sublayer from one report to the next, over "
    "the RMS of the kernels.",
    "Attention": "Entropy of the attention weights, over the logarithm of the number of visible "
    "keys, mean over heads: 0 is attention to one key, 1 to all keys alike.",
    "Loss of held-out tokens": "After training. Classes of tokens each make up about a tenth of "
    "the training data (Kunstner et al. 2024).",
}

THRESHOLDS = (
    f"On one key: normalised entropy below {COLLAPSED:g}; on all keys alike: above {UNIFORM:g}."
)
