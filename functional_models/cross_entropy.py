"""Cross-entropy of logits that are never all in memory: computed by chunks of tokens.

The logits of a batch are the largest array of a training step, (b, t, v). Here they exist for one
chunk of tokens at a time, and the gradients of the features and of the kernel are computed in the
same pass, from the same softmax, as are the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops

from builders.elementwise import SoftCap, capped
from builders.embeddings import TokenEmbedding
from builders.fused import detached, kernel
from builders.heads import AddBias

Tensor = Any

CHUNK = 512
"""Tokens of a chunk. Smaller ones add up the gradient of the kernel more often, and larger ones
take memory that the system has to provide anew for each chunk."""


@dataclass(frozen=True)
class Head:
    """The layers that turn features (n, d) into logits (n, v): cap(features @ kernel + bias).

    Attributes:
        kernel: variable (d, v), or (v, d) if `is_transposed`.
        bias: variable (v,), or `None`.
        cap: of `SoftCap`, or `None`.
        is_transposed: whether the kernel is an embedding table.
        dtype: of the product.
        layers: the layers of the head.
    """

    kernel: keras.Variable
    bias: keras.Variable | None
    cap: float | None
    is_transposed: bool
    dtype: str
    layers: tuple[keras.layers.Layer, ...]


def split_head(model: keras.Model) -> tuple[keras.KerasTensor, Head | None]:
    """Return the features of a model, (b, t, d), and the head that makes logits from them.

    If the last layers are not a dense layer or a tied embedding, with or without a bias and a soft
    cap, they are the logits, and there is no head.
    """
    without = model.outputs[0], None
    layers: list[keras.layers.Layer] = []
    tensor, cap, bias = model.outputs[0], None, None

    def is_last(*classes: type[keras.layers.Layer]) -> bool:
        return type(_made_by(tensor)[0]) in classes

    def peel() -> keras.KerasTensor:
        layer, node = _made_by(tensor)
        layers.append(layer)
        return node.input_tensors[0]

    if is_last(SoftCap):
        tensor = peel()
        cap = layers[-1].cap
    if is_last(AddBias):
        tensor = peel()
        bias = layers[-1].bias
    layer, node = _made_by(tensor)
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return without
    if is_last(keras.layers.Dense) and bias is None:
        if layer.activation is not keras.activations.linear or layer.activity_regularizer:
            return without
        features = peel()
        return features, Head(
            layer.kernel, layer.bias, cap, False, layer.compute_dtype, tuple(layers)
        )
    # Not subclasses, which may compute something else.
    is_tied = is_last(keras.layers.ReversibleEmbedding, TokenEmbedding)
    if is_tied and node.arguments.kwargs.get("reverse") and not layer.activity_regularizer:
        if layer.logit_soft_cap is not None and (cap or bias is not None):
            return without
        features = peel()
        table = layer.embeddings if layer.tie_weights else layer.reverse_embeddings
        return features, Head(
            table,
            bias,
            layer.logit_soft_cap or cap,
            layer.tie_weights,
            layer.reverse_dtype or layer.compute_dtype,
            tuple(layers),
        )
    return without


def _made_by(tensor: keras.KerasTensor) -> tuple[Any, Any]:
    """Return the layer and the node that made a tensor of a graph."""
    layer, node_index, _ = tensor._keras_history
    return layer, layer._inbound_nodes[node_index]


def token_losses(
    features: Tensor,
    labels: Tensor,
    weights: Tensor,
    head: Head | None = None,
    *,
    label_smoothing: float = 0.0,
    z_loss: float = 0.0,
    total: Tensor | None = None,
    needs_gradient: bool = True,
    finds_first: bool = False,
) -> tuple[Tensor, list[Tensor]]:
    """Return the loss of a batch, and results of each of its tokens.

    Args:
        features: (n, d); without a head, logits (n, v).
        labels: int (n,).
        weights: float32 (n,).
        head: turns features into logits.
        label_smoothing: probability that is spread over the whole vocabulary.
        z_loss: factor of the square of log(sum(exp(logits))) (Chowdhery et al. 2022, section 5).
        total: float32 (), what the weighted sum is divided by; by default the sum of the weights.
        needs_gradient: whether the loss has a gradient; without, it takes a third of the time.
        finds_first: whether to return the last result.

    Returns:
        Mean loss in nats, weighted, float32 (), and results, float32 (n,): cross-entropy alone,
        without smoothing; 1 where the label has the highest logit and 0 elsewhere; the same where
        it is the first that has it, which is what `argmax` returns.
    """
    dtype = head.dtype if head else features.dtype
    trained = [v for v in (head.kernel, head.bias) if v is not None] if head else []
    constants = [detached(ops.convert_to_tensor(variable.value)) for variable in trained]
    table = ops.cast(constants[0], dtype) if head else None
    bias = constants[1] if len(constants) > 1 else None

    def step(x: Tensor, labels: Tensor, weights: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Return values of each token of a chunk, and gradients that are added up."""
        logits = x if head is None else _product(x, table, transposed=head.is_transposed)
        cap = head and head.cap
        *rows, slope = _statistics(
            logits, bias, labels, weights, label_smoothing, z_loss, cap, needs_gradient, finds_first
        )
        if not needs_gradient:
            return rows, []
        if head is None:
            return [*rows, slope], []
        left, right = (slope, x) if head.is_transposed else (x, slope)
        sums = [ops.cast(ops.matmul(ops.transpose(left), right), "float32")]
        if bias is not None:
            sums.append(ops.sum(ops.cast(slope, "float32"), axis=0))
        return [*rows, _product(slope, table, transposed=not head.is_transposed)], sums

    x = detached(ops.cast(features, dtype))
    shapes: list[tuple[Any, str]] = [((), "float32")] * (4 if finds_first else 3)
    shapes += [(tuple(features.shape[1:]), dtype)] * needs_gradient
    zeros = [ops.zeros(v.shape, "float32") for v in trained] if needs_gradient else []
    rows, sums = _over_chunks(step, [x, labels, weights], shapes, zeros)
    slopes = [rows.pop()] if needs_gradient else []
    loss, *results = rows
    total = ops.maximum(ops.sum(weights) if total is None else total, 1e-9)
    mean = ops.sum(loss * weights) / total
    if not needs_gradient:
        return mean, results
    return _with_gradients(mean, [features, *trained], [*slopes, *sums], 1 / total), results


def _with_gradients(
    loss: Tensor, sources: Sequence[Any], gradients: Sequence[Tensor], factor: Tensor
) -> Tensor:
    """Return the loss, whose gradients with respect to the sources are known but for a factor."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        @tf.custom_gradient
        def known(*tensors: Tensor) -> tuple[Tensor, Callable[[Tensor], list[Tensor]]]:
            def gradient(upstream: Tensor) -> list[Tensor]:
                scaled = (factor * upstream * tf.cast(g, "float32") for g in gradients)
                return [tf.cast(g, x.dtype) for g, x in zip(scaled, tensors, strict=True)]

            return tf.identity(loss), gradient

        return known(*map(ops.convert_to_tensor, sources))
    # A linear function that is zero here, and has these gradients.
    for source, gradient in zip(sources, gradients, strict=True):
        linear = ops.sum(ops.cast(source, "float32") * ops.cast(detached(gradient), "float32"))
        loss = loss + (linear - detached(linear)) * factor
    return loss


def _product(x: Tensor, table: Tensor, *, transposed: bool) -> Tensor:
    return ops.einsum("nd,vd->nv" if transposed else "nd,dv->nv", x, table)


@kernel
def _statistics(
    logits: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    weights: Tensor,
    label_smoothing: float,
    z_loss: float,
    cap: float | None,
    needs_gradient: bool,
    finds_first: bool,
) -> tuple[Tensor, ...]:
    """Return the loss and the results of each token, (n,), and the gradient (n, v).

    The gradient is that of the sum of loss * weight, with respect to the logits.
    """
    x = ops.cast(logits, "float32")
    x = x if bias is None else x + bias
    x = x if cap is None else capped(x, cap)
    words = ops.arange(x.shape[-1], dtype=labels.dtype)[None]
    label = labels[:, None]
    highest = ops.max(x, axis=-1, keepdims=True)
    powers = ops.exp(x - highest)
    total = ops.sum(powers, axis=-1, keepdims=True)
    log_total = ops.log(total) + highest
    chosen = ops.take_along_axis(x, label, axis=-1)
    cross_entropy = log_total - chosen
    correct = ops.cast(chosen >= highest, "float32")[:, 0]
    loss = cross_entropy
    if label_smoothing:
        spread = log_total - ops.mean(x, axis=-1, keepdims=True)
        loss = (1 - label_smoothing) * cross_entropy + label_smoothing * spread
    if z_loss:
        loss = loss + z_loss * ops.square(log_total)
    values = [loss[:, 0], cross_entropy[:, 0], correct]
    if finds_first:
        is_second = ops.any((x == highest) & (words < label), axis=-1)
        values.append(ops.where(is_second, 0.0, correct))
    if not needs_gradient:
        return *values, None
    target = ops.where(words == label, 1 - label_smoothing, 0.0) + label_smoothing / x.shape[-1]
    share = powers / total
    slope = share - target
    if z_loss:
        slope = slope + 2 * z_loss * log_total * share
    slope = weights[:, None] * slope
    if cap is not None:
        slope = slope * (1 - ops.square(x / cap))
    return *values, ops.cast(slope, logits.dtype)


def _over_chunks(
    step: Callable[..., tuple[list[Tensor], list[Tensor]]],
    arrays: Sequence[Tensor],
    shapes: Sequence[tuple[Any, str]],
    zeros: Sequence[Tensor],
) -> tuple[list[Tensor], list[Tensor]]:
    """Call a function for chunks of rows; return its joined rows, and its sums.

    Args:
        step: from chunks of the arrays to rows and sums.
        arrays: of n rows.
        shapes: shape of a row of each result, and its type.
        zeros: the sums over no rows.
    """
    n = ops.shape(arrays[0])[0]
    size = ops.minimum(CHUNK, n) if ops.is_tensor(n) else min(CHUNK, n)
    padded = -n % size  # by rows of weight zero

    def split(x: Tensor) -> Tensor:
        """Return x (n, ...) as chunks (n / size, size, ...).

        A chunk has rows from all of the batch, so that each device has a share of each chunk.
        """
        x = ops.pad(x, [(0, padded)] + [(0, 0)] * (len(x.shape) - 1))
        return ops.swapaxes(ops.reshape(x, (size, -1, *x.shape[1:])), 0, 1)

    def join(x: Tensor) -> Tensor:
        return ops.reshape(ops.swapaxes(x, 0, 1), (-1, *x.shape[2:]))[:n]

    def scanned(sums: list[Tensor], chunk: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        rows, more = step(*chunk)
        return [total + new for total, new in zip(sums, more, strict=True)], rows

    sums, rows = _scan(scanned, list(zeros), [split(x) for x in arrays], shapes)
    return [join(row) for row in rows], sums


def _scan(
    function: Callable[..., Any],
    sums: list[Tensor],
    chunks: list[Tensor],
    shapes: Sequence[tuple[Any, str]],
) -> tuple[list[Tensor], list[Tensor]]:
    """`jax.lax.scan`; that of Keras wants rows of the same shapes as the sums on TensorFlow."""
    if keras.backend.backend() == "jax":
        import jax

        return jax.lax.scan(function, sums, chunks)
    if keras.backend.backend() == "torch":
        rows = []
        for chunk in zip(*chunks, strict=True):
            sums, row = function(sums, list(chunk))
            rows.append(row)
        return sums, [ops.stack(row) for row in zip(*rows, strict=True)]
    import tensorflow as tf

    count = tf.shape(chunks[0])[0]

    def body(i: Any, sums: Any, results: Any) -> Any:
        sums, rows = function(sums, [x[i] for x in chunks])
        return i + 1, sums, [r.write(i, row) for r, row in zip(results, rows, strict=True)]

    results = [
        tf.TensorArray(dtype, count, element_shape=(None, *shape), infer_shape=False)
        for shape, dtype in shapes
    ]
    _, sums, results = tf.while_loop(
        lambda i, *_: i < count, body, (0, sums, results), parallel_iterations=1
    )
    return sums, [result.stack() for result in results]
