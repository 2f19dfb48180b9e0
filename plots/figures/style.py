"""What the figures have in common: colours, lines, axes, and tokens as labels of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle
    from numpy.typing import ArrayLike

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#222222")
"""The Okabe-Ito palette, which colour-blind eyes can tell apart."""

BLUE, VERMILION = COLOURS[:2]
GRID = "#E4E4E4"
MASKED: dict[str, Any] = {
    "facecolor": "#F0F0F0",
    "edgecolor": "#A8A8A8",
    "hatch": "//////",
    "linewidth": 0,
}
"""How cells that a mask leaves out look: hatched, so that no shade of a colour map is like them."""

_DASHES = ("-", "--", ":", "-.")  # so that the lines differ in black and white as well
_LABEL_POINTS = 7  # font size of tokens
_LONGEST_LABEL = 14  # characters


def line_style(number: int) -> dict[str, Any]:
    """Colour and dashes of a run, different for the first 28 of them."""
    dashes = _DASHES[number // len(COLOURS) % len(_DASHES)]
    return {"color": COLOURS[number % len(COLOURS)], "linestyle": dashes}


def new_figure(width: float, height: float, title: str | None = None) -> Figure:
    """An empty figure, sizes in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    if title:
        figure.suptitle(title)
    return figure


def finish(panel: Axes, across: str, upwards: str) -> None:
    """Give a panel of lines its axis labels, grid and, if it has labelled lines, its legend."""
    panel.set_xlabel(across)
    panel.set_ylabel(upwards)
    panel.grid(True, which="both", color=GRID, linewidth=0.6)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    if panel.get_legend_handles_labels()[0]:
        legend = panel.legend(frameon=False, fontsize="small")
        for text in legend.get_texts():
            text.set_parse_math(False)  # a name is not a formula, even with two dollar signs


def from_zero() -> Colormap:
    """Colours of quantities from zero up: from white over blue to nearly black."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("from_zero", ["#FFFFFF", COLOURS[5], BLUE, "#002A4A"])


def around_zero() -> Colormap:
    """Colours of quantities of either sign: vermilion below zero, white, blue above."""
    from matplotlib.colors import LinearSegmentedColormap

    shades = ["#7A3300", VERMILION, "#FFFFFF", BLUE, "#003A5C"]
    return LinearSegmentedColormap.from_list("around_zero", shades)


def colour_limit(sizes: np.ndarray) -> tuple[float, bool]:
    """Where a colour scale from zero ends, and whether some of the sizes are beyond it.

    That is the largest size; but where a few are far above all others, these would leave the
    others white, and the scale ends before them.
    """
    import numpy as np

    if not sizes.size or not sizes.max():
        return 1.0, False
    highest, most = float(sizes.max()), float(np.percentile(sizes, 99.5))
    return (most, True) if 0 < most < highest / 2 else (highest, False)


def masked_background(panel: Axes, rows: int, columns: int) -> Rectangle:
    """Fill the place of an image (rows, columns) with what shows through where it is masked."""
    from matplotlib.patches import Rectangle

    patch = Rectangle((-0.5, -0.5), columns, rows, zorder=0, **MASKED)
    panel.add_patch(patch)
    return patch


def numbers(values: ArrayLike, what: str, axes: str) -> np.ndarray:
    """Read a float64 array with the given axes, such as "(t, d)".

    Raises:
        ValueError: if it has no numbers, another number of axes, or nothing in one of them.
    """
    import numpy as np

    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what} must be an array of numbers {axes}: {error}") from error
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise ValueError(f"{what} has the shape {array.shape}; it must be {axes}, none of them 0")
    return array


def booleans(values: ArrayLike, what: str, axes: str) -> np.ndarray:
    """Read a boolean array with the given axes, such as "(t, s)".

    Raises:
        ValueError: if it is of another dtype, has another number of axes, or nothing in one.
    """
    import numpy as np

    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise ValueError(
            f"{what} is of dtype {array.dtype}; it must be boolean, True where a query may look "
            "(a mask that is added to the scores: give `mask == 0`)"
        )
    if array.ndim != axes.count(",") + 1 or array.size == 0:
        raise ValueError(f"{what} has the shape {array.shape}; it must be {axes}, none of them 0")
    return array


def token_labels(
    tokens: Sequence[str] | None, count: int, what: str, block: int = 1
) -> tuple[str, ...]:
    """Texts of the rows or columns of a map: tokens, or positions where there are none.

    Args:
        tokens: The tokens, as many as there were cells before blocks were made.
        count: How many there have to be.
        what: Name of the argument, for the error.
        block: How many of them make one row or column; it is named after its first one.

    Raises:
        ValueError: if there are more or fewer tokens than `count`.
    """
    if tokens is not None and len(tokens) != count:
        raise ValueError(
            f"{what} has {len(tokens)} tokens for {count} {what}; it must have one for each, or be "
            "None, for their positions"
        )
    firsts = range(0, count, block)
    if tokens is None:
        return tuple(str(position) for position in firsts)
    return tuple(_short(tokens[first]) + ("…" if block > 1 else "") for first in firsts)


def label_cells(panel: Axes, rows: Sequence[str], columns: Sequence[str], inches: float) -> None:
    """Label the rows and columns of an image; of cells narrower than a line, only every other one.

    Args:
        panel: Where the image is.
        rows: A text for each row.
        columns: A text for each column, written upwards where it is wider than a cell.
        inches: Size of a cell.
    """
    step = max(1, math.ceil(1.25 * _LABEL_POINTS / 72 / inches))
    for axis, texts in ((panel.yaxis, rows), (panel.xaxis, columns)):
        axis.set_ticks(range(0, len(texts), step))
        # A token is not a formula, even with two dollar signs.
        axis.set_ticklabels(texts[::step], fontsize=_LABEL_POINTS, parse_math=False)
    widest = max(len(text) for text in columns) * 0.7 * _LABEL_POINTS / 72
    panel.tick_params(axis="x", rotation=0 if widest < inches * step else 90)
    panel.tick_params(length=0, pad=2)


def _short(token: str) -> str:
    """A token on one line and not too long; characters that cannot be seen are spelled out."""
    text = token if token.isprintable() else repr(token)[1:-1]
    return text if len(text) <= _LONGEST_LABEL else text[: _LONGEST_LABEL - 1] + "…"
