"""What is measured inside the models of a study, from training that stays as it is."""

import math
import random
from functools import cache, partial

import keras
import numpy as np
import pytest
from pyarrow import parquet
from small_text_models import SIZES, byte_tokenizer, corpus, parallel_corpus, text_model

import builders
import plots
from functional_models.corpora import TextCorpus
from functional_models.losses import TokenCrossEntropy
from functional_models.recipe import Recipe
from functional_models.studies.folder import write_inside_table
from functional_models.studies.inside import callback
from functional_models.studies.inside.callback import MeasureInside, measured_steps
from functional_models.studies.inside.measuring import (
    Meter,
    head_entropies,
    kernels,
    position_groups,
    update_sizes,
)
from functional_models.studies.inside.sample import make_sample, token_classes
from functional_models.studies.inside.stored import Inside, Measured, read_inside, write_inside
from functional_models.studies.results import Study
from functional_models.studies.runs import StudyData, make_runs, perform
from functional_models.studies.settings import make_settings


@cache
def sample_of(kind):
    return make_sample(corpus(kind), byte_tokenizer(), SIZES["max_sequence_length"])


def measured(model, kind="decoder_only"):
    """Measure a model by quantity and place."""
    found = Meter(model, sample_of(kind)).measure()
    return {(one.quantity, one.place): one for one in found}


@cache
def translator():
    """A translator, its measurements, and what they left as it was."""
    model = text_model("encoder_decoder", seed=3).model
    variables = [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    states = random.getstate(), np.random.get_state()[1].tolist()
    found = measured(model, "encoder_decoder")
    after = [np.array(keras.ops.convert_to_numpy(variable)) for variable in model.variables]
    changed = [not np.array_equal(*both) for both in zip(variables, after, strict=True)]
    kept = not any(changed) and (random.getstate(), np.random.get_state()[1].tolist()) == states
    return model, found, kept


def weight(model, end):
    return next(weight for weight in model.weights if weight.path.endswith(end))


def test_signals_and_gradients_are_those_of_the_calls_without_padding():
    model, found, _ = translator()
    inputs, labels, weights = sample_of("encoder_decoder").batch
    values = plots.call_values(model, inputs)
    loss = TokenCrossEntropy()
    edges = plots.edge_gradients(model, inputs, loss=lambda y: loss(labels, y, weights))
    before = {"encoder": "self_attention", "decoder": "cross_attention"}
    counts = {"encoder": inputs["source"] != byte_tokenizer().pad_id, "decoder": weights > 0}
    assert counts["encoder"].sum() < inputs["source"].size  # some are padding
    for stack, counted in counts.items():
        place = f"{stack}.block_0.feedforward"
        merge, added = f"{place}.residual", f"{place}.dropout"
        for quantity, node in (("stream_rms", merge), ("branch_rms", added)):
            one = found[quantity, place]
            assert one.value == pytest.approx(rms(values[node][0][counted]), rel=1e-5)
            assert one.number == counted.sum()
        source = f"{stack}.block_0.{before[stack]}.residual"
        skip = edges[f"{source} -> {merge}.inputs.0"]
        through = edges[f"{source} -> {place}.norm.inputs"]
        for way, gradient in (("skip", skip), ("branch", through), ("stream", skip + through)):
            value = found[f"{way}_gradient_rms", place].value
            assert value == pytest.approx(rms(gradient[counted]), rel=1e-4)


def rms(array):
    return np.sqrt(np.mean(array.astype("float64") ** 2))


def test_depth_counts_the_sublayers_of_each_stack():
    _, found, _ = translator()
    streams = {place: one for (quantity, place), one in found.items() if quantity == "stream_rms"}
    parts = {"encoder": ("self_attention", "feedforward")}
    parts["decoder"] = ("self_attention", "cross_attention", "feedforward")
    for stack, names in parts.items():
        places = [f"{stack}.block_0.{name}" for name in names]
        assert [streams[place].depth for place in places] == [*range(1, len(places) + 1)]
    assert len(streams) == 5


def test_measuring_changes_no_weight_no_seed_and_no_random_state():
    assert translator()[2]


def test_without_skip_paths_the_branch_is_the_stream():
    found = measured(text_model("decoder_only", merge="none").model)
    for place in ("decoder.block_0.self_attention", "decoder.block_0.feedforward"):
        assert found["stream_rms", place].value == found["branch_rms", place].value > 0
        assert found["branch_gradient_rms", place].value > 0
        assert ("skip_gradient_rms", place) not in found


def test_heads_that_attend_to_one_key_or_to_all_alike_are_counted():
    place = "decoder.block_0.self_attention"
    model = text_model("decoder_only", attention_bias=False).model
    kernel = np.zeros(weight(model, "query/kernel").shape)  # (d, n, h)
    kernel[:, 1] = 1e5 * np.random.default_rng(0).standard_normal(kernel[:, 1].shape)
    weight(model, "query/kernel").assign(kernel)
    found = measured(model)
    assert found["attention_entropy_lowest", place].value < 0.01
    assert found["attention_entropy_highest", place].value == pytest.approx(1, abs=1e-5)
    assert found["collapsed_heads", place].value == found["uniform_heads", place].value == 1
    assert found["uniform_heads", place].number == SIZES["num_heads"]


def test_entropy_is_relative_to_the_visible_keys_of_each_query():
    visible = np.tril(np.ones((3, 2, 5, 5), bool))
    even = visible / visible.sum(-1, keepdims=True)
    first = np.zeros_like(even)
    first[..., 0] = 1
    both = np.concatenate([even[:, :1], first[:, :1]], axis=1)
    np.testing.assert_allclose(head_entropies(both, visible), [1, 0], atol=1e-12)
    # Half on each of two of the visible keys: log 2 / log of their number, without the first query.
    half = np.zeros_like(even)
    half[:, :, 1:, :2] = 0.5
    expected = np.mean([math.log(2) / math.log(n) for n in (2, 3, 4, 5)])
    np.testing.assert_allclose(head_entropies(half, visible), expected)
    queries = np.zeros((3, 5), bool)
    queries[1, 3] = True
    np.testing.assert_allclose(head_entropies(half, visible, queries), math.log(2) / math.log(4))
    assert head_entropies(even[:, :, :1], visible[:, :, :1]) is None


def test_units_and_weights_that_do_nothing_are_found():
    place = "decoder.block_0.feedforward"
    model = text_model("decoder_only", activation="relu").model
    bias = np.zeros(SIZES["intermediate_dim"])
    bias[:7] = -1e4
    weight(model, "up/bias").assign(bias)
    output = weight(model, "self_attention.output/kernel")
    output.assign(np.zeros(output.shape))
    found = measured(model)
    assert found["inactive_units", place].number == SIZES["intermediate_dim"]
    dead = {name for quantity, name in found if quantity == "zero_gradient"}
    part = "decoder.block_0.self_attention"
    assert dead >= {f"{part}.{role}/kernel" for role in ("query", "key", "value")}
    assert f"{part}.output/kernel" not in dead
    weight(model, "up/bias").assign(np.zeros_like(bias))
    output.assign(np.ones(output.shape))
    alive = measured(model)
    assert found["inactive_units", place].value >= 7 + alive["inactive_units", place].value
    assert not [name for quantity, name in alive if quantity == "zero_gradient"]


def test_updates_are_relative_to_the_kernels():
    model = text_model("decoder_only").model
    places = Meter(model, sample_of("decoder_only")).places
    before = kernels(model)
    assert all(array.ndim > 1 for array in before.values())
    factors = {name: 1 + 0.01 * ("feedforward" in name) for name in before}
    after = {name: array * np.float32(factors[name]) for name, array in before.items()}
    found = {one.place: one for one in update_sizes(before, after, places)}
    assert found["decoder.block_0.feedforward"].value == pytest.approx(0.01, rel=1e-3)
    assert found["decoder.block_0.self_attention"].value == 0
    assert found["decoder.block_0.self_attention"].depth == 1
    assert sum(one.number for one in found.values()) == sum(a.size for a in before.values())


def test_losses_by_position_and_by_class_add_up_to_the_mean():
    model, found, _ = translator()
    inputs, labels, weights = sample_of("encoder_decoder").batch
    whole = float(keras.ops.convert_to_numpy(TokenCrossEntropy()(labels, model(inputs), weights)))
    for quantity in ("position_loss", "class_loss"):
        rows = [one for (name, _), one in found.items() if name == quantity]
        counts = [one.number for one in rows]
        assert sum(counts) == weights.sum()
        assert np.average([one.value for one in rows], weights=counts) == pytest.approx(whole)
        assert len(rows) > 2


@pytest.mark.parametrize("length", [1, 2, 3, 19, 128])
def test_groups_of_positions_cover_each_once(length):
    groups = position_groups(length)
    assert [p for first, last in groups for p in range(first, last + 1)] == [*range(1, length + 1)]


def test_classes_are_tenths_of_the_training_tokens_by_frequency():
    letters = "".join(chr(40 + n) * (n + 1) for n in range(60))
    classes = token_classes(TextCorpus("letters", (letters,), ()), byte_tokenizer())
    counts = np.bincount([*letters.encode(), byte_tokenizer().end_id], minlength=len(classes))
    assert (np.diff(classes[np.argsort(-counts, kind="stable")]) >= 0).all()
    shares = [counts[classes == number].sum() / counts.sum() for number in range(10)]
    assert max(shares) < 0.15
    assert min(shares) > 0.05
    assert (classes[counts == 0] == 9).all()


@pytest.mark.slow  # trains twice
@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_training_gives_the_same_losses_to_the_last_digit(tmp_path, kind, monkeypatch):
    data = StudyData(corpus(kind), byte_tokenizer())
    spec = builders.TransformerSpec(kind=kind, **SIZES)
    recipe = Recipe(steps=6, report_every=2, batch_size=5)
    (run,) = make_runs(make_settings({"a": spec}, recipe), [11], "data", "float32")
    with_it = perform(run, tmp_path / "with", data, progress=False)
    inside = read_inside(tmp_path / "with", run.key)
    assert [*inside.reports] == [0, 2, 6]
    assert inside.at(6, "update")
    assert not inside.at(0, "update")
    for name in ("on_train_begin", "on_epoch_begin", "on_epoch_end", "on_train_end"):
        monkeypatch.setattr(MeasureInside, name, lambda *given, **options: None)
    without = perform(run, tmp_path / "without", data, progress=False)
    assert not (tmp_path / "without" / "inside.json").exists()
    times = ("seconds", "tokens_per_second")
    rows = [
        [{k: v for k, v in row.items() if k not in times} for row in outcome.rows]
        for outcome in (with_it, without)
    ]
    assert rows[0] == rows[1]
    assert with_it.result["loss"] == without.result["loss"]


def watcher(folder, steps=40, report_every=4):
    """A callback whose model counts nothing, and whose meter returns one number."""
    recipe = Recipe(steps=steps, report_every=report_every)
    data = StudyData(parallel_corpus(), byte_tokenizer())
    made = MeasureInside(folder, "key", recipe, partial(data.sample, 19))
    made.set_model(keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)]))
    made.model.compile("sgd", "mse")
    return made


class FakeMeter:
    def __init__(self, *given):
        self.places = None

    def measure(self):
        return [Measured("stream_rms", "decoder.block_0", 1, 0.5, 7)]


@pytest.fixture
def faked(monkeypatch):
    monkeypatch.setattr(callback, "Meter", FakeMeter)
    monkeypatch.setattr(StudyData, "sample", lambda *given: None)
    monkeypatch.setattr(callback, "update_sizes", lambda *given: [])


def test_a_run_is_measured_first_early_and_last_and_resumes(tmp_path, faked):
    assert measured_steps(Recipe(steps=40, report_every=4)) == {4, 40}
    assert measured_steps(Recipe(steps=1300, report_every=100)) == {200, 1300}
    assert measured_steps(Recipe(steps=5, report_every=9)) == {5}
    first = watcher(tmp_path)
    first.on_train_begin()
    assert [*read_inside(tmp_path, "key").reports] == [0]
    first.on_epoch_begin(0)
    first.on_epoch_end(0)
    first.on_epoch_end(1)
    assert [*read_inside(tmp_path, "key").reports] == [0, 4]
    again = watcher(tmp_path)
    again.model.optimizer.iterations.assign(8)
    again.on_train_begin()
    again.on_epoch_end(9)
    assert [*read_inside(tmp_path, "key").reports] == [0, 4, 40]


def test_a_run_that_another_callback_stops_is_measured_at_its_end(tmp_path, faked):
    made = watcher(tmp_path)
    made.on_train_begin()
    made.on_epoch_end(2)
    made.on_train_end()
    assert [*read_inside(tmp_path, "key").reports] == [0, 12]


def test_what_cannot_be_measured_costs_no_training_and_is_said_once(
    tmp_path, faked, monkeypatch, capsys
):
    def fail(self):
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(FakeMeter, "measure", fail)
    made = watcher(tmp_path)
    made.on_train_begin()
    made.on_epoch_end(0)
    said = "what happens inside is not measured: RuntimeError: no memory at all\n"
    assert capsys.readouterr().err == said
    assert not (tmp_path / "inside.json").exists()


def test_measurements_are_read_as_they_were_written(tmp_path):
    rows = [Measured("update", "decoder.block_0", 1, 0.25, 7), Measured("x", "y", 0, None, 0)]
    assert read_inside(tmp_path, "key") is None
    write_inside(tmp_path, "key", Inside({0: rows[:1], 5: rows}))
    found = read_inside(tmp_path, "key")
    assert found.reports == {0: rows[:1], 5: rows}
    assert found.at(5, "update") == rows[:1]
    assert found.at(5, "update")[0].stack == "decoder"


@pytest.mark.parametrize("damage", ["{", '{"format": 1}', '{"format": 9}', "[]"])
def test_damaged_measurements_raise(tmp_path, damage):
    (tmp_path / "inside.json").write_text(damage)
    with pytest.raises(ValueError, match=r"inside\.json"):
        read_inside(tmp_path, "key")
    write_inside(tmp_path, "other", Inside())
    with pytest.raises(ValueError, match=r"inside\.json is damaged; delete it"):
        read_inside(tmp_path, "key")


def test_the_table_has_a_row_for_each_number(tmp_path):
    spec = builders.TransformerSpec(**SIZES)
    settings = make_settings({"a": spec}, Recipe())
    runs = make_runs(settings, [3, 5], "data", "float32")
    for run in runs:
        (tmp_path / "runs" / run.folder).mkdir(parents=True)
    row = Measured("update", "decoder.block_0", 1, 0.25, 7)
    write_inside(tmp_path / "runs" / runs[1].folder, runs[1].key, Inside({9: [row]}))
    study = Study(tmp_path, tuple(settings), tuple(runs), {}, "a")
    assert [*study.inside] == [runs[1].key]
    write_inside_table(study, tmp_path / "inside.parquet")
    (found,) = parquet.read_table(tmp_path / "inside.parquet").to_pylist()
    columns = {"key": runs[1].key, "setting": "a", "seed": 5, "step": 9}
    assert found == {**columns, **row._asdict()}
