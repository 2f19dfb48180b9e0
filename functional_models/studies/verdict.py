"""What a study shows, in sentences that claim no more than its runs do."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from functional_models.studies.statistics import LEVEL, Difference

if TYPE_CHECKING:
    from functional_models.studies.results import Study

ADVISED_SEEDS = 3


def sentences(study: Study) -> Iterator[str]:
    """Yield the verdict on a study."""
    yield from _problems(study)
    yield from _rates(study)
    others = [setting for setting in study.compared if setting != study.reference]
    if not others:
        return
    if not study.values(study.reference.name, "loss"):
        yield f"{study.reference.name}, the baseline, has no finished run to compare with."
        return
    if study.noise is None:
        yield (
            f"One seed for each setting cannot show a difference; train {ADVISED_SEEDS} or more "
            f"(seeds={ADVISED_SEEDS})."
        )
        return
    baseline = study.reference.name
    yield (
        f"Noise floor: the losses of two seeds of {baseline} differ by up to {study.noise:.4f} "
        "in 95% of cases."
    )
    for setting in others:
        found = study.differences.get(setting.name)
        if found is None or found.interval is None:
            yield f"{setting.name} and {baseline} share fewer than two finished seeds."
        else:
            yield _compared(setting.name, baseline, found)
    yield (
        f"Paired t-tests over seeds of the loss on held-out text, at {LEVEL:.0%}, with p-values "
        f"corrected for {len(others)} comparison{'s' * (len(others) != 1)} (Holm 1979)."
    )


def _compared(name: str, baseline: str, found: Difference) -> str:
    assert found.interval is not None
    assert found.corrected is not None
    low, high = found.interval
    numbers = f"{found.mean:+.4f} nats, 95% interval {low:+.4f} to {high:+.4f}"
    numbers += f", p = {found.corrected:.2g}, {found.count} seeds"
    if not found.is_shown:
        return f"{name} and {baseline}: no difference that these runs can show ({numbers})."
    better = "lower" if found.mean < 0 else "higher"
    return f"{name} has a {better} loss than {baseline} ({numbers})."


def _problems(study: Study) -> Iterator[str]:
    for setting in study.settings:
        outcomes = study.of(setting.name)
        for status in ("diverged", "failed"):
            found = [(run, outcome) for run, outcome in outcomes if outcome.status == status]
            if not found:
                continue
            where = ", ".join(
                f"seed {run.seed}" + (f" at step {o.step:,}" if status == "diverged" else "")
                for run, o in found
            )
            yield f"{setting.name} {status} in {len(found)} of {len(outcomes)} runs ({where})."


def _rates(study: Study) -> Iterator[str]:
    groups = dict.fromkeys(setting.of for setting in study.settings if setting.of)
    for group in groups:
        rates = [setting for setting in study.settings if setting.of == group]
        best = next(setting for setting in study.compared if setting.of == group)
        number = study.sensitivity(group, math.log(best.spec.vocabulary_size))
        edge = ""
        if len(rates) > 1:
            ordered = sorted(rates, key=lambda setting: setting.recipe.learning_rate or 0)
            if best in (ordered[0], ordered[-1]):
                edge = ", the end of the grid, so a better one may lie beyond"
        yield (
            f"{group}: the best of {len(rates)} learning rates by validation loss is "
            f"{best.recipe.learning_rate:g}{edge}; sensitivity {number:.4f} nats (Wortsman et al. "
            "2023)."
        )
