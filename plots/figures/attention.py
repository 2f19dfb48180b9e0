"""Attention masks, attention weights of every head, and positional encodings, as images."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal

from plots.arguments import check_mapping, described
from plots.figures import (
    BLUE,
    around_zero,
    check_axes,
    colour_limit,
    finish,
    from_zero,
    new_figure,
    numbers,
)
from plots.measuring.attention_maps import reduce_blocks

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage
    from numpy.typing import ArrayLike

MAX_CELLS = 64
"""Maximum rows and columns of an attention map. Longer sequences are drawn in blocks of scores."""

PADDING = "<pad>"
# Masked cells are hatched, unlike any shade of a colour map.
_MASKED: dict[str, Any] = {
    "facecolor": "#F0F0F0",
    "edgecolor": "#A8A8A8",
    "hatch": "//////",
    "linewidth": 0,
}

_DOCUMENTS = (("The", "cat", "sat", "down"), ("It", "rained", "all", "day"))
_MAX_SEPARATE_CELLS = 64  # per axis; lines between more cells would hide them
_LABEL_POINTS = 7  # font size of tokens
_MAX_LABEL = 14  # characters


def attention_mask(
    mask: ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    title: str | None = None,
) -> Figure:
    """Draw a mask: cells where a query (row) may attend to a key (column) are filled.

    Args:
        mask: bool (t, s), True where the query may attend.
        queries: t tokens. None: their positions.
        keys: s tokens. None: the same as `queries` if t = s, else their positions.
        title: Title of the figure.

    Raises:
        ValueError: if the mask is not boolean or not (t, s), or the number of tokens differs from
            the mask.
    """
    allowed = _booleans(mask, "mask", "(t, s)")
    t, s = allowed.shape
    rows, columns = _token_labels(queries, keys, t, s)
    inches = _cell_inches(max(t, s))
    figure = new_figure(max(2.8, s * inches + 1.2), max(2.8, t * inches + 1.5), title)
    _draw_mask(figure.subplots(), allowed, rows, columns)
    _add_mask_legend(figure)
    return figure


def common_masks(
    documents: Sequence[Sequence[str]] = _DOCUMENTS,
    padding: int = 2,
    window: int = 3,
    title: str | None = None,
) -> Figure:
    """Draw the common masks of self-attention side by side.

    Causal: no token sees a later one. Padding: padding tokens at the end of a row are not visible.
    Window: causal, and only the nearest tokens (Beltagy et al. 2020, section 3.1; Jiang et al.
    2023, section 2). Packed: causal, and only within the same document, for several documents in
    one row (Krell et al. 2021, section 3.2.2).

    Args:
        documents: The tokens of every document. All masks are for the concatenated documents.
        padding: Number of padding tokens at the end, in the padding mask.
        window: Number of tokens that each one sees, itself included, in the window mask.
        title: Title of the figure.

    Raises:
        ValueError: if there are fewer than two documents, an empty one, or if `padding` or
            `window` are not from 1 to one less than the number of tokens.
    """
    import numpy as np

    if len(documents) < 2 or not all(documents):
        raise ValueError(
            f"documents has the lengths {[len(document) for document in documents]}; it must have "
            "two documents or more, none of them empty, to show packing"
        )
    tokens = [token for document in documents for token in document]
    t = len(tokens)
    for name, number in (("padding", padding), ("window", window)):
        if not 0 < number < t:
            raise ValueError(
                f"{name} is {number!r}; with {t} tokens it must be from 1 to {t - 1}, to be visible"
            )
    query, key = np.arange(t)[:, None], np.arange(t)[None, :]
    document = np.repeat(np.arange(len(documents)), [len(document) for document in documents])
    causal = key <= query
    near = causal & (key > query - window)
    padded = [*tokens[: t - padding], *[PADDING] * padding]
    masks = (
        ("causal\nkey ≤ query", causal, tokens),
        ("padding\nkey is not padding", np.broadcast_to(key < t - padding, (t, t)), padded),
        (f"window of {window}\nquery − {window} < key ≤ query", near, tokens),
        ("packed\ncausal, same document", causal & (document[query] == document[key]), tokens),
    )
    side = t * _cell_inches(t)
    figure = new_figure(4 * max(2.2, side + 0.7), max(2.6, side + 1.6), title)
    panels = figure.subplots(1, len(masks))
    for panel, (name, mask, names) in zip(panels, masks, strict=True):
        _draw_mask(panel, mask, *_token_labels(names, names, t, t))
        panel.set_title(name, fontsize=10)
    _add_mask_legend(figure)
    return figure


def attention_heads(
    scores: ArrayLike,
    queries: Sequence[str] | None = None,
    keys: Sequence[str] | None = None,
    mask: ArrayLike | None = None,
    title: str | None = None,
    downsample: Literal["mean", "max"] = "mean",
) -> Figure:
    """Draw the attention weights of every head, with tokens as labels; queries are the rows.

    All heads share one colour scale, which ends below a few outliers. Masked cells are hatched, to
    differ from weights of zero. If t or s exceeds 64, cells are the mean or maximum of equal blocks
    of unmasked scores, as the title says.

    Args:
        scores: (n, t, s), after the softmax. For `found` of `attention_maps`, `found.weights[0]`
            with `mask=found.mask[0]` is the first sequence of the batch.
        queries: t tokens. None: their positions.
        keys: s tokens. None: the same as `queries` if t = s, else their positions.
        mask: bool (t, s) or (n, t, s), True where the query may attend. None: everywhere.
        title: Title of the figure.
        downsample: Reduction of a block. The mean shows where most attention goes; the maximum
            keeps single large scores, which a mean hides.

    Raises:
        ValueError: if a shape or dtype is wrong, the number of tokens differs from the scores, or
            an unmasked score is negative or not finite.
    """
    if downsample not in ("mean", "max"):
        raise ValueError(f"downsample is {downsample!r}; it must be 'mean' or 'max'")
    _check_is_one(scores)
    weights = _masked(numbers(scores, "scores", "(n, t, s)"), mask)
    _, t, s = weights.shape
    blocks = math.ceil(t / MAX_CELLS), math.ceil(s / MAX_CELLS)
    rows, columns = _token_labels(queries, keys, t, s, blocks)
    if max(blocks) > 1:
        weights = _in_blocks(weights, blocks, downsample)
        of_blocks = f"(each cell: {downsample} of {blocks[0]} × {blocks[1]} scores)"
        title = f"{title} {of_blocks}" if title else of_blocks
    return _draw_heads(weights, rows, columns, title)


def _check_is_one(scores: Any) -> None:
    """Check that scores are not those of several attentions, or of several examples."""
    advice = ""
    if isinstance(scores, Mapping) and scores:
        name, found = next(iter(scores.items()))
        of_example = ".weights[0]" if hasattr(found, "weights") else ""
        advice = f"give one of {len(scores)} attentions, e.g. scores[{name!r}]{of_example}"
    elif hasattr(scores, "weights"):
        advice = "give those of one example: found.weights[0], with mask=found.mask[0]"
    elif isinstance(getattr(scores, "scores", None), Mapping):
        advice = "give those of one attention: maps.scores[name]"
    if advice:
        raise TypeError(
            f"attention_heads takes an array (n, t, s), not {described(scores)}; {advice}"
        )


def _masked(scores: np.ndarray, mask: ArrayLike | None) -> np.ma.MaskedArray:
    """Check the scores (n, t, s), and mask them."""
    import numpy as np

    n, t, s = scores.shape
    allowed = np.ones((t, s), bool)
    if mask is not None:
        allowed = _booleans(mask, "mask", "(n, t, s)" if np.ndim(mask) == 3 else "(t, s)")
    if allowed.shape not in ((t, s), (n, t, s)):
        raise ValueError(
            f"mask has the shape {allowed.shape}; for scores {scores.shape} it must be {(t, s)} or "
            f"{(n, t, s)}"
        )
    allowed = np.broadcast_to(allowed, scores.shape)
    wrong = allowed & ~((scores >= 0) & (scores < np.inf))
    if wrong.any():
        place = tuple(int(index) for index in np.argwhere(wrong)[0])
        raise ValueError(
            f"the score of (head, query, key) {place} is {scores[place]}; attention weights are "
            "finite and not negative: pass them as they are after the softmax"
        )
    return np.ma.masked_where(~allowed, scores)


def _in_blocks(weights: np.ma.MaskedArray, blocks: tuple[int, int], how: str) -> np.ma.MaskedArray:
    """Return mean or maximum of blocks of (n, t, s); fully masked blocks are masked."""
    import numpy as np

    count = reduce_blocks((~np.ma.getmaskarray(weights)).astype(int), blocks, np.add)
    # No score is negative, so that 0 does not change a maximum.
    cells = reduce_blocks(weights.filled(0), blocks, np.add if how == "mean" else np.maximum)
    cells = cells / np.maximum(count, 1) if how == "mean" else cells
    return np.ma.masked_where(count == 0, cells)


def _draw_heads(
    weights: np.ma.MaskedArray, rows: Sequence[str], columns: Sequence[str], title: str | None
) -> Figure:
    n, t, s = weights.shape
    least = math.ceil(math.sqrt(n))  # a grid wider than high, with as few gaps as possible
    across = min(range(least, 2 * least), key=lambda columns: -n % columns)
    down = math.ceil(n / across)
    inches = min(0.3, max(1.6, 4 - 0.4 * across) / max(t, s))
    size = max(1.2, s * inches), max(1.2, t * inches)
    figure = new_figure(across * (size[0] + 0.2) + 1.8, down * (size[1] + 0.3) + 1.2, title)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    limit, clipped = colour_limit(weights.compressed())
    for head, panel in enumerate(panels[:n]):
        cells = weights[head]
        image = _draw_grid(panel, cells, rows, columns, inches, cmap=from_zero(), vmax=limit)
        panel.set_title(f"head {head}", fontsize=9)
        panel.spines[:].set_color("#808080")
        is_first, is_lowest = head % across == 0, head + across >= n
        panel.tick_params(labelleft=is_first, labelbottom=is_lowest)
        panel.set_ylabel("query" if is_first else "")
        panel.set_xlabel("key" if is_lowest else "")
    for panel in panels[n:]:
        panel.set_axis_off()
    extend = "max" if clipped else "neither"
    label = "attention weight"
    figure.colorbar(image, ax=panels, label=label, extend=extend, shrink=0.8, aspect=30)
    if weights.count() < weights.size:
        _add_legend(figure, "right", {"label": "masked", **_MASKED})
    return figure


def _draw_mask(
    panel: Axes, allowed: np.ndarray, rows: Sequence[str], columns: Sequence[str]
) -> None:
    import numpy as np
    from matplotlib.colors import ListedColormap

    t, s = allowed.shape
    cells = np.ma.masked_where(~allowed, allowed)
    inches = _cell_inches(max(t, s))
    _draw_grid(panel, cells, rows, columns, inches, cmap=ListedColormap([BLUE]), zorder=1)
    if max(t, s) <= _MAX_SEPARATE_CELLS:
        panel.set_xticks(np.arange(s + 1) - 0.5, minor=True)
        panel.set_yticks(np.arange(t + 1) - 0.5, minor=True)
        panel.grid(True, which="minor", color="#FFFFFF", linewidth=1, zorder=2)
        panel.tick_params(which="minor", length=0)
    panel.spines[:].set_visible(False)


def _draw_grid(
    panel: Axes,
    cells: np.ma.MaskedArray,
    rows: Sequence[str],
    columns: Sequence[str],
    inches: float,
    **style: Any,
) -> AxesImage:
    """Draw cells (t, s) of a given size in inches; masked ones show a hatched background."""
    from matplotlib.patches import Rectangle

    t, s = cells.shape
    panel.add_patch(Rectangle((-0.5, -0.5), s, t, zorder=0, **_MASKED))
    image = panel.imshow(cells, vmin=0, interpolation="nearest", **style)
    panel.set_xlabel("key")
    panel.set_ylabel("query")
    step = max(1, math.ceil(1.25 * _LABEL_POINTS / 72 / inches))  # cells per label
    for axis, texts in ((panel.yaxis, rows), (panel.xaxis, columns)):
        axis.set_ticks(range(0, len(texts), step))
        axis.set_ticklabels(texts[::step], fontsize=_LABEL_POINTS, parse_math=False)
    widest = max(len(text) for text in columns) * 0.7 * _LABEL_POINTS / 72
    panel.tick_params(axis="x", rotation=0 if widest < inches * step else 90)
    panel.tick_params(length=0, pad=2)
    return image


def _cell_inches(cells: int) -> float:
    return min(0.3, 6 / cells)


def _add_mask_legend(figure: Figure) -> None:
    visible = {"label": "visible", "facecolor": BLUE}
    _add_legend(figure, "center", visible, {"label": "masked", **_MASKED})


def _add_legend(figure: Figure, side: str, *patches: dict[str, Any]) -> None:
    from matplotlib.patches import Patch

    handles = [Patch(**patch) for patch in patches]
    place: Any = f"outside lower {side}"
    figure.legend(handles=handles, loc=place, ncols=len(handles), frameon=False)


def _booleans(values: ArrayLike, what: str, axes: str) -> np.ndarray:
    import numpy as np

    array = np.asarray(values)
    if array.dtype != np.bool_:
        raise ValueError(
            f"{what} is of dtype {array.dtype}; it must be boolean, True where a query may attend "
            "(for an additive mask, pass `mask == 0`)"
        )
    check_axes(array, what, axes)
    return array


def _token_labels(
    queries: Sequence[str] | None,
    keys: Sequence[str] | None,
    t: int,
    s: int,
    blocks: tuple[int, int] = (1, 1),
) -> tuple[Sequence[str], Sequence[str]]:
    """Return the labels of rows and columns: tokens, or positions if there are none.

    A row or column for a block of tokens is labelled with the first one.
    """
    if keys is None and t == s:
        keys = queries
    rows, columns = blocks
    labels: list[list[str]] = []
    for what, tokens, count, block in (("queries", queries, t, rows), ("keys", keys, s, columns)):
        if tokens is not None and len(tokens) != count:
            raise ValueError(
                f"{what} has {len(tokens)} tokens for {count} {what}; it must have one for each, "
                "or be None, for their positions"
            )
        names = map(str, range(count)) if tokens is None else map(_short, tokens)
        more = "…" if block > 1 and tokens is not None else ""
        labels.append([name + more for name in islice(names, 0, None, block)])
    return labels[0], labels[1]


def _short(token: str) -> str:
    """Return a token on one line, shortened, with escapes for unprintable characters."""
    text = token if token.isprintable() else repr(token)[1:-1]
    return text if len(text) <= _MAX_LABEL else text[: _MAX_LABEL - 1] + "…"


# Positional encodings


def sinusoids(length: int, dim: int, interleaved: bool = True) -> np.ndarray:
    """Return sines and cosines of wavelengths 2 pi to 2 pi 10000^((d - 2) / d), float64 (t, d).

    angle(p, i) = p / 10000^(2 i / d) for i in [0, d/2) ("Attention Is All You Need", section 3.5).
    The longest wavelength approaches 20,000 pi for large d.

    Args:
        length: t, the number of positions.
        dim: d, an even number.
        interleaved: True puts sin and cos of angle i at 2 i and 2 i + 1, as the paper does; False
            puts all sines before all cosines, as tensor2tensor does.

    Raises:
        ValueError: if `length` or `dim` are not positive, or `dim` is odd.
    """
    import numpy as np

    if length < 1:
        raise ValueError(f"length is {length!r}; it must be at least 1")
    if dim < 2 or dim % 2:
        raise ValueError(
            f"dim is {dim!r}; it must be an even number above 0, for pairs of sin, cos"
        )
    angles = np.arange(length)[:, None] / 10_000 ** (np.arange(0, dim, 2) / dim)  # (t, d/2)
    if interleaved:
        return np.stack([np.sin(angles), np.cos(angles)], axis=-1).reshape(length, dim)
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def position_encodings(encodings: Mapping[str, ArrayLike], title: str | None = None) -> Figure:
    """Draw positional encodings as images, and dot products over the distance of two positions.

    The line is the mean over all pairs of positions at a distance, the band spans minimum to
    maximum. For sinusoids they coincide, because the dot product depends on the distance only.

    Args:
        encodings: Name -> array (t, d), drawn below each other, each on its own colour scale. See
            `sinusoids`.
        title: Title of the figure.

    Raises:
        ValueError: if there is no encoding, or one is not a finite array (t, d).
    """
    import numpy as np

    check_mapping(encodings, "position_encodings", "encodings", "name -> array (t, d)")
    figure = new_figure(11, 3.3 * len(encodings) + (0.4 if title else 0), title)
    rows = figure.subplots(len(encodings), 2, squeeze=False, width_ratios=(3, 2))
    for (image, products), (name, values) in zip(rows, encodings.items(), strict=True):
        encoding = numbers(values, f"the encoding {name!r}", "(t, d)")
        if not np.isfinite(encoding).all():
            raise ValueError(f"the encoding {name!r} holds values that are not finite")
        _draw_image(image, encoding)
        image.set_title(name, parse_math=False)
        _draw_products(products, encoding)
    return figure


def _draw_image(panel: Axes, encoding: np.ndarray) -> None:
    limit, clipped = colour_limit(abs(encoding))
    image = panel.imshow(encoding, around_zero(), vmin=-limit, vmax=limit, aspect="auto")
    panel.set_xlabel("dimension")
    panel.set_ylabel("position")
    panel.figure.colorbar(image, ax=panel, extend="both" if clipped else "neither", pad=0.02)


def _draw_products(panel: Axes, encoding: np.ndarray) -> None:
    gram = encoding @ encoding.T  # (t, t)
    distances = range(len(gram))
    diagonals = [gram.diagonal(distance) for distance in distances]
    lowest, highest = [d.min() for d in diagonals], [d.max() for d in diagonals]
    panel.fill_between(distances, lowest, highest, color=BLUE, alpha=0.2, linewidth=0)
    panel.plot(distances, [d.mean() for d in diagonals], color=BLUE, linewidth=1.8)
    finish(panel, "distance of two positions", "dot product")
