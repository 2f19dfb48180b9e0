"""Run one batch through a model, call by call, and measure activations and gradients.

The plugins `activations` and `gradients`. `plots.measuring.depth` has the profile along the depth,
and `plots.measuring.attention_maps` the attention weights; `plots.measuring.execution` computes the
calls.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plots.annotations import Note, Overlay, Quantity
from plots.graph import Graph
from plots.measuring.execution import Execution
from plots.measuring.gradients import loss_of_outputs
from plots.registry import graph_plugin

if TYPE_CHECKING:
    import keras
    import numpy as np


@graph_plugin("activations")
def activations(
    graph: Graph, model: keras.Model | None = None, inputs: Any = None, seed: int = 0
) -> Graph:
    """RMS and variance of the activations of one batch, for every call.

    Adds the overlays "activation RMS" and "activation variance" over all floats that a call
    returns: over batch, positions and channels. Infinite ones are left out, such as masked scores.
    A note names the calls where NaN or infinity first occurs.

    Args:
        graph: The graph.
        model: The model that it was read from.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        seed: Seed of the random inputs.

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
    notes = _broken(broken, before, floats, "numbers that it returns")
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
    """RMS of the gradients of one batch, for every call and on the edges where they part.

    Adds the overlay "gradients": the RMS of the gradient with respect to the output of a call and,
    if that goes to several calls, of the gradient that comes back along each edge, so that one sees
    how much bypasses a sublayer along the skip path, and how much comes through it. A gradient with
    NaN or infinity has no number; a note names the calls where these first occur on the way back.

    Args:
        graph: The graph.
        model: The model that it was read from.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        targets: Targets that the loss compares the outputs with.
        loss: The loss; see `plots.edge_gradients`. By default one whose gradient with respect to
            the outputs has an RMS of about 1.
        seed: Seed of the random inputs and the default loss.

    Raises:
        ValueError: if there is no model, it has no weights, the inputs do not fit, or there are
            targets and no loss.
    """
    import numpy as np

    execution = Execution.as_read(graph, model, inputs, seed)
    on_edges = execution.gradients(loss_of_outputs(execution.model, targets, loss, seed))
    of_calls: dict[str, list[np.ndarray]] = {}
    for (node_id, _), array in execution.summed_gradients(on_edges).items():
        of_calls.setdefault(node_id, []).append(array)
    floats = {i: _floats(of_calls[i]) for i in graph.index if i in of_calls}
    sizes = {i: rms(numbers) for i, numbers in floats.items()}
    edges = [edge for edge in graph.edges if edge.id in on_edges]
    ways = Counter((edge.source, edge.output) for edge in edges)
    parting = [edge.id for edge in edges if ways[edge.source, edge.output] > 1]
    sizes |= {edge_id: rms(on_edges[edge_id]) for edge_id in parting}
    overlay = _overlay("gradients", "RMS of the gradient", sizes)
    broken = {i: int((~np.isfinite(numbers)).sum()) for i, numbers in floats.items()}
    behind = {i: [edge.target for edge in graph.outgoing[i]] for i in broken}
    notes = _broken(broken, behind, floats, "numbers of the gradient that reaches it")
    return replace(graph, overlays=(*graph.overlays, overlay), notes=(*graph.notes, *notes))


def rms(array: np.ndarray) -> float:
    """Return the root mean square of all numbers of an array."""
    return math.sqrt((array.astype("float64") ** 2).mean())


def _overlay(name: str, title: str, numbers: Mapping[str, float]) -> Overlay:
    """Return numbers by place as an overlay, without NaN and infinity, which JSON does not have."""
    values = {i: Quantity(float(number)) for i, number in numbers.items() if math.isfinite(number)}
    return Overlay(name, title, "", values, combine="last", scale="log")


def _floats(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return all floats of some arrays as one vector."""
    import numpy as np

    rows = [array.ravel() for array in arrays if array.dtype.kind == "f"]
    return np.concatenate(rows, dtype=np.float64) if rows else np.empty(0)


def _broken(
    broken: Mapping[str, int],
    earlier: Mapping[str, Iterable[str]],
    floats: Mapping[str, np.ndarray],
    what: str,
) -> Iterator[Note]:
    """Yield notes on the calls where NaN or infinity first occurs.

    By the id of a call, `broken` has the count of such numbers, `earlier` the calls that its
    numbers are computed from, and `floats` all of its numbers, which are `what` in words.
    """
    for node_id, count in broken.items():
        if count and not any(broken.get(other) for other in earlier[node_id]):
            text = f"{count} of the {floats[node_id].size} {what} are NaN or ∞"
            yield Note("finding", (node_id,), text)
