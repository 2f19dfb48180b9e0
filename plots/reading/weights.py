"""How large the weights of layers are, each counted once."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from plots.graph import bytes_of
from plots.reading.keras_values import weights_of


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a `Node` says about the weights of its layer.

    Attributes:
        parameters: How many there are, without the shared ones.
        trainable: How many of them are trained.
        bytes: What they take.
        shared: How many more it has that are counted at another layer.
    """

    parameters: int
    trainable: int
    bytes: float
    shared: int


class WeightCounter:
    """Counts the weights of layers in the order in which they are asked for."""

    def __init__(self) -> None:
        self._counted: set[int] = set()  # id(variable) of the weights that a layer has been given

    def sizes_of(self, operation: Any) -> Sizes:
        """How large the weights of a layer are that no layer before it has."""
        weights = {id(variable): variable for variable in weights_of(operation)}
        own = {key: variable for key, variable in weights.items() if key not in self._counted}
        trained = {id(variable) for variable in getattr(operation, "trainable_weights", ())}
        self._counted |= own.keys()
        numbers = {key: math.prod(variable.shape) for key, variable in weights.items()}
        return Sizes(
            parameters=sum(numbers[key] for key in own),
            trainable=sum(numbers[key] for key in own if key in trained),
            bytes=sum(numbers[key] * bytes_of(own[key].dtype) for key in own),
            shared=sum(numbers[key] for key in weights if key not in own),
        )
