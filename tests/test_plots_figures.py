"""Loss curves, and saving of figures."""

import math

import keras
import numpy as np
import pytest

import plots

RUN = {
    "step": [0, 100, 200],
    "loss": [5.0, 1.0, 0.2],
    "val_loss": [5.1, None, 0.3],
    "exact_match": [math.nan, 0.25, 0.75],
}


def labels(panel):
    return [line.get_label() for line in panel.lines]


def test_runs_with_exact_match_have_two_panels():
    figure = plots.loss_curves({"a": RUN, "b": {"step": [0, 1], "loss": [2.0, 1.0]}}, "title")
    loss, match = figure.axes
    assert labels(loss) == ["a (training)", "a (validation)", "b"]
    assert labels(match) == ["a"]
    assert loss.get_yscale() == "log"
    assert "%" in match.get_ylabel()
    assert list(match.lines[0].get_ydata()) == [25.0, 75.0]


def test_the_history_of_fit_is_drawn_by_epochs():
    x = keras.Input((3,))
    model = keras.Model(x, keras.layers.Dense(2)(x))
    model.compile("sgd", "mse")
    batch, targets = np.ones((5, 3)), np.full((5, 2), 7.0)
    history = model.fit(batch, targets, validation_data=(batch, targets), epochs=3, verbose=0)
    (panel,) = plots.loss_curves({"a": history}).axes
    assert panel.get_xlabel() == "epoch"
    assert labels(panel) == ["a (training)", "a (validation)"]
    for line, key in zip(panel.lines, ("loss", "val_loss"), strict=True):
        assert list(line.get_xdata()) == [1, 2, 3]
        assert list(line.get_ydata()) == history.history[key]


def test_steps_without_a_measurement_are_left_out():
    figure = plots.loss_curves({"a": RUN})
    validation = figure.axes[0].lines[1]
    assert list(validation.get_xdata()) == [0, 200]
    assert list(validation.get_ydata()) == [5.1, 0.3]


def test_one_panel_without_exact_match_and_a_linear_axis_for_zero():
    figure = plots.loss_curves({"a": {"step": [0, 1], "loss": [1.0, 0.0]}})
    assert len(figure.axes) == 1
    assert figure.axes[0].get_yscale() == "linear"


def test_a_band_lies_between_its_ends_and_large_numbers_have_units():
    low, high = [2.0, None, 0.5], [4.0, 2.0, 1.5]
    run = {"step": [0, 10_000, 20_000], "loss": [3.0, 2.0, 1.0], "low": low, "high": high}
    figure = plots.loss_curves({"a": run, "b": RUN}, across="target tokens")
    panel = figure.axes[0]
    (band,) = panel.collections
    corners = {(x, y) for path in band.get_paths() for x, y in path.vertices.tolist()}
    assert corners >= {(0, 2), (0, 4), (20_000, 0.5), (20_000, 1.5)}
    assert panel.get_xlabel() == "target tokens"
    assert panel.xaxis.get_major_formatter()(20_000) == "20k"
    with pytest.raises(ValueError, match="'step' has 3 entries but 'low' has 1"):
        plots.loss_curves({"a": {**run, "low": [1.0]}})


def test_eight_runs_have_distinct_lines():
    history = {"step": [0, 1], "loss": [2.0, 1.0]}
    panel = plots.loss_curves({f"run {n}": history for n in range(8)}).axes[0]
    assert len({(line.get_color(), line.get_linestyle()) for line in panel.lines}) == 8


@pytest.mark.parametrize(
    ("histories", "message"),
    [
        ({}, "no runs were given"),
        ({"a": {"step": [1]}}, "'a' has no 'loss'"),
        ({"a": {"step": [1, 2], "loss": [1.0]}}, "'step' has 2 entries but 'loss' has 1"),
    ],
)
def test_invalid_histories_raise_an_error(histories, message):
    with pytest.raises(ValueError, match=message):
        plots.loss_curves(histories)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("suffix", "magic"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_saved_figures_are_reproducible(suffix, magic, tmp_path):
    paths = [tmp_path / "made" / f"{name}.{suffix}" for name in ("first", "second")]
    for path in paths:
        assert plots.save_figure(plots.loss_curves({"a": RUN}), path) == path
    first, second = (path.read_bytes() for path in paths)
    assert first.startswith(magic)
    assert first == second


def test_an_unknown_suffix_raises_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"one of \.png, \.svg, \.pdf"):
        plots.save_figure(plots.loss_curves({"a": RUN}), tmp_path / "loss.gif")
    assert list(tmp_path.iterdir()) == []
