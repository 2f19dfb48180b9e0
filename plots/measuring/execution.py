"""Compute a Functional model call by call: the value of every call, and the gradient on every edge.

The model stays as it is, weights and states, and the values are those of `model(inputs)`, on every
backend of Keras.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plots.arguments import model_of
from plots.graph import Graph
from plots.measuring.gradients import as_dense, gradient, is_float, loss_of_outputs
from plots.measuring.inputs import random_inputs, standardise_inputs
from plots.reading import read_calls, read_graph
from plots.reading.keras_calls import RecordedCall, filled_arguments
from plots.reading.keras_values import weights_of

if TYPE_CHECKING:
    import keras
    import numpy as np

Place = tuple[str, int]
"""One output of a call: (its id, the output's number)."""

Compute = Callable[[Graph, RecordedCall, list[Any], dict[str, Any]], Any]
"""Function that computes a call of a graph: (graph, call, args, kwargs) -> its outputs."""


def compute_call(graph: Graph, call: RecordedCall, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """Return the outputs of a call."""
    return call.record.operation(*_without_unread_steps(call.record.operation, args), **kwargs)


def _without_unread_steps(operation: Any, args: list[Any]) -> list[Any]:
    """Return the arguments of a call, for a convolution without the last rows if it skips them.

    TensorFlow 2.21 writes outside of its memory in the gradient of a kernel that is smaller than
    its strides, such as 1 x 1 with strides of 2, if rows or columns at the end are not read.
    """
    import keras

    kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    if keras.backend.backend() != "tensorflow" or not isinstance(operation, kinds) or not args:
        return args
    image, first = args[0], 1 if operation.data_format == "channels_last" else 2
    index = [slice(None)] * len(image.shape)
    for axis, (size, step, dilation) in enumerate(
        zip(operation.kernel_size, operation.strides, operation.dilation_rate, strict=True), first
    ):
        reach, length = (size - 1) * dilation + 1, image.shape[axis]
        steps = -(-length // step) if operation.padding == "same" else (length - reach) // step + 1
        end = (steps - 1) * step + reach  # of what is read
        if reach < step and 0 < end < length and operation.padding != "causal":
            index[axis] = slice(end)
    return args if index == [slice(None)] * len(index) else [image[tuple(index)], *args[1:]]


def call_values(
    model: keras.Model,
    inputs: Any = None,
    open_nested: bool = False,
    open_layers: bool = False,
    seed: int = 0,
) -> dict[str, tuple[np.ndarray, ...]]:
    """Return the outputs of every call of a model for one batch: node id -> its flat outputs.

    The ids are those of `plots.read_graph(model, open_nested, open_layers)`. Of a model that
    `TimeDistributed` applies to every step, only the output is included.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: As the model takes them, or by name; None: `random_inputs(model, seed=seed)`.
        open_nested: As for `read_graph`.
        open_layers: As for `read_graph`.
        seed: Seed of the random inputs.

    Returns:
        NumPy arrays; floats of half precision are given in float32.

    Raises:
        TypeError: if the model has no graph.
        ValueError: if the model is not built or has no weights, if the inputs do not fit, or if
            opened layers compute something else than the calls inside of them.
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
    """Return the gradient of a loss with respect to the tensor on every edge, by `Edge.id`.

    A value that goes to two calls has a gradient on each edge, so that those along a skip path and
    through the sublayer are separate numbers; the gradient with respect to the value itself is
    their sum. Edges of integers and booleans have none. Where a model computes in half precision
    (mixed_float16), so do its gradients, and without the loss scaling of training: small ones may
    be rounded to 0.

    Args:
        model: A Functional model, or a Sequential one that is built.
        inputs: As for `call_values`.
        targets: Targets that the loss compares the outputs with.
        loss: With `targets`, a loss of Keras by name, as an object, or as a function of targets and
            outputs; None: the loss that the model was compiled with. Without `targets`, a function
            of the model's outputs. With neither: the sum of the outputs times random numbers of a
            standard normal distribution, so that the gradient at the outputs has an RMS of about 1,
            and every other one shows how much it has grown or shrunk on its way back.
        open_nested: As for `read_graph`.
        open_layers: As for `read_graph`.
        seed: Seed of the random inputs, and of the random numbers of the loss.

    Raises:
        TypeError: if the model has no graph.
        ValueError: as from `call_values`; if there are targets and no loss, or neither, and the
            model returns no floats.
    """
    execution = Execution.of(model, inputs, seed, Opened(open_nested, open_layers))
    found = execution.gradients(loss_of_outputs(model, targets, loss, seed))
    return {edge.id: found[edge.id] for edge in execution.graph.edges if edge.id in found}


@dataclass(frozen=True, slots=True)
class Opened:
    """Whether nested models and layers are opened when a model is read: `plots.read_graph`."""

    nested: bool = False
    layers: bool = False


@dataclass(frozen=True)
class Execution:
    """A model that has been computed for one batch.

    Attributes:
        model: The model.
        graph: Its graph.
        calls: Its calls, in the order in which Keras computes them.
        fed: The values of its inputs.
        values: All values, as tensors of the backend.
    """

    model: keras.Model
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
        compute: Compute = compute_call,
    ) -> Execution:
        """Compute a model with `compute`; the other arguments are those of `call_values`."""
        import keras

        model = model_of(model)
        graph, calls = read_calls(model, opened.nested)
        variables = (v for call in calls for v in weights_of(call.record.operation))
        # Keras replaces a weight that was not allocated by random numbers.
        if any(variable._value is None for variable in variables):
            raise ValueError(
                f"the model {model.name!r} has no weights, only their shapes, so it cannot be "
                "computed; build it with weights"
            )
        given = random_inputs(model, seed=seed) if inputs is None else inputs
        whole = Execution.of_calls(model, graph, calls, given, compute)
        if not opened.layers:
            return whole
        with keras.StatelessScope(initialize_variables=False):
            return whole._with_opened_layers(opened, compute)

    @staticmethod
    def of_calls(
        model: keras.Model,
        graph: Graph,
        calls: Sequence[RecordedCall],
        inputs: Any,
        compute: Compute = compute_call,
    ) -> Execution:
        """Compute a model that `read_calls` has read, which is the same after a change of weights.

        Args:
            model: The model, which is built and has weights.
            graph: Its graph.
            calls: Its calls.
            inputs: As for `call_values`.
            compute: Computes a call.
        """
        import keras

        places = [(node_id, 0) for node_id in graph.inputs]
        fed = dict(zip(places, standardise_inputs(model, inputs), strict=True))
        # In this scope no state changes, such as statistics of norms and seeds.
        with keras.StatelessScope(initialize_variables=False):
            return Execution(model, graph, calls, fed, run_calls(graph, calls, fed, {}, compute))

    @staticmethod
    def as_read(
        graph: Graph,
        model: keras.Model | None,
        inputs: Any = None,
        seed: int = 0,
        compute: Compute = compute_call,
    ) -> Execution:
        """Compute the model that `graph` was read from, opened in the same way.

        Raises:
            ValueError: if there is no model, or the graph was read from another one.
        """
        if model is None:
            raise ValueError(
                "measuring runs the model, and there is only its graph: give `model`, or draw the "
                "model itself and not its graph"
            )
        return Execution.of(model, inputs, seed, _how_it_was_opened(graph, model), compute)

    def _with_opened_layers(self, opened: Opened, compute: Compute) -> Execution:
        """Compute the same with layers opened, for the sizes of this batch."""
        import keras

        shapes = {
            id(tensor): tuple(self.values[place].shape)
            for call in self.calls
            for tensor, place in zip(call.record.outputs, call.results, strict=True)
            if place in self.values
        }
        graph, calls = read_calls(self.model, opened.nested, opened.layers, shapes)
        if graph.index.keys() == self.graph.index.keys():
            return self
        values = run_calls(graph, calls, self.fed, {}, compute)
        dtypes = {keras.backend.standardize_dtype(value.dtype) for value in values.values()}
        is_half = any("float" in dtype for dtype in dtypes - {"float32", "float64"})
        rounding = 0.05 if is_half else 1e-3  # in units of the largest number
        for inside, outside in zip(graph.outputs, self.graph.outputs, strict=True):
            if not _are_close(values[inside], self.values[outside], rounding):
                raise ValueError(
                    f"the calls inside of the layers of the model {self.model.name!r} do not "
                    "compute the same as the layers (they may rely on implicit masks); read it "
                    "with open_layers=False"
                )
        return Execution(self.model, graph, calls, self.fed, values)

    def arrays(self) -> dict[str, tuple[np.ndarray, ...]]:
        """Return all values as arrays, by call."""
        found: dict[str, list[np.ndarray]] = {}
        for node_id, output in sorted(self.values):
            found.setdefault(node_id, []).append(as_array(self.values[node_id, output]))
        return {i: tuple(found[i]) for i in self.graph.index if i in found}

    def gradients(
        self,
        loss: Callable[[list[Any]], Any],
        edges: Collection[str] | None = None,
        weights: Sequence[keras.Variable] = (),
    ) -> dict[str, np.ndarray]:
        """Return the gradient of `loss`, a function of the outputs, on edges of floats by id.

        Each output of the model is an edge here, too: see `output_edge`.

        Args:
            loss: The loss.
            edges: Ids of the edges to return; None: all.
            weights: Weights to return the gradient of as well, by their path.
        """
        import keras
        from keras import ops

        on_edges = {edge: self.values[place] for edge, place in self._sources().items()}
        at = {
            edge: ops.zeros_like(value)
            for edge, value in on_edges.items()
            if is_float(value) and (edges is None or edge in edges)
        }
        by_path = {weight.path: weight for weight in weights}
        at |= {path: ops.convert_to_tensor(weight.value) for path, weight in by_path.items()}

        def loss_at(given: Mapping[str, Any]) -> Any:
            state = [(weight, given[path]) for path, weight in by_path.items()]
            with keras.StatelessScope(state, initialize_variables=False):
                values = run_calls(self.graph, self.calls, self.fed, given)
                outputs = enumerate(self.graph.outputs)
                return loss([_shifted(values[p], given.get(output_edge(n))) for n, p in outputs])

        # The loss of a compiled model makes variables when it is first computed, and they get their
        # values where this scope ends, which must not be within the gradient of some backend.
        with keras.StatelessScope():
            loss([self.values[place] for place in self.graph.outputs])
        found = gradient(loss_at, at)
        return {name: as_array(as_dense(value)) for name, value in found.items()}

    def summed_gradients(self, on_edges: Mapping[str, np.ndarray]) -> dict[Place, np.ndarray]:
        """Return the gradient with respect to every value: the sum of those on its edges."""
        total: dict[Place, np.ndarray] = {}
        for edge, place in self._sources().items():
            if edge in on_edges:
                total[place] = total[place] + on_edges[edge] if place in total else on_edges[edge]
        return total

    def _sources(self) -> dict[str, Place]:
        """Return the value on every edge that is an argument or an output, by the edge's id."""
        edges = [edge for call in self.calls for edge in call.edges.values()]
        arguments = {edge.id: (edge.source, edge.output) for edge in edges if not edge.implicit}
        return arguments | {output_edge(n): place for n, place in enumerate(self.graph.outputs)}


def output_edge(number: int) -> str:
    """Return the id of the edge on which a value leaves the model as its output of this number."""
    return f"output {number}"


def _how_it_was_opened(graph: Graph, model: keras.Model) -> Opened:
    """Return how `graph` was read from `model`, according to its ids."""
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


def run_calls(
    graph: Graph,
    calls: Sequence[RecordedCall],
    fed: Mapping[Place, Any],
    shifts: Mapping[str, Any],
    compute: Compute = compute_call,
) -> dict[Place, Any]:
    """Return all values, with `shifts` added to the values on their edges."""
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    values = dict(fed)
    for call in calls:
        if all(place in values for place in call.results):
            continue
        handed: list[tuple[Any, Any]] = []

        def fill(port: str, value: Any, call: RecordedCall = call, handed: Any = handed) -> Any:
            if port not in call.edges:
                return call.known.get(port, value)
            edge = call.edges[port]
            given = values[edge.source, edge.output]
            shifted = _shifted(_as_input(given, value), shifts.get(edge.id))
            if shifted is not given:
                handed.append((given, shifted))
            return shifted

        args, kwargs = filled_arguments(call.record, fill)
        outputs = compute(graph, call, args, kwargs)
        for value, shifted in handed:  # a layer may have taken the mask off, see `computing_order`
            set_keras_mask(value, get_keras_mask(shifted))
        found = zip(call.results, call.results_of(outputs), strict=True)
        values.update({place: value for place, value in found if value is not None})
    return values


def _as_input(value: Any, recorded: Any) -> Any:
    """Return a value as a nested model gives it to its calls, with the implicit mask of the value.

    Keras adds or removes a last axis of size 1 where the input of the model has one more or fewer,
    and casts to the dtype of the input; no call is recorded for either.

    Args:
        value: The value that the nested model is called with.
        recorded: The symbolic argument of the call, which may be the input of the model.
    """
    from keras import KerasTensor, ops
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    if not isinstance(recorded, KerasTensor):
        return value
    result, rank = value, len(value.shape)
    if rank + 1 == len(recorded.shape) and recorded.shape[-1] == 1:
        result = ops.expand_dims(result, -1)
    elif rank == len(recorded.shape) + 1 and value.shape[-1] == 1:
        result = ops.squeeze(result, -1)
    if "int" in recorded.dtype and is_float(value):
        result = ops.cast(result, recorded.dtype)
    if result is not value:
        set_keras_mask(result, get_keras_mask(value))
    return result


def _are_close(found: Any, expected: Any, rounding: float) -> bool:
    """Return whether two tensors differ by at most `rounding` times the largest finite number."""
    import numpy as np

    arrays = as_array(found), as_array(expected)
    largest = np.abs(arrays[1], where=np.isfinite(arrays[1]), out=np.zeros_like(arrays[1])).max()
    return bool(np.allclose(*arrays, rtol=0, atol=rounding * largest, equal_nan=True))


def _shifted(value: Any, shift: Any) -> Any:
    """Return the sum of both, with the implicit mask of the value."""
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    if shift is None:
        return value
    shifted = value + shift
    set_keras_mask(shifted, get_keras_mask(value))
    return shifted


def as_array(tensor: Any) -> np.ndarray:
    """Return a tensor as a NumPy array; floats as float32, since NumPy has no bfloat16."""
    from keras import ops

    array: np.ndarray = ops.convert_to_numpy(
        ops.cast(tensor, "float32") if is_float(tensor) else tensor
    )
    return array
