"""Rules on training: weights without a gradient, constant positions, and logits for a loss."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.residual_rules import up_to_weights
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.graph import Constant, Edge, Graph, Loss, Node, Shape
from plots.operation_kinds import (
    PRODUCTS,
    is_additive_merge,
    is_identity_like,
    is_linear_projection,
    is_reversed_embedding,
    is_shape_only,
    is_softmax,
)
from plots.reachability import Reachability

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
_BAKED_IN = "github.com/keras-team/keras-io/pull/1797"
_TIED = (
    "Press and Wolf 2017, Using the Output Embedding to Improve Language Models; "
    "tensorflow.org/api_docs/python/tf/keras/layers/ReversibleEmbedding"
)
_FROM_LOGITS = "Keras API, from_logits of keras.losses; github.com/keras-team/keras-hub/pull/1008"


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
        yield finding(
            [*ids, *blocks],
            f"Weights without a gradient: {named(graph, ids)}. Every path to an output leads "
            f"through {named(graph, blocks)}, which passes no gradient on, so they are not "
            "trained, unless by a loss inside of a layer.",
            _BACKPROPAGATION,
        )


@diagnosis_rule("baked_in_positions")
def baked_in_positions(graph: Graph) -> Iterator[Note]:
    """A constant table that is never trained is added to every sequence."""
    ahead = up_to_weights(graph)
    for node in graph.nodes:
        tables = [c for c in node.constants if _is_table_of_positions(c, node.outputs[0].shape)]
        if tables and is_additive_merge(node) and not _feeds_softmax(ahead, node.id):
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
    embeddings = {
        shape: node.id
        for node in reversed(graph.nodes)
        if node.is_a({"Embedding"}) and (shape := _embedded(node))
    }
    for node in graph.nodes:
        for constant in node.constants if node.class_name in PRODUCTS else ():
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


def _embedded(embedding: Node) -> Shape | None:
    """Return the shape of an Embedding's weights; None if its configuration does not tell."""
    sizes = [embedding.config.get(name) for name in ("input_dim", "output_dim")]
    return tuple(sizes) if all(isinstance(size, int) for size in sizes) else None


@diagnosis_rule("softmax_and_loss")
def softmax_and_loss(graph: Graph) -> Iterator[Note]:
    """A softmax before a loss on logits, or logits for a loss on probabilities."""
    if len(graph.losses) != len(graph.outputs):
        return
    for (output, _), loss in zip(graph.outputs, graph.losses, strict=True):
        last = _last_call(graph, output)
        activation = _activation(last)
        if loss.from_logits and activation in ("softmax", "sigmoid"):
            yield finding(
                [last.id],
                f"A {activation} of a {activation}: {named(graph, [last.id])} returns "
                f"probabilities, but the loss {loss.class_name} has from_logits=True. The loss "
                "stays large, and gradients are small. Leave one of the two out.",
                _FROM_LOGITS,
            )
        elif loss.from_logits is False and _is_crossentropy(loss) and _returns_logits(last):
            yield finding(
                [last.id],
                f"Logits for a loss on probabilities: {named(graph, [last.id])} returns numbers of "
                f"any size and sign, and {loss.class_name} takes their logarithm. Set "
                "from_logits=True.",
                _FROM_LOGITS,
            )


def _is_differentiable(graph: Graph, edge: Edge) -> bool:
    target = graph.node(edge.target)
    blocks = target.class_name in NOT_DIFFERENTIABLE or is_shape_only(target)
    return "float" in edge.tensor.dtype and not blocks


def _blocks(flow: Reachability, node: Node) -> tuple[str, ...]:
    """Return the calls at which all gradients on their way to `node` end.

    Args:
        flow: The reachability along differentiable edges.
        node: A call that no gradient reaches.
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

    Its shape is (t, d) or (1, t, d). Zeros, ones and sinusoids are no trained table.
    """
    if constant.pattern or constant.shape is None or "float" not in str(constant.dtype):
        return False
    if len(stream) != 3 or len(constant.shape) < 2:
        return False
    *batch, length, width = constant.shape
    fits = stream[1] in (length, None) and stream[2] == width
    return fits and length != 1 and width != 1 and set(batch) <= {1}


def _feeds_softmax(ahead: Reachability, node_id: str) -> bool:
    """Return whether a call returns attention scores, so that a mask or a bias is added to them."""
    return any(is_softmax(ahead.graph.node(other)) for other in ahead.descendants(node_id))


def _last_call(graph: Graph, output: str) -> Node:
    """Return the call that computes the numbers of an output, past changes of their layout."""
    node = graph.node(output)
    while is_identity_like(node) or node.class_name in ("Reshape", "Squeeze", "Flatten"):
        if not graph.incoming[node.id]:
            break
        node = graph.node(graph.incoming[node.id][0].source)
    return node


def _activation(node: Node) -> str | None:
    if is_softmax(node):
        return "softmax"
    return "sigmoid" if node.class_name == "Sigmoid" else node.activation


def _returns_logits(node: Node) -> bool:
    tied = is_reversed_embedding(node) and not node.config.get("logit_soft_cap")
    return is_linear_projection(node) or tied


def _is_crossentropy(loss: Loss) -> bool:
    return "crossentropy" in loss.class_name.lower().replace("_", "")
