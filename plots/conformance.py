"""Check that a graph plugin or renderer keeps the rules, in the tests of whoever writes one.

    from plots.conformance import check_plugin, check_renderer

    def test_my_plugin_keeps_the_rules():
        check_plugin(my_plugin)

Both apply it to `sample_graphs`, made by hand without Keras: a single call, names full of signs,
parallel edges, shared layers, deep names, implicit masks, several outputs, graphs that are folded
or annotated already, and one of 2,000 calls. What breaks a rule raises an AssertionError that says
which rule, on which sample.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from plots.graph import Graph
from plots.graph_json import check_graph
from plots.operation_kinds import is_additive_merge
from plots.registry import VARIADIC, GraphPlugin, GraphRenderer, find_plugin, find_renderer
from plots.sample_graphs import sample_graphs

__all__ = ["check_plugin", "check_renderer", "sample_graphs"]


def check_plugin(
    plugin: str | GraphPlugin | Callable[..., Graph],
    samples: Mapping[str, Graph] | None = None,
    **options: Any,
) -> None:
    """Check a graph plugin.

    It takes every graph, returns a graph whose parts fit together, that is the same every time and
    survives being written as JSON and read back, has the outputs of the one given, and leaves that
    one as it was. Two things it may refuse with a ValueError: a graph that is folded already, and
    going without a model, if it has the parameter `model`, which is None here.

    Args:
        plugin: A registered name, or the function, decorated or not.
        samples: Graphs by name, in the place of `sample_graphs`.
        **options: To apply it with.

    Raises:
        AssertionError: naming the rule that is broken, and the sample.
        ValueError: if no plugin has that name.
    """
    known = _known(plugin, GraphPlugin, find_plugin)
    _check_options(known.name, known.apply, options)
    given = {"model": None, **options} if known.takes_model else options
    has_no_model = known.takes_model and given["model"] is None
    for name, graph in (sample_graphs() if samples is None else samples).items():
        before, place = graph.to_json(), f"the plugin {known.name!r} on the sample {name!r}"
        refusals = (ValueError,) if has_no_model or graph.is_folded else ()
        try:
            result = _called(known.apply, graph, given, place, refusals)
        except refusals:
            continue
        _require(isinstance(result, Graph), place, f"returns a Graph, and no {_kind(result)}")
        _require(graph.to_json() == before, place, "leaves the graph that it is given as it was")
        _check_result(result, place)
        again = _called(known.apply, graph, given, place, refusals)
        _require(again.to_json() == result.to_json(), place, "gives the same result every time")
        _require(
            [_tensor(result, *end) for end in result.outputs]
            == [_tensor(graph, *end) for end in graph.outputs],
            place,
            f"keeps the {len(graph.outputs)} outputs of the graph, with their shapes",
        )


def check_renderer(
    renderer: str | GraphRenderer | Callable[..., str | bytes],
    samples: Mapping[str, Graph] | None = None,
    **options: Any,
) -> None:
    """Check a graph renderer.

    It takes every graph, returns text or bytes, the same every time, and leaves the graph as it
    was. Text (not bytes) holds all words of the names of all calls, whatever its format puts in the
    place of signs; only a merge may be a sign itself.

    Args:
        renderer: A registered name, or the function, decorated or not.
        samples: Graphs by name, in the place of `sample_graphs`.
        **options: To apply it with.

    Raises:
        AssertionError: naming the rule that is broken, and the sample.
        ValueError: if no renderer has that name.
    """
    known = _known(renderer, GraphRenderer, find_renderer)
    _check_options(known.name, known.render, options)
    for name, graph in (sample_graphs() if samples is None else samples).items():
        before, place = graph.to_json(), f"the renderer {known.name!r} on the sample {name!r}"
        result = _called(known.render, graph, options, place)
        is_file = isinstance(result, str | bytes) and result
        _require(is_file, place, f"returns text or bytes, and no {_kind(result)}")
        _require(graph.to_json() == before, place, "leaves the graph that it is given as it was")
        again = _called(known.render, graph, options, place)
        _require(again == result, place, "gives the same result every time")
        if isinstance(result, str):
            missing = sorted(word for word in _words_of(graph) if word not in result)
            _require(not missing, place, f"has all names of calls in its text; missing: {missing}")


def _known(thing: Any, of: Any, find: Callable[[str], Any]) -> Any:
    """The plugin or renderer that a name, or a function, stands for."""
    if isinstance(thing, str):
        return find(thing)
    if isinstance(thing, of):
        return thing
    return of.of(thing)


def _check_options(name: str, function: Callable[..., Any], options: Mapping[str, Any]) -> None:
    graph, *others = inspect.signature(function).parameters.values()
    given = {"model", *options}
    needed = [p for p in others if p.default is p.empty and p.kind not in VARIADIC]
    missing = [p.name for p in needed if p.name not in given]
    _require(not missing, repr(name), f"has a default for every option; missing: {missing}")
    positional = graph.kind is not graph.KEYWORD_ONLY
    _require(positional, repr(name), "takes the graph as its first argument, by position")


def _called(
    function: Callable[..., Any],
    graph: Graph,
    options: Mapping[str, Any],
    place: str,
    allowed: tuple[type[Exception], ...] = (),
) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that a graph is too large for a format, for example
            return function(graph, **options)
    except allowed:
        raise
    except Exception as error:
        said = f"{place} breaks a rule: it takes every graph, but {type(error).__name__}: {error}"
        raise AssertionError(said) from error


def _check_result(result: Graph, place: str) -> None:
    """That a graph fits together and survives JSON."""
    try:
        check_graph(result)
    except ValueError as error:
        raise AssertionError(f"{place} breaks a rule: its graph fits together: {error}") from error
    try:
        text = result.to_json()
        read = Graph.from_json(text)
        survives = read == result and read.to_json() == text
    except (TypeError, ValueError) as error:
        raise AssertionError(
            f"{place} breaks a rule: its graph holds plain values only, as JSON has them: {error}"
        ) from error
    _require(survives, place, "gives a graph that is the same after Graph.from_json(to_json())")


def _tensor(graph: Graph, node_id: str, output: int) -> Any:
    """Shape and dtype of an output of the model; its letters may change."""
    tensor = graph.node(node_id).outputs[output]
    return tensor.shape, tensor.dtype


def _words_of(graph: Graph) -> set[str]:
    """Words of the names of all calls but merges, which may be drawn as a sign."""
    names = [node.shown_name for node in graph.nodes if not is_additive_merge(node)]
    return {word for name in names for word in re.findall(r"[^\W_]{2,}", name)}


def _kind(result: Any) -> str:
    return f"empty {type(result).__name__}" if result in ("", b"") else type(result).__name__


def _require(kept: Any, place: str, rule: str) -> None:
    if not kept:
        raise AssertionError(f"{place} breaks a rule: it {rule}")
