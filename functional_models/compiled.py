"""Functions of a model's graphs, compiled by the current backend."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import KerasTensor, ops

from functional_models.processes import whole

Tensor = Any


class Weights:
    """The weights of a model as arguments of a compiled function.

    Args:
        model: the model.
        step: the decode graph that a loop calls.
    """

    def __init__(self, model: keras.Model, step: keras.Model) -> None:
        self._variables: list[keras.Variable] = model.variables
        self._dtypes: dict[int, str] = {}
        for layer in (getattr(layer, "inner", layer) for layer in step.layers):
            for variable in layer.weights:
                if len(variable.shape) > 1 and "float" in variable.dtype:
                    self._dtypes[id(variable)] = layer.compute_dtype

    def values(self) -> list[Tensor]:
        """Return the current values of the variables."""
        return [variable.value for variable in self._variables]

    def cast(self, values: Sequence[Tensor]) -> list[Tensor]:
        """Return values with matrices in the compute dtype of their layer, cast once per loop."""
        return [
            ops.cast(value, self._dtypes.get(id(variable), variable.dtype))
            for variable, value in zip(self._variables, values, strict=True)
        ]

    def scope(self, arrays: Sequence[Tensor]) -> contextlib.AbstractContextManager[Any]:
        """Return a scope in which variables have the values `arrays`."""
        return _scope(self._variables, arrays)


def _scope(
    variables: Sequence[keras.Variable], arrays: Sequence[Tensor]
) -> contextlib.AbstractContextManager[Any]:
    if keras.backend.backend() == "torch":
        return contextlib.nullcontext()  # nothing is compiled
    return keras.StatelessScope([*zip(variables, arrays, strict=True)])


class LoopWeights(Weights):
    """Weights of a loop over a step of `with_projections`, with kernels as matrices.

    Matrices (in, out) are views of the kernels. Transposed ones are copies, which cost as much time
    as a few steps and are faster for several rows.
    """

    def __init__(self, model: keras.Model, step: keras.Model) -> None:
        super().__init__(model, step)
        projections = [layer for layer in step.layers if isinstance(layer, Projection)]
        kernels = {id(layer.inner.kernel): layer for layer in projections}
        self._of_kernel = [kernels.get(id(variable)) for variable in self._variables]

    def matrices(self, values: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the arrays of `step_scope` for a single row; call it outside of the loop."""
        arrays: dict[str, list[Tensor]] = {"others": [], "matrices": []}
        for projection, array in zip(self._of_kernel, self.cast(values), strict=True):
            if projection is None:
                arrays["others"].append(array)
            else:
                arrays["matrices"].append(ops.reshape(array, projection.matrix_shape))
        return arrays

    def transposed(self, values: Sequence[Tensor]) -> dict[str, list[Tensor]]:
        """Return the arrays of `step_scope` for several rows; call it outside of the loop."""
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
    """A dense layer for one token per row, (b, 1, ...), with a matrix as kernel.

    On CPUs, XLA would fuse the reshaping of a kernel with three axes into the product with a single
    row, which is several times slower. For several rows, y^T = W^T x^T is a third to a half faster
    than y = x W, if W^T is contiguous.

    Args:
        inner: a `Dense`, or an `EinsumDense` whose kernel starts with the contracted axes.

    Attributes:
        matrix: W (in, out) or W^T (out, in); set it before a call.
        is_transposed: whether `matrix` is W^T.
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
            # With a third axis: XLA would replace a transposed product by one with swapped sides.
            y = ops.transpose(columns[None], (2, 0, 1))
        else:
            y = ops.matmul(x, self.matrix)
        y = ops.reshape(y, (-1, 1, *self._output_axes))
        y = y if self.inner.bias is None else y + self.inner.bias
        return y if self.inner.activation is None else self.inner.activation(y)

    def compute_output_spec(self, x: KerasTensor) -> KerasTensor:
        return KerasTensor((x.shape[0], 1, *self._output_axes), dtype=self.compute_dtype)


def with_projections(step: keras.Model) -> keras.Model:
    """Return a decode step of one token with a `Projection` for every dense layer.

    On PyTorch, where nothing is compiled, the step is returned as it is.
    """
    if keras.backend.backend() == "torch":
        return step

    def replaced(layer: Any) -> Any:
        is_dense = isinstance(layer, keras.layers.Dense | keras.layers.EinsumDense)
        # The kernel of a layer with LoRA is no variable that could be given as a matrix.
        return Projection(layer) if is_dense and not layer.lora_enabled else layer

    return keras.models.clone_model(step, clone_function=replaced)


def to_numpy(x: Tensor) -> np.ndarray:
    """Return a tensor or variable as a NumPy array, bfloat16 as float32."""
    array = ops.convert_to_numpy(whole(x))
    return array.astype("float32") if array.dtype.name == "bfloat16" else array


def compiled(
    function: Callable[..., Any], seeds: Sequence[keras.Variable] = ()
) -> Callable[..., Any]:
    """Compile a function with the backend, once for each shape of its arguments.

    Args:
        function: a function of arrays, and lists and dicts of arrays.
        seeds: variables of random seeds, which the function updates.
    """
    match keras.backend.backend():
        case "tensorflow":
            import tensorflow as tf

            function_of_tensors = tf.function(function, jit_compile=True, autograph=False)
            _expect_traces(function)

            def run(*arrays: Any) -> Any:
                # As tensors: TensorFlow would trace again for every value of a NumPy scalar.
                return function_of_tensors(*keras.tree.map_structure(tf.convert_to_tensor, arrays))

            return run
        case "jax":
            return _jitted(function, seeds)
        case "torch":
            import torch

            return torch.no_grad()(function)
    return function


def _expect_traces(function: Callable[..., Any]) -> None:
    """Leave out TensorFlow's warning that functions with the code of this one are traced again.

    The generator of every model compiles functions of its own once, and TensorFlow counts them as
    one function. Its warning names the function.
    """
    name = f"calls to {function} triggered tf.function retracing"
    logging.getLogger("tensorflow").addFilter(lambda record: name not in record.getMessage())


def _jitted(function: Callable[..., Any], seeds: Sequence[keras.Variable]) -> Callable[..., Any]:
    """Compile with JAX, with the seeds as arguments and results."""
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
