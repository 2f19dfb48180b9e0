"""Reports of studies: numbers of their curves, and pages without network in a browser."""

import json
import re

import pytest
from explorer_pages import browser  # noqa: F401  (a fixture)
from small_text_models import SIZES

import builders
from functional_models.recipe import Recipe
from functional_models.studies.question import question
from functional_models.studies.report import write_report
from functional_models.studies.report.page import latex_table
from functional_models.studies.report.series import (
    Curve,
    along,
    loss_curve,
    place_of_loss,
    speed_ups,
)
from functional_models.studies.results import Cost, Study
from functional_models.studies.runs import Outcome, make_runs, write_outcome
from functional_models.studies.settings import make_settings

SPEC = builders.TransformerSpec(**{**SIZES, "hidden_dim": 6})
SPECS = {"base": SPEC, "<b>bold</b>": SPEC.replace(norm_placement="post")}


def study(folder, learning_rates=()):
    """A study of two settings and two seeds, of which the second setting is twice as fast."""
    settings = make_settings(SPECS, Recipe(steps=4, batch_size=5), learning_rates=learning_rates)
    runs = make_runs(settings, [0, 1], "data", "float32")
    outcomes = {}
    for run in runs:
        speed = 1 if run.setting.startswith("base") else 2
        rows = [
            {"step": step, "loss": 9.0, "val_loss": 8.0 - speed * step + run.seed, "seconds": 0.5}
            for step in (1, 2, 3)
        ]
        result = {
            "loss": 5.0 - speed + 0.1 * speed * run.seed,
            "parameters": 7,
            "tokens_per_second": 3.0,
        }
        result["validation_loss"] = rows[-1]["val_loss"]
        outcomes[run.key] = Outcome("finished", result, rows, 3)
        write_outcome(folder / "runs" / run.folder, run, outcomes[run.key], 0.0)
    (folder / "comparison.json").write_text(json.dumps({"precision": "float32"}))
    costs = {setting.name: Cost(11.0, 13.0) for setting in settings}
    return Study(folder, tuple(settings), tuple(runs), outcomes, "base", costs)


def test_curves_are_means_over_seeds(tmp_path):
    made = study(tmp_path)
    curve = loss_curve(made, made.settings[0])
    assert curve.steps == (1, 2, 3)
    assert curve.mean == (7.5, 6.5, 5.5)
    assert curve.high == pytest.approx([m + 0.5**0.5 for m in curve.mean])
    assert along(made, made.settings[0], curve, "tokens") == (11, 22, 33)
    assert along(made, made.settings[0], curve, "flops") == (13, 26, 39)


def test_speed_ups_are_where_the_final_loss_of_the_baseline_is_reached(tmp_path):
    curve = Curve((1, 2, 4), (8.0, 6.0, 3.0), (), (), ())
    assert place_of_loss(curve, 7.0, (10, 20, 40)) == 15
    assert place_of_loss(curve, 3.0, (10, 20, 40)) == 40
    assert place_of_loss(curve, 2.0, (10, 20, 40)) is None
    assert place_of_loss(curve, 9.0, (10, 20, 40)) is None  # somewhere before the first report
    # 5.5 after 3 steps, and between 6.5 and 4.5 at 1 and 2 steps.
    assert speed_ups(study(tmp_path), "tokens") == {"base": 1.0, "<b>bold</b>": 2.0}


def test_a_question_names_what_differs(tmp_path):
    settings = make_settings({"base": SPEC}, Recipe(), grid={"num_layers": [1, 2], "steps": [5, 7]})
    assert question(settings) == "4 settings, which differ in num_layers (1, 2) and steps (5, 7)."
    assert question(settings[:1]) == "1 setting, with one recipe."


def test_a_page_needs_no_network_and_escapes_names(tmp_path):
    made = study(tmp_path)
    page = write_report(made).read_text()
    assert len(page) < 2_500_000
    assert "&lt;b&gt;bold&lt;/b&gt;" in page
    without_scripts = re.sub("<script.*?</script>", "", page, flags=re.S)
    assert "<b>bold" not in without_scripts
    for sentence in made.verdict:
        assert sentence.replace("<b>bold</b>", "&lt;b&gt;bold&lt;/b&gt;") in page
    assert 'src="http' not in without_scripts
    assert (tmp_path / "results.tex").read_text() == latex_table(made)
    rows = latex_table(made).splitlines()
    assert {line.count("&") for line in rows if line.endswith(r"\\")} == {len(made.cells()[0]) - 1}
    assert r"$\pm$" in rows[4]


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "width"), [("light", 1100), ("dark", 390)])
def test_charts_are_drawn_on_every_screen(tmp_path, browser, scheme, width):  # noqa: F811
    path = write_report(study(tmp_path, learning_rates=[0.001, 0.01]))
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('[data-root-id] *').length > 0")
    page.wait_for_timeout(2000)
    charts = page.query_selector_all("[data-root-id] > *")
    assert len(charts) == 5  # by tokens, operations and seconds; differences; learning rates
    for chart in charts:
        box = chart.bounding_box()
        assert 100 < box["height"] < 500
        assert 250 < box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [text for text in complaints if not text.startswith("file:")] == []
    page.close()
