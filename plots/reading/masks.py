"""The masks that tensors carry when a model is computed, where Keras has recorded others.

Of a layer that is made of layers Keras records the mask that its own `compute_mask` gives. When the
model is computed, its output carries the mask that the last layer inside has put on it, and so does
what other layers make of it. Only who looks into layers sees that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MaskOf = Callable[[Any], Any]
"""Symbolic tensor -> the mask that it carries, or None."""


def recorded_mask(tensor: Any) -> Any:
    """The mask that Keras has recorded for a symbolic tensor; None if there is none."""
    return getattr(tensor, "_keras_mask", None)


class CarriedMasks:
    """Masks of symbolic tensors: those that were put, and else those that Keras has recorded."""

    def __init__(self) -> None:
        self._put: dict[int, Any] = {}  # by id(tensor); the model keeps those alive

    def of(self, tensor: Any) -> Any:
        """The mask that a tensor carries; None if there is none."""
        return self._put.get(id(tensor), recorded_mask(tensor))

    def put(self, tensor: Any, mask: Any) -> None:
        """Note that a tensor carries this mask."""
        if mask is not None and mask is not recorded_mask(tensor):
            self._put[id(tensor)] = mask

    def propagate_mask(self, call: Any) -> list[Any]:
        """Put masks on what a layer gives out, if there are new ones on what it takes.

        As `keras.layers.Layer.__call__` does it: by the layer's `compute_mask`, given its first
        argument and the masks of that.

        Returns:
            The masks that went into new ones; none if they are handed on as they are.
        """
        import keras

        operation = call.operation
        given = [*call.arguments.args, *call.arguments.kwargs.values()]
        if not given or not getattr(operation, "supports_masking", False):
            return []
        if not any(id(tensor) in self._put for tensor in keras.tree.flatten(given[0])):
            return []
        before = keras.tree.map_structure(self.of, given[0])
        try:
            after = keras.tree.flatten(operation.compute_mask(given[0], before))
        except Exception:  # somebody's Python, which the model may never have called so
            return []
        known = [mask for mask in keras.tree.flatten(before) if mask is not None]
        for tensor, mask in zip(call.outputs, after, strict=False):
            if recorded_mask(tensor) is None:
                self.put(tensor, mask)
        is_new = any(all(mask is not other for other in (None, *known)) for mask in after)
        return known if is_new else []
