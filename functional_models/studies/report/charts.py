"""Interactive charts of a study, by Bokeh, readable on light and dark pages."""

from __future__ import annotations

from typing import Any

from functional_models.studies.report.series import AXES, along, loss_curve
from functional_models.studies.results import Study
from plots.figures import COLOURS

GREY = "#808080"  # legible on white and on black
_HEIGHT = 340
TOOLS = "pan,box_zoom,wheel_zoom,reset,save,hover"


def charts(study: Study) -> dict[str, Any]:
    """Return the charts of a study by name: those of the loss by axis, "differences", "rates"."""
    made: dict[str, Any] = {}
    for axis, label in AXES.items():
        if (drawn := _losses(study, axis, label)) is not None:
            made[axis] = drawn
    if study.noise is not None and len(study.compared) > 1:
        made["differences"] = _differences(study)
    if any(setting.of for setting in study.settings):
        made["rates"] = _rates(study)
    return made


def new_chart(across: str, upwards: str, *, tools: str = TOOLS, **options: Any) -> Any:
    """Return an empty chart that is readable on light and dark pages."""
    from bokeh.plotting import figure

    chart: Any = figure(
        sizing_mode="stretch_width",
        height=_HEIGHT,
        x_axis_label=across,
        y_axis_label=upwards,
        tools=tools,
        active_scroll=None,
        toolbar_location="above",
        output_backend="svg",  # prints sharply
        **options,
    )
    chart.toolbar.logo = None
    chart.background_fill_color = chart.border_fill_color = None
    chart.outline_line_color = None
    for axis in chart.axis:
        axis.axis_label_text_color = axis.major_label_text_color = GREY
        axis.axis_line_color = axis.major_tick_line_color = GREY
        axis.minor_tick_line_color = None
    chart.grid.grid_line_color = GREY
    chart.grid.grid_line_alpha = 0.25
    return chart


def _finish(chart: Any) -> Any:
    for legend in chart.legend:
        legend.click_policy = "hide"
        legend.background_fill_alpha = 0
        legend.border_line_color = None
        legend.label_text_color = GREY
        legend.location = "top_right"  # where curves of a loss are not
        legend.label_text_font_size = "9pt"
        legend.spacing = 0
    return chart


def _losses(study: Study, axis: str, label: str) -> Any:
    """Draw the validation loss along an axis: means over seeds, with bands of a deviation."""
    chart = new_chart(label, "validation loss (nats per token)", y_axis_type="log")
    for number, setting in enumerate(study.compared):
        curve = loss_curve(study, setting)
        places = None if curve is None else along(study, setting, curve, axis)
        if curve is None or places is None:
            continue
        colour = COLOURS[number % len(COLOURS)]
        name = {"legend_label": setting.name}
        if curve.low != curve.high:
            chart.varea(x=places, y1=curve.low, y2=curve.high, color=colour, alpha=0.2, **name)
        chart.line(places, curve.mean, color=colour, line_width=2, name=setting.name, **name)
        chart.scatter(places, curve.mean, color=colour, size=4, name=setting.name, **name)
    chart.hover.tooltips = [("", "$name"), (label, "@x{0.[000] a}"), ("loss", "@y{0.0000}")]
    return _finish(chart) if chart.renderers else None


def _differences(study: Study) -> Any:
    """Draw the differences from the baseline with their intervals, and the noise floor."""
    from bokeh.models import ColumnDataSource
    from bokeh.models.annotations import BoxAnnotation, Span, Whisker

    shown = [
        (name, found)
        for name, found in study.differences.items()
        if found is not None and found.interval is not None
    ]
    names = [name for name, _ in shown][::-1]
    chart = new_chart(
        f"loss minus that of {study.reference.name} (nats)", "", y_range=names or [""]
    )
    chart.height = 120 + 36 * len(names)
    assert study.noise is not None
    chart.add_layout(
        BoxAnnotation(left=-study.noise, right=study.noise, fill_color=GREY, fill_alpha=0.15)
    )
    chart.add_layout(Span(location=0, dimension="height", line_color=GREY))
    source = ColumnDataSource(
        {
            "name": [name for name, _ in shown],
            "mean": [found.mean for _, found in shown],
            "low": [found.interval[0] for _, found in shown if found.interval],
            "high": [found.interval[1] for _, found in shown if found.interval],
            "p": [found.corrected for _, found in shown],
            "colour": [COLOURS[1] if found.is_shown else GREY for _, found in shown],
        }
    )
    whisker = Whisker(base="name", lower="low", upper="high", dimension="width", source=source)
    whisker.line_color = "colour"
    chart.add_layout(whisker)
    chart.scatter("mean", "name", size=9, color="colour", source=source)
    chart.hover.tooltips = [
        ("", "@name"),
        ("difference", "@mean{+0.0000}"),
        ("95% interval", "@low{+0.0000} to @high{+0.0000}"),
        ("p, corrected", "@p{0.000}"),
    ]
    return chart


def _rates(study: Study) -> Any:
    """Draw the loss of each setting against the learning rate."""
    chart = new_chart(
        "learning rate", "loss (nats per token)", x_axis_type="log", y_axis_type="log"
    )
    groups = dict.fromkeys(setting.of for setting in study.settings if setting.of)
    for number, group in enumerate(groups):
        points = []
        for setting in study.settings:
            found = study.summary(setting.name, "loss") if setting.of == group else None
            if found is not None and setting.recipe.learning_rate is not None:
                points.append((setting.recipe.learning_rate, found.mean))
        if not points:
            continue
        rates, losses = zip(*sorted(points), strict=True)
        colour = COLOURS[number % len(COLOURS)]
        chart.line(rates, losses, color=colour, line_width=2, legend_label=group, name=group)
        chart.scatter(rates, losses, color=colour, size=6, legend_label=group, name=group)
    chart.hover.tooltips = [("", "$name"), ("rate", "@x"), ("loss", "@y{0.0000}")]
    return _finish(chart)
