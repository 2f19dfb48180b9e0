"""Rules on losses: activations that do not fit a loss, and nothing to train."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from plots.annotations import Note, shape_text
from plots.diagnosis.activations import BENT, CLIPPED, activation_of, last_call
from plots.diagnosis.rules import diagnosis_rule, finding, named, remark
from plots.graph import Graph, Loss, Node
from plots.layers import is_linear_projection, is_reversed_embedding
from plots.traversal import data_flow, walk_back

_FROM_LOGITS = "Keras API, from_logits of keras.losses; github.com/keras-team/keras-hub/pull/1008"
_LOSSES = "Keras API, keras.io/api/losses/probabilistic_losses"
_DISTANCES = frozenset({"meanabsoluteerror", "meansquarederror", "huber", "logcosh"})
_REGIONS = "Keras API, keras.losses.Dice and keras.losses.Tversky"
_CTC = "Keras API, keras.losses.CTC and keras.ops.ctc_loss, which takes logits"
_HINGE = "Keras API, keras.io/api/losses/hinge_losses"
_SOFTMAX = "Goodfellow et al. 2016, Deep Learning, section 6.2.2.3"
_FROZEN = "Keras guide, keras.io/guides/transfer_learning; github.com/keras-team/keras/issues/4674"
_NAMES = {"relu": "ReLU", "relu6": "ReLU6", "tanh": "tanh"}


@diagnosis_rule("head_and_loss")
def head_and_loss(graph: Graph) -> Iterator[Note]:
    """The last activation does not return what the loss takes: logits or probabilities."""
    for (output, _), loss in zip(graph.outputs, graph.losses, strict=False):
        name = loss.class_name.lower().replace("_", "") if loss is not None else ""
        if loss is not None and "crossentropy" in name:
            last = last_call(graph, output)
            note = _on_logits(graph, last, loss) if loss.from_logits else None
            if loss.from_logits is False:
                note = _on_probabilities(graph, last, loss, "binary" in name)
            if "categorical" in name and loss.from_logits is not None:
                note = _on_classes(graph, output, loss) or note
            if note is not None:
                yield note
        elif loss is not None and (note := _on_range(graph, last_call(graph, output), loss, name)):
            yield note


class _Range(NamedTuple):
    """What a loss takes, and why nothing else."""

    what: str
    why: str
    activation: str


_RANGES = {
    "kldivergence": _Range("probabilities", "takes their logarithm", "softmax"),
    "poisson": _Range("positive rates", "takes their logarithm", "exponential or softplus"),
    "dice": _Range("probabilities", "multiplies them by labels of 0 and 1", "sigmoid"),
    "tversky": _Range("probabilities", "multiplies them by labels of 0 and 1", "sigmoid"),
}


def _on_range(graph: Graph, last: Node, loss: Loss, name: str) -> Note | None:
    """Return a note on a head that returns numbers of any sign for a loss that takes others."""
    activation, place = activation_of(last), named(graph, [last.id])
    if name in _RANGES and (is_linear_projection(last) or activation == "tanh"):
        what, why, right = _RANGES[name]
        return finding(
            [last.id],
            f"Numbers of any sign for a loss on {what}: {place} returns negative numbers, too, and "
            f"{loss.class_name} {why}. End with {right}.",
            _LOSSES if name in ("kldivergence", "poisson") else _REGIONS,
        )
    if name == "kldivergence" and activation == "sigmoid" and last.outputs[0].shape[-1] != 1:
        return remark(
            [last.id],
            f"A sigmoid with {loss.class_name}: the numbers at {place} do not sum to 1, and the "
            "loss compares distributions. Take a softmax.",
            _LOSSES,
        )
    if name == "ctc" and activation == "softmax":
        return finding(
            [last.id],
            f"A softmax of a softmax: {place} returns probabilities, but {loss.class_name} takes "
            "logits and applies a softmax of its own. Leave the activation out.",
            _CTC,
        )
    if name in _DISTANCES and activation in (*CLIPPED, "softmax"):
        text = f"A {_NAMES.get(activation, activation)} with {loss.class_name}: {place} " + (
            "returns no negative numbers, and passes no gradient on where it returns 0. Take "
            "no activation, or softplus for positive numbers."
            if activation in CLIPPED
            else "returns probabilities, whose gradients vanish where they are wrong. Take "
            "categorical cross-entropy."
        )
        return remark([last.id], text, _SOFTMAX)
    if name in _DISTANCES and activation == "sigmoid" and last.outputs[0].shape[-1] == 1:
        return remark(
            [last.id],
            f"A sigmoid with {loss.class_name}: {place} returns numbers between 0 and 1, so that "
            "it predicts no other ones. Take no activation, unless targets are in this range.",
            _SOFTMAX,
        )
    if name in ("hinge", "squaredhinge") and activation in ("sigmoid", "softmax"):
        return finding(
            [last.id],
            f"A {activation} with {loss.class_name}: {place} returns numbers between 0 and 1, and "
            "the loss wants less than -1 for one of the two classes. Take no activation, or tanh.",
            _HINGE,
        )
    return None


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
    if activation in BENT - {"tanh"}:  # a scaled tanh is a soft cap of logits
        text = (
            f"{_NAMES.get(activation, activation)} on logits: {place} returns "
            f"{'no' if activation in CLIPPED else 'hardly any'} negative numbers, so the loss "
            f"{loss.class_name} cannot make a class unlikely. Leave the activation of the last "
            "layer out."
        )
        return (finding if activation in CLIPPED else remark)([last.id], text, _FROM_LOGITS)
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
    if last.is_a({"Dot"}) and last.config.get("normalize"):
        return finding(
            [last.id],
            f"Cosines for a loss on probabilities: {place} returns numbers from -1 to 1, and "
            f"{loss.class_name} takes their logarithm. End with a Dense with a sigmoid.",
            _LOSSES,
        )
    if activation in BENT or activation == "log_softmax":
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
    last = last_call(graph, output, frozenset())
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
    if _width_before(graph, last) == 1 and (shape[class_axis] or 0) > 2:
        return finding(
            [last.id],
            f"One number for {shape[class_axis]} classes: {place} computes the scores of all "
            "classes from a single number, such as that of a Dense(1) that was left in. Take its "
            "input in its place.",
            _SOFTMAX,
        )
    return _on_another_axis(graph, last, loss, class_axis) if activation == "softmax" else None


def _on_another_axis(graph: Graph, last: Node, loss: Loss, class_axis: int) -> Note | None:
    """Return a note on a softmax over another axis than that of the classes."""
    axis, shape = last.config.get("axis", -1), last.outputs[0].shape
    if not isinstance(axis, int) or axis % len(shape) == class_axis % len(shape):
        return None
    axis, class_axis = axis % len(shape), class_axis % len(shape)
    return finding(
        [last.id],
        f"A softmax over axis {axis}, not over the classes: the output of "
        f"{named(graph, [last.id])} has the shape {shape_text(shape)}, and {loss.class_name} takes "
        f"axis {class_axis} for the classes, whose probabilities do not sum to 1. Set "
        f"axis={class_axis}.",
        _SOFTMAX,
    )


def _width_before(graph: Graph, last: Node) -> int | None:
    """Return how many features the projection of a head takes, if they were computed."""
    last = walk_back(graph, last, lambda node: not node.is_a({"Dense"}))
    if not last.is_a({"Dense"}) or not graph.incoming[last.id]:
        return None
    edge = graph.incoming[last.id][0]
    before = map(graph.node, (edge.source, *data_flow(graph).ancestors(edge.source)))
    return edge.tensor.shape[-1] if any(node.parameters for node in before) else None


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
