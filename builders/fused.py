"""Activations, norms and attention weights as compiled kernels, for training on TensorFlow.

TensorFlow computes each of them as a chain of operations, which read and write arrays as large as
the batch. Compiled by XLA, the chain reads and writes once. Matrix products stay outside, because
TensorFlow's own are faster on CPUs. JAX compiles the whole step anyway, and PyTorch has its own
kernels, so nothing changes on these backends.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
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


def fused_norm(x: Tensor, weights: Sequence[Any], epsilon: float, *, centred: bool) -> Tensor:
    """Return n * gain + bias, n = x / sqrt(mean(x^2) + epsilon), over the last axis, in kernels.

    For the gradient it keeps x and the gain, and computes n again.

    Args:
        x: (..., d).
        weights: the gain and the bias, the gain or nothing, (d,).
        epsilon: added to the variance.
        centred: whether to subtract the mean of x first.
    """
    import tensorflow as tf

    return _norm(epsilon, centred)(x, *map(tf.convert_to_tensor, weights))


def _sum(x: Tensor) -> Tensor:
    """Return the sum over the last axis, float32 (..., 1), in a kernel.

    On CPUs as a product, which takes half the time of XLA's own sums. GPUs may round factors.
    """
    import tensorflow as tf

    if tf.config.get_visible_devices("GPU"):
        return tf.reduce_sum(x, axis=-1, keepdims=True)
    *rest, size = tf.unstack(tf.shape(x))
    sums = tf.matmul(tf.reshape(x, (-1, size)), tf.ones((size, 1)))
    return tf.reshape(sums, (*rest, 1))


@functools.cache
def _norm(epsilon: float, centred: bool) -> Callable[..., Tensor]:
    import tensorflow as tf

    def mean(x: Tensor) -> Tensor:
        return _sum(x) / x.shape[-1]

    def normalized(x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x without mean and of unit variance, and what it was multiplied by."""
        x = tf.cast(x, "float32")
        if centred:
            x = x - mean(x)
        factor = tf.math.rsqrt(mean(x * x) + epsilon)
        return x * factor, factor

    @tf.function(jit_compile=True, autograph=False)
    def forward(x: Tensor, *weights: Tensor) -> Tensor:
        y = normalized(x)[0]
        gain, bias = (*(tf.cast(weight, "float32") for weight in weights), None, None)[:2]
        y = y if gain is None else y * gain
        return tf.cast(y if bias is None else y + bias, x.dtype)

    @tf.function(jit_compile=True, autograph=False)
    def backward(x: Tensor, upstream: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        """Return the gradient of x, and that of the gain before it is summed over rows."""
        n, factor = normalized(x)
        upstream = tf.cast(upstream, "float32")
        slope = upstream * tf.cast(weights[0], "float32") if weights else upstream
        removed = n * mean(n * slope)
        if centred:
            removed = removed + mean(slope)
        return tf.cast(factor * (slope - removed), x.dtype), n * upstream

    def summed(rows: Tensor) -> Tensor:
        """Return the sum of rows (..., d) as a product, since XLA adds them up on one CPU."""
        rows = tf.reshape(rows, (-1, rows.shape[-1]))
        return tf.matmul(tf.ones_like(rows[:, :1]), rows, transpose_a=True)[0]

    @tf.custom_gradient
    def run(x: Tensor, *weights: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        def gradient(upstream: Tensor) -> Any:
            of_x, of_gain = backward(x, upstream, *weights)
            sums = [summed(of_gain), summed(tf.cast(upstream, "float32"))][: len(weights)]
            return of_x, *(tf.cast(s, w.dtype) for s, w in zip(sums, weights, strict=True))

        return forward(detached(x), *map(detached, weights)), gradient

    return run


def fused_softmax(scores: Tensor, mask: Tensor | None) -> Tensor:
    """Return the softmax over the last axis, where the mask is true, in kernels.

    For the gradient it keeps the weights.

    Args:
        scores: (..., s).
        mask: bool, broadcastable to the scores.
    """
    return _softmax()(scores, *(() if mask is None else (mask,)))


@functools.cache
def _softmax() -> Callable[..., Tensor]:
    import tensorflow as tf

    @tf.function(jit_compile=True, autograph=False)
    def forward(scores: Tensor, *mask: Tensor) -> Tensor:
        x = tf.cast(scores, "float32")
        x = tf.where(mask[0], x, -3e38) if mask else x
        powers = tf.exp(x - tf.reduce_max(x, axis=-1, keepdims=True))
        return tf.cast(powers / _sum(powers), scores.dtype)

    @tf.function(jit_compile=True, autograph=False)
    def backward(weights: Tensor, upstream: Tensor, *mask: Tensor) -> Tensor:
        w, slope = tf.cast(weights, "float32"), tf.cast(upstream, "float32")
        slope = w * (slope - _sum(w * slope))
        slope = tf.where(mask[0], slope, 0.0) if mask else slope  # rows may be masked as a whole
        return tf.cast(slope, weights.dtype)

    @tf.custom_gradient
    def run(scores: Tensor, *mask: Tensor) -> tuple[Tensor, Callable[[Tensor], Any]]:
        weights = forward(detached(scores), *mask)
        return weights, lambda upstream: (backward(weights, upstream, *mask), *(None for _ in mask))

    return run
