"""Pictures in boxes: Graphviz takes them from files, and an SVG is to hold them itself."""

from __future__ import annotations

import base64
import hashlib
import struct
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

_LONGEST_POINTS = 240
_POINTS_PER_PIXEL = 0.5  # small, so that they are sharp on fine displays and on paper


def picture_row(picture: str) -> str:
    """The row of an HTML-like label that shows a PNG, given as base64 text."""
    width, height = struct.unpack(">II", base64.b64decode(picture[:32])[16:24])
    scale = min(_POINTS_PER_PIXEL, _LONGEST_POINTS / max(width, height))
    size = f'width="{max(1, round(width * scale))}" height="{max(1, round(height * scale))}"'
    return (
        f'<tr><td fixedsize="true" cellpadding="0" {size}>'
        f'<img src="{_file_name(picture)}" scale="true"/></td></tr>'
    )


@contextmanager
def files_of(pictures: Iterable[str]) -> Iterator[str]:
    """A folder that holds the pictures, as long as Graphviz needs them."""
    with tempfile.TemporaryDirectory() as folder:
        for picture in pictures:
            (Path(folder) / _file_name(picture)).write_bytes(base64.b64decode(picture))
        yield folder


def inlined(svg: bytes, pictures: Iterable[str]) -> bytes:
    """An SVG that refers to files, with their contents in the place of their names."""
    for picture in dict.fromkeys(pictures):
        name, contents = _file_name(picture), f"data:image/png;base64,{picture}"
        svg = svg.replace(f'href="{name}"'.encode(), f'href="{contents}"'.encode())
    return svg


def _file_name(picture: str) -> str:
    """A name by the contents, so that it is the same in every process."""
    return hashlib.sha256(picture.encode()).hexdigest()[:24] + ".png"
