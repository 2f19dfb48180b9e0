"""FLOPs of a model by `plots.flops`, and by an independent count of what a backend computes.

Both count matrix products and convolutions, 2 FLOPs per multiply-add.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import keras
import pytest

import plots

BACKEND = keras.backend.backend()
requires_graph_tracing = pytest.mark.skipif(BACKEND == "torch", reason="PyTorch traces no graph")

B, T, S = 2, 11, 13
SIZES = {"b": B, "t": T, "s": S}


def flops_at(graph: plots.Graph, **sizes: int) -> float:
    """Return the FLOPs of the whole model at these sizes."""
    overlay = plots.flops(graph).overlay("flops")
    return replace(overlay, sizes=sizes).number(overlay.whole)


def flops_of(model: keras.Model, **sizes: int) -> float:
    return flops_at(plots.read_graph(model), **sizes)


def traced_flops(function: Callable[..., Any], *shapes: Any) -> int:
    """Return the FLOPs of a function of arrays, or dicts of arrays, of these shapes.

    Arrays are int32; pass `(shape, dtype)` for another type.
    """
    if BACKEND == "jax":
        import jax

        tree = map_shapes(shapes, lambda shape, dtype: jax.ShapeDtypeStruct(shape, dtype))
        return sum(jax_products(jax.make_jaxpr(function)(*tree).jaxpr))
    import tensorflow as tf

    tree = map_shapes(shapes, tf.TensorSpec)
    graph = tf.function(function, input_signature=tree).get_concrete_function().graph
    return sum(map(tensorflow_product, graph.get_operations()))


def map_shapes(tree: Any, make: Callable[[tuple[int, ...], str], Any]) -> Any:
    if isinstance(tree, dict):
        return {name: map_shapes(value, make) for name, value in tree.items()}
    if len(tree) == 2 and isinstance(tree[1], str):
        return make(*tree)
    if all(isinstance(size, int) for size in tree):
        return make(tree, "int32")
    return [map_shapes(value, make) for value in tree]


def jax_products(jaxpr: Any) -> Iterator[int]:
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            summed = [left[i] for i in contracted]
            yield 2 * math.prod((*equation.outvars[0].aval.shape, *summed)) if summed else 0
        elif equation.primitive.name == "conv_general_dilated":
            out, kernel = equation.outvars[0].aval.shape, equation.invars[1].aval.shape
            filters = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            yield 2 * math.prod(out) * math.prod(kernel) // filters
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from jax_products(inner)


def tensorflow_product(operation: Any) -> int:
    assert "Call" not in operation.type, "operations inside a nested function are not counted"
    if operation.type == "Einsum":
        given, result = operation.get_attr("equation").decode().split("->")
        sides = given.split(",")
        sizes = {}
        for letters, tensor in zip(sides, operation.inputs, strict=True):
            sizes |= dict(zip(letters, tensor.shape, strict=True))
        sums = len(sizes) > len(result)  # an outer product, as of rotary angles, has no sum
        return 2 * math.prod(sizes.values()) if len(sides) == 2 and sums else 0
    if operation.type == "MatMul" or operation.type.startswith("BatchMatMul"):
        left = operation.inputs[0].shape
        transposed = operation.type == "MatMul" and operation.get_attr("transpose_a")
        transposed |= operation.type != "MatMul" and operation.get_attr("adj_x")
        return 2 * math.prod(operation.outputs[0].shape) * left[-2 if transposed else -1]
    if operation.type == "Conv2D":
        *window, channels, _ = operation.inputs[1].shape
        return 2 * math.prod(operation.outputs[0].shape) * math.prod(window) * channels
    if operation.type == "DepthwiseConv2dNative":
        return 2 * math.prod(operation.outputs[0].shape) * math.prod(operation.inputs[1].shape[:2])
    if operation.type == "Conv2DBackpropInput":  # a transposed convolution
        *window, filters, _ = operation.inputs[1].shape
        return 2 * math.prod(operation.inputs[2].shape) * math.prod(window) * filters
    assert "Conv" not in operation.type, "unknown convolution"
    return 0
