"""Assign the tensors of a folder to the layers of a model, one at a time."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from builders import TransformerSpec
from builders.abstract import allocate
from functional_models.hugging_face.family import (
    Computed,
    Family,
    Layers,
    OfExperts,
    Place,
    place_of,
)
from functional_models.hugging_face.stored_tensor import StoredTensor

# Names of the parameters of norms in checkpoints that were converted from TensorFlow.
_OLD_NAMES = {"weight": "gamma", "bias": "beta"}


class Tensors:
    """The tensors of a folder, and those of them that have been read.

    Args:
        stored: the tensors by name.
        family: the table of their family.

    Raises:
        ValueError: a tensor is stored twice, with the family's prefix and without it.
    """

    def __init__(self, stored: Mapping[str, StoredTensor], family: Family) -> None:
        self.family = family
        self._stored: dict[str, StoredTensor] = {}
        for name, tensor in stored.items():
            short = name.removeprefix(family.prefix)
            for other, ours in family.renamed.items():
                short = short.replace(other, ours)
            if short in self._stored:
                raise ValueError(f"the tensor {short} is stored twice, also as {name}")
            self._stored[short] = tensor
        self._names: dict[str, str] = {}  # stored name -> name that it was read by

    def __contains__(self, name: str) -> bool:
        """Return whether a tensor is stored by this name."""
        return name in self._stored

    def find(self, name: str) -> np.ndarray | None:
        """Return a tensor, or `None` if it is not stored; it remains to be read."""
        found = self._name(name)
        return self._values(found) if found in self._stored else None

    def differ(self, first: str, second: str) -> bool:
        """Return whether both tensors are stored, with other values."""
        one, other = self._stored.get(first), self._stored.get(second)
        return one is not None and other is not None and not one.equals(other)

    def __call__(self, name: str) -> np.ndarray:
        """Return a tensor.

        Raises:
            ValueError: it is not stored, or is no float.
        """
        found = self._name(name)
        other = self._names.setdefault(found, name)  # only tied tensors may stand for others
        if found not in self._stored or other != name:
            untied = ", and tie_word_embeddings does not tie it to another"
            raise ValueError(
                f"the tensor {other if found == name else name} is missing"
                f"{untied if found in self._stored else ''}; the configuration is of another "
                "model, or the folder is incomplete"
            )
        return self._values(found)

    def _values(self, name: str) -> np.ndarray:
        """Return a tensor by its stored name; raise as `__call__`."""
        self._check_type(name)
        return self._stored[name].read()

    def _check_type(self, name: str) -> None:
        """Check that a tensor has a type that weights are read from."""
        tensor = self._stored[name]
        if not tensor.is_float:
            raise ValueError(
                f"the tensor {name} has the type {tensor.type}; quantized weights are not "
                "supported: save the original ones"
            )

    def _name(self, name: str) -> str:
        """Return the stored name: the name, an old one of it, or that of a tied tensor."""
        owner, _, last = name.rpartition(".")
        old = f"{owner}.{_OLD_NAMES.get(last, last)}"
        tied = [other for group in self.family.tied if name in group for other in group]
        return next((found for found in (name, old, *tied) if found in self._stored), name)

    def check_all_read(self, head: str, spec: TransformerSpec) -> None:
        """Check that all tensors were read, or are known to say nothing about the outputs.

        Raises:
            ValueError: another tensor, or one that differs from what it must equal.
        """
        left = sorted(self._stored.keys() - self._names.keys())
        unknown = [name for name in left if not self._is_known(name, spec)]
        if unknown:
            raise ValueError(
                f"a {head} of this configuration has no tensor {unknown[0]}"
                + (f" (and {len(unknown) - 1} more)" if unknown[1:] else "")
                + "; the configuration is of another model, or the tensor belongs to a head or an "
                "addition that is not supported"
            )

    def _is_known(self, name: str, spec: TransformerSpec) -> bool:
        """Return whether it is known why a tensor was not read; warn if that is to be known."""
        family, tensor = self.family, self._stored[name]
        if any(re.search(rf"(^|\.){end}$", name) for end in family.unread):
            return True
        next_block = f"layers.{spec.num_layers}."
        if name.startswith(next_block) and next_block + family.later_tokens in self._stored:
            return True
        if name in family.computed:
            expected = family.computed[name](spec)
            found = self._values(name).astype("float32")
            if found.shape != expected.shape or not np.allclose(found, expected, atol=2e-3):
                raise ValueError(f"{name} has other values than those that the model computes")
            return True
        others = [other for group in family.tied if name in group for other in group]
        read = [other for other in others if other in self._names]
        if any(tensor.equals(self._stored[other]) for other in read):
            return True
        if name in family.left_out:
            warnings.warn(f"{name} is left out: {family.left_out[name]}", stacklevel=5)
            return True
        if read:
            self._check_type(name)
            raise ValueError(
                f"{name} and {read[0]} are tied by the configuration, but their values differ; "
                "set tie_word_embeddings to what the model was trained with"
            )
        return False


def assign_weights(model: Any, spec: TransformerSpec, layers: Layers, tensors: Tensors) -> None:
    """Allocate the variables of a model that has none yet, with the values of tensors.

    Args:
        model: the model.
        spec: the spec that follows from the configuration.
        layers: the tensors of its layers.
        tensors: the tensors of the folder.

    Raises:
        ValueError: a tensor is missing, or has the shape of another model.
    """
    rows = [(layer, variable) for layer in model.layers for variable in layer.weights]
    # The largest first: a tensor and its copies are in memory together.
    for layer, variable in sorted(rows, key=lambda row: -math.prod(row[1].shape)):
        place = place_of(layers, layer.name)
        assert place is not None
        allocate(variable, _value(layer.name, variable, place, spec, tensors))
    for variable in model.variables:  # the states of random generators
        if variable._value is None:
            allocate(variable)


def _value(
    layer: str,
    variable: Any,
    place: Place | OfExperts | Computed,
    spec: TransformerSpec,
    tensors: Tensors,
) -> np.ndarray:
    """Return the value of a variable of a layer, in its precision or in float32."""
    number = re.search(r"block_(\d+)", layer)
    if isinstance(place, Computed):
        return np.asarray(place.read(tensors, spec), "float32").reshape(variable.shape)
    if isinstance(place, OfExperts):
        block = number[1] if number else ""
        return _kernels(place, block, layer, tuple(variable.shape), tensors)
    name = place.tensor(variable.name)
    shape = tuple(variable.shape)
    if not name:
        return np.zeros(shape, "float32")
    name = name.format(i=number and number[1])
    stored = array = tensors(name)
    try:
        is_kernel = variable.name == "kernel"
        if place.of_experts or (is_kernel and place.inputs_first):
            array = np.moveaxis(array, -1, 0)
        if place.by_head:
            if array.ndim != 2 or array.shape[1] != spec.head_dim:
                raise ValueError("another shape")
            array = array.reshape(-1)
        if place.by_channel:
            if array.ndim != 3 or array.shape[1] != 1:
                raise ValueError("another shape")
            array = array[:, 0]
        if place.part is not None:
            array = place.part(array, spec)
        if place.of_experts or is_kernel:
            array = np.moveaxis(array, 0, -1)  # outputs last
        if array.ndim == len(shape):
            fits = array.shape == shape
        elif is_kernel:  # of which inputs or outputs may have two axes here
            fits = array.shape[0] == shape[0] or array.shape[-1] == shape[-1]
        else:
            fits = array.shape[-1] == array.size == math.prod(shape)
        if not fits:
            raise ValueError("another shape")
        if array.dtype.name != variable.dtype:
            array = np.asarray(array, "float32")
        return array.reshape(shape)
    except (ValueError, IndexError):
        raise ValueError(_other_shape(name, stored.shape, layer, shape)) from None


def _kernels(
    place: OfExperts, block: str, layer: str, shape: tuple[int, ...], tensors: Tensors
) -> np.ndarray:
    """Return the kernels of the experts of a layer, (e, inputs, outputs), in float32."""
    name = place.weight.replace("{i}", block)
    stack = place.stack.replace("{i}", block)
    if stack in tensors:
        return _unstacked(place, stack, layer, shape, tensors)
    kernels = np.empty(shape, "float32")
    for expert, kernel in enumerate(kernels):
        stored = tensors(name.format(e=expert))
        if stored.shape != kernel.T.shape:
            raise ValueError(_other_shape(name.format(e=expert), stored.shape, layer, shape))
        kernel[...] = stored.T
    return kernels


def _unstacked(
    place: OfExperts, name: str, layer: str, shape: tuple[int, ...], tensors: Tensors
) -> np.ndarray:
    """Return the same kernels from the tensor of all experts, (e, outputs, inputs)."""
    stored = tensors(name)
    experts, inputs, outputs = shape
    parts = 1 if place.half is None else 2
    if stored.shape != (experts, parts * outputs, inputs):
        raise ValueError(_other_shape(name, stored.shape, layer, shape))
    first = outputs * (place.half or 0)
    return np.asarray(stored[:, first : first + outputs].swapaxes(1, 2), "float32")


def _other_shape(name: str, stored: tuple[int, ...], layer: str, shape: tuple[int, ...]) -> str:
    return (
        f"the tensor {name} has the shape {stored}, which is not that of {layer}, {shape}; the "
        "configuration is of another model"
    )
