"""Whether the order of positions matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, Witness, said
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.diagnosis.rules import named

if TYPE_CHECKING:
    import numpy as np

_ORDER = "Vaswani et al. 2017, Attention Is All You Need, section 3.5"
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
        if place in trial.random:
            return  # the random numbers are not permuted
        if first.dtype.kind != "f" or not trial.moved(place, first, other[place]).any():
            continue
        depends = True
        axes = [a for a in range(1, first.ndim) if first.shape[a] == trial.samples.length]
        candidates = [first, *(np.take(first, order, axis) for axis in axes)]
        knows = knows or not any(_are_near(c, second, other[place] - first) for c in candidates)
    if not depends:
        return
    if knows:
        yield said("order", "known", f"the order of {field.name!r} matters")
        return
    attentions = attentions_with_masks(trial.graph)[0]
    attends = [
        a.id for a in attentions if trial.flow.depends(a.id, on=field.place) or a.id == field.place
    ]
    what = f"Permuting the positions of {field.name!r} permutes the outputs alike, or changes none"
    if not attends or field.kind != "ids":
        yield said("order", "unknown", f"the order of {field.name!r} does not matter")
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
    shows = f"{change} permutes every output alike, or leaves it as it is."
    note = Note("finding" if claims else "remark", tuple(constant or attends), text, _ORDER)
    inputs, changed = map(trial.as_model_takes, (trial.base, permuted))
    witness = Witness(inputs, changed, change, 0, (), 0.0, exact=not trial.weights, shows=shows)
    yield Check("order", "unknown", note, witness)


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
