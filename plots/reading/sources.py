"""Where graphs come from: a graph itself, a model, or a file."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from plots.graph import Graph
from plots.reading.read import read_graph

if TYPE_CHECKING:
    import keras


def graph_of(
    source: Graph | keras.Model | str | os.PathLike[str], open_layers: bool = False
) -> Graph:
    """A graph, that of a model with the models inside of it opened, or that in a file.

    `open_layers` is as for `read_graph`, and says nothing of what is a graph already.

    Raises:
        OSError: if the file cannot be read.
        TypeError: if it is a model without a graph, or nothing that has one.
        ValueError: if the file holds no graph, or the model is not built.
    """
    if isinstance(source, Graph):
        return source
    if isinstance(source, str | os.PathLike):
        try:
            return Graph.from_json(Path(source).read_text("utf-8"))
        except ValueError as error:  # a file that is no text as well
            raise ValueError(f"{os.fspath(source)}: {error}") from None
    return read_graph(source, open_nested=True, open_layers=open_layers)
