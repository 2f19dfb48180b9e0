"""A model as a plain, frozen graph of calls: what everything else in this package works on.

A node is one *call* of a layer or operation, not the layer: a layer called three times is three
nodes that name the same `layer` and so share one set of weights. An edge is one tensor handed to
one argument, so `attention(x, x, x)` has three edges. Nothing here knows Keras.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from plots.annotations import Note, Overlay, SkipPath
from plots.declaration import Declaration

Shape = tuple[int | None, ...]
"""Sizes of a tensor's axes; `None` for an axis whose size is free."""

Kind = Literal["input", "layer", "operation", "model", "group"]
"""What is called: an entry of the graph, a layer, a bare operation, a model kept closed, or a group
of calls that `fold` has closed."""


_COUNTED = re.compile(r"#\d+(@\d+)?$")


def bytes_of(dtype: str) -> float:
    """Return the bytes of one number; those of a float32 if the dtype does not name a size."""
    bits = re.search(r"\d+", dtype)
    if dtype == "bool" or bits is None:
        return 1 if dtype == "bool" else 4
    whole, rest = divmod(int(bits[0]), 8)
    return whole + rest / 8 if rest else whole


@dataclass(frozen=True, slots=True)
class Tensor:
    """Shape and dtype of a tensor that a call gives out.

    Attributes:
        shape: Its sizes.
        dtype: Such as "float32".
        letters: The letter of every axis, where the plugin `shapes` has found them: "btd".
    """

    shape: Shape
    dtype: str
    letters: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Constant:
    """An argument that is not a tensor of the graph, such as the 2 in `x * 2`.

    `value` is a plain Python value; it is None for an array, of which only the shape, the dtype and
    what the values look like are kept: "zeros", "ones", "lower triangular", "sinusoids", or "".
    `digest` tells arrays with different values apart; None where the values are not known, where
    they are weights, and where the rest says all about them.
    """

    port: str
    value: Any = field(hash=False)
    shape: Shape | None = None
    dtype: str | None = None
    pattern: str = ""
    digest: str | None = None


@dataclass(frozen=True, slots=True)
class Node:
    """One call of a layer, operation or closed model.

    Attributes:
        id: Unique in the graph and the same in every process that builds the same model.
        name: Name of the layer or operation, as the model has it. Not compared: a name that Keras
            counted up, such as "add_7", depends on what else was built in the same process.
        kind: See `Kind`.
        class_name: Class of what is called, such as "EinsumDense".
        bases: Names of the classes it derives from, nearest first, without "Layer" and above.
        namespace: The dotted name without its last part ("decoder.block_3.self_attention"); of a
            name without dots the boxes that its numbers speak of ("conv4.block2").
        layer: Id of the first call of the same layer: equal for all calls that share weights.
        outputs: What the call gives out, flattened.
        parameters: Number of weights of the layer (of the layer, so equal for all of its calls).
            One that another layer has too, such as the embedding inside of a tied head, is counted
            at the layer that is called first and not here, so that sums over layers are right.
        trainable_parameters: How many of them are trained.
        trainable: The layer's switch; None where there is none (operations, inputs).
        config: The layer's configuration as plain, JSON-able values, without its name.
        constants: Arguments of the call that are not tensors of the graph.
        members: For a group: ids of the calls that it stands for, in order.
        weight_bytes: Bytes of these weights, each in the dtype in which it is kept.
        shared_parameters: Number of weights of the layer that are counted at another one.
        declaration: What the layer declares about the call (`graph_declaration`), if it does.
    """

    id: str
    name: str = field(compare=False)
    kind: Kind
    class_name: str
    bases: tuple[str, ...]
    namespace: str
    layer: str
    outputs: tuple[Tensor, ...]
    parameters: int
    trainable_parameters: int
    trainable: bool | None
    config: Mapping[str, Any] = field(hash=False)
    constants: tuple[Constant, ...] = ()
    members: tuple[str, ...] = ()
    weight_bytes: float = 0
    shared_parameters: int = 0
    declaration: Declaration | None = None

    @property
    def owns_weights(self) -> bool:
        """Whether weights are counted at this call: the first one of a layer that has some."""
        return self.parameters > 0 and self.layer == self.id

    @property
    def label(self) -> str:
        """The name within the namespace: "query" of "decoder.block_3.self_attention.query".

        Of a name without dots what follows the boxes: "1_conv" of "conv4_block2_1_conv".
        """
        dotted, flat = self.namespace + ".", self.namespace.replace(".", "_")
        if flat and not self.name.startswith(dotted):
            name = self.name.replace(".", "_")
            if name == flat:
                return self.namespace.rpartition(".")[2]
            if name.startswith(flat + "_"):
                return self.name[len(dotted) :]
        return self.name.rpartition(".")[2]

    @property
    def has_own_name(self) -> bool:
        """Whether somebody named it; False where Keras counted one up, such as "add_7"."""
        return _COUNTED.search(self.id) is None

    @property
    def shown_name(self) -> str:
        """What a box is called: the label, or the class where nobody named the call."""
        return self.label if self.has_own_name else self.class_name

    @property
    def role(self) -> str:
        """The role that the layer declares, one of `plots.declaration.ROLES`, or ""."""
        return self.declaration.role if self.declaration is not None else ""

    @property
    def activation(self) -> str | None:
        """Name of the activation function in the configuration, or None if there is none."""
        activation = self.config.get("activation")
        if isinstance(activation, Mapping):
            inner = activation.get("config")
            activation = inner if isinstance(inner, str) else activation.get("class_name")
        # A registered function has its package in front: "my_package>swish".
        return str(activation).rpartition(">")[2] if activation is not None else None

    def is_a(self, class_names: frozenset[str] | set[str]) -> bool:
        """Whether its class, or a class it derives from, is among `class_names`."""
        return self.class_name in class_names or not class_names.isdisjoint(self.bases)


@dataclass(frozen=True, slots=True)
class Edge:
    """One tensor on its way from a call into one argument of another call.

    Attributes:
        source: Id of the call that gives the tensor out.
        target: Id of the call that takes it.
        port: Argument that takes it, such as "query", "mask", or "inputs.1" inside a list.
        output: Which of the source's outputs it is.
        tensor: Its shape and dtype.
        implicit: Whether no argument of the call names it: a mask that Keras hands on behind the
            tensors that it belongs to (`_keras_mask`).
    """

    source: str
    target: str
    port: str
    output: int
    tensor: Tensor
    implicit: bool = False

    @property
    def id(self) -> str:
        """Unique in the graph: "encoder.norm -> decoder.attention.key"."""
        output = f" output {self.output}" if self.output else ""
        return f"{self.source}{output} -> {self.target}.{self.port}"


@dataclass(frozen=True, slots=True)
class Loss:
    """What a compiled model is trained on: the loss of one output.

    Attributes:
        class_name: Such as "SparseCategoricalCrossentropy".
        from_logits: Whether it applies the softmax or sigmoid itself; None where it has no say.
    """

    class_name: str
    from_logits: bool | None = None


@dataclass(frozen=True)
class Graph:
    """A model: its calls in an order in which they can be computed, and the edges between them.

    The first part is what the model is; the second, empty in a graph that was just read, is what
    plugins have found out.

    Attributes:
        name: Name of the model.
        nodes: Calls, every one after all that it takes from.
        edges: In the order of their targets, and there of the target's arguments.
        inputs: Ids of the model's inputs, in order.
        outputs: (id, output) of the model's outputs, in order.
        parameters: Number of weights, shared ones counted once.
        trainable_parameters: How many of them are trained.
        losses: What a compiled model is trained on, in the order of its outputs. An output without
            a loss has none here, and one loss for all outputs is here once.
        repeats: Namespace or id -> how many equal blocks, one after the other, it stands for.
        skip_paths: The residual paths.
        stream: (source, target) pairs that the residual stream runs along, from end to end.
        letters: Letter of an axis -> its size; None where it is free.
        overlays: Numbers on calls and edges.
        notes: Words about calls and edges.
        pictures: Id of a call -> a PNG, as base64 text.
    """

    name: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    inputs: tuple[str, ...]
    outputs: tuple[tuple[str, int], ...]
    parameters: int
    trainable_parameters: int
    losses: tuple[Loss, ...] = ()
    repeats: Mapping[str, int] = field(default_factory=dict, hash=False)
    skip_paths: tuple[SkipPath, ...] = ()
    stream: tuple[tuple[str, str], ...] = ()
    letters: Mapping[str, int | None] = field(default_factory=dict, hash=False)
    overlays: tuple[Overlay, ...] = ()
    notes: tuple[Note, ...] = ()
    pictures: Mapping[str, str] = field(default_factory=dict, hash=False)

    def to_json(self) -> str:
        """The graph as JSON, the same text for the same graph in every process.

        `Graph.from_json` reads it back, so that a graph can be kept, compared and drawn where there
        is no Keras. Names that Keras has counted up, such as "add_7", are left out, since they
        depend on what else was built; read back, such a call has its id as its name.
        """
        from plots.graph_json import graph_to_json

        return graph_to_json(self)

    @staticmethod
    def from_json(text: str | bytes) -> Graph:
        """Read back what `to_json` has written.

        Raises:
            ValueError: if it is no JSON, not such a graph, of an unknown version, or if its parts
                do not fit together.
        """
        from plots.graph_json import graph_from_json

        return graph_from_json(text)

    def overlay(self, name: str) -> Overlay:
        """The overlay with this name.

        Raises:
            KeyError: if there is none.
        """
        for overlay in self.overlays:
            if overlay.name == name:
                return overlay
        there = ", ".join(overlay.name for overlay in self.overlays) or "none"
        raise KeyError(f"the graph {self.name!r} has no overlay {name!r}; it has {there}")

    def __repr__(self) -> str:
        sizes = f"{len(self.nodes):,} calls, {len(self.edges):,} edges"
        return f"<Graph {self.name!r}: {sizes}, {self.parameters:,} parameters>"

    def __str__(self) -> str:
        """Indented text, with the residual stream marked and equal blocks as one."""
        from plots.presentation import presentable
        from plots.renderers.text import to_text

        return to_text(presentable(self))

    def _repr_svg_(self) -> str | None:
        """A picture for notebooks, with large graphs folded; None if it would be unreadable."""
        from plots.presentation import notebook_svg

        return notebook_svg(self)

    def _repr_html_(self) -> str | None:
        """The explorer, for notebooks; None if the engine that lays it out is not installed."""
        from plots.presentation import notebook_page

        return notebook_page(self)

    @property
    def is_folded(self) -> bool:
        """Whether it does not show all calls of its model, because `fold` left some out."""
        return bool(self.repeats) or any(node.kind == "group" for node in self.nodes)

    def check_whole(self, advice: str) -> None:
        """Refuse a folded graph, for what needs all calls of the model.

        Raises:
            ValueError: with the advice, what to do instead.
        """
        if self.is_folded:
            raise ValueError(
                f"the graph {self.name!r} is folded, so that calls are missing: {advice}"
            )

    @cached_property
    def index(self) -> Mapping[str, int]:
        """Position of every id in `nodes`."""
        return {node.id: position for position, node in enumerate(self.nodes)}

    @cached_property
    def incoming(self) -> Mapping[str, tuple[Edge, ...]]:
        """Edges into every id, in the order of its arguments."""
        return self._edges_by("target")

    @cached_property
    def outgoing(self) -> Mapping[str, tuple[Edge, ...]]:
        """Edges out of every id."""
        return self._edges_by("source")

    @cached_property
    def ties(self) -> Mapping[str, tuple[str, ...]]:
        """Layers that are called more than once: layer -> ids of its calls."""
        calls: dict[str, list[str]] = {}
        for node in self.nodes:
            calls.setdefault(node.layer, []).append(node.id)
        return {layer: tuple(ids) for layer, ids in calls.items() if len(ids) > 1}

    @cached_property
    def notes_about(self) -> Mapping[str, tuple[Note, ...]]:
        """Notes about every call and edge that there are any about."""
        about: dict[str, list[Note]] = {}
        for note in self.notes:
            for place in note.about:
                about.setdefault(place, []).append(note)
        return {place: tuple(notes) for place, notes in about.items()}

    def node(self, node_id: str) -> Node:
        """The call with this id.

        Raises:
            KeyError: if there is none.
        """
        try:
            return self.nodes[self.index[node_id]]
        except KeyError:
            raise KeyError(f"the graph {self.name!r} has no node with id {node_id!r}") from None

    def times(self, node: Node) -> int:
        """How many equal blocks a call stands for: more than 1 for one of a folded run."""
        return self.repeats.get(node.name if node.kind == "group" else node.id, 1)

    def _edges_by(self, end: Literal["source", "target"]) -> dict[str, tuple[Edge, ...]]:
        by_id: dict[str, list[Edge]] = {node.id: [] for node in self.nodes}
        for edge in self.edges:
            by_id[getattr(edge, end)].append(edge)
        return {node_id: tuple(edges) for node_id, edges in by_id.items()}
