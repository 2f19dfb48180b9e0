"""Loss curves of several runs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plots.figures.style import finish, line_style, new_figure

if TYPE_CHECKING:
    import keras
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Mapping[str, Sequence[float | None]]
"""One run: "step", "loss", and optionally "val_loss" and "exact_match", all of equal length."""


def loss_curves(
    histories: Mapping[str, History | keras.callbacks.History], title: str | None = None
) -> Figure:
    """Loss over training steps of several runs, and their exact match where it is known.

    Args:
        histories: Name of the run -> its history: "step" and "loss" (training), optionally
            "val_loss" (validation) and "exact_match" (a fraction from 0 to 1), all as long as
            "step". None or NaN stands for a step at which a quantity was not measured. Or what
            `model.fit` of Keras gave back, whose steps are epochs.
        title: Title of the figure.

    Returns:
        A figure with a panel for the loss in nats per token (on a logarithmic axis; training thin,
        validation thick), and, if any run has it, one for the exact match in percent.

    Raises:
        ValueError: if there is no run, or a history lacks "step" or "loss", or lengths differ.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    if not histories:
        raise ValueError("no runs were given: loss_curves needs a mapping run name -> history")
    of_steps = {run: _by_step(history) for run, history in histories.items()}
    for run, history in of_steps.items():
        _check_history(run, history)
    with_match = any("exact_match" in history for history in of_steps.values())
    time = "epoch" if any(map(_is_of_keras, histories.values())) else "training step"
    figure = new_figure(12 if with_match else 7, 4.5, title)
    panels = figure.subplots(1, 2 if with_match else 1, squeeze=False)[0]
    for number, (run, history) in enumerate(of_steps.items()):
        style = line_style(number)
        validated = "val_loss" in history
        thin: dict[str, Any] = {"linewidth": 1, "alpha": 0.45} if validated else {"linewidth": 1.8}
        label = f"{run} (training)" if validated else run
        _draw(panels[0], history, "loss", label=label, **style, **thin)
        if validated:
            label = f"{run} (validation)"
            _draw(panels[0], history, "val_loss", label=label, linewidth=2.2, **style)
        if "exact_match" in history:
            dots: dict[str, Any] = {"linewidth": 2, "marker": "o", "markersize": 3}
            _draw(panels[1], history, "exact_match", factor=100, label=run, **style, **dots)
    finish(panels[0], time, "loss" if time == "epoch" else "loss (nats per token)")
    if all(_is_positive(history) for history in of_steps.values()):
        panels[0].set_yscale("log")
        panels[0].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panels[0].yaxis.set_major_formatter("{x:g}")  # 0.5, not 5 x 10^-1
        panels[0].yaxis.set_minor_formatter(NullFormatter())
    if with_match:
        finish(panels[1], time, "exact match (%)")
        panels[1].set_ylim(-2, 102)
    return figure


def _is_of_keras(history: Any) -> bool:
    return hasattr(history, "history") and hasattr(history, "epoch")


def _by_step(history: Any) -> History:
    """A history as it was given, or that of Keras with its epochs, counted from 1, as steps."""
    if not _is_of_keras(history):
        found: History = history
        return found
    return {"step": [epoch + 1 for epoch in history.epoch], **history.history}


def _check_history(run: str, history: History) -> None:
    for key in ("step", "loss"):
        if key not in history:
            raise ValueError(
                f"the history of run {run!r} has no {key!r}; it has {sorted(history)}. It needs "
                '"step" and "loss", or give what model.fit returned'
            )
    for key in ("loss", "val_loss", "exact_match"):
        if key in history and len(history[key]) != len(history["step"]):
            raise ValueError(
                f"in the history of run {run!r}, 'step' has {len(history['step'])} entries but "
                f"{key!r} has {len(history[key])}; put None where a step was not measured"
            )


def _measured(history: History, key: str) -> list[tuple[float, float]]:
    """(step, value) where the quantity was measured."""
    pairs = zip(history["step"], history[key], strict=True)
    return [(s, v) for s, v in pairs if s is not None and v is not None and not math.isnan(v)]


def _is_positive(history: History) -> bool:
    keys = [key for key in ("loss", "val_loss") if key in history]
    return all(value > 0 for key in keys for _, value in _measured(history, key))


def _draw(panel: Axes, history: History, key: str, factor: float = 1, **style: Any) -> None:
    points = _measured(history, key)
    panel.plot([step for step, _ in points], [factor * value for _, value in points], **style)
