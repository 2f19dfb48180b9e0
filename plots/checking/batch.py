"""Whether the rows of a batch are independent, and whether the outputs are random."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.lines import by_attention
from plots.checking.results import Check, Run, said, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Arrays, Trial
from plots.diagnosis.projections import projection_behind
from plots.diagnosis.rules import named
from plots.graph import Node
from plots.measuring.execution import Place

if TYPE_CHECKING:
    import numpy as np

_ROWS = "github.com/pytorch/tutorials/issues/1547"
_STATISTICS = frozenset({"Mean", "Var", "Std", "Moments"})


def check_batch(trial: Trial) -> Iterator[Check]:
    """Yield whether the outputs of a row depend on the other rows, or on its place in the batch."""
    batch = trial.samples.batch
    fields = [f for f in trial.samples.fields if f.kind != "other" and not _is_setting(trial, f)]
    if batch < 2 or not fields:
        return
    changed = _with_other_rows(trial, fields, range(1, batch))
    random = [place for place in trial.graph.outputs if place in trial.random]
    if random:
        places = trial.first_crossings(trial.random.__contains__)
        text = f"the outputs are random, by {named(trial.graph, places, 3)}"
        yield said("batch", "random", text)
    found = _mixed(trial, changed, slice(1), "all samples but the first")
    found = found or _mixed(
        trial, _with_other_rows(trial, fields, [0]), slice(1, None), "the first sample"
    )
    found = found or (None if random else _counted(trial))
    if found:
        yield found
        return
    pairs = [_is_of_pairs(trial, place) for place in trial.graph.outputs]
    if all(pairs):
        yield said("batch", "pairs", "the outputs compare each sample of a batch with each other")
        return
    if any(trial.rows_first(trial.values[place]) is None for place in trial.graph.outputs):
        return  # of a loss, or of statistics of a batch, nothing tells what belongs to a sample
    text = "samples of a batch are independent"
    text += ", but for the pairs of samples that an output compares" * any(pairs)
    if trial.learns_differently:
        mixed = _mixed_in_training(trial, changed)
        text += f", except in training at {named(trial.graph, mixed, 2)}" if mixed else ""
    yield said("batch", "independent", text)


def _is_setting(trial: Trial, field: Field) -> bool:
    """Return whether an input is one number for the whole batch, of which calls take one row."""
    takers = [trial.graph.node(edge.target) for edge in trial.graph.outgoing[field.place]]
    is_one_row = all(node.is_a({"GetItem"}) and node.outputs[0].shape == () for node in takers)
    return len(field.shape) == 1 and bool(takers) and is_one_row


def _with_other_rows(
    trial: Trial, fields: Sequence[Field], rows: Sequence[int]
) -> dict[str, np.ndarray]:
    """Return the batch with other samples in some rows, also in how much of them is padded."""
    changed = dict(trial.base)
    for field in fields:
        whole = [(row, slice(None)) for row in rows]
        changed = trial.samples.changed(changed, field.place, whole)
        if field.padding is not None and field.has_positions:
            for row in rows:
                changed[field.place][row, -max(field.shape[1] // 4, 1) :] = field.padding
    return changed


def _mixed(trial: Trial, changed: Mapping[str, np.ndarray], kept: slice, what: str) -> Check | None:
    """Return a finding or remark if outputs of rows that are kept change with the other rows."""
    outputs = trial.graph.outputs
    after = trial.run(changed)

    def reaches(place: Place) -> bool | None:
        return _is_moved(trial, place, trial.values, after, kept)

    wrong = [k for k, p in enumerate(outputs) if reaches(p) and not _is_of_pairs(trial, p)]
    if not wrong:
        return None
    places = by_attention(trial.graph, trial.first_crossings(reaches))
    nodes = [trial.graph.node(node_id) for node_id in places]
    may_be = all(_is_meant(trial, node) for node in nodes)
    text = (
        "The output of a sample changes with the other samples of the batch, not only in "
        f"training: they are mixed at {named(trial.graph, places, 3)}."
    )
    change = f"Changing {what}"
    runs = Run(trial.base, trial.values), Run(changed, after)
    where = kept if len(trial.values[outputs[wrong[0]]]) == trial.samples.batch else None
    witness = witness_of(trial, *runs, wrong[0], change, where)
    note = Note("remark" if may_be else "finding", tuple(places), text, _ROWS)
    return Check("batch", "mixed", note, witness)


def _is_meant(trial: Trial, node: Node) -> bool:
    """Return whether a call is there to mix samples.

    It takes statistics of the batch, or passes on each sample and adds features that depend on the
    batch: Salimans et al. 2016, section 3.2; Karras et al. 2018, Progressive Growing of GANs,
    section 3. Or it takes a reshape of (b, n, d) to (1, b, n d), in which samples are the
    positions, as attention between samples does: Somepalli et al. 2021, SAINT, section 3.1.
    """
    if node.is_a(_STATISTICS) or _adds_features(trial, node) or _attends_between(trial, node):
        return True
    edges = [edge for edge in trial.flow.incoming[node.id] if len(edge.tensor.shape) == 3]
    for edge in edges:
        reshape = trial.graph.node(edge.source)
        before = trial.graph.incoming[reshape.id][:1]
        sizes = [size for e in before for size in e.tensor.shape[1:]]
        whole = None not in sizes and (1, None, prod(size or 0 for size in sizes))
        if reshape.operation != "Reshape" or len(sizes) < 2 or edge.tensor.shape != whole:
            return False
    return bool(edges)


def _attends_between(trial: Trial, node: Node) -> bool:
    """Return whether samples attend to each other as wholes: (b, n, d) to (b, n d) and back."""
    graph = trial.graph
    attention = next((a for a in attentions_with_masks(graph)[0] if a.id == node.id), None)
    behind = projection_behind(graph, attention.query) if attention is not None else None
    if attention is None or behind is None:
        return False
    joined = graph.node(behind.source.source)
    if joined.operation not in ("Flatten", "Reshape") or len(joined.outputs[0].shape) != 2:
        return False
    before = graph.incoming[joined.id][0].tensor.shape
    after = map(graph.node, trial.flow.descendants(attention.output))
    return len(before) > 2 and any(
        call.operation == "Reshape" and call.outputs[0].shape == before for call in after
    )


def _adds_features(trial: Trial, node: Node) -> bool:
    """Return whether the output of a call is its input, with other features before or after it."""
    import numpy as np

    edges = trial.flow.incoming[node.id]
    if len(edges) != 1 or len(node.outputs) != 1:
        return False
    before = trial.values[edges[0].source, edges[0].output]
    after = trial.values[node.id, 0]
    if not before.ndim or before.shape[:-1] != after.shape[:-1]:
        return False
    added = after.shape[-1] - before.shape[-1]
    kept = (after[..., added:], after[..., : before.shape[-1]])
    return added > 0 and any(np.array_equal(part, before) for part in kept)


def _counted(trial: Trial) -> Check | None:
    """Return a finding if the output of a row depends on its place in the batch."""
    import numpy as np

    settings = {field.place for field in trial.samples.fields if _is_setting(trial, field)}
    rolled = {
        place: array if place in settings else np.roll(array, 1, axis=0)
        for place, array in trial.base.items()
    }
    found = trial.run(rolled)

    def is_of_the_place(place: Place) -> bool | None:
        first = trial.rows_first(trial.values[place])
        second = trial.rows_first(found[place])
        if first is None or second is None or first.dtype.kind not in "fiub":
            return None
        first, second = (np.asarray(a, np.float64) for a in (np.roll(first, 1, axis=0), second))
        if _is_of_pairs(trial, place):
            first = np.roll(first, 1, axis=1)
        finite = np.isfinite(first) & np.isfinite(second)
        sizes = np.abs(first[finite & (np.abs(first) < 1e6)])
        limit = 1e-3 * float(sizes.mean()) if sizes.size else 0.0
        is_half = trial.dtypes.get(place) in ("float16", "bfloat16")
        distance = np.abs(np.where(finite, second - first, 0.0))
        return bool((distance > limit * (50 if is_half else 1)).mean() > 0.1)

    outputs = trial.graph.outputs
    wrong = [number for number, place in enumerate(outputs) if is_of_the_place(place)]
    places = trial.first_crossings(is_of_the_place) if wrong else []
    if not places:
        return None
    text = (
        "The output of a sample depends on its place in the batch: "
        f"{named(trial.graph, places, 3)} has other values for each place, such as where samples "
        "are counted instead of positions."
    )
    change = "Moving every sample one place on"
    runs = Run(trial.base, trial.values), Run(rolled, found)
    witness = witness_of(trial, *runs, wrong[0], change)
    return Check("batch", "counted", Note("finding", tuple(places), text, _ROWS), witness)


def _mixed_in_training(trial: Trial, changed: dict[str, np.ndarray]) -> list[str]:
    """Return the calls that mix the samples of a batch in training."""
    before, after = trial.values_in_training, trial.run(changed, training=True)

    def reaches(place: Place) -> bool | None:
        return _is_moved(trial, place, before, after, slice(1))

    outputs = [place for place in trial.graph.outputs if not _is_of_pairs(trial, place)]
    return trial.first_crossings(reaches) if any(map(reaches, outputs)) else []


def _is_moved(
    trial: Trial, place: Place, before: Arrays, after: Arrays, rows: slice
) -> bool | None:
    """Return whether some rows of a value changed; None if rows cannot be told apart."""
    moved = trial.rows_first(trial.moved(place, before[place], after[place]))
    return None if moved is None else bool(moved[rows].any())


def _is_of_pairs(trial: Trial, place: Place) -> bool:
    """Return whether an output has a number for each pair of samples, as in contrastive models."""
    shape = trial.values[place].shape
    return len(shape) == 2 and shape[0] == shape[1] == trial.samples.batch
