"""Figures of numbers. Every function returns a matplotlib `Figure`, for `save_figure`.

They make a `Figure` directly and never touch `pyplot`, so they need no display, leave no window
open, and can be used from several threads.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots.renderers.graphviz import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
"""The Okabe-Ito palette, which colour-blind eyes can tell apart."""

_DASHES = ("-", "--", ":", "-.")  # so that the lines differ in black and white as well
_FIGURE_FORMATS = ("png", "svg", "pdf")

History = Mapping[str, Sequence[float | None]]
"""One run: "step", "loss", and optionally "val_loss" and "exact_match", all of equal length."""


def loss_curves(histories: Mapping[str, History], title: str | None = None) -> Figure:
    """Loss over training steps of several runs, and their exact match where it is known.

    Args:
        histories: Name of the run -> its history: "step" and "loss" (training), optionally
            "val_loss" (validation) and "exact_match" (a fraction from 0 to 1), all as long as
            "step". None or NaN stands for a step at which a quantity was not measured.
        title: Title of the figure.

    Returns:
        A figure with a panel for the loss in nats per token (on a logarithmic axis; training thin,
        validation thick), and, if any run has it, one for the exact match in percent.

    Raises:
        ValueError: if there is no run, or a history lacks "step" or "loss", or lengths differ.
    """
    from matplotlib.figure import Figure

    if not histories:
        raise ValueError("no runs were given: loss_curves needs a mapping run name -> history")
    for run, history in histories.items():
        _check_history(run, history)
    with_match = any("exact_match" in history for history in histories.values())
    figure = Figure(figsize=(12 if with_match else 7, 4.5), layout="constrained")
    panels = figure.subplots(1, 2 if with_match else 1, squeeze=False)[0]
    for number, (run, history) in enumerate(histories.items()):
        style: dict[str, Any] = {"color": COLOURS[number % len(COLOURS)]}
        dashes = _DASHES[number // len(COLOURS) % len(_DASHES)]
        validated = "val_loss" in history
        thin: dict[str, Any] = {"linewidth": 1, "alpha": 0.45} if validated else {"linewidth": 1.8}
        label = f"{run} (training)" if validated else run
        _draw(panels[0], history, "loss", label=label, linestyle=dashes, **style, **thin)
        if validated:
            thick: dict[str, Any] = {"linewidth": 2.2, "linestyle": dashes}
            _draw(panels[0], history, "val_loss", label=f"{run} (validation)", **style, **thick)
        if "exact_match" in history:
            thick = {"linewidth": 2, "linestyle": dashes, "marker": "o", "markersize": 3}
            _draw(panels[1], history, "exact_match", factor=100, label=run, **style, **thick)
    _finish(panels[0], "loss (nats per token)")
    if all(_is_positive(history) for history in histories.values()):
        panels[0].set_yscale("log")
    if with_match:
        _finish(panels[1], "exact match (%)")
        panels[1].set_ylim(-2, 102)
    if title:
        figure.suptitle(title)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Save a figure as .png, .svg or .pdf, whole or not at all; missing folders are made.

    The same figure gives the same bytes.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the suffix names none of the three formats.
        OSError: if the file cannot be written.
    """
    import matplotlib

    suffix = Path(path).suffix[1:].lower()
    if suffix not in _FIGURE_FORMATS:
        raise ValueError(
            f"cannot write the figure {str(path)!r}: its suffix must be one of "
            + ", ".join(f".{known}" for known in _FIGURE_FORMATS)
        )
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # else they differ every time
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "plots"}):
        figure.savefig(data, format=suffix, dpi=dpi, metadata=dates.get(suffix))
    return write_whole(path, data.getvalue())


def _check_history(run: str, history: History) -> None:
    for key in ("step", "loss"):
        if key not in history:
            raise ValueError(f"the history of run {run!r} has no {key!r}; it has {sorted(history)}")
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


def _finish(panel: Axes, quantity: str) -> None:
    panel.set_xlabel("training step")
    panel.set_ylabel(quantity)
    panel.grid(True, which="both", color="#E4E4E4", linewidth=0.6)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize="small")
