"""Learning-rate schedules over the steps of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from plots.figures.style import finish, line_style, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Schedule = Callable[[int], Any] | float
"""From a step, counted from 0, to its rate: a `LearningRateSchedule` of Keras or any function. A
number is a constant rate."""

_MOST_POINTS = 500  # of a curve: every point may be a call into a backend


def learning_rate_curves(
    schedules: Mapping[str, Schedule], steps: int, title: str | None = None
) -> Figure:
    """Learning rate over training steps, of several schedules.

    Args:
        schedules: Name -> schedule. Evaluated at 500 steps, or at all of them if there are fewer.
        steps: How many steps the run has; steps 0 to `steps` - 1 are drawn.
        title: Title of the figure.

    Raises:
        TypeError: if a schedule is neither callable nor a number, or gives no number.
        ValueError: if there is no schedule, fewer than two steps, or a rate is negative or no
            finite number.
    """
    if not schedules:
        raise ValueError("no schedules were given: learning_rate_curves needs name -> schedule")
    if steps < 2:
        raise ValueError(f"steps is {steps!r}; a curve needs at least 2")
    points = min(steps, _MOST_POINTS)
    shown = [round(number * (steps - 1) / (points - 1)) for number in range(points)]
    figure = new_figure(7, 4, title)
    panel = figure.subplots()
    for number, (name, schedule) in enumerate(schedules.items()):
        rates = [_rate(name, schedule, step) for step in shown]
        panel.plot(shown, rates, label=name, linewidth=2, **line_style(number))
    finish(panel, "training step", "learning rate")
    panel.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2), useMathText=True)
    panel.xaxis.set_major_formatter("{x:,.0f}")
    panel.set_xlim(0, steps)
    panel.set_ylim(bottom=0)
    return figure


def _rate(name: str, schedule: Schedule, step: int) -> float:
    given = schedule(step) if callable(schedule) else schedule
    try:
        rate = float(given)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"the schedule {name!r} gives {given!r} at step {step}; it must be a number, a Keras "
            "LearningRateSchedule, or a function from a step to a number"
        ) from error
    if not 0 <= rate < math.inf:
        raise ValueError(
            f"the schedule {name!r} gives {rate} at step {step}; a learning rate must be finite "
            "and not negative"
        )
    return rate
