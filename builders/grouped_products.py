"""Products of rows with one of several kernels each, the rows being sorted by kernel.

The rows of a mixture of experts, one for each token and each of its experts, are sorted by expert,
so that an expert multiplies its own rows only. None is dropped or padded to a capacity.

There are two ways, with equal numbers. Where shapes must be static, as under XLA, a loop multiplies
blocks of rows, and visits no expert without rows. Elsewhere there is one product for each expert.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

Tensor = Any

MOST_ROWS, LEAST_ROWS = 256, 8
"""Rows of a block. Larger blocks are multiplied faster, but the last of an expert has more rows
that are not its own."""

CACHED_BYTES = 2**21
"""Most bytes of the part of a kernel that is multiplied at once on a CPU."""


def grouped_product(rows: Tensor, kernels: Tensor, sizes: Tensor) -> Tensor:
    """Multiply rows, sorted by expert, by the kernels of their experts.

    Args:
        rows: (m, i).
        kernels: (e, i, j).
        sizes: int (e,), the number of rows of each expert; their sum is m.

    Returns:
        (m, j).
    """
    if not _needs_static_shapes():
        return _by_expert(rows, kernels, sizes)
    return _with_gradient(_in_blocks, _gradients_in_blocks, [rows, kernels], [sizes])


def sort_by_expert(chosen: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Sort choices by expert: chosen, int (n, a) -> order (n a,), places (n, a), sizes (e,).

    The row r of the result is that of the choice `order[r]`, counted along the tokens; the choice
    (n, a) has the row `places[n, a]`; expert e has `sizes[e]` rows. All are int.
    """
    flat = ops.reshape(chosen, (-1,))
    order = ops.argsort(flat)
    is_of_expert = ops.equal(flat[:, None], ops.arange(experts, dtype=flat.dtype)[None])
    sizes = ops.sum(ops.cast(is_of_expert, "int32"), axis=0)
    places = ops.reshape(ops.argsort(order), (-1, chosen.shape[-1]))
    return order, ops.cast(places, "int32"), sizes


def rows_of_tokens(x: Tensor, order: Tensor, places: Tensor) -> Tensor:
    """Return the row of every choice, sorted by expert: x (n, d) -> (n a, d).

    Gradients are looked up at the places of a token; adding up rows by token takes longer.
    """
    return _with_gradient(_rows_of_tokens, _gradient_of_tokens, [x], [order, places])


def _rows_of_tokens(x: Tensor, order: Tensor, places: Tensor) -> Tensor:
    return ops.take(x, order // places.shape[-1], axis=0)


def _gradient_of_tokens(upstream: Tensor, x: Tensor, order: Tensor, places: Tensor) -> list[Tensor]:
    return [ops.sum(ops.take(upstream, places, axis=0), axis=1)]


def choices_of_rows(rows: Tensor, places: Tensor) -> Tensor:
    """Return the rows of the choices of every token: (n a, d), places, int (n, a) -> (n, a, d)."""
    return _with_gradient(_choices_of_rows, _gradient_of_rows, [rows], [places])


def _choices_of_rows(rows: Tensor, places: Tensor) -> Tensor:
    return ops.take(rows, places, axis=0)


def _gradient_of_rows(upstream: Tensor, rows: Tensor, places: Tensor) -> list[Tensor]:
    order = ops.argsort(ops.reshape(places, (-1,)))
    return [ops.take(ops.reshape(upstream, (-1, upstream.shape[-1])), order, axis=0)]


# One product for each expert --------------------------------------------------------------------


def _by_expert(rows: Tensor, kernels: Tensor, sizes: Tensor) -> Tensor:
    experts = kernels.shape[0]
    if keras.backend.backend() == "torch":
        import torch

        parts = torch.split(rows, sizes.tolist())
    else:
        import tensorflow as tf

        parts = tf.split(rows, sizes, num=experts)
    products = [ops.matmul(x, w) for x, w in zip(parts, ops.unstack(kernels, experts), strict=True)]
    return ops.concatenate(products, axis=0)


# Blocks of rows ---------------------------------------------------------------------------------


class _Blocks:
    """Blocks of rows that have one expert each: `size` rows from `start` on, of `expert`.

    The last block of an expert may have rows of the experts after it, or beyond the end.
    """

    def __init__(self, rows: Tensor, kernels: Tensor, sizes: Tensor) -> None:
        experts = kernels.shape[0]
        self.size = LEAST_ROWS  # also where TensorFlow does not tell the number of rows
        if rows.shape[0] is not None:
            while self.size < MOST_ROWS and 4 * experts * self.size < rows.shape[0]:
                self.size *= 2
            self.size = min(self.size, rows.shape[0])
        numbers = (sizes + self.size - 1) // self.size
        self._last = ops.cumsum(numbers)  # one more than the last block of each expert
        self._first = self._last - numbers
        self._ends = ops.cumsum(sizes)
        self._starts = self._ends - sizes
        self._experts = experts

    def loop(self, body: Callable[..., tuple[Tensor, ...]], arrays: list[Tensor]) -> list[Tensor]:
        """Call `body(expert, start, end, *arrays)` for each block; return the last arrays.

        `end` is that of the rows of the expert.
        """

        def step(i: Tensor, *arrays: Tensor) -> tuple[Tensor, ...]:
            expert = ops.sum(ops.cast(self._last <= i, "int32"))
            start = self._starts[expert] + (i - self._first[expert]) * self.size
            return i + 1, *body(expert, start, self._ends[expert], *arrays)

        count = self._last[self._experts - 1]
        zero = ops.zeros((), "int32")
        return list(ops.while_loop(lambda i, *_: i < count, step, (zero, *arrays))[1:])

    def padded(self, rows: Tensor) -> Tensor:
        """Return rows with as many zeros after them as the last block may need."""
        return ops.pad(rows, [(0, self.size), (0, 0)])

    def of(self, rows: Tensor, start: Tensor) -> Tensor:
        """Return a block of padded rows."""
        return ops.slice(rows, (start, 0), (self.size, rows.shape[1]))


def _kernel_of(kernels: Tensor, expert: Tensor) -> Tensor:
    return ops.slice(kernels, (expert, 0, 0), (1, *kernels.shape[1:]))[0]


def _parts_of_kernel(kernels: Tensor) -> int:
    """Return into how many equal parts of its columns a kernel is split, to multiply by each.

    XLA copies what a loop takes of an array before it multiplies by it. On a CPU a large kernel
    goes through memory three times then; a part stays in the cache. It copies bfloat16 slowly.
    """
    _, i, j = kernels.shape
    fewest = -(-4 * i * j // CACHED_BYTES)
    if keras.backend.standardize_dtype(kernels.dtype) != "float32" or not _runs_on_cpu():
        return 1
    return next((parts for parts in range(fewest, 4 * fewest) if j % parts == 0), 1)


def _in_blocks(rows: Tensor, kernels: Tensor, sizes: Tensor) -> Tensor:
    blocks = _Blocks(rows, kernels, sizes)
    padded = blocks.padded(rows)
    _, i, j = kernels.shape
    parts = _parts_of_kernel(kernels)
    width = j // parts

    def multiply(expert: Tensor, start: Tensor, end: Tensor, found: Tensor) -> tuple[Tensor]:
        # Rows of later experts are overwritten by the blocks of these.
        block = blocks.of(padded, start)

        def by_part(part: Tensor, found: Tensor) -> Tensor:
            columns = ops.slice(kernels, (expert, 0, part * width), (1, i, width))[0]
            return ops.slice_update(found, (start, part * width), ops.matmul(block, columns))

        if parts == 1:
            return (by_part(0, found),)
        return (ops.fori_loop(0, parts, by_part, found),)

    zeros = ops.zeros((ops.shape(padded)[0], kernels.shape[2]), rows.dtype)
    return blocks.loop(multiply, [zeros])[0][: ops.shape(rows)[0]]


def _gradients_in_blocks(
    upstream: Tensor, rows: Tensor, kernels: Tensor, sizes: Tensor
) -> list[Tensor]:
    blocks = _Blocks(rows, kernels, sizes)
    padded, slopes = blocks.padded(rows), blocks.padded(upstream)

    def add(
        expert: Tensor, start: Tensor, end: Tensor, of_rows: Tensor, of_kernels: Tensor
    ) -> tuple[Tensor, Tensor]:
        slope = blocks.of(slopes, start)
        kernel = _kernel_of(kernels, expert)
        of_rows = ops.slice_update(of_rows, (start, 0), ops.matmul(slope, ops.transpose(kernel)))
        is_own = start + ops.arange(blocks.size, dtype="int32") < end
        own = ops.where(is_own[:, None], slope, ops.zeros_like(slope))
        change = ops.matmul(ops.transpose(blocks.of(padded, start)), own)
        change = _kernel_of(of_kernels, expert) + ops.cast(change, of_kernels.dtype)
        return of_rows, ops.slice_update(of_kernels, (expert, 0, 0), change[None])

    zeros = [ops.zeros_like(padded), ops.zeros(kernels.shape, "float32")]
    of_rows, of_kernels = blocks.loop(add, zeros)
    return [of_rows[: ops.shape(rows)[0]], ops.cast(of_kernels, kernels.dtype)]


# Backends ---------------------------------------------------------------------------------------


def _needs_static_shapes() -> bool:
    """Return whether the graph is compiled by XLA, which JAX always does."""
    if keras.backend.backend() != "tensorflow":
        return bool(keras.backend.backend() == "jax")
    import tensorflow as tf

    # TensorFlow's control flow asks it so, and there is no public way.
    from tensorflow.python.ops import control_flow_util

    return bool(control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def _runs_on_cpu() -> bool:
    """Return whether no accelerator computes what is being compiled."""
    if keras.backend.backend() == "jax":
        import jax

        return bool(jax.default_backend() == "cpu")
    import tensorflow as tf

    return not any(device.device_type == "GPU" for device in tf.config.list_logical_devices())


def _with_gradient(
    forward: Callable[..., Tensor],
    gradient: Callable[..., list[Tensor]],
    inputs: list[Tensor],
    constants: list[Tensor],
) -> Tensor:
    """Return `forward(*inputs, *constants)`, with the gradients that a function computes.

    Args:
        forward: the function, defined once.
        gradient: (gradient of the result, *inputs, *constants) -> the gradient of each input.
        inputs: float arrays.
        constants: int arrays.
    """
    if keras.backend.backend() == "jax":
        return _jax_function(forward, gradient)(*inputs, *constants)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def function(*arrays: Any) -> tuple[Any, Callable[[Any], list[Any]]]:
            none = [None] * len(constants)
            return forward(*arrays), lambda upstream: [*gradient(upstream, *arrays), *none]

        return function(*inputs, *constants)
    return forward(*inputs, *constants)  # PyTorch's own gradients are as fast


@functools.cache
def _jax_function(
    forward: Callable[..., Tensor], gradient: Callable[..., list[Tensor]]
) -> Callable[..., Tensor]:
    """Return a function with gradients of its own, compiled once for each shape."""
    import jax

    def backward(arrays: tuple[Tensor, ...], upstream: Tensor) -> tuple[Tensor | None, ...]:
        found = gradient(upstream, *arrays)
        return (*found, *[None] * (len(arrays) - len(found)))

    function = jax.custom_vjp(forward)
    function.defvjp(lambda *arrays: (forward(*arrays), arrays), backward)
    return jax.jit(function)
