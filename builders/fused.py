"""Activations as one compiled kernel, for the training step on TensorFlow.

TensorFlow computes an activation as a chain of operations, and each of them reads and writes an
array as large as the batch. Compiled by XLA, the chain reads and writes once. Matrix products stay
outside, because TensorFlow's own are faster on CPUs. JAX compiles the whole step anyway, and
PyTorch has its own kernels, so nothing changes on these backends.
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


def fused(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Make an activation run as one kernel within the scope of `fused_kernels`.

    Values and gradients are the same to rounding: the kernel computes in float32 and rounds its
    result to the type of x. For the gradient it keeps x only, and computes the function again.
    """

    @functools.wraps(function)
    def run(x: Tensor) -> Tensor:
        if is_fusing() and not isinstance(x, keras.KerasTensor):
            return _with_gradient(function)(x)
        return function(x)

    return run


def kernel(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a function of arrays run as one kernel within the scope, without a gradient."""

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
def _with_gradient(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return the function as two compiled kernels: its values, and its gradient."""
    import tensorflow as tf

    def in_float32(x: Tensor) -> Tensor:
        return tf.cast(function(tf.cast(x, "float32")), x.dtype)

    forward = tf.function(in_float32, jit_compile=True, autograph=False)

    @tf.function(jit_compile=True, autograph=False)
    def backward(x: Tensor, upstream: Tensor) -> Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = in_float32(x)
        return tape.gradient(y, x, upstream)

    @tf.custom_gradient
    def run(x: Tensor) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        return forward(detached(x)), lambda upstream: backward(x, upstream)

    return run
