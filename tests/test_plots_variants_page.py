"""The outline of a graph, and the page of outlines side by side."""

import functools

import keras
import plots_models
import pytest
from keras import layers
from plots_models import HEAD_WIDTH, HEADS, INNER, VOCABULARY, WIDTH

import plots
from plots.folding.outline import outline

NORMS = ("pre", "post", "sandwich", "none")
NAMES = (*NORMS, "encoder-decoder", "without skip paths")


@functools.cache
def graph_of(name):
    """Return the graph of a decoder with norms in some place, or of another model."""
    if name == "encoder-decoder":
        return plots.read_graph(plots_models.encoder_decoder("pre", blocks=2))
    if name == "without skip paths":
        return plots.read_graph(plots_models.decoder_only("pre", blocks=2, residual=False))
    return plots.read_graph(plots_models.decoder_only(name, blocks=3))


ATTENTION = 4 * WIDTH * HEADS * HEAD_WIDTH + 3 * HEADS * HEAD_WIDTH  # biases
FEEDFORWARD = 2 * WIDTH * INNER + INNER + WIDTH


def labels(graph):
    return [node.label for node in graph.nodes if node.has_own_name]


def test_a_pre_norm_block_is_two_norms_and_two_sublayers():
    assert labels(outline(graph_of("pre"))) == [
        "tokens", "embedding", "norm", "self_attention", "residual",
        "norm", "feedforward", "residual", "final_norm", "logits",
    ]  # fmt: skip


def test_a_post_norm_block_has_its_norms_after_the_merges():
    assert labels(outline(graph_of("post"))) == [
        "tokens", "embedding", "self_attention", "residual", "norm",
        "feedforward", "residual", "norm", "logits",
    ]  # fmt: skip


def test_a_block_without_skip_paths_is_grouped_by_its_names():
    assert labels(outline(graph_of("without skip paths"))) == [
        "tokens", "embedding", "norm", "self_attention", "norm", "feedforward",
        "final_norm", "logits",
    ]  # fmt: skip


def test_keys_and_values_of_the_encoder_belong_to_the_cross_attention():
    drawn = outline(graph_of("encoder-decoder"))
    (cross,) = [node for node in drawn.nodes if node.label == "cross_attention"]
    assert {"query", "key", "value", "output"} <= {i.rpartition(".")[2] for i in cross.members}
    assert cross.parameters == ATTENTION
    sources = [drawn.node(edge.source).name for edge in drawn.incoming[cross.id]]
    assert sorted(sources) == [
        "decoder.block_0.cross_attention.norm",
        "encoder.block_0.feedforward.residual",
    ]


@pytest.mark.parametrize("norm", NORMS)
def test_outlines_keep_the_skip_paths_and_where_their_norms_are(norm):
    before = plots.skip_paths(plots.read_graph(plots_models.decoder_only(norm, blocks=1)))
    drawn = outline(graph_of(norm))
    assert [path.placement for path in drawn.skip_paths] == [path.placement for path in before]
    assert [path.target for path in drawn.skip_paths] == [path.target for path in before]
    assert drawn.repeats == {"decoder.block_0": 3}


@pytest.mark.parametrize("name", NAMES)
def test_outlines_have_all_weights_of_the_visible_blocks(name):
    drawn, whole = outline(graph_of(name)), plots.fold_blocks(graph_of(name))
    assert sum(node.parameters for node in drawn.nodes) == sum(
        node.parameters for node in whole.nodes if node.layer == node.id
    )


@pytest.mark.parametrize("name", NAMES)
def test_outlines_have_no_masks(name):
    assert any(edge.tensor.dtype == "bool" for edge in graph_of("pre").edges)
    assert all(edge.tensor.dtype != "bool" for edge in outline(graph_of(name)).edges)


def test_an_input_used_by_masks_only_is_left_out():
    x, padding = keras.Input((5, 8), name="x"), keras.Input((5,), dtype="bool", name="padding")
    y = layers.MultiHeadAttention(2, 3, name="attention")(x, x, key_mask=padding)
    drawn = outline(plots.read_graph(keras.Model([x, padding], layers.Add(name="merge")([x, y]))))
    assert drawn.inputs == ("x",)
    assert labels(drawn) == ["x", "attention", "merge"]


def test_sublayers_are_named_after_their_layer_with_weights_if_there_is_one():
    x = inputs = keras.Input((3,), name="x")
    for which, width in (("one", 13), ("two", 17)):
        y = layers.LayerNormalization(name=f"norm_{which}")(x)
        y = layers.Dropout(0.1)(layers.Dense(3, name=f"only_{which}")(y))
        x = layers.Add(name=f"sum_{which}")([x, y])
        y = layers.LayerNormalization(name=f"second_norm_{which}")(x)
        y = layers.Dense(width, activation="relu", name=f"wide_{which}")(y)
        y = layers.Dropout(0.1)(layers.Dense(3, name=f"narrow_{which}")(y))
        x = layers.Add(name=f"merge_{which}")([x, y])
    drawn = outline(plots.read_graph(keras.Model(inputs, x)))
    parts = ("norm_{}", "only_{}", "sum_{}", "second_norm_{}", "branch", "merge_{}")
    expected = [part.format(which) for which in ("one", "two") for part in parts]
    assert [label.removesuffix("@2") for label in labels(drawn)] == ["x", *expected]
    assert [path.placement for path in drawn.skip_paths] == ["pre"] * 4


def test_norms_within_a_sublayer_stay_inside_it():
    x = inputs = keras.Input((3,), name="x")
    y = layers.Dense(5, name="first")(layers.LayerNormalization(name="outer")(x))
    y = layers.Dense(3, name="second")(layers.LayerNormalization(name="inner")(y))
    drawn = outline(plots.read_graph(keras.Model(inputs, layers.Add(name="merge")([x, y]))))
    assert labels(drawn) == ["x", "outer", "branch", "merge"]


# The page


@pytest.fixture(scope="module")
def page():
    figure = plots.variants_page(
        {"$a$": graph_of("pre"), "b": graph_of("encoder-decoder")}, "title"
    )
    figure.draw_without_rendering()
    return figure


def cells(figure):
    """Return the rows of the table by their titles."""
    (table,) = figure.axes[1].tables
    rows = {}
    for (row, column), cell in sorted(table.get_celld().items()):
        rows.setdefault(row, {})[column] = cell.get_text().get_text()
    return {row.pop(-1, ""): list(row.values()) for row in rows.values()}


def test_the_page_fits_letter_and_a4_in_landscape(page):
    width, height = page.get_size_inches()
    assert width <= 11
    assert height <= 8.27
    assert page.get_suptitle() == "title"
    top, bottom = page.axes[0].get_tightbbox(), page.axes[1].get_tightbbox()
    assert top.y0 >= bottom.y1  # the table is below the picture


@pytest.mark.sampled(1)
@pytest.mark.parametrize("names", [NORMS, ["encoder-decoder"] * 2], ids=["four", "two"])
def test_four_decoders_or_two_encoder_decoders_on_a_page_are_legible(names):
    models = {f"{number}. {name}": graph_of(name) for number, name in enumerate(names)}
    figure = plots.variants_page(models)
    figure.draw_without_rendering()
    picture = figure.axes[0]
    pixels_across = picture.images[0].get_size()[1]
    inches_across = picture.get_window_extent().width / figure.dpi
    points = 12 * inches_across / (pixels_across / 200)  # font size of names: 12 at 200 dpi
    assert points > 5


def test_the_table_counts_the_parameters_of_the_whole_models(page):
    table = cells(page)
    assert table[""] == ["$a$", "b"]
    norm = 2 * WIDTH
    assert table["feedforward"] == [str(count * (FEEDFORWARD + norm)) for count in (3, 4)]
    assert table["cross_attention"] == ["–", str(2 * (ATTENTION + norm))]
    assert table["token_embedding"] == [str(VOCABULARY * WIDTH), str(2 * VOCABULARY * WIDTH)]
    assert list(table)[-1] == "total"
    assert table["total"] == [
        f"{graph.parameters / 1e3:.3g} k"
        for graph in (graph_of("pre"), graph_of("encoder-decoder"))
    ]


def test_small_components_are_summed_as_other():
    x = inputs = keras.Input((2,), name="x")
    names = ["ape", "bee", "cat", "dog", "eel", "fox", "gnu", "hen", "owl"]
    for name, width in zip(names, (11, 13, 17, 19, 23, 29, 3, 2, 1), strict=True):
        x = layers.Dense(width, use_bias=False, name=name)(x)
    table = cells(plots.variants_page({"a": keras.Model(inputs, x)}))
    # 29 * 3, 3 * 2 and 2 * 1 weights are last, but for 2 * 11 of the first
    assert list(table) == ["", "fox", "eel", "dog", "cat", "bee", "gnu", "ape", "other", "total"]
    assert table["other"] == ["8"]


def test_a_page_without_models_raises_an_error():
    with pytest.raises(ValueError, match="no models were given"):
        plots.variants_page({})


def test_a_page_of_a_string_raises_an_error():
    with pytest.raises(TypeError, match="str"):
        plots.variants_page({"a": "gpt2_small"})
