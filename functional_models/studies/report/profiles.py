"""What was measured inside the models of a setting: means over seeds, and what they amount to."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from functional_models.studies.inside.stored import Inside, Measured
from functional_models.studies.results import Study

INITIALISATION, EARLY, END = "at initialisation", "early", "after training"
TIMES = (INITIALISATION, EARLY, END)

STACKS = ("encoder", "decoder")
ENTROPY = "attention_entropy"


@dataclass(frozen=True)
class Profile:
    """A quantity of a setting by depth, over its seeds.

    Attributes:
        depths: Numbers of the sublayers, from 1 at the input of the stack, (n,).
        places: Their names, without the stack, such as "block_0.feedforward", (n,).
        mean: Means over seeds, (n,).
        low: The smallest of the seeds, (n,).
        high: The largest, (n,).
    """

    depths: tuple[int, ...]
    places: tuple[str, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def measurements(study: Study, setting: str, quantity: str, time: str) -> list[list[Measured]]:
    """Return a quantity for each run of a setting that has it, at one of `TIMES`.

    Early is the first report after a tenth of the steps. After training is the last report, of a
    run that diverged the last one before.
    """
    runs = (run for run in study.runs if run.setting == setting and run.key in study.inside)
    insides = (study.inside[run.key] for run in runs)
    found = (inside.at(step_of(inside, time), quantity) for inside in insides)
    return [listed for listed in found if listed]


def step_of(inside: Inside, time: str) -> int:
    """Return the step of one of `TIMES`; -1 if nothing was measured then."""
    if time == INITIALISATION:
        return 0
    later = sorted(step for step in inside.reports if step)
    if time == EARLY:
        return later[0] if len(later) > 1 else -1
    return later[-1] if later else -1


def profile(
    study: Study, setting: str, quantity: str, time: str, stack: str = ""
) -> Profile | None:
    """Return a quantity by depth; None if no run has it, or without `stack` by its groups."""
    places: dict[tuple[int, str], list[float]] = {}
    for listed in measurements(study, setting, quantity, time):
        for found in listed:
            inside = not stack or (found.stack == stack and found.depth)
            if inside and found.value is not None:
                places.setdefault((found.depth, found.place), []).append(found.value)
    if not places:
        return None
    ordered = sorted(places)
    values = [places[key] for key in ordered]
    return Profile(
        tuple(depth for depth, _ in ordered),
        tuple(place.removeprefix(f"{stack}.") for _, place in ordered),
        tuple(map(statistics.fmean, values)),
        tuple(map(min, values)),
        tuple(map(max, values)),
    )


def facts(study: Study, setting: str, time: str) -> dict[tuple[str, str], float]:
    """Return numbers that sum up the profiles of a setting, means over its seeds.

    Returns:
        Numbers by stack and name.
    """
    numbers = {
        (stack, name): value
        for stack in STACKS
        for name, value in _facts_of(study, setting, time, stack).items()
    }
    if (share := share_of(study, setting, "inactive_units", time)) is not None:
        numbers["feed-forward layers", "share of units that no token activates"] = share
    return numbers


def _facts_of(study: Study, setting: str, time: str, stack: str) -> dict[str, float]:
    profiles = {
        name: found.mean
        for name in ("stream_rms", "branch_rms", "stream_gradient_rms", "update", ENTROPY)
        if (found := profile(study, setting, name, time, stack)) is not None
    }
    numbers: dict[str, float] = {}
    if stream := profiles.get("stream_rms"):
        numbers["RMS of the stream at the end"] = stream[-1]
        branch = profiles.get("branch_rms", stream)
        if branch != stream:  # there is a skip path
            shares = (_ratio(b, s) for b, s in zip(branch, stream, strict=True))
            numbers["RMS of a branch / of the stream"] = statistics.fmean(shares)
    if gradient := profiles.get("stream_gradient_rms"):
        numbers["gradient, first / last sublayer"] = _ratio(gradient[0], gradient[-1])
    if update := profiles.get("update"):
        numbers["relative update"] = statistics.fmean(update)
    if entropy := profiles.get(ENTROPY):
        numbers["attention entropy"] = statistics.fmean(entropy)
    return numbers


def share_of(study: Study, setting: str, quantity: str, time: str) -> float | None:
    """Return the share of units or heads that a quantity counts; None if it was not measured."""
    listed = [found for run in measurements(study, setting, quantity, time) for found in run]
    total = sum(found.number for found in listed)
    return sum(found.value or 0.0 for found in listed) / total if total else None


def _ratio(one: float, other: float) -> float:
    return one / other if other else math.inf
