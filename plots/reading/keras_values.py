"""Keras layers, their declarations and weights, tensors and losses as plain data."""

from __future__ import annotations

import inspect
import math
import re
import warnings
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from hashlib import sha256
from itertools import chain, takewhile
from typing import Any

from plots.annotations import Declaration
from plots.declarations import check_shapes, parse_declaration
from plots.graph import Constant, Kind, Loss, Shape, Tensor, bytes_of
from plots.reading.arrays import description_of
from plots.reading.ids import is_auto_named, snake_case
from plots.reading.keras_calls import parameter_names
from plots.shape_values import TRIANGLES


def kind_of(call: Any) -> Kind:
    """Return the kind of the called object."""
    import keras

    if isinstance(call.operation, keras.layers.InputLayer):
        return "input"
    if isinstance(call.operation, keras.Model | keras.Function):
        return "model"
    return "layer" if isinstance(call.operation, keras.layers.Layer) else "operation"


@cache
def base_names(operation_class: type) -> tuple[str, ...]:
    """Return the names of a class's bases, down to `Layer`, `Model` or `Operation`."""
    import keras

    roots = (keras.layers.Layer, keras.Model, keras.Operation)
    bases = takewhile(lambda base: base not in roots, operation_class.__mro__[1:])
    return tuple(base.__name__ for base in bases)


def call_class(operation_class: type) -> str:
    """Return the name of the class that defines `call`; "" if it is one of Keras or KerasHub."""
    return _call_class(operation_class)


@cache
def _call_class(operation_class: type) -> str:
    owner = next((c for c in operation_class.__mro__ if "call" in vars(c)), operation_class)
    return "" if owner.__module__.startswith(("keras.", "keras_hub.")) else owner.__name__


def config_of(operation: Any) -> dict[str, Any]:
    """Return the configuration as JSON-serialisable values, without the name."""
    import keras

    if isinstance(operation, keras.Model | keras.Function):
        return {}  # it would be the whole inner graph: read that with open_nested instead
    try:
        config = operation.get_config()
    except Exception:  # user code; the model can be drawn without it
        config = _arguments_kept(operation)
    return {str(key): _plain(value) for key, value in config.items() if key != "name"}


def _arguments_kept(operation: Any) -> dict[str, Any]:
    """Return the arguments of the constructor that a layer keeps in attributes of the same name.

    Many layers have no `get_config`, or one that fails.
    """
    names = inspect.signature(type(operation).__init__).parameters
    values = {name: getattr(operation, name, None) for name in names}
    return {
        name: value
        for name, value in values.items()
        if isinstance(value, bool | int | float | str | list | tuple)
        or callable(value)
        or (hasattr(value, "shape") and hasattr(value, "dtype"))
    }


def read_declaration(
    operation: Any, ports: Collection[str], inputs: Mapping[str, Shape], outputs: Sequence[Shape]
) -> Declaration | None:
    """Return the declaration of a layer about one of its calls, or None.

    A malformed declaration, or one that does not fit the tensors, is ignored with a warning.
    `ports` are all arguments of the call, flattened; `inputs` has the shapes of those that are
    tensors.
    """
    try:
        given = operation.graph_declaration if describes_call(operation) else None
        if given is None:
            return None
        names = parameter_names(operation.__class__)
        by_name = [[p for p in ports if p.partition(".")[0] == name] or [name] for name in names]
        variadic = [port for port in ports if port.partition(".")[0].isdigit()]  # those behind `*`
        declaration = parse_declaration(given, [*chain(*by_name), *variadic])
        check_shapes(declaration, inputs, outputs)
    except Exception as error:  # a property may raise anything
        reason = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        what = f"graph_declaration of {type(operation).__name__} {operation.name!r}"
        warnings.warn(f"{what} is ignored: {reason}", stacklevel=2)
        return None
    return declaration


def declared_role(operation: Any) -> str:
    """Return the role that a layer declares, or "" if it declares none."""
    try:
        given = operation.graph_declaration if describes_call(operation) else None
        return str(given["role"]) if given else ""
    except Exception:  # a property may raise anything; `read_declaration` warns
        return ""


def describes_call(operation: Any) -> bool:
    """Whether an operation has a declaration, and no class below overrides `call`."""
    if "graph_declaration" in vars(operation):
        return True
    for base in type(operation).__mro__:
        if "graph_declaration" in vars(base):
            return True
        if "call" in vars(base):
            return False
    return False


class WeightCounter:
    """Counts every weight once, at the first layer that has it."""

    def __init__(self) -> None:
        self._counted: set[int] = set()  # id(variable)
        self._sizes: dict[int, dict[str, Any]] = {}  # by id(operation)

    def sizes_of(self, operation: Any, given: Sequence[Any] = ()) -> dict[str, Any]:
        """Return the size of a layer's weights as fields of a `Node`, equal for all its calls.

        `given` are weights of the layer around it that are arguments of the call.
        """
        if id(operation) not in self._sizes:
            inside = weights_of(operation)
            weights = {id(variable): variable for variable in [*inside, *given]}
            own = {key: variable for key, variable in weights.items() if key not in self._counted}
            trained = (
                {id(v) for v in inside if v.trainable} if inside and operation.trainable else set()
            )
            trained |= {id(variable) for variable in given if variable.trainable}
            self._counted.update(own)
            shared = (weight for key, weight in weights.items() if key not in own)
            self._sizes[id(operation)] = {
                **_sizes(own, trained),
                "shared_parameters": sum(math.prod(weight.shape) for weight in shared),
            }
        return self._sizes[id(operation)]

    def count_rest(self, operation: Any) -> tuple[list[Any], dict[str, Any]]:
        """Return the weights of a layer that were not counted yet, and their size, and count them.

        The size has the form of `sizes_of`.
        """
        weights = {id(weight): weight for weight in weights_of(operation)}
        rest = {key: weight for key, weight in weights.items() if key not in self._counted}
        self._counted.update(rest)
        trained = {id(weight) for weight in operation.trainable_weights} if rest else set()
        return list(rest.values()), _sizes(rest, trained)


def _sizes(weights: Mapping[int, Any], trained: Collection[int]) -> dict[str, Any]:
    """Return the size of some weights; `trained` has the ids of trainable ones."""
    numbers = {key: math.prod(weight.shape) for key, weight in weights.items()}
    return {
        "parameters": sum(numbers.values()),
        "trainable_parameters": sum(numbers[key] for key in numbers if key in trained),
        "weight_bytes": sum(numbers[key] * bytes_of(weights[key].dtype) for key in numbers),
    }


_SAME_FEATURE = 0.05  # largest difference of two features of one frequency
_GENERATED = re.compile(r"\b(variable|keras_tensor)_\d+\b")


def without_generated_numbers(text: str) -> str:
    """Return a text with the names that Keras generates for tensors and weights without numbers."""
    return _GENERATED.sub(r"\1", text)


def without_generated_names(text: str, layer: Any) -> str:
    """Return a text without the numbers that depend on what else the process has built."""
    for part in layer._flatten_layers():
        if is_auto_named(part):
            text = re.sub(rf"\b{re.escape(part.name)}\b", snake_case(type(part).__name__), text)
    return without_generated_numbers(text)


def weights_of(operation: Any) -> list[Any]:
    """Return the variables of a layer; an operation has none."""
    return list(getattr(operation, "weights", ()))


def is_weight(value: Any) -> bool:
    """Return whether a value is a variable of Keras."""
    import keras

    return isinstance(value, keras.Variable)


def tensor_of(tensor: Any) -> Tensor:
    """Return shape and dtype of a symbolic tensor."""
    shape = () if tensor.shape is None else tensor.shape
    return Tensor(tuple(None if n is None else int(n) for n in shape), str(tensor.dtype))


def constant_of(port: str, value: Any) -> Constant:
    """Return an argument that is not symbolic: a plain value, or a description of an array."""
    import keras

    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if not is_array or isinstance(value, str):  # a NumPy string has both attributes
        return Constant(port, _plain(value))
    shape = tuple(int(n) for n in value.shape)
    dtype = keras.backend.standardize_dtype(value.dtype)
    # Training changes variables of Keras and its backend, and those of an abstract model have no
    # values until someone asks for them.
    is_weight = hasattr(value, "assign") or getattr(value, "requires_grad", False)
    if is_weight and shape != ():
        return Constant(port, None, shape, dtype, "", None)
    array = keras.ops.convert_to_numpy(value)
    if shape == ():
        return Constant(port, _plain(array), shape, dtype)
    pattern = _pattern(array)
    digest = None if pattern in ("zeros", "ones") else _digest(array)
    return Constant(port, None, shape, dtype, pattern, digest)


def _pattern(array: Any) -> str:
    """Return the pattern of an array's values, see `Constant`."""
    import numpy as np

    if array.size == 0 or array.dtype.kind not in "biuf":
        return ""
    if not array.any():
        return "zeros"
    if (array == 1).all():
        return "ones"
    if array.size == max(array.shape) and (array.ravel() == np.arange(array.size)).all():
        return "counting"
    if array.ndim < 2 or min(array.shape[-2:]) < 2:
        return ""
    # Additive masks hold 0 at visible positions and a large negative number elsewhere.
    is_added = array.dtype.kind == "f" and array.min() < -1000
    seen = array == 0 if is_added else array == 1
    for pattern, triangle in TRIANGLES.items():
        shown = np.broadcast_to(triangle.seen(*array.shape[-2:]), array.shape)
        if triangle.is_added == is_added and np.array_equal(seen, shown):
            return pattern
    if array.dtype.kind == "f" and not is_added and _depends_on_distance(array):
        return "biases by distance"
    if array.dtype.kind == "f" and (array == array[..., :1, :]).all():
        return "equal rows"
    if array.dtype.kind != "f" or not _are_sinusoids(array):
        return ""
    return "sinusoids of one frequency" if _is_of_one_frequency(array) else "sinusoids"


def _is_of_one_frequency(array: Any) -> bool:
    """Return whether the features (.., t, d) that vary are one sine and one cosine, up to rounding.

    The others, of the frequency 0, are constant.
    """
    import numpy as np

    features = array.reshape(-1, array.shape[-1]).T
    varying = features[np.ptp(features, axis=1) > _SAME_FEATURE]
    different: list[Any] = []
    for feature in varying:
        if all(np.abs(feature - other).max() > _SAME_FEATURE for other in different):
            different.append(feature)
        if len(different) > 2:
            return False
    squares = sum(np.square(feature) for feature in different)
    is_pair = len(different) < 2 or float(np.ptp(squares)) < _SAME_FEATURE
    return is_pair and len(varying) > len(different)


def _depends_on_distance(array: Any) -> bool:
    """Return whether numbers (.., t, t) differ by the distance of two positions, as in ALiBi."""
    import numpy as np

    length = array.shape[-1]
    if array.shape[-2] != length or length < 4 or np.unique(array).size < 4:
        return False
    return bool((array[..., 1:, 1:] == array[..., :-1, :-1]).all())


def _are_sinusoids(array: Any) -> bool:
    """Return whether rows of an array (.., t, d) may be sines and cosines of position angles."""
    import numpy as np

    values = array.astype("float64")
    # With a sine and a cosine of each angle, all rows have the same norm.
    squared_norms = np.square(values).sum(-1)
    if np.allclose(squared_norms, array.shape[-1] / 2, rtol=1e-3) and abs(values).max() <= 1.001:
        return array.shape[-1] % 2 == 0
    # Sines and cosines of unpaired angles, at any scale, are 0 or that scale at position 0.
    first = values[..., 0, :]
    scale = first.max()
    is_start = (first == 0) | np.isclose(first, scale)
    is_mixed = scale > 0 and (first == 0).any() and is_start.all()
    # A mask matches so far, but has two values only.
    return bool(is_mixed and abs(values).max() <= 1.001 * scale and np.unique(values).size > 2)


def _digest(array: Any) -> str | None:
    """Return a hash of eight digits that is the same in every process and on every backend.

    Backends differ in the last bits of floats, so the hash is of some weighted sums, rounded to
    four digits.
    """
    import numpy as np

    if array.dtype.kind in "biu":
        return sha256(array.astype("<i8").tobytes()).hexdigest()[:8]
    if "float" not in str(array.dtype) or not array.size:
        return None
    values = np.nan_to_num(array.astype("float64").ravel(), posinf=1e30, neginf=-1e30)
    largest = abs(values).max()
    shares = values / (largest or 1)
    steps = np.arange(1, values.size + 1)
    sums = [np.square(shares).mean() ** 0.5]
    for irrational in (2**0.5, 3**0.5):  # aperiodic weights between -1/2 and 1/2
        sums.append(((steps * irrational) % 1 - 0.5) @ shares / values.size**0.5)
    rounded = [f"{largest:.4g}", *(f"{round(value, 4) + 0.0:.4f}" for value in sums)]
    return sha256(" ".join(rounded).encode()).hexdigest()[:8]


_AS_THEY_ARE = frozenset({bool, int, str, type(None)})


def _plain(value: Any) -> Any:
    """Return `value` as JSON-serialisable data, the same in every process (so never a `repr`)."""
    if type(value) in _AS_THEY_ARE:
        return value
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _plain(value.item())  # first, because np.float64 is a float
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if (described := description_of(value)) is not None:
        return _plain(described) if isinstance(described, list) else described
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, set | frozenset):
        return sorted((_plain(item) for item in value), key=str)
    if isinstance(value, slice):
        parts = ["" if part is None else str(_plain(part)) for part in (value.start, value.stop)]
        return ":".join(parts) + ("" if value.step is None else f":{value.step}")
    if value is Ellipsis:
        return "..."
    return getattr(value, "__name__", type(value).__name__)


def losses_of(model: Any) -> tuple[Loss | None, ...]:
    """Return the loss of each output that the model is compiled with, None for outputs without one.

    The tuple is empty if there is no loss.
    """
    import keras

    if not getattr(model, "compiled", False) or not getattr(model, "loss", None):
        return ()
    paths = [path for path, _ in keras.tree.flatten_with_path(model.output)]
    names = getattr(model, "output_names", ())
    names = names if len(names) == len(paths) else [None] * len(paths)
    found = [_loss_at(model.loss, path, name) for path, name in zip(paths, names, strict=True)]
    if isinstance(model.loss, list | tuple) and len(model.loss) == len(paths):
        found = list(model.loss)  # by keys, where the outputs are a dictionary
    losses = tuple(map(_loss, found))
    return losses if any(losses) else ()


def _loss_at(given: Any, path: Sequence[Any], name: str | None) -> Any:
    """Return the loss of the output at `path` of the outputs.

    The given losses are one for all outputs, or nested as the outputs are; a dictionary may also
    have the names of the outputs.
    """
    if isinstance(given, Mapping) and not (path and path[0] in given):
        return given.get(name)
    for key in path:
        if isinstance(given, Mapping):
            given = given.get(key)
        elif isinstance(given, list | tuple):
            given = given[key] if isinstance(key, int) and key < len(given) else None
    only = given[0] if isinstance(given, list | tuple) and len(given) == 1 else given
    return None if isinstance(only, list | tuple | Mapping) else only


def _loss(given: Any) -> Loss | None:
    import keras

    try:
        known = keras.losses.get(given)
    except (TypeError, ValueError):  # an unregistered name, which training reports
        return None
    if known is None:
        return None
    # These are parameters of functions such as sparse_categorical_crossentropy.
    function, set_ = getattr(known, "fn", known), getattr(known, "_fn_kwargs", {})
    from_logits, axis = (
        set_.get(name, _default_of(function, name)) for name in ("from_logits", "axis")
    )
    return Loss(
        getattr(known, "__name__", type(known).__name__),
        None if from_logits is None else bool(from_logits),
        axis if isinstance(axis, int) else None,
    )


def _default_of(function: Any, name: str) -> Any:
    """Return the default of a parameter of a function; None if it has no such parameter."""
    try:
        parameter = inspect.signature(function).parameters.get(name)
    except (TypeError, ValueError):
        return None
    return None if parameter is None or parameter.default is parameter.empty else parameter.default
