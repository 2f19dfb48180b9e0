"""Figures of attention masks and attention weights."""

import numpy as np
import pytest
from matplotlib.colors import to_hex

import plots
from plots.figures import BLUE

T, S, N = 7, 5, 3
TOKENS = ("the", "cat", "sat", "on", "$5", "or", "$7")


def image(panel):
    """Return the cells of a panel as (values, whether masked)."""
    shown = panel.images[0].get_array()
    return np.ma.getdata(shown), np.ma.getmaskarray(shown)


def labels(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def weights(n=N, t=T, s=S):
    scores = np.exp(np.random.default_rng(5).normal(size=(n, t, s)))
    return scores / scores.sum(-1, keepdims=True)


def test_a_mask_fills_the_cells_it_allows_and_hatches_the_others():
    mask = np.random.default_rng(3).random((T, S)) < 0.5
    panel = plots.attention_mask(mask).axes[0]
    _, masked = image(panel)
    np.testing.assert_array_equal(masked, ~mask)
    assert to_hex(panel.images[0].cmap(1.0)).upper() == BLUE
    (background,) = panel.patches
    assert background.get_hatch()
    assert background.get_bbox().bounds == (-0.5, -0.5, S, T)
    assert background.get_zorder() < panel.images[0].get_zorder()


def test_queries_are_rows_and_keys_are_columns():
    panel = plots.attention_mask(np.ones((T, S), bool), TOKENS, list("abcde")).axes[0]
    assert labels(panel.yaxis) == list(TOKENS)
    assert labels(panel.xaxis) == list("abcde")
    assert (panel.get_ylabel(), panel.get_xlabel()) == ("query", "key")


def test_a_square_mask_uses_the_queries_as_keys_and_positions_without_tokens():
    panel = plots.attention_mask(np.ones((T, T), bool), TOKENS).axes[0]
    assert labels(panel.xaxis) == labels(panel.yaxis) == list(TOKENS)
    panel = plots.attention_mask(np.ones((T, S), bool)).axes[0]
    assert labels(panel.xaxis) == [str(position) for position in range(S)]


def test_small_cells_have_fewer_token_labels():
    t = 131
    panel = plots.attention_mask(np.ones((t, t), bool), [f"w{i}" for i in range(t)]).axes[0]
    places = panel.get_yticks()
    assert labels(panel.yaxis) == [f"w{i}" for i in places]
    assert 10 < len(places) < t / 2


def test_tokens_are_written_literally(tmp_path):
    tokens = ["$5", "$7", "a\nb", "\t", "internationalisation", "_", "{"]
    figure = plots.attention_mask(np.ones((T, T), bool), tokens)
    assert labels(figure.axes[0].yaxis) == [
        "$5", "$7", "a\\nb", "\\t", "international…", "_", "{"
    ]  # fmt: skip
    plots.save_figure(figure, tmp_path / "mask.svg")


def test_the_common_masks_match_their_definitions():
    documents = (("a", "b", "c"), ("d", "e"), ("f", "g"))
    of = [0, 0, 0, 1, 1, 2, 2]
    figure = plots.common_masks(documents, padding=3, window=2)
    allowed = {
        "causal": lambda q, k: k <= q,
        "padding": lambda q, k: k < 4,
        "window of 2": lambda q, k: k in (q - 1, q),
        "packed": lambda q, k: k <= q and of[k] == of[q],
    }
    assert [panel.get_title().split("\n")[0] for panel in figure.axes] == list(allowed)
    for panel, may_look in zip(figure.axes, allowed.values(), strict=True):
        expected = [[not may_look(q, k) for k in range(T)] for q in range(T)]
        np.testing.assert_array_equal(image(panel)[1], expected)
    assert labels(figure.axes[0].xaxis) == list("abcdefg")
    assert labels(figure.axes[1].xaxis) == [*"abcd", "<pad>", "<pad>", "<pad>"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"documents": [["a", "b"]]}, r"lengths \[2\]; it must have two documents or more"),
        ({"documents": [["a"], []]}, r"lengths \[1, 0\]"),
        ({"padding": 0}, "padding is 0; with 8 tokens it must be from 1 to 7"),
        ({"window": 8}, "window is 8; with 8 tokens"),
    ],
)
def test_common_masks_with_nothing_to_show_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.common_masks(**arguments)


@pytest.mark.parametrize(
    ("mask", "queries", "message"),
    [
        (np.zeros((3, 5)), None, "of dtype float64; it must be boolean"),
        (np.ones((2, 3, 5), bool), None, r"shape \(2, 3, 5\); it must be \(t, s\)"),
        (np.ones((0, 5), bool), None, "none of them 0"),
        (np.ones((3, 5), bool), ["a", "b"], "2 tokens for 3 queries"),
    ],
)
def test_an_invalid_mask_raises_an_error(mask, queries, message):
    with pytest.raises(ValueError, match=message):
        plots.attention_mask(mask, queries)


def test_all_heads_share_one_colour_scale():
    scores = weights()
    figure = plots.attention_heads(scores, TOKENS, list("abcde"), title="cross-attention")
    *panels, bar = figure.axes
    assert [panel.get_title() for panel in panels] == ["head 0", "head 1", "head 2"]
    for panel, expected in zip(panels, scores, strict=True):
        values, masked = image(panel)
        np.testing.assert_array_equal(values, expected)
        assert not masked.any()
        assert panel.images[0].get_clim() == (0, scores.max())
    assert labels(panels[0].yaxis) == list(TOKENS)
    assert labels(panels[0].xaxis) == list("abcde")
    assert bar.get_ylabel() == "attention weight"
    assert figure.get_suptitle() == "cross-attention"
    assert not figure.legends  # nothing is masked


@pytest.mark.parametrize("of_heads", [False, True])
def test_masked_cells_are_masked_whatever_their_values(of_heads):
    mask = np.random.default_rng(2).random((N, T, S) if of_heads else (T, S)) < 0.7
    scores = np.where(mask, weights(), np.nan)
    figure = plots.attention_heads(scores, mask=mask)
    for head, panel in enumerate(figure.axes[:N]):
        np.testing.assert_array_equal(image(panel)[1], ~(mask[head] if of_heads else mask))
        assert panel.patches[0].get_hatch()
    assert figure.legends[0].get_texts()[0].get_text() == "masked"


@pytest.mark.parametrize("how", ["mean", "max"])
def test_long_sequences_are_drawn_in_blocks_as_the_title_says(how):
    t, s, rows, columns = 131, 193, 3, 4  # 131 / 64 and 193 / 64, rounded up
    scores, mask = weights(2, t, s), np.tril(np.ones((t, s), bool), 40)
    tokens = [f"w{i}" for i in range(s)]
    figure = plots.attention_heads(
        np.where(mask, scores, 0), tokens[:t], tokens, mask, "long", downsample=how
    )
    assert figure.get_suptitle() == f"long (each cell: {how} of 3 × 4 scores)"
    for head in range(2):
        values, masked = image(figure.axes[head])
        assert values.shape == (44, 49)
        for row, column in np.ndindex(values.shape):
            block = np.s_[rows * row : rows * (row + 1), columns * column : columns * (column + 1)]
            seen = scores[head][block][mask[block]]
            assert masked[row, column] == (seen.size == 0)
            if seen.size:
                np.testing.assert_allclose(values[row, column], getattr(seen, how)())
    panel = figure.axes[0]
    places = panel.get_xticks()
    assert labels(panel.xaxis) == [f"w{columns * i}…" for i in places]


def test_short_sequences_are_not_downsampled():
    assert plots.attention_heads(weights(1, 64, 64)).get_suptitle() == ""


def test_outliers_do_not_make_all_other_cells_white():
    scores = weights(1, 61, 61) / 10
    scores[0, 3, 3] = 1.0
    figure = plots.attention_heads(scores)
    assert figure.axes[0].images[0].get_clim()[1] < 0.1


@pytest.mark.parametrize(
    ("heads", "grid"), [(1, (1, 1)), (2, (1, 2)), (7, (2, 4)), (8, (2, 4)), (12, (3, 4))]
)
def test_heads_are_arranged_in_a_grid_with_few_gaps(heads, grid):
    panel = plots.attention_heads(weights(heads)).axes[0]
    shape = panel.get_subplotspec().get_gridspec()
    assert (shape.nrows, shape.ncols) == grid


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"scores": np.ones((T, S))}, r"scores has the shape \(7, 5\); it must be \(n, t, s\)"),
        ({"scores": "words"}, "scores must be an array of numbers"),
        ({"scores": -weights()}, r"\(head, query, key\) \(0, 0, 0\) is -0.*after the softmax"),
        ({"scores": weights() * np.nan}, "is nan"),
        ({"mask": np.ones((T, S))}, "mask is of dtype float64; it must be boolean"),
        ({"mask": np.ones((S, T), bool)}, r"must be \(7, 5\) or \(3, 7, 5\)"),
        ({"keys": ["a"]}, "keys has 1 tokens for 5 keys"),
        ({"downsample": "median"}, "downsample is 'median'; it must be 'mean' or 'max'"),
    ],
)
def test_invalid_attention_weights_raise_an_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        plots.attention_heads(**({"scores": weights()} | arguments))
