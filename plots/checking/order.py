"""Whether the order of positions matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, Witness, said
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.diagnosis.rules import named
from plots.measuring.execution import Place, as_array

if TYPE_CHECKING:
    import numpy as np

_ORDER = "Vaswani et al. 2017, Attention Is All You Need, section 3.5"
_ROUNDING, _ROUNDING_OF_LARGE = 5e-6, 1e-3
"""Largest differences that count as rounding, in units of the largest number of an output: with the
weights of the model, and with large ones."""


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

    outputs = [
        place
        for place in trial.graph.outputs
        if (array := trial.values[place]).dtype.kind == "f"
        and trial.moved(place, array, trial.probed[field.place][place]).any()
    ]
    if not outputs or not trial.random.isdisjoint(outputs):
        return  # random numbers are not permuted
    # Segments, masks and positions that are inputs themselves stay: they may tell the order.
    order = np.random.default_rng(5).permutation(trial.samples.length)
    permuted = {**trial.base, field.place: trial.base[field.place][:, order]}
    if _differs(trial, outputs, permuted, order, _ROUNDING) or _differs(
        trial, outputs, permuted, order, _ROUNDING_OF_LARGE, [*_large_weights(trial)]
    ):
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


def _differs(
    trial: Trial,
    outputs: Sequence[Place],
    permuted: Mapping[str, np.ndarray],
    order: np.ndarray,
    rounding: float,
    state: Sequence[tuple[Any, Any]] = (),
) -> bool:
    """Return whether outputs are neither the same nor permuted alike, beyond rounding."""
    import numpy as np

    is_half = any(dtype.endswith("16") for dtype in trial.dtypes.values())
    is_known = not is_half and not state
    before = trial.values if is_known else trial.run(trial.base, state=state, in_float32=True)
    after = trial.run(permuted, state=state, in_float32=True)
    for place in outputs:
        first, second = before[place], after[place]
        axes = [a for a in range(1, first.ndim) if first.shape[a] == trial.samples.length]
        candidates = [first, *(np.take(first, order, axis) for axis in axes)]
        limit = rounding * float(np.abs(first).max(initial=0.0))
        if not any(np.abs(c - second).max(initial=0.0) <= limit for c in candidates):
            return bool(np.isfinite(first).all() and np.isfinite(second).all())
    return False


def _large_weights(trial: Trial) -> Iterator[tuple[Any, Any]]:
    """Yield (variable, value) with larger weights, where they are small.

    The scores of an attention with its first weights are close to zero, and so is what positions
    in them change.
    """
    import numpy as np

    given = {id(variable): value for variable, value in trial.weights}
    for variable in trial.trainable:
        value = as_array(given.get(id(variable), variable.value))
        if value.ndim > 1 and value.std():
            wanted = 2 / np.sqrt(value.size / value.shape[-1])
            yield variable, value * max(1.0, wanted / float(value.std()))
