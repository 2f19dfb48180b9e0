"""A run of a study: a pure function of spec, recipe with its seed, data and precision.

Its folder is named by a hash of these, and holds a model folder and `run.json`, which is written
last. A run that was interrupted resumes, and one that is finished is never done again.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import builders
from functional_models.checks import read_json
from functional_models.corpora import Corpus, ParallelCorpus
from functional_models.corpora.corpus import fingerprint
from functional_models.recipe import Recipe
from functional_models.studies.settings import Setting, folder_name
from functional_models.tokenizers import Tokenizer
from plots.files import write_whole

if TYPE_CHECKING:
    from functional_models.studies.inside.sample import Sample

RUN = "run.json"
FORMAT = 1
GOAL = 0.9
"""The exact match of which `steps_to_90` reports the first step."""

_ONE_AT_A_TIME = threading.Lock()
"""Keras keeps seeds and precision by process, and an executor may have several threads in one."""


@dataclass(frozen=True)
class StudyData:
    """What all runs of a study share.

    Attributes:
        corpus: The corpus.
        tokenizer: The tokenizer of source and target.
    """

    corpus: Corpus
    tokenizer: Tokenizer
    _samples: dict[int, Sample] = field(default_factory=dict, repr=False, compare=False)

    def sample(self, longest: int) -> Sample:
        """Return the tokens that runs with blocks of this length are measured on, made once."""
        from functional_models.studies.inside.sample import make_sample

        if longest not in self._samples:
            self._samples[longest] = make_sample(self.corpus, self.tokenizer, longest)
        return self._samples[longest]

    @property
    def held_out(self) -> Any:
        """The text or the pairs that results are measured on."""
        return self.corpus.test or self.corpus.validation

    def fingerprint(self) -> str:
        """Return a hash of the content."""
        tokenizer = f"{self.tokenizer.kind} {self.tokenizer.vocabulary_size}"
        return _hash(fingerprint(self.corpus), tokenizer)


@dataclass(frozen=True)
class Run:
    """A setting with a seed.

    Attributes:
        setting: The name of the setting.
        spec: The spec.
        recipe: The recipe, with its seed, and with its defaults filled in.
        key: A hash of all that the result depends on.
    """

    setting: str
    spec: builders.TransformerSpec
    recipe: Recipe
    key: str

    @property
    def seed(self) -> int:
        """The seed of weights, dropout and order of the data."""
        return self.recipe.seed

    @property
    def folder(self) -> str:
        """The name of the folder; the key alone identifies the run."""
        return f"{folder_name(self.setting)}-seed_{self.seed}-{self.key}"


@dataclass(frozen=True)
class Outcome:
    """What came out of a run.

    Attributes:
        status: "finished"; "diverged", if the loss was not finite; or "failed", which is not kept,
            so that the run is tried again.
        result: Measurements on held-out text, by name; empty unless finished.
        rows: The reports of the training; see `training.train`.
        step: The last step.
        reason: Why it failed, in a line; or "".
    """

    status: str
    result: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: Sequence[Mapping[str, float]] = dataclasses.field(default_factory=list)
    step: int = 0
    reason: str = ""


def make_runs(
    settings: Sequence[Setting], seeds: Sequence[int], data: str, precision: str
) -> list[Run]:
    """Return the runs of a study: all settings with the first seed, then with the second, ...

    Args:
        settings: The settings.
        seeds: The seeds.
        data: The fingerprint of the data.
        precision: The name of Keras' dtype policy.
    """
    runs = []
    for seed in seeds:
        for setting in settings:
            recipe = dataclasses.replace(setting.recipe, seed=seed)
            recipe = recipe.for_width(setting.spec.hidden_dim)
            given = json.dumps(dataclasses.asdict(recipe))
            key = _hash(setting.spec.to_json(), given, data, precision)
            runs.append(Run(setting.name, setting.spec, recipe, key))
    return runs


def perform(
    run: Run,
    folder: Path,
    data: StudyData,
    *,
    progress: bool = True,
    callbacks: tuple[Any, ...] = (),
) -> Outcome:
    """Train and evaluate, or resume, and write `run.json`; the lock of the folder is held.

    Args:
        run: The run.
        folder: Its folder.
        data: The data.
        progress: Show a header, a living line and reports.
        callbacks: Further Keras callbacks.

    Raises:
        ValueError: the folder is damaged.
    """
    from functional_models.callbacks import DivergedError
    from functional_models.loading import new_text_model
    from functional_models.seeding import own_random
    from functional_models.studies.inside.callback import MeasureInside

    with _ONE_AT_A_TIME, own_random(run.seed):
        if (found := read_outcome(folder, run)) is not None:
            return found
        model = new_text_model(run.spec, data.tokenizer)
        longest = run.spec.max_sequence_length
        inside = MeasureInside(folder, run.key, run.recipe, partial(data.sample, longest))
        started = time.time()
        try:
            rows = model.fit(
                data.corpus,
                recipe=run.recipe,
                folder=folder,
                overwrite=True,
                progress=progress,
                callbacks=(*callbacks, inside),
            )
            same: dict[str, Any] = {"batch_size": run.recipe.batch_size, "progress": progress}
            if run.spec.kind == "decoder_only":
                same["packing"] = run.recipe.packing
            measured = model.evaluate(data.held_out, **same)
            result = _result(model, data, rows, measured)
            outcome = Outcome("finished", result, rows, int(rows[-1]["step"]))
        except DivergedError as error:
            outcome = Outcome("diverged", step=error.step, reason=str(error))
        write_outcome(folder, run, outcome, started)
        return outcome


def _result(
    model: Any, data: StudyData, rows: Sequence[Mapping[str, float]], measured: Mapping[str, float]
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "parameters": model.model.count_params(),
        "loss": measured["loss"],
        "token_accuracy": measured["token_accuracy"],
    }
    if isinstance(data.corpus, ParallelCorpus):
        reached = [row["step"] for row in rows if row.get("val_exact_match", 0) >= GOAL]
        result["exact_match"] = measured["exact_match"]
        result["steps_to_90"] = int(reached[0]) if reached else None
    else:
        result["perplexity"] = measured["perplexity"]
    result["tokens_per_second"] = overall_speed(rows)
    # What the weights were chosen by, and the best model of a study is.
    result["validation_loss"] = min(row.get("val_loss", row["loss"]) for row in rows)
    return result


def overall_speed(rows: Sequence[Mapping[str, float]]) -> float:
    """Return tokens per second over the run: the harmonic mean, since reports have equal work.

    A report that consists only of the compiled step has no speed and is skipped.
    """
    speeds = [row["tokens_per_second"] for row in rows if row["tokens_per_second"] > 0]
    return len(speeds) / sum(1 / speed for speed in speeds) if speeds else 0.0


def write_outcome(folder: Path, run: Run, outcome: Outcome, started: float) -> None:
    """Write `run.json`, with all that is needed to read and repeat the run."""
    from importlib.metadata import version

    import keras

    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "format": FORMAT,
        "key": run.key,
        "setting": run.setting,
        "spec": run.spec.to_dict(),
        "recipe": dataclasses.asdict(run.recipe),
        **dataclasses.asdict(outcome),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(started)),
        "seconds": time.time() - started,
        "host": platform.node(),
        "versions": {
            "functional_models": version("functional-models"),
            "python": platform.python_version(),
            "keras": keras.__version__,
            "backend": keras.backend.backend(),
        },
    }
    write_whole(folder / RUN, json.dumps(content, indent=1) + "\n")


def read_outcome(folder: Path, run: Run) -> Outcome | None:
    """Return the outcome of a finished run; None if it is not finished.

    Raises:
        ValueError: the file is damaged.
    """
    path = folder / RUN
    if not path.exists():
        return None
    try:
        saved: dict[str, Any] = read_json(path)
        fields = {field.name: saved[field.name] for field in dataclasses.fields(Outcome)}
        outcome = Outcome(**fields)
        is_whole = outcome.status == "diverged" or {"loss", "parameters"} <= outcome.result.keys()
        if saved["key"] == run.key and is_whole:
            return outcome
    except (ValueError, TypeError, KeyError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged; delete it to train this run again")


def _hash(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
