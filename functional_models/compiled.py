"""Functions over a model's graphs, compiled by whichever backend there is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

Tensor = Any


class Weights:
    """A model's weights as the arrays that a compiled loop reads.

    They are made ready once, outside the loop. Where a layer computes in half precision, its
    matrices are cast to that. And a kernel of three axes becomes the matrix that it is in memory:
    XLA on a CPU would otherwise fuse the change of shape into every product of the kernel with one
    row, and such a fused product is several times slower than a plain one.

    Args:
        model: the model.
        step: the graph of it that a loop calls.
    """

    def __init__(self, model: keras.Model, step: keras.Model) -> None:
        self._variables: list[keras.Variable] = model.variables
        self._matrices: dict[int, tuple[int, int]] = {}
        self._dtypes: dict[int, str] = {}
        for layer in (getattr(layer, "inner", layer) for layer in step.layers):
            for variable in layer.weights:
                if len(variable.shape) > 1 and "float" in variable.dtype:
                    self._dtypes[id(variable)] = layer.compute_dtype
            if isinstance(layer, keras.layers.EinsumDense):
                self._matrices[id(layer.kernel)] = _matrix_shape(layer)

    def values(self) -> list[Tensor]:
        """Return what the variables hold now."""
        return [variable.value for variable in self._variables]

    def ready(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return values as a loop is to read them."""
        arrays = []
        for variable, value in zip(self._variables, values, strict=True):
            shape = self._matrices.get(id(variable))
            value = value if shape is None else ops.reshape(value, shape)
            arrays.append(ops.cast(value, self._dtypes.get(id(variable), variable.dtype)))
        return arrays

    def scope(self, arrays: Sequence[Tensor]) -> contextlib.AbstractContextManager[Any]:
        """Return a scope in which layers read `arrays` in place of their variables."""
        if keras.backend.backend() == "torch":
            return contextlib.nullcontext()  # nothing is compiled, so nothing is gained
        pairs = zip(self._variables, arrays, strict=True)
        return keras.StatelessScope([(v, ops.reshape(x, v.shape)) for v, x in pairs])


def _matrix_shape(layer: keras.layers.EinsumDense) -> tuple[int, int]:
    """Return the shape of a kernel as a matrix: axes that are summed over, axes that stay."""
    inputs, output = layer.equation.split("->")
    summed = sum(letter not in output for letter in inputs.split(",")[1])
    shape = layer.kernel.shape
    return math.prod(shape[:summed]), math.prod(shape[summed:])


def compiled(
    function: Callable[..., Any], weights: Weights, seeds: Sequence[keras.Variable] = ()
) -> Callable[..., Any]:
    """Compile a function with the backend: for each new shape of its arrays, once.

    Args:
        function: of the ready weights, then of arrays or dicts of them.
        weights: what the function reads.
        seeds: variables that it draws random numbers from, and changes.

    Returns:
        The function without its first argument.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            def with_weights(*arrays: Any) -> Any:
                return function(weights.ready(weights.values()), *arrays)

            function_of_tensors = tf.function(with_weights, jit_compile=True, autograph=False)

            def run(*arrays: Any) -> Any:
                # As tensors: for every new value of a NumPy scalar TensorFlow would trace anew.
                return function_of_tensors(*keras.tree.map_structure(tf.convert_to_tensor, arrays))

            return run
        case "jax":
            return _jitted(function, weights, seeds)
        case "torch":
            import torch

            return torch.no_grad()(lambda *arrays: function([], *arrays))
    return lambda *arrays: function(weights.ready(weights.values()), *arrays)


def _jitted(
    function: Callable[..., Any], weights: Weights, seeds: Sequence[keras.Variable]
) -> Callable[..., Any]:
    """Compile with JAX: weights and seeds go in as arguments, seeds come out again."""
    import jax

    @jax.jit
    def stateless(values: list[Tensor], states: list[Tensor], *arrays: Any) -> Any:
        with keras.StatelessScope([*zip(seeds, states, strict=True)]) as scope:
            result = function(weights.ready(values), *arrays)
        return result, [scope.get_current_value(seed) for seed in seeds]

    def run(*arrays: Any) -> Any:
        result, states = stateless(weights.values(), [seed.value for seed in seeds], *arrays)
        for seed, state in zip(seeds, states, strict=True):
            seed.assign(state)
        return result

    return run
