"""Run one batch through a model, call by call, and measure activations and gradients.

The plugins `activations` and `gradients`, and the profile along the depth. The calls are computed
by `plots.measuring.execution`; `plots.measuring.attention_maps` has the attention weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

from plots.annotations import Note, Overlay, Quantity
from plots.arguments import model_of
from plots.graph import Graph
from plots.hierarchy import depth_of, enclosing_block, find_namespaces
from plots.measuring.execution import Execution, Opened, loss_of_outputs
from plots.registry import graph_plugin
from plots.skips import skip_paths

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


# Depth ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """Activations and gradients along the depth of a model, sublayer by sublayer from the input on.

    Attributes:
        places: Ids of the merges that end the sublayers; without skip paths, of their last calls.
        variance: Variance of their outputs; infinite if a number of an output is, NaN if one is.
        skip_gradient: L2 norm of the gradient that comes back along the skip path; 0 without one.
        branch_gradient: L2 norm of the gradient that comes back through the sublayer. Both are
            taken where the two paths part, so that their sum, as tensors, is the gradient there.
    """

    places: tuple[str, ...]
    variance: tuple[float, ...]
    skip_gradient: tuple[float, ...]
    branch_gradient: tuple[float, ...]

    @property
    def gradients(self) -> dict[str, tuple[float, ...]]:
        """Both by name, as `plots.signal_propagation` takes them; the first if there is one."""
        skip = {"skip path": self.skip_gradient} if any(self.skip_gradient) else {}
        return {**skip, "branch": self.branch_gradient}


def depth_profile(
    model: keras.Model,
    inputs: Any = None,
    targets: Any = None,
    loss: Any = None,
    within: str = "",
    seed: int = 0,
) -> DepthProfile:
    """Return the size of activations and gradients of one batch along the residual stream.

    There is one entry for every skip path (`plots.skip_paths`), or in a model without any for every
    part of its numbered blocks ("decoder.block_3.feedforward"), so that an ablation can be compared
    with the whole model.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        targets: Targets that the loss compares the outputs with.
        loss: The loss; see `plots.edge_gradients`. By default one whose gradient with respect to
            the outputs has an RMS of about 1.
        within: Namespace to restrict the profile to, such as "decoder" of an encoder-decoder.
        seed: Seed of the random inputs and the default loss.

    Raises:
        TypeError: if the model has no graph.
        ValueError: as from `plots.edge_gradients`; if there are neither skip paths nor numbered
            blocks `within`.
    """
    model = model_of(model)
    execution = Execution.of(model, inputs, seed, Opened(nested=True, layers=True))
    graph = execution.graph
    namespaces = find_namespaces(graph)
    sublayers = [*_bypassed_sublayers(graph)] or [*_parts_of_blocks(graph, namespaces)]
    inside = [s for s in sublayers if f"{namespaces[s.end]}.".startswith(within and f"{within}.")]
    if not inside:
        where = f" within {within!r}" if within else ""
        raise ValueError(
            f"the model {graph.name!r} has neither skip paths nor numbered blocks{where}, so it "
            "has no depth to profile"
        )
    values = execution.arrays()
    on_edges = execution.gradients(loss_of_outputs(model, targets, loss, seed))
    return DepthProfile(
        places=tuple(s.end for s in inside),
        variance=tuple(_variance(values[s.end][0]) for s in inside),
        skip_gradient=tuple(_norm_along(s.skip, on_edges) for s in inside),
        branch_gradient=tuple(_norm_along(s.branch, on_edges) for s in inside),
    )


class _Sublayer(NamedTuple):
    """The last call of a sublayer, and ids of the edges past it and into it, where they part."""

    end: str
    skip: tuple[str, ...]
    branch: tuple[str, ...]


def _bypassed_sublayers(graph: Graph) -> Iterator[_Sublayer]:
    for path in skip_paths(graph):
        outgoing = graph.outgoing[path.source]
        yield _Sublayer(
            end=path.target,
            skip=tuple(edge.id for edge in outgoing if edge.target == path.line[1]),
            branch=tuple(edge.id for edge in outgoing if edge.target in path.bypassed),
        )


def _parts_of_blocks(graph: Graph, namespaces: Mapping[str, str]) -> Iterator[_Sublayer]:
    """Yield the parts of the numbered blocks, or the blocks themselves if they have none."""
    members: dict[str, list[str]] = {}
    for node_id, namespace in namespaces.items():
        if block := enclosing_block(namespace):
            part = ".".join(namespace.split(".")[: depth_of(block) + 1])
            members.setdefault(part, []).append(node_id)
    # By their ends: keys and values of a cross-attention come long before its queries.
    for ids in sorted(members.values(), key=lambda ids: graph.index[ids[-1]]):
        into = (edge for node_id in ids for edge in graph.incoming[node_id])
        entering = [e for e in into if e.source not in ids and "float" in e.tensor.dtype]
        # The latest source: not the encoder, which all blocks of a decoder take from.
        source = max((edge.source for edge in entering), key=graph.index.__getitem__, default="")
        branch = tuple(edge.id for edge in entering if edge.source == source)
        yield _Sublayer(ids[-1], (), branch)


def _variance(array: np.ndarray) -> float:
    """Return the variance of all numbers; infinite if one of them is, where NumPy returns NaN."""
    import numpy as np

    is_infinite = np.isinf(array).any() and not np.isnan(array).any()
    return math.inf if is_infinite else float(array.var(dtype="float64"))


def _norm_along(edges: tuple[str, ...], on_edges: Mapping[str, np.ndarray]) -> float:
    """Return the L2 norm of the sum of the gradients along some edges out of one call."""
    import numpy as np

    # In float32 the square of 1e-25 is zero, but vanishing gradients must be visible.
    arrays = [on_edges[edge].astype("float64") for edge in edges if edge in on_edges]
    return float(np.linalg.norm(sum(arrays[1:], start=arrays[0]))) if arrays else 0.0
