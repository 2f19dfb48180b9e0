"""`LayerScope`: the layers of one model by dotted name, made when first asked for."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, TypeVar

import keras

if TYPE_CHECKING:
    from builders.cache import KeyValueCache

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

    Attributes:
        cache: what a decode graph remembers; `None` where whole sequences are read.
        shows_scores: whether attention is wired step by step, so that its scores can be had.
    """

    def __init__(self, model: keras.Model | None = None) -> None:
        self._layers = {} if model is None else _layers_by_name(model)
        self._prefix = ""
        # What is added to a model computes in the precision that the model was built in.
        self._new = {} if model is None else {"dtype": _dtype_policy(model)}
        self.cache: KeyValueCache | None = None
        self.shows_scores = False

    def within(self, name: str) -> LayerScope:
        """Return the scope one step further down: same layers, names prefixed by `name`."""
        scope = copy.copy(self)
        scope._prefix = f"{self._prefix}{name}."
        return scope

    @property
    def path(self) -> tuple[str, ...]:
        """The names from the top down to here, e.g. ("decoder", "block_3", "feedforward")."""
        return tuple(self._prefix.split("."))[:-1]

    def full_name(self, name: str) -> str:
        """Return the name of what is called `name` here: `decoder.block_3.feedforward.up`."""
        return self._prefix + name

    def layer(self, name: str, cls: type[L], /, *args: Any, **kwargs: Any) -> L:
        """Return the layer `name` of this scope, made as `cls(*args, **kwargs)` if it is new.

        Raises:
            ValueError: the model has a layer of that name, but of another class.
        """
        full_name = self.full_name(name)
        if full_name not in self._layers:
            self._layers[full_name] = cls(*args, name=full_name, **(self._new | kwargs))
        found = self._layers[full_name]
        if not isinstance(getattr(found, "inner", found), cls):
            raise ValueError(
                f"layer {full_name!r} is a {type(found).__name__}, but the spec wires a "
                f"{cls.__name__} there; use the spec that the model was built from"
            )
        return found


class Renamed(keras.layers.Layer):
    """A layer from inside another one, under a name of its own in the graph."""

    def __init__(self, inner: keras.layers.Layer, name: str) -> None:
        super().__init__(name=name, dtype=inner.dtype_policy)
        self.inner = inner
        self.built = True

    def call(self, x: Any) -> Any:
        return self.inner(x)


def _dtype_policy(model: keras.Model) -> keras.DTypePolicy:
    return next(layer.dtype_policy for layer in model.layers if layer.weights)


def _layers_by_name(model: keras.Model) -> dict[str, Any]:
    """Return the layers of a model, and the four projections inside the library's attention.

    So a model whose `attention` is `layer` can be wired step by step too, with the same weights.
    """
    layers: dict[str, Any] = {layer.name: layer for layer in model.layers}
    for name, layer in list(layers.items()):
        if isinstance(layer, keras.layers.MultiHeadAttention):
            for role in ("query", "key", "value", "output"):
                inner_name = name.removesuffix("attention") + role
                layers[inner_name] = Renamed(getattr(layer, f"{role}_dense"), inner_name)
    return layers
