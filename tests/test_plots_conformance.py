"""All plugins and renderers keep the rules, and the checks see who does not."""

from dataclasses import replace

import pytest

import plots
from plots import registry
from plots.conformance import check_plugin, check_renderer, sample_graphs
from plots.graph import check_graph

SMALL = sample_graphs(large=False)
LARGE = {"2,000 calls": sample_graphs()["2,000 calls"]}
OPTIONS = {"diff": {"against": SMALL["a residual stream"]}}  # what a plugin cannot do without
COARSE = {"png": {"dpi": 30}}


@pytest.mark.parametrize("name", plots.list_plugins())
def test_every_plugin_keeps_the_rules(name):
    check_plugin(name, SMALL, **OPTIONS.get(name, {}))


@pytest.mark.parametrize("name", plots.list_renderers())
def test_every_renderer_keeps_the_rules(name):
    check_renderer(name, SMALL, **COARSE.get(name, {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", plots.list_plugins())
def test_every_plugin_takes_thousands_of_calls(name):
    check_plugin(name, LARGE, **OPTIONS.get(name, {}))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(plots.list_renderers()) - {"png", "pdf"}))
def test_every_renderer_takes_thousands_of_calls(name):
    """PNG and PDF are laid out as SVG is, which takes nearly all of the time."""
    check_renderer(name, LARGE)


@pytest.mark.parametrize("depth", range(5))
@pytest.mark.parametrize("blocks", [1, 2, None])
def test_folding_keeps_the_rules_at_every_depth(depth, blocks):
    check_plugin("fold", SMALL, depth=depth, blocks=blocks)


@pytest.mark.parametrize("name", SMALL | LARGE)
def test_the_samples_fit_together_and_survive_json(name):
    graph = (SMALL | LARGE)[name]
    check_graph(graph)
    assert plots.Graph.from_json(graph.to_json()) == graph


def test_the_large_sample_is_large():
    assert len(LARGE["2,000 calls"].nodes) == pytest.approx(2000, abs=10)


COUNT = []


def drops_an_output(graph):
    return replace(graph, outputs=graph.outputs[1:])


def makes_an_edge_to_nowhere(graph):
    edge = plots.Edge("nowhere", graph.nodes[-1].id, "x", 0, graph.nodes[0].outputs[0])
    return replace(graph, edges=(*graph.edges, edge))


def changes_what_it_is_given(graph):
    graph.repeats["a"] = 2
    return graph


def differs_every_time(graph):
    COUNT.append(None)
    return replace(graph, name=f"{graph.name} {len(COUNT)}")


def holds_what_is_no_json(graph):
    return replace(graph, letters={"b": {1, 2}})


def holds_what_json_changes(graph):
    return replace(graph, letters={1: 2})


def refuses_large_graphs(graph):
    if len(graph.nodes) > 10:
        raise RuntimeError("too large")
    return graph


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (drops_an_output, "'drops_an_output' on the sample 'one call' .* keeps the 1 outputs"),
        (makes_an_edge_to_nowhere, "its graph fits together: the edge 'nowhere"),
        (changes_what_it_is_given, "leaves the graph that it is given as it was"),
        (differs_every_time, "gives the same result every time"),
        (holds_what_is_no_json, "plain values only, as JSON has them: .*set"),
        (holds_what_json_changes, "is the same after Graph.from_json"),
        (refuses_large_graphs, r"takes every graph, but RuntimeError: too large"),
        (lambda graph: None, "returns a Graph, and no NoneType"),
        (lambda graph, factor: graph, r"has a default for every option; missing: \['factor'\]"),
        (lambda *, graph: graph, "takes the graph as its first argument, by position"),
    ],
)
def test_a_plugin_that_breaks_a_rule_is_told_which_and_where(plugin, says):
    with pytest.raises(AssertionError, match=says):
        check_plugin(plugin, sample_graphs(large=False))  # new ones, since some are changed


def test_a_plugin_that_needs_a_model_may_refuse_to_go_without():
    def needs_a_model(graph, model):
        if model is None:
            raise ValueError("give the model too")
        return graph if model == "a model" else None

    check_plugin(needs_a_model, SMALL)
    check_plugin(needs_a_model, SMALL, model="a model")
    with pytest.raises(AssertionError, match="returns a Graph"):
        check_plugin(needs_a_model, SMALL, model="another")


@pytest.mark.parametrize(
    ("renderer", "says"),
    [
        (lambda graph: "", "returns text or bytes, and no empty str"),
        (lambda graph: len(graph.nodes), "returns text or bytes, and no int"),
        (lambda graph: f"{COUNT.append(None)} {len(COUNT)}", "gives the same result every time"),
        (lambda graph: "x", r"has all names of calls in its text; missing: \['attention"),
        (lambda graph: graph.repeats.update(a=2) or graph.to_json(), "as it was"),
        (lambda graph: graph.nodes[30].id, "takes every graph, but IndexError"),
    ],
)
def test_a_renderer_that_breaks_a_rule_is_told_which_and_where(renderer, says):
    samples = sample_graphs(large=False)
    with pytest.raises(AssertionError, match=says) as caught:
        check_renderer(renderer, {name: samples[name] for name in ("parallel edges",)})
    assert "on the sample 'parallel edges'" in str(caught.value)


def test_a_plugin_may_refuse_a_folded_graph_and_no_other():
    def refuses(graph):
        if graph.repeats or "*" in graph.nodes[-1].id:
            raise ValueError("fold what comes out")
        return graph

    check_plugin(refuses, SMALL)
    with pytest.raises(AssertionError, match="takes every graph, but ValueError: refused"):
        check_plugin(lambda graph: (_ for _ in ()).throw(ValueError("refused")), SMALL)


def test_bytes_may_hold_names_in_any_way():
    check_renderer(lambda graph: b"\x89", SMALL)


def test_an_unknown_name_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match=r"no graph plugin 'no such'.*skip_paths"):
        check_plugin("no such")
    with pytest.raises(ValueError, match=r"no graph renderer 'no such'.*mermaid"):
        check_renderer("no such")


# The registry


@pytest.fixture
def registered(monkeypatch):
    """The registry, in which nothing of what a test registers stays."""
    for name in ("_PLUGINS", "_RENDERERS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def run_cell(says):
    """What a cell of a notebook does every time that it is run."""

    @plots.graph_plugin("renamed")
    def renamed(graph):
        return replace(graph, name=says)

    @plots.graph_renderer("names", suffixes=(".names",))
    def names(graph):
        return f"{says} {graph.name}"


def test_a_cell_that_registers_may_be_run_again_and_the_last_one_counts(registered):
    run_cell("first")
    run_cell("second")
    graph = SMALL["one call"]
    assert plots.list_plugins()["renamed"](graph).name == "second"
    assert plots.list_renderers()["names"](graph).startswith("second")


def test_the_name_and_the_suffix_of_another_are_refused(registered):
    run_cell("first")
    with pytest.raises(ValueError, match="plugin named 'renamed' is registered already"):
        plots.graph_plugin("renamed")(drops_an_output)
    with pytest.raises(ValueError, match="renderer named 'names' is registered already"):
        plots.graph_renderer("names", ())(drops_an_output)
    with pytest.raises(ValueError, match=r"suffix '\.names' is taken by renderer 'names'"):
        plots.graph_renderer("other", (".names",))(drops_an_output)


def test_the_model_is_an_option_only_of_what_takes_one():
    def with_model(graph, model=None):
        return replace(graph, name=model or "none")

    graph = SMALL["one call"]
    assert plots.apply_plugins(graph, [(with_model, {"model": "given"})]).name == "given"
    with pytest.raises(ValueError, match="'drops_an_output' has no option 'model'; it has none"):
        plots.apply_plugins(graph, [(drops_an_output, {"model": "given"})])
    with pytest.raises(ValueError, match="'text' has no option 'model'"):
        registry.check_options(registry.find_renderer("text"), {"model": "given"})


def test_arguments_without_a_name_of_their_own_are_no_options():
    def takes_more(graph, width=3, *more, **others):
        return graph

    check_plugin(takes_more, SMALL)
    assert registry.GraphPlugin.of(takes_more).options == ("width",)
