"""Rules on heads and losses: activations that do not fit a loss, and nothing to train."""

from __future__ import annotations

from collections.abc import Iterator

from plots.annotations import Note
from plots.diagnosis.projections import past_dropouts
from plots.diagnosis.rules import diagnosis_rule, doing, finding, named, remark
from plots.graph import Graph, Loss, Node
from plots.layers import (
    LINEAR_PROJECTIONS,
    SHAPE_CHANGES,
    is_identity_like,
    is_linear_projection,
    is_norm,
    is_reversed_embedding,
    is_softmax,
)

_FROM_LOGITS = "Keras API, from_logits of keras.losses; github.com/keras-team/keras-hub/pull/1008"
_LOSSES = "Keras API, keras.io/api/losses/probabilistic_losses"
_SOFTMAX = "Goodfellow et al. 2016, Deep Learning, section 6.2.2.3"
_FROZEN = "Keras guide, keras.io/guides/transfer_learning; github.com/keras-team/keras/issues/4674"
_DROPPED = "Srivastava et al. 2014, Dropout, section 4"
_CLIPPED = frozenset({"relu", "relu6"})
_BENT = _CLIPPED | {"celu", "elu", "gelu", "leaky_relu", "mish", "selu", "silu", "swish", "tanh"}
_NAMES = {"relu": "ReLU", "relu6": "ReLU6", "tanh": "tanh"}
_DROPOUTS = frozenset({"AlphaDropout", "Cast", "Dropout", "GaussianDropout", "Identity"})


@diagnosis_rule("head_and_loss")
def head_and_loss(graph: Graph) -> Iterator[Note]:
    """The last activation does not return what the loss takes: logits or probabilities."""
    for (output, _), loss in zip(graph.outputs, graph.losses, strict=False):
        name = loss.class_name.lower().replace("_", "") if loss is not None else ""
        if loss is not None and "crossentropy" in name:
            last = _last_call(graph, output)
            note = _on_logits(graph, last, loss) if loss.from_logits else None
            if loss.from_logits is False:
                note = _on_probabilities(graph, last, loss, "binary" in name)
            if "categorical" in name and loss.from_logits is not None:
                note = _on_classes(graph, output, loss) or note
            if note is not None:
                yield note


def _on_logits(graph: Graph, last: Node, loss: Loss) -> Note | None:
    """Return a note on a head whose loss applies the softmax or sigmoid."""
    activation, place = activation_of(last), named(graph, [last.id])
    if activation in ("softmax", "sigmoid"):
        return finding(
            [last.id],
            f"A {activation} of a {activation}: {place} returns probabilities, but the loss "
            f"{loss.class_name} has from_logits=True. The loss stays large, and gradients are "
            "small. Leave one of the two out.",
            _FROM_LOGITS,
        )
    if activation in _BENT - {"tanh"}:  # a scaled tanh is a soft cap of logits
        text = (
            f"{_NAMES.get(activation, activation)} on logits: {place} returns "
            f"{'no' if activation in _CLIPPED else 'hardly any'} negative numbers, so the loss "
            f"{loss.class_name} cannot make a class unlikely. Leave the activation of the last "
            "layer out."
        )
        return (finding if activation in _CLIPPED else remark)([last.id], text, _FROM_LOGITS)
    return None


def _on_probabilities(graph: Graph, last: Node, loss: Loss, is_binary: bool) -> Note | None:
    """Return a note on a head whose loss takes the logarithm of its output."""
    activation, place = activation_of(last), named(graph, [last.id])
    is_tied = is_reversed_embedding(last) and not last.config.get("logit_soft_cap")
    if is_linear_projection(last) or is_tied:
        return finding(
            [last.id],
            f"Logits for a loss on probabilities: {place} returns numbers of any size and sign, "
            f"and {loss.class_name} takes their logarithm. Set from_logits=True.",
            _FROM_LOGITS,
        )
    if activation in _BENT or activation == "log_softmax":
        name = _NAMES.get(activation, activation)
        return finding(
            [last.id],
            f"No probabilities for a loss on probabilities: {place} ends with {name}, and "
            f"{loss.class_name} takes the logarithm of its output. Take a "
            f"{'sigmoid' if is_binary else 'softmax'} in its place, or no activation and "
            "from_logits=True.",
            _FROM_LOGITS,
        )
    if activation == "softmax" and is_binary and last.outputs[0].shape[-1] != 1:
        return remark(
            [last.id],
            f"A softmax with {loss.class_name}: the probabilities at {place} sum to 1, but the "
            "loss takes each class as a question of its own. For one label of several, take "
            "categorical cross-entropy; for several labels, a sigmoid.",
            _LOSSES,
        )
    return None


def _on_classes(graph: Graph, output: str, loss: Loss) -> Note | None:
    """Return a note on a head of one class, with a sigmoid, or with a softmax over another axis."""
    last = _last_call(graph, output, frozenset())
    activation, shape = activation_of(last), last.outputs[0].shape
    place, class_axis = named(graph, [last.id]), loss.axis if loss.axis is not None else -1
    if not -len(shape) <= class_axis < len(shape):
        return None
    if shape[class_axis] == 1:
        return finding(
            [last.id],
            f"One class for {loss.class_name}: {place} returns one number, which is always the "
            "right class. For two classes, take two units, or one with a sigmoid and binary "
            "cross-entropy.",
            _LOSSES,
        )
    if activation == "sigmoid" and not loss.from_logits:
        return finding(
            [last.id],
            f"A sigmoid for {loss.class_name}: the probabilities at {place} do not sum to 1, so "
            "the loss does not push down wrong classes. Take a softmax, or binary cross-entropy "
            "if several classes can be right.",
            _LOSSES,
        )
    axis = last.config.get("axis", -1)
    if activation == "softmax" and isinstance(axis, int):
        axis, class_axis = axis % len(shape), class_axis % len(shape)
        if axis != class_axis:
            return finding(
                [last.id],
                f"A softmax over axis {axis}, not over the classes: the output of {place} has the "
                f"shape {_shape_text(shape)}, and {loss.class_name} takes axis {class_axis} for "
                f"the classes, whose probabilities do not sum to 1. Set axis={class_axis}.",
                _SOFTMAX,
            )
    return None


@diagnosis_rule("softmax_of_softmax")
def softmax_of_softmax(graph: Graph) -> Iterator[Note]:
    """A softmax or sigmoid takes the probabilities of another one."""
    for node in graph.nodes:
        activation = activation_of(node) if node.operation not in LINEAR_PROJECTIONS else ""
        if activation not in ("softmax", "sigmoid") or len(graph.incoming[node.id]) != 1:
            continue
        before = graph.node(graph.incoming[node.id][0].source)
        while before.is_a(_DROPOUTS) and len(graph.incoming[before.id]) == 1:
            before = graph.node(graph.incoming[before.id][0].source)
        given = activation_of(before)
        if given == activation or (given, activation) == ("softmax", "sigmoid"):
            yield finding(
                [node.id, before.id],
                f"A {activation} of a {given}: {named(graph, [node.id])} takes the probabilities "
                f"of {named(graph, [before.id])}, which lie between 0 and 1, and makes them almost "
                "equal. Leave one of the two out.",
                _SOFTMAX,
            )


@diagnosis_rule("clipped_logits")
def clipped_logits(graph: Graph) -> Iterator[Note]:
    """The softmax or sigmoid of a head takes the output of a ReLU."""
    for output, _ in dict.fromkeys(graph.outputs):
        last = _last_call(graph, output)
        activation = activation_of(last) if last.operation not in LINEAR_PROJECTIONS else ""
        if activation in ("softmax", "sigmoid") and len(graph.incoming[last.id]) == 1:
            before = _last_call(graph, graph.incoming[last.id][0].source)
            if activation_of(before) in _CLIPPED:
                yield finding(
                    [last.id, before.id],
                    f"ReLU on logits: {named(graph, [last.id])} takes the output of "
                    f"{named(graph, [before.id])}, which has no negative numbers, so that the "
                    f"{activation} cannot make a class unlikely. Leave the ReLU out.",
                    _SOFTMAX,
                )


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
                f"{_shape_text(shape)}, so all of its values are 1, and nothing before it is "
                "trained through it. Take another axis; for one unit, take a sigmoid.",
                _SOFTMAX,
            )


@diagnosis_rule("norm_on_logits")
def norm_on_logits(graph: Graph) -> Iterator[Note]:
    """The logits of a classifier are normalised before the softmax or the loss."""
    losses = dict(zip(graph.outputs, graph.losses, strict=False))
    for place in graph.outputs:
        last, loss = _last_call(graph, place[0]), losses.get(place)
        is_softmax_ = activation_of(last) == "softmax" and last.operation not in LINEAR_PROJECTIONS
        if is_softmax_ and graph.incoming[last.id]:
            last = _last_call(graph, graph.incoming[last.id][0].source)
        elif loss is None or not loss.from_logits:
            continue
        edges = graph.incoming[last.id]
        if is_norm(last) and not last.is_a({"UnitNormalization"}) and edges:
            before = _last_call(graph, edges[0].source)
            if is_linear_projection(before):
                yield remark(
                    [last.id, before.id],
                    f"A norm on logits: {named(graph, [last.id])} normalises the output of "
                    f"{named(graph, [before.id])}, so the size of a logit, which is the certainty "
                    "of the model, is lost. Norms belong before the last layer.",
                    _SOFTMAX,
                )


@diagnosis_rule("hidden_softmax")
def hidden_softmax(graph: Graph) -> Iterator[Note]:
    """A hidden layer ends with a softmax, and a Dense takes its output."""
    places: dict[str, str] = {}
    for node in graph.nodes:
        if node.is_a({"Dense"}) and graph.incoming[node.id]:
            before = past_dropouts(graph, graph.incoming[node.id][0], only=True)
            if before is not None and activation_of(before) == "softmax":
                places[before.id] = node.id
    if places:
        yield remark(
            [*places, *places.values()],
            f"A softmax in a hidden layer: {doing(graph, [*places], 'return')} probabilities, "
            f"which sum to 1 and are small, to {named(graph, [*places.values()])}. It belongs to "
            "the last layer; take a ReLU here, unless a choice is meant.",
            _SOFTMAX,
        )


@diagnosis_rule("dropout_on_logits")
def dropout_on_logits(graph: Graph) -> Iterator[Note]:
    """A dropout on the output of the last layer."""
    places: dict[str, str] = {}
    for output, _ in graph.outputs:
        node = graph.node(output)
        while node.id not in places and len(graph.incoming[node.id]) == 1:
            before = graph.node(graph.incoming[node.id][0].source)
            if node.is_a({"Dropout"}) and before.is_a({"Dense"}) and node.config.get("rate"):
                places[node.id] = before.id
            elif node.class_name not in ("Activation", "Softmax", *_DROPOUTS):
                break
            node = before
    if places:
        yield remark(
            [*places, *places.values()],
            f"A dropout on logits: {doing(graph, [*places], 'set')} numbers of the output of "
            f"{named(graph, [*places.values()])} to 0 in training, also that of the right class. "
            "Dropouts belong before the last layer.",
            _DROPPED,
        )


@diagnosis_rule("all_frozen")
def all_frozen(graph: Graph) -> Iterator[Note]:
    """A model is compiled with a loss, and has no trainable weights."""
    if any(graph.losses) and graph.parameters and not graph.trainable_parameters:
        frozen = [node.id for node in graph.nodes if node.owns_weights]
        yield finding(
            frozen,
            "All weights are frozen: the model is compiled with a loss, but none of its "
            f"{graph.parameters:,} weights are trainable, so training changes nothing. Set "
            f"trainable = True at the layers to train, of {named(graph, frozen)}, and compile "
            "again.",
            _FROZEN,
        )


def activation_of(node: Node) -> str:
    """Return the name of the function that a call ends with: "softmax", "relu"; "" if none."""
    if is_softmax(node):
        return "softmax"
    if node.is_a(LINEAR_PROJECTIONS | {"Activation"}):
        return node.activation or ""
    if node.call_class:
        return ""
    name = node.class_name.lower()
    names = {"leakyrelu": "leaky_relu", "logsoftmax": "log_softmax"}
    known = _BENT | {"sigmoid", "log_softmax"}
    return name if (name := names.get(name, name)) in known else ""


def _last_call(
    graph: Graph, output: str, layout: frozenset[str] | set[str] = SHAPE_CHANGES
) -> Node:
    """Return the call that computes the numbers of an output, past changes of their layout."""
    node = graph.node(output)
    while is_identity_like(node) or node.operation in layout - {"ExpandDims", "Ravel"}:
        if not graph.incoming[node.id]:
            break
        node = graph.node(graph.incoming[node.id][0].source)
    return node


def _shape_text(shape: tuple[int | None, ...]) -> str:
    return f"({', '.join('None' if size is None else str(size) for size in shape)})"
