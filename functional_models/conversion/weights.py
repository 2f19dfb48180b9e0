"""Pairs of weights of a model here and of a KerasHub backbone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from functional_models.conversion.family import Family, Part


def pairs_of_weights(
    model: Any, root: Any, layers: Mapping[str, str | Part]
) -> list[tuple[Any, Any, Any]]:
    """Return each variable with the backbone's variable, and the view of its array."""
    prefix = "backbone." if hasattr(root, "backbone") else ""
    pairs = []
    for layer in model.layers:
        if not layer.weights:
            continue
        number = re.search(r"block_(\d+)", layer.name)
        place = layers[re.sub(r"block_\d+", "block_{i}", layer.name)]
        path = place.path if isinstance(place, Part) else place
        of_task = path.startswith("masked_lm_head")
        path = ("" if of_task else prefix) + path.format(i=number and number[1])
        found = _attribute(root, path)
        theirs = getattr(found, "weights", [found])
        if len(theirs) != len(layer.weights):
            raise ValueError(
                f"{path} has {len(theirs)} weights ({', '.join(x.name for x in theirs)}), expected "
                f"{len(layer.weights)}; of a model with LoRA or quantization, convert the original "
                "weights"
            )
        for ours, variable in zip(layer.weights, theirs, strict=True):
            view = place.view if isinstance(place, Part) and len(variable.shape) > 1 else None
            pairs.append((ours, variable, _View(layer.name, tuple(ours.shape), view)))
    return pairs


@dataclasses.dataclass(frozen=True)
class _View:
    """View of a backbone's array, in the shape of the corresponding variable."""

    name: str
    shape: tuple[int, ...]
    part: Any

    def __call__(self, array: np.ndarray) -> np.ndarray:
        found = array if self.part is None else self.part(array)
        if found.shape == self.shape:
            return found
        # Heads and their channels may be on one axis or on two.
        joined = found.ndim != len(self.shape) and found.size == np.prod(self.shape)
        if not joined or not found.flags.c_contiguous:
            raise ValueError(
                f"{self.name} has the shape {self.shape}, but {found.shape} in the backbone"
            )
        return found.reshape(self.shape)


def _attribute(root: Any, path: str) -> Any:
    for name in path.split("."):
        root = root[int(name)] if name.isdigit() else getattr(root, name)
    return root


def as_array(variable: Any) -> np.ndarray:
    """Return the value of a variable in float32."""
    import keras

    value = keras.ops.convert_to_numpy(keras.ops.cast(variable.value, "float32"))
    return np.ascontiguousarray(value)


def check_all_read(weights: list[Any], read: set[int], family: Family) -> None:
    """Raise a ValueError if the `id` of a weight is not in `read`."""
    left = [weight.path for weight in weights if id(weight) not in read]
    if left:
        raise ValueError(
            f"{family.backbone} has weights that are not supported: {', '.join(left[:3])}"
        )
