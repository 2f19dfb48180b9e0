"""The results of a study: means, differences from the baseline, and what they show in words."""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from functional_models.studies.execution import RUNS
from functional_models.studies.inside.stored import Inside, read_inside
from functional_models.studies.runs import Outcome, Run
from functional_models.studies.settings import Setting
from functional_models.studies.statistics import (
    LEVEL,
    Difference,
    Summary,
    differences,
    noise_floor,
    summary,
)
from functional_models.tables import format_table

METRICS = (
    "parameters",
    "flops_per_token",
    "early_loss",
    "loss",
    "perplexity",
    "token_accuracy",
    "exact_match",
    "steps_to_90",
    "tokens_per_second",
)
"""Measurements on held-out text, and of the training, in the order of tables."""

EARLY = 0.1
"""The share of the steps after which the early loss is measured, at the next report."""

ADVISED_SEEDS = 3

_LOSS = "loss"
_TITLES = {
    "parameters": ("parameters", "{:,.0f}"),
    "flops_per_token": ("training FLOPs/token", "{:,.3g}"),
    "early_loss": ("early validation loss", "{:.4f}"),
    "loss": ("loss", "{:.4f}"),
    "perplexity": ("perplexity", "{:.2f}"),
    "token_accuracy": ("token accuracy", "{:.1%}"),
    "exact_match": ("exact match", "{:.1%}"),
    "steps_to_90": ("steps to 90%", "{:,.0f}"),
    "tokens_per_second": ("tokens/s", "{:,.0f}"),
}
_SPREAD = ("early_loss", "loss", "perplexity", "token_accuracy", "exact_match")
"""Measurements whose standard deviation over seeds is shown."""


@dataclass(frozen=True)
class Cost:
    """What a training step of a setting costs, without padding.

    Attributes:
        tokens: Mean number of target tokens.
        flops: Floating-point operations of forward and backward pass.
    """

    tokens: float
    flops: float


@dataclass(frozen=True, repr=False)
class Study:
    """Settings, each trained with every seed, and what came out. It is printed as a table.

    Attributes:
        folder: The folder.
        settings: The settings.
        runs: The runs.
        outcomes: Outcomes by the key of the run; runs without one are not finished.
        baseline: The name of the setting that others are compared with.
        costs: What a step costs, by setting; those of custom components are unknown.
    """

    folder: Path
    settings: tuple[Setting, ...]
    runs: tuple[Run, ...]
    outcomes: Mapping[str, Outcome]
    baseline: str
    costs: Mapping[str, Cost] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        return f"{self.table()}\n\n" + "\n".join(self.verdict)

    def _repr_markdown_(self) -> str:
        return f"{self.table(markdown=True)}\n\n" + "\n".join(f"* {t}" for t in self.verdict)

    def of(self, setting: str) -> list[tuple[Run, Outcome]]:
        """Return the runs of a setting that have an outcome."""
        runs = [run for run in self.runs if run.setting == setting and run.key in self.outcomes]
        return [(run, self.outcomes[run.key]) for run in runs]

    def missing(self, setting: str) -> int:
        """Return how many runs of a setting have not ended."""
        return sum(run.setting == setting and run.key not in self.outcomes for run in self.runs)

    def values(self, setting: str, metric: str) -> dict[int, float]:
        """Return a measurement of the finished runs of a setting, by seed."""
        found = {
            run.seed: self._value(run, outcome, metric)
            for run, outcome in self.of(setting)
            if outcome.status == "finished"
        }
        return {seed: value for seed, value in found.items() if value is not None}

    def _value(self, run: Run, outcome: Outcome, metric: str) -> float | None:
        """Return a measurement of a run; None if it has none."""
        if metric == "early_loss":
            return early_loss(outcome, run.recipe.steps)
        return outcome.result.get(metric)

    def summary(self, setting: str, metric: str) -> Summary | None:
        """Return a measurement of a setting over its seeds; None if no run has it."""
        values = list(self.values(setting, metric).values())
        return summary(values) if values else None

    @cached_property
    def compared(self) -> tuple[Setting, ...]:
        """The settings that are compared: of several learning rates, the best by validation."""
        groups: dict[str, list[Setting]] = {}
        for setting in self.settings:
            groups.setdefault(setting.group, []).append(setting)
        return tuple(min(group, key=self._validation_loss) for group in groups.values())

    def _validation_loss(self, setting: Setting) -> float:
        """Return the mean over seeds; infinite if a run diverged."""
        values = self.values(setting.name, "validation_loss")
        if len(values) < len(self.of(setting.name)) or not values:
            return math.inf
        return statistics.fmean(values.values())

    def is_measured(self, setting: Setting) -> bool:
        """Return whether a setting has runs that ended, all of them finished."""
        return math.isfinite(self._validation_loss(setting))

    @cached_property
    def reference(self) -> Setting:
        """The baseline; of several learning rates, the best."""
        for setting in self.compared:
            if self.baseline in (setting.name, setting.group):
                return setting
        return next(s for s in self.settings if s.name == self.baseline)

    @cached_property
    def inside(self) -> dict[str, Inside]:
        """What was measured inside the models, by the key of the run, for those that have it.

        Raises:
            ValueError: a file is damaged, or of a newer format.
        """
        found = {
            run.key: read_inside(self.folder / RUNS / run.folder, run.key)
            for run in self.runs
            if self.folder is not None
        }
        return {key: inside for key, inside in found.items() if inside is not None}

    @cached_property
    def differences(self) -> dict[str, Difference | None]:
        """The differences of the held-out loss from that of the baseline."""
        settings = {setting.name: setting for setting in (self.reference, *self.compared)}
        values = {name: self.values(name, _LOSS) for name in settings}
        return differences(values, self.reference.name)

    @cached_property
    def noise(self) -> float | None:
        """How far the losses of two seeds of the baseline differ, in 95% of cases."""
        found = self.summary(self.reference.name, _LOSS)
        if found is None or found.deviation is None:
            return None
        return noise_floor(found.deviation, found.count)

    @cached_property
    def best(self) -> Run | None:
        """The run with the lowest validation loss; None if none is finished."""
        finished = [
            run
            for run in self.runs
            if run.key in self.outcomes and self.outcomes[run.key].status == "finished"
        ]
        losses = {run: self.outcomes[run.key].result["validation_loss"] for run in finished}
        return min(finished, key=lambda run: losses[run], default=None)

    def sensitivity(self, group: str, largest_loss: float) -> float | None:
        """Return the sensitivity of a setting to the learning rate (Wortsman et al. 2023, eq. 1).

        It is the mean over the rates of the loss above that of the best rate, where no loss counts
        for more than that of an untrained model, which is also the loss of a rate with a run that
        diverged or failed. None if a run has not ended.

        Args:
            group: The setting without its rate.
            largest_loss: The loss of an untrained model, the logarithm of the vocabulary size.
        """
        rates = [setting for setting in self.settings if setting.of == group]
        if any(self.missing(setting.name) for setting in rates):
            return None
        losses = []
        for setting in rates:
            found = self.summary(setting.name, _LOSS)
            whole = found is not None and found.count == len(self.of(setting.name))
            losses.append(min(found.mean, largest_loss) if found and whole else largest_loss)
        return statistics.fmean(losses) - min(losses) if losses else None

    @cached_property
    def results(self) -> list[dict[str, Any]]:
        """A dict for each setting: means over seeds, deviations, difference from the baseline."""
        return [self._result(setting) for setting in self.settings]

    def _result(self, setting: Setting) -> dict[str, Any]:
        outcomes = [outcome for _, outcome in self.of(setting.name)]
        counts = dict.fromkeys(("finished", "diverged", "failed"), 0)
        for outcome in outcomes:
            counts[outcome.status] += 1
        result: dict[str, Any] = {"setting": setting.name, **counts}
        for metric in METRICS:
            values = self.values(setting.name, metric)
            measured = sum(metric in outcome.result for outcome in outcomes)
            if len(values) < measured:  # some runs did not reach the goal
                result[metric] = None
            elif values:
                found = summary(list(values.values()))
                result[metric] = int(found.mean) if metric == "parameters" else found.mean
                if metric in _SPREAD:
                    result[f"{metric}_deviation"] = found.deviation
        if cost := self.costs.get(setting.name):
            result["flops_per_token"] = cost.flops / cost.tokens
        if setting.matched:
            result["matched"] = setting.matched
        if difference := self.differences.get(setting.name):
            result["difference"] = dataclasses.asdict(difference)
        return result

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each report of each run, with the fields of spec and recipe."""
        return list(self._rows())

    def _rows(self) -> Iterator[dict[str, Any]]:
        for run in self.runs:
            outcome = self.outcomes.get(run.key)
            if outcome is None:
                continue
            settings = {
                "key": run.key,
                "setting": run.setting,
                "status": outcome.status,
                **{f"spec.{name}": value for name, value in run.spec.to_dict().items()},
                **{f"recipe.{k}": value for k, value in dataclasses.asdict(run.recipe).items()},
                **{f"result.{name}": value for name, value in outcome.result.items()},
            }
            for row in outcome.rows or ({"step": outcome.step},):
                yield {**settings, **row}

    def table(self, *, markdown: bool = False) -> str:
        """Return the results as an aligned text table, or as a Markdown table."""
        return format_table(self.cells(), markdown=markdown)

    def cells(self) -> list[list[str]]:
        """Return the results as rows of cells, of which the first has the titles."""
        metrics = [key for key in METRICS if any(key in result for result in self.results)]
        has_seeds = len({run.seed for run in self.runs}) > 1
        titles = ["setting", *(_TITLES[key][0] for key in metrics)]
        if has_seeds:
            titles.append("difference in loss")
        rows = [titles]
        for result in self.results:
            cells = [result["setting"], *(_cell(result, metric) for metric in metrics)]
            if has_seeds:
                cells.append(self._difference_cell(result))
            rows.append(cells)
        return rows

    def _difference_cell(self, result: Mapping[str, Any]) -> str:
        if result["setting"] == self.reference.name:
            return "baseline"
        found = self.differences.get(result["setting"])
        if found is None or found.interval is None:
            return ""
        low, high = found.interval
        mark = " *" if found.is_shown else ""
        return f"{found.mean:+.4f} [{low:+.4f}, {high:+.4f}]{mark}"

    @cached_property
    def verdict(self) -> tuple[str, ...]:
        """What the runs show, a sentence each."""
        return tuple(_verdict(self))


def early_loss(outcome: Outcome, steps: int) -> float | None:
    """Return the loss at the first report after 10% of the steps; None if that is the last one.

    It is the validation loss, or without validation data that of training.
    """
    for row in outcome.rows[:-1]:
        if row["step"] >= EARLY * steps:
            return row.get("val_loss", row["loss"])
    return None


def _cell(result: Mapping[str, Any], metric: str) -> str:
    if metric not in result:
        return "diverged" if result["diverged"] and metric == _LOSS else ""
    if result[metric] is None:
        return "not reached"
    form = _TITLES[metric][1]
    deviation = result.get(f"{metric}_deviation")
    spread = "" if deviation is None else f" ± {form.format(deviation)}"
    return form.format(result[metric]) + spread


def _verdict(study: Study) -> Iterator[str]:
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
    """Yield the best learning rate of each setting, as far as its runs have ended."""
    groups = dict.fromkeys(setting.of for setting in study.settings if setting.of)
    for group in groups:
        rates = [setting for setting in study.settings if setting.of == group]
        best = next(setting for setting in study.compared if setting.of == group)
        missing = sum(study.missing(setting.name) for setting in rates)
        if not study.is_measured(best):
            if not missing:
                yield f"{group}: all {len(rates)} learning rates have runs without a result."
            continue
        ordered = sorted(rates, key=lambda setting: setting.recipe.learning_rate or 0)
        edge = ""
        if len(rates) > 1 and best in (ordered[0], ordered[-1]):
            edge = ", the end of the grid, so a better one may lie beyond"
        rate = f"{best.recipe.learning_rate:g}{edge}"
        if missing:
            left = f"{missing} run{'s' * (missing != 1)} of its learning rates left to train"
            yield f"{group}: the best so far by validation loss is {rate}; {left}."
            continue
        number = study.sensitivity(group, math.log(best.spec.vocabulary_size))
        yield (
            f"{group}: the best of {len(rates)} learning rates by validation loss is {rate}; "
            f"sensitivity {number:.4f} nats (Wortsman et al. 2023)."
        )
