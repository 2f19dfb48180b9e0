"""Whether the numbers of a model stay in the range of their precision."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.checking.results import Check
from plots.checking.trials import Trial
from plots.diagnosis.rules import named
from plots.measuring.execution import Place

_PRECISION = "Micikevicius et al. 2018, Mixed Precision Training, section 3"
_LARGEST = {"float16": 65504.0}


def check_numbers(trial: Trial) -> Iterator[Check]:
    """Yield the first calls that return no number, or an infinite one that reaches an output."""
    import numpy as np

    def is_no_number(place: Place) -> bool:
        array = trial.values[place]
        return array.dtype.kind == "f" and bool(np.isnan(array).any())

    def is_infinite(place: Place) -> bool:
        array = trial.values[place]
        return array.dtype.kind == "f" and bool(np.isinf(array).any())

    for is_wrong, what in ((is_no_number, "NaN"), (is_infinite, "infinite numbers")):
        if any(is_wrong(place) for place in trial.graph.outputs):
            places = trial.first_crossings(is_wrong)
            dtypes = sorted({trial.dtypes.get((place, 0), "") for place in places})
            text = (
                f"The output holds {what} for random inputs: {named(trial.graph, places, 3)} is "
                f"the first to return them, in {' and '.join(dtypes)}."
            )
            yield Check("numbers", "not finite", Note("finding", tuple(places), text, _PRECISION))
            return
    near = [
        place[0]
        for place, array in trial.values.items()
        if (largest := _LARGEST.get(trial.dtypes.get(place, "")))
        and 0.1 * largest < np.abs(array[np.isfinite(array)]).max(initial=0.0) < largest
    ]
    if near:
        text = (
            f"Numbers come near to the largest of float16, 65504, at {named(trial.graph, near, 3)}."
            " Training makes them larger; scale them, or compute there in bfloat16 or float32."
        )
        yield Check(
            "numbers",
            "near the limit",
            Note("remark", tuple(dict.fromkeys(near)), text, _PRECISION),
        )
        return
    yield Check("numbers", "finite", Note("description", (), "all numbers are finite"))
