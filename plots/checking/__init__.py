"""Properties of a model that are decided by running it.

    for check in plots.check(model):
        print(check.property, check.note.kind, check.note.text)
        print(check.witness.text if check.witness else "")

The model runs on small random batches, and on the same batches with something changed: one
position, what stands at padded positions, the order of positions, another row. What moves decides:

    samples        the batches
    modes          training or inference, and precision
    randomness     random numbers that repeat
    trials         runs of the model, and what a change reaches
    visibility     which positions see which, in words
    attention      what each self-attention sees, found by running it alone
    lines          which outputs have the positions of an input, and where the future comes in
    claims         what says that no later position is seen
    causality, padding, masking, order, queries, rotations, biases, batch, effects, weights, units,
    sharing, numbers, scales
                    the properties

The weights and states of the model stay as they are. Trainable weights that are all zero, such as
those of a gate that training opens, are replaced by random ones in these runs, since zeros hide
what passes through them.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plots.arguments import collection_paused
from plots.checking.attention import seen_by_attentions
from plots.checking.batch import check_batch
from plots.checking.biases import check_biases
from plots.checking.causality import check_causality
from plots.checking.effects import check_effects
from plots.checking.frozen import check_adapted, check_frozen
from plots.checking.lengths import check_lengths
from plots.checking.masking import check_masking
from plots.checking.numbers import check_numbers
from plots.checking.order import check_order
from plots.checking.padding import check_padding
from plots.checking.queries import check_keys, check_queries
from plots.checking.randomness import global_seed_kept
from plots.checking.results import Check, Witness
from plots.checking.rotations import check_rotations
from plots.checking.scales import check_scales
from plots.checking.sharing import check_sharing
from plots.checking.trials import Trial
from plots.checking.units import check_units
from plots.checking.visibility import Visibility
from plots.checking.weights import check_weights

if TYPE_CHECKING:
    import keras

__all__ = ["Check", "Results", "Trial", "Witness", "check", "run_checks"]


@collection_paused()
def check(model: keras.Model) -> tuple[Check, ...]:
    """Return properties of a model, decided by running it.

    * causality: what each position of an output sees of the inputs, and by which call it sees the
      future, in inference and in training mode
    * padding: whether what stands at padded positions, or how many there are, changes the outputs
      at real ones
    * order: whether permuting the positions of an input permutes the outputs
    * batch: whether the outputs of a sample depend on other samples or on its place in the batch,
      and whether they are random
    * effects: inputs that move no output, though outputs take them
    * dead weights: trainable weights whose gradient of a random loss is exactly zero
    * sharing: layers that are called several times
    * numbers: whether the outputs are finite, and what overflows or vanishes in half precision

    What is shown for random inputs is a proof where something moves. Where nothing moves, it is
    shown for these inputs and for the weights of the model.

    Args:
        model: A Functional model, or a built Sequential one, with weights. It stays as it is.

    Raises:
        TypeError: if the model has no graph.
        ValueError: if it is not built, has no weights, or takes inputs of an unknown kind, or
            texts on another backend than TensorFlow.
    """
    return run_checks(Trial.of(model)).checks


@dataclass(frozen=True)
class Results:
    """The results of all checks of a model.

    Attributes:
        checks: The checks.
        seen: What each self-attention sees, by its id.
        cut: What the batches leave out, in words.
        failure: Why the model does not run; "" if it does.
    """

    checks: tuple[Check, ...]
    seen: Mapping[str, Visibility]
    cut: str = ""
    failure: str = ""

    @property
    def text(self) -> str:
        """One sentence with all statements; "" if there are none."""
        if self.failure:
            return f"Nothing is shown by running it, which failed: {self.failure}."
        said = [check.note.text for check in self.checks if check.note.kind == "description"]
        how = f"Shown by running it on random inputs{f' ({self.cut})' if self.cut else ''}"
        return f"{how}: {'; '.join(said)}." if said else ""


def _first_line(error: Exception) -> str:
    """Return what an error says in one line; Keras sets the cause in bold, below where it was."""
    text = str(error)
    _, _, cause = text.partition("\033[1m")
    return (cause.partition("\033[0m")[0] or text).partition("\n")[0].rstrip(".")


def run_checks(trial: Trial, positions: str = "") -> Results:
    """Return the results of all checks; see `check`.

    `positions` are those that structure shows, such as "learned positions".
    """
    seen: dict[str, Visibility] = {}
    found: list[Check] = []
    failures: dict[str, str] = {}

    def run(part: str, function: Callable[[], Iterable[Check]], into: list[Check] = found) -> None:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # layers warn again of what they did when built
                into.extend(function())
        except Exception as error:  # a layer of another package may raise anything
            failures[part] = f"{type(error).__name__}: {_first_line(error)}"
            warnings.warn(
                f"the check of {part} was skipped, because running {trial.graph.name!r} failed: "
                f"{failures[part]}",
                stacklevel=4,
            )

    def of_lengths(function: Callable[[Trial], Iterable[Check]]) -> Iterable[Check]:
        return (one for trial in trials for one in function(trial))

    def look_at_attentions() -> Iterable[Check]:
        seen.update(seen_by_attentions(trial))
        return ()

    with global_seed_kept():
        run("numbers", lambda: check_numbers(trial))
        if "values" in vars(trial) and trial.has_numbers:  # else there is nothing to compare
            of_batch: list[Check] = []
            run("batch", lambda: check_batch(trial), of_batch)
            if any(check.verdict == "mixed" for check in of_batch):
                trial = trial.with_mixed_samples()
            trials = [trial, *map(trial.at, trial.samples.of_other_lengths)]
            run("attention", look_at_attentions)
            run("causality", lambda: of_lengths(lambda one: check_causality(one, seen)))
            run("padding", lambda: of_lengths(check_padding))
            run("lengths", lambda: of_lengths(check_lengths))
            run("masking", lambda: check_masking(trial))
            found.extend(of_batch)
            run("effects", lambda: check_effects(trial))
            if not any(check.verdict == "counted" for check in found):  # it is wrong already
                run("order", lambda: of_lengths(lambda one: check_order(one, positions)))
            run("queries", lambda: check_queries(trial))
            run("keys", lambda: check_keys(trial))
            run("scales", lambda: check_scales(trial))
            run("rotations", lambda: check_rotations(trial))
            run("biases", lambda: check_biases(trial))
            run("dead weights", lambda: check_weights(trial))
            run("equal units", lambda: check_units(trial))
            run("frozen weights", lambda: check_frozen(trial))
            run("normalization", lambda: check_adapted(trial))
        run("sharing", lambda: check_sharing(trial.graph))
    failure = "" if "values" in vars(trial) else failures.get("numbers", "")
    return Results(tuple(found), seen, trial.samples.cut, failure)
