"""Figures for lectures and papers. Every function returns a matplotlib `Figure`.

    save_figure(loss_curves(histories), "loss.png")

They create a `Figure` directly and never use `pyplot`, so they need no display, leave no window
open, and are thread-safe. Arrays may be anything that NumPy can convert. This module holds the
common style: colours, lines, axes, checked arrays, and files.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plots.files import write_picture

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.legend import Legend
    from numpy.typing import ArrayLike

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
"""The Okabe-Ito palette, which is safe for colour-blind readers."""

BLUE, VERMILION = COLOURS[:2]
GRID = "#E4E4E4"

_DASHES = ("-", "--", ":", "-.")  # distinguish lines in black and white
_FORMATS = ("png", "svg", "pdf")


def line_style(number: int) -> dict[str, Any]:
    """Return colour and dashes of a run, distinct for the first 28 runs."""
    dashes = _DASHES[number // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes}


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """Return an empty figure, with its size in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def finish(panel: Axes, across: str, upwards: str) -> None:
    """Add axis labels, a grid and, if there are labelled lines, a legend."""
    panel.set_xlabel(across)
    panel.set_ylabel(upwards)
    panel.grid(True, which="both", color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        write_names_as_text(panel.legend(frameon=False, fontsize="small"))


def write_names_as_text(legend: Legend) -> None:
    """Write the names of a legend literally, even with two dollar signs."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def from_zero() -> Colormap:
    """Return a colour map for values from zero up: white, blue, nearly black."""
    return _colour_map("from_zero", "#FFFFFF", COLOURS[5], BLUE, "#002A4A")


def around_zero() -> Colormap:
    """Return a colour map for values of either sign: vermilion below zero, white, blue above."""
    return _colour_map("around_zero", "#7A3300", VERMILION, "#FFFFFF", BLUE, "#003A5C")


def _colour_map(name: str, *shades: str) -> Colormap:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list(name, shades)


def colour_limit(sizes: np.ndarray) -> tuple[float, bool]:
    """Return the upper limit of a colour scale from zero, and whether some sizes exceed it.

    The limit is the largest size, or the 99.5th percentile if the largest is more than twice that:
    a few outliers would leave all other cells white.
    """
    import numpy as np

    if not sizes.size or not sizes.max():
        return 1.0, False
    highest, most = float(sizes.max()), float(np.percentile(sizes, 99.5))
    return (most, True) if 0 < most < highest / 2 else (highest, False)


def numbers(values: ArrayLike, what: str, axes: str) -> np.ndarray:
    """Return a float64 array with the given axes, such as "(t, d)"; see `check_axes`.

    Raises:
        ValueError: if the values are not numbers.
    """
    import numpy as np

    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be an array of numbers {axes}: {error}") from error
    check_axes(array, what, axes)
    return array


def check_axes(array: np.ndarray, what: str, axes: str) -> None:
    """Check the number of axes, and that none is empty.

    Raises:
        ValueError: if the shape does not match `axes`, such as "(t, s)", or contains a 0.
    """
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise ValueError(f"{what} has the shape {array.shape}; it must be {axes}, none of them 0")


def save_figure(figure: Figure, path: str | os.PathLike[str], dpi: int = 150) -> Path:
    """Save a figure as .png, .svg or .pdf, atomically; missing folders are created.

    Equal figures are saved as equal bytes.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the suffix is not one of the three formats.
        OSError: if the file cannot be written.
    """
    import matplotlib

    suffix = Path(path).suffix[1:].lower()
    if suffix not in _FORMATS:
        raise ValueError(
            f"cannot write the figure {str(path)!r}: its suffix must be one of "
            + ", ".join(f".{known}" for known in _FORMATS)
        )
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # would differ every time
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "plots"}):
        figure.savefig(data, format=suffix, dpi=dpi, metadata=dates.get(suffix))
    return write_picture(path, data.getvalue())
