"""Activations and gradients along the depth of a model, sublayer by sublayer."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from plots.arguments import model_of
from plots.graph import Graph
from plots.hierarchy import depth_of, enclosing_block, find_namespaces
from plots.measuring.execution import Execution, Opened, Place, as_array
from plots.measuring.gradients import loss_of_outputs
from plots.skips import skip_paths

if TYPE_CHECKING:
    import keras
    import numpy as np


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
    inside = sublayers(execution.graph, within)
    loss_at = loss_of_outputs(model, targets, loss, seed)
    wanted = [edge for sublayer in inside for edge in (*sublayer.skip, *sublayer.branch)]
    on_edges = execution.gradients(loss_at, wanted)
    ends = (as_array(execution.values[sublayer.end, 0]) for sublayer in inside)
    return DepthProfile(
        places=tuple(s.end for s in inside),
        variance=tuple(map(_variance, ends)),
        skip_gradient=tuple(_norm_along(s.skip, on_edges) for s in inside),
        branch_gradient=tuple(_norm_along(s.branch, on_edges) for s in inside),
    )


class Sublayer(NamedTuple):
    """One sublayer of a residual stream, or a part of a numbered block without skip paths.

    Attributes:
        end: Id of its last call, the merge if there is a skip path. Its output is the stream.
        skip: Ids of the edges past it, where they part from those into it; none without skip path.
        branch: Ids of the edges into it.
        added: The values that it adds to the stream; without skip path, the output of `end`.
    """

    end: str
    skip: tuple[str, ...]
    branch: tuple[str, ...]
    added: tuple[Place, ...]


def sublayers(graph: Graph, within: str = "") -> list[Sublayer]:
    """Return the sublayers of a graph, in the order of their ends.

    Args:
        graph: The graph.
        within: Namespace to restrict them to, such as "decoder".

    Raises:
        ValueError: if there are neither skip paths nor numbered blocks `within`.
    """
    namespaces = find_namespaces(graph)
    found = [*_bypassed_sublayers(graph)] or [*_parts_of_blocks(graph, namespaces)]
    inside = [s for s in found if f"{namespaces[s.end]}.".startswith(within and f"{within}.")]
    if not inside:
        where = f" within {within!r}" if within else ""
        raise ValueError(
            f"the model {graph.name!r} has neither skip paths nor numbered blocks{where}, so it "
            "has no depth to profile"
        )
    return inside


def _bypassed_sublayers(graph: Graph) -> Iterator[Sublayer]:
    for path in skip_paths(graph):
        outgoing = graph.outgoing[path.source]
        arriving = [edge for node_id in path.line[1:] for edge in graph.incoming[node_id]]
        ends = ((edge.source, edge.output) for edge in arriving if edge.source in path.bypassed)
        yield Sublayer(
            end=path.target,
            skip=tuple(edge.id for edge in outgoing if edge.target == path.line[1]),
            branch=tuple(edge.id for edge in outgoing if edge.target in path.bypassed),
            added=tuple(dict.fromkeys(ends)),
        )


def _parts_of_blocks(graph: Graph, namespaces: Mapping[str, str]) -> Iterator[Sublayer]:
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
        yield Sublayer(ids[-1], (), branch, ((ids[-1], 0),))


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
