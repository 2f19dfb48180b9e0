"""Support for dotted layer names on the PyTorch backend of Keras.

Keras 3 stores the variables of a layer in a `torch.nn.ParameterDict` by path, which starts with the
name of the layer, but PyTorch forbids dots in parameter names.
"""

from __future__ import annotations

from typing import Any

import torch
from keras.src.backend.torch.layer import TorchLayer


class DottedParameterDict(torch.nn.ParameterDict):
    """A `ParameterDict` that replaces dots in keys by colons for PyTorch."""

    def _key_to_attr(self, key: str) -> str:
        return super()._key_to_attr(key).replace(".", ":")


def _track_variables(layer: Any) -> None:
    # Reading `value` would allocate the variables of an abstract model.
    allocated = [v for v in layer.variables if v._value is not None]
    layer._torch_params = DottedParameterDict({v.path: v.value for v in allocated})


TorchLayer._track_variables = _track_variables
