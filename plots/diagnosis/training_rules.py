"""Rules on training: weights without a gradient, positions baked in, and logits for a loss."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.rules import diagnosis_rule, finding, named
from plots.diagnosis.streams import up_to_weights
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

NOT_DIFFERENTIABLE: set[str] = {
    "Ceil",
    "Embedding",  # with respect to the ids, which some models hand in as floats
    "Floor",
    "Heaviside",
    "Round",
    "Sign",
    "StopGradient",
    "Trunc",
}
"""Calls that hand on no gradient although what they take and give out are floats."""

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
    reached = _reached_by_gradients(graph)
    if not reached:
        return  # a graph that gives out decisions alone, such as tokens, is not there for training
    trained = {node.layer for node in graph.nodes if node.id in reached}
    places: dict[tuple[str, ...], list[str]] = {}
    for node in graph.nodes:
        if node.trainable_parameters and node.layer not in trained and node.id == node.layer:
            places.setdefault(_blocks(graph, node), []).append(node.id)
    for blocks, ids in places.items():
        yield finding(
            [*ids, *blocks],
            f"Weights without a gradient: {named(graph, ids)}. Every way to an output goes through "
            f"{named(graph, blocks)}, without a derivative, so they stay as they are, unless a "
            "loss inside of a layer trains them.",
            _BACKPROPAGATION,
        )


@diagnosis_rule("baked_in_positions")
def baked_in_positions(graph: Graph) -> Iterator[Note]:
    """A table that nobody trains is added to every sequence."""
    for node in graph.nodes:
        tables = [c for c in node.constants if _is_table_of_positions(c, node.outputs[0].shape)]
        if tables and is_additive_merge(node) and not _goes_into_softmax(graph, node.id):
            yield finding(
                [node.id],
                f"A constant of shape {tables[0].shape} is added to every sequence, at "
                f"{named(graph, [node.id])}. If an Embedding gave it for a constant, such as "
                "ops.arange(t), then that layer is not in the model and is never trained: compute "
                "positions from the input, as ops.cumsum(ops.ones_like(tokens), axis=1) - 1.",
                _BAKED_IN,
            )


@diagnosis_rule("baked_in_embedding")
def baked_in_embedding(graph: Graph) -> Iterator[Note]:
    """A product with a copy of the vectors of an Embedding, where their weights were meant."""
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
                    "the model holds a copy of what they were when it was built, and training "
                    "leaves it as it is. keras.layers.ReversibleEmbedding, called again with "
                    "reverse=True, shares them.",
                    _TIED,
                )


def _embedded(embedding: Node) -> Shape | None:
    """The shape of an Embedding's weights, as far as its configuration tells."""
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
                f"A {activation} of a {activation}: {named(graph, [last.id])} gives out "
                f"probabilities, but the loss {loss.class_name} was told that they are logits. It "
                "stays large, and gradients are small. Leave one of the two out.",
                _FROM_LOGITS,
            )
        elif loss.from_logits is False and _is_crossentropy(loss) and _gives_logits(last):
            yield finding(
                [last.id],
                f"Logits for a loss on probabilities: {named(graph, [last.id])} gives out numbers "
                f"of any size and sign, and {loss.class_name} takes their logarithm. Tell it "
                "from_logits=True.",
                _FROM_LOGITS,
            )


def _reached_by_gradients(graph: Graph) -> set[str]:
    """Ids of the calls that a gradient of a floating-point output reaches."""
    ends = [i for i, k in graph.outputs if "float" in graph.node(i).outputs[k].dtype]
    reached = set(ends)
    waiting = list(reached)
    while waiting:
        for edge in graph.incoming[waiting.pop()]:
            if edge.source not in reached and _is_differentiable(graph, edge):
                reached.add(edge.source)
                waiting.append(edge.source)
    return reached


def _is_differentiable(graph: Graph, edge: Edge) -> bool:
    target = graph.node(edge.target)
    blocks = target.class_name in NOT_DIFFERENTIABLE or is_shape_only(target)
    return "float" in edge.tensor.dtype and not blocks


def _blocks(graph: Graph, node: Node) -> tuple[str, ...]:
    """The calls at which all gradients on their way to `node` end."""
    blocks: dict[str, None] = {}
    found, waiting = {node.id}, [node.id]
    while waiting:
        for edge in graph.outgoing[waiting.pop(0)]:
            if "float" not in edge.tensor.dtype:
                blocks[edge.source] = None  # such as an ArgMax or a comparison
            elif not _is_differentiable(graph, edge):
                blocks[edge.target] = None
            elif edge.target not in found:
                found.add(edge.target)
                waiting.append(edge.target)
    return tuple(blocks)


def _is_table_of_positions(constant: Constant, stream: Shape) -> bool:
    """Whether a constant has a vector for every position of a stream (b, t, d), and not sinusoids.

    Its shape is (t, d) or (1, t, d). Zeros and ones hold nothing that could have been learned.
    """
    if constant.pattern or constant.shape is None or "float" not in str(constant.dtype):
        return False
    if len(stream) != 3 or len(constant.shape) < 2:
        return False
    *batch, length, width = constant.shape
    fits = stream[1] in (length, None) and stream[2] == width
    return fits and length != 1 and width != 1 and set(batch) <= {1}


def _goes_into_softmax(graph: Graph, node_id: str) -> bool:
    """Whether these are attention scores, and what is added to them is a mask or a bias."""
    return any(is_softmax(node) for node in up_to_weights(graph, node_id))


def _last_call(graph: Graph, output: str) -> Node:
    """The call that an output comes from, past what changes its form alone."""
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


def _gives_logits(node: Node) -> bool:
    tied = is_reversed_embedding(node) and not node.config.get("logit_soft_cap")
    return is_linear_projection(node) or tied


def _is_crossentropy(loss: Loss) -> bool:
    return "crossentropy" in loss.class_name.lower().replace("_", "")
