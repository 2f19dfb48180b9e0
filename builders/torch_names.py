"""Lets layers with dotted names build on the PyTorch backend of Keras.

Keras 3 keeps the variables of a layer in a `torch.nn.ParameterDict` under their paths, which start
with the layer's name, and PyTorch refuses dots in parameter names.
"""

from __future__ import annotations

from typing import Any

import torch
from keras.src.backend.torch.layer import TorchLayer


class DottedParameterDict(torch.nn.ParameterDict):
    """A `ParameterDict` whose keys may have dots; PyTorch sees colons in their place."""

    def _key_to_attr(self, key: str) -> str:
        return super()._key_to_attr(key).replace(".", ":")


def _track_variables(layer: Any) -> None:
    # Asked for its value, a variable of a model without weights would make one.
    there = [v for v in layer.variables if v._value is not None]
    layer._torch_params = DottedParameterDict({v.path: v.value for v in there})


TorchLayer._track_variables = _track_variables
