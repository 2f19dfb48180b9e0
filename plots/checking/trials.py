"""Run a model on a batch and on the same batch changed, and find which values change.

A changed batch has the shape of the first one, so that every number that does not depend on the
change is computed in the same way and is equal, bit by bit. What differs by no more than the
rounding of its own size, such as after a Fourier transform, counts as equal.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from plots.arguments import model_of
from plots.checking.dependence import Dependence, along
from plots.checking.modes import full_precision, training_mode
from plots.checking.randomness import repeatable, seeds_of
from plots.checking.samples import Field, Samples
from plots.graph import Graph
from plots.layers import DROPOUTS, RECURRENT
from plots.measuring.execution import Compute, Place, as_array, compute_call, run_calls
from plots.reading import read_calls
from plots.reading.keras_calls import RecordedCall, functional_of
from plots.reading.keras_values import weights_of
from plots.softmaxes import is_always_one
from plots.traversal import Reachability, data_flow, without_unused_weights

if TYPE_CHECKING:
    import keras
    import numpy as np

Arrays = Mapping[Place, "np.ndarray"]
"""The values of calls, as arrays."""

Change = Callable[["np.ndarray"], "np.ndarray"]

_ROUNDING = {"float16": 2 * 2**-10, "bfloat16": 2 * 2**-7}  # of dtypes with little precision
_OTHER_LENGTHS = (5, 2, 1, 67, 521)
_OUTSIDE = -1  # in the place of an id(variable): a generator outside of the model
_OF_BATCH = ("base", "values", "values_in_training", "noise", "random")
_FINE_ROUNDING = 16 * 2**-23
_ROUNDING_OF_FOURIER = 1e-4  # of transforms, which sum all positions also where some cancel


@dataclass(frozen=True)
class Trial:
    """A model, samples for it, and weights to run it with.

    Attributes:
        model: The model, which stays as it is.
        graph: Its graph, with nested models opened.
        calls: Its calls.
        samples: The batches.
        weights: (variable, value) for the trainable weights that are all zero, such as those of
            a gate that training opens. Random values stand in for them, since zeros hide
            everything that passes.
        dtypes: The dtypes of values that were computed.
        masks: The implicit masks of values, in the first run.
        assigned: id(variable) of the states that inference assigns, such as used seeds; _OUTSIDE
            if it draws from a generator outside of the model.
        mixes_samples: Whether samples see each other, so that one alone may change in a run.
        read: The graph with all functions opened, once it was asked for; the same in all trials of
            a model.
    """

    model: keras.Model
    graph: Graph
    calls: tuple[RecordedCall, ...]
    samples: Samples
    weights: tuple[tuple[Any, Any], ...]
    dtypes: dict[Place, str] = field(default_factory=dict)
    masks: dict[Place, np.ndarray] = field(default_factory=dict)
    assigned: set[int] = field(default_factory=set)
    mixes_samples: bool = False
    read: list[Graph] = field(default_factory=list)

    @staticmethod
    def of(model: Any) -> Trial:
        """Return the trial of a model.

        Raises:
            TypeError: if it has no graph.
            ValueError: if it is not built or has no weights, or its inputs are of an unknown kind.
        """
        model = model_of(model)
        graph, calls = read_calls(model, open_nested=True)
        graph = without_unused_weights(graph)
        variables = {id(v): v for call in calls for v in weights_of(call.record.operation)}
        if any(variable._value is None for variable in variables.values()):
            raise ValueError(
                f"the model {model.name!r} has no weights, only their shapes, so it cannot be "
                "checked by running it; build it with weights"
            )
        samples = Samples.of(model, graph, calls)
        trial = Trial(model, graph, calls, samples, tuple(_opened_gates(variables.values())))
        return trial._with_inputs_that_run()

    def _with_inputs_that_run(self) -> Trial:
        """Return the trial with other inputs, if the model does not take these.

        Shorter or longer ones, such as with a table of positions that no configuration tells, or
        without padding in convolutions; masks of the size of what they mask; low ids, of which
        other ids are computed; or numbers of samples.
        """
        tries: list[dict[str, Any]] = [{"is_low": True}, {"is_one": True}]
        if self.samples.is_free:
            tries = [{"length": length} for length in _OTHER_LENGTHS] + tries
            if any(len(field.shape) > 3 for field in self.samples.fields):
                tries.insert(0, {"is_even": True})
        for how in ({}, *tries):
            samples = Samples.of(self.model, self.graph, self.calls, **how) if how else self.samples
            trial = replace(self, samples=samples) if how else self
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    _ = trial.values
            except Exception:
                continue
            return trial
        return self

    def field_of(self, place: str) -> Field:
        """Return the input with an id."""
        return next(field for field in self.samples.fields if field.place == place)

    def run(
        self,
        inputs: Mapping[str, np.ndarray],
        training: bool = False,
        change: Mapping[Place, Change] | None = None,
        state: Sequence[tuple[Any, Any]] = (),
        seed: int = 0,
        in_float32: bool = False,
    ) -> dict[Place, np.ndarray]:
        """Return all values for a batch. States such as moving averages and seeds stay as they are.

        Args:
            inputs: Id of the input -> array.
            training: Whether layers behave as in training. Random numbers repeat from run to run.
            change: Values that are replaced once they are computed.
            state: (variable, value) that differ in this run.
            seed: Seed of random numbers that are not drawn from a state of the model.
            in_float32: Whether layers of half precision compute in float32.
        """
        import keras
        from keras import ops
        from keras.src.backend.common.masking import get_keras_mask

        fed = {
            (place, 0): ops.convert_to_tensor(array, dtype=self.field_of(place).dtype)
            for place, array in inputs.items()
        }
        precision = full_precision(self.calls) if in_float32 else nullcontext()
        state = [*self.weights, *state]
        scope = keras.StatelessScope(state, initialize_variables=False)
        with scope, precision, training_mode(training):
            with repeatable(seed) as draws:
                values = run_calls(
                    self.graph, self.calls, fed, {}, computing(training, change or {})
                )
            if not training:
                self.assigned.update([_OUTSIDE] * draws.any)
                self.assigned.update(scope.state_mapping.keys() - {id(v) for v, _ in state})
            for place, value in values.items():
                if (mask := get_keras_mask(value)) is not None:
                    self.masks.setdefault(place, as_array(mask))
                if not in_float32:
                    self.dtypes[place] = keras.backend.standardize_dtype(value.dtype)
            return {place: as_array(value) for place, value in values.items()}

    def at(self, samples: Samples) -> Trial:
        """Return the trial with changes of other positions in the same batches."""
        other = replace(self, samples=samples)
        if not any(field.kind == "texts" for field in samples.fields):  # their length differs
            self._share_runs(other)
        return other

    def with_mixed_samples(self) -> Trial:
        """Return the trial of a model whose samples see each other."""
        other = replace(self, mixes_samples=True)
        self._share_runs(other)
        return other

    def _share_runs(self, other: Trial) -> None:
        """Give another trial what was computed of the same batch."""
        _ = self.noise  # computed once
        vars(other).update({k: vars(self)[k] for k in _OF_BATCH if k in vars(self)})

    @cached_property
    def base(self) -> dict[str, np.ndarray]:
        """The batch that others are compared with."""
        return self.samples.base()

    @cached_property
    def values(self) -> dict[Place, np.ndarray]:
        """All values for the base batch."""
        return self.run(self.base)

    @cached_property
    def probed(self) -> dict[str, dict[Place, np.ndarray]]:
        """Input's id -> all values after a change of one position in every row but the first."""
        return {field.place: self._run_probes(field) for field in self.probed_fields}

    @cached_property
    def learns_differently(self) -> bool:
        """Whether a layer other than a dropout may compute something else in training."""
        known = frozenset({*DROPOUTS, *RECURRENT - {"RNN"}, "Bidirectional"})
        known |= {"MultiHeadAttention", "Attention", "AdditiveAttention", "GroupQueryAttention"}
        dense = ("Dense", "EinsumDense")  # for quantization; subclasses may do anything
        return any(
            getattr(layer, "_call_has_training_arg", False)
            and not self.graph.node(node_id).is_a(known)
            and self.graph.node(node_id).class_name not in dense
            for node_id, layer in self.layers.items()
        )

    @cached_property
    def values_in_training(self) -> dict[Place, np.ndarray]:
        """All values for the base batch in training mode."""
        return self.run(self.base, training=True)

    @cached_property
    def probed_in_training(self) -> dict[str, dict[Place, np.ndarray]]:
        """As `probed`, in training mode; empty if no layer differs there."""
        if not self.learns_differently:
            return {}
        return {f.place: self._run_probes(f, training=True) for f in self.probed_fields}

    @cached_property
    def probed_fields(self) -> tuple[Field, ...]:
        """The inputs whose positions are changed."""
        return tuple(filter(self.samples.is_probed, self.samples.fields))

    def _run_probes(self, field: Field, training: bool = False) -> dict[Place, np.ndarray]:
        """Return all values after a change of one position in every row but the first."""
        where = [*enumerate(self.samples.probes, start=self.samples.first)]
        if not self.mixes_samples:
            return self.run(self.samples.changed(self.base, field.place, where), training)
        before = self.values_in_training if training else self.values
        found = {place: array.copy() for place, array in before.items()}
        for row, position in where:
            alone = self.samples.changed(self.base, field.place, [(row, position)])
            for place, array in self.run(alone, training).items():
                own, new = self.rows_first(found[place]), self.rows_first(array)
                if own is not None and new is not None:
                    own[row] = new[row]  # of the copy, of which `own` is a view
        return found

    def as_model_takes(self, inputs: Mapping[str, np.ndarray]) -> Any:
        """Return inputs by id in the structure with which the model is called."""
        import keras

        flat = [inputs[place] for place in self.graph.inputs]
        structure = getattr(functional_of(self.model), "_inputs_struct", flat)
        if isinstance(structure, list | tuple) and len(structure) == 1:
            return flat[0]
        return keras.tree.pack_sequence_as(structure, flat)

    @cached_property
    def layers(self) -> dict[str, Any]:
        """Id of a call in the graph -> its layer or operation."""
        found = {call.results[0][0]: call.record.operation for call in self.calls if call.results}
        return {node_id: layer for node_id, layer in found.items() if node_id in self.graph.index}

    @property
    def is_batch_fixed(self) -> bool:
        """Whether the model takes batches of one size only."""
        return any(tensor.shape[0] is not None for tensor in self.model.inputs)

    @cached_property
    def noise(self) -> dict[Place, float]:
        """Largest difference between two runs of the base batch, where there is any."""
        again = self.run(self.base)
        noise = {place: _largest(self.values[place], again[place]) for place in self.values}
        return {place: size for place, size in noise.items() if size}

    @cached_property
    def trainable(self) -> tuple[Any, ...]:
        """The trainable weights of floats."""
        import keras

        variables = {id(v): v for call in self.calls for v in weights_of(call.record.operation)}
        return tuple(
            v
            for v in variables.values()
            if v.trainable and "float" in keras.backend.standardize_dtype(v.dtype)
        )

    @cached_property
    def own_weights(self) -> Trial:
        """The same with the weights of the model, those that are all zero too."""
        return replace(self, weights=())

    @cached_property
    def random(self) -> frozenset[Place]:
        """The values that other seeds change, in inference."""
        _ = self.values
        seeds = [seed for seed in seeds_of(self.calls) if id(seed) in self.assigned]
        if not seeds and _OUTSIDE not in self.assigned:
            return frozenset(self.noise)
        state = [(seed, as_array(seed.value) + 17) for seed in seeds]
        other = self.run(self.base, state=state, seed=17)
        changed = {p for p in self.values if _largest(self.values[p], other[p])}
        return frozenset({*changed, *self.noise})

    @property
    def has_numbers(self) -> bool:
        """Whether the outputs hold no NaN, so that they can be compared."""
        import numpy as np

        outputs = [self.values[place] for place in self.graph.outputs]
        return not any(a.dtype.kind == "f" and np.isnan(a).any() for a in outputs)

    def moved(self, place: Place, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        """Return where a value has changed, as booleans."""
        import numpy as np

        if before.shape != after.shape or before.dtype.kind not in "fc":
            same = before.shape == after.shape
            return np.asarray(before != after) if same else np.ones(before.shape, bool)
        different = (before != after) & ~(np.isnan(before) & np.isnan(after))
        if not different.any():
            return different
        dtype = self.dtypes.get(place, "float32")
        sizes = np.abs(before[np.isfinite(before) & (before != 0)])
        scale = float(np.median(sizes)) if sizes.size else 0.0
        fine = _ROUNDING_OF_FOURIER if self.takes_spectra else _FINE_ROUNDING
        limit = scale * _ROUNDING.get(dtype, fine) + 4 * self.noise.get(place, 0.0)
        with np.errstate(invalid="ignore", over="ignore"):
            return np.asarray(different & ~(np.abs(after - before) <= limit))

    def dependence(self, place: Place, before: np.ndarray, after: np.ndarray) -> Dependence:
        """Return how a value depends on the probed positions of an input."""
        import numpy as np

        moved = self.rows_first(self.moved(place, before, after))
        probes = self.samples.probes
        if moved is None:
            return Dependence(np.zeros(len(probes), bool), (), None)
        own = moved[self.samples.first :][: len(probes)]
        axes = [axis for axis in range(1, own.ndim) if own.shape[axis] == self.samples.length]
        matrices = tuple(along(own, axis) for axis in axes)
        return Dependence(np.asarray(own.reshape(len(own), -1).any(axis=1)), matrices, own)

    def rows_first(self, array: np.ndarray) -> np.ndarray | None:
        """Return an array with the batch as its first axis; None if no axis can be the batch."""
        import numpy as np

        batch = self.samples.batch
        if array.ndim and array.shape[0] == batch:
            return array
        if batch in array.shape:
            return np.moveaxis(array, array.shape.index(batch), 0)
        if array.ndim and array.size and array.shape[0] % batch == 0:
            return array.reshape(batch, array.shape[0] // batch, *array.shape[1:])
        return None

    @cached_property
    def takes_spectra(self) -> bool:
        """Whether the model computes Fourier transforms, also inside of functions."""
        return any("fft" in node.class_name.lower() for node in self.opened.nodes)

    @cached_property
    def flow(self) -> Reachability:
        """The flow of data, without implicit masks and shapes."""
        return data_flow(self.graph)

    @property
    def opened(self) -> Graph:
        """The graph with the calls inside of functions, such as `Lambda`, and of own layers."""
        if not self.read:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # layers warn again of what they did when built
                self.read.append(read_calls(self.model, open_nested=True, open_functions=True)[0])
        return self.read[0]

    def first_crossings(self, is_wrong: Callable[[Place], bool | None]) -> list[str]:
        """Return the calls at which something first goes wrong on a way to a wrong output.

        Args:
            is_wrong: Whether it is wrong in a value; None where nothing can be said, so that it is
                what it is in the sources.
        """
        wrong: dict[str, bool] = {}
        for node in self.graph.nodes:
            places = [(node.id, k) for k in range(len(node.outputs)) if (node.id, k) in self.values]
            verdicts = [is_wrong(place) for place in places]
            told = [verdict for verdict in verdicts if verdict is not None]
            before = self.flow.sources[node.id]
            wrong[node.id] = any(told) if told else any(wrong[source] for source in before)
        waiting = [i for i, _ in self.graph.outputs if wrong[i]]
        seen, found = set(waiting), []
        while waiting:
            node_id = waiting.pop()
            sources = [i for i in dict.fromkeys(self.flow.sources[node_id]) if wrong[i]]
            if not sources:
                found.append(node_id)
            waiting += [i for i in sources if i not in seen]
            seen.update(sources)
        return sorted(found, key=self.graph.index.__getitem__)


def computing(training: bool, change: Mapping[Place, Change]) -> Compute:
    """Return a function that computes a call in a mode, and replaces some values after it.

    Dropouts are always in inference: their noise would look like a dependence where it is drawn for
    rows in an order that depends on values, as in a mixture of experts.

    Keras records that a dropout was called with training=False, which would count for all layers
    after it.
    """
    import keras
    from keras import ops
    from keras.src.backend.common.masking import get_keras_mask, set_keras_mask

    def compute(graph: Graph, call: RecordedCall, args: list[Any], kwargs: Any) -> Any:
        ids = [node_id for node_id, _ in call.results[:1] if node_id in graph.index]
        is_noise = any(graph.node(node_id).is_a(DROPOUTS) for node_id in ids)
        mode = training and not is_noise
        # As `model(inputs, training=training)`: it replaces what a layer was called with.
        if getattr(call.record.operation, "_call_has_training_arg", False):
            kwargs = {**kwargs, "training": mode}
        with training_mode(mode) if is_noise else nullcontext():
            outputs = compute_call(graph, call, args, kwargs)
        nodes = [graph.node(node_id) for node_id in ids]
        if any(is_always_one(n) and not n.call_class and len(n.outputs) == 1 for n in nodes):
            # Some processors divide by the sum approximately, so that it is 0.99999994, and its
            # gradient not zero. This keeps NaN.
            mask = get_keras_mask(outputs)
            outputs = outputs * 0 + 1
            set_keras_mask(outputs, mask)
        if change.keys().isdisjoint(call.results):
            return outputs
        flat = keras.tree.flatten(outputs)
        found = call.results_of(outputs)
        for k, value in enumerate(flat):
            numbers = [n for n, other in enumerate(found) if other is value]
            place = call.results[numbers[0]] if numbers else None
            if place is not None and place in change:
                new = ops.convert_to_tensor(change[place](as_array(value)), dtype=value.dtype)
                set_keras_mask(new, get_keras_mask(value))
                flat[k] = new
        return keras.tree.pack_sequence_as(outputs, flat)

    return compute


def _opened_gates(variables: Iterable[Any]) -> Iterable[tuple[Any, Any]]:
    import keras
    import numpy as np

    random = np.random.default_rng(0)
    for variable in variables:
        dtype = keras.backend.standardize_dtype(variable.dtype)
        if variable.trainable and "float" in dtype:
            array = as_array(variable.value)
            if array.size and not array.flat[0] and not array.any():
                values = 0.1 * random.standard_normal(array.shape)
                yield variable, keras.ops.convert_to_tensor(values, dtype=dtype)


def _largest(before: np.ndarray, after: np.ndarray) -> float:
    import numpy as np

    if before.dtype.kind not in "fc" or np.array_equal(before, after, equal_nan=True):
        return 0.0
    with np.errstate(invalid="ignore"):
        return float(np.nan_to_num(np.abs(after - before), posinf=0.0).max(initial=0.0))
