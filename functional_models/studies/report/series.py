"""Curves of a study: means over seeds, by steps, tokens, operations and seconds."""

from __future__ import annotations

import math
import statistics
from dataclasses import dataclass

from functional_models.studies.results import Study
from functional_models.studies.settings import Setting

AXES = {"tokens": "target tokens", "flops": "training FLOPs", "seconds": "seconds of training"}


@dataclass(frozen=True)
class Curve:
    """The validation loss of a setting at its reports.

    Attributes:
        steps: Steps that all finished seeds reported, (n,).
        mean: Mean over seeds, (n,).
        low: Mean minus the standard deviation over seeds, (n,); the mean for one seed.
        high: Mean plus the standard deviation, (n,).
        seconds: Mean time of training, (n,).
        smallest: The smallest of the seeds, (n,).
        largest: The largest, (n,).
    """

    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    seconds: tuple[float, ...]
    smallest: tuple[float, ...] = ()
    largest: tuple[float, ...] = ()


def loss_curve(study: Study, setting: Setting) -> Curve | None:
    """Return the curve of a setting; None if no run is finished."""
    histories = []
    for _, outcome in study.of(setting.name):
        if outcome.status == "finished":
            histories.append({row["step"]: row for row in outcome.rows})
    if not histories:
        return None
    steps = sorted(set.intersection(*(set(history) for history in histories)))
    losses = [
        [history[step].get("val_loss", history[step]["loss"]) for history in histories]
        for step in steps
    ]
    means = [statistics.fmean(values) for values in losses]
    deviations = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in losses]
    times = [statistics.fmean(history[step]["seconds"] for history in histories) for step in steps]
    bounds = list(zip(means, deviations, strict=True))
    return Curve(
        tuple(steps),
        tuple(means),
        tuple(mean - deviation for mean, deviation in bounds),
        tuple(mean + deviation for mean, deviation in bounds),
        tuple(times),
        tuple(map(min, losses)),
        tuple(map(max, losses)),
    )


def along(study: Study, setting: Setting, curve: Curve, axis: str) -> tuple[float, ...] | None:
    """Return the places of the reports on an axis of `AXES`; None if they are not known."""
    if axis == "seconds":
        return curve.seconds
    cost = study.costs.get(setting.name)
    if cost is None:
        return None
    return tuple(step * getattr(cost, axis) for step in curve.steps)


def place_of_loss(curve: Curve, target: float, places: tuple[float, ...]) -> float | None:
    """Return where a curve first reaches a loss, between two reports by interpolation.

    None if it does not, or if the first report is below it already.
    """
    for index, loss in enumerate(curve.mean):
        if loss <= target:
            if index == 0:
                return places[0] if loss == target else None
            before = curve.mean[index - 1]
            share = 1.0 if math.isclose(before, loss) else (before - target) / (before - loss)
            return places[index - 1] + share * (places[index] - places[index - 1])
    return None


def speed_ups(study: Study, axis: str) -> dict[str, float | None]:
    """Return how much less of an axis than the baseline settings need for its final loss.

    2 means half as much; None that a setting does not reach the loss, or that it is not known.
    """
    reference = study.reference
    base = loss_curve(study, reference)
    found: dict[str, float | None] = {}
    for setting in study.compared:
        curve = loss_curve(study, setting)
        found[setting.name] = None
        if base is None or curve is None:
            continue
        target = min(base.mean)
        own, other = along(study, reference, base, axis), along(study, setting, curve, axis)
        if own is None or other is None:
            continue
        at, needed = place_of_loss(base, target, own), place_of_loss(curve, target, other)
        if at is not None and needed:
            found[setting.name] = at / needed
    return found
