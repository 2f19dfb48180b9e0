"""Signal propagation: how activations and gradients grow or vanish with depth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plots.figures.style import finish, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ByDepth = Sequence[float | None]
"""One value per depth, the first one nearest to the input; None or NaN: not measured."""

_ALONG: dict[str, dict[str, Any]] = {
    "skip path": {"linewidth": 2.2, "marker": "o", "markersize": 4},
    "branch": {"linewidth": 1.0, "marker": "o", "markersize": 4, "markerfacecolor": "#FFFFFF"},
}

_BEYOND_THE_AXIS = ((0.0, "v", 0.0), (math.inf, "^", 1.0))
"""Value that a logarithmic axis cannot show, its marker, and where in the panel that is."""


def signal_propagation(
    variances: Mapping[str, ByDepth],
    gradients: Mapping[str, Mapping[str, ByDepth]],
    title: str | None = None,
) -> Figure:
    """Variance of the activations and norm of the gradients by depth, of several runs.

    What residual connections and normalisation are for: without them variances grow or vanish with
    depth (De and Smith 2020, section 2), and with the norm after the merge the gradients do (Xiong
    et al. 2020, section 3). Both axes are logarithmic. A value of 0 is a triangle at the foot of
    its panel, one that overflowed to infinity a triangle at the top.

    Args:
        variances: Run -> variance of the activations on the stream after each block.
        gradients: Run -> {"skip path": norms, "branch": norms}: of the gradient that passes each
            block along its skip path, and of that which goes through its sublayers. Either may be
            missing, as the first is in a model without residual connections.
        title: Title of the figure.

    Returns:
        A figure with two panels; a run has the same colour in both.

    Raises:
        ValueError: if there is no run, a run's gradients are along something else, or a value is
            negative.
    """
    if not variances and not gradients:
        raise ValueError("no runs were given: signal_propagation needs run -> values by depth")
    runs = list(dict.fromkeys([*variances, *gradients]))
    for run in gradients:
        unknown = sorted(set(gradients[run]) - set(_ALONG))
        if unknown:
            raise ValueError(
                f"the gradients of run {run!r} are along {', '.join(map(repr, unknown))}; known "
                f"are {', '.join(map(repr, _ALONG))}"
            )
    figure = new_figure(12, 4.5, title)
    left, right = figure.subplots(1, 2)
    for number, run in enumerate(runs):
        style = line_style(number)
        if run in variances:
            what = f"variance of run {run!r}"
            _draw(left, what, variances[run], label=run, **style, **_ALONG["skip path"])
        for along, norms in gradients.get(run, {}).items():
            what, label = f"gradient of run {run!r} along the {along}", f"{run}, {along}"
            _draw(right, what, norms, label=label, **style, **_ALONG[along])
    for panel, quantity in ((left, "variance of activations"), (right, "norm of gradient")):
        panel.set_yscale("log")
        _explain_triangles(panel)
        panel.xaxis.get_major_locator().set_params(integer=True)
        finish(panel, "depth (blocks from the input)", quantity)
    return figure


def _draw(panel: Axes, what: str, values: ByDepth, **style: Any) -> None:
    """Draw values by depth as a line, and where a logarithmic axis cannot show them, triangles."""
    measured = [math.nan if value is None else float(value) for value in values]
    for depth, value in enumerate(measured):
        if value < 0:
            raise ValueError(f"the {what} is {value} at depth {depth}; it cannot be negative")
    shown = [value if 0 < value < math.inf else math.nan for value in measured]
    panel.plot(range(len(shown)), shown, **style)
    for beyond, marker, height in _BEYOND_THE_AXIS:
        depths = [depth for depth, value in enumerate(measured) if value == beyond]
        if depths:
            panel.plot(
                depths,
                [height] * len(depths),
                transform=panel.get_xaxis_transform(),
                color=style["color"],
                marker=marker,
                linestyle="none",
                clip_on=False,
            )


def _explain_triangles(panel: Axes) -> None:
    used = {line.get_marker() for line in panel.lines}
    for value, marker, _ in _BEYOND_THE_AXIS:
        if marker in used:
            panel.plot([], [], color="#808080", marker=marker, linestyle="none", label=f"{value:g}")
