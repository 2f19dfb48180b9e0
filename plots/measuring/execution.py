"""Compute a Functional model call by call: the value of every call, and the gradient on every edge.

Nothing of the model is changed by it, neither weights nor states, and the values are those of
`model(inputs)`, on every backend of Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plots.graph import Graph
from plots.measuring.arrays import as_array, is_float, is_half
from plots.measuring.differentiation import gradient
from plots.measuring.losses import loss_of_outputs
from plots.measuring.model_inputs import random_inputs, standardised_inputs
from plots.reading.keras_calls import RecordedCall, filled_arguments
from plots.reading.keras_values import weights_of
from plots.reading.read import read_calls, read_graph

if TYPE_CHECKING:
    import keras
    import numpy as np

Place = tuple[str, int]
"""One output of a call: (its id, the output's number)."""

Compute = Callable[[RecordedCall, list[Any], dict[str, Any]], Any]
"""What computes a call: (call, args, kwargs) -> its outputs."""


def call_values(
    model: keras.Model,
    inputs: Any = None,
    open_nested: bool = False,
    open_layers: bool = False,
    seed: int = 0,
) -> dict[str, tuple[np.ndarray, ...]]:
    """What every call of a model gives out for one batch: node id -> its outputs, flattened.

    The ids are those of `plots.read_graph(model, open_nested, open_layers)`. Of a model that
    `TimeDistributed` applies to every step, only what comes out of it is there.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: As the model takes them, or by name; None: `random_inputs(model, seed=seed)`.
        open_nested: As for `read_graph`.
        open_layers: As for `read_graph`.
        seed: Of the random inputs.

    Returns:
        NumPy arrays; floats of half precision are given in float32.

    Raises:
        TypeError: if the model has no graph.
        ValueError: if the model is not built or has no weights, if the inputs do not fit, or if
            layers that are to be opened do something else than what could be seen of them.
    """
    return Execution.of(model, inputs, seed, Opened(open_nested, open_layers)).arrays()


def edge_gradients(
    model: keras.Model,
    inputs: Any = None,
    targets: Any = None,
    loss: Any = None,
    open_nested: bool = False,
    open_layers: bool = False,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """The gradient of a loss with respect to the tensor on every edge: `Edge.id` -> its array.

    A value that goes two ways has a gradient on each, so that what comes back along a skip path and
    what comes back through the sublayer are separate numbers; the gradient with respect to the
    value itself is their sum. Edges of integers and booleans have none. What a model computes in
    half precision (mixed_float16) has its gradients in half precision, too, and without the scaling
    of the loss that training adds: small ones may be rounded to 0.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: As for `call_values`.
        targets: What the loss compares the outputs with.
        loss: With `targets`, a loss of Keras by name, as an object, or as a function of targets and
            outputs; None: that with which the model was compiled. Without `targets`, a function of
            the model's outputs. With neither: the outputs times random numbers, summed up, so that
            the gradient at the outputs has an RMS of about 1, and every other one says by how much
            it has grown or shrunk on its way back. The random numbers are of a standard normal
            distribution.
        open_nested: As for `read_graph`.
        open_layers: As for `read_graph`.
        seed: Of the random inputs, and of the random numbers of the loss.

    Raises:
        TypeError: if the model has no graph.
        ValueError: as from `call_values`; if there are targets and no loss, or neither, and the
            model gives out no floats.
    """
    execution = Execution.of(model, inputs, seed, Opened(open_nested, open_layers))
    found = execution.gradients(loss_of_outputs(model, targets, loss, seed))
    return {edge.id: found[edge.id] for edge in execution.graph.edges if edge.id in found}


@dataclass(frozen=True, slots=True)
class Opened:
    """What is opened when a model is read; see `plots.read_graph`."""

    nested: bool = False
    layers: bool = False


@dataclass(frozen=True)
class Execution:
    """A model that has been computed for one batch.

    Attributes:
        graph: The graph of the model.
        calls: Its calls, in the order in which Keras computes them.
        fed: The values of its inputs.
        values: All values, as tensors of the backend.
    """

    graph: Graph
    calls: Sequence[RecordedCall]
    fed: Mapping[Place, Any]
    values: Mapping[Place, Any]

    @staticmethod
    def of(
        model: keras.Model,
        inputs: Any = None,
        seed: int = 0,
        opened: Opened = Opened(),
        compute: Compute | None = None,
    ) -> Execution:
        """Compute a model, opened as said."""
        graph, calls = read_calls(model, opened.nested)
        _check_weights(model, calls)
        given = random_inputs(model, seed=seed) if inputs is None else inputs
        places = [(node_id, 0) for node_id in graph.inputs]
        fed = dict(zip(places, standardised_inputs(model, given), strict=True))
        with _without_trace():
            values = _run(calls, fed, {}, compute or _compute)
            whole = Execution(graph, calls, fed, values)
            return whole._looking_into_layers(model, opened, compute) if opened.layers else whole

    @staticmethod
    def as_read(
        graph: Graph,
        model: keras.Model | None,
        inputs: Any = None,
        seed: int = 0,
        compute: Compute | None = None,
    ) -> Execution:
        """Compute the model that `graph` was read from, opened as it was then.

        Raises:
            ValueError: if there is no model, or the graph was read from another one.
        """
        model = needed(model)
        return Execution.of(model, inputs, seed, _how_it_was_opened(graph, model), compute)

    def _looking_into_layers(
        self, model: keras.Model, opened: Opened, compute: Compute | None
    ) -> Execution:
        """The same, with the inside of layers that are made of layers, as far as it can be known.

        What is inside depends on the sizes of the batch, which are now known.
        """
        shapes = {
            id(tensor): tuple(self.values[place].shape)
            for call in self.calls
            for tensor, place in zip(call.record.outputs, call.results, strict=True)
            if place in self.values
        }
        graph, calls = read_calls(model, opened.nested, opened.layers, shapes)
        if graph.index.keys() == self.graph.index.keys():
            return self
        values = _run(calls, self.fed, {}, compute or _compute)
        rounding = _rounding(values.values())
        for inside, outside in zip(graph.outputs, self.graph.outputs, strict=True):
            if not _are_close(values[inside], self.values[outside], rounding):
                raise ValueError(
                    f"what is inside of the layers of the model {model.name!r} does not give what "
                    "the layers give (they may rely on implicit masks); read it with "
                    "open_layers=False"
                )
        return Execution(graph, calls, self.fed, values)

    def arrays(self) -> dict[str, tuple[np.ndarray, ...]]:
        """All values by call, as arrays."""
        found: dict[str, list[np.ndarray]] = {}
        for (node_id, _), value in sorted(self.values.items(), key=lambda item: item[0]):
            found.setdefault(node_id, []).append(as_array(value))
        return {node.id: tuple(found[node.id]) for node in self.graph.nodes if node.id in found}

    def gradients(self, loss: Callable[[list[Any]], Any]) -> dict[str, np.ndarray]:
        """The gradient of `loss`, a function of the outputs, on every edge of floats by its id.

        What leaves the model is on an edge here, too: see `output_edge`.
        """
        import keras
        from keras import ops

        zeros = {
            edge: ops.zeros_like(self.values[place])
            for edge, place in self._sources().items()
            if is_float(self.values[place])
        }

        def loss_at(shifts: Mapping[str, Any]) -> Any:
            values = _run(self.calls, self.fed, shifts, _compute)
            outputs = enumerate(self.graph.outputs)
            return loss([_shifted(values[p], shifts.get(output_edge(n))) for n, p in outputs])

        # The loss of a compiled model makes variables when it is first computed, and they get their
        # values where this scope ends, which must not be within the gradient of some backend.
        with keras.StatelessScope():
            loss([self.values[place] for place in self.graph.outputs])
        with _without_trace():
            return {edge: as_array(found) for edge, found in gradient(loss_at, zeros).items()}

    def summed_gradients(self, on_edges: Mapping[str, np.ndarray]) -> dict[Place, np.ndarray]:
        """The gradient with respect to every value: the sum of those on the edges it goes along."""
        total: dict[Place, np.ndarray] = {}
        for edge, place in self._sources().items():
            if edge in on_edges:
                total[place] = total[place] + on_edges[edge] if place in total else on_edges[edge]
        return total

    def _sources(self) -> dict[str, Place]:
        """Id of every edge that is an argument or leaves the model -> what is handed along it."""
        edges = [edge for call in self.calls for edge in call.edges.values()]
        arguments = {edge.id: (edge.source, edge.output) for edge in edges if not edge.implicit}
        return arguments | {output_edge(n): place for n, place in enumerate(self.graph.outputs)}


def output_edge(number: int) -> str:
    """What stands for an edge's id where a value leaves the model as its output of this number."""
    return f"output {number}"


def needed(model: keras.Model | None) -> keras.Model:
    """The model, which has to be there to be run.

    Raises:
        ValueError: if it is None.
    """
    if model is None:
        raise ValueError(
            "the model has to be run, and there is only its graph: give `model`, or draw the model "
            "itself and not its graph"
        )
    return model


def _how_it_was_opened(graph: Graph, model: keras.Model) -> Opened:
    """How `graph` was read from `model`, told by its ids."""
    common: dict[Opened, int] = {}
    for opened in (Opened(True), Opened(False), Opened(True, True), Opened(False, True)):
        found = read_graph(model, opened.nested, opened.layers)
        common[opened] = len(found.index.keys() & graph.index.keys())
        if common[opened] == len(graph.nodes):
            return opened
    best = max(common, key=common.__getitem__)
    if not common[best]:
        raise ValueError(
            f"the graph {graph.name!r} was not read from the model {model.name!r}: they have no "
            "call in common; give the model that the graph was read from"
        )
    return best


def _check_weights(model: keras.Model, calls: Sequence[RecordedCall]) -> None:
    variables = (v for call in calls for v in weights_of(call.record.operation))
    # Keras computes with newly drawn numbers in the place of a weight that was not allocated.
    if any(variable._value is None for variable in variables):
        raise ValueError(
            f"the model {model.name!r} has no weights, only their shapes, so that it cannot be "
            "computed; build it with weights"
        )


def _run(
    calls: Sequence[RecordedCall],
    fed: Mapping[Place, Any],
    shifts: Mapping[str, Any],
    compute: Compute,
) -> dict[Place, Any]:
    """All values, if on the edges that are in `shifts` so much is added to what is handed on."""
    import keras
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    values = dict(fed)
    for call in calls:
        if all(place in values for place in call.results):
            continue
        handed: list[tuple[Any, Any]] = []

        def fill(port: str, value: Any, call: RecordedCall = call, handed: Any = handed) -> Any:
            if port not in call.edges:
                return value
            edge = call.edges[port]
            value = values[edge.source, edge.output]
            shifted = _shifted(value, shifts.get(edge.id))
            if shifted is not value:
                handed.append((value, shifted))
            return shifted

        args, kwargs = filled_arguments(call.record, fill)
        outputs = compute(call, args, kwargs)
        for value, shifted in handed:  # a layer may have taken the mask off, see `computing_order`
            set_keras_mask(value, get_keras_mask(shifted))
        values.update(zip(call.results, keras.tree.flatten(outputs), strict=True))
    return values


def _compute(call: RecordedCall, args: list[Any], kwargs: dict[str, Any]) -> Any:
    return call.record.operation(*args, **kwargs)


def _rounding(values: Iterable[Any]) -> float:
    """How much of the largest number rounding may change where these values are computed."""
    return 0.05 if any(is_half(value) for value in values) else 1e-3


def _are_close(found: Any, expected: Any, rounding: float) -> bool:
    """Whether two tensors differ by no more than this part of the largest finite number."""
    import numpy as np

    arrays = as_array(found), as_array(expected)
    largest = np.abs(arrays[1], where=np.isfinite(arrays[1]), out=np.zeros_like(arrays[1])).max()
    return bool(np.allclose(*arrays, rtol=0, atol=rounding * largest, equal_nan=True))


def _shifted(value: Any, shift: Any) -> Any:
    """The sum of both, with the mask that Keras has put behind the value."""
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    if shift is None:
        return value
    shifted = value + shift
    set_keras_mask(shifted, get_keras_mask(value))
    return shifted


def _without_trace() -> keras.StatelessScope:
    """What is computed in here changes no state: no statistics of a norm, no seed of a dropout."""
    import keras

    return keras.StatelessScope(initialize_variables=False)
