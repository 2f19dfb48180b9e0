"""Figures of positional encodings, learning rates, parameters and signal propagation."""

import cmath
import math

import keras
import numpy as np
import pytest
from matplotlib.text import Text
from python_process import run_python

import plots
from plots.figures import COLOURS

T, D = 13, 22


def labels(panel):
    return [line.get_label() for line in panel.lines]


def legend(owner):
    return [text.get_text() for text in owner.get_texts()]


# Positions


def turns(position):
    """Return exp(i angle) of every pair of dimensions (Vaswani et al. 2017, section 3.5)."""
    return [cmath.exp(1j * position / 10_000 ** (2 * i / D)) for i in range(D // 2)]


def test_sinusoids_match_the_formula_of_the_paper():
    interleaved = [[x for z in turns(p) for x in (z.imag, z.real)] for p in range(T)]
    np.testing.assert_allclose(plots.sinusoids(T, D), interleaved, atol=1e-12)
    apart = [[z.imag for z in turns(p)] + [z.real for z in turns(p)] for p in range(T)]
    np.testing.assert_allclose(plots.sinusoids(T, D, interleaved=False), apart, atol=1e-12)


@pytest.mark.parametrize(
    ("length", "dim", "message"),
    [(0, 4, "length is 0"), (3, 5, "dim is 5; it must be an even number"), (3, 0, "dim is 0")],
)
def test_invalid_sizes_of_sinusoids_raise_an_error(length, dim, message):
    with pytest.raises(ValueError, match=message):
        plots.sinusoids(length, dim)


def test_encodings_are_images_on_a_symmetric_scale():
    learned = np.random.default_rng(1).normal(size=(T, D))
    figure = plots.position_encodings({"sines": plots.sinusoids(T, D), "learned": learned})
    images = [panel for panel in figure.axes if panel.images]
    assert [panel.get_title() for panel in images] == ["sines", "learned"]
    np.testing.assert_array_equal(images[1].images[0].get_array(), learned)
    low, high = images[1].images[0].get_clim()
    assert high == np.abs(learned).max() == -low
    assert (images[0].get_ylabel(), images[0].get_xlabel()) == ("position", "dimension")


def test_an_outlier_does_not_make_all_other_values_white():
    encoding = plots.sinusoids(T, D)
    encoding[3, 5] = 100.0
    figure = plots.position_encodings({"outlier": encoding})
    assert figure.axes[0].images[0].get_clim()[1] <= 1


def products(figure):
    """Return the line of the dot-product panel, and (minimum, maximum) of its band."""
    (panel,) = [panel for panel in figure.axes if panel.get_ylabel() == "dot product"]
    outline = panel.collections[0].get_paths()[0].vertices
    by_distance = [outline[outline[:, 0] == distance][:, 1] for distance in range(T)]
    ends = [(values.min(), values.max()) for values in by_distance]
    return panel.lines[0].get_ydata(), np.array(ends).T


def test_products_of_sinusoids_depend_on_the_distance_alone():
    line, (lowest, highest) = products(plots.position_encodings({"": plots.sinusoids(T, D)}))
    expected = [sum(z.real for z in turns(distance)) for distance in range(T)]
    np.testing.assert_allclose(line, expected)
    np.testing.assert_allclose(lowest, expected)
    np.testing.assert_allclose(highest, expected)


def test_products_of_any_encoding_are_mean_minimum_and_maximum_over_all_pairs():
    encoding = np.random.default_rng(1).normal(size=(T, D))
    line, (lowest, highest) = products(plots.position_encodings({"": encoding}))
    for distance in range(T):
        pairs = [encoding[p] @ encoding[p + distance] for p in range(T - distance)]
        np.testing.assert_allclose(line[distance], np.mean(pairs))
        np.testing.assert_allclose([lowest[distance], highest[distance]], [min(pairs), max(pairs)])


@pytest.mark.parametrize(
    ("encodings", "message"),
    [
        ({}, "no encodings were given"),
        ({"a": [1.0, 2.0]}, r"the encoding 'a' has the shape \(2,\); it must be \(t, d\)"),
        ({"a": [[1.0, math.inf]]}, "'a' holds values that are not finite"),
        ({"a": [["x"]]}, "'a' must be an array of numbers"),
    ],
)
def test_invalid_encodings_raise_an_error(encodings, message):
    with pytest.raises(ValueError, match=message):
        plots.position_encodings(encodings)


# Learning rates


def test_a_short_run_shows_the_rate_of_every_step():
    schedules = {
        "keras": keras.optimizers.schedules.PolynomialDecay(0.5, 11, 0.1),
        "function": lambda step: 0.01 * step,
        "constant": 0.25,
    }
    panel = plots.learning_rate_curves(schedules, steps=17).axes[0]
    assert labels(panel) == legend(panel.get_legend()) == list(schedules)
    steps = np.arange(17)
    for line, expected in zip(
        panel.lines,
        [0.5 + (0.1 - 0.5) * np.minimum(steps / 11, 1), 0.01 * steps, 0.25 + 0 * steps],
        strict=True,
    ):
        np.testing.assert_array_equal(line.get_xdata(), steps)
        np.testing.assert_allclose(line.get_ydata(), expected, rtol=1e-6)
    assert [line.get_color() for line in panel.lines] == list(COLOURS[:3])


def test_a_long_run_is_sampled_from_its_first_to_its_last_step():
    asked = []
    panel = plots.learning_rate_curves({"a": lambda step: asked.append(step) or 1.0}, 100_003)
    assert asked == list(panel.axes[0].lines[0].get_xdata())
    assert (asked[0], asked[-1], len(asked)) == (0, 100_002, 500)
    assert len(set(np.diff(asked))) <= 2  # evenly spaced, rounded


@pytest.mark.parametrize(
    ("schedules", "steps", "error", "message"),
    [
        ({}, 5, ValueError, "no schedules were given"),
        ({"a": 0.1}, 1, ValueError, "steps is 1; a curve needs at least 2"),
        (
            {"a": "cosine"},
            5,
            TypeError,
            "'a' returns 'cosine' at step 0; it must be a number, a Ke",
        ),
        ({"a": lambda step: 2.0 - step}, 5, ValueError, "'a' returns -1.0 at step 3"),
        ({"a": lambda step: math.nan}, 5, ValueError, "'a' returns nan at step 0"),
    ],
)
def test_invalid_schedules_raise_an_error(schedules, steps, error, message):
    with pytest.raises(error, match=message):
        plots.learning_rate_curves(schedules, steps)


# Parameters


def widths(panel):
    """Return component -> width of its bar in every row."""
    return {bars.get_label(): [bar.get_width() for bar in bars] for bars in panel.containers}


def test_components_of_one_model_are_ranked_with_number_and_share():
    counts = {"norms": 13, "attention": 3_000, "feedforward": 7_000, "positions": 0}
    panel = plots.parameter_bars(counts, "title").axes[0]
    assert [bar.get_width() for bar in panel.containers[0]] == [13, 3_000, 7_000]  # upwards
    names = [text.get_text() for text in panel.get_yticklabels()]
    assert names == ["norms", "attention", "feedforward"]
    texts = [text.get_text() for text in panel.texts]
    assert texts == ["13  (0.1 %)", "3 k  (30.0 %)", "7 k  (69.9 %)"]


def test_several_models_are_stacked_by_number_and_by_share():
    counts = {"a": {"x": 300, "y": 700}, "b": {"y": 19, "z": 1, "nothing": 0}}
    figure = plots.parameter_bars(counts)
    absolute, shares = figure.axes
    assert widths(absolute) == {"x": [300, 0], "y": [700, 19], "z": [0, 1]}
    percent = [[bar.get_width() for bar in bars] for bars in shares.containers]
    np.testing.assert_allclose(percent, [[30, 0], [70, 95], [0, 5]])
    np.testing.assert_allclose(np.sum(percent, axis=0), 100)
    starts = [[bar.get_x() for bar in bars] for bars in absolute.containers]
    assert starts == [[0, 0], [300, 0], [1000, 19]]  # each starts at the end of the previous one
    assert [text.get_text() for text in absolute.texts] == ["1 k", "20"]
    assert legend(figure.legends[0]) == ["x", "y", "z"]
    assert absolute.yaxis_inverted()  # the first model at the top


def test_more_components_than_colours_are_hatched():
    counts = {"a": {f"c{n}": n + 1 for n in range(2 * len(COLOURS))}}
    bars = [bars[0] for bars in plots.parameter_bars(counts).axes[0].containers]
    assert len({(bar.get_facecolor(), bar.get_hatch()) for bar in bars}) == 2 * len(COLOURS)


@pytest.mark.parametrize(
    ("counts", "message"),
    [
        ({}, "no counts were given"),
        ({"a": {"x": 1}, "b": 2}, "mixes numbers and mappings"),
        ({"x": -1}, "component 'x' of the model has -1 parameters"),
        ({"a": {"x": 0.5}}, "component 'x' of model 'a' has 0.5 parameters; it must be a whole"),
        ({"a": {"x": 0}}, "model 'a' has no parameters"),
        ({"a": {}}, "model 'a' has no parameters"),
    ],
)
def test_invalid_counts_raise_an_error(counts, message):
    with pytest.raises(ValueError, match=message):
        plots.parameter_bars(counts)


# Signals by depth

VARIANCES = {"post": [1.0, 1.1, 1.0], "pre": [1.0, 2.0, 3.0], "bare": [1.0, 0.0, math.inf]}
GRADIENTS = {
    "pre": {"skip path": [1.0, 0.9, 0.8], "branch": [0.1, 0.2, None]},
    "bare": {"branch": [0.0, 0.5, 1.0]},
}


def test_variance_and_gradients_have_logarithmic_panels():
    variance, gradient = plots.signal_propagation(VARIANCES, GRADIENTS, "title").axes
    assert variance.get_yscale() == gradient.get_yscale() == "log"
    assert legend(variance.get_legend()) == ["post", "pre", "bare", "0", "inf"]
    assert legend(gradient.get_legend()) == ["pre, skip path", "pre, branch", "bare, branch", "0"]
    np.testing.assert_array_equal(variance.lines[1].get_ydata(), VARIANCES["pre"])
    np.testing.assert_array_equal(gradient.lines[1].get_ydata(), [0.1, 0.2, math.nan])


def test_a_run_has_one_colour_and_its_branch_is_drawn_thinner_and_hollow():
    variance, gradient = plots.signal_propagation(VARIANCES, GRADIENTS).axes
    skip_path, branch = gradient.lines[:2]
    assert variance.lines[1].get_color() == skip_path.get_color() == branch.get_color()
    assert branch.get_linewidth() < skip_path.get_linewidth()
    assert branch.get_markerfacecolor() == "#FFFFFF" != skip_path.get_markerfacecolor()


def test_values_outside_a_logarithmic_axis_are_triangles_at_its_edge():
    variance = plots.signal_propagation(VARIANCES, {}).axes[0]
    triangles = {line.get_marker(): line for line in variance.lines if len(line.get_xdata()) == 1}
    zero, infinite = triangles["v"], triangles["^"]
    assert (list(zero.get_xdata()), list(zero.get_ydata())) == ([1], [0.0])
    assert (list(infinite.get_xdata()), list(infinite.get_ydata())) == ([2], [1.0])
    for line in (zero, infinite):
        assert line.get_transform() == variance.get_xaxis_transform()
    np.testing.assert_array_equal(variance.lines[2].get_ydata(), [1.0, math.nan, math.nan])


@pytest.mark.parametrize(
    ("variances", "gradients", "message"),
    [
        ({}, {}, "no runs were given"),
        ({"a": [1.0, -2.0]}, {}, "the variance of activations of run 'a' is -2.0 at depth 1"),
        ({}, {"a": {"skip": [1.0]}}, "run 'a' are along 'skip'; known are 'skip path', 'branch'"),
        (
            {},
            {"a": {"branch": [-1]}},
            "the norm of gradient of run 'a' along the branch is -1.0 at depth 0",
        ),
    ],
)
def test_invalid_signals_raise_an_error(variances, gradients, message):
    with pytest.raises(ValueError, match=message):
        plots.signal_propagation(variances, gradients)


def test_profiles_have_one_legend_of_runs_and_bands_between_their_ends():
    band = plots.Band([1.0, None, 3.0], [0.5, None, 2.0], [1.5, None, 4.0])
    panels = [
        plots.DepthPanel(
            "RMS", {"a": {"stream": band, "branch": [0.0, 1.0]}, "b": {"stream": [2]}}
        ),
        plots.DepthPanel("entropy", {"a": {"": [0.0, 0.5]}}, scale="linear"),
        plots.DepthPanel("update", {"b": {"": [0.1]}}),
    ]
    figure = plots.depth_profiles(panels, "sublayer", first=1)
    signals, entropy, update, empty = figure.axes
    assert legend(figure.legends[0]) == ["a", "b"]
    assert legend(signals.get_legend()) == ["0", "stream", "branch"]
    assert list(signals.lines[0].get_xdata()) == [1, 3]  # through what was not measured
    assert {(x, y) for x, y in signals.collections[0].get_paths()[0].vertices.tolist()} >= {
        (1, 0.5),
        (1, 1.5),
        (3, 2),
        (3, 4),
    }
    assert list(entropy.lines[0].get_ydata()) == [0.0, 0.5]
    first, *_, second = (signals.lines[number].get_color() for number in (0, 1, 3))
    assert update.lines[0].get_color() == second != first
    assert not empty.axison
    with pytest.raises(ValueError, match="no runs were given"):
        plots.depth_profiles([plots.DepthPanel("RMS", {})], "sublayer")


# All figures


def test_names_are_written_literally():
    name = "$5 and $7_x"  # a formula to matplotlib
    figures = [
        plots.learning_rate_curves({name: 1.0}, 2),
        plots.parameter_bars({name: {name: 1}}),
        plots.parameter_bars({name: 1}),
        plots.signal_propagation({name: [1.0]}, {}),
        plots.position_encodings({name: [[1.0]]}),
    ]
    for figure in figures:
        figure.draw_without_rendering()  # creates some of the texts
        texts = [text for text in figure.findobj(Text) if text.get_text() == name]
        assert texts
        assert not any(text.get_parse_math() for text in texts)


@pytest.mark.slow
def test_figures_need_no_keras_and_no_display():
    code = (
        "import sys, plots\n"
        "plots.common_masks()\n"
        "plots.attention_heads([[[0.5, 0.5]]])\n"
        "plots.position_encodings({'a': plots.sinusoids(3, 2)})\n"
        "plots.learning_rate_curves({'a': 0.1}, 3)\n"
        "plots.parameter_bars({'a': 1})\n"
        "plots.signal_propagation({'a': [1.0]}, {})\n"
        "print({'keras', 'tensorflow', 'matplotlib.pyplot'} & set(sys.modules))\n"
    )
    assert run_python(code).strip() == "set()"
