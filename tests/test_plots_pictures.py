"""Diagrams of models: DOT, files, and the position of nodes and edges."""

import os
import re
import stat
import sys
import types
from collections import Counter
from dataclasses import replace
from xml.etree import ElementTree

import keras
import plots_models
import pytest
from keras import layers
from small_models import reduced_variant

import builders
import plots
from plots import pictures, registry
from plots.annotations import Declaration
from plots.conformance import sample_graphs
from plots.renderers import dot, engines, graphviz, lay_out, role_of
from plots.skips import mark_skip_paths

SVG = "{http://www.w3.org/2000/svg}"
MAGIC = {
    "jpg": b"\xff\xd8\xff",
    "png": b"\x89PNG\r\n\x1a\n",
    "svg": b"<?xml",
    "pdf": b"%PDF-",
    "dot": b"digraph",
}


@pytest.fixture(scope="module")
def small():
    return plots_models.decoder_only("pre", blocks=1)


@pytest.mark.parametrize("suffix", MAGIC)
def test_every_format_has_its_signature_and_is_reproducible(suffix, small, tmp_path):
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    plots.plot_model(small, first, dpi=50)
    plots.plot_model(small, second, dpi=50)
    assert first.read_bytes().startswith(MAGIC[suffix])
    assert first.read_bytes() == second.read_bytes()


def test_a_pdf_does_not_contain_the_time_of_writing(small, tmp_path):
    plots.plot_model(small, tmp_path / "model.pdf")
    dates = re.findall(rb"Date \(D:(\d+)", (tmp_path / "model.pdf").read_bytes())
    assert set(dates) == {b"19700101000000"}


def test_a_renderer_that_returns_neither_text_nor_bytes_raises_an_error(
    small, tmp_path, monkeypatch
):
    monkeypatch.setattr(registry, "_RENDERERS", dict(registry._RENDERERS))
    plots.graph_renderer("counting", suffixes=(".number",))(lambda graph: len(graph.nodes))
    with pytest.raises(TypeError, match="'counting' returned a int"):
        plots.draw(small, tmp_path / "a.number")
    assert not list(tmp_path.iterdir())


def test_arguments_in_the_wrong_order_are_an_error(small):
    for draw in (plots.plot_model, plots.draw):
        with pytest.raises(TypeError, match="not as Functional; the model comes first"):
            draw("model.jpg", small)
    with pytest.raises(TypeError, match="a mapping title -> model, given Functional"):
        plots.plot_side_by_side(small)


def test_a_name_without_suffix_becomes_a_png(small, tmp_path):
    plots.plot_model(small, str(tmp_path / "model"), dpi=50)
    assert (tmp_path / "model.png").read_bytes().startswith(MAGIC["png"])


def test_parallel_edges_are_labelled_with_their_ports():
    x = keras.Input((5, 7), name="x")
    model = keras.Model(x, layers.MultiHeadAttention(3, 2, name="attention")(x, x, key=x))
    text = dot.graph_to_dot(plots.read_graph(model)).to_string()
    ports = re.findall(r'"?x"? -> "?attention"? .*label="\s*(\w+)\s*"', text)
    assert sorted(ports) == ["key", "query", "value"]


def test_a_mask_is_drawn_once_and_referenced_by_name():
    graph = plots.read_graph(plots_models.decoder_only("pre", blocks=3))
    text = dot.graph_to_dot(mark_skip_paths(graph)).to_string()
    assert len(re.findall(r'label="mask 1"', text)) == 3
    assert "= mask 1" in text


def test_labels_are_escaped_in_every_format(tmp_path):
    hostile = '<b>&"quoted"{a|b}\\n\n\\ \x07é<b>'
    x = keras.Input((3,), name="x")
    model = keras.Model(x, layers.Dense(5, name=hostile)(x), name=hostile)
    for suffix in MAGIC:
        plots.plot_model(model, tmp_path / f"model.{suffix}", show_layer_names=True, dpi=50)
    svg = (tmp_path / "model.svg").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;&quot;quoted&quot;{a|b}" in svg
    assert "é&lt;b&gt;" in svg
    plots.plot_side_by_side({hostile: model, "b": model}, tmp_path / "both.svg")
    assert "quoted&quot;{a|b}" in (tmp_path / "both.svg").read_text(encoding="utf-8")
    for name in ("model.svg", "both.svg"):
        ElementTree.fromstring((tmp_path / name).read_text(encoding="utf-8"))


def test_names_of_nodes_tags_and_edges_are_displayed_unchanged(tmp_path):
    name = "a\x07b &lt; &amp;#60;"
    x = keras.Input((3, 5), name="x")
    mask = keras.Input((3, 3), dtype="bool", name=f"{name} mask")
    y = layers.MultiHeadAttention(2, 3, name=f"{name}.inside")(x, x, attention_mask=mask)
    graph = plots.read_graph(keras.Model([x, mask], layers.Dense(5, name=f"{name}.last")(y)))
    plots.draw(graph, tmp_path / "model.svg")
    svg = ElementTree.fromstring((tmp_path / "model.svg").read_text(encoding="utf-8"))
    texts = [element.text for element in svg.iter(f"{SVG}text")]
    printed = name.replace("\x07", "␇")
    assert texts.count(f"{printed} mask") == 2  # its node, and the tag at its user
    assert texts[0].strip("\N{NO-BREAK SPACE}") == printed  # the title of the cluster
    tips = {element.get("{http://www.w3.org/1999/xlink}title") for element in svg.iter()}
    assert f"{printed}.last (Dense)" in tips
    assert any(tip.startswith(f"{printed} mask → {printed}.inside (") for tip in tips - {None})


def test_labels_are_optional(small, tmp_path):
    bare, full = tmp_path / "bare.dot", tmp_path / "full.dot"
    plots.plot_model(small, bare)
    plots.plot_model(
        small,
        full,
        show_shapes=True,
        show_dtype=True,
        show_layer_names=True,
        show_layer_activations=True,
        show_trainable=True,
    )
    up = "decoder.block_0.feedforward.up"
    said = [
        line for line in full.read_text(encoding="utf-8").splitlines() if f"<b>{up}</b>" in line
    ]
    assert len(said) == 1
    for words in ("(None, None, 7) → (None, None, 11)", "float32", "<b>relu</b>", "trainable"):
        assert words in said[0]
    labels = re.findall(r"label=<(.*)>", bare.read_text(encoding="utf-8"))
    assert any("<b>up</b>" in label for label in labels)
    assert not any(word in label for label in labels for word in ("float32", "7, 11"))


def test_nested_models_can_be_opened(tmp_path):
    inner_x = keras.Input((7,))
    inner = keras.Model(inner_x, layers.Dense(7, name="inside")(inner_x), name="inner")
    x = keras.Input((7,), name="x")
    model = keras.Model(x, inner(x))
    plots.plot_model(model, tmp_path / "closed.dot")
    plots.plot_model(model, tmp_path / "opened.dot", expand_nested=True)
    assert "inside" not in (tmp_path / "closed.dot").read_text(encoding="utf-8")
    opened = (tmp_path / "opened.dot").read_text(encoding="utf-8")
    assert "inside" in opened
    assert 'subgraph "cluster_inner"' in opened


def test_equal_blocks_are_folded_and_counted():
    graph = plots.fold_blocks(plots.read_graph(plots_models.encoder_decoder("post", blocks=5)), 2)
    assert graph.repeats == {"encoder.block_1": 4, "decoder.block_1": 4}
    assert not any("block_2" in node.id for node in graph.nodes)
    assert graph.incoming["logits"][0].source == "decoder.block_1.feedforward.norm"
    assert {edge.source for edge in graph.incoming["decoder.block_0.cross_attention.key"]} == {
        "encoder.block_1.feedforward.norm"
    }
    assert len(plots.skip_paths(graph)) == 2 * 2 + 2 * 3


def test_a_block_that_deviates_is_not_folded():
    x = keras.Input((7,), name="x")
    y = x
    for number, width in enumerate((5, 5, 11, 5)):
        hidden = layers.Dense(width, activation="relu", name=f"stack.block_{number}.up")(y)
        down = layers.Dense(7, name=f"stack.block_{number}.down")(hidden)
        y = layers.Add(name=f"stack.block_{number}.residual")([y, down])
    graph = plots.fold_blocks(plots.read_graph(keras.Model(x, y)))
    assert graph.repeats == {"stack.block_0": 2}
    kept = {node.id for node in graph.nodes if node.label == "up"}
    assert kept == {f"stack.block_{number}.up" for number in (0, 2, 3)}
    assert ("stack.block_0.residual", "inputs") in [
        (edge.source, edge.port) for edge in graph.incoming["stack.block_2.up"]
    ]


def test_unnamed_merges_are_folded_with_their_blocks():
    x = keras.Input((7,), name="x")
    y = x
    for number in range(3):
        y = y + layers.Dense(7, activation="relu", name=f"block_{number}.dense")(y)
    graph = plots.fold_blocks(plots.read_graph(keras.Model(x, layers.Dense(5, name="out")(y))))
    assert [node.id for node in graph.nodes] == ["x", "block_0.dense", "add#1", "out"]
    assert graph.repeats == {"block_0": 3}


def test_models_side_by_side_have_titles_and_streams(tmp_path):
    models = {norm: plots_models.decoder_only(norm, blocks=4) for norm in ("pre", "post")}
    plots.plot_side_by_side(models, tmp_path / "both.svg")
    svg = (tmp_path / "both.svg").read_text(encoding="utf-8")
    assert ">pre<" in svg
    assert ">post<" in svg
    assert svg.count("× 4") == 2
    assert dot.STREAM_COLOUR.lower() in svg


@pytest.mark.sampled(2)
@pytest.mark.parametrize("rankdir", ["TB", "BT", "LR", "RL"])
def test_models_side_by_side_are_in_the_given_order(rankdir, tmp_path):
    names = ["pre", "none", "post"]
    models = {name: plots_models.decoder_only(name, blocks=2) for name in names}
    plots.plot_side_by_side(models, tmp_path / "all.svg", rankdir=rankdir)
    texts = list(ElementTree.parse(tmp_path / "all.svg").getroot().iter(f"{SVG}text"))
    axis = "x" if rankdir in ("TB", "BT") else "y"
    places = {text.text: float(text.get(axis)) for text in texts if text.text in names}
    assert sorted(names, key=places.__getitem__) == names


def test_a_failed_write_leaves_only_the_old_file(small, tmp_path, monkeypatch):
    target = tmp_path / "model.svg"
    plots.plot_model(small, target)
    old = target.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        plots.plot_model(small, target)
    assert target.read_bytes() == old
    assert list(tmp_path.iterdir()) == [target]


def test_missing_folders_are_created_and_files_have_the_usual_permissions(small, tmp_path):
    target = tmp_path / "a" / "b" / "model.dot"
    plots.plot_model(small, target)
    ordinary = tmp_path / "ordinary"
    ordinary.write_text("", encoding="utf-8")
    assert stat.S_IMODE(target.stat().st_mode) == stat.S_IMODE(ordinary.stat().st_mode)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"to_file": "model.bmp"}, ValueError, r"'\.bmp' names no known format.*\.png, \.svg"),
        ({"rankdir": "up"}, ValueError, "rankdir is 'up'; it must be one of TB"),
        ({"dpi": 0}, ValueError, "must be a positive number"),
        ({"blocks": 0}, ValueError, "an int, 1 or more"),
        ({"colour": "red"}, TypeError, "unexpected keyword argument 'colour'"),
    ],
)
def test_wrong_arguments_raise_an_error_before_anything_is_written(
    arguments, error, says, small, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        plots.plot_model(small, **{"to_file": "model.svg"} | arguments)
    assert list(tmp_path.iterdir()) == []


def test_no_models_side_by_side_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="no models were given"):
        plots.plot_side_by_side({}, tmp_path / "none.svg")


def test_the_png_of_a_deep_model_has_a_limited_size(tmp_path):
    x = keras.Input((7,))
    y = x
    for _ in range(150):
        y = layers.Activation("relu")(y)
    plots.plot_model(keras.Model(x, y), tmp_path / "deep.png")
    header = (tmp_path / "deep.png").read_bytes()[16:24]
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:], "big")
    assert 0 < width < height <= graphviz.MAX_SIDE_PIXELS


def test_notebooks_get_an_image(small, tmp_path, monkeypatch):
    display = types.SimpleNamespace(
        Image=lambda filename: ("image", filename), SVG=lambda filename: ("svg", filename)
    )
    notebook = types.SimpleNamespace(display=display, get_ipython=lambda: "a running notebook")
    monkeypatch.setitem(sys.modules, "IPython", notebook)
    for suffix, kind in (("png", "image"), ("svg", "svg")):
        target = tmp_path / f"model.{suffix}"
        assert plots.plot_model(small, target, dpi=50) == (kind, str(target))
    assert plots.plot_model(small, tmp_path / "model.pdf") is None
    notebook.get_ipython = lambda: None
    assert plots.plot_model(small, tmp_path / "model.svg") is None


def test_without_graphviz_the_error_names_the_package_to_install(small, tmp_path, monkeypatch):
    monkeypatch.setattr(engines.shutil, "which", lambda _: None)
    monkeypatch.setattr(engines, "_processes", {})
    monkeypatch.setitem(sys.modules, "pygraphviz", None)
    with pytest.raises(ImportError, match="pip install pygraphviz"):
        plots.plot_model(small, tmp_path / "model.svg")
    plots.plot_model(small, tmp_path / "model.dot")


def test_plot_model_has_the_arguments_of_keras():
    import inspect

    ours = inspect.signature(pictures.plot_model).parameters
    theirs = inspect.signature(keras.utils.plot_model).parameters
    named = [name for name in theirs if name != "kwargs"]
    assert list(ours)[: len(named)] == named
    different = {name for name in named if ours[name].default != theirs[name].default}
    assert different == {"splines"}  # the default of Keras has no room for edge labels


def test_models_side_by_side_support_the_formats_of_graphviz_only(small, tmp_path):
    plots.plot_side_by_side({"a": small}, tmp_path / "models.gv")
    assert (tmp_path / "models.gv").read_bytes().startswith(MAGIC["dot"])
    with pytest.raises(ValueError, match=r"models\.html.* supports png, jpg, svg, pdf, dot"):
        plots.plot_side_by_side({"a": small}, tmp_path / "models.html")


@pytest.mark.slow
def test_a_folded_model_of_twenty_four_blocks_fits_a_page(tmp_path):
    heights = {}
    for blocks in (2, 24):
        target = tmp_path / f"{blocks}.svg"
        plots.draw(plots_models.decoder_only("pre", blocks=blocks), target, depth=2)
        heights[blocks] = float(re.search(r'height="([\d.]+)', target.read_text("utf-8"))[1])
    assert heights[24] == heights[2] < 11 * 72  # points: the height of a letter page


def test_edges_are_not_merged():
    graph = mark_skip_paths(plots.read_graph(plots_models.decoder_only("pre", blocks=2)))
    plain = graphviz.render_dot(dot.graph_to_dot(graph), "plain").decode().replace("\\\n", "")
    lines = [line for line in plain.splitlines() if line.startswith("edge") and "invis" not in line]
    ends = [re.match(r'edge ("[^"]+"|\S+) ("[^"]+"|\S+)', line).groups() for line in lines]
    drawn_lines = Counter((a.strip('"'), b.strip('"')) for a, b in ends)
    layout = lay_out(graph)
    lines_wanted = Counter((e.source, e.target) for e in graph.edges if not layout.is_referred(e))
    assert {pair: drawn_lines[pair] for pair in lines_wanted} == lines_wanted
    assert drawn_lines.total() == len(graph.edges)


@pytest.mark.parametrize("plugins", [["diagnose"], ["shapes"], ["shapes", "diagnose"]], ids=str)
def test_notes_and_totals_of_the_whole_graph_are_in_its_label(plugins, small, tmp_path):
    plots.draw(small, tmp_path / "model.svg", plugins=["skip_paths", *plugins])
    text = (tmp_path / "model.svg").read_text(encoding="utf-8")
    assert ("norm Transformer" in text) == ("diagnose" in plugins)
    assert ("width of the stream" in text) == ("shapes" in plugins)


@pytest.mark.parametrize(("renderer", "suffix"), [(None, "png"), ("text", "txt"), ("svg", "svg")])
def test_a_name_without_suffix_gets_that_of_the_renderer(renderer, suffix, small, tmp_path):
    plots.draw(small, tmp_path / "model", renderer=renderer)
    assert [path.name for path in tmp_path.iterdir()] == [f"model.{suffix}"]
    plots.draw(small, tmp_path / f"named.{suffix}")
    assert (tmp_path / f"model.{suffix}").read_bytes() == (
        tmp_path / f"named.{suffix}"
    ).read_bytes()


@pytest.mark.parametrize("suffix", ["svg", "html", "txt"])
def test_a_negative_depth_raises_an_error(suffix, small, tmp_path):
    with pytest.raises(ValueError, match="depth is -1; it must be a number of levels, 0 or more"):
        plots.draw(small, tmp_path / f"model.{suffix}", depth=-1)
    assert list(tmp_path.iterdir()) == []


def test_tags_are_unique():
    model = builders.build(reduced_variant("t5_small", "encoder_decoder"), abstract=True)
    graph = mark_skip_paths(plots.read_graph(model, open_nested=True))
    tags = lay_out(graph).tags
    biases = {
        node_id: tag for node_id, tag in tags.items() if node_id.endswith("relative_position_bias")
    }
    assert len(biases) == 2
    assert len(set(tags.values())) == len(tags)
    assert all(node_id.endswith(tag) for node_id, tag in biases.items())


@pytest.mark.parametrize(
    ("changes", "role"),
    [
        ({"class_name": "AttentionFreeMixer"}, "weights"),
        ({"class_name": "PositionwiseFeedForward"}, "weights"),
        ({"class_name": "Theirs", "bases": ("MultiHeadAttention",)}, "attention"),
        ({"class_name": "Theirs", "bases": ("ReversibleEmbedding", "Embedding")}, "embedding"),
        ({"class_name": "Theirs", "declaration": Declaration(role="attention")}, "attention"),
        (
            {"class_name": "Theirs", "declaration": Declaration(role="rotary_positions")},
            "embedding",
        ),
        ({"class_name": "CachedGemmaAttention"}, "attention"),
        ({"class_name": "TokenAndPositionEmbedding"}, "embedding"),
    ],
)
def test_colours_follow_roles_and_known_classes_not_names(changes, role):
    call = sample_graphs(large=False)["parallel edges"].nodes[-1]
    assert role_of(replace(call, **changes)) == role
