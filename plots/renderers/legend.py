"""What stands below a picture of a graph: totals of the overlays, meanings of the letters."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Overlay, number_text
from plots.axes.letters import meaning
from plots.graph import Graph


def legend(graph: Graph) -> list[str]:
    """The lines of the legend; none where no plugin has said anything that needs one.

    Letters are those that the picture shows: on the edges, and at the outputs of the model.
    """
    # One with neither a whole nor values has counted nothing at all, which has to be said.
    summed = [overlay for overlay in graph.overlays if overlay.whole or not overlay.values]
    lines = [total_text(overlay) for overlay in summed]
    if len(lines) > 1 and summed[-1] is graph.overlays[-1]:
        lines[-1] += "; coloured"
    return [*lines, *letter_meanings(graph)]


def total_text(overlay: Overlay) -> str:
    """Such as "FLOPs: 36.9 kFLOP b t² + 247 MFLOP b t; shares at b = 1, t = 1024 (292 GFLOP)"."""
    text = f"{overlay.title}: {overlay.whole.text(overlay.unit)}"
    if not overlay.sizes:
        return text
    sizes = ", ".join(f"{letter} = {size}" for letter, size in overlay.sizes.items())
    return f"{text}; shares at {sizes} ({number_text(overlay.number(overlay.whole), overlay.unit)})"


def letter_meanings(graph: Graph) -> Iterator[str]:
    """Such as "d = 768: width of the residual stream", for every letter on an edge or output."""
    shown = [edge.tensor for edge in graph.edges]
    shown += [graph.node(node_id).outputs[number] for node_id, number in graph.outputs]
    signs = {sign for tensor in shown for letters in tensor.letters for sign in letters}
    for letter, size in graph.letters.items():
        if letter in signs:
            yield f"{letter}{'' if size is None else f' = {size}'}: {meaning(letter)}"
