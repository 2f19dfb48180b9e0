"""Whether outputs at real positions depend on what stands at padded ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.checking.causality import by_attention
from plots.checking.results import Check, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Change, Trial
from plots.diagnosis.rules import named
from plots.layers import is_attention, is_identity_like, is_norm
from plots.measuring.execution import Place
from plots.traversal import Reachability

if TYPE_CHECKING:
    import numpy as np

MASKING = "Keras guide, https://keras.io/guides/understanding_masking_and_padding/"
_MEANT = ("Conv", "Flatten", "Reshape", "Dense", "GetItem", "Concatenate", "MaxPool")
"""Calls that take padding in by design: at the end of a convolution, or one weight per position."""


def check_padding(trial: Trial) -> Iterator[Check]:
    """Yield, for every input that is padded, whether padding reaches the real positions.

    An input is padded if the model masks one of its ids, or takes a mask for it. What is computed
    from the padded positions alone is changed: the vectors of an embedding, or the values
    themselves where a mask is an input of its own.
    """
    for field in trial.probed_fields:
        masks = _masks_of(trial, field)
        if (field.padding is not None or masks) and field.kind != "texts":
            yield from _check(trial, field, masks)


def _check(trial: Trial, field: Field, masks: Sequence[Field]) -> Iterator[Check]:
    import numpy as np

    length = field.shape[1]
    real = length - max(length // 4, 1)
    padded = dict(trial.base)
    padded[field.place] = padded[field.place].copy()
    if field.padding is not None:
        padded[field.place][:, real:] = field.padding
    for mask in masks:
        padded[mask.place] = padded[mask.place].copy()
        padded[mask.place][:, real:] = 0
    before = trial.run(padded)
    change = _other_vectors(trial, field, real)
    if not change:
        return
    after = trial.run(padded, change=change)

    def reaches(place: Place) -> bool | None:
        moved = trial.rows_first(trial.moved(place, before[place], after[place]))
        if moved is None:
            return None
        axes = [axis for axis in range(1, moved.ndim) if moved.shape[axis] == length]
        along = [np.moveaxis(moved, axis, 1)[:, :real] for axis in axes]
        return all(part.any() for part in along) if axes else bool(moved.any())

    starts = {node_id for node_id, _ in change}
    wrong = [k for k, p in enumerate(trial.graph.outputs) if reaches(p) and p[0] not in starts]
    if not wrong:
        text = f"what stands at padded positions of {field.name!r} changes no output"
        yield Check("padding", "ignored", Note("description", (), text))
        return
    calls = trial.first_crossings(reaches)
    places = by_attention(trial.graph, calls)
    nodes = [trial.graph.node(node_id) for node_id in places]
    is_meant = all(
        any(word in node.class_name for word in _MEANT) and not is_attention(node) for node in nodes
    )
    by = "masks it with an input" if masks else f"masks the id {field.padding}"
    text = (
        f"Padding of {field.name!r} changes the output at real positions, although the model {by}. "
        f"It comes in at {named(trial.graph, places, 3)}, which has no padding mask, or not that "
        "of these positions: the same sequence has another result in a longer batch."
    )
    place = trial.graph.outputs[wrong[0]]
    moved = trial.moved(place, before[place], after[place])
    rows = trial.rows_first(moved)
    if rows is moved and moved.ndim > 2 and moved.shape[1] == length:
        moved[:, real:] = False
    yield Check(
        "padding",
        "seen",
        Note("remark" if is_meant else "finding", tuple(places), text, MASKING),
        witness_of(
            trial,
            (padded, before),
            (padded, after),
            wrong[0],
            f"Other vectors for positions {real} to {length - 1} of {field.name!r}, from "
            f"{named(trial.graph, sorted(starts))},",
            moved,
            exact=False,
        ),
    )


def _other_vectors(trial: Trial, field: Field, real: int) -> dict[Place, Change]:
    """Return changes of the vectors of padded positions: id of a call -> change of its output."""
    import numpy as np

    graph = trial.graph
    unchanged = Reachability(graph, stop=lambda node: not is_identity_like(node))
    starts = [field.place] if field.kind == "floats" else []
    for node_id in unchanged.descendants(field.place) if field.kind == "ids" else ():
        node = graph.node(node_id)
        if (
            "float" in node.outputs[0].dtype
            and not is_norm(node)
            and len(node.outputs[0].shape) > 2
        ):
            starts.append(node_id)

    def change(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        random = np.random.default_rng(3)
        noise = random.standard_normal(changed[:, real:].shape)
        changed[:, real:] += (2 * np.abs(values).mean() * noise).astype(values.dtype)
        return changed

    return {(node_id, 0): change for node_id in starts if node_id in graph.index}


def _masks_of(trial: Trial, field: Field) -> list[Field]:
    """Return the inputs that are masks of the positions of an input."""
    fields = trial.samples.fields
    masks = [f for f in fields if f.kind == "other" and "mask" in f.name.lower()]
    masks = [f for f in masks if f.shape == field.shape[:2]]
    if len(masks) > 1:  # each sequence has its own: that with the most in common
        common = {f.name: _in_common(f.name, field.name) for f in masks}
        masks = [f for f in masks if common[f.name] == max(common.values()) > 0]
    return masks[:1]


def _in_common(first: str, second: str) -> int:
    size = 0
    while size < min(len(first), len(second)) and first[size] == second[size]:
        size += 1
    return size
