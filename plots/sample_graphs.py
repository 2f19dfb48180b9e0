"""Small graphs made by hand, without Keras, for tests of plugins and renderers.

Each has something in it that drawings of models get wrong.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from plots.annotations import Note, Overlay, Quantity
from plots.folding.fold import fold
from plots.graph import Edge, Graph, Kind, Loss, Node, Shape, Tensor
from plots.skips import mark_skip_paths

SIGNS = """<b>&"quoted"</b>{a|b};#35;\\n'é'%s[c](d)`e`*f*$g$~h
second line"""
"""A name with every sign that means something to some format."""

_PIXEL = (
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQUBAScY42YAAAAASUVORK5CYII="
)


def sample_graphs(large: bool = True) -> dict[str, Graph]:
    """The samples by name.

    Args:
        large: Whether the one with 2,000 calls is among them.
    """
    samples = {
        "one call": _Sketch("one").input("x").graph("x"),
        "an input that leads nowhere": _Sketch("idle").input("x", "y").call("a", "y").graph("a"),
        "signs in names": _with_signs(),
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
        "folded to one box": fold(_stack(blocks=5), depth=0),
        "annotated": _annotated(),
    }
    if large:
        samples["2,000 calls"] = mark_skip_paths(_stack(blocks=285))
    return samples


class _Sketch:
    """A graph that is put together call by call; all tensors are (None, 7) but where said."""

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
        ports = {"inputs": sources[0]} if len(sources) == 1 else {}
        if len(sources) > 1:
            ports = {f"inputs.{number}": source for number, source in enumerate(sources)}
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
        parameters = 56 if class_name == "Dense" else 0
        config = {"units": 7, "activation": "relu"} if parameters else {}
        namespace = node_id.rpartition(".")[0]
        name = node_id.partition("@")[0] if layer != node_id else node_id
        trainable = None if kind == "input" else True
        self.nodes[node_id] = Node(
            node_id,
            name,
            kind,
            class_name,
            (),
            namespace,
            layer,
            outputs,
            parameters,
            parameters,
            trainable,
            config,
            weight_bytes=4 * parameters,
        )


def _with_signs() -> Graph:
    sketch = _Sketch(SIGNS).input("end").call(SIGNS, "end", class_name=SIGNS)
    return sketch.call(f"{SIGNS}.graph", SIGNS).call("style", f"{SIGNS}.graph").graph("style")


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
    """Pre-norm blocks, seven calls each."""
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
    """A graph with everything that plugins may say."""
    graph = mark_skip_paths(_stack(blocks=2))
    letters = {"b": None, "d": 7}
    whole = Quantity({"b d": 1e12})
    counted = {node.id: Quantity({"b d": 2.0 * node.parameters, "": 3.0}) for node in graph.nodes}
    measured = {edge.id: Quantity(10.0**-number) for number, edge in enumerate(graph.edges)}
    measured |= {node.id: Quantity(float(number)) for number, node in enumerate(graph.nodes)}
    return replace(
        graph,
        nodes=tuple(
            replace(node, outputs=tuple(replace(t, letters=("b", "d")) for t in node.outputs))
            for node in graph.nodes
        ),
        losses=(Loss("SparseCategoricalCrossentropy", True),),
        letters=letters,
        overlays=(
            Overlay("flops", "operations", "FLOP", counted, whole, sizes={"b": 3, "d": 7}),
            Overlay("rms", f"RMS {SIGNS}", "", measured, combine="last", scale="log"),
        ),
        notes=(
            Note("finding", ("embedding", graph.edges[1].id), f"A note. {SIGNS}", "a paper, 3.1"),
            Note("changed", (graph.edges[2].id,), "A note about an edge."),
            Note("somebody's own kind", (), "A note about everything."),
        ),
        pictures={"logits": _PIXEL},
    )
