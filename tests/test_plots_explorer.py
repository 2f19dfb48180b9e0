"""The file of the HTML explorer: it contains the whole graph and loads nothing."""

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import keras
import pytest
from annotated_graphs import ATTENTION, annotated_decoder, graph_of
from keras import layers
from python_process import run_python

import builders
import plots
from plots import renderers
from plots.conformance import sample_graphs
from plots.renderers import html as explorer

SAMPLES = sample_graphs(large=False)
FOLDER = Path(explorer.__file__).parent / "explorer" / "wasm-graphviz"
ENGINE = (FOLDER / "index.js").read_text("utf-8")


@pytest.fixture(scope="module")
def decoder() -> plots.Graph:
    return annotated_decoder()


def packed_data(page: str) -> dict:
    packed = re.search(r'<script type="text/plain" id="graph">([^<]*)</script>', page)
    return json.loads(gzip.decompress(base64.b64decode(packed[1])))


def test_the_page_contains_the_whole_graph(decoder):
    data = packed_data(plots.to_html(decoder))
    assert plots.Graph.from_json(json.dumps(data["graph"])) == replace(decoder, overlays=())


def test_the_page_loads_nothing(decoder):
    page = plots.to_html(decoder)
    own = page.replace(ENGINE, "")
    assert len(own) < len(page) / 2
    assert re.findall(r"https?://[^\"'\s]*", own) == ["http://www.w3.org/2000/svg"]
    assert not re.search(
        r"<(link|iframe|object|embed|base)\b|@import|\burl\(|<script[^>]*\bsrc", own
    )
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy
    assert "*" not in policy


def test_the_same_graph_gives_the_same_page(decoder):
    again = plots.Graph.from_json(decoder.to_json())
    assert plots.to_html(again) == plots.to_html(decoder)


@pytest.mark.slow
def test_pages_are_small():
    assert len(plots.to_html(SAMPLES["one call"]).encode()) < 880_000
    with keras.StatelessScope(initialize_variables=False):
        model = builders.build_decoder_only("gpt2_small")
    assert len(plots.to_html(graph_of(model)).encode()) < 1_000_000


def test_draw_writes_the_page_for_an_html_file(decoder, tmp_path):
    plots.draw(decoder, tmp_path / "model.html", plugins=())
    assert (tmp_path / "model.html").read_text(encoding="utf-8") == plots.to_html(decoder)


def test_depth_sets_the_expanded_levels_and_folds_nothing(decoder, tmp_path):
    plots.draw(decoder, tmp_path / "model.html", plugins=(), depth=1)
    data = packed_data((tmp_path / "model.html").read_text(encoding="utf-8"))
    assert data["depth"] == 1
    assert len(data["graph"]["nodes"]) == len(decoder.nodes)
    with pytest.raises(ValueError, match="depth is -1"):
        plots.to_html(decoder, depth=-1)


def test_a_comparison_has_the_older_graph_with_ids_of_the_newer(tmp_path):
    def model(names):
        x = keras.Input((5,), name="x")
        y = x
        for units, name in zip((7, 11, 13), names, strict=False):
            y = layers.Dense(units, name=name)(y)
        return keras.Model(x, y)

    old, new = model(["old.one", "old.two", "gone"]), model(["new.one", "new.two"])
    plots.plot_diff(old, new, tmp_path / "diff.html")
    data = packed_data((tmp_path / "diff.html").read_text(encoding="utf-8"))
    older = plots.Graph.from_json(json.dumps(data["before"]["graph"]))
    difference = plots.compare_graphs(plots.read_graph(old), plots.read_graph(new))
    now = dict(difference.pairs)
    assert now["old.one"] == "new.one"
    names = ["x", "old.one", "old.two", "gone"]
    assert [node.name for node in older.nodes] == names
    assert [node.id for node in older.nodes] == [now.get(name, name) for name in names]
    removed = [note.about[0] for note in older.notes if note.kind == "removed"]
    assert removed == list(difference.removed)


def test_overlays_are_summed_over_namespaces(decoder):
    (overlay,) = explorer.page_data(decoder)["overlays"]
    inside = [n.parameters for n in decoder.nodes if n.namespace == ATTENTION]
    number, text = overlay["namespaces"][ATTENTION]
    assert number == sum(inside)
    assert text.endswith("%)")


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_values_that_are_not_finite_are_left_out_and_white(decoder, scale, tmp_path):
    calls = [node.id for node in decoder.nodes if node.namespace == ATTENTION][:4]
    numbers = (3.0, float("nan"), float("inf"), float("-inf"))
    values = {call: {"": number} for call, number in zip(calls, numbers, strict=True)}
    overlay = plots.Overlay("broken", "broken", "", values, scale=scale)
    graph = replace(decoder, overlays=(overlay,))
    (shown,) = packed_data(plots.to_html(graph))["overlays"]
    assert shown["places"] == {calls[0]: [3.0, "3"]}
    alone = replace(overlay, values={calls[0]: {"": 3.0}})
    colours = [renderers.heat_colour(overlay, call) for call in calls]
    assert colours == [renderers.heat_colour(alone, calls[0]), *["#FFFFFF"] * 3]
    _, data = plots.model_explorer_files(graph, tmp_path)
    (numbers,) = json.loads(data.read_text("utf-8")).values()
    assert list(numbers["results"]) == calls[:1]


def test_the_engine_in_the_page_is_the_published_file():
    readme = (FOLDER / "README.md").read_text("utf-8")
    assert hashlib.sha256(ENGINE.encode()).hexdigest() in readme
    assert not re.search(r"<(!--|/?script)", ENGINE, re.IGNORECASE)  # inside a script element
    page = plots.to_html(SAMPLES["one call"])
    assert f'<script type="text/plain" id="engine">{ENGINE}</script>' in page
    notice = re.search(r"<!-- Graphviz ([\d.]+) .*?wasm-graphviz ([\d.]+) ", page, re.DOTALL)
    assert f"version {notice[2]}, unchanged" in readme
    assert f"contains Graphviz {notice[1]} as" in readme


def test_the_explorer_needs_no_other_package():
    code = """
import sys
import plots
from plots.conformance import sample_graphs
plots.to_html(sample_graphs(large=False)["one call"])
print({name.partition(".")[0] for name in sys.modules} & {"keras", "numpy", "anywidget", "pydot"})
"""
    assert run_python(code).strip() == "set()"
