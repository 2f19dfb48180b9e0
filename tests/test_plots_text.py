"""Graphs as indented text, with the residual stream at the left."""

import re
from dataclasses import replace

import keras
import plots_models
import pytest
from keras import layers

import plots
from plots import pictures
from plots.conformance import sample_graphs
from plots.hierarchy import block_by_block, find_namespaces
from plots.skips import mark_skip_paths

SAMPLES = sample_graphs(large=False)


def marked(model):
    return mark_skip_paths(plots.read_graph(model, open_nested=True))


def dense(name, x):
    return layers.Dense(7, activation="relu", name=name)(x)


def added(name, *tensors):
    return layers.Add(name=name)(list(tensors))


def u_net():
    x = keras.Input((7,), name="x")
    a = dense("a", x)
    b = dense("b", a)
    inner = added("inner", b, dense("bottom", b))
    return keras.Model(x, dense("out", added("outer", a, dense("up", inner))))


def two_heads():
    x = keras.Input((7,), name="x")
    trunk = added("trunk", x, dense("body", x))
    heads = [added(f"head_{n}", trunk, dense(f"branch_{n}", trunk)) for n in (1, 2)]
    return keras.Model(x, [dense(f"out_{n}", head) for n, head in enumerate(heads)])


def parallel_sublayers():
    x = keras.Input((7,), name="x")
    attention, feedforward = dense("attention", x), dense("feedforward", x)
    return keras.Model(x, added("second", added("first", x, attention), feedforward))


def two_towers_that_take_turns():
    left, right = keras.Input((7,), name="left"), keras.Input((7,), name="right")
    x, y = left, right
    for number in (1, 2):
        x = added(f"left_{number}", x, dense(f"of_left_{number}", x))
        y = added(f"right_{number}", y, dense(f"of_right_{number}", y))
    return keras.Model([left, right], layers.Concatenate(name="both")([x, y]))


def projected_shortcut():
    x = keras.Input((7,), name="x")
    short = layers.Dense(5, name="shortcut")(x)
    long = layers.Dense(5, name="last")(dense("first", x))
    return keras.Model(x, added("merge", short, long))


MODELS = {
    "pre-norm": lambda: plots_models.decoder_only("pre"),
    "post-norm": lambda: plots_models.decoder_only("post"),
    "encoder-decoder": lambda: plots_models.encoder_decoder("post"),
    "u-net": u_net,
    "two heads": two_heads,
    "parallel sublayers": parallel_sublayers,
    "two towers": two_towers_that_take_turns,
    "projected shortcut": projected_shortcut,
}


@pytest.fixture(scope="module")
def graphs():
    return {name: marked(make()) for name, make in MODELS.items()}


def rows_of(text):
    """Return the margin and the name of every row: [("┣━╮", "self_attention"), ...]."""
    table = text.partition("\n\n")[2].rpartition("\n\n")[0].splitlines()
    margin = max(len(re.match(r"[ ○●⊕┃│┣━╮┤╯┓┳]*", line)[0].rstrip()) for line in table)
    return [(line[:margin].ljust(margin), line[margin:].strip()) for line in table]


NEEDS_BELOW, NEEDS_ABOVE = set("┃│╮┓┳┣┤○"), set("┃│┣┤╯⊕")
GOES_UP, GOES_DOWN = set("┃│┣┤╯●⊕"), set("┃│┣┤╮┓┳○●⊕")


@pytest.mark.parametrize("name", MODELS)
def test_lines_of_the_stream_have_no_loose_ends(name, graphs):
    lines = [margin for margin, _ in rows_of(plots.to_text(graphs[name]))]
    blank = " " * len(lines[0])
    for above, line, below in zip([blank, *lines], lines, [*lines[1:], blank], strict=False):
        for column, sign in enumerate(line):
            assert sign not in NEEDS_BELOW or below[column] in GOES_UP, (line, below)
            assert sign not in NEEDS_ABOVE or above[column] in GOES_DOWN, (above, line)
            if sign in "╮╯┤┓━":
                assert line[column - 1] in "━┣⊕○●┳┤", line


@pytest.mark.parametrize("name", MODELS)
def test_merges_are_marked_and_sublayers_are_beside_the_stream(name, graphs):
    graph = graphs[name]
    line_of = {name: margin for margin, name in rows_of(plots.to_text(graph, shapes=False))}

    def margin(node_id):
        namespace = find_namespaces(graph)[node_id]
        shown = node_id.removeprefix(f"{namespace}.")
        found = [m for row, m in line_of.items() if row.split()[0] == shown]
        return found[-1]

    assert graph.skip_paths
    for path in graph.skip_paths:
        merge = margin(path.target)
        assert "⊕━" in merge
        column = merge.index("⊕") + 2
        for node_id in path.bypassed:
            assert margin(node_id)[column] in "│╮┤┃●⊕┣┳", (path, node_id)


def test_a_folded_transformer_block_is_four_rows(graphs):
    text = plots.to_text(plots.fold(graphs["pre-norm"], depth=2), shapes=False)
    rows = [(margin, name.split("  ")[0]) for margin, name in rows_of(text)]
    start = rows.index(("┃  ", "block_0 × 2"))
    assert rows[start : start + 6] == [
        ("┃  ", "block_0 × 2"),
        ("┣━╮", "self_attention"),
        ("⊕━╯", "self_attention.residual"),
        ("┣━╮", "feedforward"),
        ("⊕━╯", "feedforward.residual"),
        ("●  ", "final_norm"),
    ]


def test_encoder_and_decoder_have_separate_streams(graphs):
    signs = "".join(margin[0] for margin, _ in rows_of(plots.to_text(graphs["encoder-decoder"])))
    assert re.fullmatch(r" *○[●┃┣⊕]+ *○[●┃┣⊕]+", signs)


def test_a_branch_beside_a_projected_shortcut_starts_at_the_same_row(graphs):
    rows = [
        (margin, row.split()[0])
        for margin, row in rows_of(plots.to_text(graphs["projected shortcut"]))
    ]
    assert rows == [
        ("○━╮", "x"),
        ("● │", "shortcut"),
        ("┃ │", "first"),
        ("┃ │", "last"),
        ("⊕━╯", "merge"),
    ]


def test_parallel_sublayers_leave_the_stream_at_the_same_row(graphs):
    text = plots.to_text(graphs["parallel sublayers"])
    assert [(margin, row.split()[0]) for margin, row in rows_of(text)] == [
        ("○  ", "x"),
        ("┣━╮", "attention"),
        ("⊕━┤", "first"),
        ("┃ │", "feedforward"),
        ("⊕━╯", "second"),
    ]


def takes(text, name):
    row = next(row for _, row in rows_of(text) if row.split()[0] == name)
    return row.partition("← ")[2]


def test_arguments_have_the_shortest_name_relative_to_the_namespace(graphs):
    block = plots.to_text(graphs["post-norm"], width=200).partition("block_1")[2]
    said = [line.partition("← ")[2].strip() for line in block.splitlines() if "←" in line]
    assert said[0] == "block_0.feedforward.norm"  # the query of the second block
    assert said[3] == "query, key, value, mask=expand_dims#3"
    assert "up" in said
    assert said[-1] == "decoder.block_1.feedforward.norm"  # the logits, outside of all namespaces


def test_an_ambiguous_name_is_longer():
    x = keras.Input((7,), name="x")
    outer = layers.Dense(7, name="a.norm")(x)
    inner = layers.Dense(7, name="a.b.norm")(outer)
    model = keras.Model(x, added("a.b.sum", outer, inner))
    assert takes(plots.to_text(plots.read_graph(model)), "sum") == "a.norm, norm"


def test_constants_outputs_and_shared_weights_are_arguments():
    x = keras.Input((5, 7), name="x")
    _, state, _ = layers.LSTM(7, return_state=True, name="memory")(x)
    shared = layers.Dense(7, name="shared")
    model = keras.Model(x, [shared(state) * 2.0, shared(x)])
    text = plots.to_text(plots.read_graph(model), width=200)
    assert takes(text, "shared") == "memory[1]"
    assert takes(text, "shared@2") == "x, weights of shared"
    assert takes(text, "multiply#1") == "shared, x2=2.0"
    assert text.endswith("outputs: multiply#1, shared@2\n")


def test_an_implicit_mask_is_marked():
    text = plots.to_text(SAMPLES["an implicit mask"])
    assert "← inputs=embedding, mask=mask (implicit)" in text


def test_long_rows_are_wrapped_without_loss(graphs):
    wide = plots.to_text(graphs["encoder-decoder"], width=500)
    narrow = plots.to_text(graphs["encoder-decoder"], width=120)
    assert max(map(len, narrow.splitlines())) <= 120 < max(map(len, wide.splitlines()))
    signs = re.compile(r"[ ○●⊕┃│┣━╮┤╯\n]+")
    assert signs.sub("", narrow) == signs.sub("", wide)
    assert len(narrow.splitlines()) > len(wide.splitlines())


def test_names_are_never_broken():
    graph = SAMPLES["deep names"]
    text = plots.to_text(graph, width=1)
    for node in graph.nodes:
        assert node.label in text


def test_overlays_are_columns_with_titles_and_notes_are_below_their_calls():
    graph = SAMPLES["a residual stream"]
    norm, call = "decoder.block_0.attention.norm", "decoder.block_0.attention.heads"
    graph = replace(
        graph,
        overlays=(
            plots.Overlay("a", "first", "", {call: {"": 590}}, {"": 5900}),
            plots.Overlay("b", "second", "B", {norm: {"b t": 2e6}}),
        ),
        notes=(
            plots.Note("finding", (call, norm), "Something is odd.", "a paper"),
            plots.Note("finding", (f"{norm} -> {call}.inputs",), "And here."),
            plots.Note("finding", (), "All is odd."),
        ),
    )
    lines = plots.to_text(graph, shapes=False).splitlines()
    assert lines[1:3] == ["first: 5.9 k in total", "! All is odd."]
    titles = lines[4]
    row = next(number for number, line in enumerate(lines) if " heads " in line)
    assert lines[row].index("590 (10.0 %)") == titles.index("first")
    assert lines[row - 1].index("2 MB b t") == titles.index("second")
    assert [line.strip("┃│ ") for line in lines[row + 1 : row + 3]] == [
        "! Something is odd. (a paper)",
        "! And here.",
    ]
    assert all(line.startswith("┃ │") for line in lines[row + 1 : row + 3])


def test_the_head_describes_the_model_and_its_loss():
    model = plots_models.decoder_only("post", blocks=1)
    model.get_layer("logits").trainable = False
    model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    head = plots.to_text(marked(model)).splitlines()[:2]
    assert re.fullmatch(
        r"post_norm: 28 calls, 34 edges, \S+ parameters, 104 of them not trainable, "
        r"2 skip paths \(post-norm\)",
        head[0],
    )
    assert head[1] == "loss: SparseCategoricalCrossentropy (from_logits=True)"


def test_control_characters_are_replaced_and_wide_characters_count_twice():
    x = keras.Input((7,), name="x")
    y = layers.Dense(7, name="编码器")(layers.Dense(7, name="a\nb\x1b[31m")(x))
    rows = [row for _, row in rows_of(plots.to_text(plots.read_graph(keras.Model(x, y))))]
    assert [row.split()[0] for row in rows] == ["x", "a\ufffdb\ufffd[31m", "编码器"]
    columns = [row.index("(None, 7)") for row in rows]
    assert columns == [columns[0], columns[0], columns[0] - 3]  # three characters of two columns


@pytest.mark.parametrize("width", [0, -7])
def test_a_width_below_one_raises_an_error(width):
    with pytest.raises(ValueError, match=f"width is {width}; it must be a number of characters"):
        plots.to_text(SAMPLES["one call"], width=width)


@pytest.mark.parametrize("name", MODELS)
def test_calls_are_grouped_by_namespace_in_topological_order(name, graphs):
    graph = graphs[name]
    namespaces = find_namespaces(graph)
    order = [node.id for node in block_by_block(graph, namespaces)]
    assert sorted(order) == sorted(graph.index)
    place = {node_id: number for number, node_id in enumerate(order)}
    assert all(place[edge.source] < place[edge.target] for edge in graph.edges)
    for name in {namespace for namespace in namespaces.values() if namespace}:
        inside = [place[i] for i in order if f"{namespaces[i]}.".startswith(f"{name}.")]
        assert inside == list(range(inside[0], inside[0] + len(inside))), name


def test_a_namespace_that_is_not_contiguous_has_its_title_twice():
    x = keras.Input((7,), name="x")
    first = layers.Dense(7, name="model.first")(x)
    model = keras.Model(x, layers.Dense(7, name="model.last")(layers.Dense(7, name="own")(first)))
    names = [row.split()[0] for _, row in rows_of(plots.to_text(plots.read_graph(model)))]
    assert names == ["x", "model", "first", "own", "model", "last"]


def test_printing_a_graph_marks_the_stream_and_folds_blocks():
    graph = plots.read_graph(plots_models.decoder_only("pre", blocks=3))
    assert not graph.skip_paths
    assert str(graph) == plots.to_text(plots.fold(mark_skip_paths(graph)))
    assert "block_0 × 3" in str(graph)


def test_the_repr_of_a_graph_is_short():
    graph = replace(SAMPLES["a residual stream"], parameters=1234567)
    assert repr(graph) == "<Graph 'stack': 24 calls, 29 edges, 1,234,567 parameters>"


def test_a_notebook_shows_a_diagram_with_the_stream():
    svg = plots.read_graph(plots_models.decoder_only("pre", blocks=3))._repr_svg_()
    assert svg.startswith("<svg")
    assert "#d55e00" in svg
    assert "× 3" in svg


def test_a_notebook_collapses_clusters_of_large_graphs(monkeypatch):
    graph = SAMPLES["a residual stream"]
    different = tuple(  # no two blocks are equal, so none can be folded
        replace(node, config={"label": f"{number}"}) for number, node in enumerate(graph.nodes)
    )
    graph = replace(graph, nodes=different)
    assert graph._repr_svg_().count('class="node"') == 24
    monkeypatch.setattr(pictures, "MOST_CALLS", 10)
    # tokens, embedding, logits, and three blocks of two sublayers and two merges, or collapsed
    assert graph._repr_svg_().count('class="node"') == 3 + 3
    monkeypatch.setattr(pictures, "MOST_CALLS", 1)
    assert graph._repr_svg_().count('class="node"') == 3 + 1
    calls = [
        plots.Node(f"call {n}", "", "layer", "Dense", (), "", f"{n}", (), 0, 0, None, {})
        for n in range(5)
    ]
    assert plots.Graph("flat", tuple(calls), (), (), (), 0, 0)._repr_svg_() is None


def test_line_breaks_in_a_note_are_kept():
    note = plots.Note("finding", ("attention",), "One word.\nAnother\x07one.\n\nA third.")
    rows = plots.to_text(replace(SAMPLES["parallel edges"], notes=(note,))).splitlines()
    [first] = [number for number, row in enumerate(rows) if "! One word." in row]
    start = rows[first].index("One")
    said = [row[start:] for row in rows[first : first + 3]]
    assert said == ["One word.", "Another\ufffdone.", "A third."]
