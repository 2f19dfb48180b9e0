"""Tensors of the backend as arrays of NumPy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np


def is_float(tensor: Any) -> bool:
    """Whether a tensor, symbolic or not, holds floats, of whatever precision."""
    import keras

    return "float" in keras.backend.standardize_dtype(tensor.dtype)


def is_half(tensor: Any) -> bool:
    """Whether a tensor holds floats of half precision, or of less."""
    import keras

    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return "float" in dtype and dtype not in ("float32", "float64")


def as_array(tensor: Any) -> np.ndarray:
    """A tensor of the backend in NumPy; floats as float32, since NumPy has no bfloat16."""
    from keras import ops

    array: np.ndarray = ops.convert_to_numpy(
        ops.cast(tensor, "float32") if is_float(tensor) else tensor
    )
    return array
