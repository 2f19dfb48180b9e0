"""Curves over the depth of a model: signals, gradients, and whatever else is known by depth."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from plots.figures import finish, line_style, new_figure, write_names_as_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

ByDepth = Sequence[float | None]
"""One value per depth, the first one nearest to the input; None or NaN: not measured."""


class Band(NamedTuple):
    """Values by depth of several seeds.

    Attributes:
        middle: The values to draw as a line, such as means.
        low: The lower ends of the band, such as the smallest values.
        high: Its upper ends.
    """

    middle: ByDepth
    low: ByDepth
    high: ByDepth


@dataclass(frozen=True)
class DepthPanel:
    """One panel of a figure over depth.

    Attributes:
        upwards: What is drawn, with its unit.
        curves: Run -> {"stream": values, "skip path": values, "branch": values}, of which any may
            be missing. "" is a curve that needs no name besides that of the run.
        scale: "log" or "linear".
    """

    upwards: str
    curves: Mapping[str, Mapping[str, ByDepth | Band]]
    scale: str = "log"


_THICK: dict[str, Any] = {"linewidth": 2.2, "marker": "o", "markersize": 4}
_THIN: dict[str, Any] = {"linewidth": 1.0, "marker": "o", "markersize": 4}
_ALONG = {
    "": _THICK,
    "stream": _THICK,
    "skip path": _THICK,
    "branch": {**_THIN, "markerfacecolor": "#FFFFFF"},
}
_MOST_TICKS = 12
_WAYS_OF_GRADIENTS = ("skip path", "branch")

_BEYOND_THE_AXIS = ((0.0, "v", 0.0), (math.inf, "^", 1.0))
"""Values outside a logarithmic axis, as (value, marker, height in the panel)."""


def signal_propagation(
    variances: Mapping[str, ByDepth | Band],
    gradients: Mapping[str, Mapping[str, ByDepth | Band]],
    title: str | None = None,
) -> Figure:
    """Draw variance of activations and norm of gradients of several runs over depth.

    Without residual connections and normalisation, variances grow or vanish with depth (De and
    Smith 2020, section 2); with the norm after the merge, gradients do (Xiong et al. 2020,
    section 3). Both axes are logarithmic. A value of 0 is a triangle at the bottom of its panel,
    infinity (an overflow) a triangle at the top.

    Args:
        variances: Run -> variance of the activations on the stream after each block.
        gradients: Run -> {"skip path": norms, "branch": norms}: of the gradient that passes each
            block along its skip path, and of the one through its sublayers. Either may be missing,
            as the first is in a model without residual connections.
        title: Title of the figure.

    Returns:
        A figure with two panels; a run has the same colour in both.

    Raises:
        ValueError: if there is no run, a key of a run's gradients is unknown, or a value is
            negative.
    """
    if not variances and not gradients:
        raise ValueError("no runs were given: signal_propagation needs run -> values by depth")
    for run in gradients:
        unknown = sorted(set(gradients[run]) - set(_WAYS_OF_GRADIENTS))
        if unknown:
            raise ValueError(
                f"the gradients of run {run!r} are along {', '.join(map(repr, unknown))}; known "
                f"are {', '.join(map(repr, _WAYS_OF_GRADIENTS))}"
            )
    panels = [
        DepthPanel("variance of activations", {run: {"": v} for run, v in variances.items()}),
        DepthPanel("norm of gradient", gradients),
    ]
    figure, axes, runs = _panels(panels, title)
    for axis, panel in zip(axes, panels, strict=True):
        for line, run, along in _draw_panel(axis, panel, runs, 0):
            line.set_label(f"{run}, {along}" if along else run)
        finish(axis, "depth (blocks from the input)", panel.upwards)
    return figure


def depth_profiles(
    panels: Sequence[DepthPanel], across: str, title: str | None = None, first: int = 0
) -> Figure:
    """Draw several quantities of several runs over depth, a panel each.

    Args:
        panels: The panels, drawn in rows of two. On a logarithmic axis a value of 0 is a triangle
            at the bottom, and infinity (an overflow) one at the top.
        across: What depth is, such as "sublayer of the decoder".
        title: Title of the figure.
        first: The depth of the first value.

    Returns:
        A figure; a run has the same colour in all panels, and the legend is below them.

    Raises:
        ValueError: if there is no run, or a value is negative.
    """
    from matplotlib.lines import Line2D

    figure, axes, runs = _panels(panels, title)
    for axis, panel in zip(axes, panels, strict=True):
        lines = _draw_panel(axis, panel, runs, first)
        for along in dict.fromkeys(along for _, _, along in lines if along):
            axis.plot([], [], label=along, color="#606060", **_ALONG[along])
        if panel.scale == "log":
            _label_ticks(axis)
        finish(axis, across, panel.upwards)
    handles = [Line2D([], [], label=run, **_THICK, **line_style(n)) for n, run in enumerate(runs)]
    # As many columns as fit: a character is about 0.09 inches wide.
    width = 0.8 + 0.09 * max(map(len, runs))
    columns = max(1, min(4, int(figure.get_figwidth() / width)))
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False
    )
    write_names_as_text(legend)
    return figure


def _panels(
    panels: Sequence[DepthPanel], title: str | None
) -> tuple[Figure, list[Axes], list[str]]:
    """Return a figure with its panels, and all runs in the order of their colours."""
    runs = list(dict.fromkeys(run for panel in panels for run in panel.curves))
    if not runs:
        raise ValueError("no runs were given: a panel needs run -> values by depth")
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    figure = new_figure(6 * columns, 4.5 if rows == 1 else 3.6 * rows, title)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for axis in axes[len(panels) :]:
        axis.set_axis_off()
    return figure, axes[: len(panels)], runs


def _draw_panel(
    axis: Any, panel: DepthPanel, runs: Sequence[str], first: int
) -> list[tuple[Line2D, str, str]]:
    """Draw the curves of a panel, and return their lines with the run and the way along it."""
    axis.set_yscale(panel.scale)
    drawn = []
    for run, curves in panel.curves.items():
        style = line_style(runs.index(run))
        for along, values in curves.items():
            where = f" along the {along}" if along else ""
            what = f"{panel.upwards} of run {run!r}{where}"
            line = _draw_by_depth(axis, what, values, first, **style, **_ALONG[along])
            drawn.append((line, run, along))
    used = {line.get_marker() for line in axis.lines}
    for value, marker, _ in _BEYOND_THE_AXIS:
        if marker in used:
            axis.plot([], [], label=f"{value:g}", color="#808080", marker=marker, linestyle="none")
    axis.xaxis.get_major_locator().set_params(integer=True)
    if panel.scale == "linear":
        axis.set_ylim(bottom=0)
    return drawn


def _label_ticks(axis: Axes) -> None:
    """Write the ticks of a logarithmic axis as 0.02, and enough of them to read off values."""
    from matplotlib.ticker import LogLocator, NullFormatter

    low, high = axis.get_ylim()
    decades = math.log10(high / low)
    digits = range(1, 10) if decades < 1 else (1, 2, 5) if decades < 4 else (1,)
    axis.yaxis.set_major_locator(LogLocator(subs=digits, numticks=_MOST_TICKS))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_by_depth(
    panel: Axes, what: str, values: ByDepth | Band, first: int, **style: Any
) -> Line2D:
    """Draw values by depth as a line, with triangles for those outside a logarithmic axis.

    A band is drawn through depths that were not measured, and a single curve is interrupted there.
    """
    measured = [*_numbers(values.middle if isinstance(values, Band) else values)]
    for depth, value in enumerate(measured):
        if value < 0:
            raise ValueError(f"the {what} is {value} at depth {depth}; it cannot be negative")
    is_log = panel.get_yscale() == "log"
    depths = list(range(first, first + len(measured)))
    shown = [v if v < math.inf and (v > 0 or not is_log) else math.nan for v in measured]
    if isinstance(values, Band):
        kept = [number for number, value in enumerate(measured) if not math.isnan(value)]
        low, high = ([[*_numbers(end)][number] for number in kept] for end in values[1:])
        places = [depths[number] for number in kept]
        if low != high:
            panel.fill_between(places, low, high, color=style["color"], alpha=0.2, linewidth=0)
        (line,) = panel.plot(places, [shown[number] for number in kept], **style)
    else:
        (line,) = panel.plot(depths, shown, **style)
    for beyond, marker, height in _BEYOND_THE_AXIS:
        pairs = zip(depths, measured, strict=True)
        outside = [depth for depth, value in pairs if value == beyond and (value or is_log)]
        mark = {"color": style["color"], "marker": marker, "linestyle": "none", "clip_on": False}
        if outside:
            transform = panel.get_xaxis_transform()
            panel.plot(outside, [height] * len(outside), transform=transform, **mark)
    return line


def _numbers(values: ByDepth) -> Iterator[float]:
    return (math.nan if value is None else float(value) for value in values)
