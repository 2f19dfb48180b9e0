"""Checks of the fields of a mixture of experts."""

from __future__ import annotations

from builders.errors import require as _require
from builders.spec_fields import SpecFields

_OF_EXPERTS = ("mlp", "glu", "clamped_glu")
"""Feed-forward layers whose weights are projections alone."""


def check_experts(spec: SpecFields) -> None:
    """Check that the experts exist, and are layers that can be experts."""
    number = spec.num_experts
    if not number:
        has_none = "0 where num_experts=0, which is one layer for all tokens"
        none_active = not spec.num_active_experts
        _require(spec, "num_active_experts", none_active, has_none, "give num_experts")
        return
    _require(spec, "num_experts", number > 1, "0 or at least 2", "use 0 for one layer")
    _require(
        spec,
        "num_active_experts",
        1 <= spec.num_active_experts <= number,
        f"from 1 to num_experts={number}",
        "give the number of experts that a token goes through",
    )
    _require(
        spec,
        "feedforward",
        spec.feedforward in _OF_EXPERTS,
        f"{' or '.join(_OF_EXPERTS)} where num_experts={number}, whose projections have "
        "a kernel for each expert",
        "use num_experts=0",
    )
    _require(
        spec,
        "shared_expert_gate",
        not spec.shared_expert_gate or spec.shared_expert_dim > 0,
        "False where shared_expert_dim=0, which is no shared expert",
        "give shared_expert_dim",
    )
    adds = spec.scale_expert_inputs and spec.feedforward_bias
    _require(
        spec,
        "capacity_factor",
        spec.capacity_factor is None or not adds,
        "None where scale_expert_inputs=True and feedforward_bias=True, since experts add their "
        "biases to tokens beyond their capacity",
        "use feedforward_bias=False",
    )
    _check_groups(spec)


def _check_groups(spec: SpecFields) -> None:
    number, groups = spec.num_experts, spec.num_expert_groups
    _require(
        spec,
        "num_expert_groups",
        number % groups == 0,
        f"a divisor of num_experts={number}, since groups have equally many experts",
        "change one of the two",
    )
    _require(
        spec,
        "num_active_groups",
        spec.num_active_groups <= groups,
        f"at most num_expert_groups={groups}",
        "leave it out to choose from all groups",
    )
    _require(
        spec,
        "num_active_experts",
        spec.num_active_experts <= number // groups * spec.num_active_groups,
        f"at most {number // groups * spec.num_active_groups}, the experts of "
        f"num_active_groups={spec.num_active_groups}",
        "raise num_active_groups",
    )
    _require(
        spec,
        "group_score_experts",
        spec.group_score_experts <= number // groups,
        f"at most {number // groups}, the experts of a group",
        "lower it",
    )
