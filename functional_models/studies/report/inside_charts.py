"""Charts of what happens inside the models of a study, by Bokeh: one quantity by depth each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from functional_models.studies.report.charts import new_chart
from functional_models.studies.report.profiles import (
    END,
    ENTROPY,
    STACKS,
    TIMES,
    Profile,
    profile,
)
from functional_models.studies.results import Study
from plots.figures import COLOURS

HEIGHT = 260


@dataclass(frozen=True)
class Quantity:
    """What a chart by depth shows.

    Attributes:
        title: Its title.
        upwards: The label of its axis.
        curves: Measurements by the way along which they are made; "" is drawn as a thick line, as
            is the first one.
        scale: "log" or "linear".
    """

    title: str
    upwards: str
    curves: Mapping[str, str]
    scale: str = "log"


BY_DEPTH = (
    Quantity("Signals", "RMS", {"stream": "stream_rms", "branch": "branch_rms"}),
    Quantity(
        "Gradients",
        "RMS of the gradient",
        {"skip path": "skip_gradient_rms", "branch": "branch_gradient_rms"},
    ),
    Quantity("Updates", "relative change", {"": "update"}),
    Quantity("Attention", "entropy / largest entropy", {"": ENTROPY}, "linear"),
)

BY_TOKEN = {
    "position_loss": "position of the token",
    "class_loss": "tenth of the training tokens, most frequent first",
}


@dataclass(frozen=True)
class Drawn:
    """A chart and its caption.

    Attributes:
        title: The title of the charts that it is one of.
        row: The row in which it is shown: the stack; "" if it is not of a stack.
        caption: What it shows in that row.
        chart: The chart of Bokeh.
    """

    title: str
    row: str
    caption: str
    chart: Any


def inside_charts(study: Study) -> list[Drawn]:
    """Return the charts in the order of the page."""
    return [*_by_depth(study), *_by_token(study)]


def _by_depth(study: Study) -> Iterator[Drawn]:
    for quantity in BY_DEPTH:
        for stack in STACKS:
            by_time = {time: _profiles(study, quantity, time, stack) for time in TIMES}
            shown = [found for profiles in by_time.values() for found, *_ in profiles]
            span = _span(shown, quantity.scale)
            for time, profiles in by_time.items():
                if profiles and span is not None:
                    chart = _chart(quantity, stack, span, profiles)
                    yield Drawn(quantity.title, stack, f"{stack}, {time}", chart)


def _profiles(
    study: Study, quantity: Quantity, time: str, stack: str
) -> list[tuple[Profile, str, str, int]]:
    """Return profiles with their way, the setting, and its number."""
    found = []
    for number, setting in enumerate(study.compared):
        for way, measurement in quantity.curves.items():
            of_setting = profile(study, setting.name, measurement, time, stack)
            if of_setting is not None:
                found.append((of_setting, way, setting.name, number))
    return found


def _span(profiles: Sequence[Profile], scale: str) -> tuple[float, float] | None:
    """Return the ends of the axis that charts of one quantity share."""
    if scale == "linear":
        return (0.0, 1.05) if profiles else None
    ends = [v for found in profiles for v in (*found.low, *found.high) if v > 0]
    return (min(ends) / 1.3, max(ends) * 1.3) if ends else None


def _chart(
    quantity: Quantity,
    stack: str,
    span: tuple[float, float],
    profiles: Sequence[tuple[Profile, str, str, int]],
) -> Any:
    from bokeh.models import CustomJSTickFormatter

    chart = new_chart(
        f"sublayer of the {stack}",
        quantity.upwards,
        y_axis_type=quantity.scale,
        y_range=span,
        tools="hover",
    )
    chart.height = HEIGHT
    chart.toolbar_location = None
    thick = next(iter(quantity.curves))
    for found, way, name, number in profiles:
        colour = COLOURS[number % len(COLOURS)]
        if found.low != found.high:
            chart.varea(x=found.depths, y1=found.low, y2=found.high, color=colour, alpha=0.2)
        data = _source(found, name if not way else f"{name}, {way}")
        is_thick = way == thick
        style: dict[str, Any] = {"line_width": 2.5} if is_thick else {"line_dash": "dashed"}
        chart.line("depth", "mean", source=data, color=colour, **style)
        chart.scatter(
            "depth",
            "mean",
            source=data,
            size=5,
            line_color=colour,
            fill_color=colour if is_thick else None,
        )
    if quantity.scale == "log":
        chart.yaxis.ticker.mantissas = [1, 2, 5]
        code = (  # 0.5, 5e-7
            "const rounded = Number(tick.toPrecision(2));"
            "return rounded < 1e-3 ? rounded.toExponential() : String(rounded)"
        )
        chart.yaxis.formatter = CustomJSTickFormatter(code=code)
    chart.xaxis.ticker.min_interval = 1
    chart.xaxis.ticker.num_minor_ticks = 0
    chart.hover.tooltips = [
        ("", "@name"),
        ("", "@place"),
        (quantity.title.lower(), "@mean{0.[0000] a}"),
        ("seeds", "@low to @high"),
    ]
    return chart


def _source(found: Profile, name: str) -> Any:
    from bokeh.models import ColumnDataSource

    columns = {
        "depth": found.depths,
        "place": found.places,
        "mean": found.mean,
        "low": found.low,
        "high": found.high,
    }
    return ColumnDataSource({**columns, "name": [name] * len(found.depths)})


def _by_token(study: Study) -> Iterator[Drawn]:
    """Yield the loss after training by position and by class of the token."""
    for quantity, across in BY_TOKEN.items():
        found = [
            (of_setting, setting.name, number)
            for number, setting in enumerate(study.compared)
            if (of_setting := profile(study, setting.name, quantity, END)) is not None
        ]
        if not found:
            continue
        names = list(
            dict.fromkeys(place for of_setting, *_ in found for place in of_setting.places)
        )
        chart = new_chart(across, "loss (nats)", x_range=names, tools="hover")
        chart.height = HEIGHT
        chart.toolbar_location = None
        for of_setting, name, number in found:
            colour = COLOURS[number % len(COLOURS)]
            data = _source(of_setting, name)
            if of_setting.low != of_setting.high:
                chart.varea("place", "low", "high", source=data, color=colour, alpha=0.2)
            chart.line("place", "mean", source=data, color=colour, line_width=2.5)
            chart.scatter("place", "mean", source=data, color=colour, size=5)
        chart.hover.tooltips = [
            ("", "@name"),
            ("", "@place"),
            ("loss", "@mean{0.0000}"),
            ("seeds", "@low to @high"),
        ]
        chart.y_range.start = 0
        chart.xaxis.major_label_orientation = 0.7  # ranges of positions on a narrow screen
        yield Drawn("Loss of held-out tokens", "", f"by {across.partition(',')[0]}", chart)
