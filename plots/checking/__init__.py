"""Properties of a model that are decided by running it.

    for check in plots.check(model):
        print(check.property, check.note.kind, check.note.text)
        print(check.witness.text if check.witness else "")

The model runs on small random batches, and on the same batches with something changed: one
position, what stands at padded positions, the order of positions, another row. What moves decides:

    samples        the batches
    trials         runs of the model, and what a change reaches
    visibility     which positions see which, in words
    attention      what each self-attention sees, found by running it alone
    causality, padding, order, weights, numbers     the properties

The weights and states of the model stay as they are. Trainable weights that are all zero, such as
those of a gate that training opens, are replaced by random ones in these runs, since zeros hide
what passes through them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plots.arguments import collection_paused
from plots.checking.attention import seen_by_attentions
from plots.checking.causality import check_causality
from plots.checking.numbers import check_numbers
from plots.checking.order import check_batch, check_order
from plots.checking.padding import check_padding
from plots.checking.results import Check, Witness
from plots.checking.trials import Trial
from plots.checking.visibility import Visibility
from plots.checking.weights import check_sharing, check_weights

if TYPE_CHECKING:
    import keras

__all__ = ["Check", "Results", "Witness", "check", "run_checks"]


@collection_paused()
def check(model: keras.Model) -> tuple[Check, ...]:
    """Return properties of a model, decided by running it.

    * causality: what each position of an output sees of the inputs, and by which call it sees the
      future, in inference and in training mode
    * padding: whether what stands at padded positions changes the outputs at real ones
    * order: whether permuting the positions of an input permutes the outputs
    * batch: whether the outputs of a sample depend on other samples or on its place in the batch
    * dead weights: trainable weights whose gradient of a random loss is exactly zero
    * sharing: layers that are called several times
    * numbers: whether the outputs are finite

    What is shown for random inputs is a proof where something moves. Where nothing moves, it is
    shown for these inputs and for the weights of the model.

    Args:
        model: A Functional model, or a built Sequential one, with weights. It stays as it is.

    Raises:
        TypeError: if the model has no graph.
        ValueError: if it is not built, has no weights, or takes inputs of an unknown kind.
    """
    return run_checks(model).checks


@dataclass(frozen=True)
class Results:
    """The results of all checks of a model.

    Attributes:
        checks: The checks.
        seen: What each self-attention sees, by its id.
        cut: What the batches leave out, in words.
    """

    checks: tuple[Check, ...]
    seen: Mapping[str, Visibility]
    cut: str = ""

    @property
    def text(self) -> str:
        """One sentence with all statements; "" if there are none."""
        said = [check.note.text for check in self.checks if check.note.kind == "description"]
        how = f"Shown by running it on random inputs{f' ({self.cut})' if self.cut else ''}"
        return f"{how}: {'; '.join(said)}." if said else ""


def run_checks(model: keras.Model, positions: str = "") -> Results:
    """Return the results of all checks; see `check`.

    `positions` are those that structure shows, such as "learned positions".
    """
    trial = Trial.of(model)
    trials = [trial, *(replace(trial, samples=s) for s in trial.samples.of_other_lengths)]
    seen: dict[str, Visibility] = {}

    def of_positions(function: Callable[[Trial], Iterable[Check]]) -> Iterable[Check]:
        return (found for one in trials for found in function(one))

    def of_attentions() -> Iterable[Check]:
        for one in trials:
            seen.update(seen_by_attentions(one))
        return ()

    parts: tuple[tuple[str, Callable[[], Iterable[Check]]], ...] = (
        ("attention", of_attentions),
        ("causality", lambda: of_positions(lambda one: check_causality(one, seen))),
        ("padding", lambda: of_positions(check_padding)),
        ("batch", lambda: check_batch(trial)),
        ("order", lambda: of_positions(lambda one: check_order(one, positions))),
        ("dead weights", lambda: check_weights(trial)),
        ("sharing", lambda: check_sharing(trial.graph)),
        ("numbers", lambda: check_numbers(trial)),
    )
    found: list[Check] = []
    for name, part in parts:
        if name == "order" and any(check.verdict == "counted" for check in found):
            continue  # positions that count samples are said to be wrong already
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # layers warn again of what they did when built
                found += part()
        except Exception as error:  # a layer of another package may raise anything
            warnings.warn(
                f"the check of {name} was skipped, because running {trial.graph.name!r} failed: "
                f"{type(error).__name__}: {str(error).partition(chr(10))[0]}",
                stacklevel=3,
            )
    return Results(tuple(found), seen, trial.samples.cut)
