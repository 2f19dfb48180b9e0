"""Rules of calls that move, cut and join axes: reshapes, slices, convolutions.

`plots.axes.rules` defines the signature of a rule.
"""

from __future__ import annotations

from fractions import Fraction
from math import prod
from typing import Any

from plots.axes.rules import axis_rule, reduced
from plots.axes.unions import AxisId, Call

Axes = tuple[AxisId, ...]

# Axes in another order, more of them, or fewer --------------------------------------------------


@axis_rule("Permute", "Swapaxes", "Transpose")
def _transpose(call: Call) -> None:
    config, order = call.node.config, [*range(len(call.first))]
    if "axis1" in config:
        i, j = config["axis1"], config["axis2"]
        order[i], order[j] = order[j], order[i]
    elif "dims" in config:  # the layer, which does not count the batch
        order = [0, *config["dims"]]
    else:
        order = config["axes"] or order[::-1]
    call.axes.unite_all([call.first[place] for place in order], call.output)


@axis_rule("Moveaxis")
def _move(call: Call) -> None:
    rank = len(call.first)
    sources, targets = (_listed(call.node.config[key]) for key in ("source", "destination"))
    order = [place for place in range(rank) if place not in {i % rank for i in sources}]
    for target, source in sorted(
        (j % rank, i % rank) for i, j in zip(sources, targets, strict=True)
    ):
        order.insert(target, source)
    call.axes.unite_all([call.first[place] for place in order], call.output)


@axis_rule("ExpandDims", "OneHot", "RepeatVector", "Stack")
def _insert(call: Call) -> None:
    rank = len(call.output)
    places = {i % rank for i in _listed(call.node.config.get("axis", 1))}
    kept = [axis for place, axis in enumerate(call.output) if place not in places]
    for given in call.inputs.values():
        call.axes.unite_all(given, kept)


@axis_rule("Squeeze", "Unstack")
def _squeeze(call: Call) -> None:
    axis = call.node.config["axis"]
    ones = [i for i, a in enumerate(call.first) if call.size(a) == 1]
    reduced(call, ones if axis is None else axis, keepdims=False)


@axis_rule("BroadcastTo")
def _broadcast_to(call: Call) -> None:
    for a, b in zip(reversed(call.first), reversed(call.output), strict=False):
        call.axes.stretch(a, b)


@axis_rule("Take")
def _take(call: Call) -> None:
    table = call.inputs["x"]
    place = call.node.config["axis"] % len(table)
    rank = len(call.output) - len(table) + 1
    indices = call.inputs.get("indices", call.output[place : place + rank])
    call.axes.unite_all([*table[:place], *indices, *table[place + 1 :]], call.output)


@axis_rule("Flatten", "Reshape")
def _reshape(call: Call) -> None:
    """Match known sizes from both ends, and regroup those between free axes."""
    given, result = list(call.first), list(call.output)
    if call.node.kind == "layer":  # a layer keeps the batch
        call.axes.unite(given.pop(0), result.pop(0))
    runs = _runs(call, given), _runs(call, result)
    products = [[prod(call.size(a) or 1 for a in run) for run in side] for side in runs]
    free = [[a for a in side if call.size(a) is None] for side in (given, result)]
    if products[0] == products[1]:  # the same free axes, with the same sizes between them
        for a, b in zip(*runs, strict=True):
            _match_ends(call, a, b)
            if len(a) == 1:  # as a width is split into heads
                call.axes.splits.append(tuple(b))
        call.axes.unite_all(*free)
    elif len(free[1]) == 1:
        known = prod(call.size(a) or 1 for a in result)
        call.axes.derive_size(free[1][0], (Fraction(1, known), tuple(given)))
        _match_ends(call, given, result)


def _runs(call: Call, axes: list[AxisId]) -> list[list[AxisId]]:
    """Return the axes of known size before, between and after the free ones."""
    runs: list[list[AxisId]] = [[]]
    for axis in axes:
        if call.size(axis) is None:
            runs.append([])
        else:
            runs[-1].append(axis)
    return runs


def _match_ends(call: Call, given: list[AxisId], result: list[AxisId]) -> None:
    """Unite and remove axes of the same known size at the end, and at the front."""
    for end in (-1, 0):
        while given and result and call.size(given[end]) == call.size(result[end]) is not None:
            call.axes.unite(given.pop(end), result.pop(end))


# Slices and joins -------------------------------------------------------------------------------


@axis_rule("GetItem")
def _slice(call: Call) -> None:
    axes, result = list(call.first), list(call.output)
    for key in _keys(call):
        if key is None:
            result.pop(0)
        elif isinstance(key, int):
            axes.pop(0)
        else:
            _cut(call, axes.pop(0), result.pop(0), key)
    call.axes.unite_all(axes, result)


def _keys(call: Call) -> list[Any]:
    """Return the key of every axis: [":", None, 0] of `x[:, None, 0]`.

    Raises:
        ValueError: if one of them is an array.
    """
    given = {c.port.removeprefix("key").removeprefix("."): c for c in call.node.constants}
    if len(call.inputs) > 1 or any(c.shape for c in given.values()):
        raise ValueError("an index that is an array has no rule")
    keys = {int(place or 0): constant.value for place, constant in given.items()}
    listed = [keys.get(place) for place in range(max(keys, default=-1) + 1)]
    rank, result = len(call.first), len(call.output)
    taken = sum(key is not None and key != "..." for key in listed)
    if "..." in listed:
        place = listed.index("...")
        listed[place : place + 1] = [":"] * (rank - taken)
    # Constants do not hold None, so that one at the end shows only in the rank of the output.
    lost = result - rank + sum(isinstance(k, int) for k in listed) - listed.count(None)
    return listed + [None] * lost


def _cut(call: Call, axis: AxisId, result: AxisId, key: str) -> None:
    """Derive the size of `x[start:stop:step]`; negative numbers count from the end."""
    *indices, step = [*(int(part) if part else None for part in key.split(":")), None][:3]
    # Both ends as (factor of the length, offset): 3 is (0, 3), -3 is (1, -3). A negative step goes
    # from the last element to the one before the first.
    ends = [(0, 0), (1, 0)] if step is None or step > 0 else [(1, -1), (0, -1)]
    for place, index in enumerate(indices):
        if index is not None:
            ends[place] = (int(index < 0), index)
    (factor, offset), (end_factor, end_offset) = ends
    share = Fraction(1, step or 1)
    longer, more = (end_factor - factor) * share, (end_offset - offset) * share
    call.axes.derive_size(result, (longer, (axis,)), (more, ()))


@axis_rule("Concatenate")
def _concatenate(call: Call) -> None:
    place = call.node.config["axis"] % len(call.output)
    for axes in call.inputs.values():
        _same_but(call, place, axes, call.output)
    sizes = sum(c.shape[place] or 0 for c in call.node.constants if c.shape)
    joined = ((1, (axes[place],)) for axes in call.inputs.values())
    call.axes.derive_size(call.output[place], *joined, (sizes, ()))


@axis_rule("Split")
def _split(call: Call) -> None:
    place = call.node.config["axis"] % len(call.first)
    for output in call.outputs:
        _same_but(call, place, call.first, output)


def _same_but(call: Call, place: int, first: Axes, second: Axes) -> None:
    """Unite all axes but those at `place`."""
    call.axes.unite_all(first[:place], second[:place])
    call.axes.unite_all(first[place + 1 :], second[place + 1 :])


@axis_rule("Repeat", "Tile")
def _repeat(call: Call) -> None:
    repeats, axis = call.node.config["repeats"], call.node.config.get("axis")
    if axis is not None:
        times = [1] * len(call.first)
        times[axis] = repeats
    else:
        times = repeats
    for a, b, factor in zip(call.first, call.output, times, strict=True):
        call.axes.derive_size(b, (factor, (a,)))


@axis_rule("Pad")
def _pad(call: Call) -> None:
    width = call.node.config["pad_width"]  # 1, (1, 2), or [(1, 2), (0, 0)]
    pairs = [[width]] if isinstance(width, int) else [width] if isinstance(width[0], int) else width
    pairs = pairs * len(call.first) if len(pairs) == 1 else pairs  # one pair is of all axes
    for a, b, pair in zip(call.first, call.output, pairs, strict=True):
        call.axes.derive_size(b, (1, (a,)), (pair[0] + pair[-1], ()))


def _listed(places: Any) -> list[int]:
    return [places] if isinstance(places, int) else list(places)


# Images: convolutions, pooling and padding ------------------------------------------------------


def _spatial(call: Call, count: int, keeps_channels: bool) -> list[tuple[AxisId, AxisId]]:
    """Unite all axes but the `count` spatial ones, and return those as (input, output)."""
    last = call.node.config.get("data_format", "channels_last") == "channels_last"
    start = len(call.first) - count - last
    places = range(start, start + count)
    call.axes.unite_all(call.first[: start - (not last)], call.output[: start - (not last)])
    if keeps_channels:
        channel = -1 if last else start - 1
        call.axes.unite(call.first[channel], call.output[channel])
    letters = {2: "HW", 3: "DHW"}.get(count, "")
    call.axes.roles += zip(letters, call.first[start:], strict=False)
    return [(call.first[place], call.output[place]) for place in places]


def _windows(
    call: Call, window: list[int], strides: list[int], dilation: list[int], keeps_channels: bool
) -> None:
    """Derive the number of windows: n / stride if padded, else (n - reach) / stride + 1."""
    pairs = _spatial(call, len(window), keeps_channels)
    for (x, y), k, stride, spread in zip(pairs, window, strides, dilation, strict=True):
        reach = spread * (k - 1) + 1 if call.node.config["padding"] == "valid" else stride
        share = Fraction(1, stride)
        call.axes.derive_size(y, (share, (x,)), (1 - reach * share, ()))


@axis_rule("BaseConv", "BaseDepthwiseConv", "BaseSeparableConv")
def _convolution(call: Call) -> None:
    config = call.node.config
    _windows(call, config["kernel_size"], config["strides"], config["dilation_rate"], False)


@axis_rule("BasePooling")
def _pooling(call: Call) -> None:
    size = call.node.config["pool_size"]
    _windows(call, size, call.node.config["strides"] or size, [1] * len(size), True)


@axis_rule("BaseConvTranspose")
def _transposed_convolution(call: Call) -> None:
    """Derive the size: a stride for each position, and an end as padding asks for."""
    config = call.node.config
    pairs = _spatial(call, len(config["kernel_size"]), keeps_channels=False)
    added = config["output_padding"]
    extra = [added] * len(pairs) if added is None or isinstance(added, int) else added
    valid = config["padding"] == "valid"
    for (x, y), k, stride, spread, end in zip(
        pairs, config["kernel_size"], config["strides"], config["dilation_rate"], extra, strict=True
    ):
        reach = spread * (k - 1) + 1
        if end is None:
            more = max(reach - stride, 0) if valid else 0
        else:
            more = end - stride + (reach if valid else reach % 2)
        call.axes.derive_size(y, (stride, (x,)), (more, ()))


@axis_rule("BaseGlobalPooling")
def _global_pooling(call: Call) -> None:
    last = call.node.config["data_format"] == "channels_last"
    places = range(1, len(call.first) - 1) if last else range(2, len(call.first))
    reduced(call, list(places), call.node.config["keepdims"])


@axis_rule("UpSampling1D", "UpSampling2D", "UpSampling3D")
def _up_sampling(call: Call) -> None:
    sizes = _listed(call.node.config["size"])
    pairs = _spatial(call, len(sizes), keeps_channels=True)
    for (x, y), factor in zip(pairs, sizes, strict=True):
        call.axes.derive_size(y, (factor, (x,)))


@axis_rule(*(f"{name}{rank}D" for name in ("Cropping", "ZeroPadding") for rank in (1, 2, 3)))
def _cropping_or_padding(call: Call) -> None:
    """Derive sizes from the (before, after) of each spatial axis."""
    key, sign = ("cropping", -1) if "cropping" in call.node.config else ("padding", 1)
    ends = call.node.config[key]
    both = [ends] if isinstance(ends[0], int) else ends
    pairs = _spatial(call, len(both), keeps_channels=True)
    for (x, y), (before, after) in zip(pairs, both, strict=True):
        call.axes.derive_size(y, (1, (x,)), (sign * (before + after), ()))
