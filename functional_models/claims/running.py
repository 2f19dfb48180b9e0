"""`run_claims`: measure claims, and write the results as JSON, Markdown and HTML."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from functional_models.checks import check_count, read_manifest

# These register the claims, in the order of the page.
from functional_models.claims import (
    initialisation,  # noqa: F401
    training,  # noqa: F401
    warmup,  # noqa: F401
)
from functional_models.claims.claim import REVISION, Claim, chosen_claims
from functional_models.claims.page import (
    figure_svg,
    html_page,
    markdown_page,
    results_table,
    summary_line,
)
from functional_models.claims.runs import RUNS, Trainer
from functional_models.folders import (
    CLAIMS,
    GO_ON,
    check_content,
    folder_path,
    make_folder,
    only_writer,
)
from plots.files import write_whole

FORMAT = 1
PAGE, TABLE = "claims.html", "claims.md"
STEPS, SEEDS = 200, 4
"""Defaults of the training runs, with which all claims take less than half an hour on two cores."""

Result = dict[str, Any]


class Findings(list[Result]):
    """The results of `run_claims`: a dict for each claim. It is printed as a table."""

    def __repr__(self) -> str:
        return results_table(self) if self else "[]"


def run_claims(
    names: Iterable[str] = (),
    *,
    train: bool = False,
    folder: str | Path = "out/claims",
    steps: int = STEPS,
    seeds: int = SEEDS,
    overwrite: bool = False,
    progress: bool = True,
) -> Findings:
    """Measure claims of the literature on models of this library.

    Claims, and training runs, that the folder has with the same settings are not measured again.

    Args:
        names: names of claims; by default all at initialisation.
        train: by default also those that train models.
        folder: folder of `claims.json`, `claims.md`, `claims.html` and `runs.json`.
        steps: steps of every training run.
        seeds: training runs of each setting, at least 3.
        overwrite: replace claims that were measured with other settings.
        progress: print a line for every claim and every training run.

    Returns:
        A dict for each claim: name, statement, source, band, setting, verdict ("agrees",
        "disagrees" or "not decided"), measured (in words), numbers, figure, settings, seconds,
        date and device. The list is printed as a table.

    Raises:
        ValueError: an unknown claim, fewer than 10 steps or 3 seeds, or a damaged folder.
        FileExistsError: the folder holds something else, or claims with other settings.
        BlockingIOError: another process or thread writes the folder.
    """
    if isinstance(names, str):
        names = [names]
    chosen = chosen_claims(names, train=train)
    check_count("steps", steps, least=10)
    check_count("seeds", seeds, least=3)
    folder = folder_path(folder)
    check_content(folder, (CLAIMS,), overwrite=True)
    before = _read(folder, overwrite)
    settings = {claim.name: _settings(claim, steps, seeds) for claim in chosen}
    for name, wanted in settings.items():
        if name in before and before[name]["settings"] != wanted and not overwrite:
            raise FileExistsError(
                f"{folder} holds the claim {name!r}, measured with other settings; {GO_ON}"
            )

    def report(line: str) -> None:
        if progress:
            print(line, flush=True)

    with only_writer(make_folder(folder)):
        if not before:  # shows whose the folder is
            write_whole(folder / CLAIMS, json.dumps({"format": FORMAT, "claims": {}}) + "\n")
        results = dict(before)
        figures = {name: figure_svg(name, r["figure"]) for name, r in results.items()}
        trainer = Trainer(steps, seeds, folder, lambda line: report(f"      {line}"))
        for number, claim in enumerate(chosen, 1):
            report(f"[{number}/{len(chosen)}] {claim.name}: {claim.statement}")
            known = results.get(claim.name, {})
            if known.get("settings") != settings[claim.name]:
                result = _measure(claim, settings[claim.name], trainer)
                results[claim.name] = result
                figures[claim.name] = figure_svg(claim.name, result["figure"])
                _write(folder, results, figures)
            result = results[claim.name]
            report(f"      {result['verdict']}: {result['measured']}")
        found = Findings(results[claim.name] for claim in chosen)
        report(f"\n{summary_line(found)}\nthe results are in {folder / PAGE}")
    return found


def _settings(claim: Claim, steps: int, seeds: int) -> dict[str, Any]:
    """Return all that the result of a claim depends on, as JSON has it."""
    import keras

    settings = {"revision": REVISION, "backend": keras.backend.backend(), **claim.settings}
    if claim.trains:
        settings |= {"steps": steps, "seeds": seeds}
    found: dict[str, Any] = json.loads(json.dumps(settings))
    return found


def _measure(claim: Claim, settings: dict[str, Any], trainer: Trainer) -> Result:
    """Measure a claim; return its result as JSON has it."""
    from functional_models.progress import device

    start = time.perf_counter()
    measured = claim.measure(trainer) if claim.trains else claim.measure()
    result = {
        "name": claim.name,
        "statement": claim.statement,
        "source": claim.source,
        "band": claim.band,
        "setting": claim.setting,
        "settings": settings,
        "verdict": measured.verdict,
        "measured": measured.summary,
        "numbers": measured.numbers,
        "figure": dataclasses.asdict(measured.figure),
        "seconds": round(time.perf_counter() - start, 2),
        "date": time.strftime("%Y-%m-%d"),
        "device": device(),
    }
    found: Result = json.loads(json.dumps(result))
    return found


def _read(folder: Path, overwrite: bool) -> dict[str, Result]:
    """Return the results in a folder by name.

    Raises:
        ValueError: they are damaged.
        FileExistsError: there are files with the names of results, but no results.
    """
    path = folder / CLAIMS
    if not path.exists():
        for name in (PAGE, TABLE, RUNS):
            if (folder / name).exists() and not overwrite:
                raise FileExistsError(
                    f"{folder} has {name!r}, which does not come from this command; {GO_ON}"
                )
        return {}
    try:
        results = read_manifest(path, FORMAT).get("claims")
        keys = {field.name for field in dataclasses.fields(Claim)} - {"measure", "trains"}
        keys |= {"settings", "verdict", "measured", "figure", "seconds", "date", "device"}
        if isinstance(results, dict) and all(keys <= result.keys() for result in results.values()):
            return results
        raise ValueError(f"{path} is damaged: it has no results; {GO_ON}")
    except (ValueError, AttributeError):
        if overwrite:
            return {}
        raise


def _write(folder: Path, results: dict[str, Result], figures: dict[str, str]) -> None:
    listed = list(results.values())
    content = json.dumps({"format": FORMAT, "claims": results}, indent=1)
    write_whole(folder / CLAIMS, content + "\n")
    write_whole(folder / TABLE, markdown_page(listed))
    write_whole(folder / PAGE, html_page(listed, figures))
