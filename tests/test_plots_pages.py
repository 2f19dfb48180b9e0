"""Large graphs in parts and columns: nothing is lost, nothing overlaps, nothing takes long."""

import re
import time
from collections import Counter
from itertools import combinations

import pytest
from small_graphs import feedforward, made

import plots
from plots.renderers import engines, graphviz
from plots.renderers.boxes import NO_LABELS
from plots.renderers.pages import page_of
from plots.skips import mark_skip_paths


def stack(blocks, name="block_{}", merge_name="{}.residual"):
    """Return a graph of residual blocks with an embedding and a head."""
    calls = [("x", "InputLayer", [])]
    for number in range(blocks):
        calls += feedforward(name.format(number), calls[-1][0])
    return mark_skip_paths(made(*calls, ("head", "Dense", [calls[-1][0]], {"units": 5})))


def unnamed(graph):
    """Return a graph in which calls have the ids and names that Keras gives to unnamed layers."""
    ids = {}
    numbers = Counter()
    for node in graph.nodes:
        numbers[node.class_name] += 1
        ids[node.id] = f"{node.class_name.lower()}#{numbers[node.class_name]}"
    calls = [
        (ids[n.id], n.class_name, [ids[e.source] for e in graph.incoming[n.id]], dict(n.config))
        for n in graph.nodes
    ]
    return mark_skip_paths(made(*calls))


def tower(length, name):
    calls = [(f"{name}_in", "InputLayer", [])]
    for number in range(length):
        calls.append((f"{name}_{number}", "Dense", [calls[-1][0]], {"units": 7}))
    return calls


def two_towers(length):
    calls = [*tower(length, "left"), *tower(length, "right")]
    both = [f"left_{length - 1}", f"right_{length - 1}"]
    return made(*calls, ("both", "Concatenate", both), ("head", "Dense", ["both"], {"units": 2}))


def dense(length):
    """Return a graph in which each sum takes the outputs of all earlier calls."""
    calls = [("x", "InputLayer", [])]
    for number in range(length):
        calls.append((f"sum_{number}", "Add", [call[0] for call in calls]))
    return made(*calls)


def with_memory(length):
    """Return a graph in which every block also takes the output of an encoder."""
    calls = [*tower(13, "encoder"), ("x", "InputLayer", [])]
    for number in range(length):
        query = calls[-1][0]
        calls.append((f"mixed_{number}", "Concatenate", [query, "encoder_12"]))
        calls.append((f"merged_{number}", "Dense", [f"mixed_{number}"], {"units": 7}))
        calls.append((f"sum_{number}", "Add", [f"merged_{number}", query]))
    return made(*calls)


pytestmark = pytest.mark.filterwarnings("ignore:the picture of .* too large to read")

GRAPHS = {
    "stack": lambda: stack(61),
    "unnamed": lambda: unnamed(stack(61)),
    "chain": lambda: made(*tower(211, "call")),
    "towers": lambda: two_towers(97),
    "memory": lambda: with_memory(59),
    "dense": lambda: dense(43),
}


def layout(graph, rankdir="TB", columns=None):
    """Return (id -> (x, y, width, height)) in points, and the ends of all visible lines."""
    page = page_of(graph, NO_LABELS, rankdir, None, "spline", columns)
    plain = engines.run_graphviz(page.to_string(), "plain", "nop2").decode().replace("\\\n", "")
    names = r'(?:"((?:[^"\\]|\\.)*)"|(\S+))'
    boxes, lines = {}, []
    for line in plain.splitlines():
        if found := re.match(rf"node {names} (\S+) (\S+) (\S+) (\S+)", line):
            boxes[found[1] or found[2]] = tuple(72 * float(found[k]) for k in range(3, 7))
        elif found := re.match(rf"edge {names} {names}", line):
            lines.append((found[1] or found[2], found[3] or found[4]))
    return boxes, lines


@pytest.mark.sampled(2)
@pytest.mark.filterwarnings("ignore:.*is drawn as a column with arcs")
@pytest.mark.parametrize("name", GRAPHS)
def test_every_call_and_edge_is_drawn_once_and_no_boxes_overlap(name):
    graph = GRAPHS[name]()
    boxes, lines = layout(graph)
    assert graph.index.keys() <= boxes.keys()
    copies = {box.removesuffix(" (continued)") for box in boxes if box.endswith(" (continued)")}
    assert copies <= graph.index.keys()
    assert len(lines) == len(graph.edges) + len(copies)  # tags have one line as well
    targets = Counter(target for _, target in lines)
    assert all(targets[node.id] == len(graph.incoming[node.id]) for node in graph.nodes)
    for (first, a), (second, b) in combinations(boxes.items(), 2):
        apart = any(abs(a[k] - b[k]) > (a[k + 2] + b[k + 2]) / 2 - 1 for k in (0, 1))
        assert apart, (first, second)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "rankdir",
    ["TB", "LR", *(pytest.param(name, marks=pytest.mark.slow) for name in ("BT", "RL"))],
)
@pytest.mark.parametrize("name", ["stack", "unnamed"])
def test_a_strip_is_arranged_in_columns_in_which_the_stream_is_straight(name, rankdir):
    graph = GRAPHS[name]()
    boxes, _ = layout(graph, rankdir)
    across = 0 if rankdir in ("TB", "BT") else 1
    sizes = [
        max(box[k] for box in boxes.values()) - min(b[k] for b in boxes.values()) for k in (0, 1)
    ]
    assert 0.4 < sizes[0] / sizes[1] < 2.5
    columns = Counter(round(boxes[path.target][across]) for path in graph.skip_paths)
    assert len(columns) == 1 + sum(box.endswith(" (continued)") for box in boxes)
    narrow, _ = layout(graph, rankdir, columns=1)
    places = [round(narrow[path.target][across]) for path in graph.skip_paths]
    assert max(places) - min(places) <= 2
    assert not any(box.endswith(" (continued)") for box in narrow)


@pytest.mark.slow
def test_the_number_of_columns_is_an_option():
    graph = GRAPHS["stack"]()
    for number in (2, 3, 5):
        boxes, _ = layout(graph, columns=number)
        assert sum(box.endswith(" (continued)") for box in boxes) == number - 1
    with pytest.raises(ValueError, match="columns is 0; it must be None"):
        graphviz.svg(graph, columns=0)


def test_sizes_of_a_small_picture_do_not_depend_on_columns():
    graph = stack(3)
    assert graphviz.svg(graph) == graphviz.svg(graph, columns=1)


def test_a_dense_graph_is_drawn_with_arcs_in_little_time_and_one_warning():
    graph = dense(97)
    begin = time.process_time()
    with pytest.warns(UserWarning, match="as a column with arcs: too many edges") as said:
        drawn = graphviz.svg(graph)
    assert time.process_time() - begin < 3
    assert sum("arcs" in str(warning.message) for warning in said) == 1
    assert drawn.count(b'class="edge"') == len(graph.edges)


def test_a_layout_that_fails_is_replaced_by_arcs(monkeypatch):
    def fail(self, dot, seconds):
        raise RuntimeError("Graphviz crashed")

    monkeypatch.setattr("plots.renderers.pages._Page._by_graphviz", fail)
    graph = stack(2)
    with pytest.warns(UserWarning, match="as a column with arcs: Graphviz crashed"):
        drawn = graphviz.svg(graph)
    assert drawn.count(b'class="node"') == len(graph.nodes)


def test_a_picture_that_is_too_large_to_read_says_its_size_and_what_to_do(tmp_path):
    inputs = [(f"in_{number}", "InputLayer", []) for number in range(97)]
    graph = made(*inputs, ("all", "Concatenate", [call[0] for call in inputs]))
    with pytest.warns(UserWarning, match=r"is [\d,]+ x [\d,]+ points, too large.*depth=1.*\.html"):
        plots.draw(graph, tmp_path / "wide.svg")


def test_names_with_quotes_and_backslashes_keep_their_places():
    graph = stack(47)
    odd = 'a "b\\n" \\N é {}'
    names = {node.id: odd.format(number) for number, node in enumerate(graph.nodes)}
    calls = [
        (names[n.id], n.class_name, [names[e.source] for e in graph.incoming[n.id]])
        for n in graph.nodes
    ]
    drawn = graphviz.svg(made(*calls))
    assert drawn.count(b'class="node"') >= len(graph.nodes)
    sides = [
        float(side) for side in re.findall(rb'<svg width="(\d+)pt" height="(\d+)pt"', drawn)[0]
    ]
    assert max(sides) / min(sides) < 4
