"""Attention masks as grids: which query (row) may look at which key (column)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plots.figures.style import (
    BLUE,
    MASKED,
    booleans,
    label_cells,
    masked_background,
    new_figure,
    token_labels,
)

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike

PADDING = "<pad>"
_DOCUMENTS = (("The", "cat", "sat", "down"), ("It", "rained", "all", "day"))
_MOST_SEPARATE_CELLS = 64  # on an axis; lines between more cells would hide them


def attention_mask(
    mask: ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """One mask: cells where a query (row) may look at a key (column) are filled.

    Args:
        mask: bool (t, s), True where the query may look.
        queries: t tokens. None: their positions.
        keys: s tokens. None: the same as `queries` where t = s, else their positions.
        title: Title of the figure.

    Raises:
        ValueError: if the mask is not boolean or not (t, s), or if tokens and mask differ in
            number.
    """
    allowed = booleans(mask, "mask", "(t, s)")
    if keys is None and allowed.shape[0] == allowed.shape[1]:
        keys = queries
    t, s = allowed.shape
    inches = _cell_inches(max(t, s))
    figure = new_figure(max(2.8, s * inches + 1.2), max(2.8, t * inches + 1.5), title)
    rows, columns = token_labels(queries, t, "queries"), token_labels(keys, s, "keys")
    _draw(figure.subplots(), allowed, rows, columns)
    _add_legend(figure)
    return figure


def common_masks(
    documents: Sequence[Sequence[str]] = _DOCUMENTS,
    padding: int = 2,
    window: int = 3,
    title: str | None = None,
) -> Figure:
    """The common masks of self-attention, next to each other.

    Causal: no token sees a later one. Padding: nobody sees the tokens that fill up a row of the
    batch. Window: causal, and only the nearest tokens (Beltagy et al. 2020, section 3.1; Jiang et
    al. 2023, section 2). Packed: causal, and only within the same document, where several share a
    row (Krell et al. 2021, section 3.2.2).

    Args:
        documents: Their tokens. All masks are for the row that they make when joined.
        padding: How many tokens at the end are padding, in the padding mask.
        window: How many tokens each one sees, itself included, in the window mask.
        title: Title of the figure.

    Raises:
        ValueError: if there are fewer than two documents, an empty one, or if `padding` or
            `window` are not from 1 to one less than the number of tokens.
    """
    import numpy as np

    if len(documents) < 2 or not all(documents):
        raise ValueError(
            f"documents has the lengths {[len(document) for document in documents]}; it takes two "
            "documents or more, none of them empty, so that there is something to pack"
        )
    tokens = [token for document in documents for token in document]
    t = len(tokens)
    for name, number in (("padding", padding), ("window", window)):
        if not 0 < number < t:
            raise ValueError(
                f"{name} is {number!r}; with {t} tokens it must be from 1 to {t - 1}, else there "
                "is nothing to see"
            )
    query, key = np.arange(t)[:, None], np.arange(t)[None, :]
    document = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    causal = key <= query
    masks = {
        "causal\nkey ≤ query": causal,
        "padding\nkey is no padding": np.broadcast_to(key < t - padding, (t, t)),
        f"window of {window}\nquery − {window} < key ≤ query": causal & (key > query - window),
        "packed\ncausal, same document": causal & (document[query] == document[key]),
    }
    padded = tokens[: t - padding] + [PADDING] * padding
    side = t * _cell_inches(t)
    figure = new_figure(4 * max(2.2, side + 0.7), max(2.6, side + 1.6), title)
    panels = figure.subplots(1, len(masks))
    for panel, (name, mask) in zip(panels, masks.items(), strict=True):
        labels = token_labels(padded if name.startswith("padding") else tokens, t, "tokens")
        _draw(panel, mask, labels, labels)
        panel.set_title(name, fontsize=10)
    _add_legend(figure)
    return figure


def _cell_inches(cells: int) -> float:
    return min(0.3, 6 / cells)


def _draw(panel: Axes, allowed: np.ndarray, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Draw a mask (t, s); what it leaves out is transparent, above a hatched background."""
    import numpy as np
    from matplotlib.colors import ListedColormap

    t, s = allowed.shape
    masked_background(panel, t, s)
    seen = np.ma.masked_where(~allowed, allowed)
    panel.imshow(seen, cmap=ListedColormap([BLUE]), interpolation="nearest", zorder=1)
    if max(t, s) <= _MOST_SEPARATE_CELLS:
        panel.set_xticks(np.arange(s + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(t + 1) - 0.5, minor=True)
        panel.grid(True, which="minor", color="#FFFFFF", linewidth=1, zorder=2)
        panel.tick_params(which="minor", length=0)
    panel.spines[:].set_visible(False)
    panel.set_xlabel("key")
    panel.set_ylabel("query")
    label_cells(panel, rows, columns, _cell_inches(max(t, s)))


def _add_legend(figure: Figure) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(facecolor=BLUE, label="may look"), Patch(label="masked", **MASKED)]
    figure.legend(handles=handles, loc="outside lower center", ncols=2, frameon=False)
