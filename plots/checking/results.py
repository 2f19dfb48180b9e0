"""Results of checks: what was found, and the inputs that show it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plots.annotations import Note

if TYPE_CHECKING:
    import numpy as np

    from plots.checking.trials import Trial


@dataclass(frozen=True)
class Witness:
    """Inputs that show a property.

    Those of a difference are two batches: `model(inputs, training=training)` and the same of
    `changed`.

    Attributes:
        inputs: The inputs, as the model takes them.
        changed: The same with a change; the same inputs if none is needed.
        change: The change in words.
        output: Number of the output that is compared.
        moved: Index of the number in the output that moved most; () if none is compared.
        by: How far it moved.
        training: Whether the model runs in training mode.
        exact: Whether the model itself shows it; False if some of its weights are all zero, so that
            others stood in for them, or if values inside of the model were changed.
        shows: What the inputs show, where nothing is compared.
    """

    inputs: Any = field(repr=False)
    changed: Any = field(repr=False)
    change: str
    output: int
    moved: tuple[int, ...]
    by: float
    training: bool = False
    exact: bool = True
    shows: str = ""

    @property
    def text(self) -> str:
        """One sentence about the change and what moved."""
        if self.shows:
            return self.shows
        index = ", ".join(map(str, self.moved))
        mode = ", in training mode" * self.training
        return f"{self.change} moves output {self.output} at [{index}] by {self.by:.2g}{mode}."


@dataclass(frozen=True)
class Check:
    """One property of a model, decided by running it.

    Attributes:
        property: "causality", "padding", "order", "batch", "dead weights", "sharing" or "numbers".
        verdict: What was found, in a word: for causality a `Visibility.kind`, such as "causal",
            "ahead" or "all", or "aligned" for outputs of another length than the input; for padding
            "ignored", "seen" or "inverted"; for order "known", "unknown", "equal", "turned apart"
            or "far first"; for a batch "independent", "mixed", "counted" or "random"; for weights
            "alive", "dead" or "equal"; "shared"; "finite", "near the limit", "overflowing",
            "vanishing", "shrinking", "growing" or "not finite".
        note: Of the kind "description" (a statement), "finding" (a mistake) or "remark" (it may be
            meant), with the ids of calls in `plots.read_graph(model, open_nested=True)`.
        witness: Inputs that show it, or None.
    """

    property: str
    verdict: str
    note: Note
    witness: Witness | None = None


def said(name: str, verdict: str, text: str) -> Check:
    """Return a statement."""
    return Check(name, verdict, Note("description", (), text))


@dataclass(frozen=True)
class Run:
    """The inputs of a run, by id, and all values."""

    inputs: Mapping[str, np.ndarray]
    values: Mapping[tuple[str, int], np.ndarray]


def witness_of(
    trial: Trial,
    before: Run,
    after: Run,
    output: int,
    change: str,
    where: Any = None,
    training: bool = False,
    is_inside: bool = False,
) -> Witness:
    """Return the witness of a difference between two runs.

    It is that of the model with its own weights, if they show it.

    Args:
        trial: The trial.
        before: The first run.
        after: The second run.
        output: Number of the output.
        change: The change in words.
        where: Which numbers of the output count, as booleans of its shape or an index, such as a
            row; None: all. The outputs of the second run may have more positions.
        training: Whether both ran in training mode.
        is_inside: Whether values inside of the model were changed, and not its inputs.
    """
    place = trial.graph.outputs[output]
    index, by = _farthest(before.values[place], after.values[place], where)
    exact = not is_inside and not trial.weights
    if trial.weights and not is_inside:
        own = trial.own_weights
        first, second = (own.run(run.inputs, training)[place] for run in (before, after))
        if own.moved(place, *_cropped(first, second)).any():
            found, distance = _farthest(first, second, where)
            if distance > _SMALLEST * float(abs(first).max(initial=0.0)):
                index, by, exact = found, distance, True
    inputs, changed = (trial.as_model_takes(run.inputs) for run in (before, after))
    return Witness(inputs, changed, change, output, index, by, training, exact)


def shown(
    trial: Trial, shows: str, exact: bool, inputs: dict[str, np.ndarray] | None = None
) -> Witness:
    """Return inputs, by default the base batch, as the witness of what needs no comparison."""
    given = trial.as_model_takes(trial.base if inputs is None else inputs)
    return Witness(given, given, "", 0, (), 0.0, exact=exact, shows=shows)


_SMALLEST = 1e-5
"""Least distance of an exact witness, in units of the output."""


def _cropped(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the part that both arrays have."""
    part = tuple(slice(min(a, b)) for a, b in zip(first.shape, second.shape, strict=True))
    return first[part], second[part]


def _farthest(first: np.ndarray, second: np.ndarray, where: Any) -> tuple[tuple[int, ...], float]:
    """Return the index of the largest distance between two arrays, and the distance."""
    import numpy as np

    first, second = (np.asarray(a, np.float64) for a in _cropped(first, second))
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(second - first), posinf=np.inf)
    if where is not None:
        counts = np.zeros(distance.shape, bool)
        counts[where] = True
        distance = np.where(counts, distance, -1.0)
    index = np.unravel_index(int(distance.argmax()), distance.shape)
    return tuple(int(n) for n in index), float(distance[index])
