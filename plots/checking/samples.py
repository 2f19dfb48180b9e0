"""Small batches that fit a model, and the same with some positions changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from plots.attentions import (
    inputs_of_masks,
    inputs_of_masks_and_factors,
    lengths_of_samples,
)
from plots.graph import Graph
from plots.layers import is_identity_like, is_recurrent
from plots.measuring.inputs import ids_and_lengths, padding_of
from plots.reading import read_graph
from plots.reading.keras_calls import RecordedCall
from plots.traversal import reachability

if TYPE_CHECKING:
    import keras
    import numpy as np

_LENGTHS = (13, 11, 17, 7, 19, 5, 23, 3)
"""Lengths to choose from: primes, to tell the axis of positions from others."""

_IMAGE_SIDE = 32
_NUMBERS = 100  # the integers that are quantities are smaller
_LARGE = 30_000_000  # weights: more get shorter sequences
_MOST_PROBES = 10
_SHORT = 19
_MOST_WORK = 6e10
"""Most products of weights and positions in one run: about two seconds on two cores."""


@dataclass(frozen=True)
class Field:
    """One input of a model.

    Attributes:
        place: Id of its call, which is its name.
        shape: Shape of a batch.
        dtype: Its dtype.
        kind: "ids" that are looked up in a table, "floats", "integers" that are quantities, such as
            those of images, "texts" that the model splits itself, or "other": masks, segments and
            other integers.
        ids: The ids that it may hold, without that of the padding, in ascending order.
        padding: Id of the padding, or the number in all features of a padded vector, if the model
            masks one.
        words: Words that a text is made of.
        is_free: Whether the model takes any number of positions.
        is_share: Whether its floats are from 0 to 1, such as those of boxes, and not normal.
        is_mask: Whether only masks of attentions depend on it, and it has a number per position.
        is_flag: Whether its floats are 0 or 1, since only masks of pairs of positions depend on it:
            a large negative number times other floats would leave one key for each query.
        is_length: Whether it holds a length for each sample, which is half of that of all then.
        has_steps: Whether it has four or more axes, and a recurrent layer goes along the second.
    """

    place: str
    shape: tuple[int, ...]
    dtype: str
    kind: Literal["ids", "floats", "integers", "texts", "other"]
    ids: Sequence[int] | np.ndarray = ()
    padding: float | None = None
    words: tuple[str, ...] = ()
    is_free: bool = False
    is_share: bool = False
    is_mask: bool = False
    is_flag: bool = False
    is_length: bool = False
    has_steps: bool = False

    @property
    def has_positions(self) -> bool:
        """Whether its second axis is one of positions, not of features, rows or channels."""
        if self.kind == "texts":
            return True
        if self.kind == "integers" and len(self.shape) == 2:
            return self.is_free  # else they are features
        if self.kind in ("floats", "integers"):
            return len(self.shape) == 3 or self.has_steps
        return len(self.shape) == 2


@dataclass(frozen=True)
class Samples:
    """Batches for one model.

    In row `first + k` of a batch, the position `probes[k]` changes; earlier rows stay.

    Attributes:
        fields: The inputs of the model.
        batch: Number of rows.
        length: Number of positions of the inputs that have them; 0 if there are none.
        probes: Positions that are changed.
        cut: What is smaller than the model allows, in words.
    """

    fields: tuple[Field, ...]
    batch: int
    length: int
    probes: tuple[int, ...]
    cut: str = ""

    @staticmethod
    def of(
        model: keras.Model,
        graph: Graph,
        calls: Sequence[RecordedCall],
        length: int = 0,
        is_even: bool = False,
        is_one: bool = False,
        is_low: bool = False,
    ) -> Samples:
        """Return samples for a model with this graph and these calls.

        Args:
            model: The model.
            graph: Its graph.
            calls: Its calls.
            length: The size of free axes; 0: one that tells the axis of positions from others.
            is_even: Whether images and other tensors of four or more axes have this size, too.
            is_one: Whether the batch is one sample with floats from 0 to 1, which may be positions
                in an image or numbers of samples.
            is_low: Whether ids are the two lowest ones, as more may be computed of them.

        Raises:
            ValueError: if an input holds neither numbers, booleans nor texts, or texts that the
                backend does not compute.
        """
        looked_up, longest = ids_and_lengths(graph)
        layers = {call.results[0][0]: call.record.operation for call in calls if call.results}
        looked_up |= _ids_of_tables_inside(model, graph, layers, looked_up)
        words = _words_of(graph, calls)
        sizes = {n for node in graph.nodes for t in node.outputs for n in t.shape if n}
        symbolic = model.inputs
        shapes = [tuple(tensor.shape) for tensor in symbolic]
        wanted: tuple[int, ...] = _LENGTHS if graph.parameters < _LARGE else (7, 5, 11, 13)
        free = [n for n in wanted if n not in sizes and all(n <= most for most in longest)]
        length = length or (free[0] if free else min([wanted[0], *longest]))
        length = next(_lengths_of_texts(graph), length)
        fields = []
        for node_id, tensor, shape in zip(graph.inputs, symbolic, shapes, strict=True):
            field = _field(graph, node_id, tensor, looked_up[node_id], layers)
            side = _IMAGE_SIDE if len(shape) > 3 and not is_even else length
            if is_low and field.kind == "ids":
                field = replace(field, ids=field.ids[:2])
            if field.kind == "texts":
                shape, field = tuple(n or 1 for n in shape), replace(field, words=words)
            sized = (0, *(side if n is None else n for n in shape[1:]))
            field = replace(field, shape=sized, is_free=shape[1:2] == (None,), is_share=is_one)
            is_length = node_id in lengths_of_samples(graph)
            has_steps = _has_steps(graph, node_id, shape)
            fields.append(replace(field, has_steps=has_steps, is_length=is_length))
        if all(field.kind == "other" for field in fields):
            fields = [replace(f, kind="integers") if f.dtype != "bool" else f for f in fields]
        fixed = max((shape[0] or 0 for shape in shapes), default=0) if shapes else 0
        lengths = [f.shape[1] for f in fields if f.has_positions and f.kind != "texts"]
        lengths += [length for f in fields if f.kind == "texts"]
        length = max(lengths, default=0)
        most = _most_probes(graph, fields, fixed)
        taken = {*lengths, *sizes}
        first = min(length, most) + 2 if length else 3
        batch = fixed or next(n for n in range(first, first + len(taken) + 1) if n not in taken)
        batch = 1 if is_one and not fixed else batch
        fields = [replace(f, shape=(batch, *f.shape[1:])) for f in fields]
        is_cut = any(f.has_positions and None in s[1:] for f, s in zip(fields, shapes, strict=True))
        cut = " of ".join(["one sample"] * is_one + [f"{length} positions"] * is_cut)
        return Samples(tuple(fields), batch, 0, (), cut).at(length, most)

    def at(self, length: int, most: int = _MOST_PROBES) -> Samples:
        """Return the same batches with changes of positions in sequences of one length."""
        most = min(most, max(self.batch - self.first, 0))
        probes: Sequence[int] = range(length)
        if length > most:
            middle = length // 2
            wanted = [middle, length - 1, 0, 1, length // 3, length - 2, 2, middle + 1]
            wanted += [length // 4, 3 * length // 4]
            probes = sorted({n for n in wanted[:most] if 0 <= n < length})
        some = f"{len(probes)} of {length} positions changed" if len(probes) < length else ""
        cut = " and ".join(filter(None, [self.cut, some]))
        return replace(self, length=length, probes=tuple(probes), cut=cut)

    @property
    def is_free(self) -> bool:
        """Whether the model takes inputs of any length."""
        return any(field.is_free for field in self.fields)

    @property
    def first(self) -> int:
        """The first row with a change: 1, or 0 in batches of one row."""
        return int(self.batch > 1)

    @property
    def of_other_lengths(self) -> list[Samples]:
        """The same batches with changes in the inputs of other lengths."""
        kinds = ("ids", "floats", "integers")
        lengths = {f.shape[1] for f in self.fields if f.has_positions and f.kind in kinds}
        return [self.at(length, len(self.probes)) for length in sorted(lengths - {self.length})]

    def is_probed(self, field: Field) -> bool:
        """Whether positions of an input are changed."""
        if not field.has_positions or field.kind == "other" or not self.probes:
            return False
        return field.kind == "texts" or field.shape[1] == self.length

    def base(self, seed: int = 0) -> dict[str, np.ndarray]:
        """Return a random batch, with different rows: input's id -> array."""
        import numpy as np

        random = np.random.default_rng(seed)
        return {field.place: _values(field, random, self.length) for field in self.fields}

    def changed(
        self, base: Mapping[str, np.ndarray], place: str, where: Sequence[Any]
    ) -> dict[str, np.ndarray]:
        """Return the batch with other values in one input.

        Args:
            base: The batch.
            place: Id of the input.
            where: (row, position) or (row, slice) pairs that change.
        """
        import numpy as np

        field = next(f for f in self.fields if f.place == place)
        array = base[place].copy()
        other = self.base(seed=1)[place]
        for row, at in where:
            if field.kind == "texts":
                array[row] = _other_words(field, array[row], at)
                continue
            index = (row, at)[: array.ndim]
            if field.kind == "ids":
                numbers = np.searchsorted(field.ids, array[index])
                step = max(len(field.ids) // 2, 1)
                array[index] = np.asarray(field.ids)[(numbers + step) % len(field.ids)]
            elif field.kind == "floats" and not field.is_flag:
                array[index] = other[index] + (not field.is_share)
            elif field.kind == "integers":
                array[index] = (array[index] + 1 + other[index] % (_NUMBERS - 1)) % _NUMBERS
            else:
                array[index] = 1 - array[index]
        return {**base, place: array}


def _ids_of_tables_inside(
    model: keras.Model,
    graph: Graph,
    layers: Mapping[str, Any],
    looked_up: Mapping[str, Sequence[int]],
) -> dict[str, list[int]]:
    """Return the ids of integer inputs that layers of one's own look up in tables they hold.

    The inside of such a layer shows which of its tables takes the ids, if it can be traced;
    otherwise they are those that all of its tables have.
    """
    rows: dict[int, int] = {}  # number of an input -> how many ids all of the tables have
    for number, node_id in enumerate(graph.inputs):
        takers = [layers.get(edge.target) for edge in graph.outgoing[node_id]]
        sizes = [table.input_dim for layer in takers for table in _tables_inside(layer)]
        ends = {edge.target for edge in graph.outgoing[node_id]}
        taken = [edge for end in ends for edge in graph.incoming[end]]
        is_only = {e.source for e in taken if "int" in e.tensor.dtype} == {node_id}
        if (
            sizes
            and is_only
            and not looked_up[node_id]
            and "int" in graph.node(node_id).outputs[0].dtype
        ):
            rows[number] = min(sizes)
    if not rows:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # layers warn again of what they did when built
        opened = read_graph(model, open_nested=True, open_layers=True)
    inside = ids_and_lengths(opened)[0]
    ids = {number: inside[opened.inputs[number]] or [*range(size)] for number, size in rows.items()}
    return {graph.inputs[number]: own for number, own in ids.items()}


def _tables_inside(layer: Any) -> list[keras.layers.Embedding]:
    """Return the tables that a layer is made of."""
    import keras

    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return []
    return [own for own in layer._flatten_layers() if isinstance(own, keras.layers.Embedding)]


def _hides_zero(layer: Any) -> bool:
    """Return whether a layer looks up ids in a table inside of it that masks 0."""
    return any(table.mask_zero for table in _tables_inside(layer))


def _most_probes(graph: Graph, fields: Sequence[Field], fixed: int) -> int:
    """Return how many positions may be changed, so that a run takes seconds."""
    positions = sum(prod(f.shape[1:3]) for f in fields if f.kind != "other") or 1
    if fixed:
        return max(fixed - 1, 1)
    rows = int(_MOST_WORK / (2 * max(graph.parameters, 1) * positions)) - 2
    lengths = [f.shape[1] for f in fields if f.has_positions and f.kind != "texts"]
    longest = max(lengths, default=_MOST_PROBES)
    return max(1, min(rows, longest if longest <= _SHORT else _MOST_PROBES))


def _lengths_of_texts(graph: Graph) -> Iterator[int]:
    """Yield the lengths to which layers cut and pad texts."""
    for node in graph.nodes:
        size = node.config.get("output_sequence_length")
        if isinstance(size, int) and not isinstance(size, bool):
            yield size


def _field(
    graph: Graph, node_id: str, tensor: Any, ids: Sequence[int], layers: Mapping[str, Any]
) -> Field:
    import keras

    dtype = str(tensor.dtype)
    takers = reachability(graph, stop=lambda node: not is_identity_like(node)).descendants(node_id)
    paddings = [value for taker in takers for value in padding_of(graph.node(taker))]
    paddings += [0] * any(_hides_zero(layers.get(taker)) for taker in takers)
    paddings = [value for value in paddings if isinstance(value, int | float)]
    field = partial(Field, node_id, (), dtype)
    if dtype == "string":
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                f"the input {node_id!r} holds texts, which Keras computes on TensorFlow only: "
                "set KERAS_BACKEND=tensorflow"
            )
        return field(kind="texts")
    if ids:
        padding = int(paddings[0]) if paddings else None
        return field(kind="ids", ids=_without(ids, padding), padding=padding)
    if not any(word in dtype for word in ("int", "bool", "float")):
        raise ValueError(f"the input {node_id!r} has the dtype {dtype}, so it cannot be checked")
    masked = [graph.node(taker).config.get("mask_value") for taker in takers]
    masked = [value for value in masked if isinstance(value, int | float)]
    if masked and "float" in dtype:
        return field(kind="floats", padding=masked[0])
    is_image = len(tensor.shape) > 3 and tensor.shape[-1] in (1, 3, 4)  # masks have other sizes
    if "int" in dtype and (dtype == "uint8" or is_image):
        return field(kind="integers")
    has_positions = len(tensor.shape) == 2 and tensor.shape[1] != 1
    is_mask = node_id in inputs_of_masks(graph) and has_positions
    has_floats = "float" in dtype and not (is_mask or _is_named_mask(tensor))
    has_pairs = has_floats and len(tensor.shape) > 2
    is_flag = has_pairs and node_id in inputs_of_masks_and_factors(graph)
    return field(kind="floats" if has_floats else "other", is_mask=is_mask, is_flag=is_flag)


def _is_named_mask(tensor: Any) -> bool:
    return "mask" in tensor.name.lower() and len(tensor.shape) == 2


def _has_steps(graph: Graph, node_id: str, shape: Sequence[int | None]) -> bool:
    """Return whether the second axis of images, or of spectra, is that of steps.

    A recurrent layer has as many steps, and no other axis is of this size.
    """
    if len(shape) < 4 or list(shape[1:]).count(shape[1]) > 1:
        return False
    behind = (graph.node(i) for i in reachability(graph).descendants(node_id))
    first = (graph.incoming[node.id][0] for node in behind if is_recurrent(node))
    return any(len(edge.tensor.shape) > 2 and edge.tensor.shape[1] == shape[1] for edge in first)


def _without(ids: Sequence[int], padding: float | None) -> np.ndarray:
    """Return ids as an array in ascending order, without that of the padding."""
    import numpy as np

    found = np.asarray(ids)
    return found[found != padding] if len(found) > 1 else found


def _words_of(graph: Graph, calls: Sequence[RecordedCall]) -> tuple[str, ...]:
    """Return words of the vocabularies of a model's layers."""
    words: list[str] = []
    for call in calls:
        layer = call.record.operation
        if hasattr(layer, "get_vocabulary"):
            known = [word for word in layer.get_vocabulary() if isinstance(word, str)]
            words += [word for word in known if word.isalnum()][:64]
    return tuple(dict.fromkeys(words)) or tuple("abcdefghijklmnopqrstuvwxyz")


def _values(field: Field, random: Any, length: int) -> np.ndarray:
    import numpy as np

    if field.kind == "texts":
        texts = [" ".join(random.choice(field.words, length)) for _ in range(prod(field.shape))]
        return np.asarray(texts, dtype=object).reshape(field.shape)
    if field.kind == "ids":
        return random.choice(field.ids, field.shape).astype(field.dtype)
    if field.kind == "integers":
        return random.integers(0, _NUMBERS, field.shape).astype(field.dtype)
    if field.is_flag:
        flags = random.integers(0, 2, field.shape).astype(field.dtype)
        queries, keys = np.arange(field.shape[-2]), field.shape[-1]
        flags[..., queries, queries % keys] = 1  # each query has a key, its own
        return flags
    if field.kind == "floats":
        draw = random.random if field.is_share else random.standard_normal
        return np.asarray(draw(field.shape), np.float32)
    return np.full(field.shape, max(length // 2, 1) if field.is_length else 1, field.dtype)


def _other_words(field: Field, row: Any, at: Any) -> Any:
    import numpy as np

    texts = []
    for text in np.ravel(row):
        words = text.split()
        for position in range(len(words))[at] if isinstance(at, slice) else [at]:
            number = field.words.index(words[position])
            words[position] = field.words[(number + 1) % len(field.words)]
        texts.append(" ".join(words))
    return texts[0] if np.ndim(row) == 0 else np.asarray(texts, dtype=object).reshape(np.shape(row))
