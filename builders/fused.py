"""Chains of elementwise operations as one compiled kernel, for the training step on TensorFlow.

TensorFlow computes an activation or a softmax as a chain of operations, and each of them reads and
writes an array as large as the batch. Compiled by XLA, the chain reads and writes once. Matrix
products stay outside, because TensorFlow's own are faster on CPUs. JAX compiles the whole step
anyway, and PyTorch has its own kernels, so nothing changes on these backends.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import keras
from keras import ops

Tensor = Any

_IS_ENABLED: ContextVar[bool] = ContextVar("fused_kernels", default=False)


@contextlib.contextmanager
def fused_kernels(enabled: bool = True) -> Iterator[None]:
    """Use the compiled kernels of `fused` functions within this scope.

    They are opt-in because each new shape is compiled once, which takes tenths of a second, and
    because compiled kernels cannot be exported to every format.
    """
    token = _IS_ENABLED.set(enabled)
    try:
        yield
    finally:
        _IS_ENABLED.reset(token)


def is_fusing() -> bool:
    """Return whether `fused` functions run as compiled kernels here."""
    return _IS_ENABLED.get() and keras.backend.backend() == "tensorflow"


def fused(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Make a function of tensors run as one kernel within the scope of `fused_kernels`.

    Values and gradients are the same to rounding: the kernel computes in float32 and rounds its
    result to the type of the first argument. For the gradient it keeps the arguments only, and
    computes the function again.

    Args:
        function: of tensors, or `None`; returns one tensor. Only arguments of floating types have
            a gradient.
    """

    @functools.wraps(function)
    def run(*arrays: Tensor) -> Tensor:
        is_symbolic = any(isinstance(array, keras.KerasTensor) for array in arrays)
        chosen = _compiled(function) if is_fusing() and not is_symbolic else function
        return chosen(*arrays)

    return run


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Like `fused`, but as it is: in the types of its arguments, several results, no gradient."""

    @functools.wraps(function)
    def run(*arrays: Any) -> Any:
        return _kernel(function)(*arrays) if is_fusing() else function(*arrays)

    return run


@functools.cache
def _kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    import tensorflow as tf

    return tf.function(function, jit_compile=True, autograph=False)


def detached(x: Tensor) -> Tensor:
    """Return a floating tensor without its history: no gradient is computed for its uses.

    TensorFlow's `stop_gradient` still lets a tape record the operations that follow, and a
    recorded function stores its intermediate results. Tapes do not follow integers.
    """
    if keras.backend.backend() != "tensorflow":
        return ops.stop_gradient(x)
    import tensorflow as tf

    return tf.bitcast(tf.bitcast(x, {2: "int16", 4: "int32", 8: "int64"}[x.dtype.size]), x.dtype)


@functools.cache
def _compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the function as two compiled kernels: its values, and its gradient."""
    import tensorflow as tf

    def is_float(x: Tensor) -> bool:
        return x is not None and x.dtype.is_floating

    def in_float32(*arrays: Tensor) -> Tensor:
        wide = (tf.cast(x, "float32") if is_float(x) else x for x in arrays)
        return tf.cast(function(*wide), arrays[0].dtype)

    forward = tf.function(in_float32, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(arrays: list[Tensor], upstream: Tensor) -> list[Tensor]:
        floats = [x for x in arrays if is_float(x)]
        with tf.GradientTape() as tape:
            tape.watch(floats)
            result = in_float32(*arrays)
        return tape.gradient(result, floats, upstream, unconnected_gradients="zero")

    def run(*arrays: Tensor) -> Tensor:
        arrays = tuple(x if x is None else tf.convert_to_tensor(x) for x in arrays)

        @tf.custom_gradient
        def differentiable(*floats: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
            left = iter(floats)
            merged = [next(left) if is_float(x) else x for x in arrays]
            result = forward(*(detached(x) if is_float(x) else x for x in merged))
            return result, lambda upstream: backward(merged, upstream)

        return differentiable(*(x for x in arrays if is_float(x)))

    return run
