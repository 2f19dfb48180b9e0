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
    """Two batches whose difference shows a property: `model(inputs)` and `model(changed)`.

    Attributes:
        inputs: The inputs, as the model takes them.
        changed: The same with a change.
        change: The change in words.
        output: Number of the output that is compared.
        moved: Index of the number in the output that moved most.
        by: How far it moved.
        training: Whether the model runs in training mode.
        exact: Whether the model itself shows it; False if some of its weights are all zero, so that
            others stood in for them, or if values inside of the model were changed.
    """

    inputs: Any = field(repr=False)
    changed: Any = field(repr=False)
    change: str
    output: int
    moved: tuple[int, ...]
    by: float
    training: bool = False
    exact: bool = True

    @property
    def text(self) -> str:
        """One sentence about the change and what moved."""
        index = ", ".join(map(str, self.moved))
        mode = ", in training mode" * self.training
        return f"{self.change} moves output {self.output} at [{index}] by {self.by:.2g}{mode}."


@dataclass(frozen=True)
class Check:
    """One property of a model, decided by running it.

    Attributes:
        property: "causality", "padding", "order", "batch", "dead weights", "sharing" or "numbers".
        verdict: What was found, in a word: for causality a `Visibility.kind`, such as "causal",
            "ahead" or "all"; for padding "ignored" or "seen"; for order "known" or "unknown"; for
            the batch "independent", "mixed" or "counted"; for weights "alive" or "dead"; "shared";
            "finite", "near the limit" or "not finite".
        note: Of the kind "description" (a statement), "finding" (a mistake) or "remark" (it may be
            meant), with the ids of calls in `plots.read_graph(model, open_nested=True)`.
        witness: Inputs that show it, or None.
    """

    property: str
    verdict: str
    note: Note
    witness: Witness | None = None


def witness_of(
    trial: Trial,
    before: tuple[Mapping[str, np.ndarray], Mapping[tuple[str, int], np.ndarray]],
    after: tuple[Mapping[str, np.ndarray], Mapping[tuple[str, int], np.ndarray]],
    output: int,
    change: str,
    where: np.ndarray | None = None,
    training: bool = False,
    exact: bool = True,
) -> Witness:
    """Return the witness of a difference between two runs.

    Args:
        trial: The trial.
        before: (inputs, values) of the first run.
        after: Those of the second run.
        output: Number of the output.
        change: The change in words.
        where: Which numbers of the output count, as booleans of its shape; None: all.
        training: Whether both ran in training mode.
        exact: See `Witness`.
    """
    import numpy as np

    place = trial.graph.outputs[output]
    first, second = (np.asarray(values[place], np.float64) for _, values in (before, after))
    with np.errstate(invalid="ignore"):
        distance = np.nan_to_num(np.abs(second - first), posinf=np.inf)
    distance = np.where(where, distance, -1.0) if where is not None else distance
    index = np.unravel_index(int(distance.argmax()), distance.shape)
    return Witness(
        trial.as_model_takes(before[0]),
        trial.as_model_takes(after[0]),
        change,
        output,
        tuple(int(n) for n in index),
        float(distance[index]),
        training,
        exact and not trial.weights,
    )
