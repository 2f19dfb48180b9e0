"""Claims of the literature: their verdicts, their results on file, and the command."""

import json
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

import functional_models as fm
from functional_models.claims import claim as claims
from functional_models.claims import initialisation, running, training, warmup
from functional_models.claims.bands import is_above, is_below, is_equal, log_slope, paired
from functional_models.claims.claim import (
    AGREES,
    CLAIMS,
    DISAGREES,
    NOT_DECIDED,
    Claim,
    Figure,
    Measured,
)
from functional_models.claims.not_checked import NOT_CHECKED
from functional_models.claims.page import figure_svg
from functional_models.claims.retraining import RetrainedModel
from functional_models.claims.runs import Trainer
from functional_models.claims.tasks import LANGUAGE_MODEL, TRANSLATION, Run
from functional_models.cli import main
from functional_models.recipe import Recipe

# At initialisation ------------------------------------------------------------------------------

SMALL = {
    "post_norm_stream": {"num_layers": 2, "seeds": 7, "width": 257},
    "pre_norm_stream": {"num_layers": 3, "seeds": 3, "width": 131},
    "sandwich_norm_stream": {"num_layers": 3, "seeds": 2, "width": 131},
    "vanishing_gradient": {"num_layers": 5, "seeds": 1, "width": 257},
    "norm_jacobian": {"width": 67},
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", SMALL)
def test_claims_hold_in_small_models(name):
    assert CLAIMS[name].measure(**SMALL[name]).verdict == AGREES


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "other"),
    [
        ("post_norm_stream", {"norm_placement": "pre"}),
        ("pre_norm_stream", {"norm_placement": "sandwich"}),
        ("sandwich_norm_stream", {"norm_placement": "pre"}),
        ("vanishing_gradient", {"merge": "add"}),
    ],
)
def test_a_model_of_another_kind_does_not_agree(name, other):
    assert CLAIMS[name].measure(**SMALL[name], **other).verdict == DISAGREES


DOCS = (Path(__file__).parent.parent / "docs" / "claims.md").read_text("utf-8")


def test_the_docs_list_every_claim_and_what_is_not_checked():
    for claim in CLAIMS.values():
        parts = (f"`{claim.name}`", claim.statement, claim.source, claim.band)
        for part in parts[: 3 if claim.trains else 4]:
            assert part.replace("|", "\\|") in DOCS
    for missing in NOT_CHECKED:
        assert f"| {missing.statement} | {missing.source} | {missing.reason} |" in DOCS


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CLAIMS if not CLAIMS[name].trains])
def test_claims_at_initialisation_are_as_documented(name):
    (verdict,) = re.findall(rf"^\| `{name}`: .* \*\*(.*)\*\* \|$", DOCS, re.M)
    assert CLAIMS[name].measure().verdict == verdict


@pytest.mark.slow
def test_swapped_placements_do_not_agree_on_gradients():
    swapped = {"post": "pre", "pre": "post"}
    depth = initialisation.last_gradient_by_depth(**swapped, depths=(3, 11), width=67, seeds=2)
    assert depth.verdict == DISAGREES
    assert initialisation.gradient_by_block(**swapped, width=64, seeds=1).verdict == DISAGREES


def test_the_power_of_a_power_law_is_found():
    x = [2.0, 3.0, 5.0, 7.0]
    assert log_slope(x, [11 * value**-1.5 for value in x]) == pytest.approx(-1.5)


# After training ---------------------------------------------------------------------------------


def test_a_paired_test_is_students():
    test = paired([4.0, 6.0, 8.0], [3.0, 4.0, 5.0])  # differences 1, 2, 3
    assert test.mean == pytest.approx(2)
    assert test.p == pytest.approx(0.07418, abs=1e-5)  # t = 2 sqrt(3) with 2 degrees of freedom
    assert (test.low, test.high) == pytest.approx((2 - 4.3027 / 3**0.5, 2 + 4.3027 / 3**0.5), 1e-4)
    assert paired([1.0, 2.0], [1.0, 2.0]).p == 1
    assert paired([2.0, 3.0], [1.0, 2.0]).p == 0


@pytest.mark.parametrize(
    ("differences", "below", "equal", "above"),
    [
        ([-3.0, -3.1, -2.9], AGREES, DISAGREES, DISAGREES),
        ([3.0, 3.1, 2.9], DISAGREES, DISAGREES, AGREES),
        ([0.01, -0.01, 0.02], NOT_DECIDED, AGREES, DISAGREES),
        ([-9.0, 9.0, 1.0], NOT_DECIDED, NOT_DECIDED, NOT_DECIDED),
    ],
)
def test_only_differences_beyond_the_noise_decide(differences, below, equal, above):
    test = paired(differences, [0.0] * 3)
    assert (is_below(test), is_equal(test, 0.5), is_above(test, 0.5)) == (below, equal, above)


class Trained:
    """A trainer whose runs have the losses that a function gives."""

    steps = 30

    def __init__(self, loss, growth=lambda changes: 1.0):
        self.loss, self.growth = loss, growth

    def warmup(self, share=1.0):
        return round(share * 10)

    def runs(self, task=None, **changes):
        noise = np.random.default_rng(len(repr(changes))).normal(0, 0.001, 5)
        factor = self.growth(changes)
        return [
            Run(self.loss(changes) + x, (15, 30), (3.0, 2.0 + x), (1.5, 1.5 * factor * (1 + x)))
            for x in noise
        ]


@pytest.mark.parametrize(
    ("name", "changed", "by", "verdict"),
    [
        ("glu_against_mlp", "feedforward", -0.05, AGREES),
        ("glu_against_mlp", "feedforward", +0.05, DISAGREES),
        ("glu_against_mlp", "feedforward", 0, NOT_DECIDED),
        ("rms_against_layer_norm", "norm", 0, AGREES),
        ("rms_against_layer_norm", "norm", 0.2, DISAGREES),
        ("no_residual", "merge", 0.5, AGREES),
        ("post_norm_needs_warmup", "warmup", 0.5, AGREES),
        ("post_norm_needs_warmup", "warmup", 0, DISAGREES),
        ("pre_norm_needs_no_warmup", "warmup", -0.2, AGREES),
        ("pre_norm_needs_no_warmup", "warmup", 0.5, DISAGREES),
        ("no_residual", "merge", 0.05, DISAGREES),
    ],
)
def test_verdicts_follow_the_losses(name, changed, by, verdict):
    trainer = Trained(lambda changes: 2 + by * (changed in changes))
    measured = CLAIMS[name].measure(trainer)
    assert measured.verdict == verdict
    assert f"{by:+.2f}" in measured.summary or not by


@pytest.mark.parametrize(("by", "verdict"), [(0.5, AGREES), (0, DISAGREES)])
def test_a_short_warmup_is_judged_by_the_loss_at_two_rates(by, verdict):
    trainer = Trained(lambda changes: 2 + by * (changes["rate"] == warmup.HIGH))
    assert warmup.post_norm_short_warmup(trainer).verdict == verdict


@pytest.mark.parametrize(("fastest", "verdict"), [("pre", AGREES), ("sandwich", DISAGREES)])
def test_the_placement_whose_variance_grows_fastest_is_found(fastest, verdict):
    trainer = Trained(lambda _: 2.0, lambda changes: 1 + (changes["norm_placement"] == fastest))
    assert training.variance_growth(trainer).verdict == verdict


@pytest.mark.parametrize(("steeper", "verdict"), [(False, AGREES), (True, DISAGREES)])
def test_sensitivity_is_the_mean_loss_above_the_lowest(steeper, verdict):
    def loss(changes):
        return 2 + np.log(changes["rate"] / 1e-3) ** 2 * (2 if changes["qk_norm"] is steeper else 1)

    measured = training.qk_norm_sensitivity(Trained(loss))
    assert measured.verdict == verdict


def test_runs_on_file_are_not_trained_again(tmp_path, monkeypatch):
    trained = []

    class Recorder:
        def __init__(self, task, spec, recipe):
            self.setting = spec.norm, recipe.learning_rate, recipe.warmup_steps

        def train(self, seed):
            trained.append((*self.setting, seed))
            return Run(2.5 + seed, (5, 10), (3.0, 2.5), (1.0, 2.0))

    monkeypatch.setattr(Trainer, "_new_model", lambda self, *setting: Recorder(*setting))
    first = Trainer(30, 3, tmp_path).runs(norm="rms", rate=0.01)
    lines = []
    again = Trainer(30, 3, tmp_path, lines.append)
    assert again.runs(norm="rms", rate=0.01) == first
    assert trained == [("rms", 0.01, 10, seed) for seed in range(3)]
    again.runs(warmup=again.warmup(0.2), rate=0.01)
    assert trained[3:] == [("layer", 0.01, 2, seed) for seed in range(3)]
    assert lines[0] == "language model, rate 0.01, warm-up 2, seed 0: loss 2.5000"


@pytest.mark.parametrize("runs", ["[]", '{"a": {"loss": 1}}', '{"a": 2}'])
def test_damaged_runs_are_an_error(tmp_path, runs):
    (tmp_path / "runs.json").write_text(f'{{"format": 1, "runs": {runs}}}')
    with pytest.raises(ValueError, match=r"runs.json is damaged; delete it"):
        Trainer(30, 3, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("task", [LANGUAGE_MODEL, TRANSLATION])
def test_runs_learn_and_depend_on_nothing_before_them(task):
    task = replace(task, spec=task.spec.replace(num_layers=1, hidden_dim=16))
    trainer = Trainer(20, 2)
    first, second = trainer.runs(task)
    assert first.loss < np.log(task.spec.vocabulary_size) - 0.5
    assert first.losses[-1] < first.losses[0]
    assert first.steps == tuple(range(2, 21, 2))
    assert first.variances[1] != first.variances[0]
    assert second != first
    recipe = Recipe(
        steps=20, batch_size=task.batch_size, learning_rate=1e-3, warmup_steps=5, report_every=10
    )
    model = RetrainedModel(task, task.spec, recipe)
    runs = [model.train(seed) for seed in (1, 0, 1)]
    assert runs[0] == runs[2]


@pytest.mark.slow
def test_a_run_that_diverges_counts_as_equal_probabilities():
    small = {"num_layers": 1, "hidden_dim": 16}
    (run,) = Trainer(20, 1).runs(rate=1e30, warmup=0, **small)
    assert run.loss == pytest.approx(np.log(256))


# Results ----------------------------------------------------------------------------------------


@pytest.fixture
def two_claims(monkeypatch):
    """Replace all claims by two, and return the names of those that are measured."""
    measured = []

    def first(scale: int = 3) -> Measured:
        measured.append("first")
        curves = {"pre": [[1, 2], [1.0, 2.0]], "band, lower": [[1, 2], [0.5, 1]]}
        return Measured(AGREES, "x is <3>", {"x": 3}, Figure("l", "x", curves, "y"))

    def second(trainer: Trainer) -> Measured:
        measured.append("second")
        if "stop" in measured:
            raise KeyboardInterrupt
        return Measured(DISAGREES, "y is 2", {}, Figure("l", "y", {"y": [[1], [2]]}))

    text = ("a & b", "a paper", "1 | 2", "as there")
    known = {f.__name__: Claim(f.__name__, *text, f, f is second) for f in (first, second)}
    monkeypatch.setattr(claims, "CLAIMS", known)
    monkeypatch.setattr(running, "figure_svg", lambda name, figure: f"<svg>{name}</svg>")
    return measured


def test_results_are_written_and_not_measured_again(two_claims, tmp_path, capsys):
    found = fm.run_claims(folder=tmp_path, train=True)
    assert [result["verdict"] for result in found] == [AGREES, DISAGREES]
    assert "agrees: 1, disagrees: 1" in capsys.readouterr().out
    saved = json.loads((tmp_path / "claims.json").read_text())["claims"]
    assert saved["first"]["numbers"] == {"x": 3}
    assert saved["second"]["settings"]["steps"] == running.STEPS
    again = fm.run_claims(folder=tmp_path, train=True, progress=False)
    assert again == found
    assert two_claims == ["first", "second"]
    assert "first" in repr(found)


def test_after_an_interruption_the_finished_claims_are_kept(two_claims, tmp_path):
    two_claims.append("stop")
    with pytest.raises(KeyboardInterrupt):
        fm.run_claims(folder=tmp_path, train=True, progress=False)
    assert "<code>first</code>" in (tmp_path / "claims.html").read_text()
    two_claims.clear()
    fm.run_claims(folder=tmp_path, train=True, progress=False)
    assert two_claims == ["second"]


def test_the_page_is_offline_and_lists_what_is_not_checked(two_claims, tmp_path):
    fm.run_claims(folder=tmp_path, train=True, progress=False)
    page = (tmp_path / "claims.html").read_text()
    assert not re.findall(r"<(?:script|link|img)|(?:src|href)=\"(?!#)", page)
    for text in ("a &amp; b", "x is &lt;3&gt;", "a paper", "1 | 2", "agrees", "disagrees"):
        assert text in page
    assert page.count("<svg") == 2
    table = (tmp_path / "claims.md").read_text()
    for missing in NOT_CHECKED:
        assert missing.reason in page
        assert missing.reason in table
    assert "1 \\| 2" in table


def test_a_figure_is_one_element_and_equal_for_equal_numbers():
    curves = {
        "a": [[1, 2], [3, 4]],
        "band, lower": [[1, 2], [1, 1]],
        "band, upper": [[1, 2], [9, 9]],
    }
    figure = {"curves": curves, "log": "xy", "across": "blocks", "upwards": "y"}
    svg = figure_svg("some", figure)
    assert svg == figure_svg("some", figure)
    root = ElementTree.fromstring(svg)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert words.count("band") == words.count("a") == words.count("blocks") == 1


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("model.json", "{}", "holds a model"),
        ("claims.html", "mine", "'claims.html', which does not come from this"),
        ("claims.json", "{", "is damaged"),
        ("claims.json", '{"format": 1, "claims": {"first": {}}}', "is damaged"),
        ("claims.json", '{"format": 2}', "has format 2"),
    ],
)
def test_a_folder_with_something_else_is_refused(two_claims, tmp_path, name, content, error):
    (tmp_path / name).write_text(content)
    with pytest.raises((ValueError, FileExistsError), match=error):
        fm.run_claims(folder=tmp_path, progress=False)
    assert (tmp_path / name).read_text() == content
    assert not two_claims
    if name != "model.json":
        fm.run_claims(folder=tmp_path, overwrite=True, progress=False)


def test_claims_with_other_settings_are_replaced_on_request_only(two_claims, tmp_path):
    fm.run_claims("second", folder=tmp_path, steps=50, progress=False)
    with pytest.raises(FileExistsError, match="'second', measured with other settings"):
        fm.run_claims("second", folder=tmp_path, steps=60, progress=False)
    fm.run_claims(folder=tmp_path, steps=60, progress=False)  # trains none
    (found,) = fm.run_claims("second", folder=tmp_path, steps=60, overwrite=True, progress=False)
    assert found["settings"]["steps"] == 60


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ({"names": ["frist"]}, r"unknown claim 'frist' \(did you mean 'first'\?\)"),
        ({"names": ["first", "first"]}, "given twice"),
        ({"seeds": 2}, "seeds=2: must be an integer, 3 or more"),
        ({"steps": 5}, "steps=5: must be an integer, 10 or more"),
    ],
)
def test_bad_arguments_are_errors(two_claims, tmp_path, given, error):
    with pytest.raises(ValueError, match=error):
        fm.run_claims(folder=tmp_path / "new", **given)
    assert not (tmp_path / "new").exists()


def test_the_command_measures_claims_by_name(two_claims, tmp_path, capsys):
    assert main(["claims", "--only", "first", "--to", str(tmp_path)]) == 0
    assert "[1/1] first: a & b\n      agrees: x is <3>" in capsys.readouterr().out
    assert main(["claims", "--only", "frist"]) == 2
    assert "unknown claim 'frist'" in capsys.readouterr().err
    two_claims.append("stop")
    assert main(["claims", "--train", "--to", str(tmp_path / "all")]) == 130
    assert "what is finished is in" in capsys.readouterr().err
