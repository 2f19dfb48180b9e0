"""Curves: losses and learning rates over training steps."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from typing import TYPE_CHECKING, Any

from plots.arguments import check_mapping
from plots.figures import finish, line_style, new_figure

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[float | None]]
"""A run: "step", "loss", and optionally "val_loss", "exact_match", "low" and "high", all of equal
length."""

Schedule = Callable[[int], Any] | float
"""Step, counted from 0, -> learning rate: a Keras `LearningRateSchedule` or any function. A number
is a constant rate."""

_MEASUREMENTS = '{"step": [...], "loss": [...]}'

_MAX_POINTS = 500  # of a learning-rate curve; every point may be a call into a backend


def loss_curves(
    histories: Mapping[str, History | keras.callbacks.History],
    title: str | None = None,
    across: str | None = None,
) -> Figure:
    """Draw the loss of several runs over training steps, and their exact match if known.

    Args:
        histories: Name of the run -> its history: "step" and "loss" (training), optionally
            "val_loss" (validation) and "exact_match" (a fraction from 0 to 1), all as long as
            "step". None or NaN marks a step without a measurement. "low" and "high" are the ends of
            a band around the loss, of the validation if there is one, such as the smallest and the
            largest over several seeds. Or the result of Keras's `model.fit`, whose steps are
            epochs.
        title: Title of the figure.
        across: What "step" counts, if it is something else, such as "target tokens".

    Returns:
        A figure with a panel for the loss in nats per token (on a logarithmic axis; training thin,
        validation thick), and, if any run has it, one for the exact match in percent.

    Raises:
        ValueError: if there is no run, or a history lacks "step" or "loss", or lengths differ.
    """
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    check_mapping(histories, "loss_curves", "runs", f"name of the run -> {_MEASUREMENTS}")
    by_step = {run: _by_step(history) for run, history in histories.items()}
    for run, history in by_step.items():
        _check_history(run, history)
    with_match = any("exact_match" in history for history in by_step.values())
    is_by_epoch = any(map(_is_keras_history, histories.values()))
    time = across or ("epoch" if is_by_epoch else "training step")
    figure = new_figure(12 if with_match else 7, 4.5, title)
    panels = figure.subplots(1, 2 if with_match else 1, squeeze=False)[0]
    for number, (run, history) in enumerate(by_step.items()):
        style = line_style(number)
        validated = "val_loss" in history
        thin: dict[str, Any] = {"linewidth": 1, "alpha": 0.45} if validated else {"linewidth": 1.8}
        label = f"{run} (training)" if validated else run
        _draw_history(panels[0], history, "loss", label=label, **style, **thin)
        if validated:
            label = f"{run} (validation)"
            _draw_history(panels[0], history, "val_loss", label=label, linewidth=2.2, **style)
        if "low" in history and "high" in history:
            ends = [[math.nan if v is None else v for v in history[key]] for key in ("low", "high")]
            colour = style["color"]
            panels[0].fill_between(history["step"], *ends, color=colour, alpha=0.2, linewidth=0)
        if "exact_match" in history:
            dots: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 3}
            _draw_history(panels[1], history, "exact_match", 100, label=run, **style, **dots)
    for panel in panels if across else ():
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 200k, 1.2M
    finish(panels[0], time, "loss" if is_by_epoch else "loss (nats per token)")
    if all(_is_positive(history) for history in by_step.values()):
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")  # 0.5, not 5 x 10^-1
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    if with_match:
        finish(panels[1], time, "exact match (%)")
        panels[1].set_ylim(-2, 102)
    return figure


def _is_keras_history(history: Any) -> bool:
    return hasattr(history, "history") and hasattr(history, "epoch")


def _by_step(history: Any) -> History:
    """Return a history as it is, or Keras's with its epochs, counted from 1, as steps."""
    if _is_keras_history(history):
        return {"step": [epoch + 1 for epoch in history.epoch], **history.history}
    return history


def _check_history(run: str, history: History) -> None:
    check_mapping(history, f"loss_curves: run {run!r}", "measurements", _MEASUREMENTS)
    for key in ("step", "loss"):
        if key not in history:
            raise ValueError(
                f"the history of run {run!r} has no {key!r}; it has {sorted(history)}. It needs "
                '"step" and "loss", or pass the result of model.fit'
            )
    for key in ("loss", "val_loss", "exact_match", "low", "high"):
        if key in history and len(history[key]) != len(history["step"]):
            raise ValueError(
                f"in the history of run {run!r}, 'step' has {len(history['step'])} entries but "
                f"{key!r} has {len(history[key])}; put None where a step was not measured"
            )


def _measured(history: History, key: str) -> list[tuple[float, float]]:
    """Return (step, value) of every measurement."""
    pairs = zip(history["step"], history[key], strict=True)
    return [(s, v) for s, v in pairs if s is not None and v is not None and not math.isnan(v)]


def _is_positive(history: History) -> bool:
    keys = [key for key in ("loss", "val_loss") if key in history]
    return all(value > 0 for key in keys for _, value in _measured(history, key))


def _draw_history(panel: Axes, history: History, key: str, factor: float = 1, **style: Any) -> None:
    points = _measured(history, key)
    panel.plot([step for step, _ in points], [factor * value for _, value in points], **style)


def learning_rate_curves(
    schedules: Mapping[str, Schedule], steps: int, title: str | None = None
) -> Figure:
    """Draw the learning rates of several schedules over training steps.

    Args:
        schedules: Name -> schedule. Evaluated at 500 steps, or at all steps of a shorter run.
        steps: Number of steps of the run; steps 0 to `steps` - 1 are drawn.
        title: Title of the figure.

    Raises:
        TypeError: if a schedule is neither callable nor a number, or does not return a number.
        ValueError: if there is no schedule, fewer than two steps, or a rate is negative or not
            finite.
    """
    check_mapping(schedules, "learning_rate_curves", "schedules", "name -> schedule")
    if not isinstance(steps, Integral) or steps < 2:
        raise ValueError(f"steps is {steps!r}; a curve needs at least 2")
    points = min(steps, _MAX_POINTS)
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
            f"the schedule {name!r} returns {given!r} at step {step}; it must be a number, a Keras "
            "LearningRateSchedule, or a function from a step to a number"
        ) from error
    if not 0 <= rate < math.inf:
        raise ValueError(
            f"the schedule {name!r} returns {rate} at step {step}; a learning rate must be finite "
            "and not negative"
        )
    return rate
