"""The gradient of a function of tensors, on whatever backend Keras runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Tensors = Mapping[str, Any]
"""Name -> tensor of the backend, of floats."""


def gradient(function: Callable[[Tensors], Any], at: Tensors) -> dict[str, Any]:
    """The gradient of a scalar function of tensors with respect to each: name -> tensor.

    Where the function does not depend on one of them, its gradient is zero.
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
