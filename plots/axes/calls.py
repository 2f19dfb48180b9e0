"""A call together with the axes of what it takes and gives out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from plots.graph import Node

SomeAxis = TypeVar("SomeAxis")


@dataclass(frozen=True)
class CallWithAxes(Generic[SomeAxis]):
    """A call with the axes of what it takes and gives out, as rules about it see them.

    Attributes:
        node: The call.
        inputs: Axes of every tensor that it takes, by port, in the order of its arguments.
        outputs: Axes of every tensor that it gives out.
    """

    node: Node
    inputs: Mapping[str, tuple[SomeAxis, ...]]
    outputs: tuple[tuple[SomeAxis, ...], ...]

    @property
    def first(self) -> tuple[SomeAxis, ...]:
        """Axes of the first tensor that it takes.

        Raises:
            StopIteration: if it takes none.
        """
        return next(iter(self.inputs.values()))

    @property
    def output(self) -> tuple[SomeAxis, ...]:
        """Axes of the first tensor that it gives out."""
        return self.outputs[0]
