"""Fixed biases on attention scores that prefer keys far away."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plots.annotations import Note
from plots.attention_parts import Attention
from plots.attentions import attentions_with_masks
from plots.checking.results import Check, shown
from plots.checking.trials import Trial
from plots.diagnosis.rules import doing
from plots.layers import is_additive_merge
from plots.traversal import reachability

if TYPE_CHECKING:
    import numpy as np

_ALIBI = "Press et al. 2022, Train Short, Test Long (ALiBi), section 3"
_FEWEST = 4


def check_biases(trial: Trial) -> Iterator[Check]:
    """Yield a finding about attentions whose fixed biases grow with the distance.

    Their scores are set to zero, so that the weights show what is added to scores: in each head,
    the weight of a key is the larger the earlier it is.
    """
    attentions = [a for a in attentions_with_masks(trial.graph)[0] if _has_fixed_bias(trial, a)]
    if not attentions:
        return
    zeros = {(a.scores, 0): lambda scores: scores * 0 for a in attentions}
    values = trial.run(trial.base, change=zeros)
    places = [a.id for a in attentions if _prefers_far(values[a.id, 0], a)]
    if places:
        text = (
            f"Biases that prefer what is far: {doing(trial.graph, places, 'add')} fixed numbers to "
            "the scores that grow with the distance between query and key, in every head, so that "
            "the first position gets most. ALiBi subtracts the distance: slope * (key - query) "
            "for keys before the query."
        )
        shows = "With scores of zero, weights grow with the distance between query and key."
        witness = shown(trial, shows, exact=False)
        yield Check("order", "far first", Note("finding", tuple(places), text, _ALIBI), witness)


def _has_fixed_bias(trial: Trial, attention: Attention) -> bool:
    """Return whether something without weights is added to the scores of an attention by steps."""
    axes = attention.axes
    if attention.is_one_call or axes is None or axes[0] is None or not attention.scores:
        return False
    graph, flow = trial.graph, reachability(trial.graph)
    steps = [graph.node(i) for i in attention.masking]
    sources = {i for e in attention.masks for i in (e.source, *flow.ancestors(e.source))}
    is_trained = any(graph.node(i).parameters for i in sources) or any(n.parameters for n in steps)
    return not is_trained and any(map(is_additive_merge, steps))


def _prefers_far(weights: np.ndarray, attention: Attention) -> bool:
    """Return whether weights of scores of zero grow with the distance, for each query and head."""
    import numpy as np

    query, key = (axis for axis in attention.axes or () if axis is not None)
    rows = np.moveaxis(weights.astype("float64"), (query, key), (-2, -1))
    length = rows.shape[-1]
    if rows.shape[-2] != length or length < _FEWEST or not np.isfinite(rows).all():
        return False
    last = rows[..., -1, :]  # the query that sees most
    return bool((np.diff(last, axis=-1) < -1e-6 * last[..., :-1]).all())
