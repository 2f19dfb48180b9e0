"""`LayerScope`: the spec of a model, and its layers by dotted name."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import keras

from builders.spec import TransformerSpec

if keras.backend.backend() == "torch":
    import builders.torch_names  # noqa: F401 - dotted names need it on that backend

L = TypeVar("L", bound=keras.layers.Layer)


class LayerScope:
    """The spec of a model and its layers, from which several graphs can be wired.

    A wiring is a function from tensors to tensors that asks a scope for every layer it calls. On
    an empty scope it makes a new model. On the scope of an existing model it finds that model's
    layers, so the graph it wires shares all weights with the model.

    Args:
        spec: of the model.
        model: the model whose layers to return; `None` starts empty.

    Attributes:
        spec: of the model; within a block, of that block.
        block_index: within a block, its index in its stack; otherwise 0.
        exposes_scores: whether attention is wired in steps, so that a graph can return its scores.
        rows_per_expert: int (e,), within the experts of a mixture; `None` elsewhere.
        slots: int (b, c), within self-attention of a decode graph, the slots of its cache as in
            `AttentionContext`; `None` elsewhere.
        starts: int (b, t), within self-attention of a packed graph, as in `AttentionContext`;
            `None` elsewhere.
    """

    def __init__(self, spec: TransformerSpec, model: keras.Model | None = None) -> None:
        self.spec = spec
        self.block_index = 0
        self._kept: dict[str, Any] = {}
        self._layers = {} if model is None else _layers_by_name(model)
        self._place = ""  # of a call, with the index of the block in its stack
        self._owner = ""  # of its layers: the place of the first block that has them
        # Layers that are added to a model compute in the precision of the model.
        self._defaults = {} if model is None else {"dtype": _dtype(model)}
        self.exposes_scores = False
        self.rows_per_expert: Any = None
        self.slots: Any = None
        self.starts: Any = None

    def __repr__(self) -> str:
        return f"<LayerScope {'.'.join(self.path)!r} of {len(self._layers)} layers: {self.spec}>"

    def within(self, name: str) -> LayerScope:
        """Return the scope one level below: the same layers, with names prefixed by `name`."""
        scope = copy.copy(self)
        scope._place, scope._owner = (f"{prefix}{name}." for prefix in (self._place, self._owner))
        return scope

    def block(self, index: int) -> LayerScope:
        """Return the scope of one block of a stack, with the spec of that block.

        Where the spec has fewer `distinct_blocks`, several blocks have the same layers.
        """
        scope = self.within(f"block_{index}")
        scope._owner = f"{self._owner}block_{self.spec.owner_of_block(index)}."
        scope.spec = self.spec.of_block(index)
        scope.block_index = index
        return scope

    def with_spec(self, **changes: Any) -> LayerScope:
        """Return a scope with changed fields of the spec, for a part that differs in them."""
        scope = copy.copy(self)
        scope.spec = self.spec.replace(**changes)
        return scope

    def keep(self, name: str, value: Any) -> None:
        """Keep tensors under a name of this scope, for a later step of the wiring."""
        self._kept[self.full_name(name)] = value

    def kept(self, name: str) -> Any:
        """Return what was kept last under a name of this scope."""
        return self._kept[self.full_name(name)]

    @property
    def per_call(self) -> LayerScope:
        """The scope of the same place whose layers no other block shares."""
        scope = copy.copy(self)
        scope._owner = self._place
        return scope

    @property
    def path(self) -> tuple[str, ...]:
        """The names of the place from the top, e.g. ("decoder", "block_3", "feedforward")."""
        return tuple(self._place.split("."))[:-1]

    def full_name(self, name: str) -> str:
        """Return the dotted name of the call of the layer `name` at this place.

        It is the name of the layer, except in a block that shares its layers with an earlier one.
        """
        return self._place + name

    def layer(self, name: str, cls: type[L], /, *args: Any, **kwargs: Any) -> L:
        """Return the layer `name` of this scope, made as `cls(*args, **kwargs)` if it is new.

        Raises:
            ValueError: the model has a layer of that name, but of another class.
        """
        full_name = self._owner + name
        if full_name not in self._layers:
            self._layers[full_name] = cls(*args, name=full_name, **(self._defaults | kwargs))
            return self._layers[full_name]
        found = self._layers[full_name]
        if not isinstance(found, cls) and not isinstance(getattr(found, "inner", None), cls):
            raise ValueError(
                f"layer {full_name!r} is a {type(found).__name__}, but the spec wires a "
                f"{cls.__name__} there; use the spec that the model was built from"
            )
        return found


class Renamed(keras.layers.Layer):
    """A layer from inside another one, under a name of its own in the graph."""

    def __init__(self, inner: keras.layers.Layer, name: str) -> None:
        super().__init__(name=name, dtype=inner.compute_dtype)
        self.inner = inner
        self.built = True

    def call(self, x: Any) -> Any:
        return self.inner(x)


def _dtype(model: keras.Model) -> str:
    """Return the name of the dtype policy of a model, without quantization."""
    policy = next(layer.dtype_policy for layer in model.layers if layer.weights)
    mode = getattr(policy, "quantization_mode", None)
    return policy.compute_dtype if mode else policy.name


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
