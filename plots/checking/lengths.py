"""Whether an input with the length of each sample hides what stands after it, or before it."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.attentions import prefix_lengths
from plots.checking.results import Check, Run, said, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.measuring.execution import Place

_NUMBERS = ("len", "num", "count", "size", "valid")
"""Parts of names of inputs that say how many positions there are."""

_SEQUENCES = "tf.sequence_mask, https://www.tensorflow.org/api_docs/python/tf/sequence_mask"


def check_lengths(trial: Trial) -> Iterator[Check]:
    """Yield, for every length and every sequence, which of its positions the length hides.

    Half of the positions are changed, and the outputs are compared where they have no positions, or
    at the other half. A length hides a half if that moves nothing, and does with another length.
    """
    prefixes = prefix_lengths(trial.graph)
    for number in trial.samples.fields:
        if number.is_length and number.place not in prefixes:
            for field in trial.probed_fields:
                if field.kind != "texts" and field.place != number.place:
                    yield from _check(_Halves(trial, field, number))


def _check(halves: _Halves) -> Iterator[Check]:
    field, number = halves.field.place, halves.number.place
    middle, length = halves.middle, halves.length
    moved_by_end = halves.moved("end", middle)
    hides_end = not moved_by_end and bool(halves.moved("end", length))
    hides_start = not halves.moved("start", middle) and bool(halves.moved("start", 0))
    if not (hides_start or hides_end or halves.moved("after", middle)):
        yield from _shows_one_more(halves)
    if hides_end and not hides_start:
        yield said(
            "padding",
            "ignored",
            f"what stands after the first n positions of {field!r}, n being {number!r}, changes no "
            "output at them",
        )
    if hides_start and moved_by_end:
        text = (
            f"The first positions of {field!r}, as many as {number!r} gives, are hidden, and those "
            "after them are read. That is right for the number of paddings on the left; the mask "
            "of a length is less(arange(t), length)."
        )
        runs = halves.run("", middle), halves.run("end", middle)
        what = f"Other values after the first {middle} positions of {field!r}, {number!r} being"
        witness = witness_of(halves.trial, *runs, moved_by_end[0], f"{what} {middle}")
        yield Check("padding", "inverted", Note("remark", (number,), text, _SEQUENCES), witness)


def _shows_one_more(halves: _Halves) -> Iterator[Check]:
    """Yield what is said if the position with the index n is the last one that counts."""
    if not halves.moved("after", halves.length) or not halves.is_chosen_by_the_number():
        return
    field, number, middle = halves.field.place, halves.number.place, halves.middle
    if not any(word in number.lower() for word in _NUMBERS):
        text = f"what stands after the position {number!r} of {field!r} changes no output before it"
        yield said("padding", "ignored", text)
        return
    text = (
        f"One position too many: {number!r} is the number of positions of {field!r} by its name, "
        "and the one with that index is read, too, which is the first one after them. Positions "
        f"are counted from 0: the last one is {number} - 1, and a mask less(arange(t), {number})."
    )
    runs = halves.run("", middle), halves.run("end", middle)
    what = f"Other values from position {middle} of {field!r} on, {number!r} being {middle}"
    witness = witness_of(halves.trial, *runs, halves.moved("end", middle)[0], what)
    yield Check("padding", "seen", Note("finding", (number,), text, _SEQUENCES), witness)


class _Halves:
    """Runs with changes in one half of a sequence, with a length of each sample."""

    def __init__(self, trial: Trial, field: Field, number: Field) -> None:
        self.trial = trial
        self.field = field
        self.number = number
        self.length = field.shape[1]
        self.middle = self.length // 2
        self._runs: dict[tuple[str, int], Run] = {}

    def run(self, half: str, count: int) -> Run:
        """Return the run with other values in the half "start" or "end", or in none ("").

        "after" is the end without its first position. All samples have the length `count`.
        """
        import numpy as np

        if (half, count) not in self._runs:
            inputs = dict(self.trial.base)
            given = inputs[self.number.place]
            inputs[self.number.place] = np.full_like(given, count)
            start, end = range(self.middle), range(self.middle, self.length)
            positions = {"start": start, "end": end, "after": end[1:]}
            where = [(slice(None), position) for position in positions.get(half, ())]
            inputs = self.trial.samples.changed(inputs, self.field.place, where)
            self._runs[half, count] = Run(inputs, self.trial.run(inputs))
        return self._runs[half, count]

    def moved(self, half: str, count: int) -> list[int]:
        """Return the numbers of the outputs that a change of a half moves in the other half."""
        places = enumerate(self.trial.graph.outputs)
        return [number for number, place in places if self._moves(place, half, count)]

    def is_chosen_by_the_number(self) -> bool:
        """Return whether a change of the end comes in where the number is known.

        Not where neighbours are mixed, as by a convolution.
        """
        flow = self.trial.flow
        crossings = self.trial.first_crossings(lambda at: self._moves(at, "end", self.middle))
        return all(flow.depends(node_id, on=self.number.place) for node_id in crossings)

    def _moves(self, place: Place, half: str, count: int) -> bool | None:
        """Return whether a change of a half moves a value in the other half; None: not known."""
        before, after = (self.run(which, count).values for which in ("", half))
        moved = self.trial.rows_first(self.trial.moved(place, before[place], after[place]))
        if moved is None:
            return None
        other = slice(self.middle, None) if half == "start" else slice(self.middle)
        axes = [axis for axis in range(1, moved.ndim) if moved.shape[axis] == self.length]
        if len(axes) > 1:  # scores of queries and keys, before any is hidden
            return None
        return bool((moved[(slice(None),) * axes[0] + (other,)] if axes else moved).any())
