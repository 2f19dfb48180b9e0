"""Rules on gradients: calls that pass none on, and constants in the place of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plots.annotations import Note
from plots.diagnosis.projections import past_dropouts, up_to_weights
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Constant, Edge, Graph, Node, Shape
from plots.layers import (
    LINEAR_PROJECTIONS,
    PRODUCTS,
    is_additive_merge,
    is_linear_projection,
    is_shape_only,
    is_softmax,
)
from plots.traversal import Reachability

NOT_DIFFERENTIABLE: set[str] = {
    "Ceil",
    "Embedding",  # with respect to the ids, which some models take as floats
    "Floor",
    "Heaviside",
    "Round",
    "Sign",
    "StopGradient",
    "Trunc",
}
"""Calls from floats to floats that pass no gradient on."""

_BACKPROPAGATION = (
    "Bengio et al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons, section 1"
)
_LORA = "Hu et al. 2022, LoRA, section 4.1"
_BAKED_IN = "github.com/keras-team/keras-io/pull/1797"
_TIED = (
    "Press and Wolf 2017, Using the Output Embedding to Improve Language Models; "
    "tensorflow.org/api_docs/python/tf/keras/layers/ReversibleEmbedding"
)


@diagnosis_rule("no_gradient")
def no_gradient(graph: Graph) -> Iterator[Note]:
    """Trainable weights that no gradient of an output reaches."""
    flow = Reachability(graph, follow=lambda edge: _is_differentiable(graph, edge))
    ends = [i for i, k in graph.outputs if "float" in graph.node(i).outputs[k].dtype]
    if not ends:
        return  # a graph that returns decisions alone, such as tokens, is not there for training
    trained = {graph.node(node_id).layer for node_id in (*ends, *flow.ancestors(*ends))}
    places: dict[tuple[str, ...], list[str]] = {}
    for node in graph.nodes:
        if node.trainable_parameters and node.layer not in trained and node.id == node.layer:
            places.setdefault(_blocks(flow, node), []).append(node.id)
    for blocks, ids in places.items():
        why = (
            f"Every path to an output leads through {named(graph, blocks)}, which passes no "
            "gradient on"
            if blocks
            else "No output depends on them: no call takes what they return"
        )
        yield finding(
            [*ids, *blocks],
            f"Weights without a gradient: {named(graph, ids)}. {why}, so they are not trained, "
            "unless by a loss inside of a layer.",
            _BACKPROPAGATION,
        )


@diagnosis_rule("two_zeros_in_series")
def two_zeros_in_series(graph: Graph) -> Iterator[Note]:
    """Two projections in series both begin with weights of zero, so that neither ever changes."""
    for node in graph.nodes:
        if _begins_with_zeros(node) and graph.incoming[node.id]:
            first = past_dropouts(graph, graph.incoming[node.id][0], only=True)
            if first is not None and _begins_with_zeros(first) and is_linear_projection(first):
                yield finding(
                    [first.id, node.id],
                    f"Weights without a gradient: {named(graph, [first.id, node.id])} follow each "
                    "other and both begin with kernels of zero. The gradient of each has the "
                    "other one as a factor, so it is zero and stays so. Begin with zeros at one "
                    "of the two only, as LoRA does.",
                    _LORA,
                )


def _begins_with_zeros(node: Node) -> bool:
    """Return whether a projection is trained, and returns zeros at first."""
    names = ["kernel", *(["bias"] if node.config.get("use_bias", True) else [])]
    given = [node.config.get(f"{name}_initializer") for name in names]
    are_zeros = all(isinstance(g, Mapping) and g.get("class_name") == "Zeros" for g in given)
    return are_zeros and node.is_a(LINEAR_PROJECTIONS) and bool(node.trainable)


@diagnosis_rule("baked_in_positions")
def baked_in_positions(graph: Graph) -> Iterator[Note]:
    """A constant table that is never trained is added to every sequence."""
    ahead = up_to_weights(graph)
    for node in graph.nodes:
        tables = [c for c in node.constants if _is_table_of_positions(c, node.outputs[0].shape)]
        if not tables or not is_additive_merge(node) or node.opened:
            continue  # inside of a layer, weights that it computes with may look like constants
        # Masks and biases are added to attention scores.
        if not any(is_softmax(graph.node(other)) for other in ahead.descendants(node.id)):
            yield finding(
                [node.id],
                f"A constant of shape {tables[0].shape} is added to every sequence, at "
                f"{named(graph, [node.id])}. If it is the output of an Embedding for a "
                "constant, such as ops.arange(t), that layer is not in the model and is never "
                "trained: compute positions from the input, as "
                "ops.cumsum(ops.ones_like(tokens), axis=1) - 1.",
                _BAKED_IN,
            )


@diagnosis_rule("baked_in_embedding")
def baked_in_embedding(graph: Graph) -> Iterator[Note]:
    """A product with a copy of the weights of an Embedding instead of the weights themselves."""
    embeddings: dict[Shape, str] = {
        (node.config.get("input_dim"), node.config.get("output_dim")): node.id
        for node in reversed(graph.nodes)
        if node.is_a({"Embedding"})
    }
    for node in graph.nodes:
        is_product = node.operation in PRODUCTS and not node.opened
        for constant in node.constants if is_product else ():
            shape = constant.shape or ()
            embedding = embeddings.get(shape) or embeddings.get(shape[::-1])
            # The weights themselves, as einsum takes them, have no digest, and are trained.
            is_copy = constant.digest is not None and not constant.pattern
            if embedding and is_copy and "float" in str(constant.dtype):
                yield finding(
                    [node.id, embedding],
                    f"A constant of shape {shape} is a factor at {named(graph, [node.id])}, the "
                    f"shape of the weights of {named(graph, [embedding])}. If these were meant, "
                    "the model holds a copy of their values when it was built, which is never "
                    "trained. keras.layers.ReversibleEmbedding, called again with reverse=True, "
                    "shares them.",
                    _TIED,
                )


def _is_differentiable(graph: Graph, edge: Edge) -> bool:
    target = graph.node(edge.target)
    blocks = target.operation in NOT_DIFFERENTIABLE or is_shape_only(target)
    return "float" in edge.tensor.dtype and not blocks


def _blocks(flow: Reachability, node: Node) -> tuple[str, ...]:
    """Return the calls at which all gradients on their way to `node` end.

    `flow` is the reachability along differentiable edges.
    """
    graph = flow.graph
    blocks: dict[str, None] = {}
    for node_id in (node.id, *flow.descendants(node.id)):
        for edge in graph.outgoing[node_id]:
            if "float" not in edge.tensor.dtype:
                blocks[edge.source] = None  # such as an ArgMax or a comparison
            elif not _is_differentiable(graph, edge):
                blocks[edge.target] = None
    return tuple(blocks)


def _is_table_of_positions(constant: Constant, stream: Shape) -> bool:
    """Return whether a constant has a vector for each position of a stream (b, t, d).

    Its shape is (t, d) or (1, t, d). Zeros, ones and sinusoids are not a trained table.
    """
    shape = constant.shape or ()
    if len(stream) != 3 or len(shape) < 2 or "float" not in str(constant.dtype):
        return False
    *batch, length, width = shape
    fits = stream[1] in (length, None) and stream[2] == width and not constant.pattern
    return fits and length != 1 and width != 1 and set(batch) <= {1}
