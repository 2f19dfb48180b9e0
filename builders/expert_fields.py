"""The fields of a `TransformerSpec` on mixtures of experts."""

from __future__ import annotations

from dataclasses import dataclass

from builders.fields import (
    MOST_EXPERTS,
    choice,
    flag,
    non_negative_int,
    number,
    optional_number,
    positive_int,
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Experts:
    """Mixture of experts."""

    num_experts: int = non_negative_int(
        "feed-forward layers of each block, the experts, of which a router chooses some for every "
        "token (Shazeer et al. 2017); each is of the form that `feedforward` names. 0: one layer, "
        "for all tokens.",
        default=0,
        most=MOST_EXPERTS,
        by_block=True,
    )
    num_active_experts: int = non_negative_int(
        "experts that a token goes through: those of the highest scores.",
        default=0,
        most=MOST_EXPERTS,
        by_block=True,
    )
    expert_dim: int = positive_int(
        "width of an expert; `None`: `intermediate_dim`.",
        derive=lambda spec: spec.intermediate_dim,
        by_block=True,
    )
    shared_expert_dim: int = non_negative_int(
        "width of a further expert that all tokens go through (Dai et al. 2024, DeepSeekMoE, "
        "section 3.2); 0: none. Several shared experts are one of their widths together.",
        default=0,
        by_block=True,
    )
    shared_expert_gate: bool = flag(
        "multiply the output of the shared expert by the sigmoid of a projection of the token "
        "(Qwen1.5-MoE).",
        default=False,
    )
    router_scores: str = choice(
        "scores of the experts for a token: `softmax` of the logits of all experts, or the "
        "`sigmoid` of each (DeepSeek-V3, section 2.1.2).",
        ("softmax", "sigmoid"),
        default="softmax",
    )
    router_bias: bool = flag("a bias of the router's logits.", default=False)
    renormalize_scores: bool = flag(
        "divide the scores of the chosen experts by their sum. With `softmax` this is the softmax "
        "over the chosen experts (Mixtral; Jiang et al. 2024, section 2.1).",
        default=True,
    )
    router_scale: float = number(
        "factor of the scores of the chosen experts.", least=0, default=1.0
    )
    scale_expert_inputs: bool = flag(
        "multiply what the experts of a token read by their scores, and not what they return "
        "(Llama 4).",
        default=False,
    )
    num_expert_groups: int = positive_int(
        "groups of equally many experts (DeepSeek-V2, section 2.2.2).", default=1, most=MOST_EXPERTS
    )
    num_active_groups: int = positive_int(
        "groups with the highest scores, from which the experts of a token are chosen; `None`: "
        "all.",
        derive=lambda spec: spec.num_expert_groups,
        most=MOST_EXPERTS,
    )
    group_score_experts: int = positive_int(
        "highest scores of a group's experts that add up to the score of the group: 1 in "
        "DeepSeek-V2, 2 in DeepSeek-V3.",
        default=1,
        most=MOST_EXPERTS,
    )
    router_correction_rate: float | None = optional_number(
        "add a bias of each expert to its score, for the choice only. Every training step adds "
        "this number to the biases of experts that got fewer tokens than the mean, and subtracts "
        "it from the others (Wang et al. 2024; DeepSeek-V3, section 2.1.2, 0.001); `None`: no "
        "such biases."
    )
    balance_loss: float = number(
        "factor of a loss, added in training, that is 1 in a block whose experts get equally many "
        "tokens and more otherwise (Fedus et al. 2022, equation 4).",
        least=0,
        default=0.0,
    )
    router_z_loss: float = number(
        "factor of the mean of log(sum(exp(logits)))^2 of the router, added to the loss in "
        "training (Zoph et al. 2022, equation 5).",
        least=0,
        default=0.0,
    )
    capacity_factor: float | None = optional_number(
        "in training, an expert takes at most this many times its even share of the tokens of a "
        "sequence; later ones pass it by (Fedus et al. 2022, equation 3). Otherwise, and with "
        "`None`, it takes all."
    )
