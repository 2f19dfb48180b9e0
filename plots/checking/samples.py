"""Small batches that fit a model, and the same with some positions changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from plots.graph import Graph
from plots.layers import is_identity_like
from plots.measuring.inputs import ids_and_lengths, padding_of
from plots.reading.keras_calls import RecordedCall
from plots.traversal import Reachability

if TYPE_CHECKING:
    import numpy as np

_LENGTHS = (13, 11, 17, 7, 19, 5, 23, 3)  # primes, to tell the axis of positions from others
_IMAGE_SIDE = 32
_MOST_PROBES = 10
_MOST_WORK = 6e10
"""Most products of weights and positions in one run: about two seconds on two cores."""


@dataclass(frozen=True)
class Field:
    """One input of a model.

    Attributes:
        place: Id of its call.
        name: Its name.
        shape: Shape of a batch.
        dtype: Its dtype.
        kind: "ids" that are looked up in a table, "floats", "texts" that the model splits itself,
            or "other": masks, segments and other integers.
        ids: The ids that it may hold, without that of the padding.
        padding: Id of the padding, if the model masks one.
        words: Words that a text is made of.
    """

    place: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    kind: Literal["ids", "floats", "texts", "other"]
    ids: tuple[int, ...] = ()
    padding: int | None = None
    words: tuple[str, ...] = ()

    @property
    def has_positions(self) -> bool:
        """Whether its second axis is one of positions, not of features, rows or channels."""
        return self.kind == "texts" or len(self.shape) == 3 - (self.kind != "floats")


@dataclass(frozen=True)
class Samples:
    """Batches for one model.

    Row 0 of a batch is never changed. In row k, the position `probes[k - 1]` is.

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
    def of(graph: Graph, calls: Sequence[RecordedCall], symbolic: Sequence[Any]) -> Samples:
        """Return samples for a model with these symbolic inputs.

        Raises:
            ValueError: if an input holds neither numbers, booleans nor texts.
        """
        looked_up, longest = ids_and_lengths(graph)
        words = _words_of(graph, calls)
        sizes = {n for node in graph.nodes for t in node.outputs for n in t.shape if n}
        shapes = [tuple(tensor.shape) for tensor in symbolic]
        free = [n for n in _LENGTHS if n not in sizes and all(n <= most for most in longest)]
        length = free[0] if free else min([_LENGTHS[0], *longest])
        fields = []
        for node_id, tensor, shape in zip(graph.inputs, symbolic, shapes, strict=True):
            field = _field(graph, node_id, tensor, looked_up[node_id])
            side = _IMAGE_SIDE if len(shape) > 3 else length
            if field.kind == "texts":
                shape = shape[:1] + tuple(n or 1 for n in shape[1:])
                field = replace(field, words=words)
            fixed = (shape[0] or 0, *(side if n is None else n for n in shape[1:]))
            fields.append(replace(field, shape=fixed))
        lengths = {f.shape[1] for f in fields if f.has_positions and f.kind != "texts"}
        lengths |= {length for f in fields if f.kind == "texts"}
        length = max(lengths, default=0)
        batch, probes, cut = _rows(graph, fields, length, sizes)
        fields = [replace(f, shape=(f.shape[0] or batch, *f.shape[1:])) for f in fields]
        is_cut = any(f.has_positions for f in fields) and any(None in s[1:] for s in shapes)
        cut = [f"{length} positions" * is_cut, cut]
        return Samples(tuple(fields), batch, length, probes, " and ".join(filter(None, cut)))

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
            elif field.kind == "ids":
                old = array[row, at]
                number = {n: k for k, n in enumerate(field.ids)}
                ids = np.asarray(field.ids)
                step = max(len(ids) // 2, 1)
                array[row, at] = np.vectorize(
                    lambda n, number=number, ids=ids, step=step: ids[
                        (number.get(int(n), 0) + step) % len(ids)
                    ],
                    otypes=[array.dtype],
                )(old)
            elif field.kind == "floats":
                array[row, at] = other[row, at] + 1
            else:
                array[row, at] = 1 - array[row, at]
        return {**base, place: array}


def _rows(
    graph: Graph, fields: Sequence[Field], length: int, sizes: set[int]
) -> tuple[int, tuple[int, ...], str]:
    """Return the number of rows, the probed positions, and what was cut."""
    fixed = max((field.shape[0] for field in fields), default=0)
    positions = sum(prod(f.shape[1:3]) for f in fields if f.kind != "other") or 1
    if not length:
        return fixed or next(n for n in (3, 5, 7, 11) if n not in sizes), (), ""
    most = max(
        1, min(_MOST_PROBES, int(_MOST_WORK / (2 * max(graph.parameters, 1) * positions)) - 2)
    )
    if fixed:
        most = max(min(most, fixed - 1), 0)
    if length <= most or (length <= 13 and most == _MOST_PROBES):
        probes = tuple(range(length)) if not fixed or length < fixed else ()
    else:
        probes = ()
    if not probes:
        wanted = (length // 2, length - 1, 0, 1, length // 3, length - 2, 2, length // 2 + 1)
        wanted = (*wanted, length // 4, 3 * length // 4)
        probes = tuple(sorted(dict.fromkeys(n for n in wanted[:most] if 0 <= n < length)))
    taken = {length, *sizes}
    batch = fixed or next(n for n in range(len(probes) + 2, len(probes) + 99) if n not in taken)
    cut = f"{len(probes)} of {length} of them changed" if len(probes) < length else ""
    return batch, probes, cut


def _field(graph: Graph, node_id: str, tensor: Any, ids: Sequence[int]) -> Field:
    dtype = str(tensor.dtype)
    takers = Reachability(graph, stop=lambda node: not is_identity_like(node)).descendants(node_id)
    paddings = [value for taker in takers for value in padding_of(graph.node(taker))]
    paddings = [value for value in paddings if isinstance(value, int | float)]
    common = {"place": node_id, "name": tensor.name, "shape": (), "dtype": dtype}
    if dtype == "string":
        return Field(**common, kind="texts")
    if ids:
        return Field(
            **common, kind="ids", ids=tuple(ids), padding=int(paddings[0]) if paddings else None
        )
    if not any(word in dtype for word in ("int", "bool", "float")):
        raise ValueError(
            f"the input {tensor.name!r} has the dtype {dtype}, so it cannot be checked"
        )
    return Field(**common, kind="floats" if "float" in dtype else "other")


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
        ids = [n for n in field.ids if n != field.padding] or field.ids
        return random.choice(ids, field.shape).astype(field.dtype)
    if field.kind == "floats":
        return random.standard_normal(field.shape).astype(np.float32)
    return np.ones(field.shape, field.dtype)


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
