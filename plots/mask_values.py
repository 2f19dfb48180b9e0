"""The keys that an attention may see, by the values of its masks of positions.

No name of a call decides. What depends on the values of inputs or on weights hides nothing here:
that is padding, or a bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from plots.graph import Constant, Edge, Graph
from plots.shape_values import HIDDEN, TRIANGLES, NeutralError, ShapeValues, UnknownError
from plots.traversal import Reachability

Direction = Literal["causal", "prefix", "ahead", "later", "cut off", ""]
"""What a mask of positions shows: no later key, later ones in a prefix only, the next one as well,
none that is earlier, or all up to the index of the query, of more keys than queries."""


class Visible(NamedTuple):
    """What the masks of positions of an attention show.

    Attributes:
        causal: Whether they hide all keys later than the query; None if it is unknown.
        direction: The direction, if all of the mask is known and triangular.
    """

    causal: bool | None
    direction: Direction = ""


def visible_keys(
    graph: Graph,
    flow: Reachability,
    softmax: str,
    axes: tuple[int | None, int] | None,
    masks: Sequence[Edge],
    constants: Sequence[Constant],
    sinks: tuple[int, int] = (0, 0),
) -> Visible:
    """Return what the masks of an attention show.

    Args:
        graph: The graph.
        flow: Its data flow.
        softmax: Id of the call that computes the weights.
        axes: (query axis, key axis) of the softmax; None if the attention is one call.
        masks: Edges of masks and biases.
        constants: Masks and switches that are not tensors of the graph.
        sinks: Numbers of scores without a key, before and after the others.
    """
    import numpy as np

    if any("causal" in constant.port and constant.value is True for constant in constants):
        return Visible(True, "causal")
    values = ShapeValues(graph, flow)
    try:
        if axes is None:
            visible = values.visible_in_one_call(masks, constants)
        else:
            visible = _moved(values.of(softmax, 0, as_softmax=True) > HIDDEN, axes)
            visible = visible[..., sinks[0] : visible.shape[-1] - sinks[1]]
    except NeutralError:
        return Visible(None)
    unknown = Visible(None if values.is_unsure else False)
    if visible is None or visible.ndim < 2 or visible.all():
        return unknown
    queries, keys = visible.shape[-2:]
    if queries != keys:
        cut_off = np.broadcast_to(_tri(queries, keys), visible.shape)
        is_known = keys > queries and not values.is_unsure
        is_cut_off = is_known and np.array_equal(visible, cut_off)
        return Visible(None, "cut off" if is_cut_off else "")
    if not visible[..., ~_tri(queries, keys)].any() and visible.any():
        return Visible(True, "causal")
    return unknown if values.is_unsure else Visible(False, _direction(visible))


def _direction(visible: Any) -> Direction:
    """Return the direction of a mask that is not causal."""
    import numpy as np

    for triangle in TRIANGLES.values():
        if (triangle.is_upper or triangle.k == 1) and not triangle.is_added:
            seen = triangle.seen(*visible.shape[-2:])
            if np.array_equal(visible, np.broadcast_to(seen, visible.shape)):
                return "later" if triangle.is_upper else "ahead"
    return ""


def _tri(queries: int, keys: int) -> Any:
    import numpy as np

    return np.tri(queries, keys, dtype=bool)


def _moved(visible: Any, axes: tuple[int | None, int]) -> Any:
    import numpy as np

    query, key = axes
    if query is None:
        raise UnknownError
    return np.moveaxis(visible, (query, key), (-2, -1))
