"""Functions over a model's graphs, compiled by whichever backend there is."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
from keras import KerasTensor, ops

Tensor = Any


class Weights:
    """A model's weights as arrays, which a compiled function takes and its layers then read.

    Args:
        model: the model.
        step: the graph of it that a loop calls.
    """

    def __init__(self, model: keras.Model, step: keras.Model) -> None:
        self._variables: list[keras.Variable] = model.variables
        self._dtypes: dict[int, str] = {}
        for layer in (getattr(layer, "inner", layer) for layer in step.layers):
            for variable in layer.weights:
                if len(variable.shape) > 1 and "float" in variable.dtype:
                    self._dtypes[id(variable)] = layer.compute_dtype

    def values(self) -> list[Tensor]:
        """Return what the variables hold now."""
        return [variable.value for variable in self._variables]

    def cast(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return values with matrices in what their layer computes in, once for a whole loop."""
        return [
            ops.cast(value, self._dtypes.get(id(variable), variable.dtype))
            for variable, value in zip(self._variables, values, strict=True)
        ]

    def scope(self, arrays: Sequence[Tensor]) -> contextlib.AbstractContextManager[Any]:
        """Return a scope in which layers read `arrays`, one for each of their variables."""
        return _scope(self._variables, arrays)


def _scope(
    variables: Sequence[keras.Variable], arrays: Sequence[Tensor]
) -> contextlib.AbstractContextManager[Any]:
    if keras.backend.backend() == "torch":
        return contextlib.nullcontext()  # nothing is compiled, so nothing is gained
    return keras.StatelessScope([*zip(variables, arrays, strict=True)])


class LoopWeights(Weights):
    """Weights for a loop over a step `with_projections`, whose kernels become matrices.

    Matrices (in, out) are the kernels as they lie in memory. Transposed ones are copies, which
    take as long to make as a few steps, and pay where several rows are decoded for a while.
    """

    def __init__(self, model: keras.Model, step: keras.Model) -> None:
        super().__init__(model, step)
        projections = [layer for layer in step.layers if isinstance(layer, Projection)]
        kernels = {id(layer.inner.kernel): layer for layer in projections}
        self._of_kernel = [kernels.get(id(variable)) for variable in self._variables]

    def matrices(self, values: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return what `step_scope` takes, for a loop over one row; to be called outside it."""
        arrays: dict[str, list[Tensor]] = {"others": [], "matrices": []}
        for projection, array in zip(self._of_kernel, self.cast(values), strict=True):
            if projection is None:
                arrays["others"].append(array)
            else:
                arrays["matrices"].append(ops.reshape(array, projection.matrix_shape))
        return arrays

    def transposed(self, values: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the same for a loop over several rows."""
        arrays = self.matrices(values)
        arrays["transposed"] = [ops.transpose(matrix) for matrix in arrays.pop("matrices")]
        return arrays

    @contextlib.contextmanager
    def step_scope(self, arrays: dict[str, list[Tensor]]) -> Iterator[Any]:
        """Return a scope in which the step reads `arrays`."""
        is_transposed = "transposed" in arrays
        matrices = arrays["transposed" if is_transposed else "matrices"]
        for projection, matrix in zip(filter(None, self._of_kernel), matrices, strict=True):
            projection.matrix, projection.is_transposed = matrix, is_transposed
        others = [v for v, x in zip(self._variables, self._of_kernel, strict=True) if x is None]
        with _scope(others, arrays["others"]) as scope:
            yield scope


class Projection(keras.layers.Layer):
    """A dense layer for one token a row, (b, 1, ...), with a kernel that is a plain matrix.

    XLA on a CPU would fuse the change of shape of a kernel with three axes into the product with
    one row, which makes it several times slower. For several rows it is a third to a half faster
    with y^T = W^T x^T than with y = x W, as long as W^T is what lies in memory.

    Args:
        inner: a `Dense`, or an `EinsumDense` whose kernel has the axes that are summed over first.

    Attributes:
        matrix: W (in, out) or W^T (out, in), to be set before a call.
        is_transposed: which of them.
    """

    matrix: Tensor = None
    is_transposed = False

    def __init__(self, inner: Any) -> None:
        super().__init__(name=inner.name, dtype=inner.dtype_policy)
        self.inner = inner
        summed = 1
        if isinstance(inner, keras.layers.EinsumDense):
            inputs, output = inner.equation.split("->")
            summed = sum(letter not in output for letter in inputs.split(",")[1])
        shape = inner.kernel.shape
        self.matrix_shape = math.prod(shape[:summed]), math.prod(shape[summed:])
        self._output_axes = shape[summed:]

    def call(self, x: Tensor) -> Tensor:
        x = ops.reshape(x, (-1, self.matrix_shape[0]))
        if self.is_transposed:
            columns = ops.matmul(self.matrix, ops.transpose(x))  # (out, b)
            # With a third axis, since XLA takes a transposed product for one of swapped sides.
            y = ops.transpose(columns[None], (2, 0, 1))
        else:
            y = ops.matmul(x, self.matrix)
        y = ops.reshape(y, (-1, 1, *self._output_axes))
        y = y if self.inner.bias is None else y + self.inner.bias
        return y if self.inner.activation is None else self.inner.activation(y)

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor((x.shape[0], 1, *self._output_axes), dtype=self.compute_dtype)


def with_projections(step: keras.Model) -> keras.Model:
    """Return a step of one token with a `Projection` in place of every dense layer.

    Not so on PyTorch, where nothing is compiled.
    """
    if keras.backend.backend() == "torch":
        return step

    def replaced(layer: Any) -> Any:
        is_dense = isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense)
        return Projection(layer) if is_dense else layer

    return keras.models.clone_model(step, clone_function=replaced)


def compiled(
    function: Callable[..., Any], seeds: Sequence[keras.Variable] = ()
) -> Callable[..., Any]:
    """Compile a function with the backend: for each new shape of its arrays, once.

    Args:
        function: of arrays, and lists and dicts of them.
        seeds: variables that it draws random numbers from, and changes.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            function_of_tensors = tf.function(function, jit_compile=True, autograph=False)

            def run(*arrays: Any) -> Any:
                # As tensors: for every new value of a NumPy scalar TensorFlow would trace anew.
                return function_of_tensors(*keras.tree.map_structure(tf.convert_to_tensor, arrays))

            return run
        case "jax":
            return _jitted(function, seeds)
        case "torch":
            import torch

            return torch.no_grad()(function)
    return function


def _jitted(function: Callable[..., Any], seeds: Sequence[keras.Variable]) -> Callable[..., Any]:
    """Compile with JAX: seeds go in as arguments, and come out again."""
    import jax

    @jax.jit
    def stateless(states: list[Tensor], *arrays: Any) -> Any:
        with keras.StatelessScope([*zip(seeds, states, strict=True)]) as scope:
            result = function(*arrays)
        return result, [scope.get_current_value(seed) for seed in seeds]

    def run(*arrays: Any) -> Any:
        result, states = stateless([seed.value for seed in seeds], *arrays)
        for seed, state in zip(seeds, states, strict=True):
            seed.assign(state)
        return result

    return run
