"""Who looks at whom: the attention weights of a model for given tokens, and pictures of them."""

from __future__ import annotations

import base64
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from plots.annotations import Overlay, Quantity
from plots.declaration import Declaration
from plots.graph import Edge, Graph, Node, Shape
from plots.measuring.arrays import as_array
from plots.measuring.attention_pictures import heads_png
from plots.measuring.execution import Compute, Execution, Opened
from plots.operation_kinds import (
    ATTENTION_LAYERS,
    FUSED_ATTENTION,
    PRODUCTS,
    is_additive_merge,
    is_identity_like,
    is_softmax,
)
from plots.reading.keras_calls import (
    RecordedCall,
    all_parameter_names,
    arguments_of,
    parameter_names,
)
from plots.reading.keras_values import base_names
from plots.registry import OptionError, graph_plugin

if TYPE_CHECKING:
    import keras
    import numpy as np


@dataclass(frozen=True, slots=True)
class AttentionMap:
    """The weights of one attention.

    Attributes:
        kind: "self", or "cross" where queries and keys are made of different tensors.
        weights: (b, n, t, s), after the softmax: the sum over s is 1. Where positions lie along
            several axes, as those of an image (b, H, W, d), they are in one row, t = H W; where
            only some of them are attended over, each head has a map for every place on the others.
    """

    kind: Literal["self", "cross"]
    weights: np.ndarray

    @property
    def mask(self) -> np.ndarray:
        """(b, n, t, s), True where a query may look: wherever its weight is not exactly zero.

        A query that may look nowhere has weights as well, which mean nothing.
        """
        return self.weights > 0

    @property
    def entropy(self) -> float:
        """Mean entropy of the weights in bits: 0 for a look at one key, log2(s) for equal ones."""
        import numpy as np

        weights = self.weights.astype("float64")
        logarithms = np.log2(weights, where=weights > 0, out=np.zeros_like(weights))
        return float(-(weights * logarithms).sum(-1).mean())


def attention_maps(
    model: keras.Model,
    inputs: Any = None,
    open_nested: bool = False,
    open_layers: bool = False,
    seed: int = 0,
) -> dict[str, AttentionMap]:
    """The attention weights of a model for one batch: id of the call that makes them -> map.

    Found are `MultiHeadAttention`, `GroupQueryAttention`, `Attention`, `AdditiveAttention` and what
    derives from them, if it takes `return_attention_scores`; `keras.ops.dot_product_attention` and
    layers that declare the role "attention" and take query, key and value (b, s, k, h); and where
    attention is wired step by step, what is a softmax by its role or the name of its class, returns
    (b, n, t, s), and goes into a product, past a dropout at most. Attention inside of other layers,
    such as the blocks of KerasHub, is found with `open_layers`.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        open_nested: As for `plots.read_graph`, by which the ids go.
        open_layers: As for `plots.read_graph`.
        seed: Of the random inputs.

    Raises:
        TypeError: if the model has no graph.
        ValueError: as from `plots.call_values`.
    """
    weights: dict[str, Any] = {}
    compute = _noting_weights(weights)
    execution = Execution.of(model, inputs, seed, Opened(open_nested, open_layers), compute)
    return _maps(execution, weights)


@graph_plugin("attention")
def attention(
    graph: Graph,
    model: keras.Model | None = None,
    inputs: Any = None,
    example: int = 0,
    seed: int = 0,
) -> Graph:
    """Attention weights of one batch: a picture of all heads at every attention, and the entropy.

    Puts a picture into `Graph.pictures` for every attention that `plots.attention_maps` finds: a
    map for each head, a row for each query, dark where it looks, grey where a mask keeps it from
    looking. Adds the overlay "attention entropy", the mean over the whole batch in bits.

    Args:
        graph: The graph.
        model: What it was read from.
        inputs: One batch, as the model takes it; None: `plots.random_inputs(model, seed=seed)`.
        example: Which example of the batch to draw.
        seed: Of the random inputs.

    Raises:
        ValueError: if there is no model, it has no weights, the inputs do not fit, or there is no
            such example.
    """
    weights: dict[str, Any] = {}
    execution = Execution.as_read(graph, model, inputs, seed, _noting_weights(weights))
    maps = {i: found for i, found in _maps(execution, weights).items() if i in graph.index}
    sizes = {len(found.weights) for found in maps.values()}
    if sizes and not 0 <= example < min(sizes):
        raise OptionError(
            f"example is {example!r}; the batch has the examples 0 to {min(sizes) - 1}"
        )
    pictures = {
        i: base64.b64encode(heads_png(found.weights[example], found.mask[example])).decode()
        for i, found in maps.items()
    }
    values = {i: Quantity(found.entropy) for i, found in maps.items()}
    overlay = Overlay("attention entropy", "mean entropy", "bits", values, combine="last")
    return replace(
        graph,
        pictures={**graph.pictures, **pictures},
        overlays=(*graph.overlays, overlay) if maps else graph.overlays,
    )


def _noting_weights(weights: dict[str, Any]) -> Compute:
    """What computes a call, and if it is an attention in one piece, notes its weights by its id."""

    def compute(call: RecordedCall, args: list[Any], kwargs: dict[str, Any]) -> Any:
        import keras

        operation = call.record.operation
        node_id = call.results[0][0]
        name, bases = type(operation).__name__, base_names(operation.__class__)
        # Somebody else's class may have the name of one that is known, and other arguments.
        taken = all_parameter_names(operation.__class__)
        gives_weights = "return_attention_scores" in taken
        if gives_weights and not ATTENTION_LAYERS.isdisjoint({name, *bases}):
            asked = dict(arguments_of(call.record)).get("return_attention_scores", False)
            outputs = keras.tree.flatten(
                operation(*args, **kwargs | ({} if asked else {"return_attention_scores": True}))
            )
            queries = args[0] if args else kwargs.get("query", kwargs.get("inputs"))
            weights[node_id] = _by_head(outputs[1], len(keras.tree.flatten(queries)[0].shape))
            return outputs if asked else [outputs[0], *outputs[2:]]
        declared = call.declaration or Declaration()
        mixes_values = declared.role == "attention" and declared.inputs.get("value") == "bskh"
        if (mixes_values or name in FUSED_ATTENTION) and {"query", "key", "value"} <= taken:
            weights[node_id] = _attended_identity(operation, args, kwargs)
        return operation(*args, **kwargs)

    return compute


def _by_head(scores: Any, rank: int) -> Any:
    """Scores as (b, n, t, s), of a layer that takes queries of this rank.

    They are (b, t, s) without heads, and else (b, ..., n, *t, *s), with as many axes for t as for s
    and in front of n those that are not attended over.
    """
    from keras import ops

    shape = tuple(scores.shape)
    if len(shape) == 3:
        return scores[:, None]
    attended = len(shape) - rank
    others, t = shape[1 : -2 * attended], shape[-2 * attended : -attended]
    lengths = math.prod(t), math.prod(shape[-attended:])
    return ops.reshape(scores, (shape[0], math.prod(others), *lengths))


def _attended_identity(operation: Any, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """The weights (b, n, t, s) of a fused attention: what it makes of an identity matrix as values.

    So whatever it does to the scores is done here, too. As wide as the values that it is used to
    is what some backends ask of values, so the identity comes in slices.
    """
    import numpy as np
    from keras import ops

    position = parameter_names(operation.__class__).index("value")
    value = args[position] if position < len(args) else kwargs["value"]
    _, s, _, h = value.shape
    identity = np.eye(s, -(-s // h) * h, dtype="float32")
    mixed = []
    for start in range(0, s, h):
        columns = ops.cast(identity[:, None, start : start + h], value.dtype)
        columns = ops.broadcast_to(columns, value.shape)  # (b, s, k, h)
        if position < len(args):
            changed = operation(*args[:position], columns, *args[position + 1 :], **kwargs)
        else:
            changed = operation(*args, **kwargs | {"value": columns})
        mixed.append(changed)
    return ops.transpose(ops.concatenate(mixed, axis=-1)[..., :s], (0, 2, 1, 3))


def _maps(execution: Execution, weights: Mapping[str, Any]) -> dict[str, AttentionMap]:
    """All maps in the order of the graph: what was noted, and what attention in steps gives out."""
    graph = execution.graph
    steps = {i: execution.values[i, 0] for i in _softmaxes_of_attention(graph)}
    found = {**steps, **weights}
    return {
        node.id: AttentionMap(_kind(graph, node), as_array(found[node.id]))
        for node in graph.nodes
        if node.id in found
    }


def _softmaxes_of_attention(graph: Graph) -> Iterator[str]:
    for node in graph.nodes:
        if is_softmax(node) and len(node.outputs[0].shape) == 4:
            waiting = [node.id]
            while waiting:
                onwards = [graph.node(edge.target) for edge in graph.outgoing[waiting.pop()]]
                shape = node.outputs[0].shape
                if any(_multiplies(graph, following, shape) for following in onwards):
                    yield node.id
                    break
                waiting += [following.id for following in onwards if is_identity_like(following)]


def _multiplies(graph: Graph, node: Node, shape: Shape) -> bool:
    """Whether a call multiplies a tensor of this shape by another, and not number by number."""
    by_number = node.is_a({"Merge"}) or node.outputs[0].shape == shape
    return len(_float_edges(graph, node.id)) > 1 and (node.is_a(PRODUCTS) or not by_number)


def _kind(graph: Graph, node: Node) -> Literal["self", "cross"]:
    """Whether the queries and the keys of an attention are made of the same tensor."""
    edges = {edge.port: edge for edge in _float_edges(graph, node.id)}
    query = edges.get("query", edges.get("inputs.0"))
    key = edges.get("key", edges.get("value", edges.get("inputs.1")))
    current = node
    while query is None or key is None:  # in steps: what multiplies the two is further up
        given = _float_edges(graph, current.id)
        if not given:
            return "self"
        if _multiplies(graph, current, given[0].tensor.shape):
            query, key = given[:2]
        current = graph.node(given[0].source)
    return "cross" if _way_back(graph, query).isdisjoint(_way_back(graph, key)) else "self"


def _way_back(graph: Graph, edge: Edge) -> set[str]:
    """Ids from an edge backwards along first arguments, up to a merge of the residual stream."""
    way = [edge.source]
    while not is_additive_merge(graph.node(way[-1])):
        given = _float_edges(graph, way[-1])
        if not given:
            break
        way.append(given[0].source)
    return set(way)


def _float_edges(graph: Graph, node_id: str) -> list[Edge]:
    edges = graph.incoming[node_id]
    return [edge for edge in edges if not edge.implicit and "float" in edge.tensor.dtype]
