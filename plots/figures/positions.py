"""Positional encodings as images, and the similarity of two positions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from plots.figures.style import BLUE, around_zero, colour_limit, finish, new_figure, numbers

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from numpy.typing import ArrayLike


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

    if not encodings:
        raise ValueError("no encodings were given: position_encodings needs name -> array (t, d)")
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
    import numpy as np

    limit, clipped = colour_limit(np.abs(encoding))
    image = panel.imshow(encoding, around_zero(), vmin=-limit, vmax=limit, aspect="auto")
    panel.set_xlabel("dimension")
    panel.set_ylabel("position")
    panel.figure.colorbar(image, ax=panel, extend="both" if clipped else "neither", pad=0.02)


def _draw_products(panel: Axes, encoding: np.ndarray) -> None:
    import numpy as np

    gram = encoding @ encoding.T  # (t, t)
    diagonals = [np.diagonal(gram, distance) for distance in range(len(gram))]
    distances = np.arange(len(gram))
    lowest, highest = [d.min() for d in diagonals], [d.max() for d in diagonals]
    panel.fill_between(distances, lowest, highest, color=BLUE, alpha=0.2, linewidth=0)
    panel.plot(distances, [d.mean() for d in diagonals], color=BLUE, linewidth=1.8)
    finish(panel, "distance of two positions", "dot product")
