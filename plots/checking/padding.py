"""Whether outputs at real positions depend on padding: on what stands there, and on how much."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plots.annotations import Note
from plots.attentions import attentions_with_masks
from plots.checking.lines import by_attention
from plots.checking.results import Check, Run, said, witness_of
from plots.checking.samples import Field
from plots.checking.trials import Change, Trial
from plots.diagnosis.rules import named
from plots.graph import Graph, Node
from plots.layers import is_attention, is_function, is_identity_like, is_norm
from plots.measuring.execution import Place
from plots.measuring.inputs import padding_of
from plots.traversal import data_flow, reachability

if TYPE_CHECKING:
    import numpy as np

MASKING = "Keras guide, https://keras.io/guides/understanding_masking_and_padding/"
_MEANT = ("Conv", "Flatten", "Reshape", "Dense", "GetItem", "Concatenate", "MaxPool")
"""Calls that take padding in by design: at the end of a convolution, or one weight per position."""

_NEAR = {"float16": 0.1, "bfloat16": 0.3}
"""Largest difference between runs of different shapes that counts as rounding, in units of the
mean of a value."""
_NEAR_IN_FLOAT32 = 2e-3
_MASKED = 1e6  # scores beyond are those of masked positions


@dataclass(frozen=True)
class Padded:
    """A batch whose sequences are padded in one input.

    Attributes:
        trial: The model.
        field: The input.
        masks: The inputs that are masks of its positions.
        start: Id of the call whose value holds a number for each position: the input itself, or
            the call that splits texts.
        padding: Id of the padding; None if only inputs are masks.
        side: Where the padding is.
        run: The inputs, and all values.
        real: Which positions are real, of shape (batch, length).
    """

    trial: Trial
    field: Field
    masks: tuple[Field, ...]
    start: str
    padding: float | None
    side: Literal["right", "left"]
    run: Run
    real: np.ndarray

    @property
    def length(self) -> int:
        """Number of positions, with the padded ones."""
        return int(self.real.shape[1])


def check_padding(trial: Trial) -> Iterator[Check]:
    """Yield, for every input that is padded, whether padding reaches the real positions.

    An input is padded if the model masks one of its ids, or takes a mask for it.

    * What is computed from the padded positions alone is changed: the vectors of an embedding, or
      the inputs themselves where the mask is an input of its own.
    * The same sequences are run without padding, if the model takes any length.
    * Both again with the padding on the left, which is said, and is no mistake: a model may be
      made for padding on the right alone.
    """
    for field in trial.probed_fields:
        for padded in _padded(trial, field, "right"):
            checks = [*_check(padded)]
            if padded.masks and any(check.verdict == "seen" for check in checks):
                # A mask may be 1 at padded positions, as key_padding_mask of PyTorch.
                flipped = [c for p in _padded(trial, field, "right", 1) for c in _check(p)]
                checks = checks if any(c.verdict == "seen" for c in flipped) else flipped
            yield from checks


def _check(padded: Padded) -> Iterator[Check]:
    found = _what_stands_there(padded) or _how_much(padded)
    name = padded.field.place
    if found:
        yield found
        return
    text = f"what stands at padded positions of {name!r} changes no output"
    text += ", nor does their number" * padded.field.is_free
    for left in _padded(padded.trial, padded.field, "left") if _can_be_left(padded) else ():
        if _what_stands_there(left):
            text += ", if they are on the right"
        elif not _shifts(left):
            text += ", on the left as on the right"
    yield said("padding", "ignored", text)


def _can_be_left(padded: Padded) -> bool:
    return padded.field.kind != "texts" and not padded.real.all()


def _what_stands_there(padded: Padded) -> Check | None:
    """Return a finding or remark if outputs change with the vectors of padded positions."""
    trial, before = padded.trial, padded.run
    after = _with_other_padding(padded)
    if after is None:
        return None

    def reaches(place: Place) -> bool | None:
        moved = trial.rows_first(trial.moved(place, before.values[place], after.values[place]))
        return None if moved is None else _in_real_positions(padded, moved)

    graph = trial.graph
    is_changed = {p for p in graph.outputs if p[0] in _starts(padded) or p[0] == padded.start}
    wrong = [k for k, p in enumerate(graph.outputs) if reaches(p) and p not in is_changed]
    if not wrong:
        return None
    places = by_attention(graph, trial.first_crossings(reaches))
    nodes = [graph.node(node_id) for node_id in places]
    is_meant = all(
        any(word in node.class_name for word in _MEANT) and not is_attention(node) for node in nodes
    )
    text = (
        f"Padding of {padded.field.place!r} changes the output at real positions, although the "
        f"model {_how_it_masks(padded)}. It comes in at {named(graph, places, 3)}, which has no "
        "padding mask, or not that of these positions: the same sequence has another result in a "
        "longer batch."
    )
    note = Note("remark" if is_meant else "finding", tuple(places), text, MASKING)
    is_inside = after.inputs is before.inputs
    what = "Other vectors" if is_inside else "Other values"
    change = f"{what} for the padded positions of {padded.field.place!r}"
    place = graph.outputs[wrong[0]]
    shape = before.values[place].shape
    where = None
    if len(shape) > 2 and shape[:2] == padded.real.shape:
        where = padded.real
    runs = (before, after)
    witness = witness_of(trial, *runs, wrong[0], change, where, is_inside=is_inside)
    return Check("padding", "seen", note, witness)


def _in_real_positions(padded: Padded, moved: np.ndarray) -> bool:
    """Return whether a value changed at real positions; it has the batch as its first axis."""
    import numpy as np

    axes = [axis for axis in range(1, moved.ndim) if moved.shape[axis] == padded.length]
    along = (np.moveaxis(moved, axis, 1)[padded.real] for axis in axes)
    return all(part.any() for part in along) if axes else bool(moved.any())


def _how_much(padded: Padded) -> Check | None:
    """Return a finding if outputs at real positions change with the number of padded ones."""
    trial = padded.trial
    shorter = _without_padding(padded)
    if shorter is None:
        return None

    def differs(place: Place) -> bool | None:
        return _differs(padded, place, shorter.values[place], padded.run.values[place])

    wrong = [k for k, place in enumerate(trial.graph.outputs) if differs(place)]
    if not wrong:
        return None
    places = by_attention(trial.graph, trial.first_crossings(differs))
    text = (
        f"More padding of {padded.field.place!r} changes the output at real positions, although "
        f"the model {_how_it_masks(padded)}. It comes in at {named(trial.graph, places, 3)}, which "
        "counts padded positions: the same sequence has another result in a longer batch."
    )
    pads = padded.length - int(padded.real[-1].sum())
    change = f"Padding {padded.field.place!r} with {pads} more positions"
    is_inside = not (padded.field.is_free or padded.field.kind == "texts")  # it takes one length
    witness = witness_of(
        trial, shorter, padded.run, wrong[0], change, _rows_of(padded), is_inside=is_inside
    )
    return Check("padding", "seen", Note("finding", tuple(places), text, MASKING), witness)


def _rows_of(padded: Padded) -> slice:
    """Return the rows that are padded: of texts, the first one is longer."""
    return slice(int(padded.field.kind == "texts"), None)


def _shifts(left: Padded) -> bool:
    """Return whether padding on the left changes results, such as with positions that shift.

    That is not decided for inputs of one length.
    """
    is_one_length = not (left.field.is_free or left.field.kind == "texts")
    shorter = None if is_one_length else _without_padding(left)
    if shorter is None:
        return True
    return any(
        _differs(left, place, shorter.values[place], left.run.values[place]) is not False
        for place in left.trial.graph.outputs
    )


def _differs(padded: Padded, place: Place, alone: np.ndarray, more: np.ndarray) -> bool | None:
    """Return whether a value differs at real positions; None if the two cannot be compared.

    Args:
        padded: The batch.
        place: The value.
        alone: It, without padding.
        more: It, with padding.
    """
    import numpy as np

    if alone.ndim != more.ndim or alone.dtype.kind not in "fiub" or not alone.ndim:
        return None
    rows = _rows_of(padded)
    alone, more = alone[rows], more[rows]
    shorter = int(padded.real[-1].sum())
    for axis in range(1, alone.ndim):
        if alone.shape[axis] != more.shape[axis]:
            if (alone.shape[axis], more.shape[axis]) != (shorter, padded.length):
                return None
            start = padded.length - shorter if padded.side == "left" else 0
            more = np.take(more, range(start, start + shorter), axis)
    if alone.shape != more.shape:
        return None
    first, second = (np.asarray(array, np.float64) for array in (alone, more))
    usable = np.isfinite(first) & np.isfinite(second) & (np.abs(first) < _MASKED)
    near = _NEAR.get(padded.trial.dtypes.get(place, ""), _NEAR_IN_FLOAT32)
    limit = near * float(np.abs(first[usable]).mean()) if usable.any() else 0.0
    return bool((np.abs(second - first, where=usable, out=np.zeros_like(first)) > limit).any())


def _how_it_masks(padded: Padded) -> str:
    what = "id" if padded.field.kind in ("ids", "texts") else "value"
    return "masks it with an input" if padded.masks else f"masks the {what} {padded.padding}"


# Batches ------------------------------------------------------------------------------------------


def _padded(
    trial: Trial, field: Field, side: Literal["right", "left"], hidden: int = 0
) -> Iterator[Padded]:
    """Yield the batch with padding in one input, if that is padded.

    `hidden` is what masks hold at padded positions, and 1 - hidden at others.
    """
    import numpy as np

    masks = tuple(_masks_of(trial, field))
    if field.kind == "texts":
        yield from _padded_texts(trial, field)
        return
    padding = field.padding
    if field.kind == "ids":
        masked = _masked_ids(trial, field.place)
        if padding is None and masked:
            padding = masked[0]
        elif padding not in masked:
            padding = None
    if padding is None and not masks:
        return
    length = field.shape[1]
    is_real = np.arange(length) < length - max(length // 4, 1)
    is_real = is_real if side == "right" else is_real[::-1]
    inputs = dict(trial.base)
    values = inputs[field.place] = inputs[field.place].copy()
    values[:, is_real] = values[:, : is_real.sum()]  # the same sequences on both sides
    if padding is not None:
        if field.kind == "ids":
            others = [n for n in field.ids if n != padding]
            values[values == padding] = others[-1] if others else padding
        values[:, ~is_real] = padding
    for mask in masks:
        is_shown = is_real != bool(hidden)
        inputs[mask.place] = np.broadcast_to(is_shown, mask.shape).astype(mask.dtype)
    real = np.broadcast_to(is_real, (trial.samples.batch, length))
    run = Run(inputs, trial.run(inputs))
    yield Padded(trial, field, masks, field.place, padding, side, run, real)


def _padded_texts(trial: Trial, field: Field) -> Iterator[Padded]:
    """Yield the batch with all texts but the first one shorter, if the model masks its ids."""
    texts = trial.base[field.place]
    short = _shorter_texts(texts, trial.samples.length)
    short[0] = texts[0]
    inputs = {**trial.base, field.place: short}
    run = Run(inputs, trial.run(inputs))
    for node_id in trial.flow.descendants(field.place):
        ids = run.values.get((node_id, 0))
        if ids is None or ids.dtype.kind not in "iu" or ids.ndim != 2 or ids.shape[1] < 2:
            continue
        paddings = _masked_ids(trial, node_id)
        if paddings and len(ids) == len(texts):
            real = ids != paddings[0]
            yield Padded(trial, field, (), node_id, paddings[0], "right", run, real)
            return


def _masked_ids(trial: Trial, start: str) -> list[int]:
    """Return the ids that the model masks, of those that a call returns."""
    takers = reachability(trial.graph, stop=_is_no_identity).descendants(start)
    tables = [i for i in takers if (i, 0) in trial.masks and not padding_of(trial.graph.node(i))]
    found = _compared_ids(trial.graph, start) or [0] * len(tables)  # a table inside masks 0
    # A mask may be made inside of a layer of one's own, or of a `Lambda`.
    is_closed = any(is_function(trial.graph.node(taker)) for taker in takers)
    if found or not is_closed or start not in trial.opened.index:
        return found
    return _compared_ids(trial.opened, start)


def _is_no_identity(node: Node) -> bool:
    return not is_identity_like(node)


def _compared_ids(graph: Graph, start: str) -> list[int]:
    """Return the ids that a graph masks, of those that a call returns.

    An id that is only compared with, such as for one more feature of a token, is not masked: what
    the comparison returns must get to an argument for masks, to the scores of an attention, or to a
    product with vectors. Such a product may also hide tokens to be predicted, which are picked
    with `equal`.
    """
    flow = data_flow(graph)
    unchanged = reachability(graph, stop=_is_no_identity)
    is_light = reachability(graph, stop=lambda node: bool(node.parameters) or node.is_a(_MERGES))
    attentions = attentions_with_masks(graph)[0]
    found = []
    for taker in map(graph.node, unchanged.descendants(start)):
        ids = [n for n in padding_of(taker) if isinstance(n, int)]
        near = {taker.id, *is_light.descendants(taker.id)}
        is_product = any(graph.node(i).is_a(_MERGES) and len(flow.incoming[i]) > 1 for i in near)
        if (
            taker.class_name not in ("Equal", "NotEqual")
            or any("mask" in edge.port for i in near for edge in graph.outgoing[i])
            or any(flow.depends(e.source, on=taker.id) for a in attentions for e in a.masks)
            or (is_product and (taker.class_name == "NotEqual" or 0 in ids))
        ):
            found += ids
    return found


_MERGES = frozenset({"Divide", "Multiply", "TrueDivide", "Where"})


def _shorter_texts(texts: np.ndarray, words: int) -> np.ndarray:
    import numpy as np

    kept = words - max(words // 4, 1)
    short = [" ".join(text.split()[:kept]) for text in texts.ravel()]
    return np.asarray(short, dtype=object).reshape(texts.shape)


def _without_padding(padded: Padded) -> Run | None:
    """Return the run of the same sequences without padding; None if no other length can be run.

    The calls of a model with a fixed length are run one by one, which may work with another.
    """
    trial, field, start = padded.trial, padded.field, padded.run.inputs
    if field.kind == "texts":
        texts = _shorter_texts(trial.base[field.place], trial.samples.length)
        inputs = {**start, field.place: texts}
        return Run(inputs, trial.run(inputs))
    real = padded.real[0]
    same = [f for f in trial.samples.fields if f.shape[:2] == field.shape[:2]]
    same = [f for f in same if f.is_free == field.is_free]
    own = [field, *padded.masks]
    others = [f for f in same if f.has_positions and f not in own]
    for cut in (own, [*own, *others]):  # segments have the positions of the tokens, targets do not
        inputs = {**start, **{f.place: start[f.place][:, real] for f in cut}}
        try:
            return Run(inputs, trial.run(inputs))
        except Exception:
            continue
    return None


def _with_other_padding(padded: Padded) -> Run | None:
    """Return the run with other vectors, or other inputs, at padded positions."""
    trial, before = padded.trial, padded.run
    if padded.padding is None:  # only a mask says what is padded
        positions = [(slice(None), int(p)) for p in (~padded.real[0]).nonzero()[0]]
        inputs = trial.samples.changed(before.inputs, padded.field.place, positions)
        return Run(inputs, trial.run(inputs))
    change = _changes(padded)
    return Run(before.inputs, trial.run(before.inputs, change=change)) if change else None


def _starts(padded: Padded) -> list[str]:
    """Return the calls whose values are vectors of one position each."""
    graph = padded.trial.graph
    unchanged = reachability(graph, stop=lambda node: not is_identity_like(node))
    nodes = map(graph.node, unchanged.descendants(padded.start))
    if padded.padding is None:
        return [padded.field.place]
    if padded.field.kind == "floats":
        return [node.id for node in nodes if "mask_value" in node.config]  # marked before
    return [
        node.id
        for node in nodes
        if "float" in node.outputs[0].dtype and not is_norm(node) and len(node.outputs[0].shape) > 2
    ]


def _changes(padded: Padded) -> Mapping[Place, Change]:
    """Return changes of the vectors of padded positions: value -> function of it."""
    import numpy as np

    def change(values: np.ndarray) -> np.ndarray:
        changed = values.copy()
        noise = np.random.default_rng(3).standard_normal(values.shape)
        noise *= 2 * np.abs(values).mean()
        changed[~padded.real] += noise[~padded.real].astype(values.dtype)
        return changed

    starts = [node_id for node_id in _starts(padded) if node_id in padded.trial.graph.index]
    return {(node_id, 0): change for node_id in starts}


def _masks_of(trial: Trial, field: Field) -> Sequence[Field]:
    """Return the inputs that are masks of the positions of an input.

    A name picks the inputs to try. What it claims is confirmed or refuted by running.
    """
    fields = trial.samples.fields
    padded = [f for f in trial.probed_fields if f.shape[:2] == field.shape[:2]]
    masks = {}
    for mask in fields:
        is_mask = mask.is_mask or mask.dtype == "bool" or "mask" in mask.place.lower()
        is_used = mask.is_mask or field.kind == "ids" or _hides(trial, mask)
        if mask.kind == "other" and is_mask and is_used and mask.shape == field.shape[:2]:
            common = {f.place: _in_common(mask.place, f.place) for f in padded}
            if common[field.place] == max(common.values()):  # of another sequence otherwise
                masks[mask.place] = mask, common[field.place]
    most = max((size for _, size in masks.values()), default=0)
    if len(masks) > 1 and not most:
        return []
    return [mask for mask, size in masks.values() if size == most][:1]


def _hides(trial: Trial, mask: Field) -> bool:
    """Return whether a mask multiplies or chooses something, and is no feature beside others."""
    graph = trial.graph
    near = reachability(graph, stop=lambda n: bool(n.parameters) or n.is_a(_MERGES))
    nodes = [graph.node(i) for i in near.descendants(mask.place)]
    ports = [
        edge.port for node in (mask.place, *(n.id for n in nodes)) for edge in graph.outgoing[node]
    ]
    merges = (n for n in nodes if n.is_a(_MERGES))
    return any("mask" in port for port in ports) or any(
        len(trial.flow.incoming[n.id]) > 1 for n in merges
    )


def _in_common(first: str, second: str) -> int:
    size = 0
    while size < min(len(first), len(second)) and first[size] == second[size]:
        size += 1
    return size
