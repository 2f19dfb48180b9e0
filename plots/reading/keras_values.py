"""What Keras' layers, tensors and losses are, as plain data."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from typing import Any

from plots.graph import Constant, Kind, Loss, Tensor


def is_counted(operation: Any) -> bool:
    """Whether Keras made up the name: the class in snake case and a counter, such as `add_7`."""
    stem = re.escape(snake_case(type(operation).__name__))
    return re.fullmatch(rf"{stem}(_\d+)?", operation.name) is not None


def tensor_of(tensor: Any) -> Tensor:
    """Shape and dtype of a symbolic tensor."""
    shape = () if tensor.shape is None else tensor.shape
    return Tensor(tuple(None if n is None else int(n) for n in shape), str(tensor.dtype))


def constant_of(port: str, value: Any) -> Constant:
    """An argument that is no symbolic tensor: a plain value, or what an array looks like."""
    import keras

    is_array = hasattr(value, "shape") and hasattr(value, "dtype")
    if is_array and not isinstance(value, str):  # a text of NumPy has both, too
        shape = tuple(int(n) for n in value.shape)
        dtype = keras.backend.standardize_dtype(value.dtype)
        if shape == ():
            return Constant(port, _plain(keras.ops.convert_to_numpy(value)), shape, dtype)
        array = keras.ops.convert_to_numpy(value)
        pattern = _pattern(array)
        has_digest = pattern not in ("zeros", "ones") and not _is_weight(value)
        digest = _digest(array) if has_digest else None
        return Constant(port, None, shape, dtype, pattern, digest)
    return Constant(port, _plain(value))


def _is_weight(array: Any) -> bool:
    """Whether an array is a variable of Keras or a backend, with other values after training."""
    return hasattr(array, "assign") or bool(getattr(array, "requires_grad", False))


def _pattern(array: Any) -> str:
    """What the values of an array look like; see `Constant`."""
    import numpy as np

    if array.size == 0 or array.dtype.kind not in "biuf":
        return ""
    if not array.any():
        return "zeros"
    if (array == 1).all():
        return "ones"
    if array.ndim < 2 or min(array.shape[-2:]) < 2:
        return ""
    # 0 where a query may look and a large negative number elsewhere, or True and False.
    seen = array == 0 if array.dtype.kind == "f" and array.min() < -1000 else array == 1
    if np.array_equal(seen, np.broadcast_to(np.tri(*array.shape[-2:]) == 1, array.shape)):
        return "lower triangular"
    return "sinusoids" if array.dtype.kind == "f" and _are_sinusoids(array) else ""


def _are_sinusoids(array: Any) -> bool:
    """Whether the rows of an array (.., t, d) may be sines and cosines of angles at positions."""
    import numpy as np

    values = array.astype("float64")
    # With a sine and a cosine of each angle, every row has the same length.
    lengths = np.square(values).sum(-1)
    if np.allclose(lengths, array.shape[-1] / 2, rtol=1e-3) and abs(values).max() <= 1.001:
        return array.shape[-1] % 2 == 0
    # Sines and cosines of other angles, of whatever scale, are 0 and one number at the position 0.
    first = values[..., 0, :]
    scale = first.max()
    is_start = (first == 0) | np.isclose(first, scale)
    is_mixed = scale > 0 and (first == 0).any() and is_start.all()
    # A mask, too, but that holds nothing else.
    return bool(is_mixed and abs(values).max() <= 1.001 * scale and np.unique(values).size > 2)


def _digest(array: Any) -> str | None:
    """Eight digits that tell an array from others of its shape, in every process and backend alike.

    Backends differ in the last bits of what they compute, so of floats some sums are taken, and
    rounded to four digits.
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
    for irrational in (2**0.5, 3**0.5):  # weights between -1/2 and 1/2 that never repeat
        sums.append(((steps * irrational) % 1 - 0.5) @ shares / values.size**0.5)
    rounded = [f"{largest:.4g}", *(f"{round(value, 4) + 0.0:.4f}" for value in sums)]
    return sha256(" ".join(rounded).encode()).hexdigest()[:8]


def kind_of(call: Any) -> Kind:
    """What is called."""
    import keras

    if isinstance(call.operation, keras.layers.InputLayer):
        return "input"
    if isinstance(call.operation, keras.Model | keras.Function):
        return "model"
    return "layer" if isinstance(call.operation, keras.layers.Layer) else "operation"


@cache
def base_names(operation_class: type) -> tuple[str, ...]:
    """Names of the classes below `Layer`, `Model` or `Operation` that a class derives from."""
    import keras

    roots = (keras.layers.Layer, keras.Model, keras.Operation)
    names = []
    for base in operation_class.__mro__[1:]:
        if base in roots:
            break
        names.append(base.__name__)
    return tuple(names)


def weights_of(operation: Any) -> list[Any]:
    """The variables of a layer; none of a bare operation."""
    return list(getattr(operation, "weights", ()))


def config_of(operation: Any) -> dict[str, Any]:
    """The configuration as JSON-able values, without the name, which may be a counted one."""
    import keras

    if isinstance(operation, keras.Model | keras.Function):
        return {}  # the whole inner graph: read it with open_nested instead
    try:
        config = operation.get_config()
    except Exception:  # a foreign layer's get_config may fail in any way; the picture still comes
        return {}
    return {str(key): _plain(value) for key, value in config.items() if key != "name"}


def losses_of(model: Any) -> tuple[Loss, ...]:
    """What the model was compiled to be trained on."""
    import keras

    if not getattr(model, "compiled", False) or not getattr(model, "loss", None):
        return ()
    losses = []
    for loss in _losses_in_order(model):
        try:
            known = keras.losses.get(loss)
        except ValueError:  # a name that nobody registered: training will say so
            continue
        if known is not None:
            # A function such as sparse_categorical_crossentropy has the switch as an argument.
            function = getattr(known, "fn", known)
            switch = getattr(known, "_fn_kwargs", {}).get("from_logits", _default_switch(function))
            losses.append(Loss(getattr(known, "__name__", type(known).__name__), switch))
    return tuple(losses)


def _losses_in_order(model: Any) -> list[Any]:
    """What was given to `compile` as losses, in the order of the outputs.

    A dictionary is flattened by its keys, which is the order of outputs that are one themselves.
    """
    import keras

    by_name = isinstance(model.loss, Mapping) and hasattr(model, "output_names")
    if by_name and not isinstance(model.output, Mapping):
        return [model.loss.get(name) for name in model.output_names]
    flat: list[Any] = keras.tree.flatten(model.loss)
    return flat


def _default_switch(function: Any) -> bool | None:
    try:
        parameter = inspect.signature(function).parameters.get("from_logits")
    except (TypeError, ValueError):
        return None
    return None if parameter is None else bool(parameter.default)


def _plain(value: Any) -> Any:
    """`value` as JSON-able data that is the same in every process (so never its `repr`)."""
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        return _plain(value.item())  # np.float64 is a float, too
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if value is None or isinstance(value, bool | int | float | str):
        return value
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


@cache
def snake_case(class_name: str) -> str:
    """The stem of the names that Keras counts up: "add" for Add, "layer_norm" for LayerNorm."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
