"""What can be different between two graphs: calls, their configuration, shapes and wiring."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from plots.annotations import Quantity
from plots.graph import Edge, Graph
from plots.registry import list_plugins

Aspect = Literal["class", "config", "constant", "place", "trainable", "shape", "parameters"]
"""What of a call has changed; "place" is that of an input among the inputs."""

MODEL = ""
"""In the place of a call's id: what takes the outputs of the model."""


@dataclass(frozen=True, slots=True)
class Change:
    """One thing in which two calls differ.

    Attributes:
        aspect: What sort of thing.
        name: Which one: "units" of the configuration, "x2" of the constants, "output".
        old: What it was, in words.
        new: What it is, in words.
    """

    aspect: Aspect
    name: str
    old: str
    new: str


@dataclass(frozen=True, slots=True)
class ChangedCall:
    """A call that is in both graphs and not the same.

    Attributes:
        before: Its id in the one graph.
        after: Its id in the other.
        changes: In what it differs.
    """

    before: str
    after: str
    changes: tuple[Change, ...]

    @property
    def is_reshaped(self) -> bool:
        """Whether it is set up as before, and differs only because what goes into it does."""
        return all(change.aspect in ("shape", "parameters") for change in self.changes)


@dataclass(frozen=True, slots=True)
class Move:
    """A call that is in both graphs, under another path or at another place.

    Attributes:
        before: Its id in the one graph.
        after: Its id in the other.
        renamed: Whether it has another path.
        displaced: Whether it lies elsewhere in the flow of data, as a norm that was before a
            sublayer and is behind it now.
    """

    before: str
    after: str
    renamed: bool
    displaced: bool


@dataclass(frozen=True, slots=True)
class Rewiring:
    """A call in both graphs that takes something else from what is in both graphs.

    Attributes:
        before: Id of the call in the one graph; `MODEL` for an output of the model.
        after: Its id in the other.
        old: What it took; None if nothing.
        new: What it takes instead; None if nothing.
    """

    before: str
    after: str
    old: Edge | None
    new: Edge | None


@dataclass(frozen=True, slots=True)
class TieChange:
    """Calls in both graphs that share their weights in one of the two only.

    Attributes:
        calls: Their ids in the graph in which they do.
        tied: Whether that is the second graph.
        others: Ids in that graph of calls with which they do so, and which do so among themselves
            in both graphs; none if there are no such.
    """

    calls: tuple[str, ...]
    tied: bool
    others: tuple[str, ...] = ()


@dataclass(frozen=True)
class Difference:
    """What has become of one graph in another one.

    What follows from something else is said once: a call that takes from an added one is not
    rewired, and neither is one that a moved call no longer stands in front of.

    Attributes:
        before: The one graph.
        after: The other.
        pairs: (id before, id after) of the calls that are in both, in the order of `after`.
        added: Ids of the calls that are in `after` only.
        removed: Ids of the calls that are in `before` only.
        moved: Calls under another path or at another place.
        changed: Calls with another class, configuration, constants, shapes or number of weights.
        rewired: Calls that take something else.
        ties: Weights that are shared now, or no longer.
    """

    before: Graph
    after: Graph
    pairs: tuple[tuple[str, str], ...]
    added: tuple[str, ...]
    removed: tuple[str, ...]
    moved: tuple[Move, ...]
    changed: tuple[ChangedCall, ...]
    rewired: tuple[Rewiring, ...]
    ties: tuple[TieChange, ...]

    @property
    def is_empty(self) -> bool:
        """Whether the graphs are the same, as far as `compare_graphs` compares them."""
        parts = (self.added, self.removed, self.moved, self.changed, self.rewired, self.ties)
        return not any(parts)

    @property
    def parameters(self) -> tuple[int, int]:
        """Number of weights before and after."""
        return self.before.parameters, self.after.parameters

    @cached_property
    def removed_from(self) -> Mapping[str, tuple[int, int]]:
        """Where removed calls have been: id -> (index in `after` of the pair before it, index)."""
        back = dict(self.pairs)
        removed_from, latest = {}, -1
        for number, node in enumerate(self.before.nodes):
            if node.id in back:
                latest = self.after.index[back[node.id]]
            else:
                removed_from[node.id] = latest, number
        return removed_from

    @cached_property
    def flops(self) -> tuple[Quantity, Quantity] | None:
        """Floating-point operations of both models; None without a plugin that counts them."""
        before, after = flops_of(self.before), flops_of(self.after)
        return None if before is None or after is None else (before, after)


def flops_of(graph: Graph) -> Quantity | None:
    """Floating-point operations of a model, by the plugin "flops"; None if there is none."""
    plugin = list_plugins().get("flops")
    overlays = plugin(graph).overlays if plugin else ()
    return next((overlay.whole for overlay in overlays if overlay.name == "flops"), None)
