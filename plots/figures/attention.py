"""Attention maps: how much every query looks at every key, head by head."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from plots.figures.style import (
    MASKED,
    booleans,
    colour_limit,
    from_zero,
    label_cells,
    masked_background,
    new_figure,
    numbers,
    token_labels,
)
from plots.measuring.attention_pictures import reduced_in_blocks

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

MOST_CELLS = 64
"""Rows and columns of a map. Of longer sequences, every cell stands for a block of scores."""


def attention_heads(
    scores: ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    mask: ArrayLike | None = None,
    title: str | None = None,
    downsample: Literal["mean", "max"] = "mean",
) -> Figure:
    """Attention weights of every head, with the tokens that they belong to; queries are the rows.

    All heads share one colour scale, which ends below a few scores that are far above all others.
    What the mask leaves out is hatched, so that it differs from a weight of zero. Where t or s is
    longer than 64, the mean or the maximum of equal blocks is drawn (of the scores that the mask
    leaves in), and the title says so.

    Args:
        scores: (n, t, s), after the softmax: for what `attention_maps` finds, `found.weights[0]`
            with `mask=found.mask[0]` is the first sequence of the batch.
        queries: t tokens. None: their positions.
        keys: s tokens. None: the same as `queries` where t = s, else their positions.
        mask: bool (t, s) or (n, t, s), True where the query may look. None: everywhere.
        title: Title of the figure.
        downsample: How a block becomes one cell. The mean keeps how much attention goes where; the
            maximum keeps single strong scores, which a mean washes out.

    Raises:
        ValueError: if a shape or dtype is wrong, tokens and scores differ in number, or a score
            that is not masked is negative or no finite number.
    """
    if downsample not in ("mean", "max"):
        raise ValueError(f"downsample is {downsample!r}; it must be 'mean' or 'max'")
    weights = _masked(numbers(scores, "scores", "(n, t, s)"), mask)
    _, t, s = weights.shape
    if keys is None and t == s:
        keys = queries
    blocks = math.ceil(t / MOST_CELLS), math.ceil(s / MOST_CELLS)
    rows = token_labels(queries, t, "queries", blocks[0])
    columns = token_labels(keys, s, "keys", blocks[1])
    if max(blocks) > 1:
        weights = _in_blocks(weights, blocks, downsample)
        of_blocks = f"(each cell: {downsample} of {blocks[0]} × {blocks[1]} scores)"
        title = f"{title} {of_blocks}" if title else of_blocks
    return _draw(weights, rows, columns, title)


def _masked(scores: np.ndarray, mask: ArrayLike | None) -> np.ma.MaskedArray:
    """Check the scores (n, t, s), and mask them."""
    import numpy as np

    n, t, s = scores.shape
    if mask is None:
        allowed = np.ones(scores.shape, bool)
    else:
        axes = "(n, t, s)" if np.ndim(mask) == 3 else "(t, s)"
        allowed = booleans(mask, "mask", axes)
        if allowed.shape not in ((t, s), (n, t, s)):
            raise ValueError(
                f"mask has the shape {allowed.shape}; for scores {scores.shape} it must be "
                f"{(t, s)} or {(n, t, s)}"
            )
        allowed = np.broadcast_to(allowed, scores.shape)
    wrong = allowed & ~((scores >= 0) & (scores < np.inf))
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"the score of (head, query, key) {place} is {scores[place]}; attention weights are "
            "finite and not negative: give them as they are after the softmax"
        )
    return np.ma.masked_where(~allowed, scores)


def _in_blocks(weights: np.ma.MaskedArray, blocks: tuple[int, int], how: str) -> np.ma.MaskedArray:
    """Mean or maximum of blocks of (n, t, s); masked where all of a block is masked."""
    import numpy as np

    count = reduced_in_blocks((~np.ma.getmaskarray(weights)).astype(int), blocks, np.add)
    if how == "mean":
        cells = reduced_in_blocks(weights.filled(0), blocks, np.add) / np.maximum(count, 1)
    else:
        cells = reduced_in_blocks(weights.filled(0), blocks, np.maximum)  # none is below zero
    return np.ma.masked_where(count == 0, cells)


def _draw(
    weights: np.ma.MaskedArray, rows: Sequence[str], columns: Sequence[str], title: str | None
) -> Figure:
    from matplotlib.patches import Patch

    n, t, s = weights.shape
    across = _columns(n)
    down = math.ceil(n / across)
    inches = min(0.3, max(1.6, 4 - 0.4 * across) / max(t, s))
    size = max(1.2, s * inches), max(1.2, t * inches)
    figure = new_figure(across * (size[0] + 0.2) + 1.8, down * (size[1] + 0.3) + 1.2, title)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    limit, clipped = colour_limit(weights.compressed())
    for head, panel in enumerate(panels[:n]):
        masked_background(panel, t, s)
        image = panel.imshow(
            weights[head], from_zero(), vmin=0, vmax=limit, interpolation="nearest"
        )
        panel.set_title(f"head {head}", fontsize=9)
        panel.spines[:].set_color("#808080")
        lowest = head + across >= n
        label_cells(panel, rows, columns, inches)
        panel.tick_params(labelleft=head % across == 0, labelbottom=lowest)
        panel.set_ylabel("query" if head % across == 0 else "")
        panel.set_xlabel("key" if lowest else "")
    for panel in panels[n:]:
        panel.set_axis_off()
    extend = "max" if clipped else "neither"
    label = "attention weight"
    figure.colorbar(image, ax=panels, label=label, extend=extend, shrink=0.8, aspect=30)
    if weights.count() < weights.size:
        handles = [Patch(label="masked", **MASKED)]
        figure.legend(handles=handles, loc="outside lower right", frameon=False)
    return figure


def _columns(heads: int) -> int:
    """Columns of a grid that is wider than high, with as few gaps as possible."""
    least = math.ceil(math.sqrt(heads))
    return min(range(least, 2 * least), key=lambda columns: -heads % columns)
