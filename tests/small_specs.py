"""The sizes of small specs, distinct primes where that is possible, and specs of them."""

from typing import Any

from hypothesis import strategies as st

from builders import TransformerSpec

SIZES: dict[str, Any] = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "hidden_dim": 14,
    "num_heads": 2,
}


def spec_of(**changes: Any) -> TransformerSpec:
    return TransformerSpec(**{**SIZES, **changes})


@st.composite
def expert_values(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a mixture of experts in one of three specs; its fields change nothing in the others."""
    flag = st.booleans()
    groups = draw(st.integers(1, 3))
    in_group = draw(st.integers(2, 5))
    active_groups = draw(st.none() | st.integers(1, groups))
    active = draw(st.integers(1, in_group * (active_groups or groups)))
    mixes = draw(st.integers(0, 2)) == 0
    shared = draw(st.sampled_from((0, 0, 5, 11)))
    scales_inputs = draw(flag)
    return {
        "num_experts": groups * in_group * mixes,
        "num_active_experts": active * mixes,
        "expert_dim": draw(st.none() | st.integers(3, 13)),
        "shared_expert_dim": shared,
        "shared_expert_gate": shared > 0 and draw(flag),
        "router_scores": draw(st.sampled_from(("softmax", "sigmoid"))),
        "router_bias": draw(flag),
        "renormalize_scores": draw(flag),
        "scale_expert_inputs": scales_inputs,
        "router_scale": draw(st.floats(0.5, 2)),
        "num_expert_groups": groups,
        "num_active_groups": active_groups,
        "group_score_experts": draw(st.integers(1, in_group)),
        "router_correction_rate": draw(st.none() | st.floats(0.001, 0.1)),
        "balance_loss": draw(st.sampled_from((0.0, 0.01))),
        "router_z_loss": draw(st.sampled_from((0.0, 0.01))),
        # In training only, and where inputs are scaled only without biases.
        "capacity_factor": None if scales_inputs else draw(st.none() | st.floats(0.5, 2)),
    }
