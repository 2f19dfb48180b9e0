"""Where the parameters of one or several models are, by component."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from plots.annotations import number_text, percent_text
from plots.figures.style import COLOURS, GRID, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.container import BarContainer
    from matplotlib.figure import Figure

Counts = Mapping[str, int]
"""Component -> number of parameters."""

_HATCHES = (None, "////", "....", "xxxx")  # a second to fourth round of the palette
_NARROWEST_WITH_TEXT = 5.0  # percent of a bar in which a share can be written


def parameter_bars(counts: Counts | Mapping[str, Counts], title: str | None = None) -> Figure:
    """Parameters by component: of one model a bar for each, of several one stacked bar per model.

    Args:
        counts: Component -> number of parameters; or, for several models, model -> such a mapping.
            A component that a model does not have may be missing or 0.
        title: Title of the figure.

    Returns:
        For one model, a figure with a bar for each component that has parameters, largest first,
        with its number and share. For several, two panels: numbers, and shares in percent.

    Raises:
        ValueError: if there is no model or component, a number is negative or not whole, or a
            model has no parameters at all.
    """
    if not counts:
        raise ValueError("no counts were given: parameter_bars needs component -> number")
    several = [isinstance(value, Mapping) for value in counts.values()]
    if any(several) and not all(several):
        raise ValueError(
            "counts mixes numbers and mappings; it must be component -> number for one model, or "
            "model -> (component -> number) for several"
        )
    if all(several):
        models = cast("Mapping[str, Counts]", counts)
        for model, components in models.items():
            _check(f"model {model!r}", components)
        return _stacked(models, title)
    _check("the model", cast("Counts", counts))
    return _ranked(cast("Counts", counts), title)


def _check(model: str, components: Counts) -> None:
    for component, count in components.items():
        if isinstance(count, bool) or not hasattr(count, "__index__") or count < 0:
            raise ValueError(
                f"component {component!r} of {model} has {count!r} parameters; it must be a whole "
                "number, 0 or more"
            )
    if not sum(components.values()):
        raise ValueError(f"{model} has no parameters, so there is nothing to draw")


def _ranked(components: Counts, title: str | None) -> Figure:
    total = sum(components.values())
    # Upwards is how bars are numbered: the largest last, at the top.
    ranked = sorted(((c, n) for c, n in components.items() if n), key=lambda pair: pair[1])
    figure = new_figure(7.5, 0.34 * len(ranked) + 1.2, title)
    panel = figure.subplots()
    bars = panel.barh(range(len(ranked)), [count for _, count in ranked], color=COLOURS[0])
    texts = [f"{number_text(count)}  ({percent_text(count / total)})" for _, count in ranked]
    panel.bar_label(bars, texts, padding=4, fontsize=9)
    panel.margins(x=0.22)  # room for the texts
    _finish(panel, f"parameters, of {number_text(total)}", [name for name, _ in ranked])
    panel.xaxis.set_major_formatter(lambda count, _: number_text(count))
    return figure


def _stacked(models: Mapping[str, Counts], title: str | None) -> Figure:
    names = list(dict.fromkeys(name for counts in models.values() for name in counts))
    names = [name for name in names if any(counts.get(name) for counts in models.values())]
    totals = [sum(counts.values()) for counts in models.values()]
    stack = {name: [counts.get(name, 0) for counts in models.values()] for name in names}
    shares = {
        name: [100 * count / total for count, total in zip(counts, totals, strict=True)]
        for name, counts in stack.items()
    }
    figure = new_figure(12, 0.42 * len(models) + 1.9, title)
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_stack(left, stack)
    for row, total in enumerate(totals):
        left.annotate(
            number_text(total), (total, row), (4, 0), textcoords="offset points", va="center"
        )
    left.margins(x=0.14)  # room for the totals
    left.invert_yaxis()  # the first model at the top; the axis is shared
    left.xaxis.set_major_formatter(lambda count, _: number_text(count))
    _finish(left, "parameters", list(models))
    for bars in _draw_stack(right, shares):
        _write_shares(right, bars)
    right.set_xlim(0, 100)
    _finish(right, "share (%)", list(models))
    right.tick_params(labelleft=False)
    columns, handles = min(len(names), 6), left.get_legend_handles_labels()[0]
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False
    )
    for text in legend.get_texts():
        text.set_parse_math(False)
    return figure


def _draw_stack(panel: Axes, stack: Mapping[str, Sequence[float]]) -> list[BarContainer]:
    """Draw of each component one bar per row, where that of the component before it ends."""
    starts: list[float] = [0.0] * len(next(iter(stack.values())))
    drawn = []
    for number, (name, widths) in enumerate(stack.items()):
        style: dict[str, Any] = {
            "color": COLOURS[number % len(COLOURS)],
            "hatch": _HATCHES[number // len(COLOURS) % len(_HATCHES)],
            "edgecolor": "#FFFFFF",
            "linewidth": 0.8,
        }
        drawn.append(panel.barh(range(len(widths)), widths, left=starts, label=name, **style))
        starts = [start + width for start, width in zip(starts, widths, strict=True)]
    return drawn


def _write_shares(panel: Axes, bars: BarContainer) -> None:
    """Write percents into the bars that are wide enough, legible on every colour and hatch."""
    shares = [bar.get_width() for bar in bars]
    texts = [f"{share:.0f}" if share >= _NARROWEST_WITH_TEXT else "" for share in shares]
    background = {"facecolor": "#FFFFFF", "edgecolor": "none", "pad": 1.2, "alpha": 0.85}
    for text in panel.bar_label(bars, texts, label_type="center", fontsize=8):
        if text.get_text():
            text.set_bbox(background)


def _finish(panel: Axes, across: str, rows: Sequence[str]) -> None:
    panel.set_yticks(range(len(rows)), rows, parse_math=False)  # names, not formulas
    panel.set_xlabel(across)
    panel.grid(True, axis="x", color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
