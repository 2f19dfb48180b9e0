"""How activations grow and gradients fade with depth, in numbers for a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plots.graph import Graph
from plots.hierarchy import depth_of, enclosing_block, find_namespaces
from plots.measuring.execution import Execution, Opened
from plots.measuring.losses import loss_of_outputs
from plots.skips import skip_paths

if TYPE_CHECKING:
    import keras
    import numpy as np


@dataclass(frozen=True, slots=True)
class DepthProfile:
    """Activations and gradients along the depth of a model, sublayer by sublayer from the input on.

    Attributes:
        places: Ids of the merges that end the sublayers; without skip paths, of their last calls.
        variance: Variance of what these give out; infinite where a number of it is, and NaN where
            one is NaN.
        skip_gradient: L2 norm of the gradient that comes back past the sublayer, along its skip
            path; 0 if it has none.
        branch_gradient: L2 norm of the gradient that comes back through the sublayer. Both are
            taken where the two ways part, so that their sum, as tensors, is the gradient there.
    """

    places: tuple[str, ...]
    variance: tuple[float, ...]
    skip_gradient: tuple[float, ...]
    branch_gradient: tuple[float, ...]

    @property
    def gradients(self) -> dict[str, tuple[float, ...]]:
        """Both by name, as `plots.signal_propagation` takes them, the first if there is any."""
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
    """Run one batch, and follow activations and gradients along the residual stream.

    There is one entry for every skip path (`plots.skip_paths`). A model without any is followed
    along the boxes in its numbered blocks ("decoder.block_3.feedforward"), so that an ablation can
    be laid next to what it is an ablation of.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        targets: What the loss compares the outputs with.
        loss: What is differentiated; see `plots.edge_gradients`. By default something whose
            gradient with respect to the outputs has an RMS of about 1.
        within: Only what lies in this namespace, such as "decoder" of an encoder-decoder.
        seed: Of the random inputs and the default loss.

    Raises:
        TypeError: if the model has no graph.
        ValueError: as from `plots.edge_gradients`; if there are neither skip paths nor numbered
            blocks `within`.
    """
    execution = Execution.of(model, inputs, seed, Opened(nested=True, layers=True))
    graph = execution.graph
    namespaces = find_namespaces(graph)
    sublayers = [*_residual(graph)] or [*_plain(graph, namespaces)]
    inside = [s for s in sublayers if f"{namespaces[s.end]}.".startswith(within and f"{within}.")]
    if not inside:
        where = f" within {within!r}" if within else ""
        raise ValueError(
            f"the model {graph.name!r} has neither skip paths nor numbered blocks{where}, so that "
            "there is no depth to go along"
        )
    values = execution.arrays()
    on_edges = execution.gradients(loss_of_outputs(model, targets, loss, seed))
    return DepthProfile(
        places=tuple(s.end for s in inside),
        variance=tuple(_variance(values[s.end][0]) for s in inside),
        skip_gradient=tuple(_norm_along(s.skip, on_edges) for s in inside),
        branch_gradient=tuple(_norm_along(s.branch, on_edges) for s in inside),
    )


@dataclass(frozen=True, slots=True)
class _Sublayer:
    """Where a sublayer ends, and ids of the edges past it and into it, from where they part."""

    end: str
    skip: tuple[str, ...]
    branch: tuple[str, ...]


def _residual(graph: Graph) -> Iterator[_Sublayer]:
    for path in skip_paths(graph):
        onwards = graph.outgoing[path.source]
        yield _Sublayer(
            end=path.target,
            skip=tuple(edge.id for edge in onwards if edge.target == path.line[1]),
            branch=tuple(edge.id for edge in onwards if edge.target in path.bypassed),
        )


def _plain(graph: Graph, namespaces: Mapping[str, str]) -> Iterator[_Sublayer]:
    """The boxes right in the numbered blocks, or the blocks themselves where there are none."""
    members: dict[str, list[str]] = {}
    for node in graph.nodes:
        parts = namespaces[node.id].split(".")
        block = enclosing_block(namespaces[node.id])
        if block:
            members.setdefault(".".join(parts[: depth_of(block) + 1]), []).append(node.id)
    # By their ends: keys and values of a cross-attention come long before its queries.
    for ids in sorted(members.values(), key=lambda ids: graph.index[ids[-1]]):
        entering = [
            edge
            for node_id in ids
            for edge in graph.incoming[node_id]
            if edge.source not in ids and "float" in edge.tensor.dtype
        ]
        # The latest of what it takes from: not the encoder, which all of a decoder takes from.
        source = max((edge.source for edge in entering), key=graph.index.__getitem__, default="")
        branch = tuple(edge.id for edge in entering if edge.source == source)
        yield _Sublayer(ids[-1], (), branch)


def _variance(array: np.ndarray) -> float:
    """The variance of all numbers; infinite if one of them is, which NumPy calls NaN."""
    import numpy as np

    if np.isinf(array).any() and not np.isnan(array).any():
        return math.inf
    return float(array.var(dtype="float64"))


def _norm_along(edges: tuple[str, ...], on_edges: Mapping[str, np.ndarray]) -> float:
    """L2 norm of the sum of the gradients that come back along some edges out of one call."""
    import numpy as np

    # In float32 the square of 1e-25 is zero, and vanishing gradients are what is looked for.
    arrays = [on_edges[edge].astype("float64") for edge in edges if edge in on_edges]
    return float(np.linalg.norm(sum(arrays[1:], start=arrays[0]))) if arrays else 0.0
