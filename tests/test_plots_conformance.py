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


@pytest.mark.sampled(2)
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


def adds_an_edge_from_nowhere(graph):
    edge = plots.Edge("nowhere", graph.nodes[-1].id, "x", 0, graph.nodes[0].outputs[0])
    return replace(graph, edges=(*graph.edges, edge))


def changes_its_argument(graph):
    graph.repeats["a"] = 2
    return graph


def differs_on_every_call(graph):
    COUNT.append(None)
    return replace(graph, name=f"{graph.name} {len(COUNT)}")


def has_a_value_that_is_not_json(graph):
    return replace(graph, letters={"b": {1, 2}})


def has_a_key_that_json_changes(graph):
    return replace(graph, letters={1: 2})


def refuses_large_graphs(graph):
    if len(graph.nodes) > 10:
        raise RuntimeError("too large")
    return graph


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (drops_an_output, "'drops_an_output' on the sample 'one call' .* keeps the 1 outputs"),
        (adds_an_edge_from_nowhere, "a graph whose parts fit together, but the edge 'nowhere"),
        (changes_its_argument, "does not change the graph that it is given"),
        (differs_on_every_call, "returns the same result on every call"),
        (has_a_value_that_is_not_json, "JSON values only, but .*set"),
        (has_a_key_that_json_changes, "is equal after Graph.from_json"),
        (refuses_large_graphs, "accepts every graph, but raised RuntimeError: too large"),
        (lambda graph: None, "returns a Graph, not NoneType"),
        (lambda graph, factor: graph, r"has a default for every option; missing: \['factor'\]"),
        (lambda *, graph: graph, "takes the graph as its first argument, by position"),
    ],
)
def test_an_error_names_the_rule_that_a_plugin_breaks(plugin, says):
    with pytest.raises(AssertionError, match=says):
        check_plugin(
            plugin, sample_graphs(large=False)
        )  # new graphs, because one plugin changes them


def test_a_plugin_may_require_a_model():
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
        (lambda graph: "", "returns text or bytes, not empty str"),
        (lambda graph: len(graph.nodes), "returns text or bytes, not int"),
        (
            lambda graph: f"{COUNT.append(None)} {len(COUNT)}",
            "returns the same result on every call",
        ),
        (lambda graph: "x", r"contains all names of calls; missing: \['attention"),
        (lambda graph: graph.repeats.update(a=2) or graph.to_json(), "does not change the graph"),
        (lambda graph: graph.nodes[30].id, "accepts every graph, but raised IndexError"),
    ],
)
def test_an_error_names_the_rule_that_a_renderer_breaks(renderer, says):
    samples = sample_graphs(large=False)
    with pytest.raises(AssertionError, match=says) as caught:
        check_renderer(renderer, {name: samples[name] for name in ("parallel edges",)})
    assert "on the sample 'parallel edges'" in str(caught.value)


def test_a_plugin_may_raise_value_error_only_for_folded_graphs():
    def refuses(graph):
        if graph.repeats or "*" in graph.nodes[-1].id:
            raise ValueError("fold the result instead")
        return graph

    check_plugin(refuses, SMALL)
    with pytest.raises(AssertionError, match="accepts every graph, but raised ValueError: refused"):
        check_plugin(lambda graph: (_ for _ in ()).throw(ValueError("refused")), SMALL)


def test_bytes_need_not_contain_names():
    check_renderer(lambda graph: b"\x89", SMALL)


def test_an_unknown_name_raises_an_error_with_the_known_ones():
    with pytest.raises(ValueError, match=r"no graph plugin 'no such'.*skip_paths"):
        check_plugin("no such")
    with pytest.raises(ValueError, match=r"no graph renderer 'no such'.*mermaid"):
        check_renderer("no such")


# The registry


@pytest.fixture
def registered(monkeypatch):
    """The registry, restored after the test."""
    for name in ("_PLUGINS", "_RENDERERS"):
        monkeypatch.setattr(registry, name, dict(getattr(registry, name)))


def run_cell(says):
    """Run a notebook cell that registers a plugin and a renderer."""

    @plots.graph_plugin("renamed")
    def renamed(graph):
        return replace(graph, name=says)

    @plots.graph_renderer("names", suffixes=(".names",))
    def names(graph):
        return f"{says} {graph.name}"


def test_a_cell_that_registers_functions_can_be_rerun(registered):
    run_cell("first")
    run_cell("second")
    graph = SMALL["one call"]
    assert plots.list_plugins()["renamed"](graph).name == "second"
    assert plots.list_renderers()["names"](graph).startswith("second")


def test_a_taken_name_or_suffix_raises_an_error(registered):
    run_cell("first")
    with pytest.raises(ValueError, match="plugin 'renamed' is already registered"):
        plots.graph_plugin("renamed")(drops_an_output)
    with pytest.raises(ValueError, match="renderer 'names' is already registered"):
        plots.graph_renderer("names", ())(drops_an_output)
    with pytest.raises(ValueError, match=r"suffix '\.names' is taken by renderer 'names'"):
        plots.graph_renderer("other", (".names",))(drops_an_output)


def test_the_model_is_an_option_only_of_plugins_that_take_it():
    def with_model(graph, model=None):
        return replace(graph, name=model or "none")

    graph = SMALL["one call"]
    assert plots.apply_plugins(graph, [(with_model, {"model": "given"})]).name == "given"
    with pytest.raises(ValueError, match="'drops_an_output' has no option 'model'; it has none"):
        plots.apply_plugins(graph, [(drops_an_output, {"model": "given"})])
    with pytest.raises(ValueError, match="'text' has no option 'model'"):
        registry.find_renderer("text").check_options({"model": "given"})


def test_a_plugin_or_renderer_with_variadic_options_accepts_all(registered, tmp_path):
    @plots.graph_plugin("takes more")
    def takes_more(graph, width=3, *more, **others):
        return replace(graph, name=f"{width} {others}")

    @plots.graph_renderer("renders more", ".more")
    def renders_more(graph, **options):
        return f"{graph.name} {options}"

    check_plugin(takes_more, SMALL)
    assert registry.GraphPlugin.of(takes_more).options == ("width",)
    plugins = ("takes more", {"width": 5, "colour": "red"})
    plots.draw(SMALL["one call"], tmp_path / "graph.more", plugins=plugins, size=7)
    assert (tmp_path / "graph.more").read_text() == "5 {'colour': 'red'} {'size': 7}"


@pytest.mark.parametrize("single", ["skip_paths", ("fold", {"depth": 1}), drops_an_output])
def test_a_single_plugin_needs_no_list(single, tmp_path):
    graph = sample_graphs(large=False)["a residual stream"]
    assert plots.apply_plugins(graph, single) == plots.apply_plugins(graph, [single])
    plots.draw(graph, tmp_path / "one.json", single)
    plots.draw(graph, tmp_path / "list.json", [single])
    assert (tmp_path / "one.json").read_text() == (tmp_path / "list.json").read_text()


def test_plot_diff_takes_a_single_plugin(tmp_path):
    graph = SMALL["a residual stream"]
    plots.plot_diff(graph, graph, tmp_path / "diff.txt", "parameters")
    assert "parameters:" in (tmp_path / "diff.txt").read_text()


def test_a_list_of_two_names_is_not_a_pair_of_name_and_options():
    with pytest.raises(ValueError, match="no graph plugin 'no such'"):
        plots.apply_plugins(SMALL["one call"], ("skip_paths", "no such"))


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (("fold", {"depth": -1}), "depth is -1"),
        (("fold", {"blocks": 0}), "blocks is 0"),
        (("flops", {"sizes": {"b": 0}}), "size of 'b' is 0"),
        (("diff", {}), "against"),
        ("fold:depth=-1", "'fold' failed with depth=-1: depth is -1"),
        ("fold:depth=1.5", "depth is 1.5"),
        ("fold:depht=1", "no option 'depht' .did you mean 'depth'"),
        ("fold:1", "'1' must be OPTION=VALUE"),
        ("fold:depth=1,depth=2", "has the option 'depth' twice"),
        ("flops:sizes=b=0", "size of 'b' is 0"),
        ("flops:sizes=7", "sizes is 7"),
        ("folt:depth=1", "no graph plugin 'folt'. Did you mean 'fold'"),
        (("activations", {"seed": "x"}), "'activations' failed with seed='x': .*there is only"),
    ],
)
def test_an_option_with_a_wrong_value_raises_an_error(plugin, says, tmp_path):
    with pytest.raises(ValueError, match=says):
        plots.draw(SMALL["a residual stream"], tmp_path / "graph.txt", ["skip_paths", plugin])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [ValueError, TypeError, ZeroDivisionError])
def test_a_plugin_that_fails_is_an_error_that_names_it_and_its_options(error):
    def broken(graph, depth=1):
        raise error("reason")

    with pytest.raises(ValueError, match=r"'broken' failed with depth=2: .*reason") as caught:
        plots.apply_plugins(SMALL["one call"], ["skip_paths", (broken, {"depth": 2})])
    assert isinstance(caught.value.__cause__, error)
    with pytest.raises(ValueError, match="'<lambda>' failed: TypeError: it returned a str instead"):
        plots.apply_plugins(SMALL["one call"], lambda graph: graph.name)


def test_options_are_given_as_on_the_command_line_or_as_a_mapping():
    graph = SMALL["a residual stream"]
    expected = plots.fold(graph, depth=1)
    assert expected != graph
    for plugin in ("fold:depth=1", ("fold", {"depth": 1}), ("fold:depth=2", {"depth": 1})):
        assert plots.apply_plugins(graph, plugin) == expected
    counted = plots.apply_plugins(graph, ["memory:sizes=b=3"])
    assert counted == plots.apply_plugins(graph, [("memory", {"sizes": {"b": 3}})])
    assert counted.overlay("activation_memory").sizes == {"b": 3}


@pytest.mark.usefixtures("registered")
def test_a_registered_name_may_have_a_colon():
    named = plots.graph_plugin("mine:depth=1")(drops_an_output)
    graph = SMALL["several outputs"]
    assert plots.apply_plugins(graph, "mine:depth=1") == named(graph)
