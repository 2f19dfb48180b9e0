"""Which positions see which, in words: a boolean matrix of dependences, named."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

Kind = Literal[
    "nothing",
    "itself",
    "causal",
    "future",
    "ahead",
    "prefix",
    "first",
    "start",
    "window",
    "all",
    "some",
]


@dataclass(frozen=True)
class Visibility:
    """What positions see.

    Attributes:
        kind: "nothing"; "itself" alone; "causal": no later position; "future": no earlier one;
            "ahead": everything before and `size` positions after; "prefix": the first `size`
            positions see each other, the others no later one; "first": the first `size` positions
            see all, the others no later one; "start": all see the first `size` positions, and none
            the others, as where a length says how many are no padding; "window": `size` later
            positions at most, and `behind` earlier ones; "all"; or "some" later positions in
            another pattern.
        size: See `kind`.
        example: (position, later position that it sees), or None.
        sees_itself: Whether each position sees itself.
        behind: See `kind`.
    """

    kind: Kind
    size: int = 0
    example: tuple[int, int] | None = None
    sees_itself: bool = True
    behind: int = 0

    @property
    def is_causal(self) -> bool:
        """Whether no position sees a later one."""
        return self.kind in ("nothing", "itself", "causal")

    @property
    def text(self) -> str:
        """What a position sees, after "each position sees"."""
        size = self.size
        s = "" if size == 1 else "s"
        return {
            "nothing": "no position of it",
            "itself": "itself alone",
            "causal": f"{'itself and ' * self.sees_itself}the positions before it (causal)",
            "future": f"{'itself and ' * self.sees_itself}later positions only",
            "ahead": f"all before and {size} later position{s}",
            "prefix": f"those before, and the first {size} see each other",
            "first": f"those before, but the first{f' {size}' * (size > 1)} sees later ones, too",
            "start": f"the first {size} position{s}",
            "window": f"up to {size} position{s} to each side"
            if self.behind == size
            else f"up to {size} later position{s}, and up to {self.behind} before",
            "all": "all positions",
            "some": "some later positions, or none",
        }[self.kind]


def visibility(matrix: np.ndarray, probes: Sequence[int]) -> Visibility:
    """Return what positions see.

    Args:
        matrix: Whether position q depends on the position `probes[k]`: booleans (q, k).
        probes: The positions that were changed, in ascending order.
    """
    import numpy as np

    length = len(matrix)
    at = np.asarray(probes)
    queries = np.arange(length)[:, None]
    later, before, same = at > queries, at < queries, at == queries
    future, past = matrix & later, matrix & before
    sees_itself = bool((matrix & same).any())
    if not matrix.any():
        return Visibility("nothing", sees_itself=False)
    if not future.any():
        return Visibility("causal" if past.any() else "itself", sees_itself=sees_itself)
    own, key = (int(n) for n in np.argwhere(future)[0])
    example = (own, int(at[key]))

    def found(kind: Kind, size: int = 0) -> Visibility:
        return Visibility(kind, size, example, sees_itself)

    # A query whose keys are all masked takes the mean of all: a softmax of equal scores.
    sees_all = (matrix | same).all(axis=1, keepdims=True)
    masked = past.any(axis=1, keepdims=True)
    if not (masked & ~sees_all).any() and masked.sum() <= max(length // 4, 1):
        return found("future")
    if matrix.all() or ((future | ~later).all() and (past | ~before).all()):
        return found("all")
    ahead = int((at - queries)[future].max())
    behind = int((queries - at)[past].max())
    widest = max(length - 1 - int(at.min()), 1)
    if ((matrix == (at <= queries + ahead)) | same).all():
        return found("ahead", ahead)
    prefix = int(at[future.any(axis=0)].max()) + 1
    if prefix < length and (future == (later & (at < prefix))).all():
        after = (at >= prefix) & (at < length - 1)  # those that only queries after the prefix see
        if past[:, after].any() or not after.any():
            return found("prefix", prefix)
        return found("start" if (past | ~before)[:, at < prefix].all() else "some", prefix)
    first = int(np.argwhere(future.any(axis=1)).max()) + 1
    if first <= max(length // 4, 1) and (future | ~later)[:first].all():
        return found("first", first)
    if behind < widest and ahead < widest:
        return Visibility("window", ahead, example, sees_itself, behind)
    return found("some")


@dataclass(frozen=True)
class Frontier:
    """The last position of an input that each position of a value of another length sees.

    Position i sees the input up to `floor(i * stride) + offset`: with a class token in front,
    the stride is 1 and the offset -1; after a convolution with strides of 2, the stride is 2.
    """

    stride: Fraction
    offset: int

    @property
    def text(self) -> str:
        """The position, such as "2i + 1"."""
        n, d = self.stride.numerator, self.stride.denominator
        own = "i" if n == d else f"{n}i" if d == 1 else f"i // {d}" if n == 1 else f"{n}i // {d}"
        return own + (f" {'+' if self.offset > 0 else '-'} {abs(self.offset)}" * bool(self.offset))


def frontier(matrix: np.ndarray, probes: Sequence[int], length: int) -> Frontier | None:
    """Return the last position that each position sees, if that moves along the input.

    Args:
        matrix: Whether position q of the value depends on the position `probes[k]` of the input.
        probes: The positions that were changed, in ascending order.
        length: The number of positions of the input.
    """
    import numpy as np

    size = len(matrix)
    strides = [Fraction(1), Fraction(ceil(length / size))]
    strides += [Fraction(length, size)] * (size % length == 0)
    queries, keys = np.nonzero(matrix)
    if not len(queries):
        return None
    seen = np.asarray(probes)[keys]
    for stride in dict.fromkeys(strides):
        places = np.asarray([floor(q * stride) for q in range(size)])
        offset = int((seen - places[queries]).max())
        ends = [
            bool(matrix[q, k])
            for q in range(size)
            for k, probe in enumerate(probes)
            if probe == places[q] + offset
        ]
        if len(ends) >= _FEWEST and all(ends):
            return Frontier(stride, offset)
    return None


_FEWEST = 4
"""Least number of positions at which a frontier must be met, so that it is no accident."""
