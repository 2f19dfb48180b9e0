"""Check that a graph plugin or renderer follows the rules, for the tests of its author.

    from plots.conformance import check_plugin, check_renderer

    def test_my_plugin_follows_the_rules():
        check_plugin(my_plugin)

Both apply it to `sample_graphs`, which need no Keras: a single call, names with special characters,
parallel edges, shared layers, deep names, implicit masks, several outputs, folded and annotated
graphs, and one of 2,000 calls. An AssertionError names the broken rule and the sample.
"""

from __future__ import annotations

import inspect
import re
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, NoReturn

from plots.annotations import Note, Overlay, Quantity
from plots.folding import fold
from plots.graph import Edge, Graph, Kind, Loss, Node, Shape, Tensor, check_graph
from plots.layers import merge_sign
from plots.registry import GraphPlugin, GraphRenderer, find_plugin, find_renderer
from plots.skips import mark_skip_paths

__all__ = ["check_plugin", "check_renderer", "sample_graphs"]

_NAME = """<b>&"quoted"</b>{a|b};#35;\\n'é'%s[c](d)`e`*f*$g$~h
second line"""
"""A name with every character that is special in some format."""

_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def check_plugin(
    plugin: str | GraphPlugin | Callable[..., Graph],
    samples: Mapping[str, Graph] | None = None,
    **options: Any,
) -> None:
    """Check a graph plugin.

    A plugin accepts every graph and does not change it. It returns a graph with the same outputs
    whose parts fit together, equal on every call and equal after a round trip through JSON. It may
    raise ValueError for a folded graph, and for a missing model if it has the parameter `model`,
    which is None here.

    Args:
        plugin: A registered name, or the function, decorated or not.
        samples: Graphs by name; None uses `sample_graphs`.
        **options: Options for the plugin.

    Raises:
        AssertionError: if it breaks a rule, naming the rule and the sample.
        ValueError: if no plugin has that name.
    """
    known = _known(plugin, GraphPlugin, find_plugin)
    _check_options(known, options)
    given = {"model": None, **options} if known.takes_model else options
    has_no_model = known.takes_model and given["model"] is None
    for name, graph in (sample_graphs() if samples is None else samples).items():
        place = f"the plugin {known.name!r} on the sample {name!r}"
        refusals = (ValueError,) if has_no_model or graph.is_folded else ()
        try:
            result, again = _called_twice(known, graph, given, place, refusals)
        except refusals:
            continue
        _require(isinstance(result, Graph), place, f"returns a Graph, not {_kind(result)}")
        _check_result(result, place)
        is_same = again.to_json() == result.to_json()
        _require(is_same, place, "returns the same result on every call")
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

    A renderer accepts every graph and does not change it. It returns text or bytes, equal on every
    call. Text (not bytes) contains all words of the names of all calls, however its format escapes
    other characters; only a merge may be drawn as a symbol.

    Args:
        renderer: A registered name, or the function, decorated or not.
        samples: Graphs by name; None uses `sample_graphs`.
        **options: Options for the renderer.

    Raises:
        AssertionError: if it breaks a rule, naming the rule and the sample.
        ValueError: if no renderer has that name.
    """
    known = _known(renderer, GraphRenderer, find_renderer)
    _check_options(known, options)
    for name, graph in (sample_graphs() if samples is None else samples).items():
        place = f"the renderer {known.name!r} on the sample {name!r}"
        result, again = _called_twice(known, graph, options, place)
        is_file = isinstance(result, str | bytes) and result
        _require(is_file, place, f"returns text or bytes, not {_kind(result)}")
        _require(again == result, place, "returns the same result on every call")
        if isinstance(result, str):
            missing = sorted(word for word in _words_of(graph) if word not in result)
            _require(not missing, place, f"contains all names of calls; missing: {missing}")


def _known(thing: Any, of: Any, find: Callable[[str], Any]) -> Any:
    """Return the plugin or renderer of a name or function."""
    if isinstance(thing, str):
        return find(thing)
    return thing if isinstance(thing, of) else of.of(thing)


def _check_options(known: GraphPlugin | GraphRenderer, options: Mapping[str, Any]) -> None:
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p for p in known.parameters if p.default is p.empty and p.kind not in variadic]
    missing = [p.name for p in needed if p.name not in {"model", *options}]
    _require(not missing, repr(known.name), f"has a default for every option; missing: {missing}")
    graph = next(iter(inspect.signature(known.function).parameters.values()))
    positional = graph.kind is not graph.KEYWORD_ONLY
    _require(positional, repr(known.name), "takes the graph as its first argument, by position")


def _called_twice(
    function: Callable[..., Any],
    graph: Graph,
    options: Mapping[str, Any],
    place: str,
    allowed: tuple[type[Exception], ...] = (),
) -> list[Any]:
    before = graph.to_json()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # such as a graph that is too large for a format
            results = [function(graph, **options) for _ in range(2)]
    except allowed:
        raise
    except Exception as error:
        raised = f"{type(error).__name__}: {error}"
        _broken(place, f"accepts every graph, but raised {raised}", error)
    _require(graph.to_json() == before, place, "does not change the graph that it is given")
    return results


def _broken(place: str, rule: str, error: Exception | None = None) -> NoReturn:
    raise AssertionError(f"{place} breaks a rule: it {rule}") from error


def _check_result(result: Graph, place: str) -> None:
    """Check that the parts of a graph fit together and that it is equal after JSON."""
    try:
        check_graph(result)
    except ValueError as error:
        _broken(place, f"returns a graph whose parts fit together, but {error}", error)
    try:
        text = result.to_json()
        read = Graph.from_json(text)
        survives = read == result and read.to_json() == text
    except (TypeError, ValueError) as error:
        _broken(place, f"returns a graph of JSON values only, but {error}", error)
    _require(survives, place, "returns a graph that is equal after Graph.from_json(to_json())")


def _tensor(graph: Graph, node_id: str, output: int) -> Any:
    """Return shape and dtype of an output of the model; its letters may change."""
    tensor = graph.node(node_id).outputs[output]
    return tensor.shape, tensor.dtype


def _words_of(graph: Graph) -> set[str]:
    """Return the words of the names of all calls but merges, which may be drawn as a symbol."""
    names = [node.shown_name for node in graph.nodes if not merge_sign(node)]
    return {word for name in names for word in re.findall(r"[^\W_]{2,}", name)}


def _kind(result: Any) -> str:
    return f"empty {type(result).__name__}" if result in ("", b"") else type(result).__name__


def _require(kept: Any, place: str, rule: str) -> None:
    if not kept:
        _broken(place, rule)


def sample_graphs(large: bool = True) -> dict[str, Graph]:
    """Return small graphs for tests by name, built without Keras.

    Args:
        large: Whether to include the one with 2,000 calls.
    """
    samples = {
        "one call": _Sketch("one").input("x").graph("x"),
        "an unused input": _Sketch("idle").input("x", "y").call("a", "y").graph("a"),
        "special characters in names": _with_special_characters(),
        "parallel edges": _Sketch("parallel")
        .input("x")
        .call("attention", query="x", key="x", value="x")
        .graph("attention"),
        "a shared layer": _Sketch("shared")
        .input("x", "y")
        .call("twice", "x")
        .call("twice@2", "y", layer="twice")
        .call("both", first="twice", second="twice@2", class_name="Concatenate")
        .graph("both"),
        "deep names": _deep(),
        "an implicit mask": _with_mask(),
        "several outputs": _with_outputs(),
        "a residual stream": mark_skip_paths(_stack(blocks=3)),
        "folded": fold(mark_skip_paths(_stack(blocks=5)), depth=2),
        "folded to one group": fold(_stack(blocks=5), depth=0),
        "annotated": _annotated(),
    }
    if large:
        samples["2,000 calls"] = mark_skip_paths(_stack(blocks=285))
    return samples


class _Sketch:
    """A graph that is built call by call; the shape of tensors is (None, 7) unless given."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.nodes: dict[str, Node] = {}
        self.edges: list[Edge] = []

    def input(self, *ids: str, dtype: str = "float32") -> _Sketch:
        for node_id in ids:
            self._add(node_id, "input", "InputLayer", (Tensor((None, 7), dtype),), node_id)
        return self

    def call(
        self,
        node_id: str,
        *sources: str,
        class_name: str = "Dense",
        layer: str | None = None,
        shapes: tuple[Shape, ...] = ((None, 7),),
        **arguments: str,
    ) -> _Sketch:
        outputs = tuple(Tensor(shape, "float32") for shape in shapes)
        self._add(node_id, "layer", class_name, outputs, layer or node_id)
        ports = {f"inputs.{number}": source for number, source in enumerate(sources)}
        if len(sources) == 1:
            ports = {"inputs": sources[0]}
        for port, source in (ports | arguments).items():
            self.edge(source, node_id, port)
        return self

    def edge(self, source: str, target: str, port: str, implicit: bool = False) -> _Sketch:
        tensor = self.nodes[source].outputs[0]
        self.edges.append(Edge(source, target, port, 0, tensor, implicit))
        return self

    def graph(self, *outputs: str) -> Graph:
        weights = {node.layer: node.parameters for node in self.nodes.values()}
        return Graph(
            name=self.name,
            nodes=tuple(self.nodes.values()),
            edges=tuple(self.edges),
            inputs=tuple(node.id for node in self.nodes.values() if node.kind == "input"),
            outputs=tuple((node_id, 0) for node_id in outputs),
            parameters=sum(weights.values()),
            trainable_parameters=sum(weights.values()),
        )

    def _add(
        self, node_id: str, kind: Kind, class_name: str, outputs: tuple[Tensor, ...], layer: str
    ) -> None:
        weights = 56 if class_name == "Dense" else 0
        self.nodes[node_id] = Node(
            id=node_id,
            name=node_id.partition("@")[0] if layer != node_id else node_id,
            kind=kind,
            class_name=class_name,
            bases=(),
            namespace=node_id.rpartition(".")[0],
            layer=layer,
            outputs=outputs,
            parameters=weights,
            trainable_parameters=weights,
            trainable=None if kind == "input" else True,
            config={"units": 7, "activation": "relu"} if weights else {},
            weight_bytes=4 * weights,
        )


def _with_special_characters() -> Graph:
    sketch = _Sketch(_NAME).input("end").call(_NAME, "end", class_name=_NAME)
    return sketch.call(f"{_NAME}.graph", _NAME).call("style", f"{_NAME}.graph").graph("style")


def _deep() -> Graph:
    names = [".".join(["a"] * depth + [f"call_{depth}"]) for depth in range(40)]
    sketch = _Sketch("deep").input("x", "a.a.y").call(names[0], "x")
    for source, target in pairwise(names):
        sketch.call(target, source)
    return sketch.edge("a.a.y", names[2], "other").graph(names[-1])


def _with_mask() -> Graph:
    sketch = _Sketch("masked").input("x").call("embedding", "x", class_name="Embedding")
    sketch.input("mask", dtype="bool").call("lstm", "embedding", class_name="LSTM")
    return sketch.edge("mask", "lstm", "mask", implicit=True).graph("lstm")


def _with_outputs() -> Graph:
    sketch = _Sketch("several").input("x")
    sketch.call("lstm", "x", class_name="LSTM", shapes=((None, 5, 7), (None, 7), (None, 7)))
    graph = sketch.call("a", "x").graph("a", "lstm", "a")
    return replace(graph, outputs=(*graph.outputs, ("lstm", 2)))


def _stack(blocks: int) -> Graph:
    """Return pre-norm blocks of seven calls each."""
    sketch, stream = _Sketch("stack").input("tokens").call("embedding", "tokens"), "embedding"
    for number in range(blocks):
        for sublayer in ("attention", "feedforward"):
            name = f"decoder.block_{number}.{sublayer}"
            sketch.call(f"{name}.norm", stream, class_name="LayerNormalization")
            last = "norm"
            for part in ("up", "down") if sublayer == "feedforward" else ("heads",):
                sketch.call(f"{name}.{part}", f"{name}.{last}")
                last = part
            sketch.call(f"{name}.residual", stream, f"{name}.{last}", class_name="Add")
            stream = f"{name}.residual"
    return sketch.call("logits", stream).graph("logits")


def _annotated() -> Graph:
    """Return a graph with all annotations that plugins make."""
    graph = mark_skip_paths(_stack(blocks=2))
    whole = Quantity({"b d": 1e12}, missing=["Lambda"])
    counted = {node.id: Quantity({"b d": 2.0 * node.parameters, "": 3.0}) for node in graph.nodes}
    counted["embedding"] = Quantity(missing=["Lambda"])
    measured = {edge.id: Quantity(10.0**-number) for number, edge in enumerate(graph.edges)}
    measured |= {node.id: Quantity(float(number)) for number, node in enumerate(graph.nodes)}
    return replace(
        graph,
        nodes=tuple(
            replace(node, outputs=tuple(replace(t, letters=("b", "d")) for t in node.outputs))
            for node in graph.nodes
        ),
        losses=(Loss("SparseCategoricalCrossentropy", True),),
        letters={"b": None, "d": 7},
        overlays=(
            Overlay("flops", "operations", "FLOP", counted, whole, sizes={"b": 3, "d": 7}),
            Overlay("rms", f"RMS {_NAME}", "", measured, combine="last", scale="log"),
        ),
        notes=(
            Note("finding", ("embedding", graph.edges[1].id), f"A note. {_NAME}", "a paper, 3.1"),
            Note("changed", (graph.edges[2].id,), "A note about an edge."),
            Note("a custom kind", (), "A note about the whole graph."),
        ),
        pictures={"logits": _PIXEL},
    )
