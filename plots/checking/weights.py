"""Weights that no gradient reaches, and layers that are called several times."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from plots.annotations import Note, counted
from plots.attentions import attentions_with_masks
from plots.checking.modes import training_mode
from plots.checking.randomness import repeatable
from plots.checking.results import Check, Witness, said
from plots.checking.trials import Trial
from plots.diagnosis.gradient_rules import NOT_DIFFERENTIABLE
from plots.diagnosis.rules import named
from plots.graph import Graph, Node
from plots.layers import is_norm, is_softmax
from plots.measuring.execution import as_array, gradient, is_float, run_calls
from plots.reading.keras_values import weights_of
from plots.traversal import reachability

_SATURATED = "Glorot and Bengio 2010, Understanding the difficulty of training deep networks"
_SHARED = "Lan et al. 2020, ALBERT, section 3.1; Dehghani et al. 2019, Universal Transformers"
_VASWANI = "Vaswani et al. 2017, Attention Is All You Need, section 3.2.3"
_MAY_BE_ZERO = ("Activation", "LeakyReLU", "Maximum", "Minimum", "ReLU", "Relu", "TopK", "Where")
_ROWS = 3
_FIRST_SEED = 7


def check_weights(trial: Trial) -> Iterator[Check]:
    """Yield the trainable weights whose gradient of a random loss is exactly zero."""
    owners = {
        call.results[0][0]: call.record.operation
        for call in trial.calls
        if call.results and call.results[0][0] in trial.graph.index
    }
    variables = {id(v): v for layer in owners.values() for v in weights_of(layer) if v.trainable}
    outputs = [p for p in trial.graph.outputs if "float" in trial.dtypes.get(p, "")]
    if not variables or not outputs:
        return
    dead = set(variables)
    # As it trains; and in inference, where batch norm does not set a batch of one sample to zero.
    for training, seed in ((True, 0), (True, 1), (False, 0)):
        dead &= _without_gradient(trial, variables, seed, training)
        if not dead:
            yield said("dead weights", "alive", "every trainable weight gets a gradient")
            return
    layers = [
        node.id
        for node in trial.graph.nodes
        if node.id in owners
        and (own := [v for v in weights_of(owners[node.id]) if v.trainable])
        and all(id(v) in dead for v in own)
    ]
    if not layers or (note := _note(trial, layers)) is None:
        return
    exact = not trial.weights or dead <= _without_gradient(
        trial.own_weights, variables, 0, training=True
    )
    yield Check("dead weights", "dead", note, _witness(trial, layers, exact))


def _note(trial: Trial, layers: list[str]) -> Note | None:
    """Return a finding or remark about layers without gradient; None if they may get one.

    That is where a unit is off for these inputs, and may be on for others.
    """
    ends = _ends(trial, layers)
    nodes = [trial.graph.node(end) for end in ends]
    if any(any(word in node.class_name for word in _MAY_BE_ZERO) for node in nodes):
        return None
    own = [trial.graph.node(layer) for layer in layers]
    reasons = [reason for node in (*nodes, *own) if (reason := _reason(node))]
    where = f"It ends at {named(trial.graph, ends, 3)}" if ends else ""
    why = ": ".join(filter(None, [where, *reasons[:1]]))
    text = (
        f"No gradient reaches the weights of {named(trial.graph, layers, 4)}: exactly zero for a "
        f"random loss on {2 * min(trial.samples.batch, _ROWS)} random samples. "
        f"{why[:1].upper()}{why[1:]}{'. ' * bool(why)}They stay as they are initialised."
    )
    kind = "finding" if reasons else "remark"
    return Note(kind, tuple(dict.fromkeys([*layers, *ends])), text, _SATURATED)


def _witness(trial: Trial, layers: list[str], exact: bool) -> Witness:
    """Return inputs at which the gradient is zero."""
    inputs = trial.as_model_takes(trial.samples.base(_FIRST_SEED))
    shows = (
        "With these inputs, the gradient of any loss of the outputs is zero for the weights of "
        f"{named(trial.graph, layers, 4)}."
    )
    return Witness(inputs, inputs, "", 0, (), 0.0, exact=exact, shows=shows)


def _reason(node: Node) -> str:
    """Return why a call passes no gradient on, where its shape or kind shows it."""
    axis = node.config.get("axis", -1)
    sizes = node.outputs[0].shape
    axes = axis if isinstance(axis, list | tuple) else [axis]
    one = all(isinstance(a, int) and sizes[a] == 1 for a in axes) if sizes else False
    if (is_softmax(node) and one) or (node.activation == "softmax" and sizes and sizes[-1] == 1):
        return "a softmax over an axis of size 1 is always 1"
    if is_norm(node) and one:
        return "the result of a norm over an axis of size 1 is constant"
    if "int" in node.outputs[0].dtype or node.outputs[0].dtype == "bool":
        return "its result is not differentiable"
    if node.is_a(NOT_DIFFERENTIABLE) and node.class_name != "StopGradient":  # which is written so
        return "it passes no gradient on"
    return ""


def _inputs(trial: Trial, seed: int) -> dict[tuple[str, int], Any]:
    from keras import ops

    arrays = trial.samples.base(seed + _FIRST_SEED)
    is_fixed = any(field.shape[0] != trial.samples.batch for field in trial.samples.fields)
    rows = trial.samples.batch if is_fixed or trial.is_batch_fixed else _ROWS
    return {
        (place, 0): ops.convert_to_tensor(array[:rows], dtype=trial.field_of(place).dtype)
        for place, array in arrays.items()
    }


def _loss(trial: Trial, values: Mapping[tuple[str, int], Any], seed: int) -> Any:
    import numpy as np
    from keras import ops

    random = np.random.default_rng(seed)
    total: Any = 0.0
    for place in trial.graph.outputs:
        value = values[place]
        if is_float(value):
            weights = random.standard_normal(tuple(value.shape)).astype("float32")
            total = total + ops.sum(ops.multiply(ops.cast(value, "float32"), weights))
    return total


def _without_gradient(
    trial: Trial, variables: Mapping[int, Any], seed: int, training: bool
) -> set[int]:
    """Return the variables whose gradient is exactly zero, in training mode or in inference."""
    import keras
    from keras import ops

    replaced = {id(variable): value for variable, value in trial.weights}
    fed = _inputs(trial, seed)
    at = {
        str(key): replaced.get(key, ops.convert_to_tensor(variable.value))
        for key, variable in variables.items()
    }

    def loss_at(tensors: Mapping[str, Any]) -> Any:
        state = [(variables[int(key)], tensor) for key, tensor in tensors.items()]
        scope = keras.StatelessScope(state, initialize_variables=False)
        with scope, training_mode(training), repeatable(seed):
            return _loss(trial, run_calls(trial.graph, trial.calls, fed, {}), seed)

    found = gradient(loss_at, at)
    return {int(key) for key, value in found.items() if not as_array(_dense(value)).any()}


def _dense(value: Any) -> Any:
    """Return a gradient as a tensor; TensorFlow gives that of a lookup by rows."""
    return value.values if hasattr(value, "dense_shape") else value


def _ends(trial: Trial, layers: list[str]) -> list[str]:
    """Return the calls that get a gradient and pass none on towards some layers."""
    import keras
    from keras import ops

    graph, fed = trial.graph, _inputs(trial, 0)
    scope = keras.StatelessScope(list(trial.weights), initialize_variables=False)
    with scope, training_mode(False), repeatable():
        values = run_calls(graph, trial.calls, fed, {})
        edges = {
            edge.id: values[edge.source, edge.output]
            for edge in graph.edges
            if not edge.implicit and is_float(values[edge.source, edge.output])
        }
        zeros = {edge: ops.zeros_like(value) for edge, value in edges.items()}
        found = gradient(
            lambda shifts: _loss(trial, run_calls(graph, trial.calls, fed, shifts), 0), zeros
        )
    alive = {edge for edge, value in found.items() if as_array(_dense(value)).any()}
    reached = {edge.source for edge in graph.edges if edge.id in alive}
    reached |= {node_id for node_id, _ in graph.outputs}
    order = reachability(graph)
    return [
        node.id
        for node in graph.nodes
        if node.id in reached
        and node.id not in layers
        and any(order.depends(node.id, on=layer) for layer in layers)
        and not any(
            edge.id in alive
            for edge in graph.incoming[node.id]
            if edge.source in layers or any(order.depends(edge.source, on=one) for one in layers)
        )
    ]


# Shared weights ---------------------------------------------------------------------------------


def check_sharing(graph: Graph) -> Iterator[Check]:
    """Yield the layers with weights that are called several times, and which are so by mistake."""
    ties = {
        layer: calls
        for layer, calls in graph.ties.items()
        if graph.node(layer).parameters and graph.node(layer).kind in ("layer", "model")
    }
    if not ties:
        return
    text = f"{counted(len(ties), 'layer')} with weights called several times"
    yield said("sharing", "shared", text)
    told: set[str] = set()
    for check in (*_self_and_cross(graph, ties), *_shared_norms(graph, ties)):
        told.update(check.note.about)
        yield check
    same = [
        calls
        for calls in ties.values()
        if len({_sources(graph, call) for call in calls}) < len(calls) and told.isdisjoint(calls)
    ]
    for calls in same:
        told.update(calls)
        text = (
            f"The same layer is called {len(calls)} times with the same input, {calls[0]}: the "
            "results are equal, so that what they are made for, such as queries, keys and values, "
            "is one projection."
        )
        yield Check("sharing", "shared", Note("remark", tuple(calls), text, _VASWANI))
    order = reachability(graph)
    in_series = [
        calls
        for calls in ties.values()
        if told.isdisjoint(calls)
        and not graph.node(calls[0]).is_a({"Embedding"})
        and any(order.depends(b, on=a) for a, b in itertools.pairwise(calls))
    ]
    if in_series:
        names = named(graph, [calls[0] for calls in in_series], 4)
        text = (
            f"Layers are called one after the other with the same weights: {names}, "
            f"{max(map(len, in_series))} times. ALBERT and the Universal Transformer share whole "
            "blocks so; a layer that is made once outside of a loop is shared by mistake."
        )
        about = [call for calls in in_series for call in calls]
        yield Check("sharing", "shared", Note("remark", tuple(about), text, _SHARED))


def _self_and_cross(graph: Graph, ties: Mapping[str, tuple[str, ...]]) -> Iterator[Check]:
    kinds = {a.id: a.is_self for a in attentions_with_masks(graph)[0] if a.is_one_call}
    for layer, calls in ties.items():
        own = {kinds[call] for call in calls if call in kinds}
        if own == {True, False}:
            text = (
                f"{named(graph, [layer])} is called as self-attention and as cross-attention, with "
                "the same weights: the two look for different things, and have weights of their "
                "own in every published design."
            )
            yield Check("sharing", "shared", Note("finding", calls, text, _VASWANI))


def _shared_norms(graph: Graph, ties: Mapping[str, tuple[str, ...]]) -> Iterator[Check]:
    """Yield the norms that are called one after the other, where the layers around are not."""
    order = reachability(graph)
    for layer, calls in ties.items():
        if not is_norm(graph.node(layer)):
            continue
        pairs = [(a, b) for a, b in itertools.pairwise(calls) if order.depends(b, on=a)]
        for first, second in pairs:
            between = [
                node
                for node in graph.nodes
                if node.parameters
                and node.kind == "layer"
                and not is_norm(node)
                and order.depends(node.id, on=first)
                and order.depends(second, on=node.id)
            ]
            if between and not any(node.layer in ties for node in between):
                text = (
                    f"The norm {named(graph, [layer])} is called {len(calls)} times, one after the "
                    "other, with the same weights, although the layers between are different: "
                    "published blocks that share a norm share all of their layers."
                )
                yield Check("sharing", "shared", Note("finding", calls, text, _SHARED))
                break


def _sources(graph: Graph, node_id: str) -> tuple[tuple[str, str, int], ...]:
    edges = graph.incoming[node_id]
    return tuple((edge.port, edge.source, edge.output) for edge in edges if not edge.implicit)
