"""The results as an offline HTML page and as a Markdown page."""

from __future__ import annotations

import html
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from functional_models.claims.claim import AGREES, DISAGREES, NOT_DECIDED
from functional_models.claims.not_checked import NOT_CHECKED
from functional_models.tables import format_table
from plots.figures import BLUE, finish, line_style, new_figure

Result = Mapping[str, Any]
"""A claim with its measurement, as `claims.json` has it."""

TITLE = "Claims of the literature, measured here"

_COLOURS = {AGREES: "#0b6b3a", DISAGREES: "#a33a00", NOT_DECIDED: "#5a5a5a"}

_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; color: #222; background: #fff;
       margin: 2rem auto; max-width: 76rem; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .6rem .7rem; border-top: 1px solid #ddd; }
th { border-top: 0; }
td.figure { width: 24rem; }
td.figure svg { width: 24rem; height: auto; }
td.measured { min-width: 12rem; }
.small { color: #555; font-size: 13px; }
.verdict { color: #fff; border-radius: .3rem; padding: .1rem .5rem; white-space: nowrap; }
code { font-size: 13px; }
"""


def summary_line(results: Iterable[Result]) -> str:
    """Return how many claims have each verdict, e.g. "agrees: 7, disagrees: 1"."""
    verdicts = [result["verdict"] for result in results]
    counts = {verdict: verdicts.count(verdict) for verdict in _COLOURS}
    return ", ".join(f"{verdict}: {count}" for verdict, count in counts.items() if count)


def results_table(results: Sequence[Result]) -> str:
    """Return names, measurements and verdicts as an aligned text table."""
    rows = [(r["name"], r["verdict"], r["measured"]) for r in results]
    return format_table(rows, align="left")


def markdown_page(results: Sequence[Result]) -> str:
    """Return the results and the claims that are not checked, as a Markdown page."""
    rows = [("claim", "source", "measured", "band", "verdict")]
    for r in results:
        name = f"`{r['name']}`: {r['statement']}"
        rows.append((name, r["source"], r["measured"], r["band"], f"**{r['verdict']}**"))
    missing = [("claim", "source", "reason")]
    missing += [(c.statement, c.source, c.reason) for c in NOT_CHECKED]
    settings = [f"* `{r['name']}`: {r['setting']}" for r in results]
    parts = [
        f"# {TITLE}",
        _where(results),
        _table(rows),
        "## Settings, and where they deviate from the source",
        "\n".join(settings),
        "## Not checked",
        _table(missing),
    ]
    return "\n\n".join(parts) + "\n"


def _table(rows: Sequence[Sequence[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    return format_table(escaped, align="left", markdown=True)


def html_page(results: Sequence[Result], figures: Mapping[str, str]) -> str:
    """Return the results as one HTML page, without references to other files.

    Args:
        results: the results.
        figures: SVG elements by the name of the claim.
    """
    rows = "\n".join(_row(result, figures.get(result["name"], "")) for result in results)
    missing = "\n".join(
        f"<tr><td>{_text(c.statement)}</td><td>{_text(c.source)}</td><td>{_text(c.reason)}</td></tr>"
        for c in NOT_CHECKED
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{TITLE}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{TITLE}</h1>
<p>{_text(_where(results))}</p>
<table>
<tr><th>claim and source</th><th>measured</th><th>band</th><th>verdict</th><th>figure</th></tr>
{rows}
</table>
<h2>Not checked</h2>
<table>
<tr><th>claim</th><th>source</th><th>reason</th></tr>
{missing}
</table>
</body>
</html>
"""


def _row(result: Result, figure: str) -> str:
    verdict = result["verdict"]
    when = f"{result['seconds']:.1f} s, {result['date']}"
    return f"""<tr id="{result["name"]}">
<td><code>{result["name"]}</code><br>{_text(result["statement"])}
<p class="small">{_text(result["source"])}</p><p class="small">{_text(result["setting"])}</p></td>
<td class="measured">{_text(result["measured"])}<p class="small">{when}</p></td>
<td>{_text(result["band"])}</td>
<td><span class="verdict" style="background: {_COLOURS[verdict]}">{verdict}</span></td>
<td class="figure">{figure}</td>
</tr>"""


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def _where(results: Sequence[Result]) -> str:
    """Return the verdicts in numbers, and when and where they were measured."""
    dates = sorted({result["date"] for result in results})
    devices = ", ".join(dict.fromkeys(result["device"] for result in results))
    seconds = sum(result["seconds"] for result in results)
    when = " to ".join(dict.fromkeys((dates[0], dates[-1])))
    return f"{summary_line(results)}. Measured {when} in {seconds:,.0f} s on {devices}."


def figure_svg(name: str, figure: Mapping[str, Any]) -> str:
    """Return the figure of a claim as an SVG element, equal for equal figures.

    Args:
        name: name of the claim, from which the ids in the element are made.
        figure: a `Figure` as JSON has it.
    """
    import matplotlib
    from matplotlib.ticker import LogLocator, NullFormatter

    drawing = new_figure(4.8, 3.2)
    panel = drawing.subplots()
    number = 0
    for label, (x, y) in figure["curves"].items():
        if label.startswith("band"):
            shown = "band" if label.startswith("band, lower") else label
            shown = "_" if label.startswith("band, upper") else shown
            panel.plot(x, y, color="#606060", linestyle=":", label=shown)
            continue
        style = line_style(number) if len(figure["curves"]) > 1 else {"color": BLUE}
        panel.plot(x, y, label=label, marker="o", markersize=3.5, **style)
        number += 1
    for letter, axis in (("x", panel.xaxis), ("y", panel.yaxis)):
        if letter in figure["log"]:
            panel.set(**{f"{letter}scale": "log"})
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter("{x:g}")  # 0.5, not 5 x 10^-1
            axis.set_minor_formatter(NullFormatter())
    finish(panel, figure["across"], figure["upwards"])
    data = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        drawing.savefig(data, format="svg", metadata={"Date": None})
    text = data.getvalue()
    return text[text.index("<svg") :].strip()
