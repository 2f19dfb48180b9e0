"""The study that a folder holds already, and whether another one continues it.

A study in a folder may gain settings and seeds. One that lacks a run of the study before would
replace its results, which needs permission.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import builders
from functional_models.folders import COMPARISON, GO_ON
from functional_models.folders import RUN as CHECKPOINT
from functional_models.recipe import Recipe
from functional_models.studies.budgets import Budget
from functional_models.studies.execution import RUNS
from functional_models.studies.planning import Plan
from functional_models.studies.results import Cost
from functional_models.studies.runs import RUN, Run, make_runs
from functional_models.studies.settings import Setting

_MOST_SHOWN = 3
"""Number of settings and of fields that a message names."""


@dataclass(frozen=True)
class Description:
    """What `comparison.json` says of a study.

    Attributes:
        settings: The settings.
        runs: The runs, as the data and the precision of the study identify them.
        baseline: The name of the baseline.
        precision: The name of Keras' dtype policy.
        costs: What a step of each setting costs, by name.
    """

    settings: tuple[Setting, ...]
    runs: tuple[Run, ...]
    baseline: str
    precision: str
    costs: Mapping[str, Cost]


def read_description(folder: Path, saved: Mapping[str, Any]) -> Description:
    """Return the description of a study.

    Args:
        folder: The folder of the study.
        saved: The content of its `comparison.json`.

    Raises:
        ValueError: it is damaged.
    """
    try:
        settings = [
            Setting(
                name=given["name"],
                spec=builders.TransformerSpec.from_json(json.dumps(given["spec"])),
                recipe=Recipe(**given["recipe"]),
                of=given["of"],
                matched=given["matched"],
            )
            for given in saved["settings"]
        ]
        runs = make_runs(settings, saved["seeds"], saved["data"], saved["precision"])
        costs = {name: Cost(**cost) for name, cost in saved["costs"].items()}
        found = saved["baseline"], saved["precision"]
    except (KeyError, TypeError, AttributeError) as error:
        path = folder / COMPARISON
        raise ValueError(f"{path} is damaged ({type(error).__name__}: {error}); {GO_ON}") from None
    return Description(tuple(settings), tuple(runs), *found, costs)


def check_continues(
    folder: Path, saved: Mapping[str, Any], plan: Plan, budget: Budget | None
) -> None:
    """Check that a study has all runs of the one in its folder, so that no result is replaced.

    A study of which no run has begun has no results, and may be replaced.

    Args:
        folder: The folder.
        saved: The content of its `comparison.json`.
        plan: The new study, before its budget.
        budget: What each of its runs may spend; `None`: the steps of the recipe.

    Raises:
        FileExistsError: the new study lacks a run.
        ValueError: the description in the folder is damaged.
    """
    before = read_description(folder, saved)
    known = plan.with_known_steps(budget, saved.get("speeds", {}))
    kept = {(run.setting, run.key) for run in known.runs}
    lacks = [run for run in before.runs if (run.setting, run.key) not in kept]
    if lacks and _has_begun(folder):
        raise FileExistsError(
            f"{folder} holds another comparison: {_difference(before, plan, known, lacks)}. It "
            f"may gain settings and seeds, but not lose those that it has; {GO_ON}"
        )


def _has_begun(folder: Path) -> bool:
    """Return whether a run of a folder has trained, or failed to."""
    runs = folder / RUNS
    return any(path for name in (RUN, CHECKPOINT) for path in runs.glob(f"*/{name}"))


def _difference(before: Description, plan: Plan, known: Plan, lacks: Iterable[Run]) -> str:
    """Return in words what differs in a new study, of whose settings some have known steps."""
    if before.precision != plan.precision:
        return f"its precision is {before.precision}, and that of this one {plan.precision}"
    names = {setting.name for setting in plan.settings}
    missing = [s.name for s in before.settings if s.name not in names]
    if missing:
        return f"it has {_listed(missing)}, which {_is_or_are(missing)} not in this one"
    given = {setting.name: setting for setting in known.settings}
    for setting in before.settings:
        if setting.name not in given:
            return f"{setting.name} has steps={setting.recipe.steps} there and a time limit here"
        fields = _changed_fields(setting, given[setting.name])
        if fields:
            return f"{setting.name} has {_listed(fields)}"
    seeds = [str(seed) for seed in dict.fromkeys(run.seed for run in lacks)]
    return f"it has seed {_listed(seeds)}, which {_is_or_are(seeds)} not in this one"


def _changed_fields(before: Setting, now: Setting) -> list[str]:
    """Return the fields of spec and recipe that differ, each with both values."""
    changed = []
    for old, new in ((before.spec.to_dict(), now.spec.to_dict()), (_recipe(before), _recipe(now))):
        for name, value in old.items():
            if name != "seed" and value != new[name]:
                changed.append(f"{name}={value!r:.40} there and {new[name]!r:.40} here")
    return changed


def _recipe(setting: Setting) -> dict[str, Any]:
    return dataclasses.asdict(setting.recipe.for_width(setting.spec.hidden_dim))


def _listed(texts: list[str]) -> str:
    """Return the first texts of a list, and how many more there are."""
    more = len(texts) - _MOST_SHOWN
    return ", ".join(texts[:_MOST_SHOWN]) + f" and {more} more" * (more > 0)


def _is_or_are(texts: list[str]) -> str:
    return "is" if len(texts) == 1 else "are"
