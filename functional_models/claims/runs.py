"""Short training runs that claims are measured on, each with a result on file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import builders
from functional_models.checks import read_manifest
from functional_models.claims.claim import REVISION
from functional_models.claims.tasks import LANGUAGE_MODEL, WIDTH, Run, Task
from functional_models.recipe import Recipe, default_learning_rate
from plots.files import write_whole

if TYPE_CHECKING:
    from functional_models.claims.retraining import RetrainedModel

RUNS = "runs.json"
FORMAT = 1
RATE = default_learning_rate(WIDTH)
"""The default peak learning rate of `functional-models train` at this width, 0.0078."""
REPORTS = 10


class Trainer:
    """Trains models with equal recipes but for what a claim varies.

    Runs that the folder has are not trained again.

    Args:
        steps: of every run.
        seeds: number of runs of each setting, with seeds 0, 1, ...; the seed decides the weights
            and the order of the data.
        folder: folder of `runs.json`; `None` keeps no file.
        report: takes a line of text after every run.
    """

    def __init__(
        self,
        steps: int,
        seeds: int,
        folder: Path | None = None,
        report: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.steps = steps
        self.seeds = seeds
        self._path = folder and folder / RUNS
        self._report = report
        self._known = _read_runs(self._path) if self._path and self._path.exists() else {}

    def warmup(self, share: float = 1.0) -> int:
        """Return a share of the usual warm-up, which is a third of the steps."""
        return round(share * self.steps / 3)

    def runs(
        self,
        task: Task = LANGUAGE_MODEL,
        *,
        rate: float = RATE,
        warmup: int | None = None,
        **changes: Any,
    ) -> list[Run]:
        """Return the runs of a setting, one for each seed.

        Args:
            task: what is trained.
            rate: peak learning rate.
            warmup: steps of linear warm-up; by default a third of all.
            changes: fields that differ from the spec of the task.
        """
        spec = task.spec.replace(**changes)
        recipe = Recipe(
            steps=self.steps,
            batch_size=task.batch_size,
            learning_rate=rate,
            warmup_steps=self.warmup() if warmup is None else warmup,
            weight_decay=0.0,
            clip_norm=1e9,  # none
            report_every=max(self.steps // REPORTS, 1),
        )
        what = [task.name, *(f"{name}={value}" for name, value in changes.items())]
        title = f"{', '.join(what)}, rate {rate:.2g}, warm-up {recipe.warmup_steps}"
        model: RetrainedModel | None = None
        found = []
        for seed in range(self.seeds):
            key = _key(spec, recipe, seed)
            if key not in self._known:
                model = model or self._new_model(task, spec, recipe)
                run = model.train(seed)
                self._remember(key, run)
                self._report(f"{title}, seed {seed}: loss {run.loss:.4f}")
            found.append(self._known[key])
        return found

    def _new_model(
        self, task: Task, spec: builders.TransformerSpec, recipe: Recipe
    ) -> RetrainedModel:
        from functional_models.claims.retraining import RetrainedModel

        return RetrainedModel(task, spec, recipe)

    def _remember(self, key: str, run: Run) -> None:
        self._known[key] = run
        if self._path:
            runs = {key: asdict(run) for key, run in self._known.items()}
            content = {"format": FORMAT, "runs": runs}
            write_whole(self._path, json.dumps(content, indent=1) + "\n")


def _key(spec: builders.TransformerSpec, recipe: Recipe, seed: int) -> str:
    """Return a hash of all that the result of a run depends on, but for the machine."""
    import keras

    described = [spec.to_json(), json.dumps(asdict(recipe)), str(seed)]
    described += [keras.backend.backend(), str(REVISION)]
    return hashlib.sha256("\0".join(described).encode()).hexdigest()[:16]


def _read_runs(path: Path) -> dict[str, Run]:
    """Return the runs of a file.

    Raises:
        ValueError: it is damaged.
    """
    saved = read_manifest(path, FORMAT)
    try:
        return {key: _run(**run) for key, run in saved["runs"].items()}
    except (KeyError, TypeError, ValueError, AttributeError):
        raise ValueError(f"{path} is damaged; delete it to train the models again") from None


def _run(loss: float, steps: Any, losses: Any, variances: Any) -> Run:
    """Return a run from what JSON holds."""
    before, after = variances
    return Run(float(loss), tuple(steps), tuple(losses), (before, after))
