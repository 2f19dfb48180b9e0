"""Rules on heads: softmaxes in series or of one number, norms and dropouts on logits."""

from __future__ import annotations

from collections.abc import Iterator
from math import exp

from plots.annotations import Note, shape_text
from plots.diagnosis.activations import CLIPPED, activation_of, last_call
from plots.diagnosis.axis_origins import axis_origins, kinds
from plots.diagnosis.projections import KEPT_IN_INFERENCE, past_dropouts
from plots.diagnosis.rules import (
    diagnosis_rule,
    finding,
    finding_rule,
    named,
    remark,
    remark_rule,
)
from plots.graph import Graph, Node
from plots.layers import (
    LINEAR_PROJECTIONS,
    PRODUCTS,
    SHAPE_CHANGES,
    TRANSPOSITIONS,
    is_identity_like,
    is_linear_projection,
    is_norm,
    is_softmax,
)
from plots.softmaxes import softmax_axes
from plots.traversal import walk_back

_SOFTMAX = "Goodfellow et al. 2016, Deep Learning, section 6.2.2.3"
_MOVES = SHAPE_CHANGES | TRANSPOSITIONS
_PROBABILITIES = ("sigmoid", "softmax")
_NEVER_NEGATIVE = {"Abs", "Absolute", "Exp", "Norm", "Softplus", "Sqrt", "Square"}
_OF_LENGTH_1 = {"Normalize", "UnitNormalization"}
_COSINES = "Radford et al. 2021, Learning Transferable Visual Models, section 2.3"
_DROPPED = "Srivastava et al. 2014, Dropout, section 4"


@diagnosis_rule("softmax_of_softmax")
def softmax_of_softmax(graph: Graph) -> Iterator[Note]:
    """A softmax or sigmoid takes the probabilities of another one."""
    for node in graph.nodes:
        activation = activation_of(node) if node.operation not in LINEAR_PROJECTIONS else ""
        if activation not in ("softmax", "sigmoid") or len(graph.incoming[node.id]) != 1:
            continue
        before = past_dropouts(graph, graph.incoming[node.id][0])
        if before is None:
            continue
        given = activation_of(before)
        if given == activation or (given, activation) == ("softmax", "sigmoid"):
            yield finding(
                [node.id, before.id],
                f"A {activation} of a {given}: {named(graph, [node.id])} takes the probabilities "
                f"of {named(graph, [before.id])}, which lie between 0 and 1, and makes them almost "
                "equal. Leave one of the two out.",
                _SOFTMAX,
            )


@finding_rule(
    "A softmax over more than classes: {others} is over all numbers of a place, which {places:cut} "
    "into several of its own, such as those of the anchors of a detector, and the probabilities "
    "of each of them sum to less than 1. Put the softmax after the reshape.",
    "Liu et al. 2016, SSD: Single Shot MultiBox Detector, section 2.2",
)
def softmax_that_is_cut(graph: Graph) -> Iterator[tuple[str, str]]:
    """A reshape cuts the axis of a softmax, and joins a part of it to the axes before."""
    for node in graph.of_class({"Reshape"}):
        if len(graph.incoming[node.id]) != 1:
            continue
        before = walk_back(graph, graph.node(graph.incoming[node.id][0].source), is_identity_like)
        *places, size = before.outputs[0].shape or (None,)
        *others, part = node.outputs[0].shape or (None,)
        is_of_last = softmax_axes(graph, before) in ((), (len(places),))
        if activation_of(before) != "softmax" or not (is_of_last and size and part):
            continue
        # (h, w, a c) -> (h w a, c); (h, w, a, c) leaves each place by itself
        if part < size and size % part == 0 and others[: len(places)] != places:
            yield node.id, before.id


@diagnosis_rule("clipped_logits")
def clipped_logits(graph: Graph) -> Iterator[Note]:
    """The softmax or sigmoid of a head takes the output of a ReLU."""
    for output, _ in dict.fromkeys(graph.outputs):
        last = last_call(graph, output)
        activation = activation_of(last) if last.operation not in LINEAR_PROJECTIONS else ""
        if activation in ("softmax", "sigmoid") and len(graph.incoming[last.id]) == 1:
            before = last_call(graph, graph.incoming[last.id][0].source)
            if activation_of(before) in CLIPPED:
                yield finding(
                    [last.id, before.id],
                    f"ReLU on logits: {named(graph, [last.id])} takes the output of "
                    f"{named(graph, [before.id])}, which has no negative numbers, so that the "
                    f"{activation} cannot make a class unlikely. Leave the ReLU out.",
                    _SOFTMAX,
                )


@diagnosis_rule("sigmoid_of_a_distance")
def sigmoid_of_a_distance(graph: Graph) -> Iterator[Note]:
    """A head is the sigmoid of a number that is never negative, such as a distance."""
    for output, _ in dict.fromkeys(graph.outputs):
        last = last_call(graph, output)
        if activation_of(last) != "sigmoid" or last.operation in LINEAR_PROJECTIONS:
            continue
        edges = graph.incoming[last.id]
        before = past_dropouts(graph, edges[0]) if len(edges) == 1 else None
        if before is not None and before.is_a(_NEVER_NEGATIVE):
            yield finding(
                [last.id, before.id],
                f"A sigmoid of numbers that are never negative: {named(graph, [last.id])} takes "
                f"the output of {named(graph, [before.id])}, so that it is never below 0.5. Put a "
                "Dense between them, or take a loss of distances.",
                _SOFTMAX,
            )


@diagnosis_rule("probability_of_a_cosine")
def probability_of_a_cosine(graph: Graph) -> Iterator[Note]:
    """A head is the sigmoid or the softmax of cosines, which no temperature makes larger."""
    for output, _ in dict.fromkeys(graph.outputs):
        last = last_call(graph, output)
        activation, edges = activation_of(last), graph.incoming[last.id]
        if activation not in _PROBABILITIES or last.operation in LINEAR_PROJECTIONS or not edges:
            continue
        before = walk_back(graph, graph.node(edges[0].source), _keeps_numbers)
        classes = last.outputs[0].shape[-1]
        if not (_is_cosine(graph, before) and classes):
            continue
        bounds = "can be below 0.27 or above 0.73"
        if activation == "softmax":
            bounds = f"can be above {1 / (1 + (classes - 1) * exp(-2)):.2g}"
        yield remark(
            [last.id, before.id],
            f"A {activation} of cosines: {named(graph, [before.id])} returns numbers from -1 to 1, "
            f"so that no probability of {named(graph, [last.id])} {bounds}. Multiply them by a "
            "learned temperature, or put a Dense between them.",
            _COSINES,
        )


def _keeps_numbers(node: Node) -> bool:
    return node.is_a(_MOVES | KEPT_IN_INFERENCE)


def _is_cosine(graph: Graph, node: Node) -> bool:
    """Return whether a call multiplies vectors of length 1."""
    if node.is_a({"Dot"}) and node.config.get("normalize"):
        return True
    edges = graph.incoming[node.id]
    if node.operation == "Sum" and len(edges) == 1:
        node = graph.node(edges[0].source)
        edges = graph.incoming[node.id] if node.operation == "Multiply" else ()
    elif node.operation not in PRODUCTS:
        return False
    factors = [walk_back(graph, graph.node(edge.source), _keeps_numbers) for edge in edges]
    return len(factors) == 2 and all(factor.is_a(_OF_LENGTH_1) for factor in factors)


@remark_rule(
    "A softmax of a ReLU: {places:take} the output of {others}, which has no negative numbers, so "
    "that no share can be made small, and those of 0 get no gradient. Leave the ReLU out.",
    _SOFTMAX,
)
def clipped_scores(graph: Graph) -> Iterator[tuple[str, str]]:
    """A softmax inside of a model, such as that of a gate, takes the ReLU of a projection."""
    heads = {last_call(graph, output).id for output, _ in graph.outputs}
    for node in graph.nodes:
        is_softmax = activation_of(node) == "softmax" and node.operation not in LINEAR_PROJECTIONS
        if not is_softmax or node.id in heads or len(graph.incoming[node.id]) != 1:
            continue
        before = last_call(graph, graph.incoming[node.id][0].source)
        if activation_of(before) not in CLIPPED:
            continue
        is_fused = before.operation in LINEAR_PROJECTIONS
        edges = graph.incoming[before.id]
        if is_fused or (edges and is_linear_projection(last_call(graph, edges[0].source))):
            yield node.id, before.id


@diagnosis_rule("softmax_over_one")
def softmax_over_one(graph: Graph) -> Iterator[Note]:
    """A softmax over an axis of size 1, which returns 1 whatever it takes."""
    for node in graph.nodes:
        shape = node.outputs[0].shape
        if activation_of(node) != "softmax" or not shape:
            continue
        axes = node.config.get("axis", -1)
        axes = [axes] if isinstance(axes, int) else axes
        if all(-len(shape) <= axis < len(shape) and shape[axis] == 1 for axis in axes):
            yield finding(
                [node.id],
                f"A softmax over an axis of size 1: {named(graph, [node.id])} has the shape "
                f"{shape_text(shape)}, so all of its values are 1, and nothing before it is "
                "trained through it. Take another axis; for one unit, take a sigmoid.",
                _SOFTMAX,
            )


@diagnosis_rule("softmax_over_rows_or_columns")
def softmax_over_rows_or_columns(graph: Graph) -> Iterator[Note]:
    """The scores of several classes for each place of a map go through a softmax over one side.

    A softmax over all positions may be meant: where a span starts and ends, or where keypoints are.
    """
    losses = dict(zip(graph.outputs, graph.losses, strict=False))
    for place in graph.outputs:
        softmax, loss = last_call(graph, place[0], _MOVES), losses.get(place)
        axes, edges = softmax_axes(graph, softmax), graph.incoming[softmax.id]
        is_judged = loss is not None and "categorical" in loss.class_name.lower()
        if not is_softmax(softmax) or len(axes) != 1 or len(edges) != 1 or is_judged:
            continue
        of_axes = [kinds(origin) for origin in axis_origins(graph)[softmax.id, 0]]
        shape = softmax.outputs[0].shape
        classes = [k for k, own in enumerate(of_axes) if own == {"feature"} and shape[k] != 1]
        is_side = of_axes[axes[0]] == {"position"} and of_axes.count({"position"}) > 1
        before = last_call(graph, edges[0].source, _MOVES)
        if is_side and len(classes) == 1 and is_linear_projection(before):
            yield finding(
                [softmax.id],
                f"A softmax over one side of a map: {named(graph, [softmax.id])} has the shape "
                f"{shape_text(shape)}, and its outputs sum to 1 over axis {axes[0]}, so those of "
                f"the {shape[classes[0]]} classes of a place, axis {classes[0]}, do not. Set "
                f"axis={classes[0]}.",
                _SOFTMAX,
            )


@diagnosis_rule("norm_on_logits")
def norm_on_logits(graph: Graph) -> Iterator[Note]:
    """The logits of a classifier are normalised before the softmax or the loss."""
    losses = dict(zip(graph.outputs, graph.losses, strict=False))
    for place in graph.outputs:
        last, loss = last_call(graph, place[0]), losses.get(place)
        is_softmax_ = activation_of(last) == "softmax" and last.operation not in LINEAR_PROJECTIONS
        if is_softmax_ and graph.incoming[last.id]:
            last = last_call(graph, graph.incoming[last.id][0].source)
        elif loss is None or not loss.from_logits:
            continue
        edges = graph.incoming[last.id]
        if is_norm(last) and not last.is_a({"UnitNormalization"}) and edges:
            before = last_call(graph, edges[0].source)
            if is_linear_projection(before):
                yield remark(
                    [last.id, before.id],
                    f"A norm on logits: {named(graph, [last.id])} normalises the output of "
                    f"{named(graph, [before.id])}, so the size of a logit, which is the certainty "
                    "of the model, is lost. Norms belong before the last layer.",
                    _SOFTMAX,
                )


@remark_rule(
    "A softmax in a hidden layer: {places:return} probabilities, which sum to 1 and are small, to "
    "{others}. It belongs to the last layer; take a ReLU here, unless a choice is meant.",
    _SOFTMAX,
)
def hidden_softmax(graph: Graph) -> Iterator[tuple[str, str]]:
    """A hidden layer ends with a softmax, and a Dense takes its output."""
    for node in graph.of_class({"Dense"}):
        if graph.incoming[node.id]:
            before = past_dropouts(graph, graph.incoming[node.id][0], only=True)
            if before is not None and activation_of(before) == "softmax":
                yield before.id, node.id


@finding_rule(
    "A dropout on probabilities: {places:set} those of {others} to 0 in training, whose logarithm "
    "in a loss is minus infinity. Dropouts belong before the last layer.",
    _DROPPED,
)
def dropout_on_probabilities(graph: Graph) -> Iterator[tuple[str, str]]:
    """A dropout on the output of the last layer, which ends with a softmax or sigmoid."""
    return _dropouts_on_outputs(graph, of_probabilities=True)


@remark_rule(
    "A dropout on logits: {places:set} numbers of the output of {others} to 0 in training, also "
    "that of the right class. Dropouts belong before the last layer.",
    _DROPPED,
)
def dropout_on_logits(graph: Graph) -> Iterator[tuple[str, str]]:
    """A dropout on the output of the last layer, which returns logits."""
    return _dropouts_on_outputs(graph, of_probabilities=False)


def _dropouts_on_outputs(graph: Graph, of_probabilities: bool) -> Iterator[tuple[str, str]]:
    """Yield dropouts on outputs of the model, each with the last layer before it."""
    for output, _ in graph.outputs:
        node = graph.node(output)
        while len(graph.incoming[node.id]) == 1:
            before = graph.node(graph.incoming[node.id][0].source)
            if node.is_a({"Dropout"}) and before.is_a({"Dense"}) and node.config.get("rate"):
                if (activation_of(before) in _PROBABILITIES) == of_probabilities:
                    yield node.id, before.id
            elif node.class_name not in ("Activation", "Softmax", *KEPT_IN_INFERENCE):
                break
            node = before
