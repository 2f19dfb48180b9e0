"""Positions of calls in a whole model, with its nested models and opened layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Place:
    """Position of a call, or of a nested model, in the whole model.

    Attributes:
        opened: Ids of the opened models and layers around it, outermost first.
        origin: id(tensor) -> the node that returns it, as (node id, output).
        when: Sort key: the position in its model, preceded by that model's own position.
    """

    opened: tuple[str, ...]
    origin: dict[int, tuple[str, int]]
    when: tuple[float, ...]

    @property
    def prefix(self) -> str:
        """Prefix of the names there: "", or the id of the innermost opened model and a dot."""
        return f"{self.opened[-1]}." if self.opened else ""
