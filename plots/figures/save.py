"""Figures to files: whole or not at all, and the same bytes every time."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TYPE_CHECKING

from plots.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "svg", "pdf")


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
    if suffix not in _FORMATS:
        raise ValueError(
            f"cannot write the figure {str(path)!r}: its suffix must be one of "
            + ", ".join(f".{known}" for known in _FORMATS)
        )
    dates = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}  # else they differ every time
    data = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "plots"}):
        figure.savefig(data, format=suffix, dpi=dpi, metadata=dates.get(suffix))
    return write_whole(path, data.getvalue())
