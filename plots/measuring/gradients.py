"""Gradients of functions of tensors on every backend, and the loss of a model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import keras

Tensors = Mapping[str, Any]
"""Name -> tensor of the backend, of floats."""


def gradient(function: Callable[[Tensors], Any], at: Tensors) -> dict[str, Any]:
    """Return the gradient of a scalar function with respect to each of its tensors, by name.

    The gradient with respect to a tensor that the function does not depend on is zero.
    """
    import keras

    if keras.backend.backend() == "jax":
        import jax

        return dict(jax.grad(function)(dict(at)))
    if keras.backend.backend() == "torch":
        import torch

        leaves = {name: tensor.detach().requires_grad_() for name, tensor in at.items()}
        with torch.enable_grad():
            result = function(leaves)
        found = torch.autograd.grad(result, list(leaves.values()), materialize_grads=True)
        return dict(zip(leaves, found, strict=True))
    import tensorflow as tf

    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(list(at.values()))
        result = function(at)
    zero = tf.UnconnectedGradients.ZERO
    return dict(tape.gradient(result, dict(at), unconnected_gradients=zero))


def loss_of_outputs(
    model: keras.Model, targets: Any, loss: Any, seed: int
) -> Callable[[list[Any]], Any]:
    """Return a function from the model's flat outputs to a number; see `plots.edge_gradients`.

    Raises:
        ValueError: if there are targets, but no loss, and the model was compiled with none; if
            there are neither targets nor a loss, and the model returns no floats.
        TypeError: if there is a loss and no targets, and it is not a function.
    """
    import keras
    from keras import ops

    def mean(values: Any) -> Any:  # of a loss that may have a value for each example
        return ops.mean(ops.cast(values, "float32"))

    if targets is None and loss is None:
        if not any(is_float(tensor) for tensor in model.outputs):
            dtypes = ", ".join(dict.fromkeys(str(tensor.dtype) for tensor in model.outputs))
            raise ValueError(
                f"the model {model.name!r} returns {dtypes}, but only floats have gradients: give "
                "a model that ends where its outputs are still floats, such as at the logits"
            )
        return lambda outputs: _projection(outputs, seed)
    if targets is None:
        if not callable(loss):
            raise TypeError(
                f"the loss {loss!r} compares outputs with targets, and there are none: give "
                "targets, or a loss that is a function of the model's outputs"
            )
        return lambda outputs: mean(loss(_in_structure(model, outputs)))
    if loss is not None:
        return lambda outputs: mean(keras.losses.get(loss)(targets, _in_structure(model, outputs)))
    if not getattr(model, "compiled", False) or not model.loss:
        raise ValueError(
            f"there are targets, but the model {model.name!r} was not compiled with a loss: give "
            "`loss`, or compile the model"
        )
    return lambda outputs: model.compute_loss(
        y=targets, y_pred=_in_structure(model, outputs), training=False
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


def _in_structure(model: keras.Model, outputs: list[Any]) -> Any:
    """Return flat outputs in the structure in which the model returns them."""
    import keras

    structure = getattr(model, "_outputs_struct", model.outputs)  # a Sequential model has none
    if isinstance(structure, list | tuple) and len(structure) == 1:
        return outputs[0]
    return keras.tree.pack_sequence_as(structure, outputs)


def is_float(tensor: Any) -> bool:
    """Return whether a tensor, symbolic or not, holds floats of any precision."""
    import keras

    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def as_dense(gradient: Any) -> Any:
    """Return a gradient as a tensor; TensorFlow gives that of a lookup by the rows of the table."""
    import keras

    if keras.backend.backend() != "tensorflow":
        return gradient
    import tensorflow as tf

    return tf.convert_to_tensor(gradient)
