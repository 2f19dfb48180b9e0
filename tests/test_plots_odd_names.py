"""Names with every special character reach the diagrams unchanged and break none of them."""

import json
import xml.etree.ElementTree as ElementTree
from itertools import pairwise

import keras
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_plots_mermaid import Chart

import plots
from plots.hierarchy import find_namespaces
from plots.renderers.graphviz import svg
from plots.renderers.labels import frame_title

SVG = "{http://www.w3.org/2000/svg}"
TENSOR = plots.Tensor((None, 7), "float32")
ODD = [
    "#0",
    "a.b..c",
    "..",
    ".a",
    "a.",
    "",
    " ",
    r"\N",
    r"a.\G.\N",
    r"\\N \E \T \H \L \l \r \n",
    "a\\",
    "end",
    "subgraph",
    "{a|b}",
    '"quoted"',
    "[x](y)",
    "]",
    "<b>x</b>",
    "&amp;&#92;N",
    "&E;",
    "%%{init}%%",
    "$$x$$",
    "-->",
    "日本語.é 🙂",
    "x" * 300,
    "of.two  spaces",
    "__init__.py",
]
CONTROL = ["line\nbreak", "tab\tx", "\r", "\x00\x1b", "\x7f\x85\u2028", "\u200b"]


def graph_of(names):
    """Return a chain of calls with these names; each is also the name of an argument."""
    nodes = [
        plots.Node(
            f"{number} {name}",
            name,
            "layer",
            "Dense",
            (),
            name.rpartition(".")[0],
            f"{number} {name}",
            (TENSOR,),
            0,
            0,
            True,
            {},
        )
        for number, name in enumerate(names)
    ]
    edges = [
        plots.Edge(a.id, b.id, port, 0, TENSOR)
        for a, b in pairwise(nodes)
        for port in dict.fromkeys(("x", b.name))
    ]
    return plots.Graph("".join(names)[:200], tuple(nodes), tuple(edges), (), (), 0, 0)


def spaced(text):
    return text.replace("\N{NO-BREAK SPACE}", " ")


def check(names):
    graph = graph_of(names)
    titles = [node.label for node in graph.nodes]
    chart = Chart(plots.to_mermaid(graph))
    assert [chart.labels[f"n{n}"] for n in range(len(names))] == [f"{t}\nDense" for t in titles]
    root = ElementTree.fromstring(svg(graph, columns=1))
    groups = {kind: [g for g in root.iter(f"{SVG}g") if g.get("class") == kind] for kind in KINDS}
    texts = {
        kind: [spaced("".join(text.text or "" for text in group.iter(f"{SVG}text"))) for group in g]
        for kind, g in groups.items()
    }
    assert sorted(texts["node"]) == sorted(f"{spaced(t) or ' '} Dense" for t in titles)
    ports = [edge.port for edge in graph.edges]
    labels = [text.strip() for text in texts["edge"]]
    assert sorted(filter(None, labels)) == sorted(
        spaced(p).strip()
        for p, q in zip(ports, graph.edges, strict=True)
        if p.strip() and sum((e.source, e.target) == (q.source, q.target) for e in graph.edges) > 1
    )
    tips = [spaced(a.get("{http://www.w3.org/1999/xlink}title", "")) for a in root.iter(f"{SVG}a")]
    assert {spaced(f"{node.id} (Dense)") for node in graph.nodes} <= set(tips)


KINDS = ("node", "edge", "cluster")


def test_odd_names_are_shown_unchanged():
    check(ODD)


names = st.text(
    st.sampled_from(".\\\"'<>&;#{}[]()|%$~`*_-=:/NGELT10ab é日🙂"),
    max_size=9,
)


@settings(max_examples=12)
@given(st.lists(names, min_size=1, max_size=5))
def test_any_names_are_shown_unchanged(some):
    check(some)


@pytest.mark.slow
@settings(max_examples=300)
@given(st.lists(st.text(st.characters(exclude_categories=("C", "Z")), max_size=20), min_size=1))
def test_names_of_any_characters_are_shown_unchanged(some):
    check(some)


def test_control_characters_break_no_renderer():
    graph = graph_of(CONTROL)
    ElementTree.fromstring(svg(graph))
    chart = Chart(plots.to_mermaid(graph))
    assert chart.labels["n0"] == "line\nbreak\nDense"
    assert len(chart.labels) == len(CONTROL)
    plots.to_text(graph).encode()
    json.loads(plots.to_model_explorer(graph))


def test_clusters_without_a_name_are_clusters():
    graph = graph_of(["a.b..c", "a.b..d", "e"])
    chart = Chart(plots.to_mermaid(graph))
    assert chart.cluster_of["n0"] == ("a", "b", "")


def residual(name, prefix):
    """Return a model of x + f(x) whose model and layer have these names."""
    x = keras.Input((7,), name="x")
    y = keras.layers.Dense(7, activation="relu", name=f"{prefix}inside")(x)
    return keras.Model(x, keras.layers.Add(name=f"{prefix}sum")([x, y]), name=name)


@pytest.mark.parametrize(
    ("name", "namespace", "label"),
    [
        ("end.", "", "end."),
        (".start", "", ".start"),
        ("a.b..c", "a", "b..c"),
        ("a.b.c.", "a.b", "c."),
        ("..", "", ".."),
        ("a.b.c", "a.b", "c"),
    ],
)
def test_dots_that_separate_nothing_belong_to_the_name(name, namespace, label):
    x = keras.Input((7,), name="x")
    node = plots.read_graph(keras.Model(x, keras.layers.Dense(2, name=name)(x))).nodes[-1]
    assert (node.id, node.namespace, node.label) == (name, namespace, label)


@pytest.mark.parametrize("name", ["mod.", ".mod", "a..b", "..", "m@2", "m#1", 'q"<\\N>'])
@pytest.mark.parametrize("prefix", ["", "."])
def test_a_model_is_one_frame_whatever_its_name(name, prefix):
    inner = residual(name, prefix)
    x = keras.Input((7,), name="x")
    graph = plots.read_graph(keras.Model(x, inner(inner(x))), open_nested=True)
    frames = find_namespaces(graph)
    assert len({*frames.values()} - {""}) == 2  # one for each call
    (title,) = {frame_title(frame, graph) for frame in frames.values() if frame}
    alike = str.maketrans("\N{ONE DOT LEADER}\N{SMALL COMMERCIAL AT}\N{SMALL NUMBER SIGN}", ".@#")
    assert title.translate(alike) == f"{name} (shared × 2)"
    assert {node.label for node in graph.nodes} == {"x", f"{prefix}inside", f"{prefix}sum"}
    assert len(plots.skip_paths(graph)) == 2
    assert plots.fold(graph, depth=0).is_folded
    assert plots.Graph.from_json(graph.to_json()) == graph


def test_odd_names_can_be_folded_and_text_cannot_change_its_direction():
    for depth in (0, 1, 2):
        plots.fold(graph_of(ODD), depth=depth)
    assert "\u202e" not in plots.to_mermaid(graph_of(["a\u202eb", "c"]))


@pytest.mark.parametrize("name", ["x" * 300, "_".join(["word"] * 60), "w " * 150])
def test_a_long_name_makes_a_high_box_and_no_strip(name):
    root = ElementTree.fromstring(svg(graph_of([name, "b"])))
    assert float(root.get("width").removesuffix("pt")) < 700
    shown = "".join("".join(text.text or "" for text in root.iter(f"{SVG}text")).split())
    assert "".join(name.split()) in shown
