"""The page of a study: what was asked, what the runs show, and how to repeat them."""

from __future__ import annotations

import json
import os
import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import builders
from functional_models.checks import read_json
from functional_models.studies.folder import attempt
from functional_models.studies.question import differing_fields, question
from functional_models.studies.report.charts import charts
from functional_models.studies.report.figures import FIGURES, write_figures
from functional_models.studies.report.inside import (
    NOTES,
    THRESHOLDS,
    Section,
    inside_section,
    with_own_ids,
)
from functional_models.studies.report.series import AXES, speed_ups
from functional_models.studies.results import Study
from functional_models.studies.runs import RUN
from functional_models.studies.settings import folder_name
from plots.files import write_whole

REPORT, LATEX, SAMPLES = "report.html", "results.tex", "samples.json"
_RUNS = "runs"


def write_report(study: Study) -> Path:
    """Write the report of a study, its table for LaTeX, and its figures for papers.

    Nothing is trained, and no model is loaded.

    Returns:
        The path of the page.
    """
    path = study.folder / REPORT
    write_whole(path, report_page(study))
    write_whole(study.folder / LATEX, latex_table(study))
    attempt(FIGURES, lambda: write_figures(study))
    return path


def report_page(study: Study) -> str:
    """Return the report as an HTML page, which needs no network."""
    from bokeh.document import Document
    from bokeh.embed import components
    from bokeh.resources import Resources
    from jinja2 import Environment, StrictUndefined

    inside = inside_section(study)
    drawn = charts(study) | {f"inside {n}": made.chart for n, made in enumerate(inside.charts)}
    document = Document()
    with document.models.freeze():  # else every chart visits all others
        for chart in drawn.values():
            document.add_root(chart)
    script, places = components(drawn) if drawn else ("", {})
    library = Resources(mode="inline", components=["bokeh"]).render_js() if drawn else ""
    source = resources.files(__package__).joinpath("page.html.jinja").read_text("utf-8")
    template = Environment(autoescape=True, undefined=StrictUndefined).from_string(source)
    return template.render(
        title=", ".join(setting.name for setting in study.compared),
        question=question(study.settings),
        fields=differing_fields(study.settings),
        settings=[setting.name for setting in study.settings],
        verdict=study.verdict,
        table=study.cells(),
        charts=places,
        axes=AXES,
        speed_ups=_speed_ups(study),
        reference=study.reference.name,
        samples=_samples(study),
        diagrams=list(_diagrams(study)),
        architectures=list(_architectures(study)),
        facts=_facts(study),
        inside=inside,
        inside_rows=_rows_of_charts(inside, places),
        thresholds=THRESHOLDS,
        library=library,
        script=script,
    )


def _rows_of_charts(inside: Section, places: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the charts of each quantity in rows, with captions, and what it is."""
    titles: dict[str, dict[str, list[dict[str, str]]]] = {}
    for number, drawn in enumerate(inside.charts):
        figure = {"caption": drawn.caption, "chart": places[f"inside {number}"]}
        titles.setdefault(drawn.title, {}).setdefault(drawn.row, []).append(figure)
    return [
        {"title": title, "note": NOTES[title], "rows": list(rows.values())}
        for title, rows in titles.items()
    ]


def _speed_ups(study: Study) -> dict[str, dict[str, str]]:
    """Return the speed-ups in words, by setting and axis, without the baseline."""
    by_axis = {axis: speed_ups(study, axis) for axis in AXES}
    shown = {}
    for setting in study.compared:
        if setting != study.reference:
            factors = {axis: found[setting.name] for axis, found in by_axis.items()}
            shown[setting.name] = {
                axis: "not reached" if factor is None else f"{factor:.2f} ×"
                for axis, factor in factors.items()
            }
    return shown


def _samples(study: Study) -> Any:
    path = study.folder / SAMPLES
    return read_json(path) if path.exists() else None


def _diagrams(study: Study) -> Iterator[dict[str, str]]:
    """Yield the diagrams, which the page contains as SVG."""
    for setting in study.compared:
        path = study.folder / "diagrams" / f"{folder_name(setting.name)}.svg"
        if path.exists():
            picture = re.sub(r"^.*?(?=<svg)", "", path.read_text("utf-8"), flags=re.S)
            # Several pictures on a page: ids must differ, and no size keeps them from shrinking.
            yield {"name": setting.name, "svg": with_own_ids(picture, f"d{len(picture)}-")}


def _architectures(study: Study) -> Iterator[dict[str, str]]:
    """Yield how the graph of each setting differs from that of the baseline."""
    import plots

    graphs = {
        setting.spec: plots.read_graph(builders.build(setting.spec, abstract=True))
        for setting in study.compared
    }
    before = graphs.get(study.reference.spec)
    for setting in study.compared:
        if before is not None and setting.spec != study.reference.spec:
            difference = plots.compare_graphs(before, graphs[setting.spec])
            text = plots.difference_text(difference)
            yield {"name": setting.name, "text": text.partition("\n")[2].strip()}


def _facts(study: Study) -> dict[str, str]:
    """Return how to repeat the study: data, seeds, precision, versions and machines."""
    saved = _run_files(study)
    if not saved:
        return {}
    versions = [", ".join(f"{k} {v}" for k, v in run["versions"].items()) for run in saved]
    description = read_json(study.folder / "comparison.json")
    return {
        "command": description.get("command", ""),
        "data": description.get("data_name", ""),
        "seeds": ", ".join(map(str, dict.fromkeys(run.seed for run in study.runs))),
        "precision": str(description["precision"]),
        "versions": "; ".join(dict.fromkeys(versions)),
        "machines": ", ".join(dict.fromkeys(run["host"] for run in saved)),
        "started": min(run["started"] for run in saved),
        "training": f"{sum(run['seconds'] for run in saved):,.0f} seconds in all runs",
        "report made with": f"Python {platform.python_version()}, {os.cpu_count()} CPUs",
    }


def _run_files(study: Study) -> list[Mapping[str, Any]]:
    paths = [study.folder / _RUNS / run.folder / RUN for run in study.runs]
    return [json.loads(path.read_bytes()) for path in paths if path.exists()]


def latex_table(study: Study) -> str:
    """Return the results as a LaTeX table, for the package booktabs."""
    header, *rows = study.cells()
    lines = [
        rf"\begin{{tabular}}{{l{'r' * (len(header) - 1)}}}",
        r"\toprule",
        _latex_row(header),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
    ]
    return "\n".join(lines) + "\n"


_SIGNS = {"±": r"$\pm$", "*": "$^*$", "−": "$-$"}


def _latex_row(cells: Sequence[str]) -> str:
    escaped = (re.sub(r"([&%$#_{}])", r"\\\1", cell) for cell in cells)
    signs = (re.sub("[±*−]", lambda found: _SIGNS[found[0]], cell) for cell in escaped)
    return " & ".join(signs) + r" \\"
