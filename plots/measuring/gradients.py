"""Gradients of a loss of a model's outputs, on every backend of Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras
    import numpy as np

Tensors = Mapping[str, Any]
"""Name -> tensor of the backend, of floats."""


def is_float(tensor: Any) -> bool:
    """Return whether a tensor, symbolic or not, holds floats of any precision."""
    import keras

    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def is_half(tensor: Any) -> bool:
    """Return whether a tensor holds floats of half precision or less."""
    import keras

    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float" in dtype and dtype not in ("float32", "float64")


def as_array(tensor: Any) -> np.ndarray:
    """Return a tensor as a NumPy array; floats as float32, since NumPy has no bfloat16."""
    from keras import ops

    array: np.ndarray = ops.convert_to_numpy(
        ops.cast(tensor, "float32") if is_float(tensor) else tensor
    )
    return array


# Gradients --------------------------------------------------------------------------------------


def gradient(function: Callable[[Tensors], Any], at: Tensors) -> dict[str, Any]:
    """Return the gradient of a scalar function with respect to each of its tensors, by name.

    The gradient with respect to a tensor that the function does not depend on is zero.
    """
    import keras

    backends = {"tensorflow": _with_tensorflow, "jax": _with_jax, "torch": _with_torch}
    return backends[keras.backend.backend()](function, at)


def _with_tensorflow(function: Callable[[Tensors], Any], at: Tensors) -> dict[str, Any]:
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(list(at.values()))
        result = function(at)
    zero = tf.UnconnectedGradients.ZERO
    return dict(tape.gradient(result, dict(at), unconnected_gradients=zero))


def _with_jax(function: Callable[[Tensors], Any], at: Tensors) -> dict[str, Any]:
    import jax

    return dict(jax.grad(function)(dict(at)))


def _with_torch(function: Callable[[Tensors], Any], at: Tensors) -> dict[str, Any]:
    import torch

    leaves = {name: tensor.detach().requires_grad_() for name, tensor in at.items()}
    with torch.enable_grad():
        result = function(leaves)
    found = torch.autograd.grad(result, list(leaves.values()), materialize_grads=True)
    return dict(zip(leaves, found, strict=True))


# Losses -----------------------------------------------------------------------------------------


def loss_of_outputs(
    model: keras.Model, targets: Any, loss: Any, seed: int
) -> Callable[[list[Any]], Any]:
    """Return a function from the model's flat outputs to a number; see `plots.edge_gradients`.

    Raises:
        ValueError: if there are targets, but no loss, and the model was compiled with none; if
            there are neither targets nor a loss, and the model returns no floats.
        TypeError: if there is a loss and no targets, and it is no function.
    """
    if targets is None and loss is None:
        _check_returns_floats(model)
        return lambda outputs: _projection(outputs, seed)
    if targets is None:
        if not callable(loss):
            raise TypeError(
                f"the loss {loss!r} compares outputs with targets, and there are none: give "
                "targets, or as the loss a function of the model's outputs"
            )
        return lambda outputs: _mean(loss(_in_structure(model, outputs)))
    if loss is None:
        return _compiled_loss(model, targets)
    return lambda outputs: _against_targets(loss, targets, _in_structure(model, outputs))


def _check_returns_floats(model: keras.Model) -> None:
    if not any(is_float(tensor) for tensor in model.outputs):
        dtypes = ", ".join(dict.fromkeys(str(tensor.dtype) for tensor in model.outputs))
        raise ValueError(
            f"the model {model.name!r} returns {dtypes}, but only floats have gradients: give a "
            "model that ends where its outputs are still floats, such as at the logits"
        )


def _projection(outputs: list[Any], seed: int) -> Any:
    """Return the sum of the floats among the outputs times random numbers, in float32."""
    import numpy as np
    from keras import ops

    random = np.random.default_rng(seed)
    products = [
        ops.sum(ops.multiply(ops.cast(y, "float32"), random.standard_normal(y.shape, "float32")))
        for y in outputs
        if is_float(y)
    ]
    return sum(products[1:], start=products[0])


def _against_targets(loss: Any, targets: Any, outputs: Any) -> Any:
    import keras

    return _mean(keras.losses.get(loss)(targets, outputs))


def _compiled_loss(model: keras.Model, targets: Any) -> Callable[[list[Any]], Any]:
    if not getattr(model, "compiled", False) or not model.loss:
        raise ValueError(
            f"there are targets, but the model {model.name!r} was not compiled with a loss: give "
            "`loss`, or compile the model"
        )
    return lambda outputs: model.compute_loss(
        y=targets, y_pred=_in_structure(model, outputs), training=False
    )


def _mean(loss: Any) -> Any:
    """Return the mean of a loss, which may have a value for each example."""
    from keras import ops

    return ops.mean(ops.cast(loss, "float32"))


def _in_structure(model: keras.Model, outputs: list[Any]) -> Any:
    """Return flat outputs in the structure in which the model returns them."""
    import keras

    structure = getattr(model, "_outputs_struct", model.outputs)  # a Sequential model has none
    if isinstance(structure, list | tuple) and len(structure) == 1:
        return outputs[0]
    return keras.tree.pack_sequence_as(structure, outputs)
