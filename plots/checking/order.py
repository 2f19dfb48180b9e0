"""Whether the order of positions and that of the rows of a batch matter."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.causality import by_attention
from plots.checking.results import Check, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.diagnosis.rules import named
from plots.measuring.execution import Place

if TYPE_CHECKING:
    import numpy as np

_ORDER = "Vaswani et al. 2017, Attention Is All You Need, section 3.5"
_ROWS = "github.com/pytorch/tutorials/issues/1547"
_MIXING = ("Mean", "Var", "Std", "Moments", "Stddev", "StdDev", "Discrimination")
_NEAR = 1e-3
"""Largest difference, in units of a change of the values, that counts as one of rounding."""


def check_order(trial: Trial, positions: str = "") -> Iterator[Check]:
    """Yield, for every input with positions, whether the model knows their order.

    Args:
        trial: The model.
        positions: What the description says of positions, such as "learned positions"; or "".
    """
    for field in trial.probed_fields:
        if field.kind != "texts" and trial.samples.length > 2:
            yield from _order_of(trial, field, positions)


def _order_of(trial: Trial, field: Field, positions: str) -> Iterator[Check]:
    import numpy as np

    # Segments, masks and positions that are inputs themselves stay: they may tell the order.
    order = np.random.default_rng(5).permutation(trial.samples.length)
    permuted = {**trial.base, field.place: trial.base[field.place][:, order]}
    before, after = trial.values, trial.run(permuted)
    other = trial.probed[field.place]
    knows = depends = False
    for place in trial.graph.outputs:
        first, second = before[place], after[place]
        if first.dtype.kind != "f" or not trial.moved(place, first, other[place]).any():
            continue
        depends = True
        axes = [a for a in range(1, first.ndim) if first.shape[a] == trial.samples.length]
        candidates = [first, *(np.take(first, order, axis) for axis in axes)]
        knows = knows or not any(_are_near(c, second, other[place] - first) for c in candidates)
    if not depends:
        return
    if knows:
        text = f"the order of {field.name!r} matters"
        yield Check("order", "known", Note("description", (), text))
        return
    attentions = attentions_with_masks(trial.graph)[0]
    attends = [
        a.id for a in attentions if trial.flow.depends(a.id, on=field.place) or a.id == field.place
    ]
    what = f"Permuting the positions of {field.name!r} permutes the outputs alike, or changes none"
    if not attends or field.kind != "ids":
        text = f"the order of {field.name!r} does not matter"
        yield Check("order", "unknown", Note("description", (), text))
        return
    constant = _constant_vectors(trial)
    why = ""
    if constant:
        why = f" The vectors of {named(trial.graph, constant)} are the same at every position."
    claims = bool(positions) or bool(constant)
    although = f", although it has {positions}" if positions else ""
    text = (
        f"{what}{although}: the model knows no position, and reads a sequence as a set.{why} "
        "Sequences of tokens need positions."
    )
    change = f"Permuting {field.name!r} by {order.tolist()}"
    yield Check(
        "order",
        "unknown",
        Note("finding" if claims else "remark", tuple(constant or attends), text, _ORDER),
        witness_of(trial, (trial.base, before), (permuted, after), 0, change),
    )


def _constant_vectors(trial: Trial) -> list[str]:
    """Return the lookups of positions that give the same vector at every position."""
    import numpy as np

    found = []
    for node in trial.graph.nodes:
        if not node.is_a({"Embedding"}) or (node.id, 0) not in trial.values:
            continue
        changes = (after[node.id, 0] for after in trial.probed.values())
        values = trial.values[node.id, 0]
        depends = any(trial.moved((node.id, 0), values, after).any() for after in changes)
        size = node.config.get("input_dim")
        is_table = isinstance(size, int) and size >= trial.samples.length
        if not depends and is_table and values.ndim > 2 and np.ptp(values, axis=1).max() == 0:
            found.append(node.id)
    return found


def _are_near(first: np.ndarray, second: np.ndarray, change: np.ndarray) -> bool:
    import numpy as np

    size = float(np.abs(change).max(initial=0.0))
    rounding = 1e-5 * float(np.abs(first).max(initial=0.0))
    return bool(np.abs(first - second).max(initial=0.0) <= max(_NEAR * size, rounding))


def check_batch(trial: Trial) -> Iterator[Check]:
    """Yield whether the outputs of a row depend on the other rows, or on its place in the batch."""
    import numpy as np

    batch = trial.samples.batch
    fields = [f for f in trial.samples.fields if f.kind != "other"]
    if batch < 2 or not fields:
        return
    changed = trial.base
    for field in fields:
        others = [(row, slice(None)) for row in range(1, batch)]
        changed = trial.samples.changed(changed, field.place, others)
    after = trial.run(changed)

    def reaches(place: Place) -> bool | None:
        moved = trial.rows_first(trial.moved(place, trial.values[place], after[place]))
        if moved is None:
            return None
        return bool(moved[0].any())

    outputs = trial.graph.outputs
    wrong = [
        k for k, place in enumerate(outputs) if reaches(place) and not _is_of_pairs(trial, place)
    ]
    if wrong:
        places = by_attention(trial.graph, trial.first_crossings(reaches))
        nodes = [trial.graph.node(node_id) for node_id in places]
        may_be = all(any(word in node.class_name for word in _MIXING) for node in nodes)
        text = (
            "The output of a sample changes with the other samples of the batch, not only in "
            f"training: they are mixed at {named(trial.graph, places, 3)}."
        )
        where = np.zeros(trial.values[outputs[wrong[0]]].shape, bool)
        where[0] = True
        yield Check(
            "batch",
            "mixed",
            Note("remark" if may_be else "finding", tuple(places), text, _ROWS),
            witness_of(
                trial,
                (trial.base, trial.values),
                (changed, after),
                wrong[0],
                "Changing all samples but the first",
                where,
            ),
        )
        return
    rolled = {place: np.roll(array, 1, axis=0) for place, array in trial.base.items()}
    found = trial.run(rolled)

    def is_of_the_place(place: Place) -> bool | None:
        first = trial.rows_first(trial.values[place])
        second = trial.rows_first(found[place])
        if first is None or second is None or first.dtype.kind not in "fiub":
            return None
        first, second = (np.asarray(a, np.float64) for a in (np.roll(first, 1, axis=0), second))
        finite = np.isfinite(first) & np.isfinite(second)
        sizes = np.abs(first[finite & (np.abs(first) < 1e6)])
        limit = 1e-3 * float(sizes.mean()) if sizes.size else 0.0
        is_half = trial.dtypes.get(place) in ("float16", "bfloat16")
        distance = np.abs(np.where(finite, second - first, 0.0))
        return bool((distance > limit * (50 if is_half else 1)).mean() > 0.1)

    if any(is_of_the_place(place) for place in outputs):
        places = trial.first_crossings(is_of_the_place)
        if places:
            text = (
                "The output of a sample depends on its place in the batch: "
                f"{named(trial.graph, places, 3)} counts samples instead of positions."
            )
            yield Check(
                "batch",
                "counted",
                Note("finding", tuple(places), text, _ROWS),
                witness_of(
                    trial,
                    (trial.base, trial.values),
                    (rolled, found),
                    0,
                    "Moving every sample one place on",
                ),
            )
            return
    text = "samples of a batch are independent"
    if trial.learns_differently:
        mixed = _mixed_in_training(trial, changed)
        text += f", except in training at {named(trial.graph, mixed, 2)}" if mixed else ""
    yield Check("batch", "independent", Note("description", (), text))


def _mixed_in_training(trial: Trial, changed: dict[str, np.ndarray]) -> list[str]:
    """Return the calls that mix the samples of a batch in training."""
    before, after = trial.values_in_training, trial.run(changed, training=True)

    def reaches(place: Place) -> bool | None:
        moved = trial.rows_first(trial.moved(place, before[place], after[place]))
        return None if moved is None else bool(moved[0].any())

    return trial.first_crossings(reaches)


def _is_of_pairs(trial: Trial, place: Place) -> bool:
    """Return whether an output has a number for each pair of samples, as in contrastive models."""
    shape = trial.values[place].shape
    return len(shape) == 2 and shape[0] == shape[1] == trial.samples.batch
