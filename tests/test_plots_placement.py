"""Where pictures place calls: straight streams, sublayers on one side, blocks in order."""

import functools
import itertools
import re
from collections import Counter
from xml.etree import ElementTree

import keras
import plots_models
import pytest
from keras import layers
from quick import slow_unless
from small_models import ALL_VARIANTS, reduced_variant

import builders
import plots
from plots.renderers import dot, engines, graphviz, lay_out
from plots.skips import mark_skip_paths

SVG = "{http://www.w3.org/2000/svg}"


def drawn(graph, rankdir="TB"):
    """Return the positions of nodes in points: id -> (x, y)."""
    marked = graph if graph.stream else mark_skip_paths(graph)
    text = engines.run_graphviz(
        dot.graph_to_dot(marked, rankdir=rankdir).to_string(), "plain"
    ).decode()
    found = re.findall(r'^node (?:"([^"]+)"|(\S+)) (\S+) (\S+)', text, flags=re.MULTILINE)
    return {quoted or bare: (72 * float(x), 72 * float(y)) for quoted, bare, x, y in found}


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    "make",
    [plots_models.decoder_only, plots_models.encoder_decoder, plots_models.top_level_blocks],
)
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_the_stream_is_one_straight_line_with_all_sublayers_on_one_side(make, norm):
    graph = plots.read_graph(make(norm, blocks=3))
    place = drawn(graph)
    for path in plots.skip_paths(graph):
        line = [place[node_id][0] for node_id in path.line]
        assert max(line) - min(line) < 1.5
        assert all(place[node_id][0] > line[0] for node_id in path.bypassed), path


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(
        lambda name, _: name in ("llama2_7b", "opt_350m", "t5_v1.1_small", "vaswani_base"),
        ALL_VARIANTS,
    ),
)
def test_the_stream_of_every_variant_is_straight_at_every_depth(name, kind):
    model = builders.build(reduced_variant(name, kind), abstract=True)
    graph = mark_skip_paths(plots.read_graph(model, open_nested=True))
    for shown in (graph, *(plots.fold(graph, depth) for depth in (1, 2, 3))):
        for with_letters in (shown, plots.shapes(shown)):
            place = drawn(with_letters)
            line = {*with_letters.stream} - lay_out(with_letters).arcs
            bends = [abs(place[a][0] - place[b][0]) for a, b in line]
            assert max(bends, default=0) < 1.5


@pytest.mark.parametrize(
    ("name", "kind"), [("t5_small", "encoder_decoder"), ("pythia_70m", "decoder_only")]
)
def test_sublayers_are_to_the_right_of_a_stream_that_starts_at_an_input(name, kind):
    model = builders.build(reduced_variant(name, kind), abstract=True)
    graph = mark_skip_paths(plots.read_graph(model))
    inputs = [path.line[0] for path in graph.skip_paths if path.line[0] in graph.inputs]
    assert inputs or {source for source, _ in graph.stream} & set(graph.inputs)
    for depth in (2, 3):
        shown = plots.fold(graph, depth)
        place = drawn(shown)
        for path in shown.skip_paths:
            assert all(place[i][0] > place[path.line[0]][0] for i in path.bypassed), (depth, path)


@functools.cache
def translator(norm):
    return mark_skip_paths(plots.read_graph(plots_models.encoder_decoder(norm, blocks=3)))


@pytest.mark.parametrize("rankdir", ["TB", "BT", "LR", "RL"])
@pytest.mark.parametrize("norm", ["pre", "post"])
@pytest.mark.parametrize("depth", [2, 3])
def test_the_encoder_is_on_the_same_side_of_the_stream_as_its_users(depth, norm, rankdir):
    shown = plots.fold(translator(norm), depth)
    place = drawn(shown, rankdir)
    across = 0 if rankdir in ("TB", "BT") else 1
    decoding = [path for path in shown.skip_paths if path.line[-1].startswith("decoder")]
    (stream,) = {round(place[path.line[-1]][across]) for path in decoding}
    beside = {i for path in decoding for i in path.bypassed} | {
        node.id for node in shown.nodes if node.id.startswith("encoder")
    }
    assert all(place[node_id][across] > stream + 1 for node_id in beside)


def test_folded_blocks_reference_shared_inputs_like_the_blocks_they_stand_for():
    def attention(x, angles, number):
        mixed = layers.Concatenate(name=f"block_{number}.part.mix")([x, angles])
        return x + layers.Dense(5, name=f"block_{number}.part.out")(mixed)

    tokens, angles = keras.Input((7, 5), name="tokens"), keras.Input((7, 3), name="angles")
    first = attention(tokens, angles, 0)
    two = keras.Model([tokens, angles], attention(first, angles, 1))
    one = keras.Model([tokens, angles], first)
    for model, tags in ((two, {"angles": "angles"}), (one, {})):
        graph = mark_skip_paths(plots.read_graph(model))
        assert lay_out(graph).tags == lay_out(plots.fold(graph)).tags == tags


def titles_and_lines(graph, rankdir="TB"):
    """Return cluster titles as (text, left, top, right, bottom), and points of edges by ends."""
    svg = ElementTree.fromstring(graphviz.svg(graph, rankdir=rankdir))
    titles: list[tuple[str, float, float, float, float]] = []
    lines: dict[str, list[tuple[float, float]]] = {}
    for group in svg.iter(f"{SVG}g"):
        if group.get("class") == "cluster" and (text := group.find(f"{SVG}text")) is not None:
            assert text.get("text-anchor") == "middle"
            size, centre, baseline = (float(text.get(k)) for k in ("font-size", "x", "y"))
            half = 0.3 * size * len(text.text)
            frame = re.findall(r"(-?[\d.]+),(-?[\d.]+)", group.find(f"{SVG}path").get("d"))
            sides = [float(x) for x, _ in frame]
            assert min(sides) < centre - half < centre + half < max(sides), text.text
            titles.append(
                (text.text, centre - half, baseline - 0.75 * size, centre + half, baseline)
            )
        elif group.get("class") == "edge":
            line = lines.setdefault(group.find(f"{SVG}title").text, [])
            for path in group.iter(f"{SVG}path"):
                points = re.findall(r"(-?[\d.]+),(-?[\d.]+)", path.get("d"))
                line += curve([(float(x), float(y)) for x, y in points])
    return titles, lines


def curve(points, steps=41):
    """Return points along consecutive cubic Bézier curves."""
    for start in range(0, len(points) - 3, 3):
        for step in range(steps + 1):
            t = step / steps
            weights = ((1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3)
            corners = zip(weights, points[start : start + 4], strict=True)
            terms = [(weight * x, weight * y) for weight, (x, y) in corners]
            yield tuple(map(sum, zip(*terms, strict=True)))


def test_edges_of_parallel_sublayers_stay_on_their_side_of_the_stream():
    model = builders.build(reduced_variant("pythia_70m", "decoder_only"), abstract=True)
    graph = mark_skip_paths(plots.read_graph(model))
    for depth in (2, 3):
        shown = plots.fold(graph, depth)
        _, lines = titles_and_lines(shown)
        stream = {x for a, b in shown.stream for x, _ in lines[f"{a}->{b}"]}
        assert max(stream) - min(stream) < 1.5
        for edge in shown.edges:
            if edge.target in {path.target for path in shown.skip_paths}:
                line = lines[f"{edge.source}->{edge.target}"]
                assert min(x for x, _ in line) > min(stream) - 1.5, edge.id


@pytest.mark.sampled(1)
@pytest.mark.filterwarnings("ignore:the picture of .* too large to read")
@pytest.mark.parametrize(
    ("name", "kind"),
    slow_unless(lambda name, _: name in ("tf_tutorial", "albert_base"), ALL_VARIANTS),
)
def test_no_edge_crosses_the_title_of_a_cluster_beside_a_straight_stream(name, kind):
    model = builders.build(reduced_variant(name, kind), abstract=True)
    graph = mark_skip_paths(plots.read_graph(model))
    for depth, rankdir in itertools.product((1, 2, 3), ("TB", "LR")):
        shown = plots.fold(graph, depth)
        titles, lines = titles_and_lines(shown, rankdir)
        assert titles
        assert lines
        for title, left, top, right, bottom in titles:
            for ends, line in lines.items():
                through = [(x, y) for x, y in line if left < x < right and top < y < bottom]
                assert not through, (ends, title, depth, rankdir)
        across = 0 if rankdir == "TB" else 1
        times_joined = Counter((edge.source, edge.target) for edge in shown.edges)
        for source, target in {*shown.stream} - lay_out(shown).arcs:
            if times_joined[source, target] == 1 and f"{source}->{target}" in lines:
                places = [point[across] for point in lines[f"{source}->{target}"]]
                assert max(places) - min(places) < 1.5


def test_a_block_is_drawn_below_the_one_before_it_with_and_without_skip_paths():
    for residual in (True, False):
        graph = plots.read_graph(plots_models.encoder_decoder("post", 3, residual))
        place = drawn(graph)
        heights: dict[str, list[float]] = {}
        for node in graph.nodes:
            if node.namespace.startswith("decoder.block_"):
                heights.setdefault(node.namespace[:15], []).append(place[node.id][1])
        for upper, lower in (("0", "1"), ("1", "2")):
            assert min(heights[f"decoder.block_{upper}"]) > max(heights[f"decoder.block_{lower}"])


def test_the_stream_continues_through_norms():
    graph = plots.read_graph(plots_models.decoder_only("post", blocks=3))
    text = dot.graph_to_dot(mark_skip_paths(graph)).to_string()
    thick = re.findall(r'"([^"]+)" -> "?([^"\s]+)"? .*penwidth=5', text)
    followed = ["decoder.add_positions"]
    onwards = dict(thick)
    while followed[-1] in onwards:
        followed.append(onwards[followed[-1]])
    assert followed[-1] == "logits"
    assert len(followed) == len(thick) + 1
