"""Settings of studies: grids, ablations, learning rates, equal sizes and equal budgets."""

import re

import pytest
from small_text_models import SIZES, byte_tokenizer, corpus

import builders
from functional_models.recipe import Recipe
from functional_models.studies.budgets import (
    Budget,
    flops_per_step,
    mean_lengths,
    parse_budget,
    with_budget,
)
from functional_models.studies.runs import StudyData, make_runs
from functional_models.studies.settings import Setting, make_settings, match_sizes

SPEC = builders.TransformerSpec(**SIZES)
SPECS = {"one": SPEC, "two": SPEC.replace(norm_placement="post")}
RECIPE = Recipe(steps=7, batch_size=5)


def test_a_grid_trains_every_combination_of_every_spec():
    grid = {"num_layers": [1, 3], "warmup_steps": [0, 5]}
    settings = make_settings(SPECS, RECIPE, grid=grid)
    assert [s.name for s in settings][:3] == [
        "one, num_layers=1, warmup_steps=0",
        "one, num_layers=1, warmup_steps=5",
        "one, num_layers=3, warmup_steps=0",
    ]
    assert len(settings) == 8
    last = settings[-1]
    assert last.spec == SPECS["two"].replace(num_layers=3)
    assert last.recipe == Recipe(steps=7, batch_size=5, warmup_steps=5)


def test_an_ablation_changes_one_field_at_a_time():
    ablate = ["scale_embeddings", "merge=none", "warmup_steps=0"]
    settings = make_settings({"one": SPEC}, RECIPE, ablate=ablate)
    assert [s.name for s in settings] == [
        "one",
        "one, scale_embeddings=True",
        "one, merge=none",
        "one, warmup_steps=0",
    ]
    assert [s.spec.merge for s in settings] == ["add", "add", "none", "add"]
    assert [s.recipe.warmup_steps for s in settings] == [None, None, None, 0]


def test_every_setting_is_trained_with_every_rate():
    settings = make_settings(SPECS, RECIPE, learning_rates=[1e-3, 3e-3])
    assert [s.of for s in settings] == ["one", "one", "two", "two"]
    assert settings[1].name == "one, learning_rate=0.003"
    assert settings[1].recipe.learning_rate == 3e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"grid": {"num_layer": [1]}}, "unknown field 'num_layer' (did you mean 'num_layers'?)"),
        ({"grid": {"num_layers": 3}}, "num_layers=3 must be a list"),
        ({"grid": {"num_layers": []}}, "num_layers=[] must be a list"),
        ({"grid": {"num_layers": [1, 1]}}, "two settings have the name 'one, num_layers=1'"),
        ({"grid": {"num_layers": [0]}}, "one, num_layers=0: num_layers=0"),
        ({"grid": {"seed": [0, 1]}}, "give seeds="),
        ({"grid": {"batch_size": [0]}}, "one, batch_size=0: batch_size=0: must be 1 or more"),
        ({"grid": {"num_heads": [2]}, "ablate": ["qk_norm"]}, "give grid or ablate, not both"),
        ({"ablate": ["hidden_dim"]}, "ablate: hidden_dim is 14, not True or False"),
        ({"ablate": ["qknorm"]}, "did you mean 'qk_norm'?"),
        ({"ablate": ["norm_placement=above"]}, "one, norm_placement=above: "),
        ({"learning_rates": [-1.0]}, "learning_rate=-1.0: must be above 0"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make_settings({"one": SPEC}, RECIPE, **options)


def test_settings_get_the_size_of_the_first():
    gated = SPEC.replace(feedforward="glu", activation="silu")
    settings = make_settings({"plain": SPEC, "gated": gated}, RECIPE)
    plain, matched = match_sizes(settings, "parameters", 19)
    assert plain == settings[0]
    # A gated layer has three kernels where a plain one has two.
    assert matched.spec.intermediate_dim == pytest.approx(23 * 2 / 3, abs=1)
    sizes = [builders.count_parameters(s.spec).total for s in (plain, matched)]
    width = builders.count_parameters(
        matched.spec.replace(intermediate_dim=matched.spec.intermediate_dim + 1)
    ).total
    assert abs(sizes[1] - sizes[0]) <= (width - sizes[1]) / 2
    assert matched.matched.startswith("intermediate_dim 23 -> ")
    by_flops = match_sizes(settings, "flops", 19)[1]
    flops = [builders.count_flops(s.spec, 19).total for s in (plain, by_flops)]
    assert flops[1] == pytest.approx(flops[0], rel=0.05)


def test_what_no_width_makes_as_large_is_refused():
    settings = make_settings({"small": SPEC, "large": SPEC.replace(num_layers=31)}, RECIPE)
    with pytest.raises(ValueError, match=r"large has more parameters than .* at any interm"):
        match_sizes(settings, "parameters", 19)
    with pytest.raises(ValueError, match="unknown match 'size'"):
        match_sizes(settings, "size", 19)


@pytest.mark.parametrize(
    ("given", "budget"),
    [
        (7, Budget(7, "steps")),
        ("7", Budget(7, "steps")),
        ("2e6 tokens", Budget(2_000_000, "tokens")),
        ("1e14 FLOPs", Budget(10**14, "flops")),
        ("0.5 seconds", Budget(0.5, "seconds")),
    ],
)
def test_budgets_are_numbers_with_units(given, budget):
    assert parse_budget(given) == budget


@pytest.mark.parametrize(
    ("given", "error"),
    [
        ("x", ValueError),
        ("0 tokens", ValueError),
        ("nan tokens", ValueError),
        ("5 miles", ValueError),
        ("1.5", ValueError),
        (True, TypeError),
        (Recipe(), TypeError),
    ],
)
def test_budgets_that_mean_nothing_are_refused(given, error):
    with pytest.raises(error, match="budget"):
        parse_budget(given)


@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_equal_budgets_give_smaller_models_more_steps(kind):
    data = StudyData(corpus(kind), byte_tokenizer())
    spec = SPEC.replace(kind=kind)
    lengths = mean_lengths(spec, data)
    if kind == "decoder_only":
        assert (lengths.target, lengths.source) == (19, None)
    else:  # bytes of all pairs, and an end token for each target
        pairs = data.corpus.train
        assert lengths.source == sum(len(a.encode()) for a, _ in pairs) / len(pairs)
        assert lengths.target == 1 + sum(len(b.encode()) for _, b in pairs) / len(pairs)
    small, large = (Setting("", spec.replace(num_layers=layers), RECIPE) for layers in (1, 7))
    by_tokens = with_budget(small, Budget(5 * lengths.target * 11.5, "tokens"), lengths)
    assert by_tokens.recipe.steps == 11
    assert by_tokens.recipe.report_every == 2
    flops = Budget(13.5 * flops_per_step(large, lengths), "flops")
    steps = [with_budget(s, flops, lengths).recipe.steps for s in (small, large)]
    assert steps[0] > 3 * steps[1] == 39
    with pytest.raises(ValueError, match="1 FLOPs are less than a step of"):
        with_budget(small, Budget(1, "flops"), lengths)
    seconds = with_budget(small, Budget(2, "seconds"), lengths, 17 * 5 * lengths.target)
    assert seconds.recipe.steps == 34


def test_the_key_of_a_run_depends_on_all_that_its_result_does():
    settings = make_settings({"one": SPEC}, RECIPE)
    runs = make_runs(settings, [3, 5], "data", "float32")
    assert [run.seed for run in runs] == [3, 5]
    others = [
        make_runs(settings, [3], "other data", "float32"),
        make_runs(settings, [3], "data", "mixed_bfloat16"),
        make_runs(
            make_settings({"one": SPEC.replace(dropout=0.2)}, RECIPE), [3], "data", "float32"
        ),
        make_runs(make_settings({"one": SPEC}, Recipe(steps=8)), [3], "data", "float32"),
    ]
    keys = [run.key for run in (*runs, *(run for made in others for run in made))]
    assert len(set(keys)) == len(keys)
    # Not on its name, nor on whether a default is written.
    same = make_settings({"uno": SPEC}, RECIPE.for_width(SPEC.hidden_dim))
    assert make_runs(same, [3], "data", "float32")[0].key == runs[0].key
