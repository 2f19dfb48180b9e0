"""Plain-text and Markdown tables; the output does not depend on the terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Literal

_UNLIMITED = 1 << 16  # columns of the console, so that no cell is wrapped or cut


def format_table(
    rows: Sequence[Sequence[str]],
    *,
    align: Literal["left", "right"] = "right",
    markdown: bool = False,
) -> str:
    """Return rows of cells as aligned columns, without colours and trailing spaces.

    Args:
        rows: cells, the same number in every row; in Markdown, the first row is the header.
        align: alignment of all columns but the first, which is left-aligned.
        markdown: return a Markdown table.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.MARKDOWN if markdown else None,
        show_header=markdown,
        pad_edge=markdown,
        padding=(0, 1) if markdown else (0, 2, 0, 0),
    )
    for number, title in enumerate(rows[0]):
        header = Text(title) if markdown else ""
        table.add_column(header, justify=align if number else "left", no_wrap=True)
    for row in rows[markdown:]:
        table.add_row(*(Text(cell.replace("\n", " ")) for cell in row))
    output = io.StringIO()
    Console(file=output, width=_UNLIMITED, color_system=None).print(table)
    return "\n".join(line.rstrip() for line in output.getvalue().split("\n")).strip("\n")
