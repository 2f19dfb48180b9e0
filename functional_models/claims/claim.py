"""A claim of the literature, its registry, and what measuring one returns."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from builders.errors import unknown_name

REVISION = 1
"""Raised when measurements change, so that results of earlier versions are measured again."""

AGREES, DISAGREES, NOT_DECIDED = "agrees", "disagrees", "not decided"


@dataclass(frozen=True)
class Figure:
    """Curves of a claim, as JSON holds them.

    Attributes:
        across, upwards: labels of the axes.
        curves: name -> [x values, y values]; one whose name starts with "band" is dotted.
        log: the axes that are logarithmic, of "x" and "y".
    """

    across: str
    upwards: str
    curves: Mapping[str, Sequence[Sequence[float]]]
    log: str = ""


@dataclass(frozen=True)
class Measured:
    """The result of measuring a claim.

    Attributes:
        verdict: `AGREES`, `DISAGREES` or `NOT_DECIDED`.
        summary: the measured numbers in one or two sentences.
        numbers: the same for programs, JSON-compatible.
        figure: what to draw.
    """

    verdict: str
    summary: str
    numbers: Mapping[str, Any]
    figure: Figure


@dataclass(frozen=True)
class Claim:
    """A claim, and how it is measured.

    Attributes:
        name: the name of the function that measures it.
        statement: the claim in one sentence.
        source: paper, and section, lemma or figure.
        band: the numbers that agree with the claim, in words.
        setting: the models that are measured, and where they deviate from the source.
        measure: measures it. Its keyword arguments are the settings, with their defaults. A claim
            on trained models takes `trainer`, a `Trainer`, first.
        trains: whether it needs trained models.
    """

    name: str
    statement: str
    source: str
    band: str
    setting: str
    measure: Callable[..., Measured]
    trains: bool

    @property
    def settings(self) -> dict[str, Any]:
        """The arguments of `measure` that have defaults."""
        parameters = inspect.signature(self.measure).parameters.values()
        return {p.name: p.default for p in parameters if p.default is not p.empty}


@dataclass(frozen=True)
class NotChecked:
    """A claim that is not measured, and why."""

    name: str
    statement: str
    source: str
    reason: str


CLAIMS: dict[str, Claim] = {}
"""All claims by name, in order; filled by `functional_models.claims.running`."""


def claim(
    *, statement: str, source: str, band: str, setting: str
) -> Callable[[Callable[..., Measured]], Callable[..., Measured]]:
    """Register the decorated function as the measurement of a claim of the same name."""

    def register(measure: Callable[..., Measured]) -> Callable[..., Measured]:
        name = measure.__name__
        trains = "trainer" in inspect.signature(measure).parameters
        CLAIMS[name] = Claim(name, statement, source, band, setting, measure, trains)
        return measure

    return register


def chosen_claims(names: Iterable[str] = (), *, train: bool = False) -> list[Claim]:
    """Return the claims of some names, or else those at initialisation and, on request, the others.

    Raises:
        ValueError: there is no claim of a name, or one is given twice.
    """
    if not (names := list(names)):
        return [claim for claim in CLAIMS.values() if train or not claim.trains]
    for number, name in enumerate(names):
        if name not in CLAIMS:
            raise ValueError(unknown_name("claim", name, CLAIMS))
        if name in names[:number]:
            raise ValueError(f"the claim {name} was given twice; give each once")
    return [CLAIMS[name] for name in names]
