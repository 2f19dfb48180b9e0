"""Comparisons: equal budgets, machine-readable results, and no repeated training."""

import dataclasses
import json
import re
import sys

import keras
import pytest
from pyarrow import parquet
from small_text_models import SIZES, corpus, parallel_corpus

import builders
import functional_models as fm
from functional_models.corpora import ParallelCorpus, kind_of_data
from functional_models.recipe import Recipe
from functional_models.studies import compare as comparison
from functional_models.studies import folder as study_folder
from functional_models.studies import samples
from functional_models.studies.compare import compare
from functional_models.studies.results import Study
from functional_models.studies.runs import Outcome, make_runs
from functional_models.studies.settings import make_settings
from functional_models.text_model import TextModel

PRE = builders.TransformerSpec(kind="encoder_decoder", **{**SIZES, "hidden_dim": 6})
SPECS = {"pre": PRE, "post": PRE.replace(norm_placement="post")}
RECIPE = Recipe(steps=2, report_every=2, batch_size=5)


def run(folder, specs=SPECS, recipe=RECIPE, data=None, **options):
    return compare(
        specs,
        data or parallel_corpus(),
        recipe=recipe,
        folder=folder,
        tokenizer="byte",
        **{"progress": False, **options},
    )


@pytest.fixture
def fitted(monkeypatch):
    """Record the norm placement of every model that is trained."""
    names = []
    train = TextModel._train

    def record(self, *given, **options):
        names.append(self.spec.norm_placement)
        return train(self, *given, **options)

    monkeypatch.setattr(TextModel, "_train", record)
    return names


def run_folders(folder):
    """The folders of the runs of a comparison, by setting."""
    return {path.name.partition("-")[0]: path for path in (folder / "runs").iterdir()}


@pytest.mark.slow  # three comparisons, each of which trains
def test_a_comparison_writes_all_files_and_trains_only_added_variants(
    tmp_path, fitted, monkeypatch
):
    study = run(tmp_path)
    assert fitted == ["pre", "post"]
    saved = json.loads((tmp_path / "results.json").read_text())
    assert saved["results"] == study.results
    assert saved["verdict"] == list(study.verdict)
    assert [result["setting"] for result in study.results] == ["pre", "post"]
    for name, result in zip(SPECS, study.results, strict=True):
        found = fm.load(run_folders(tmp_path)[name])
        assert result["parameters"] == found.model.count_params()
        measured = found.evaluate(parallel_corpus().test, batch_size=5)
        assert measured["loss"] == pytest.approx(result["loss"], rel=1e-6)
    best = min(study.runs, key=lambda run: study.outcomes[run.key].result["validation_loss"])
    assert study.best == best
    assert fm.load(tmp_path / "best").spec == best.spec
    for name in ("results.md", "samples.md", "loss_curves.png", "variants.png"):
        assert (tmp_path / name).stat().st_size > 0
    for name in SPECS:
        assert (tmp_path / "diagrams" / f"{name}.svg").exists()
    table = parquet.read_table(tmp_path / "reports.parquet").to_pylist()
    assert [row["spec.norm_placement"] for row in table] == ["pre", "post"]
    assert [row["step"] for row in table] == [2, 2]
    assert table[0]["result.loss"] == study.results[0]["loss"]

    monkeypatch.setattr(comparison, "_write", lambda *given: None)  # figures are slow
    fitted.clear()
    assert run(tmp_path).results == study.results
    assert fm.load_study(tmp_path).results == study.results
    assert fitted == []

    relu = SPECS["post"].replace(activation="relu")
    with pytest.raises(FileExistsError, match="post has activation='gelu' there and 'relu' here"):
        run(tmp_path, {**SPECS, "post": relu})
    assert json.loads((tmp_path / "results.json").read_text())["results"] == study.results
    more = run(tmp_path, {**SPECS, "relu": relu})
    assert fitted == ["post"]
    assert more.results[:2] == study.results
    assert more.results[2]["loss"] != study.results[1]["loss"]


@pytest.mark.slow
def test_an_interrupted_comparison_resumes(tmp_path, monkeypatch):
    specs = {"pre": PRE}
    recipe = Recipe(steps=4, report_every=2, batch_size=5)
    evaluate = fm.Translator.evaluate
    monkeypatch.setattr(comparison, "_write", lambda *given: None)

    def stop(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(fm.Translator, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, specs, recipe)
    assert (run_folders(tmp_path)["pre"] / "checkpoint.npz").exists()
    monkeypatch.setattr(fm.Translator, "evaluate", evaluate)
    # All four steps are in the checkpoint, so that `fit` must not be called again.
    monkeypatch.setattr("keras.Model.fit", stop)
    (result,) = run(tmp_path, specs, recipe).results
    assert result["setting"] == "pre"


@pytest.mark.slow  # processes that import TensorFlow
def test_processes_give_the_results_of_one_process(tmp_path):
    here = run(tmp_path / "here", seeds=2)
    apart = run(tmp_path / "apart", seeds=2, workers=2)
    for setting in SPECS:
        assert apart.values(setting, "loss") == here.values(setting, "loss")
    assert apart.verdict == here.verdict


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        ([], {}, "nothing to compare"),
        ([PRE, PRE.replace(num_layers=2)], {}, "two specs have the name pre_norm_learned"),
        (["pre_norm_learnt"], {}, "did you mean 'pre_norm_learned'"),
        ({"lm": PRE.replace(kind="decoder_only")}, {}, "lm is of kind='decoder_only'"),
        (SPECS, {"changes": {"width": 3}}, "unknown spec field 'width'"),
        (SPECS, {"budget": 0}, "must be a number above 0"),
        (SPECS, {"seeds": 0}, "seeds=0: must be an integer, 1 or more"),
        (SPECS, {"seeds": [3, 3]}, "each once"),
        (SPECS, {"seeds": [-1]}, "seed=-1: must be"),
        (SPECS, {"baseline": "prae"}, "unknown baseline 'prae' (did you mean 'pre'?)"),
        (SPECS, {"grid": {"num_layer": [1]}}, "did you mean 'num_layers'"),
        (SPECS, {"match": "size"}, "unknown match 'size'"),
        (SPECS, {"workers": 0}, "workers=0: must be"),
    ],
)
def test_bad_arguments_raise_before_training(tmp_path, fitted, specs, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path / "new", specs, **options)
    assert fitted == []
    assert not (tmp_path / "new").exists()


@pytest.fixture
def quick(monkeypatch, fresh):
    """Replace training and evaluation, which these tests do not need."""
    row = {"step": 2, "loss": 2.5, "val_exact_match": 0.5, "tokens_per_second": 7.0}
    row["seconds"] = 3.0
    measured = {"loss": 2.5, "token_accuracy": 0.25, "exact_match": 0.5}

    def fit(self, data, folder, **options):
        folder.mkdir(exist_ok=True)
        return [row]

    monkeypatch.setattr(fm.Translator, "fit", fit)
    monkeypatch.setattr(fm.Translator, "evaluate", lambda *given, **options: measured)
    for module in (comparison, samples):
        monkeypatch.setattr(module, "load", lambda folder: fresh["encoder_decoder"])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("failing", ["draw", "import", "generate"])
def test_no_picture_and_no_sample_costs_results(tmp_path, quick, monkeypatch, capsys, failing):
    def fail(*given, **options):
        raise RuntimeError("Format: 'svg' not recognized.\nUse one of: dot")

    names = ["loss_curves", "draw", "plot_side_by_side"]
    if failing == "import":
        monkeypatch.setitem(sys.modules, "plots", None)
    for name in names if failing == "draw" else ():
        monkeypatch.setattr(f"plots.{name}", fail)
    translate = fail if failing == "generate" else lambda self, sources: [""] * len(sources)
    monkeypatch.setattr(fm.Translator, "translate", translate)
    study = run(tmp_path, {"pre": PRE}, progress=True)
    printed = capsys.readouterr()
    assert "exact match" in printed.out
    assert "the run with the lowest validation loss is pre, seed 0" in printed.out
    lost = {
        "draw": ["diagrams/pre.svg", "variants.png", "loss_curves.png", "figures"],
        "import": ["diagrams", "the blocks", "loss_curves.png", "report.html"],
        "generate": ["samples.md"],
    }[failing]
    assert [line.partition(" was not written: ")[0] for line in printed.err.splitlines()] == lost
    assert json.loads((tmp_path / "results.json").read_text())["results"] == study.results
    assert (tmp_path / "results.md").exists()
    assert (tmp_path / "best" / "model.json").exists()


def test_a_study_of_other_data_is_replaced_only_with_permission(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(comparison, "_write", lambda *given: None)
    run(tmp_path)
    before = (tmp_path / "comparison.json").read_bytes()
    data = ParallelCorpus("others", parallel_corpus().train[1:], (), parallel_corpus().test)
    with pytest.raises(FileExistsError, match=r"comparison on other data.*overwrite=True"):
        run(tmp_path, data=data)
    assert (tmp_path / "comparison.json").read_bytes() == before
    run(tmp_path, {"pre": PRE}, data=data, overwrite=True)
    assert len(run_folders(tmp_path)) == 1


@pytest.mark.slow
def test_settings_and_seeds_may_be_added(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(comparison, "_write", lambda *given: None)
    run(tmp_path)
    more = {**SPECS, "third": PRE.replace(activation="relu")}
    study = run(tmp_path, more, seeds=2)
    assert len(study.outcomes) == len([*(tmp_path / "runs").iterdir()]) == 6


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("specs", "options", "difference"),
    [
        ({"pre": PRE}, {}, "it has post, which is not in this one"),
        ({**SPECS, "pre": PRE.replace(num_layers=3)}, {}, "pre has num_layers=1 there and 3 here"),
        (SPECS, {"recipe": dataclasses.replace(RECIPE, steps=3)}, "steps=2 there and 3 here"),
        (SPECS, {"budget": "3 seconds"}, "pre has steps=2 there and a time limit here"),
        (SPECS, {"learning_rates": [0.1, 0.2]}, "it has pre, post, which are not in this one"),
        (SPECS, {"seeds": [0, 2]}, "it has seed 1, which is not in this one"),
    ],
)
def test_a_comparison_without_runs_of_the_one_before_needs_permission(
    tmp_path, quick, monkeypatch, specs, options, difference
):
    monkeypatch.setattr(comparison, "_write", lambda *given: None)
    run(tmp_path, seeds=2)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("functional_models.studies.planning.measure_speed", None)  # trains
    given = {"seeds": 2, **options}
    with pytest.raises(FileExistsError, match=re.escape(difference) + r".*overwrite=True"):
        run(tmp_path, specs, **given)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


def test_a_comparison_of_which_no_run_has_begun_is_replaced(tmp_path, monkeypatch):
    def stop(*given, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(comparison, "write_diagrams", lambda *given: None)
    monkeypatch.setattr(comparison, "perform_runs", stop)
    for specs in (SPECS, {"pre": PRE}):
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path, specs)
    assert [setting.name for setting in fm.load_study(tmp_path).settings] == ["pre"]


@pytest.mark.parametrize("name", ["results.json", "runs", "best", "model.json"])
def test_files_of_other_origin_are_not_replaced(tmp_path, fitted, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(name)):
        run(tmp_path)
    assert fitted == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": 2}', '{"format": 99}'])
def test_a_damaged_description_raises(tmp_path, damage):
    (tmp_path / "comparison.json").write_text(damage)
    for read in (run, fm.load_study):
        with pytest.raises(ValueError, match=r"comparison\.json"):
            read(tmp_path)


def test_a_folder_without_a_study_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no comparison\.json"):
        fm.load_study(tmp_path)


@pytest.mark.slow
def test_the_precision_is_part_of_a_run(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(comparison, "_write", lambda *given: None)
    run(tmp_path, {"pre": PRE})
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with pytest.raises(FileExistsError, match="precision is float32, and that of this one mix"):
            run(tmp_path, {"pre": PRE})
        run(tmp_path, {"pre": PRE}, overwrite=True)
    finally:
        keras.config.set_dtype_policy("float32")
    (folder,) = (tmp_path / "runs").iterdir()
    assert {run.folder for run in fm.load_study(tmp_path).runs} == {folder.name}


def test_a_corpus_without_held_out_text_raises(tmp_path):
    data = ParallelCorpus("all", parallel_corpus().train, (), ())
    with pytest.raises(ValueError, match="all has no held-out text to evaluate on"):
        run(tmp_path, data=data)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("embedded", None),
        ("tfds:x", None),
        ("a.txt", "decoder_only"),
        ("a.tsv", "encoder_decoder"),
        ("a.tsv.gz", "encoder_decoder"),
        (("a.pt", "a.en"), "encoder_decoder"),
    ],
)
def test_file_names_determine_the_kind_of_model(data, kind):
    assert kind_of_data(data) == kind


def study_of(losses, specs=SPECS, **options):
    """A study with the given losses, by setting and seed; NaN for a run that diverged."""
    settings = make_settings(specs, RECIPE, **options)
    seeds = sorted({seed for by_seed in losses.values() for seed in by_seed})
    runs = make_runs(settings, seeds, "data", "float32")
    outcomes = {}
    for one in runs:
        loss = losses.get(one.setting, {}).get(one.seed)
        if loss is None:
            continue
        result = {"loss": loss, "parameters": 7, "validation_loss": loss, "tokens_per_second": 3.0}
        rows = [{"step": 2, "loss": loss}]
        finished = Outcome("finished", result, rows, 2)
        outcomes[one.key] = finished if loss == loss else Outcome("diverged", step=5)
    return Study(None, tuple(settings), tuple(runs), outcomes, settings[0].group)


def test_one_seed_shows_no_difference():
    study = study_of({"pre": {0: 1.25}, "post": {0: 0.5}})
    assert study.verdict == (
        "One seed for each setting cannot show a difference; train 3 or more (seeds=3).",
    )
    assert "±" not in study.table()
    assert "baseline" not in study.table()


def test_a_difference_is_claimed_only_if_it_clears_the_noise():
    base = {0: 1.0, 1: 1.2, 2: 0.9}
    clear = study_of({"pre": base, "post": {0: 0.5, 1: 0.71, 2: 0.39}})
    assert clear.verdict[0].startswith("Noise floor: the losses of two seeds of pre differ by up")
    assert clear.verdict[1].startswith("post has a lower loss than pre (-0.5000 nats, 95% inter")
    assert clear.table().splitlines()[2].endswith("*")
    noisy = study_of({"pre": base, "post": {0: 0.5, 1: 1.4, 2: 0.8}})
    assert noisy.verdict[1].startswith("post and pre: no difference that these runs can show (")
    assert not noisy.table().splitlines()[2].endswith("*")
    assert "Holm" in noisy.verdict[-1]


def test_runs_that_diverged_are_said_and_not_averaged():
    losses = {"pre": {0: 1.0, 1: 1.1}, "post": {0: 2.0, 1: float("nan")}}
    study = study_of(losses)
    assert study.verdict[0] == "post diverged in 1 of 2 runs (seed 1 at step 5)."
    assert study.results[1]["loss"] == 2.0
    assert "share fewer than two finished seeds" in study.verdict[2]
    without = study_of({"pre": {0: float("nan")}, "post": {0: 1.0}})
    assert without.verdict[1] == "pre, the baseline, has no finished run to compare with."


def test_settings_are_compared_at_their_best_rates():
    losses = {
        "pre, learning_rate=0.001": {0: 1.5, 1: 1.6},
        "pre, learning_rate=0.01": {0: 1.0, 1: 1.2},
        "post, learning_rate=0.001": {0: 1.7, 1: 1.8},
        "post, learning_rate=0.01": {0: 0.2, 1: float("nan")},
    }
    study = study_of(losses, learning_rates=[0.001, 0.01])
    assert [s.recipe.learning_rate for s in study.compared] == [0.01, 0.001]
    assert study.reference.name == "pre, learning_rate=0.01"
    # Means above the best; a rate at which runs diverge counts as an untrained model.
    assert study.sensitivity("pre", 5.0) == pytest.approx((1.55 + 1.1) / 2 - 1.1)
    assert study.sensitivity("post", 5.0) == pytest.approx((1.75 + 5.0) / 2 - 1.75)
    assert any("the end of the grid" in sentence for sentence in study.verdict)


def test_nothing_is_said_of_learning_rates_whose_runs_have_not_ended():
    rates = ("pre, learning_rate=0.001", "pre, learning_rate=0.01")
    others = ("post, learning_rate=0.001", "post, learning_rate=0.01")
    study = study_of({key: {0: 1.5} for key in (*rates, *others)}, learning_rates=[0.001, 0.01])
    ended = {run.key: study.outcomes[run.key] for run in study.runs if run.setting == rates[1]}
    partial = dataclasses.replace(study, outcomes=ended)
    assert partial.sensitivity("pre", 5.0) is None
    said = [sentence for sentence in partial.verdict if sentence.startswith(("pre:", "post:"))]
    (about,) = said  # nothing of post, of which nothing was trained
    assert about.startswith("pre: the best so far by validation loss is 0.01, the end of the grid")
    assert about.endswith("; 1 run of its learning rates left to train.")
    diverged = study_of({key: {0: float("nan")} for key in rates}, learning_rates=[0.001, 0.01])
    assert "pre: all 2 learning rates have runs without a result." in diverged.verdict


def test_tables_are_aligned_and_show_goals_that_were_not_reached():
    study = study_of({"pre": {0: 0.5}, "post": {0: 1.0}})
    for one, steps in zip(study.runs, (None, 1200), strict=True):
        study.outcomes[one.key].result["steps_to_90"] = steps
    lines = study.table().splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "not reached" in lines[1]
    assert "1,200" in lines[2]
    markdown = study.table(markdown=True).splitlines()
    assert {line.count("|") for line in markdown} == {6}


def test_reports_have_a_row_for_each_report_with_all_settings(tmp_path):
    study = study_of({"pre": {0: 1.0, 1: 2.0}, "post": {0: float("nan")}})
    study_folder.write_reports(study, tmp_path / "reports.parquet")
    table = parquet.read_table(tmp_path / "reports.parquet").to_pylist()
    assert [(row["setting"], row["recipe.seed"]) for row in table] == [
        ("pre", 0),
        ("post", 0),
        ("pre", 1),
    ]
    assert [row["status"] for row in table] == ["finished", "diverged", "finished"]
    assert {row["spec.hidden_dim"] for row in table} == {6}
    assert table[1]["loss"] is None


@pytest.mark.slow
def test_language_models_are_compared(tmp_path):
    spec = builders.TransformerSpec(kind="decoder_only", **{**SIZES, "max_sequence_length": 17})
    study = run(tmp_path, {"lm": spec}, data=corpus("decoder_only"))
    assert study.results[0]["perplexity"] > 1
    assert (tmp_path / "samples.md").read_text().startswith("| prompt")
