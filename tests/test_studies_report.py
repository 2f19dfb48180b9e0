"""Reports of studies: numbers of their curves, and pages without network in a browser."""

import json
import re

import pytest
from explorer_pages import browser  # noqa: F401  (a fixture)
from small_text_models import SIZES

import builders
from functional_models.recipe import Recipe
from functional_models.studies.folder import write_curves
from functional_models.studies.inside.stored import Inside, Measured, write_inside
from functional_models.studies.question import question
from functional_models.studies.report import write_report
from functional_models.studies.report.figures import figures
from functional_models.studies.report.inside import block_difference, inside_section
from functional_models.studies.report.page import latex_table
from functional_models.studies.report.profiles import (
    END,
    INITIALISATION,
    facts,
    profile,
    share_of,
    step_of,
)
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


def measure(made):
    """Write measurements of two sublayers for all runs, which differ by seed and setting."""
    for run in made.runs:
        size = (1 + run.seed) * (1 if run.setting.startswith("base") else 10)
        reports = {}
        for step in (0, 1, 3):
            rows = [
                Measured(quantity, f"decoder.block_0.{part}", depth, size * depth * factor, 7)
                for depth, part in enumerate(("self_attention", "feedforward"), 1)
                for quantity, factor in NUMBERS.items()
                if step or quantity != "update"
            ]
            rows.append(Measured("attention_entropy", "decoder.block_0.self_attention", 1, 0.5, 2))
            rows.append(
                Measured("inactive_units", "decoder.block_0.feedforward", 2, 3.0 + step, 20)
            )
            rows += [Measured("position_loss", name, n, 1.5, 9) for n, name in enumerate("123", 1)]
            rows += [Measured("class_loss", name, n, 2.5, 9) for n, name in enumerate("12", 1)]
            reports[step] = rows
        reports[3].append(Measured("zero_gradient", "decoder.dead/kernel", 0, 35.0, 35))
        write_inside(made.folder / "runs" / run.folder, run.key, Inside(reports))
    return made


NUMBERS = {
    "stream_rms": 1.0,
    "branch_rms": 0.5,
    "skip_gradient_rms": 0.01,
    "branch_gradient_rms": 0.03,
    "stream_gradient_rms": 0.04,
    "update": 0.001,
}


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


def test_the_early_loss_is_that_of_the_first_report_after_a_tenth_of_the_steps(tmp_path):
    made = study(tmp_path)  # reports after 1, 2 and 3 of 4 steps
    assert made.values("base", "early_loss") == {0: 7.0, 1: 8.0}
    row = next(cells for cells in made.cells() if cells[0] == "base")
    assert row[made.cells()[0].index("early validation loss")] == "7.5000 ± 0.7071"


def test_profiles_are_means_over_seeds_with_the_smallest_and_the_largest(tmp_path):
    made = measure(study(tmp_path))
    found = profile(made, "base", "stream_rms", END, "decoder")
    assert found.depths == (1, 2)
    assert found.places == ("block_0.self_attention", "block_0.feedforward")
    assert (found.low, found.mean, found.high) == ((1, 2), (1.5, 3.0), (2, 4))
    assert profile(made, "base", "stream_rms", END, "encoder") is None
    numbers = facts(made, "<b>bold</b>", INITIALISATION)
    assert numbers["decoder", "RMS of the stream at the end"] == 30.0
    assert numbers["decoder", "RMS of a branch / of the stream"] == 0.5
    assert numbers["decoder", "gradient, first / last sublayer"] == 0.5
    assert numbers["feed-forward layers", "share of units that no token activates"] == 3 / 20


@pytest.mark.slow  # draws 15 charts and 6 figures
def test_a_page_shows_what_happens_inside(tmp_path):
    page = write_report(measure(study(tmp_path))).read_text()
    body = re.sub("<script.*?</script>", "", page, flags=re.S)
    for text in ("Signals", "Gradients", "Updates", "Attention", "Loss of held-out tokens"):
        assert f"<h3>{text}</h3>" in body
    for time in ("at initialisation", "early", "after training"):
        assert f"<figcaption>decoder, {time}</figcaption>" in body
    assert "<td>30.0% of 20</td>" in body  # units, after training
    assert "<td>decoder.dead/kernel</td>" in body
    assert "norm_placement pre → post" in body
    assert "moved: was after" in body  # the difference of one block
    ids = re.findall(r'\bid="([^"]+)"', body)
    assert len(ids) == len(set(ids))
    names = {path.stem for path in (tmp_path / "figures").glob("*.svg")}
    assert names == {"loss_tokens", "depth_decoder_initialisation", "depth_decoder_trained"}
    assert names == {path.stem for path in (tmp_path / "figures").glob("*.png")}


def test_early_is_the_first_report_after_initialisation_unless_it_is_the_last(tmp_path):
    made = measure(study(tmp_path))
    times = ("at initialisation", "early", "after training")
    shares = [share_of(made, "base", "inactive_units", time) for time in times]
    assert shares == [3 / 20, 4 / 20, 6 / 20]
    run = made.runs[0]
    assert step_of(made.inside[run.key], "early") == 1
    assert step_of(Inside({0: [], 3: []}), "early") == -1


def test_figures_have_a_band_for_each_setting_with_several_seeds(tmp_path):
    drawn = dict(figures(measure(study(tmp_path))))
    (loss,) = drawn["loss_tokens"].axes
    assert loss.get_xlabel() == "target tokens"
    assert [len(line.get_xdata()) for line in loss.lines] == [3, 3]
    assert len(loss.collections) == 2
    signals, gradients, updates, attention = drawn["depth_decoder_trained"].axes
    assert [len(panel.collections) for panel in (signals, gradients, updates)] == [4, 4, 2]
    assert len(attention.collections) == 0  # all seeds are equal
    (legend,) = drawn["depth_decoder_trained"].legends
    assert [text.get_text() for text in legend.get_texts()] == ["base", "<b>bold</b>"]


def test_loss_curves_of_several_seeds_are_means_with_a_band(tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr("plots.loss_curves", drawn.update)
    monkeypatch.setattr("plots.save_figure", lambda *given: None)
    write_curves(study(tmp_path))
    assert drawn["base"]["val_loss"] == [7.5, 6.5, 5.5]
    assert (drawn["base"]["low"], drawn["base"]["high"]) == ([7.0, 6.0, 5.0], [8.0, 7.0, 6.0])
    assert drawn["base"]["step"] == [1, 2, 3]


def test_what_was_not_measured_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("functional_models.studies.report.inside.inside_charts", lambda study: [])
    made = measure(study(tmp_path))
    for run in (made.runs[1], made.runs[3]):
        (tmp_path / "runs" / run.folder / "inside.json").unlink()
    section = inside_section(made)
    assert section.missing == "Not measured for <b>bold</b>."
    assert [name for name, _ in section.legend] == ["base"]


def test_equal_blocks_have_no_difference_to_draw():
    assert block_difference(SPEC, SPEC.replace(num_layers=3)) == ("", "")
    translator = builders.TransformerSpec(kind="encoder_decoder", **{**SIZES, "hidden_dim": 6})
    picture, stack = block_difference(translator, translator.replace(norm_placement="post"))
    assert stack == "decoder"
    assert "cross_attention" in picture


def test_a_question_names_what_differs(tmp_path):
    settings = make_settings({"base": SPEC}, Recipe(), grid={"num_layers": [1, 2], "steps": [5, 7]})
    assert question(settings) == "4 settings, which differ in num_layers (1, 2) and steps (5, 7)."
    assert question(settings[:1]) == "1 setting, with one recipe."


def test_a_page_needs_no_network_and_escapes_names(tmp_path):
    made = study(tmp_path)
    page = write_report(made).read_text()
    assert len(page) < 2_500_000
    assert "What happens inside was not measured" in page
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
    path = write_report(measure(study(tmp_path, learning_rates=[0.001, 0.01])))
    page = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 800})
    complaints = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: complaints.append(request.url))
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelectorAll('[data-root-id] *').length > 0")
    page.wait_for_timeout(2000)
    charts = page.query_selector_all("[data-root-id] > *")
    # By tokens, operations and seconds; differences; learning rates; and inside: signals, gradients
    # and attention before, early and after, updates early and after, and losses by position and by
    # class.
    assert len(charts) == 5 + 3 * 3 + 2 + 2
    for chart in charts:
        box = chart.bounding_box()
        assert 100 < box["height"] < 500
        assert 250 < box["width"] <= width
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert [text for text in complaints if not text.startswith("file:")] == []
    page.close()
