"""Comparisons: equal budgets, machine-readable results, and no repeated training."""

import json
import re
import sys

import keras
import pytest
from functional_models.comparison import _overall_speed, compare, results_table
from small_text_models import SIZES, corpus, parallel_corpus, text_model

import builders
import functional_models as fm
from functional_models import comparison
from functional_models.corpora import ParallelCorpus, kind_of_data
from functional_models.folders import only_writer
from functional_models.model_folder import read_spec
from functional_models.recipe import Recipe
from functional_models.text_model import TextModel

PRE = builders.TransformerSpec(kind="encoder_decoder", **{**SIZES, "hidden_dim": 6})
SPECS = {"pre": PRE, "post": PRE.replace(norm_placement="post")}
RECIPE = Recipe(steps=2, report_every=2, batch_size=5)


def run(folder, specs=SPECS, recipe=RECIPE, **options):
    return compare(
        specs,
        parallel_corpus(),
        budget=recipe,
        folder=folder,
        tokenizer="byte",
        progress=False,
        **options,
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


@pytest.mark.slow  # three comparisons, each of which trains
def test_a_comparison_writes_all_files_and_retrains_only_changed_variants(
    tmp_path, fitted, monkeypatch
):
    results = run(tmp_path)
    assert fitted == ["pre", "post"]
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert [result["variant"] for result in results] == ["pre", "post"]
    for name, result in zip(SPECS, results, strict=True):
        types = {key: type(value) for key, value in result.items()}
        assert types.pop("steps_to_90") in (int, type(None))
        assert types == {
            "variant": str,
            "parameters": int,
            "loss": float,
            "token_accuracy": float,
            "exact_match": float,
            "tokens_per_second": float,
        }
        found = fm.load(tmp_path / name)
        assert result["parameters"] == found.model.count_params()
        measured = found.evaluate(parallel_corpus().test, batch_size=5)
        assert measured["loss"] == pytest.approx(result["loss"], rel=1e-6)
    best = min(results, key=lambda result: (-result["exact_match"], result["loss"]))
    assert fm.load(tmp_path / "best").spec == fm.load(tmp_path / best["variant"]).spec
    for name in ("results.md", "samples.md", "loss_curves.png", "variants.png"):
        assert (tmp_path / name).stat().st_size > 0
    for name in SPECS:
        assert (tmp_path / name / "skip_paths.svg").exists()
        assert json.loads((tmp_path / name / "history.json").read_text())[-1]["step"] == 2

    monkeypatch.setattr(comparison, "_write", lambda *given: None)  # figures are slow
    fitted.clear()
    assert run(tmp_path) == results
    assert fitted == []

    changed = {**SPECS, "post": SPECS["post"].replace(activation="relu")}
    with pytest.raises(FileExistsError, match="comparison of 'post' with other settings"):
        run(tmp_path, changed)
    assert fitted == []
    again = run(tmp_path, changed, overwrite=True)
    assert fitted == ["post"]
    assert again[0] == results[0]
    assert again[1]["loss"] != results[1]["loss"]


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
    assert (tmp_path / "pre" / "checkpoint.npz").exists()
    monkeypatch.setattr(fm.Translator, "evaluate", evaluate)
    # All four steps are in the checkpoint, so that `fit` must not be called again.
    monkeypatch.setattr("keras.Model.fit", stop)
    (result,) = run(tmp_path, specs, recipe)
    assert result["variant"] == "pre"


@pytest.mark.parametrize(
    ("specs", "options", "message"),
    [
        ([], {}, "nothing to compare"),
        ({"best": PRE}, {}, "'best' cannot be the name"),
        ({"../pre": PRE}, {}, "cannot be the name"),
        ([PRE, PRE.replace(num_layers=2)], {}, "two specs have the name pre_norm_learned"),
        (["pre_norm_learnt"], {}, "did you mean 'pre_norm_learned'"),
        ({"lm": PRE.replace(kind="decoder_only")}, {}, "lm is of kind='decoder_only'"),
        (SPECS, {"changes": {"width": 3}}, "unknown spec field 'width'"),
        (SPECS, {"recipe": 0}, "steps=0: must be 1 or more"),
        (SPECS, {"recipe": True}, "steps=True: must be of type int"),
    ],
)
def test_bad_arguments_raise_before_training(tmp_path, fitted, specs, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        run(tmp_path, specs, **options)
    assert fitted == []


@pytest.mark.parametrize("name", ["model.json", "checkpoint.npz"])
@pytest.mark.parametrize("place", ["pre", "best"])
def test_models_of_other_origin_are_not_overwritten(tmp_path, fitted, place, name):
    (tmp_path / place).mkdir()
    (tmp_path / place / name).write_text("mine")
    with pytest.raises(FileExistsError, match=rf"has '{place}', which does not come from this com"):
        run(tmp_path)
    assert fitted == []
    assert [path.name for path in tmp_path.iterdir()] == [place]
    assert (tmp_path / place / name).read_text() == "mine"


@pytest.fixture
def quick(monkeypatch):
    """Replace training and evaluation, which these tests do not need."""
    row = {"step": 2, "loss": 2.5, "val_exact_match": 0.5, "tokens_per_second": 7.0}
    measured = {"loss": 2.5, "token_accuracy": 0.25, "exact_match": 0.5}

    def fit(self, data, folder, **options):
        folder.mkdir(exist_ok=True)
        return [row]

    monkeypatch.setattr(fm.Translator, "fit", fit)
    monkeypatch.setattr(fm.Translator, "evaluate", lambda *given, **options: measured)


@pytest.mark.parametrize("failing", ["draw", "import", "generate"])
def test_no_picture_and_no_sample_costs_results(tmp_path, quick, monkeypatch, capsys, failing):
    def fail(*given, **options):
        raise RuntimeError("Format: 'svg' not recognized.\nUse one of: dot")

    names = ["loss_curves", "plot_model", "plot_side_by_side"]
    if failing == "import":
        monkeypatch.setitem(sys.modules, "plots", None)
    for name in names if failing == "draw" else ():
        monkeypatch.setattr(f"plots.{name}", fail)
    translate = fail if failing == "generate" else lambda self, sources: [""] * len(sources)
    monkeypatch.setattr(fm.Translator, "translate", translate)
    specs = {"pre": PRE}
    results = compare(specs, parallel_corpus(), budget=RECIPE, folder=tmp_path, tokenizer="byte")
    printed = capsys.readouterr()
    assert "exact match" in printed.out
    assert "the best variant is pre" in printed.out
    lost = ["samples.md"] if failing == "generate" else ["loss_curves.png", "variants.png"]
    for name in lost:
        assert f"{name} was not written: " in printed.err
        assert not (tmp_path / name).exists()
    assert len(printed.err.splitlines()) == len(lost) + (failing != "generate")
    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert (tmp_path / "results.md").exists()
    assert read_spec(tmp_path / "best").norm_placement == "pre"


def test_another_comparison_is_replaced_only_with_permission(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(comparison, "_try", lambda *given: None)
    monkeypatch.setattr(fm.Translator, "save", lambda *given, **options: None)
    monkeypatch.setattr(comparison, "load", lambda folder: text_model("encoder_decoder"))
    first = run(tmp_path)
    before = (tmp_path / "results.json").read_bytes()
    third = {**SPECS, "third": PRE.replace(activation="relu")}
    for specs, options, message in (
        ({**SPECS, "post": PRE}, {}, "a comparison of 'post' with other settings or data"),
        (SPECS, {"recipe": Recipe(steps=3, batch_size=5)}, "of 'pre' with other settings"),
        ({"pre": PRE}, {}, "holds a comparison with 'post' too; also give post, or choose anot"),
    ):
        with pytest.raises(FileExistsError, match=message + r".*overwrite=True"):
            run(tmp_path, specs, **options)
    assert (tmp_path / "results.json").read_bytes() == before
    assert run(tmp_path) == first
    assert len(run(tmp_path, third)) == 3  # a further variant
    assert len(run(tmp_path, {"pre": PRE}, overwrite=True)) == 1
    (tmp_path / "post").rename(tmp_path / "fourth")
    with pytest.raises(FileExistsError, match="has 'fourth', which does not come from this compar"):
        run(tmp_path, {"pre": PRE, "fourth": PRE})


@pytest.mark.parametrize("name", ["results.json", "results.md", "variants.png", "model.json"])
def test_files_of_other_origin_are_not_replaced(tmp_path, fitted, name):
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match=re.escape(name)):
        run(tmp_path)
    assert fitted == []
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {name: "mine"}


def test_two_comparisons_do_not_write_one_folder(tmp_path, fitted):
    with only_writer(tmp_path), pytest.raises(BlockingIOError, match="is being written by process"):
        run(tmp_path)
    assert fitted == []


def test_the_precision_is_one_of_the_settings(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(comparison, "_try", lambda *given: None)
    run(tmp_path, {"pre": PRE})
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        with pytest.raises(FileExistsError, match="with other settings"):
            run(tmp_path, {"pre": PRE})
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_corpus_without_held_out_text_raises(tmp_path):
    data = ParallelCorpus("all", parallel_corpus().train, (), ())
    with pytest.raises(ValueError, match="all has no held-out text to evaluate on"):
        compare(SPECS, data, folder=tmp_path, progress=False)


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, '{"run": 1, "result": null}', "[]"])
def test_a_damaged_result_raises(tmp_path, damage):
    (tmp_path / "pre").mkdir()
    (tmp_path / "pre" / "result.json").write_text(damage)
    with pytest.raises(ValueError, match=r"result\.json is damaged; delete it"):
        run(tmp_path, overwrite=True)


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


def test_the_speed_of_a_run_is_total_tokens_per_total_time():
    # 60 tokens at 10 a second and 60 at 30 are 120 in 8 seconds.
    rows = [{"tokens_per_second": speed} for speed in (10.0, 30.0)]
    assert _overall_speed(rows) == pytest.approx(15.0)
    assert _overall_speed([{"tokens_per_second": 0.0}, *rows]) == pytest.approx(15.0)
    assert _overall_speed([{"tokens_per_second": 0.0}]) == 0.0


def test_tables_are_aligned_and_show_goals_that_were_not_reached():
    common = {"parameters": 1234, "loss": 0.5, "token_accuracy": 0.25, "tokens_per_second": 1e4}
    results = [
        {"variant": "a", **common, "exact_match": 0.5, "steps_to_90": None},
        {"variant": "longer", **common, "exact_match": 1.0, "steps_to_90": 1200},
    ]
    lines = results_table(results).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "not reached" in lines[1]
    assert "1,200" in lines[2]
    markdown = results_table(results, markdown=True).splitlines()
    assert {line.count("|") for line in markdown} == {8}


@pytest.mark.slow
def test_language_models_are_compared(tmp_path):
    spec = builders.TransformerSpec(kind="decoder_only", **{**SIZES, "max_sequence_length": 17})
    results = compare(
        {"lm": spec},
        corpus("decoder_only"),
        budget=RECIPE,
        folder=tmp_path,
        tokenizer="byte",
        progress=False,
    )
    assert results[0]["perplexity"] > 1
    assert (tmp_path / "samples.md").read_text().startswith("**")
