"""Measurements inside a model, on one batch of held-out tokens. The model stays as it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops

from functional_models.losses import TokenCrossEntropy
from functional_models.studies.inside.sample import Sample
from functional_models.studies.inside.stored import Measured
from plots.graph import Graph
from plots.hierarchy import depth_of, enclosing_block, find_namespaces
from plots.measuring.attention_maps import maps_of, recording, visible_keys
from plots.measuring.depth import Sublayer, sublayers
from plots.measuring.execution import Execution, as_array
from plots.reading import read_calls

COLLAPSED, UNIFORM = 0.05, 0.99
"""Normalised entropies below and above which a head attends to one key, or to all alike."""


@dataclass(frozen=True)
class Places:
    """The sublayers of a model.

    Attributes:
        sublayers: The sublayers, those of an encoder first.
        names: The name of each, such as "decoder.block_0.feedforward".
        depths: Its number in its stack, by name.
    """

    sublayers: tuple[Sublayer, ...]
    names: tuple[str, ...]
    depths: Mapping[str, int]

    @staticmethod
    def of(graph: Graph) -> Places:
        """Return the sublayers of the graph of a model."""
        found = sublayers(graph)
        namespaces = find_namespaces(graph)
        names = tuple(part_of(namespaces[sublayer.end]) for sublayer in found)
        depths: dict[str, int] = {}
        for name in names:
            stack = name.partition(".")[0]
            before = sum(other.partition(".")[0] == stack for other in depths)
            depths.setdefault(name, before + 1)
        return Places(tuple(found), names, depths)


def part_of(namespace: str) -> str:
    """Return the part of a numbered block that a namespace is in, or the block, or itself."""
    block = enclosing_block(namespace)
    return ".".join(namespace.split(".")[: depth_of(block) + 1]) if block else namespace


class Meter:
    """Measures a model again and again, while it is trained. The model stays as it is.

    Args:
        model: A language model, or an encoder-decoder with the inputs "source" and "target".
        sample: Held-out tokens.
    """

    def __init__(self, model: keras.Model, sample: Sample) -> None:
        self.model, self.sample = model, sample
        self._graph, self._calls = read_calls(model)
        self.places = Places.of(self._graph)

    def measure(self) -> list[Measured]:
        """Return signals, gradients, attention, units and losses; see `docs/studies.md`."""
        inputs, labels, weights = self.sample.batch
        counts = {"decoder": weights > 0}  # by stack, the positions that are no padding
        if isinstance(inputs, Mapping):
            counts["encoder"] = inputs["source"] != self.sample.pad_token_id
        attention: dict[str, Any] = {}
        execution = Execution.of_calls(
            self.model, self._graph, self._calls, inputs, recording(attention)
        )
        return [
            *_signals(execution, self.places, counts),
            *_gradients(self.model, execution, self.places, counts, labels, weights),
            *_attention(execution, attention, self.places, counts),
            *_units(execution, self.places, counts),
            *_token_losses(execution, self.sample),
        ]


def _of_counted(array: np.ndarray, place: str, counts: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return the rows of an array, (b, t, ...), that are measured."""
    counted = counts.get(place.partition(".")[0])
    return array if counted is None or array.shape[:2] != counted.shape else array[counted]


def _measured(quantity: str, place: str, depth: int, value: float, count: int) -> Measured:
    number = float(value)
    return Measured(quantity, place, depth, number if math.isfinite(number) else None, int(count))


def _rms(array: np.ndarray) -> float:
    # In float32 the square of 1e-25 is zero, but vanishing gradients must be visible.
    return math.sqrt(np.mean(np.square(array, dtype="float64"))) if array.size else 0.0


def _signals(
    execution: Execution, places: Places, counts: Mapping[str, np.ndarray]
) -> Iterator[Measured]:
    """Yield the RMS of the stream after each sublayer, and of what the sublayer adds to it."""
    for sublayer, name in zip(places.sublayers, places.names, strict=True):
        stream = as_array(execution.values[sublayer.end, 0])
        added = sum(as_array(execution.values[place]) for place in sublayer.added)
        for quantity, array in (("stream_rms", stream), ("branch_rms", added)):
            rows = _of_counted(np.asarray(array), name, counts)
            yield _measured(quantity, name, places.depths[name], _rms(rows), len(rows))


def _gradients(
    model: keras.Model,
    execution: Execution,
    places: Places,
    counts: Mapping[str, np.ndarray],
    labels: np.ndarray,
    weights: np.ndarray,
) -> Iterator[Measured]:
    """Yield the RMS of gradients where the skip path and the branch part, and dead weights."""
    loss = TokenCrossEntropy()
    edges = {edge for s in places.sublayers for edge in (*s.skip, *s.branch)}
    trained = model.trainable_weights
    found = execution.gradients(
        lambda outputs: loss(labels, outputs[0], sample_weight=weights), edges, trained
    )
    for sublayer, name in zip(places.sublayers, places.names, strict=True):
        for quantity, ids in (
            ("skip_gradient_rms", sublayer.skip),
            ("branch_gradient_rms", sublayer.branch),
            ("stream_gradient_rms", (*sublayer.skip, *sublayer.branch)),
        ):
            arrays = [found[edge].astype("float64") for edge in ids if edge in found]
            if arrays:
                rows = _of_counted(sum(arrays[1:], start=arrays[0]), name, counts)
                yield _measured(quantity, name, places.depths[name], _rms(rows), len(rows))
    for weight in trained:
        if not found[weight.path].any():
            size = math.prod(weight.shape)
            yield _measured("zero_gradient", weight.path, 0, size, size)


def _attention(
    execution: Execution,
    recorded: Mapping[str, Any],
    places: Places,
    counts: Mapping[str, np.ndarray],
) -> Iterator[Measured]:
    """Yield the normalised entropy of each attention, and how many heads are at its ends."""
    namespaces = find_namespaces(execution.graph)
    for attention_id, found in maps_of(execution, recorded).items():
        name = part_of(namespaces[attention_id])
        visible = visible_keys(execution, attention_id, found.weights.shape)
        entropy = head_entropies(found.weights, visible, counts.get(name.partition(".")[0]))
        if entropy is None:
            continue
        depth, heads = places.depths.get(name, 0), len(entropy)
        for quantity, value in (
            ("attention_entropy", entropy.mean()),
            ("attention_entropy_lowest", entropy.min()),
            ("attention_entropy_highest", entropy.max()),
            ("collapsed_heads", (entropy < COLLAPSED).sum()),
            ("uniform_heads", (entropy > UNIFORM).sum()),
        ):
            yield _measured(quantity, name, depth, value, heads)


def head_entropies(
    weights: np.ndarray, visible: np.ndarray, queries: np.ndarray | None = None
) -> np.ndarray | None:
    """Return the mean entropy of the weights of each head, divided by its largest value, (n,).

    0 if every query attends to one key, 1 if to all visible keys alike. Queries that see one key
    only are left out.

    Args:
        weights: (b, n, t, s).
        visible: The keys that a query may attend to, bool (b, n, t, s).
        queries: The queries to measure, bool (b, t); None: all.

    Returns:
        None if no query sees two keys.
    """
    exact = weights.astype("float64")
    logarithms = np.log(exact, where=exact > 0, out=np.zeros_like(exact))
    entropy = -(exact * logarithms).sum(-1)  # (b, n, t)
    keys = visible.sum(-1)
    measured = keys > 1
    if queries is not None and queries.shape == (weights.shape[0], weights.shape[2]):
        measured = measured & queries[:, None]
    if not measured.any(axis=(0, 2)).all():
        return None
    share = entropy / np.log(np.maximum(keys, 2))
    total: np.ndarray = (share * measured).sum((0, 2)) / measured.sum((0, 2))
    return total


def _units(
    execution: Execution, places: Places, counts: Mapping[str, np.ndarray]
) -> Iterator[Measured]:
    """Yield how many hidden units of each feed-forward layer are active for no token."""
    namespaces = find_namespaces(execution.graph)
    for node in execution.graph.nodes:
        name = part_of(namespaces[node.id])
        is_activated = node.operation == "Dense" and node.activation not in (None, "linear")
        if not is_activated or name not in places.depths:
            continue
        rows = _of_counted(as_array(execution.values[node.id, 0]), name, counts)
        units = rows.reshape(-1, rows.shape[-1])
        # ReLU, its square, SiLU and GELU are above zero where their input is.
        inactive = (units <= 0).all(axis=0).sum()
        yield _measured("inactive_units", name, places.depths[name], inactive, units.shape[-1])


def update_sizes(
    before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray], places: Places
) -> Iterator[Measured]:
    """Yield the RMS of the change of the kernels of each part of a model over that of the kernels.

    Kernels are the weights with two axes or more: not biases, and scales of norms.

    Args:
        before: Kernels by path.
        after: The same, some steps later.
        places: The sublayers; other layers are parts of their own.
    """
    parts: dict[str, list[str]] = {}
    for path in before:
        parts.setdefault(part_of(path.rpartition("/")[0]), []).append(path)
    for name, paths in parts.items():
        changed = sum(float(np.square(after[p] - before[p], dtype="float64").sum()) for p in paths)
        size = sum(float(np.square(before[p], dtype="float64").sum()) for p in paths)
        count = sum(before[path].size for path in paths)
        if size:
            value = math.sqrt(changed / size)
            yield _measured("update", name, places.depths.get(name, 0), value, count)


def kernels(model: keras.Model) -> dict[str, np.ndarray]:
    """Return copies of the trainable kernels by path, in float32."""
    return {
        weight.path: np.array(as_array(weight.value))
        for weight in model.trainable_weights
        if len(weight.shape) > 1
    }


def _token_losses(execution: Execution, sample: Sample) -> Iterator[Measured]:
    """Yield the loss in nats of held-out tokens: by position, and by class of the token."""
    _, labels, weights = sample.batch
    logits = ops.cast(execution.values[execution.graph.outputs[0]], "float32")
    losses = as_array(ops.sparse_categorical_crossentropy(labels, logits, from_logits=True))
    groups = position_groups(losses.shape[-1])
    position = np.broadcast_to(np.arange(losses.shape[-1]) + 1, losses.shape)
    chosen = [
        ("position_loss", _range(first, last), (first <= position) & (position <= last))
        for first, last in groups
    ]
    of_labels = sample.classes[labels]
    chosen += [
        ("class_loss", f"{number + 1}", of_labels == number) for number in np.unique(of_labels)
    ]
    number = dict.fromkeys(("position_loss", "class_loss"), 0)
    for quantity, name, inside in chosen:
        found = losses[inside & (weights > 0)]
        number[quantity] += 1
        if found.size:
            yield _measured(quantity, name, number[quantity], found.mean(), found.size)


def _range(first: int, last: int) -> str:
    return f"{first}" if first == last else f"{first}-{last}"


def position_groups(length: int) -> list[tuple[int, int]]:
    """Return groups of positions, counted from 1, as (first, last): 1, 2, 3, 4-5, 6-7, 8-11, ..."""
    starts = [1]
    step = 1
    while starts[-1] < length:
        starts += [2 * step, 3 * step]
        step *= 2
    starts = sorted({start for start in starts if start <= length})
    return [(a, b - 1) for a, b in zip(starts, [*starts[1:], length + 1], strict=True)]
