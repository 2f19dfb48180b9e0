"""Plugins that run one batch: how large activations are, and how large gradients come back."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plots.annotations import Note, Overlay, Quantity
from plots.graph import Graph
from plots.measuring.execution import Execution, needed
from plots.measuring.losses import loss_of_outputs
from plots.registry import graph_plugin

if TYPE_CHECKING:
    import keras
    import numpy as np


@graph_plugin("activations")
def activations(
    graph: Graph, model: keras.Model | None = None, inputs: Any = None, seed: int = 0
) -> Graph:
    """Size of the activations of one batch: their RMS and their variance, for every call.

    Adds the overlays "activation RMS" and "activation variance": of all numbers that a call gives
    out, over batch, positions and channels, if they are floats. Infinite ones are left out, such as
    the scores of what a mask hides. Where NaN, or infinity, first comes up, a note says so.

    Args:
        graph: The graph.
        model: What it was read from.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        seed: Of the random inputs.

    Raises:
        ValueError: if there is no model, it has no weights, or the inputs do not fit.
    """
    import numpy as np

    arrays = Execution.as_read(graph, model, inputs, seed).arrays()
    floats = {node.id: _floats(arrays[node.id]) for node in graph.nodes if node.id in arrays}
    finite = {node_id: numbers[np.isfinite(numbers)] for node_id, numbers in floats.items()}
    known = {node_id: numbers for node_id, numbers in finite.items() if numbers.size}
    overlays = (
        _overlay("activation RMS", "RMS", {i: rms(numbers) for i, numbers in known.items()}),
        _overlay("activation variance", "variance", {i: x.var() for i, x in known.items()}),
    )
    # Minus infinity is for masks.
    broken = {i: int((np.isnan(x) | np.isposinf(x)).sum()) for i, x in floats.items()}
    before = {i: [edge.source for edge in graph.incoming[i]] for i in broken}
    notes = tuple(_broken(broken, before, floats, "numbers that it gives out"))
    return replace(graph, overlays=(*graph.overlays, *overlays), notes=(*graph.notes, *notes))


@graph_plugin("gradients")
def gradients(
    graph: Graph,
    model: keras.Model | None = None,
    inputs: Any = None,
    targets: Any = None,
    loss: Any = None,
    seed: int = 0,
) -> Graph:
    """Size of the gradients of one batch, on their way back: for every call, and where they part.

    Adds the overlay "gradients": the RMS of the gradient with respect to what a call gives out, and
    where that goes more than one way, on each edge the RMS of what comes back along it, so that one
    sees how much bypasses a sublayer along the skip path, and how much comes through it. Where
    there is NaN or infinity among a gradient, it has no number; where that first comes up on the
    way back, a note says so.

    Args:
        graph: The graph.
        model: What it was read from.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        targets: What the loss compares the outputs with.
        loss: What is differentiated; see `plots.edge_gradients`. By default something whose
            gradient with respect to the outputs has an RMS of about 1.
        seed: Of the random inputs and the default loss.

    Raises:
        ValueError: if there is no model, it has no weights, the inputs do not fit, or there are
            targets and no loss.
    """
    import numpy as np

    execution = Execution.as_read(graph, model, inputs, seed)
    on_edges = execution.gradients(loss_of_outputs(needed(model), targets, loss, seed))
    of_calls: dict[str, list[np.ndarray]] = {}
    for (node_id, _), array in execution.summed_gradients(on_edges).items():
        of_calls.setdefault(node_id, []).append(array)
    floats = {i: _floats(of_calls[i]) for i in graph.index if i in of_calls}
    sizes = {i: rms(numbers) for i, numbers in floats.items()}
    ways: dict[tuple[str, int], list[str]] = {}
    for edge in graph.edges:
        if edge.id in on_edges:
            ways.setdefault((edge.source, edge.output), []).append(edge.id)
    parting = [edge for edges in ways.values() if len(edges) > 1 for edge in edges]
    sizes |= {edge: rms(on_edges[edge]) for edge in parting}
    overlay = _overlay("gradients", "RMS of the gradient", sizes)
    broken = {i: int((~np.isfinite(numbers)).sum()) for i, numbers in floats.items()}
    behind = {i: [edge.target for edge in graph.outgoing[i]] for i in broken}
    notes = tuple(_broken(broken, behind, floats, "numbers of the gradient that reaches it"))
    return replace(graph, overlays=(*graph.overlays, overlay), notes=(*graph.notes, *notes))


def rms(array: np.ndarray) -> float:
    """The root of the mean square of all numbers of an array."""
    import numpy as np

    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64))))


def _overlay(name: str, title: str, numbers: Mapping[str, float]) -> Overlay:
    """Numbers by place as an overlay, without those that are NaN or infinite, as JSON is."""
    values = {i: Quantity(float(number)) for i, number in numbers.items() if math.isfinite(number)}
    return Overlay(name, title, "", values, combine="last", scale="log")


def _floats(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """All floats among some arrays in one row."""
    import numpy as np

    rows = [array.ravel() for array in arrays if array.dtype.kind == "f"]
    return np.concatenate(rows, dtype=np.float64) if rows else np.empty(0)


def _broken(
    broken: Mapping[str, int],
    earlier: Mapping[str, Iterable[str]],
    floats: Mapping[str, np.ndarray],
    what: str,
) -> Iterator[Note]:
    """Notes on the calls where numbers first are NaN or infinite.

    Args:
        broken: Id of a call -> how many of its numbers are.
        earlier: Id of a call -> ids of those that its numbers come from.
        floats: Id of a call -> all of its numbers.
        what: The numbers, in words.
    """
    for node_id, count in broken.items():
        if count and not any(broken.get(other) for other in earlier[node_id]):
            text = f"{count} of the {floats[node_id].size} {what} are NaN or ∞"
            yield Note("finding", (node_id,), text)
