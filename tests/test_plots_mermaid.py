"""Graphs as Mermaid flowcharts."""

import html
import json
import re
import string
from dataclasses import replace
from itertools import pairwise

import plots_models
import pytest
from hypothesis import given
from hypothesis import strategies as st

import plots
from plots.conformance import sample_graphs
from plots.hierarchy import find_namespaces
from plots.renderers import STREAM_COLOUR, heat_colour, note_colour
from plots.renderers.mermaid import MOST_CHARACTERS, MOST_EDGES, escaped
from plots.skips import mark_skip_paths

SAMPLES = sample_graphs(large=False)
CALL = re.compile(r'(?P<name>[nwt]\d+)(?:\(\(|\(\[|\[\[|\[)"(?P<label>[^"]*)"[])]+')
LINK = re.compile(
    r'(?P<source>\w+) (?P<arrow>-->|==>|-\.->|~~~)(?:\|"(?P<label>[^"]*)"\|)? (?P<target>\w+)'
)
CLUSTER = re.compile(r'subgraph (?P<name>b\d+)\["(?P<label>[^"]*)"\]')


class Chart:
    """A parser of flowcharts; unknown lines are errors."""

    def __init__(self, text: str) -> None:
        fence, title, *config, end, kind = text.splitlines()[:6]
        assert (fence, end) == ("---", "---")
        assert len(config) == 2
        assert re.fullmatch(r"flowchart (TB|BT|LR|RL)", kind)
        self.title = json.loads(title.removeprefix("title: "))
        self.labels: dict[str, str] = {}
        self.cluster_of: dict[str, tuple[str, ...]] = {}
        self.links: list[re.Match] = []
        self.classes: dict[str, str] = {}
        self.class_of: dict[str, str] = {}
        self.link_styles: dict[int, str] = {}
        around: list[str] = []
        for line in map(str.strip, text.splitlines()[6:]):
            if found := CLUSTER.fullmatch(line):
                around.append(read(found["label"]))
            elif line == "end":
                around.pop()
            elif found := CALL.fullmatch(line):
                self.labels[found["name"]] = read(found["label"])
                self.cluster_of[found["name"]] = tuple(around)
            elif found := LINK.fullmatch(line):
                self.links.append(found)
            else:
                self._read_style(line)
        assert around == []

    def _read_style(self, line: str) -> None:
        word, which, style = line.split(" ", 2)
        if word == "classDef":
            self.classes[which] = style
        elif word == "class":
            self.class_of |= dict.fromkeys(which.split(","), style)
        else:
            assert word == "linkStyle"
            self.link_styles |= dict.fromkeys(map(int, which.split(",")), style)

    def style(self, name: str) -> str:
        return self.classes[self.class_of[name]]


def read(label: str) -> str:
    """Return a label as a browser shows it."""
    shown = re.sub(r"#(\d+);", r"&#\1;", label.replace("<br/>", "\n"))
    return html.unescape(shown).replace("\N{ZERO WIDTH SPACE}", "")


@pytest.fixture(scope="module")
def graph():
    return mark_skip_paths(plots.read_graph(plots_models.encoder_decoder("pre", blocks=2)))


@pytest.fixture(scope="module")
def masked():
    return mark_skip_paths(plots.read_graph(plots_models.decoder_only("post", blocks=3)))


def test_every_call_is_in_its_cluster_and_edges_have_the_right_ends(graph):
    chart = Chart(plots.to_mermaid(graph))
    names = {node.id: f"n{number}" for number, node in enumerate(graph.nodes)}
    namespaces = find_namespaces(graph)
    assert set(chart.labels) == set(names.values())
    for node in graph.nodes:
        around = namespaces[node.id]
        assert chart.cluster_of[names[node.id]] == tuple(around.split(".") if around else ())
    assert [(link["source"], link["target"]) for link in chart.links] == [
        (names[edge.source], names[edge.target]) for edge in graph.edges
    ]


def test_only_the_stream_is_thick_and_coloured(graph):
    chart = Chart(plots.to_mermaid(graph))
    thick = {
        (edge.source, edge.target)
        for edge, link in zip(graph.edges, chart.links, strict=True)
        if link["arrow"] == "==>"
    }
    assert thick == set(graph.stream)
    coloured = {number for number, style in chart.link_styles.items() if STREAM_COLOUR in style}
    assert coloured == {n for n, link in enumerate(chart.links) if link["arrow"] == "==>"}


def test_a_mask_is_dashed_and_referenced_by_name(masked):
    chart = Chart(plots.to_mermaid(masked))
    tags = [name for name in chart.labels if name.startswith("t")]
    assert [chart.labels[tag] for tag in tags] == ["mask 1"] * 3
    assert {chart.cluster_of[tag] for tag in tags} == {
        ("decoder", f"block_{number}", "self_attention") for number in range(3)
    }
    assert all(link["arrow"] == "-.->" for link in chart.links if link["source"] in tags)
    assert "ExpandDims = mask 1" in chart.labels.values()


def test_an_implicit_mask_is_dashed():
    chart = Chart(plots.to_mermaid(SAMPLES["an implicit mask"]))
    assert [link["arrow"] for link in chart.links] == ["-->", "-->", "-.->"]


def test_repeats_and_groups_are_labelled(masked):
    chart = Chart(plots.to_mermaid(plots.fold(masked, depth=2)))
    assert ("decoder", "block_0 × 3") in chart.cluster_of.values()
    assert "self_attention\n6 calls" in chart.labels.values()


def test_parallel_edges_are_labelled_with_their_arguments():
    chart = Chart(plots.to_mermaid(SAMPLES["parallel edges"]))
    assert [link["label"] for link in chart.links] == ["query", "key", "value"]


def test_shapes_are_optional():
    sample = SAMPLES["one call"]
    assert Chart(plots.to_mermaid(sample)).labels == {"n0": "x\nInputLayer"}
    assert Chart(plots.to_mermaid(sample, shapes=True)).labels == {"n0": "x\nInputLayer\n(None, 7)"}


def test_numbers_and_notes_are_lines_and_colours():
    sample = SAMPLES["parallel edges"]
    sample = replace(
        sample,
        overlays=(plots.Overlay("a", "parameters", "", {"attention": {"": 590}}, {"": 5900}),),
        notes=(
            plots.Note("finding", ("attention",), "Something is odd.", "a paper"),
            plots.Note("added", (sample.edges[1].id,), "This is new."),
            plots.Note("finding", (), "All is odd."),
        ),
    )
    chart = Chart(plots.to_mermaid(sample))
    assert chart.labels["n1"] == (
        "attention\nDense\n7 units, relu\n590 (10.0 %)\nSomething is odd. (a paper)"
    )
    assert chart.labels["w2"] == "All is odd."
    assert f"fill:{heat_colour(sample.overlays[0], 'attention')}" in chart.style("n1")
    assert f"stroke:{note_colour('finding')}" in chart.style("n1")
    assert f"stroke:{note_colour('finding')}" in chart.style("w2")
    (styled,) = chart.link_styles  # the second edge comes after the line that holds the note
    assert (chart.links[styled]["label"], styled) == ("key", 2)
    assert chart.links[0]["arrow"] == "~~~"


def test_special_characters_and_keywords_of_mermaid_are_escaped():
    names = ["end", "graph", "style", "subgraph", "click", "class", "default", "o", "x", "n0"]
    names += ["<b>", '&"quoted"', "{a|b}", "a#35;", "a;b", "style a:#b;", "%% c", "%%{init}%%"]
    names += ["1. one", "- two", "_three_", "*four*", "`five`", "[six](seven)", "$$8$$", "--> 9"]
    tensor = plots.Tensor((None, 7), "float32")
    nodes = [
        plots.Node(
            f"{n} {name}",
            name.replace(".", ":"),
            "layer",
            "Dense",
            (),
            "",
            name,
            (tensor,),
            0,
            0,
            True,
            {},
        )
        for n, name in enumerate(names)
    ]
    chart = Chart(plots.to_mermaid(plots.Graph('a "b"\n---', tuple(nodes), (), (), (), 0, 0)))
    assert chart.title == 'a "b"\n---'
    assert list(chart.labels.values()) == [f"{node.name}\nDense" for node in nodes]


@given(st.text(string.printable + "äß编🙂\N{NO-BREAK SPACE}", max_size=12))
def test_an_escaped_label_is_displayed_unchanged(text):
    label = escaped(text)
    assert not set(label.replace("<br/>", "")) & set("\"'<>{}[]()|`*\\$~:@=!?^&\n\t")
    assert not re.search(r"#(?!\d+;)|(?<!\d);|%%|^[-_. ]|[-_.]$", label.replace("<br/>", "\0"))
    control = re.compile(r"[\x00-\x09\x0b-\x1f]")
    assert read(label) == control.sub("\N{REPLACEMENT CHARACTER}", text)


def chain(edges):
    tensor = plots.Tensor((None,), "float32")
    nodes = [
        plots.Node(
            f"call_{n}", f"call_{n}", "layer", "Dense", (), "", f"{n}", (tensor,), 0, 0, True, {}
        )
        for n in range(edges + 1)
    ]
    joined = [plots.Edge(a.id, b.id, "inputs", 0, tensor) for a, b in pairwise(nodes)]
    return plots.Graph("chain", tuple(nodes), tuple(joined), (), (), 0, 0)


def test_a_chart_above_the_limits_of_mermaid_has_a_warning():
    with pytest.warns(
        UserWarning, match=r"'chain' .*501 edges, limit 500.*depth=2 draws two levels"
    ):
        text = plots.to_mermaid(chain(MOST_EDGES + 1))
    assert re.search(
        r"^ %% too large for Mermaid's default limits \(501 edges, limit 500", text, re.MULTILINE
    )
    assert len(text) < MOST_CHARACTERS
    long = replace(chain(1), notes=(plots.Note("x", (), "word " * (MOST_CHARACTERS // 5)),))
    with pytest.warns(UserWarning, match="characters, limit 50,000"):
        plots.to_mermaid(long)


def test_a_chart_at_the_limit_has_no_warning():
    assert "%%" not in plots.to_mermaid(chain(MOST_EDGES))


def test_the_direction_is_checked():
    assert "\nflowchart LR\n" in plots.to_mermaid(SAMPLES["one call"], rankdir="LR")
    with pytest.raises(ValueError, match="rankdir is 'up'; it must be one of TB, BT, LR, RL"):
        plots.to_mermaid(SAMPLES["one call"], rankdir="up")


@pytest.mark.parametrize("suffix", ["mmd", "mermaid"])
def test_the_suffix_selects_mermaid(suffix, masked, tmp_path):
    plots.draw(masked, tmp_path / f"model.{suffix}", plugins=(), depth=1, shapes=True)
    text = (tmp_path / f"model.{suffix}").read_text("utf-8")
    assert text == plots.to_mermaid(plots.fold(masked, depth=1), shapes=True)
