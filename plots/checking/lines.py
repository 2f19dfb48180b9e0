"""Outputs that have the positions of an input, and the calls by which they see later ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plots.attentions import attentions_with_masks
from plots.checking.attention import regions
from plots.checking.samples import Field
from plots.checking.trials import Arrays, Trial
from plots.checking.visibility import Visibility, frontier, visibility
from plots.graph import Edge, Graph
from plots.measuring.execution import Place
from plots.traversal import reachability


def outputs_in_line(
    trial: Trial, field: Field, values: Arrays | None = None, after: Arrays | None = None
) -> Iterator[tuple[int, Visibility]]:
    """Yield the outputs whose positions are those of an input, and what they see of it."""
    attentions, _, _ = attentions_with_masks(trial.graph)
    others = {e.id for a in attentions for e in (*a.keys, *a.values, *a.masks)}

    def follow(edge: Edge) -> bool:
        return edge.id not in others and _has_positions(trial, (edge.source, edge.output))

    lined = reachability(trial.graph, follow)
    for number, place in enumerate(trial.graph.outputs):
        if place[0] != field.place and lined.depends(place[0], on=field.place):
            tensor = trial.graph.node(place[0]).outputs[place[1]]
            if len(tensor.shape) > 2 or (len(tensor.shape) == 2 and tensor.shape[1] is None):
                found = trial.dependence(
                    place,
                    (values or trial.values)[place],
                    (after or trial.probed[field.place])[place],
                )
                if found.matrices:
                    yield number, visibility(found.matrices[0], trial.samples.probes)


def _has_positions(trial: Trial, place: Place) -> bool:
    """Return whether a value may have the positions of an input, or some fewer or more of them."""
    array = trial.values.get(place)
    if array is None or not array.ndim:
        return False
    length = trial.samples.length
    is_of_ids = array.ndim == 2 and array.dtype.kind in "iu"
    near = array.shape[1:] if is_of_ids else array.shape[1:-1]
    return (
        length in array.shape[1:]
        or any(abs(size - length) <= length // 2 for size in near)  # such as after a shift
        or trial.graph.node(place[0]).kind == "input"  # also a text that the model splits
        or array.shape[0] != trial.samples.batch
    )


def crossings_of(trial: Trial, before: Arrays, after: Arrays) -> list[str]:
    """Return the calls at which a change first reaches an earlier position; attentions by id."""
    probes = trial.samples.probes

    def sees_later(place: Place) -> bool | None:
        found = trial.dependence(place, before[place], after[place])
        if found.own is None:
            return None
        if found.matrices:
            return not any(visibility(matrix, probes).is_causal for matrix in found.matrices)
        if not found.moved.any() or trial.graph.node(place[0]).kind == "input":
            return False
        others = map(found.along, range(1, found.own.ndim))
        ends = [frontier(matrix, probes, trial.samples.length) for matrix in others]
        return not any(end is not None and end.offset <= 0 for end in ends)

    return by_attention(trial.graph, trial.first_crossings(sees_later))


def by_attention(graph: Graph, calls: Sequence[str]) -> list[str]:
    """Return calls with the steps of an attention replaced by its id."""
    owner = {
        node_id: attention
        for attention, inside in regions(graph).items()
        for node_id in inside
        if len(inside) > 1
    }
    return list(dict.fromkeys(owner.get(node_id, node_id) for node_id in calls))
