"""`LayerScope`: the layers of one model by dotted name, made when first asked for."""

from __future__ import annotations

from typing import Any, TypeVar

import keras

if keras.backend.backend() == "torch":
    import builders.torch_names  # noqa: F401 - dotted names need it on that backend

L = TypeVar("L", bound=keras.layers.Layer)


class LayerScope:
    """Hands out the layers of one model, so that several graphs can be wired from the same ones.

    A wiring is a function from tensors to tensors that asks a scope for every layer it calls. On
    an empty scope it makes a new model. On the scope of an existing model it finds that model's
    layers, so what it wires shares all weights with it.

    Args:
        model: the model whose layers to hand out; `None` starts empty.
    """

    def __init__(self, model: keras.Model | None = None) -> None:
        self._layers = {} if model is None else {layer.name: layer for layer in model.layers}
        self._prefix = ""

    def within(self, name: str) -> LayerScope:
        """Return the scope one step further down: same layers, names prefixed by `name`."""
        scope = LayerScope()
        scope._layers = self._layers
        scope._prefix = f"{self._prefix}{name}."
        return scope

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the top down to here, e.g. ("decoder", "block_3", "feedforward")."""
        return tuple(self._prefix.split("."))[:-1]

    def layer(self, name: str, cls: type[L], /, *args: Any, **kwargs: Any) -> L:
        """Return the layer `name` of this scope, made as `cls(*args, **kwargs)` if it is new.

        Raises:
            ValueError: the model has a layer of that name, but of another class.
        """
        full_name = self._prefix + name
        if full_name not in self._layers:
            self._layers[full_name] = cls(*args, name=full_name, **kwargs)
        found = self._layers[full_name]
        if not isinstance(found, cls):
            raise ValueError(
                f"layer {full_name!r} is a {type(found).__name__}, but the spec wires a "
                f"{cls.__name__} there; use the spec that the model was built from"
            )
        return found
