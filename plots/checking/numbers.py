"""Whether the numbers of a model stay in the range of their precision."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from functools import partial
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.checking.results import Check, Witness, said, shown
from plots.checking.samples import Field
from plots.checking.trials import Arrays, Trial
from plots.diagnosis.rules import named
from plots.measuring.execution import Place

if TYPE_CHECKING:
    import numpy as np

_PRECISION = "Micikevicius et al. 2018, Mixed Precision Training, section 3"
_HIDDEN = "github.com/pytorch/pytorch/issues/41508 (rows of which all keys are hidden)"
_CONSTANT = "Ioffe and Szegedy 2015, Batch Normalization, section 3, algorithm 1"
_LARGEST = {"float16": 65504.0}
_HALF = ("float16", "bfloat16")
_MOST_VANISHED = 0.5
"""Share of the numbers of a value that are zero only in half precision: more is a fault."""
_MASKED = 1e6  # larger numbers are those of masked scores
_INFINITE = (math.inf, -math.inf, "inf", "-inf")  # as constants of a graph
_TINY = 1e-30
_FAR = 0.2
"""Distance of an output from that in float32, in units of its standard deviation."""


def check_numbers(trial: Trial) -> Iterator[Check]:
    """Yield where numbers are NaN or infinite, or are lost in the precision of the model.

    A model of half precision runs in float32 as well. A call at which numbers are infinite or zero
    in its own precision only is where they overflow or vanish.
    """
    if check := _not_finite(trial):
        yield check
        return
    yield from _of_constants(trial)
    yield from _of_padding_in_front(trial)
    if set(trial.dtypes.values()).isdisjoint(_HALF):
        found = [*_tiny(trial)]
        yield from found or [said("numbers", "finite", "all numbers are finite")]
        return
    full = trial.run(trial.base, in_float32=True)
    dtype = next(name for name in _HALF if name in trial.dtypes.values())
    far = max((_distance(trial.values[p], full[p]) for p in trial.graph.outputs), default=0.0)
    checks = [*_lost(trial, full, dtype, far), *_near_the_limit(trial)]
    yield from checks
    if not checks:
        text = f"all numbers are finite, and outputs in {dtype} differ from those in float32 by "
        yield said("numbers", "finite", f"{text}{100 * far:.2g}% of their spread")


def _not_finite(trial: Trial) -> Check | None:
    """Return a finding if an output holds NaN or infinity, with the first call that does.

    It is a remark if the outputs are finite for inputs without negative numbers, such as counts,
    weights of edges and brightness, of which a model may take roots and logarithms.
    """
    import numpy as np

    # Infinity that becomes NaN later is where it begins.
    kinds = (np.isnan, "NaN"), (np.isinf, "infinite numbers")
    for is_wrong, what in kinds:
        wrong = [
            number
            for number, place in enumerate(trial.graph.outputs)
            if _holds(trial, is_wrong, place)
        ]
        if not wrong:
            continue
        places = trial.first_crossings(partial(_holds, trial, is_wrong))
        if what == "NaN":
            places = _infinite_before(trial, places) or places
        elif _is_meant(trial, places):
            continue
        dtypes = sorted({trial.dtypes.get((place, 0), "") for place in places})
        text = (
            f"The output holds {what} for random inputs: {named(trial.graph, places, 3)} "
            f"{'is' if len(places) == 1 else 'are'} the first to return numbers that are not "
            f"finite, in {' and '.join(dtypes)}."
        )
        if set(dtypes) & set(_HALF):
            full = trial.run(trial.base, in_float32=True)
            if all(np.isfinite(full[place]).all() for place in trial.graph.outputs):
                text += " In float32 all numbers of the outputs are finite."
        kind = "finding"
        if _is_finite_without_negative_inputs(trial):
            kind = "remark"
            text += " For the same inputs without signs all numbers of the outputs are finite."
        note = Note(kind, tuple(places), text, _PRECISION)
        return Check("numbers", "not finite", note, _witness(trial, wrong[0], is_wrong, what))
    return None


def _is_finite_without_negative_inputs(trial: Trial) -> bool:
    """Return whether the outputs are finite for the absolute values of the inputs."""
    import numpy as np

    floats = [field.place for field in trial.samples.fields if field.kind == "floats"]
    if not any((trial.base[place] < 0).any() for place in floats):
        return False
    values = trial.run({**trial.base, **{place: np.abs(trial.base[place]) for place in floats}})
    outputs = [values.get(place) for place in trial.graph.outputs]
    return not any(_are(np.isnan, array) or _are(np.isinf, array) for array in outputs)


def _of_constants(trial: Trial) -> Iterator[Check]:
    """Yield a finding if an input that is the same at all positions makes an output NaN."""
    import numpy as np

    for field in trial.samples.fields:
        if field.kind != "floats" or len(field.shape) < 3:
            continue
        array = trial.base[field.place]
        same = array.mean(axis=tuple(range(1, array.ndim - 1)), keepdims=True)
        changed = np.broadcast_to(same, array.shape).astype(array.dtype)
        what = f"Numbers of {field.place!r} that are the same at all positions"
        why = "such as a division by a standard deviation of 0. Add a small number to what divides"
        yield from _not_a_number(trial, field, changed, what, why, _CONSTANT)


def _of_padding_in_front(trial: Trial) -> Iterator[Check]:
    """Yield a finding if padding at the beginning of a sequence makes an output NaN.

    A causal mask leaves no key to the first positions then, and a softmax of minus infinity alone
    is NaN, which a product with 0 passes on to all positions.
    """
    for field in trial.samples.fields:
        if field.kind != "ids" or field.padding is None or len(field.shape) < 2:
            continue
        array = trial.base[field.place].copy()
        array[:, : max(field.shape[1] // 4, 1)] = field.padding
        what = f"Positions of padding in front of {field.place!r}"
        why = (
            "as a softmax of a row of minus infinity does. Hide keys with a large finite number, "
            "such as -1e9, or let each position see itself"
        )
        yield from _not_a_number(trial, field, array, what, why, _HIDDEN)


def _not_a_number(
    trial: Trial, field: Field, array: np.ndarray, what: str, why: str, reference: str
) -> Iterator[Check]:
    """Yield a finding if an output is NaN for these numbers of an input."""
    import numpy as np

    inputs = {**trial.base, field.place: array}
    try:
        values = trial.run(inputs)
    except Exception:  # as of a count of what is not padding
        return

    def is_wrong(place: Place) -> bool:
        return _are(np.isnan, values.get(place))

    wrong = [number for number, place in enumerate(trial.graph.outputs) if is_wrong(place)]
    if not wrong:
        return
    places = trial.first_crossings(is_wrong)
    text = f"{what} make the output NaN, first at {named(trial.graph, places, 3)}, {why}."
    shows = f"With these inputs, output {wrong[0]} holds NaN."
    witness = shown(trial, shows, not trial.weights, inputs)
    yield Check("numbers", "not finite", Note("finding", tuple(places), text, reference), witness)


def _are(is_wrong: np.ufunc, array: np.ndarray | None) -> bool:
    return array is not None and array.dtype.kind == "f" and bool(is_wrong(array).any())


def _holds(trial: Trial, is_wrong: np.ufunc, place: Place) -> bool:
    return _are(is_wrong, trial.values[place])


def _infinite_before(trial: Trial, places: list[str]) -> list[str]:
    """Return the calls whose infinite numbers the first calls with NaN take, if there are any."""
    import numpy as np

    waiting, found, met = list(places), set[str](), set(places)
    while waiting:
        node_id = waiting.pop()
        for source in trial.flow.sources[node_id]:
            numbers = range(len(trial.graph.node(source).outputs))
            values = [(source, n) for n in numbers if (source, n) in trial.values]
            if source not in met and any(_holds(trial, np.isinf, place) for place in values):
                met.add(source)
                waiting.append(source)
                found.add(source)
                found.discard(node_id)
    first = {
        node_id
        for node_id in found
        if not any(source in found for source in trial.flow.sources[node_id])
    }
    return sorted(first, key=trial.graph.index.__getitem__)


def _is_meant(trial: Trial, places: list[str]) -> bool:
    """Return whether infinite numbers are written as constants, such as those of masked scores."""
    nodes = [trial.graph.node(place) for place in places]
    return all(any(c.value in _INFINITE for c in node.constants) for node in nodes)


def _witness(trial: Trial, output: int, is_wrong: np.ufunc, what: str) -> Witness:
    import numpy as np

    values = trial.values[trial.graph.outputs[output]]
    index = tuple(int(n) for n in np.argwhere(is_wrong(values))[0])
    at = ", ".join(map(str, index))
    shows = f"With these inputs, output {output} is {values[index]} at [{at}]."
    inputs = trial.as_model_takes(trial.base)
    exact = not trial.weights
    if trial.weights:
        own = trial.own_weights.run(trial.base)[trial.graph.outputs[output]]
        exact = bool(is_wrong(own).any())
    return Witness(inputs, inputs, what, output, index, 0.0, exact=exact, shows=shows)


def _shown(trial: Trial, text: str) -> Witness:
    """Return the inputs of the runs as a witness."""
    shows = f"With these inputs: {text[0].lower()}{text[1:]}."
    return shown(trial, shows, exact=not trial.weights)


def _lost(trial: Trial, full: Arrays, dtype: str, far: float) -> Iterator[Check]:
    """Yield the first calls whose numbers overflow, or are mostly zero, in half precision only."""
    kind = "finding" if far > _FAR else "remark"
    end = (
        f"The outputs differ by {far:.0%} of their spread. Scale them, or compute there in float32."
    )
    for verdict, is_wrong, start in (
        ("overflowing", _overflows, "Numbers of {} are infinite in {}, and not in float32"),
        ("vanishing", _vanishes, "Most numbers of {} are zero in {}, and not in float32"),
    ):
        places = _first(trial, {p for p, own in trial.values.items() if is_wrong(own, full[p])})
        if places:
            what = start.format(named(trial.graph, places, 3), dtype)
            note = Note(kind, tuple(places), f"{what}. {end}", _PRECISION)
            yield Check("numbers", verdict, note, _shown(trial, what))


def _overflows(own: np.ndarray, full: np.ndarray) -> bool:
    import numpy as np

    if own.dtype.kind != "f" or own.shape != full.shape:
        return False
    return bool((np.isinf(own) & (np.abs(full) < _MASKED)).any())


def _vanishes(own: np.ndarray, full: np.ndarray) -> bool:
    import numpy as np

    if own.dtype.kind != "f" or own.shape != full.shape:
        return False
    there = np.isfinite(full) & (full != 0)
    return bool(there.any()) and float((own[there] == 0).mean()) > _MOST_VANISHED


def _first(trial: Trial, places: Collection[Place]) -> list[str]:
    """Return the calls of some values that take none of these values, in order."""
    wrong = {node_id for node_id, _ in places}
    sources = trial.flow.sources
    return [n.id for n in trial.graph.nodes if n.id in wrong and wrong.isdisjoint(sources[n.id])]


def _tiny(trial: Trial) -> Iterator[Check]:
    """Yield the first calls that return nothing but numbers close to the smallest of float32."""
    import numpy as np

    sizes = {p: np.abs(a).max(initial=0.0) for p, a in trial.values.items() if a.dtype.kind == "f"}
    places = _first(trial, {place for place, size in sizes.items() if 0 < size < _TINY})
    if places:
        what = (
            f"All numbers of {named(trial.graph, places, 3)} are smaller than {_TINY}, close to "
            "the smallest of float32"
        )
        text = f"{what}: they vanish. Scale them, or normalise before."
        note = Note("remark", tuple(places), text, _PRECISION)
        yield Check("numbers", "vanishing", note, _shown(trial, what))


def _near_the_limit(trial: Trial) -> Iterator[Check]:
    """Yield the calls whose numbers are close to the largest of their precision."""
    import numpy as np

    near = [
        place[0]
        for place, array in trial.values.items()
        if (largest := _LARGEST.get(trial.dtypes.get(place, "")))
        and 0.1 * largest < np.abs(array[np.isfinite(array)]).max(initial=0.0) < largest
    ]
    if near:
        places = named(trial.graph, list(dict.fromkeys(near)), 3)
        what = f"Numbers come near to the largest of float16, 65504, at {places}"
        text = (
            f"{what}. Training makes them larger; scale them, or compute there in bfloat16 or "
            "float32."
        )
        note = Note("remark", tuple(dict.fromkeys(near)), text, _PRECISION)
        yield Check("numbers", "near the limit", note, _shown(trial, what))


def _distance(own: np.ndarray, full: np.ndarray) -> float:
    """Return the mean distance of two arrays, in units of the standard deviation of the second."""
    import numpy as np

    if own.dtype.kind != "f" or own.shape != full.shape:
        return 0.0
    usable = np.isfinite(own) & np.isfinite(full) & (np.abs(full) < 1e6)
    spread = float(full[usable].std()) if usable.any() else 0.0
    return float(np.abs(own - full)[usable].mean()) / spread if spread else 0.0
