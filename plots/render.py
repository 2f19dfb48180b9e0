"""DOT to PNG, SVG, PDF or DOT files, without a Graphviz installation, written whole or not at all.

`dot` is used where it is installed; else the Graphviz that the wheel `pygraphviz` carries.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
import threading
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pydot

FORMATS = ("png", "svg", "pdf", "dot")

MAX_SIDE_PIXELS = 16_000
"""Longest side of a PNG. Viewers and browsers refuse much larger ones."""

_GRAPHVIZ_LOCK = threading.Lock()  # the bundled Graphviz is not thread-safe

_PDF_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")


def picture_format(to_file: str | os.PathLike[str]) -> str:
    """The format that a file name asks for by its suffix; PNG if it has none.

    Raises:
        ValueError: if the suffix names none of `FORMATS`.
    """
    suffix = Path(to_file).suffix
    name = suffix[1:].lower() or "png"
    if name not in FORMATS:
        raise ValueError(
            f"cannot write {str(to_file)!r}: the suffix {suffix!r} names no known format. "
            f"Known are {', '.join('.' + known for known in FORMATS)}"
        )
    return name


def render(dot: pydot.Dot, to_file: str | os.PathLike[str]) -> Path:
    """Draw `dot` into a file, in the format of its suffix.

    The same DOT gives the same bytes. A PNG of a large graph is scaled down, whatever its dpi, so
    that no side is longer than `MAX_SIDE_PIXELS`.

    Returns:
        The path of the file.

    Raises:
        ValueError: if the suffix names no known format.
        ImportError: if neither `dot` nor pygraphviz is there.
        RuntimeError: if Graphviz cannot draw the graph.
        OSError: if the file cannot be written.
    """
    picture = picture_format(to_file)
    if picture == "png":
        # `size` is the largest extent in inches; Graphviz scales down what is larger.
        inches = MAX_SIDE_PIXELS / float(dot.get("dpi") or 96)
        dot.set("size", f'"{inches:.2f},{inches:.2f}"')
    text = dot.to_string()
    data = text.encode() if picture == "dot" else run_graphviz(text, picture)
    return write_whole(to_file, data)


def run_graphviz(text: str, picture: str) -> bytes:
    """Lay out DOT text and give back the bytes of the picture in the given format.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is there.
        RuntimeError: if Graphviz cannot draw the graph.
    """
    with _GRAPHVIZ_LOCK:
        installed = shutil.which("dot")
        if installed:
            data = _run_installed(installed, text, picture)
        else:
            data = _run_bundled(text, picture)
    # A PDF holds the time at which it was written. The new date is as long as the old one, because
    # the PDF's table of contents counts bytes.
    return _PDF_DATE.sub(rb"\g<1>19700101000000", data) if picture == "pdf" else data


def write_whole(to_file: str | os.PathLike[str], data: bytes) -> Path:
    """Write a file whole or not at all; missing folders are made.

    Raises:
        OSError: if the folder cannot be made or the file not written; what was there stays.
    """
    path = Path(to_file)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_dir():
        raise IsADirectoryError(f"cannot write a picture to {str(path)!r}: it is a folder")
    # In the same folder, because only within one file system is replacing a file one step.
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def _run_installed(program: str, text: str, picture: str) -> bytes:
    done = subprocess.run(
        [program, f"-T{picture}"], input=text.encode(), capture_output=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{program} failed to draw the graph: {done.stderr.decode().strip()}")
    return done.stdout


def _run_bundled(text: str, picture: str) -> bytes:
    try:
        import pygraphviz
    except ImportError as error:
        raise ImportError(
            "drawing needs Graphviz: `pip install pygraphviz` (the wheel carries it), or put "
            "Graphviz' `dot` on the PATH; a .dot file can be written without either"
        ) from error
    try:
        graph = pygraphviz.AGraph(string=text)
        with redirect_stderr(io.StringIO()):  # its warning that a large graph may take long
            drawn = graph.draw(format=picture, prog="dot")
    except (ValueError, pygraphviz.DotError) as error:
        raise RuntimeError(f"Graphviz failed to draw the graph: {error}") from error
    graph.close()
    return drawn if isinstance(drawn, bytes) else drawn.encode()


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
