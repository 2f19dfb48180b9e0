"""Whether the order of positions matters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from math import isqrt
from typing import TYPE_CHECKING, Any

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, Witness, said, shown
from plots.checking.samples import Field
from plots.checking.trials import Trial
from plots.diagnosis.rules import named
from plots.layers import REPETITIONS, is_additive_merge
from plots.measuring.execution import Place, as_array
from plots.softmaxes import float_inputs
from plots.traversal import data_flow

if TYPE_CHECKING:
    import numpy as np

_EQUAL_STEPS = "Srivastava et al. 2015, Unsupervised Learning of Video Representations, section 2.1"
_ORDER = "Vaswani et al. 2017, Attention Is All You Need, section 3.5"
_PATCHES = "Dosovitskiy et al. 2021, An Image is Worth 16x16 Words, section 3.1"
_MOST_SIDES = 2
_FEWEST = 3
_NEEDS = {"ids": "Sequences of tokens need positions."}
_NEEDS_OF_SERIES = "A set of points needs none; a series of steps does."
_ROUNDING, _ROUNDING_OF_LARGE = 5e-6, 1e-3
"""Largest differences that count as rounding, in units of the largest number of an output: with the
weights of the model, and with large ones."""


def check_order(trial: Trial, positions: str = "") -> Iterator[Check]:
    """Yield, for every input with positions, whether the model knows their order.

    And, whether it does or not, where a fixed vector is added to all positions alike.

    Args:
        trial: The model.
        positions: What the description says of positions, such as "learned positions"; or "".
    """
    fixed = _fixed_vectors(trial)
    for field in trial.probed_fields:
        if field.kind != "texts" and trial.samples.length > 2:
            yield from _order_of(trial, field, positions)
    if fixed:
        text = (
            f"The same vector at every position: {named(trial.graph, fixed)} adds fixed numbers, "
            "which no training changes, to the vectors of all positions alike, so that they tell "
            "none of them from another. Add one row of the table for each position: "
            "x + table[:length]."
        )
        shows = f"With these inputs, {named(trial.graph, fixed)} adds one vector everywhere."
        witness = shown(trial, shows, exact=not trial.weights)
        yield Check("order", "unknown", Note("finding", tuple(fixed), text, _ORDER), witness)
    yield from _equal_steps(trial)
    for field in trial.samples.fields:
        if len(field.shape) == 4 and field.kind in ("floats", "integers"):
            yield from _order_of_patches(trial, field)


def _equal_steps(trial: Trial) -> Iterator[Check]:
    """Yield a finding for outputs of several steps that are all the same, in every sample."""
    import numpy as np

    for place in trial.graph.outputs:
        values = trial.values[place]
        if values.ndim != 3 or values.shape[1] < 3 or values.dtype.kind != "f":
            continue
        spread = np.abs(values - values[:, :1]).max()
        repeats = [n for n in trial.graph.nodes if n.is_a(REPETITIONS)]
        repeats = [n for n in repeats if trial.flow.depends(place[0], on=n.id)]
        if spread <= _ROUNDING * np.abs(values).mean() and values.std() > 0 and repeats:
            text = (
                f"Equal steps: all {values.shape[1]} steps of the output "
                f"{named(trial.graph, [place[0]])} are the same, since nothing tells them apart "
                f"behind {named(trial.graph, [repeats[-1].id])}. A decoder needs a recurrent "
                "layer, or positions, behind it."
            )
            shows = f"With these inputs, all steps of {place[0]} are the same."
            witness = shown(trial, shows, exact=not trial.weights)
            about = (repeats[-1].id, place[0])
            yield Check("order", "equal", Note("finding", about, text, _EQUAL_STEPS), witness)


def _order_of(trial: Trial, field: Field, positions: str) -> Iterator[Check]:
    import numpy as np

    outputs = [
        place
        for place in trial.graph.outputs
        if (array := trial.values[place]).dtype.kind == "f"
        and trial.moved(place, array, trial.probed[field.place][place]).any()
    ]
    if not outputs or not trial.random.isdisjoint(outputs):
        return  # random numbers are not permuted
    # Segments, masks and positions that are inputs themselves stay: they may tell the order.
    order = np.random.default_rng(5).permutation(trial.samples.length)
    permuted = {**trial.base, field.place: trial.base[field.place][:, order]}
    if _differs(trial, outputs, permuted, order, _ROUNDING) or _differs(
        trial, outputs, permuted, order, _ROUNDING_OF_LARGE, [*_large_weights(trial)]
    ):
        yield said("order", "known", f"the order of {field.place!r} matters")
        return
    attentions = attentions_with_masks(trial.graph)[0]
    unmasked = data_flow(trial.graph, without=(e.id for a in attentions for e in a.masks))
    attends = [a.id for a in attentions if unmasked.depends(a.id, on=field.place)]
    what = f"Permuting the positions of {field.place!r} permutes the outputs alike, or changes none"
    if not attends:
        yield said("order", "unknown", f"the order of {field.place!r} does not matter")
        return
    constant = _constant_vectors(trial)
    why = ""
    if constant:
        why = f" The vectors of {named(trial.graph, constant)} are the same at every position."
    lost = "" if constant else _lost_positions(trial, field, permuted, order)
    if lost:
        why = (
            f" {named(trial.graph, [lost])} adds something else at each position, but none of it "
            "reaches an output: a norm takes away a number that is added to all features alike."
        )
    claims = bool(positions or constant or lost)
    although = f", although it has {positions}" if positions else ""
    text = (
        f"{what}{although}: the model knows no position, and reads a sequence as a set.{why} "
        f"{_NEEDS.get(field.kind, _NEEDS_OF_SERIES)}"
    )
    change = f"Permuting {field.place!r} by {order.tolist()}"
    shows = f"{change} permutes every output alike, or leaves it as it is."
    is_sequence = claims and field.kind == "ids"
    about = tuple(constant or [lost] * bool(lost) or attends)
    note = Note("finding" if is_sequence else "remark", about, text, _ORDER)
    inputs, changed = map(trial.as_model_takes, (trial.base, permuted))
    witness = Witness(inputs, changed, change, 0, (), 0.0, exact=not trial.weights, shows=shows)
    yield Check("order", "unknown", note, witness)


def _order_of_patches(trial: Trial, field: Field) -> Iterator[Check]:
    """Yield a remark if the patches of an image that attends can change places."""
    import numpy as np

    attentions = [
        a for a in attentions_with_masks(trial.graph)[0] if trial.flow.depends(a.id, on=field.place)
    ]
    outputs = [place for place in trial.graph.outputs if trial.values[place].dtype.kind == "f"]
    if not attentions or not outputs or not trial.random.isdisjoint(outputs):
        return
    for side in _sides_of_patches(trial, field):
        rows, columns = field.shape[1] // side, field.shape[2] // side
        order = np.random.default_rng(5).permutation(rows * columns)
        permuted = {**trial.base, field.place: _moved(trial.base[field.place], side, order)}
        if _differs(trial, outputs, permuted, order, _ROUNDING) or _differs(
            trial, outputs, permuted, order, _ROUNDING_OF_LARGE, [*_large_weights(trial)]
        ):
            continue
        change = f"Permuting the patches of {side} x {side} pixels of {field.place!r}"
        text = (
            f"{change} permutes the outputs alike, or changes none: the model knows no position, "
            "and sees an image as a set of patches. Add positions to the patches, as ViT does."
        )
        inputs, changed = map(trial.as_model_takes, (trial.base, permuted))
        shows = f"{change} permutes every output alike, or leaves it as it is."
        note = Note("remark", tuple(a.id for a in attentions), text, _PATCHES)
        exact = not trial.weights
        witness = Witness(inputs, changed, change, 0, (), 0.0, exact=exact, shows=shows)
        yield Check("order", "unknown", note, witness)
        return


def _sides_of_patches(trial: Trial, field: Field) -> list[int]:
    """Return the sizes in pixels that the patches of an image may have.

    Those are the strides of convolutions that do not overlap, and that of squares as many as an
    attention has keys, or one fewer.
    """
    graph, (_, height, width, _) = trial.graph, field.shape
    sides: dict[int, None] = {}
    for node in graph.nodes:
        strides = node.config.get("strides")
        if node.is_a({"Conv2D"}) and node.config.get("kernel_size") == strides:
            given = strides if isinstance(strides, list | tuple) else [strides]
            sides |= {size: None for size in given if isinstance(size, int)}
    for attention in attentions_with_masks(graph)[0]:
        keys = trial.values[attention.keys[0].source, attention.keys[0].output].shape[1:-1]
        for number in (n - token for n in keys for token in (0, 1)):
            if number > 1 and (root := isqrt(height * width // number)) ** 2 * number == (
                height * width
            ):
                sides[root] = None
    fits = [side for side in sides if height % side == width % side == 0]
    return [side for side in fits if 1 < side < max(height, width)][:_MOST_SIDES]


def _moved(images: np.ndarray, side: int, order: np.ndarray) -> np.ndarray:
    """Return images (b, H, W, c) with their squares of `side` pixels in another order."""
    batch, height, width, channels = images.shape
    rows, columns = height // side, width // side
    squares = images.reshape(batch, rows, side, columns, side, channels).swapaxes(2, 3)
    shape = squares.shape
    squares = squares.reshape(batch, rows * columns, *shape[3:])[:, order].reshape(shape)
    return squares.swapaxes(2, 3).reshape(images.shape)


def _lost_positions(
    trial: Trial, field: Field, permuted: Mapping[str, np.ndarray], order: np.ndarray
) -> str:
    """Return the first call that adds something else at each position, if no output has any of it.

    Args:
        trial: The model.
        field: An input whose order no output knows.
        permuted: The inputs with the positions of the field in another order.
        order: That order.
    """
    after = trial.run(permuted)
    for node in trial.graph.nodes:
        value, other = trial.values.get((node.id, 0)), after.get((node.id, 0))
        if value is None or other is None or value.ndim != 3 or value.dtype.kind != "f":
            continue
        if value.shape[1] != len(order) or not trial.flow.depends(node.id, on=field.place):
            continue
        change = abs(other - value[:, order]).max()
        if change > _ROUNDING_OF_LARGE * abs(value).max():
            is_sum = is_additive_merge(node) or bool(node.call_class and node.parameters)
            return node.id if is_sum else ""
    return ""


def _constant_vectors(trial: Trial) -> list[str]:
    """Return the lookups of positions that give the same vector at every position."""
    import numpy as np

    found = []
    for node in trial.graph.nodes:
        if not node.is_a({"Embedding"}) or (node.id, 0) not in trial.values:
            continue
        changes = (after[node.id, 0] for after in trial.probed.values())
        values = trial.values[node.id, 0]
        depends = any(trial.moved((node.id, 0), values, after).any() for after in changes)
        size = node.config.get("input_dim")
        is_table = isinstance(size, int) and size >= trial.samples.length
        if not depends and is_table and values.ndim > 2 and np.ptp(values, axis=1).max() == 0:
            found.append(node.id)
    return found


def _fixed_vectors(trial: Trial) -> list[str]:
    """Return the calls without weights that add one vector to all positions of what they take."""
    import numpy as np

    graph, found, vectors = trial.graph, [], []
    attentions = [a.id for a in attentions_with_masks(graph)[0]]
    for node in graph.nodes:
        edges = float_inputs(graph, node)
        value = trial.values.get((node.id, 0))
        is_closed = bool(node.call_class) or node.is_a({"Lambda"})
        is_merge = is_additive_merge(node) or (is_closed and not node.parameters)
        if value is None or len(edges) != 1 or not is_merge or value.ndim != 3:
            continue
        taken = trial.values[edges[0].source, edges[0].output]
        if taken.shape != value.shape or value.shape[1] < _FEWEST or value.shape[2] < 2:
            continue
        added = value.astype("float64") - taken
        rounding = _ROUNDING * float(np.abs(taken).max(initial=0.0))
        is_one = bool(np.ptp(added, axis=(0, 1)).max() <= rounding < np.ptp(added))
        if is_one and any(trial.flow.depends(a, on=node.id) for a in attentions):
            found.append(node.id)
            vectors.append(added[0, 0])
    # Several that differ tell steps of a loop: Dehghani et al. 2019, Universal Transformers.
    are_steps = len(found) > 1 and not all(np.allclose(v, vectors[0]) for v in vectors)
    return [] if are_steps else found


def _differs(
    trial: Trial,
    outputs: Sequence[Place],
    permuted: Mapping[str, np.ndarray],
    order: np.ndarray,
    rounding: float,
    state: Sequence[tuple[Any, Any]] = (),
) -> bool:
    """Return whether outputs are neither the same nor permuted alike, beyond rounding."""
    import numpy as np

    is_half = any(dtype.endswith("16") for dtype in trial.dtypes.values())
    is_known = not is_half and not state
    before = trial.values if is_known else trial.run(trial.base, state=state, in_float32=True)
    after = trial.run(permuted, state=state, in_float32=True)
    for place in outputs:
        first, second = before[place], after[place]
        axes = [a for a in range(1, first.ndim) if first.shape[a] == len(order)]
        candidates = [first, *(np.take(first, order, axis) for axis in axes)]
        limit = rounding * float(np.abs(first).max(initial=0.0))
        if not any(np.abs(c - second).max(initial=0.0) <= limit for c in candidates):
            return bool(np.isfinite(first).all() and np.isfinite(second).all())
    return False


def _large_weights(trial: Trial) -> Iterator[tuple[Any, Any]]:
    """Yield (variable, value) with larger weights, where they are small.

    The scores of an attention with its first weights are close to zero, and so is what positions
    in them change.
    """
    import numpy as np

    given = {id(variable): value for variable, value in trial.weights}
    for variable in trial.trainable:
        value = as_array(given.get(id(variable), variable.value))
        if value.ndim > 1 and value.std():
            wanted = 2 / np.sqrt(value.size / value.shape[-1])
            yield variable, value * max(1.0, wanted / float(value.std()))
