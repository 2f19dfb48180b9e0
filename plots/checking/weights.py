"""Weights that no gradient reaches, and gradients that are no numbers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from plots.annotations import Note
from plots.checking.modes import training_mode
from plots.checking.randomness import repeatable
from plots.checking.results import Check, Witness, said, shown
from plots.checking.trials import Trial, computing
from plots.diagnosis.gradient_rules import NOT_DIFFERENTIABLE
from plots.diagnosis.rules import named
from plots.graph import Node
from plots.layers import is_norm
from plots.measuring.execution import as_array, run_calls
from plots.measuring.gradients import gradient, is_float
from plots.reading.keras_values import weights_of
from plots.softmaxes import is_always_one
from plots.traversal import reachability

if TYPE_CHECKING:
    import numpy as np

_SATURATED = "Glorot and Bengio 2010, Understanding the difficulty of training deep networks"
_AT_ZERO = "docs.jax.dev/en/latest/faq.html, gradients contain NaN where using where"
_MAY_BE_ZERO = re.compile(
    "Activation|Hard|LeakyReLU|M(ax|in)imum|ReLU|Relu|Shrink|Sparsemax|Threshold|TopK|Where"
)
"""In the names of classes whose derivative is 0 for some inputs and not for others."""
_ROWS = 3
_FEWEST_ZEROS = 2
FIRST_SEED = 7


def check_weights(trial: Trial) -> Iterator[Check]:
    """Yield the trainable weights whose gradient of a random loss is exactly zero."""
    owners = trial.layers
    variables = {id(v): v for layer in owners.values() for v in weights_of(layer) if v.trainable}
    outputs = [p for p in trial.graph.outputs if "float" in trial.dtypes.get(p, "")]
    if not variables or not outputs:
        return
    dead, broken = set(variables), set(variables)
    # As it trains; and in inference, where batch norm does not set a batch of one sample to zero.
    for training, seed in ((True, 0), (True, 1), (False, 0)):
        found = gradients_of(trial, variables, seed, training)
        broken &= {key for key, value in found.items() if not is_finite(value)}
        if broken and seed:
            yield from _broken(trial, [i for i in owners if _owns(owners[i], broken)])
            return
        if broken:
            continue
        dead &= {key for key, value in found.items() if not value.any()}
        if not dead:
            stuck = behind_zeros(trial, variables)
            yield from _stuck(trial, owners, stuck)
            if not stuck:
                yield said("dead weights", "alive", "every trainable weight gets a gradient")
            return
    layers = [i for i in trial.graph.index if i in owners and _owns(owners[i], dead)]
    if not layers:
        yield from _parts(trial, owners, dead)
        return
    if (note := _note(trial, layers)) is None:
        return
    own = trial.own_weights
    exact = not trial.weights or not any(
        value.any() for key, value in gradients_of(own, variables, 0, True).items() if key in dead
    )
    yield Check("dead weights", "dead", note, _witness(trial, layers, exact))


def _note(trial: Trial, layers: list[str]) -> Note | None:
    """Return a finding or remark about layers without gradient; None if they may get one.

    That is where a unit is off for these inputs, and may be on for others.
    """
    ends = _ends(trial, layers)
    nodes = [trial.graph.node(end) for end in ends]
    if any(_MAY_BE_ZERO.search(node.class_name) for node in nodes):
        return None
    own = [trial.graph.node(layer) for layer in layers]
    reasons = [reason for node in (*nodes, *own) if (reason := _reason(node))]
    reasons += ["its result has whole numbers alone, as those of a comparison"] * any(
        _makes_whole(trial, node) for node in nodes
    )
    reasons += ["its result changes with what it takes, as behind an ops.stop_gradient"] * any(
        _stops(trial, node) for node in nodes
    )
    used = [used for layer in layers if (used := _is_used(trial, layer)) is not None]
    reasons += ["the `call` of the layer does not use them"] * (False in used)
    reasons += ["its result changes with them, as behind an ops.stop_gradient"] * (True in used)
    where = f"It ends at {named(trial.graph, ends, 3)}" if ends else ""
    why = ": ".join(filter(None, [where, *reasons[:1]]))
    text = (
        f"No gradient reaches the weights of {named(trial.graph, layers, 4)}: exactly zero for a "
        f"random loss on {2 * min(trial.samples.batch, _ROWS)} random samples. "
        f"{why[:1].upper()}{why[1:]}{'. ' * bool(why)}They stay as they are initialised."
    )
    kind = "finding" if reasons else "remark"
    return Note(kind, tuple(dict.fromkeys([*layers, *ends])), text, _SATURATED)


def _parts(trial: Trial, owners: Mapping[str, Any], dead: AbstractSet[int]) -> Iterator[Check]:
    """Yield a remark about layers of which some weights get a gradient, and others do not."""
    parts = {
        node_id: ["/".join(v.path.split("/")[-2:]) for v in weights_of(layer) if id(v) in dead]
        for node_id, layer in owners.items()
    }
    layers = [node_id for node_id, names in parts.items() if names]
    if layers:
        is_own = bool(trial.graph.node(layers[0]).call_class)
        why = "Its `call` may not use them" if is_own else "What they add may cancel further on"
        text = (
            f"Weights that no gradient reaches: {', '.join(sorted(parts[layers[0]]))} of "
            f"{named(trial.graph, layers, 4)}, exactly zero for a random loss, though others of "
            f"the layer get one. {why}."
        )
        note = Note("remark", tuple(layers), text, _SATURATED)
        yield Check("dead weights", "dead", note, _witness(trial, layers, exact=True))


def behind_zeros(trial: Trial, variables: Mapping[int, Any]) -> set[int]:
    """Return the weights without a gradient as long as weights that are zero stay zero.

    A zero that gets a gradient opens, and may let one through to others, until no more open.
    """
    if len(_factors(trial)) < _FEWEST_ZEROS:
        return set()
    reached = set[int]()
    while True:
        opened = tuple(pair for pair in trial.weights if id(pair[0]) in reached)
        found = gradients_of(replace(trial, weights=opened), variables, 0, training=True)
        more = {key for key, value in found.items() if value.any()} - reached
        if not more:
            return {*variables} - reached
        reached |= more


def _stuck(trial: Trial, owners: Mapping[str, Any], stuck: AbstractSet[int]) -> Iterator[Check]:
    """Yield a finding about weights that zeros in series keep as they are."""
    zeros = _factors(trial) & stuck
    layers = [i for i in trial.graph.index if i in owners and _owns_some(owners[i], stuck)]
    places = [i for i in layers if _owns_some(owners[i], zeros)]
    if places:
        text = (
            f"Weights without a gradient: {named(trial.graph, layers, 4)}. "
            f"{named(trial.graph, places, 4)} begin with zeros, one behind the other, so that the "
            "gradient of each has another one as a factor, and all stay zero. Begin with zeros at "
            "the last one of a residual branch only."
        )
        note = Note("finding", tuple(dict.fromkeys([*places, *layers])), text, _SATURATED)
        yield Check("dead weights", "dead", note, _witness(trial, layers, exact=True))


def _factors(trial: Trial) -> set[int]:
    """Return the weights of zero that multiply what a layer takes: kernels and gains, no biases."""
    zeros = [variable for variable, _ in trial.weights]
    return {
        id(v)
        for v in zeros
        if v.path.endswith("gamma") or not (len(v.shape) == 1 or v.path.endswith("bias"))
    }


def _owns_some(layer: Any, variables: AbstractSet[int]) -> bool:
    return any(id(variable) in variables for variable in weights_of(layer))


def _witness(trial: Trial, layers: list[str], exact: bool) -> Witness:
    """Return inputs at which the gradient is zero."""
    shows = (
        "With these inputs, the gradient of any loss of the outputs is zero for the weights of "
        f"{named(trial.graph, layers, 4)}."
    )
    return shown(trial, shows, exact, trial.samples.base(FIRST_SEED))


def _reason(node: Node) -> str:
    """Return why a call passes no gradient on, where its shape or kind shows it."""
    axis = node.config.get("axis", -1)
    sizes = node.outputs[0].shape
    axes = axis if isinstance(axis, list | tuple) else [axis]
    one = all(isinstance(a, int) and sizes[a] == 1 for a in axes) if sizes else False
    if is_always_one(node):
        return "a softmax over an axis of size 1 is always 1"
    if is_norm(node) and one:
        return "the result of a norm over an axis of size 1 is constant"
    if node.operation == "Multiply" and any(c.value == 0 for c in node.constants):
        return "it multiplies by 0"
    if "int" in node.outputs[0].dtype or node.outputs[0].dtype == "bool":
        return "its result is not differentiable"
    if node.is_a(NOT_DIFFERENTIABLE) and node.class_name != "StopGradient":  # which is written so
        return "it passes no gradient on"
    return ""


def _is_used(trial: Trial, layer: str) -> bool | None:
    """Return whether what a layer of one's own returns changes with its weights, or None."""
    import numpy as np
    from keras import ops

    if not trial.graph.node(layer).call_class:
        return None
    own = {
        id(v): v
        for call in trial.calls
        if call.results and call.results[0][0] == layer
        for v in weights_of(call.record.operation)
    }
    random = np.random.default_rng(3)
    state = [
        (v, ops.convert_to_tensor(random.standard_normal(v.shape), dtype=v.dtype))
        for v in own.values()
        if v.trainable
    ]
    if not state or trial.random:
        return None
    for training in (False, True):
        before = trial.values_in_training if training else trial.values
        after = trial.run(trial.base, training, state=state)
        places = [place for place in before if place[0] == layer]
        if any(not np.array_equal(before[p], after[p], equal_nan=True) for p in places):
            return True
    return False


def _makes_whole(trial: Trial, node: Node) -> bool:
    """Return whether a call returns whole numbers and takes others, as by rounding."""
    import numpy as np

    values = trial.values.get((node.id, 0))
    edges = [edge for edge in trial.graph.incoming[node.id] if "float" in edge.tensor.dtype]
    given = [trial.values[edge.source, edge.output] for edge in edges]

    def is_whole(array: np.ndarray) -> bool:
        return array.size > 3 and bool((array == np.round(array)).all())

    return values is not None and bool(given) and is_whole(values) and not any(map(is_whole, given))


def _stops(trial: Trial, node: Node) -> bool:
    """Return whether the result of a closed call changes with the inputs of the model."""
    place = node.id, 0
    if not (node.is_a({"Lambda"}) or node.call_class) or place not in trial.values:
        return False
    other = trial.run(trial.samples.base(FIRST_SEED))[place]
    return bool(trial.moved(place, trial.values[place], other).any())


def _inputs(trial: Trial, seed: int) -> dict[tuple[str, int], Any]:
    from keras import ops

    arrays = trial.samples.base(seed + FIRST_SEED)
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


def gradients_of(
    trial: Trial, variables: Mapping[int, Any], seed: int, training: bool
) -> dict[int, np.ndarray]:
    """Return id(variable) -> gradient of a random loss, in training mode or in inference.

    Losses that layers add (`add_loss`) are added to it.
    """
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
        scope = keras.StatelessScope(state, collect_losses=True, initialize_variables=False)
        with scope, training_mode(training), repeatable(seed):
            compute = computing(training, {})
            loss = _loss(trial, run_calls(trial.graph, trial.calls, fed, {}, compute), seed)
        for added in scope.losses:  # by layers, such as that of a codebook
            loss = loss + ops.cast(ops.sum(added), "float32")
        return loss

    return {int(key): as_array(_dense(value)) for key, value in gradient(loss_at, at).items()}


def _dense(value: Any) -> Any:
    """Return a gradient as a tensor; TensorFlow gives that of a lookup by rows."""
    return value.values if hasattr(value, "dense_shape") else value


def _ends(trial: Trial, layers: list[str]) -> list[str]:
    """Return the calls that get a gradient and pass none on towards some layers."""
    graph = trial.graph
    alive = {edge for edge, value in _gradients_on_edges(trial).items() if value.any()}
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


def _gradients_on_edges(trial: Trial) -> dict[str, np.ndarray]:
    """Return id of an edge -> gradient of a random loss, in inference."""
    import keras
    from keras import ops

    graph, fed = trial.graph, _inputs(trial, 0)
    scope = keras.StatelessScope(list(trial.weights), initialize_variables=False)
    with scope, training_mode(False), repeatable():
        compute = computing(False, {})
        values = run_calls(graph, trial.calls, fed, {}, compute)
        edges = {
            edge.id: values[edge.source, edge.output]
            for edge in graph.edges
            if not edge.implicit and is_float(values[edge.source, edge.output])
        }
        zeros = {edge: ops.zeros_like(value) for edge, value in edges.items()}
        found = gradient(
            lambda shifts: _loss(trial, run_calls(graph, trial.calls, fed, shifts, compute), 0),
            zeros,
        )
    return {edge: as_array(_dense(value)) for edge, value in found.items()}


def _owns(layer: Any, variables: AbstractSet[int]) -> bool:
    """Return whether all trainable weights of a layer are among some variables."""
    own = [id(variable) for variable in weights_of(layer) if variable.trainable]
    return bool(own) and variables >= {*own}


def is_finite(array: np.ndarray) -> bool:
    """Return whether an array holds neither NaN nor infinity."""
    import numpy as np

    return bool(np.isfinite(array).all())


def _broken(trial: Trial, layers: list[str]) -> Iterator[Check]:
    """Yield a finding about gradients that are NaN or infinite, though all outputs are finite."""
    finite = all(is_finite(trial.values[p]) for p in trial.graph.outputs)
    if not finite or not layers or any(dtype.endswith("16") for dtype in trial.dtypes.values()):
        return
    broken = {edge for edge, value in _gradients_on_edges(trial).items() if not is_finite(value)}
    places = [
        node.id
        for node in trial.graph.nodes
        if any(edge.id in broken for edge in trial.graph.incoming[node.id])
        and not any(edge.id in broken for edge in trial.graph.outgoing[node.id])
    ]
    where = f" They begin at {named(trial.graph, places, 3)}." if places else ""
    text = (
        f"Gradients that are no numbers: those of {named(trial.graph, layers, 4)} are NaN or "
        f"infinite for a random loss on random samples, though all outputs are finite.{where} The "
        "derivative of a root or a norm at 0 is infinite, and that of a logarithm: add a small "
        "number first, such as sqrt(x + 1e-6). One step of training turns such weights to NaN."
    )
    note = Note("finding", tuple(dict.fromkeys([*places, *layers])), text, _AT_ZERO)
    shows = f"With these inputs, gradients are NaN or infinite at {named(trial.graph, layers, 4)}."
    witness = shown(trial, shows, not trial.weights, trial.samples.base(FIRST_SEED))
    yield Check("numbers", "not finite", note, witness)
