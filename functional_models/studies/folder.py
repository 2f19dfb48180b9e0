"""The folder of a study: what it is about, its runs, and what is written at the end.

comparison.json       settings, seeds and baseline; the folder may hold runs of earlier ones too
runs/<name>-<key>/    a model folder for each run, with run.json
results.json, results.md, reports.parquet, inside.parquet    tables
loss_curves.png, variants.png, diagrams/, figures/, samples.md
best/                 the best model
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import builders
from functional_models.checks import read_manifest
from functional_models.folders import COMPARISON, GO_ON, LOCK, folder_path
from functional_models.studies.execution import RUNS
from functional_models.studies.inside.stored import TABLE, write_table
from functional_models.studies.planning import Plan
from functional_models.studies.previous import read_description
from functional_models.studies.results import Study
from functional_models.studies.runs import Run, read_outcome
from functional_models.studies.settings import Setting, folder_name
from plots.files import write_whole

FORMAT = 2
BEST, RESULTS, REPORTS, DIAGRAMS = "best", "results.json", "reports.parquet", "diagrams"
CURVES, VARIANTS = "loss_curves.png", "variants.png"
_WRITTEN = (
    RUNS,
    BEST,
    RESULTS,
    "results.md",
    REPORTS,
    TABLE,
    "samples.md",
    "samples.json",
    "report.html",
    "results.tex",
    CURVES,
    VARIANTS,
    DIAGRAMS,
    "figures",
)


def check_folder(folder: Path, data: str, *, overwrite: bool = False) -> dict[str, Any]:
    """Return the description of the study that a folder holds, or an empty one.

    Args:
        folder: The folder, which may be missing.
        data: Fingerprint of the data of the study that would be written.
        overwrite: Permission to replace a study of other data.

    Raises:
        FileExistsError: it holds a study of other data, or something else in place of its files.
        ValueError: the description is damaged, or of a newer format.
    """
    path = folder / COMPARISON
    if path.exists():
        if overwrite:
            return {}
        saved = read_manifest(path, FORMAT)
        if not isinstance(saved.get("settings"), list) or not isinstance(saved.get("data"), str):
            raise ValueError(f"{path} is damaged: it has no settings and data; {GO_ON}")
        if saved["data"] != data:
            raise FileExistsError(
                f"{folder} holds a comparison on other data or with another tokenizer; {GO_ON}"
            )
        return saved
    for name in _WRITTEN:
        place = folder / name
        if place.exists() and not (place.is_dir() and not any(place.iterdir())):
            raise FileExistsError(
                f"{folder} has {name!r}, which does not come from a comparison; choose another "
                "folder"
            )
    return {}


def write_description(folder: Path, plan: Plan) -> None:
    """Write `comparison.json`."""
    content = {
        "format": FORMAT,
        "command": command_line(),
        "data_name": plan.data.corpus.name,
        "data": plan.fingerprint,
        "precision": plan.precision,
        "baseline": plan.baseline,
        "seeds": list(plan.seeds),
        "settings": [{**asdict(s), "spec": s.spec.to_dict()} for s in plan.settings],
        "speeds": dict(plan.speeds),
        "costs": {name: asdict(cost) for name, cost in plan.costs.items()},
    }
    write_whole(folder / COMPARISON, json.dumps(content, indent=1) + "\n")


def remove_other_runs(folder: Path, runs: Sequence[Run]) -> None:
    """Delete the runs of a study that is overwritten; those that the new one needs stay."""
    kept = {run.folder for run in runs}
    for place in (folder / RUNS).glob("*-seed_*-*"):
        if place.name not in kept:
            shutil.rmtree(place)


def load_study(folder: str | Path) -> Study:
    """Load the last study of a folder, finished or not, without its models.

    Raises:
        FileNotFoundError: there is no study.
        ValueError: it is damaged, or of a newer format.
    """
    folder = folder_path(folder)
    path = folder / COMPARISON
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no {COMPARISON}; give a folder that compare wrote")
    about = read_description(folder, read_manifest(path, FORMAT))
    found = {run.key: read_outcome(folder / RUNS / run.folder, run) for run in about.runs}
    outcomes = {key: outcome for key, outcome in found.items() if outcome is not None}
    return Study(folder, about.settings, about.runs, outcomes, about.baseline, about.costs)


def write_tables(study: Study) -> None:
    """Write the results as JSON and Markdown, and all reports as a table for other programs."""
    content = {
        "baseline": study.reference.name,
        "noise": study.noise,
        "verdict": study.verdict,
        "results": study.results,
    }
    write_whole(study.folder / RESULTS, json.dumps(content, indent=1) + "\n")
    write_whole(study.folder / "results.md", study._repr_markdown_() + "\n")
    attempt(REPORTS, lambda: write_reports(study, study.folder / REPORTS))
    attempt(TABLE, lambda: write_inside_table(study, study.folder / TABLE))


def write_reports(study: Study, path: Path) -> None:
    """Write a row for each report of each run as Parquet, for pandas, Polars and DuckDB.

    Columns are the fields of the spec (`spec.num_layers`), of the recipe (`recipe.seed`), the
    result (`result.loss`), and the measurements of the report (`step`, `loss`, ...). Fields that
    are no plain values are JSON.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [
        {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in row.items()}
        for row in study.rows()
    ]
    names = dict.fromkeys(name for row in rows for name in row)
    columns = {name: _column([row.get(name) for row in rows]) for name in names}
    write_whole(path, lambda part: parquet.write_table(pyarrow.table(columns), part))


def write_inside_table(study: Study, path: Path) -> None:
    """Write a row for each number that was measured inside the models, if any was, as Parquet.

    Columns are the key of the run, which `reports.parquet` has too, the setting, the seed, and the
    fields of `Measured`.
    """
    runs = {run.key: run for run in study.runs}
    columns = {k: {"key": k, "setting": runs[k].setting, "seed": runs[k].seed} for k in runs}
    if study.inside:
        write_table(path, [(columns[key], inside) for key, inside in study.inside.items()])


def _column(values: list[Any]) -> list[Any]:
    """Return values of one type: numbers as floats if some are, and anything mixed as text."""
    types = {type(value) for value in values if value is not None}
    if types == {int, float}:
        return [None if value is None else float(value) for value in values]
    if len(types) > 1:
        return [None if value is None else str(value) for value in values]
    return values


def write_diagrams(folder: Path, settings: Sequence[Setting]) -> None:
    """Draw each setting, and one block of each on one page."""
    import plots

    models = {
        s.group: builders.build(s.spec, abstract=True)
        for s in {s.spec: s for s in reversed(settings)}.values()
    }
    (folder / DIAGRAMS).mkdir(exist_ok=True)
    for name, model in models.items():
        path = Path(DIAGRAMS) / f"{folder_name(name)}.svg"
        attempt(str(path), partial(plots.draw, model, folder / path, depth=2))
    page = folder / VARIANTS
    attempt(VARIANTS, lambda: plots.plot_side_by_side(models, page, blocks=1))


def write_curves(study: Study) -> None:
    """Draw the loss curves of all settings: means over seeds, and bands of all of them."""
    import plots

    rows = {
        setting.name: [outcome.rows for _, outcome in study.of(setting.name) if outcome.rows]
        for setting in study.settings
    }
    histories = {name: _history(of_runs) for name, of_runs in rows.items() if of_runs}
    if histories:
        plots.save_figure(plots.loss_curves(histories), study.folder / CURVES)


def _history(runs: Sequence[Sequence[Mapping[str, float]]]) -> dict[str, list[float]]:
    """Return means over runs at their common reports, and the ends of the loss of several runs."""
    steps = set.intersection(*({row["step"] for row in rows} for rows in runs))
    reports = zip(*([row for row in rows if row["step"] in steps] for rows in runs), strict=True)
    at_steps = list(reports)
    history = {
        key.replace("val_exact", "exact"): [fmean(row[key] for row in rows) for rows in at_steps]
        for key in runs[0][0]
    }
    if len(runs) > 1:
        loss = "val_loss" if "val_loss" in history else "loss"
        history["low"] = [min(row[loss] for row in rows) for rows in at_steps]
        history["high"] = [max(row[loss] for row in rows) for rows in at_steps]
    return history


def attempt(what: str, write: Callable[[], Any]) -> None:
    """Write something that is not worth the loss of results, or say why it was not written."""
    try:
        write()
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        print(f"{what} was not written: {reason}", file=sys.stderr, flush=True)


def listing(folder: Path) -> str:
    """Return the names of the files and folders of a study."""
    return ", ".join(sorted(path.name for path in folder.iterdir() if path.name != LOCK))


def command_line() -> str:
    """Return the command of this process, if it is that of this package; else ""."""
    is_own = Path(sys.argv[0]).name in ("functional-models", "__main__.py")
    return shlex.join(["functional-models", *sys.argv[1:]]) if is_own else ""
