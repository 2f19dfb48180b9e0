"""Rotations of queries and keys that do not cancel at the same position."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, shown
from plots.checking.trials import Change, Trial
from plots.diagnosis.projections import projection_behind
from plots.diagnosis.rules import doing
from plots.measuring.execution import Place
from plots.positions import kinds_of_positions

if TYPE_CHECKING:
    import numpy as np

_ROPE = "Su et al. 2021, RoFormer, section 3.2, equation 16"
_ROUNDING = 1e-3


def check_rotations(trial: Trial) -> Iterator[Check]:
    """Yield a finding about self-attentions whose rotations depend on more than distances.

    All positions get the same queries and keys before they are rotated. The score of each position
    with itself, at distance 0, is then the same everywhere if queries and keys are rotated alike.
    """
    attentions = attentions_with_masks(trial.graph)[0]
    if "rotary" not in kinds_of_positions(trial.graph, attentions):
        return
    ends: dict[str, dict[Place, Change]] = {}
    for attention in attentions:
        if attention.is_self and attention.scores:
            changes = _of_equal_positions(trial, attention)
            if changes:
                ends[attention.id] = changes
    if not ends:
        return
    values = trial.run(trial.base, change={k: v for own in ends.values() for k, v in own.items()})
    places = [
        attention.id
        for attention in attentions
        if attention.id in ends and _varies(values[attention.scores, 0], attention)
    ]
    if places:
        text = (
            f"Rotations that do not cancel: {doing(trial.graph, places, 'multiply')} queries and "
            "keys that are rotated by different angles at the same position, so that scores depend "
            "on positions, and not on distances. Rotate both by the same table, in the same "
            "direction, once."
        )
        shows = "With equal queries and keys, scores at distance 0 differ from place to place."
        witness = shown(trial, shows, exact=False)
        yield Check("order", "turned apart", Note("finding", tuple(places), text, _ROPE), witness)


def _of_equal_positions(trial: Trial, attention: Attention) -> dict[Place, Change]:
    """Return changes by which all positions have the queries and keys of the first; {} if none."""
    found: dict[Place, Change] = {}
    for edge in (attention.query, *attention.keys[:1]):
        projection = projection_behind(trial.graph, edge)
        value = None if projection is None else trial.values.get((projection.id, 0))
        if projection is None or value is None or value.ndim < 3:
            return {}
        if value.shape[1] != trial.samples.length:
            return {}
        found[projection.id, 0] = _first_everywhere
    return found


def _first_everywhere(value: np.ndarray) -> np.ndarray:
    return value[:, :1].repeat(value.shape[1], axis=1)


def _varies(scores: np.ndarray, attention: Attention) -> bool:
    """Return whether scores at distance 0 differ between positions."""
    import numpy as np

    query, key = attention.axes or (None, 0)
    if query is None or scores.ndim <= max(query, key) or scores.shape[query] != scores.shape[key]:
        return False
    own = np.diagonal(scores.astype("float64"), axis1=query, axis2=key)
    return bool(np.ptp(own, axis=-1).max() > _ROUNDING * np.abs(scores).max())
