"""Key/value caches of decode graphs.

A cache is a flat dict of arrays by dotted name, each with the batch axis first. The empty cache is
all zeros. It has `c` slots, which tokens fill from the left.

| entry | shape | holds |
| --- | --- | --- |
| `decoder.position_cache` | int32 (b, c) | 1 + the position of a slot's token; 0: masked |
| `decoder.window_position_cache` | int32 (b, c) | the same, for blocks with a window |
| `decoder.chunk_position_cache` | int32 (b, c) | the same, for blocks with chunks |
| `decoder.block_3.self_attention.key_cache` | (b, k, h, c) | keys of the tokens read |
| `decoder.block_3.self_attention.value_cache` | (b, k, c, h) | values of the tokens read |
| `decoder.block_3.self_attention.latent_cache` | (b, 1, c, l) | with `latent_dim` l: latents |
| `decoder.block_3.self_attention.shared_key_cache` | (b, 1, c, r) | with it: rotated keys |
| `decoder.block_3.cross_attention.key_cache` | (b, k, h, s) | keys of the source |
| `decoder.block_3.cross_attention.value_cache` | (b, k, s, h) | values of the source |
| `encoder.memory_mask` | bool (b, 1, s) | source tokens that are not padding |

Blocks of another `mixer` keep other entries, such as the memory of a Gated DeltaNet, whose size
does not depend on the tokens read.

In blocks with a window or chunks, the slots are a ring buffer of at most that size, in which a new
token replaces the oldest. Keys and values are stored in the layout of the products softmax(q K) V
of one query, so that no decoding step transposes the cache.
"""

from __future__ import annotations

from typing import Any, ClassVar

import keras
from keras import KerasTensor, ops

from builders.components import component
from builders.masks import MaskInReach, Reach, is_visible, reach_prefixed
from builders.prefixes import prefix_slot_mask
from builders.scope import LayerScope
from builders.spec import TransformerSpec

Tensor = Any
Entries = dict[str, tuple[tuple[int | None, ...], str]]

SLOT_AXIS = {"key": 3, "value": 2, "shared_key": 2, "latent": 2}
"""The axis of the slots in the cache of keys, (b, k, h, c), and in the others, (b, k, c, h)."""


def cached_roles(spec: TransformerSpec) -> dict[str, tuple[int, int]]:
    """Return what the cache of an attention holds of a token: (heads, width) by role."""
    if spec.latent_dim is not None:
        return {"shared_key": (1, spec.rotary_dim), "latent": (1, spec.latent_dim)}
    return dict.fromkeys(("key", "value"), (spec.num_key_value_heads, spec.head_dim))


def cache_entries(
    spec: TransformerSpec,
    batch_size: int | None,
    length: Any,
    dtype: str,
) -> Entries:
    """Return shape and dtype of the cache of a decoder's own tokens, by name.

    Args:
        spec: of the model.
        batch_size: rows; `None` in a graph that takes any number.
        length: maximum number of cached tokens, at least 1, or a tensor; `None` as above.
        dtype: of keys and values: the compute dtype of the model.
    """

    def slots(block: TransformerSpec) -> Any:
        most = block.most_keys
        if most is None or length is None:
            return length
        return min(length, most) if isinstance(length, int) else ops.minimum(length, most)

    blocks = spec.blocks("decoder")
    entries: Entries = {
        f"decoder.{reach_prefixed(spec, 'position_cache', Reach.of(block))}": (
            (batch_size, slots(block)),
            "int32",
        )
        for block in blocks
    }
    for i, block in enumerate(blocks):
        name = f"decoder.block_{i}.self_attention"
        mixer = component("mixer", block.mixer)()
        entries |= mixer.cache_entries(block, name, batch_size, slots(block), dtype)
    return entries


def memory_entries(
    spec: TransformerSpec, batch_size: int | None, source_length: int | None, dtype: str
) -> Entries:
    """Return shape and dtype of the cache of the source, by name; empty without an encoder."""
    if spec.kind != "encoder_decoder":
        return {}
    entries: Entries = {}
    for i, block in enumerate(spec.blocks("decoder")):
        name = f"decoder.block_{i}.cross_attention"
        entries |= key_value_entries(block, name, batch_size, source_length, dtype)
    if spec.pad_token_id is not None:
        entries["encoder.memory_mask"] = ((batch_size, 1, source_length), "bool")
    return entries


def key_value_entries(
    spec: TransformerSpec, attention: str, batch_size: int | None, slots: Any, dtype: str
) -> Entries:
    """Return shape and dtype of the cached keys and values of an attention, by name."""
    entries: Entries = {}
    for role, (heads, width) in cached_roles(spec).items():
        shape = [batch_size, heads, width, width]
        shape[SLOT_AXIS[role]] = slots
        entries[f"{attention}.{role}_cache"] = (tuple(shape), dtype)
    return entries


class KeyValueCache:
    """The cache of one decode graph during its wiring.

    Args:
        entries: the input cache, by name.
        index: int (), number of filled slots.
        start: int (b,), the slot of each row's first token.
        takes_several: whether a step may append several tokens. In a ring buffer these may
            overwrite keys that the first of them still attends to.

    Attributes:
        entries: the output cache; entries without new tokens are those of the input.
    """

    def __init__(
        self,
        entries: dict[str, KerasTensor],
        index: KerasTensor,
        start: KerasTensor,
        takes_several: bool,
    ) -> None:
        self.entries = dict(entries)
        self._index = index
        self._start = start
        self._takes_several = takes_several
        self._positions: Tensor = None  # wired when first asked for
        self._seen: Tensor = None
        self._slots: dict[Reach, Tensor] = {}
        self._names: dict[Reach, str] = {}

    def read(self, scope: LayerScope, name: str) -> Tensor:
        """Return an entry."""
        return self.entries[scope.full_name(name)]

    def append(self, scope: LayerScope, name: str, new: Tensor, axis: int, is_ring: bool) -> Tensor:
        """Wire the update of an entry by new tokens; return the keys or values to attend to.

        They have the axes of the entry and of the new tokens. `axis` is the axis of the slots,
        which may be a ring buffer.
        """
        old = self.read(scope, name)
        update = scope.layer(f"{name}_update", CacheUpdate, axis=axis)
        updated = self.entries[scope.full_name(name)] = update(old, new, self._index)
        if not is_ring or not self._takes_several:
            return updated
        return scope.layer(f"{name}_and_new", keras.layers.Concatenate, axis=axis)([old, new])

    def replace(self, scope: LayerScope, name: str, value: Tensor) -> None:
        """Replace an entry as a whole."""
        self.entries[scope.full_name(name)] = value

    def positions(self, scope: LayerScope, tokens: Tensor) -> Tensor:
        """Wire the positions of new tokens (b, t): int (b, t), negative before a row's start."""
        if self._positions is None:
            layer = scope.layer("slot_positions", SlotPositions)
            self._positions = layer(tokens, self._index, self._start)
        return self._positions

    def causal_mask(self, scope: LayerScope, tokens: Tensor, reach: Reach) -> Tensor:
        """Wire the mask of the slots that new tokens (b, t) attend to: bool (b, t, c).

        Call it once for each reach: it also appends the positions of the tokens.
        """
        positions = self.positions(scope, tokens)
        if self._seen is None:
            layer = scope.layer("seen_positions", SeenPositions, scope.spec.target_pad_token_id)
            self._seen = layer(tokens, positions)
        name = reach_prefixed(scope.spec, "position_cache", reach)
        self._names[reach] = scope.full_name(name)
        is_ring = reach != Reach()
        slots = self._slots[reach] = self.append(scope, name, self._seen, 1, is_ring)
        if scope.spec.prefix_lm and self._takes_several:  # one token alone sees itself
            return prefix_slot_mask(scope, positions, slots, self._index, reach)
        name = reach_prefixed(scope.spec, "slot_mask", reach)
        return scope.layer(name, SlotMask, *reach)(positions, slots)

    def real_tokens(self, scope: LayerScope) -> Tensor:
        """Wire which new tokens are masked nowhere, bool (b, 1, t), after `causal_mask`."""
        return scope.layer("real_tokens", RealTokens)(self._seen)

    def slots(self, reach: Reach) -> Tensor:
        """Return 1 + the positions in the slots of blocks of this reach: int (b, c)."""
        return self.entries[self._names[reach]]

    def key_positions(self, scope: LayerScope, reach: Reach) -> Tensor:
        """Wire the positions of the keys of `causal_mask`: int (b, c), -1 for empty slots."""
        name = reach_prefixed(scope.spec, "key_positions", reach)
        return scope.layer(name, KeyPositions)(self._slots[reach])


@keras.saving.register_keras_serializable(package="builders")
class CacheUpdate(keras.layers.Layer):
    """The cache with new tokens written after the first `index` tokens.

    `cache` and `new` have the same shape except along `axis`, where the cache has c slots and new
    has t tokens; index is int (). Token i is written to slot i mod c.
    """

    def __init__(self, axis: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis

    @property
    def graph_declaration(self) -> dict[str, Any]:
        cache = {1: "bs", SLOT_AXIS["value"]: "bksh", SLOT_AXIS["key"]: "bkhs"}[self.axis]
        return {"signature": f"{cache},{cache.replace('s', 't')}->{cache}", "products": []}

    def call(self, cache: Tensor, new: Tensor, index: Tensor) -> Tensor:
        size, count = ops.shape(cache)[self.axis], ops.shape(new)[self.axis]
        index = ops.cast(index, "int32")
        # In a TensorFlow graph with a free number of slots, such as an exported one, XLA would
        # compile `slice_update` for every number of them.
        if isinstance(size, int) and isinstance(count, int) and count == 1:
            corner: list[Any] = [0] * len(cache.shape)
            corner[self.axis] = ops.mod(index, size)
            new = ops.cast(new, cache.dtype)
            if cache.shape[0] != 1:
                return ops.slice_update(cache, corner, new)
            # XLA drops the axis of a single row before it multiplies. Without that axis the update
            # needs no second copy of the cache in another shape.
            return ops.slice_update(cache[0], corner[1:], new[0])[None]
        # The last token of each slot: `last` is in slot last mod c, and so on back from there.
        last = index + count - 1
        slots = ops.arange(size, dtype="int32")
        number = last - ops.mod(last - slots, size)  # (c,) of the token in the slot
        is_new = ops.greater_equal(number, index)
        found = new  # one token is broadcast
        if not isinstance(count, int) or count > 1:
            found = ops.take(new, ops.clip(number - index, 0, count - 1), axis=self.axis)
        shape = [1] * len(cache.shape)
        shape[self.axis] = -1
        return ops.where(ops.reshape(is_new, shape), ops.cast(found, cache.dtype), cache)

    def compute_output_spec(
        self, cache: KerasTensor, new: KerasTensor, index: KerasTensor
    ) -> KerasTensor:
        return KerasTensor(cache.shape, dtype=cache.dtype)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis}


@keras.saving.register_keras_serializable(package="builders")
class SlotPositions(keras.layers.Layer):
    """Positions of new tokens: tokens (b, t), index (), start (b,) -> int (b, t)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt,,b->bt", "role": "position_ids"}

    def call(self, tokens: Tensor, index: Tensor, start: Tensor) -> Tensor:
        slots = ops.arange(ops.shape(tokens)[1], dtype="int32") + ops.cast(index, "int32")
        return slots[None, :] - ops.cast(start, "int32")[:, None]

    def compute_output_spec(
        self, tokens: KerasTensor, index: KerasTensor, start: KerasTensor
    ) -> KerasTensor:
        return KerasTensor(tokens.shape, dtype="int32")


@keras.saving.register_keras_serializable(package="builders")
class SeenPositions(keras.layers.Layer):
    """1 + position, or 0 for masked slots: padding, and slots before the start of a row.

    tokens (b, t), positions (b, t) -> int (b, t).
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt,bt->bt", "role": "position_ids"}

    def __init__(self, pad_token_id: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pad_token_id = pad_token_id

    def call(self, tokens: Tensor, positions: Tensor) -> Tensor:
        seen = ops.maximum(positions + 1, 0)
        if self.pad_token_id is None:
            return seen
        return ops.where(ops.equal(tokens, self.pad_token_id), 0, seen)

    def compute_output_spec(self, tokens: KerasTensor, positions: KerasTensor) -> KerasTensor:
        return KerasTensor(tokens.shape, dtype="int32")

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "pad_token_id": self.pad_token_id}


@keras.saving.register_keras_serializable(package="builders")
class RealTokens(keras.layers.Layer):
    """Mask of the tokens that `SeenPositions` marks as real: int (b, t) -> bool (b, 1, t)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt->b1t", "role": "padding_mask"}

    def call(self, seen: Tensor) -> Tensor:
        return (seen > 0)[:, None]

    def compute_output_spec(self, seen: KerasTensor) -> KerasTensor:
        return KerasTensor((seen.shape[0], 1, seen.shape[1]), dtype="bool")


@keras.saving.register_keras_serializable(package="builders")
class KeyPositions(keras.layers.Layer):
    """Positions of the tokens in the slots of a cache: slots int (b, c) -> int (b, c)."""

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bs->bs", "role": "position_ids"}

    def call(self, slots: Tensor) -> Tensor:
        return slots - 1

    def compute_output_spec(self, slots: KerasTensor) -> KerasTensor:
        return KerasTensor(slots.shape, dtype="int32")


@keras.saving.register_keras_serializable(package="builders")
class SlotMask(MaskInReach):
    """Mask of the slots to attend to: positions (b, t), slots (b, c) -> bool (b, t, c).

    Args:
        window, chunk: as in `Reach`.
    """

    graph_declaration: ClassVar[dict[str, Any]] = {"signature": "bt,bs->bts"}

    def call(self, positions: Tensor, slots: Tensor) -> Tensor:
        seen = slots[:, None, :]
        return ops.logical_and(seen > 0, is_visible(positions[:, :, None], seen - 1, self.reach))

    def compute_output_spec(self, positions: KerasTensor, slots: KerasTensor) -> KerasTensor:
        return KerasTensor((*positions.shape, slots.shape[1]), dtype="bool")
