"""Rules on gradients: calls that pass none on, and constants in the place of weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from plots.annotations import Note
from plots.diagnosis.projections import up_to_weights
from plots.diagnosis.rules import diagnosis_rule, finding, finding_rule, named
from plots.diagnosis.zeros import KEEP_ZERO, function_of, has_bias
from plots.graph import Constant, Edge, Graph, Node, Shape
from plots.layers import (
    ADDS_LOSSES,
    LINEAR_PROJECTIONS,
    PRODUCTS,
    RESAMPLING,
    is_additive_merge,
    is_identity_like,
    is_rearrangement,
    is_shape_only,
    is_softmax,
)
from plots.traversal import Reachability, data_flow, reachability

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

_POOLINGS = {f"Global{kind}Pooling{rank}D" for kind in ("Average", "Max") for rank in (1, 2, 3)}
_CENTRED = {"BatchNormalization", "GroupNormalization", "LayerNormalization", "RMSNormalization"}
_BACKPROPAGATION = (
    "Bengio et al. 2013, Estimating or Propagating Gradients Through Stochastic Neurons, section 1"
)
_LORA = "Hu et al. 2022, LoRA, section 4.1"
_SAMPLING = "Keras example, keras.io/examples/generative/vae: its Sampling layer"
_BAKED_IN = "github.com/keras-team/keras-io/pull/1797"
_TIED = (
    "Press and Wolf 2017, Using the Output Embedding to Improve Language Models; "
    "tensorflow.org/api_docs/python/tf/keras/layers/ReversibleEmbedding"
)


@diagnosis_rule("no_gradient")
def no_gradient(graph: Graph) -> Iterator[Note]:
    """Trainable weights that no gradient of an output reaches."""
    flow = reachability(graph, follow=lambda edge: _is_differentiable(graph, edge))
    ends = [i for i, k in graph.outputs if "float" in graph.node(i).outputs[k].dtype]
    if not ends:
        return  # a graph that returns decisions alone, such as tokens, is not there for training
    reached = [graph.node(node_id) for node_id in (*ends, *flow.ancestors(*ends))]
    trained = {node.layer for node in reached}
    # A weight of a layer that is opened goes into several calls, such as past a straight-through
    # estimator; which of them are the same weight, the graph does not tell.
    opened = {node.opened[-1] for node in reached if _is_inside(node)}
    places: dict[tuple[str, ...], list[str]] = {}
    for node in graph.nodes:
        has_own_loss = ADDS_LOSSES in node.traits
        is_first = node.id == node.layer and not has_own_loss
        is_reached = node.layer in trained or (_is_inside(node) and node.opened[-1] in opened)
        if node.trainable_parameters and is_first and not is_reached:
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


@diagnosis_rule("zeros_in_series")
def zeros_in_series(graph: Graph) -> Iterator[Note]:
    """Kernels of zero, each behind another one, so that none of them ever changes.

    The second kernel takes zeros, as long as all calls between the two return zeros for zeros, and
    passes back a gradient of zero. One alone, as at the end of a branch, begins to learn at once.
    """
    chains: dict[str, list[str]] = {}  # id of the last kernel -> ids of all, in order
    for node in graph.of_class(LINEAR_PROJECTIONS):
        first = _zeros_before(graph, node) if _has_zero_kernel(node) else None
        if first is not None:
            chains[node.id] = [*chains.pop(first.id, [first.id]), node.id]
    for ids in chains.values():
        each = "both" if len(ids) == 2 else "all"
        yield finding(
            ids,
            f"Weights without a gradient: {named(graph, ids)} follow each other and {each} begin "
            "with kernels of zero. The gradient of each has another one as a factor, so it is zero "
            "and stays so. Begin with zeros at the last one only, as LoRA does.",
            _LORA,
        )


def _is_inside(node: Node) -> bool:
    """Return whether a call is an operation with weights, inside of a layer that is opened."""
    has_weights = bool(node.parameters or node.shared_parameters)
    return bool(node.opened) and node.kind != "layer" and has_weights


def _zeros_before(graph: Graph, node: Node) -> Node | None:
    """Return the call with a kernel of zero whose zeros a call takes, and no other one."""
    while True:
        edges = [edge for edge in graph.incoming[node.id] if not edge.implicit]
        if len(edges) != 1:
            return None
        node = graph.node(edges[0].source)
        takers = len({edge.target for edge in graph.outgoing[node.id]})
        if takers > 1 or any(node.id == output for output, _ in graph.outputs):
            return None
        if _has_zero_kernel(node):
            return node if _begins_with_zero(node, "bias") and _keeps_zeros(node) else None
        if not _keeps_zeros(node):
            return None


def _has_zero_kernel(node: Node) -> bool:
    is_trained = bool(node.trainable) and not node.shared_parameters
    return node.is_a(LINEAR_PROJECTIONS) and is_trained and _begins_with_zero(node, "kernel")


def _begins_with_zero(node: Node, name: str) -> bool:
    """Return whether a call has no such weights, or they are zero at first."""
    if name == "bias" and not has_bias(node):
        return True
    given = node.config.get(f"{name}_initializer")
    if not isinstance(given, Mapping):
        return False
    value = (given.get("config") or {}).get("value")
    kind = given.get("class_name")
    return kind == "Zeros" or (kind == "Constant" and value == 0)


def _keeps_zeros(node: Node) -> bool:
    """Return whether a call returns zeros if it takes zeros, before it is trained."""
    if is_identity_like(node) or is_rearrangement(node) or node.is_a(RESAMPLING | _POOLINGS):
        return node.operation != "Rescaling" or not node.config.get("offset")
    if node.is_a(_CENTRED):
        has_shift = node.config.get("center", node.is_a({"BatchNormalization"}))
        return not has_shift or _begins_with_zero(node, "beta")
    if node.is_a(LINEAR_PROJECTIONS) and not _begins_with_zero(node, "bias"):
        return False
    return function_of(node) in KEEP_ZERO


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


@finding_rule(
    "Noise that is a constant: {places:multiply} an exponential, such as a standard deviation, by "
    "an array that was made when the model was built, so that every batch gets the same noise. "
    "Draw it in the `call` of a layer, with a keras.random.SeedGenerator.",
    _SAMPLING,
)
def baked_in_noise(graph: Graph) -> list[str]:
    """A standard deviation is multiplied by a constant array, as by noise that was drawn once.

    Inside of an opened layer, noise that the layer draws at each call is such an array too, unless
    running has shown that it is not.
    """
    fixed = {place for note in graph.notes if note.kind == "fixed" for place in note.about}
    flow = data_flow(graph)
    return [
        node.id
        for node in graph.of_class({"Multiply"})
        if (not node.opened or node.id in fixed)
        and any(c.digest is not None and not c.pattern and c.shape for c in node.constants)
        and any(
            graph.node(e.source).operation == "Exp" and flow.depends_on_input(e.source)
            for e in graph.incoming[node.id]
        )
    ]


@diagnosis_rule("baked_in_embedding")
def baked_in_embedding(graph: Graph) -> Iterator[Note]:
    """A product with a copy of the weights of an Embedding instead of the weights themselves."""
    embeddings: dict[Shape, str] = {
        (node.config.get("input_dim"), node.config.get("output_dim")): node.id
        for node in reversed(graph.of_class({"Embedding"}))
    }
    for node in graph.of_operation(*PRODUCTS) if embeddings else ():
        for constant in node.constants if not node.opened else ():
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
    if length == width and stream[1] == stream[2]:  # pairs of positions, as of an adjacency
        return False
    return fits and length != 1 and width != 1 and set(batch) <= {1}
