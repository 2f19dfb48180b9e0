"""The fields of a `TransformerSpec` on the residual stream, within a block and across blocks."""

from __future__ import annotations

from dataclasses import dataclass

from builders.fields import (
    MOST_BLOCKS,
    component_name,
    depth_factor,
    flag,
    fraction,
    optional_int,
    positive_int,
)

ON_BRANCHES = ("pre", "output", "sandwich", "parallel", "parallel_shared_norm")
"""Norm placements whose norms are on the branches alone, so that the stream is unnormalized."""

LEARNED_FACTORS = ("rezero", "layer_scale", "spherical")
"""Merges with trained factors of the branch, which start at `branch_scale`."""

HYPER_CONNECTIONS = ("static_hyper_connections", "hyper_connections")
"""Merges whose stream is several tensors."""


_FIRST_FACTORS = {"rezero": 0.0, "layer_scale": 1e-4, "spherical": 0.05}


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ResidualStream:
    """Residual stream."""

    norm_placement: str = component_name(
        "`post`, norm(x + f(x)) (Vaswani et al. 2017); `pre`, x + f(norm(x)) (GPT-2; Xiong et al. "
        "2020); `output`, x + norm(f(x)) (OLMo 2, section 3.3); `sandwich`, x + norm(f(norm(x))) "
        "(Ding et al. 2021, CogView, section 2.4; Gemma 2); `parallel`, x + f(norm(x)) + "
        "g(norm(x)) with all sublayers of a block side by side (GPT-NeoX, section 2.1); "
        "`parallel_shared_norm`, the same with one norm for all (GPT-J; PaLM); or `none`, x + "
        "f(x).",
        ("post", "pre", "output", "sandwich", "parallel", "parallel_shared_norm", "none"),
        default="pre",
    )
    merge: str = component_name(
        "the `+` in these: `add`; `none`, f alone, without skip paths, for ablations; `scaled`, "
        "skip_scale x + branch_scale f; `rezero`, x + a f with one trained number a (Bachlechner "
        "et al. 2020); `layer_scale`, the same with one for each channel (Touvron et al. 2021, "
        "CaiT); `highway`, g f + (1 - g) x with g = sigmoid(W x + b) (Srivastava et al. 2015); "
        "`spherical`, norm(x + |a| (norm(f) - x)) with norms to unit length and a trained number a "
        "for each channel (Loshchilov et al. 2024, nGPT); or "
        "`hyper_connections` and `static_hyper_connections`, several streams x, which each "
        "sublayer reads, mixes and writes by trained weights, with the former ones different for "
        "each token (Zhu et al. 2024).",
        ("add", "none", "scaled", *LEARNED_FACTORS, "highway", *HYPER_CONNECTIONS),
        default="add",
    )
    num_streams: int = positive_int(
        "residual streams of hyper-connections, `m`; `None`: 4 with them (Zhu et al. 2024, section "
        "4), otherwise 1.",
        derive=lambda spec: 4 if spec.merge in HYPER_CONNECTIONS else 1,
    )
    skip_scale: float | str = depth_factor(
        "factor of x where merge='scaled': a number, or `deep_norm` (Wang et al. 2022, figure 2).",
        ("deep_norm",),
    )
    branch_scale: float | str = depth_factor(
        "factor of f where merge='scaled', and its first value where it is trained; a number, "
        "`inverse_sqrt_layers`, 1 / sqrt(L) in a stack of L blocks, or `inverse_sqrt_depth`, 1 / "
        "sqrt(l) in block l; `None`: 0 for `rezero`, 1e-4 for `layer_scale`, 0.05 for `spherical`, "
        "otherwise 1.",
        ("inverse_sqrt_layers", "inverse_sqrt_depth"),
        derive=lambda spec: _FIRST_FACTORS.get(spec.merge, 1.0),
    )
    norm: str = component_name(
        "`layer` (Ba et al. 2016), `rms` (Zhang and Sennrich 2019) or `unit`, x / ||x|| without "
        "weights (Loshchilov et al. 2024, nGPT).",
        ("layer", "rms", "unit"),
        default="layer",
    )
    norm_epsilon: float = fraction(
        "added to the variance, or to the mean square, in every norm.", default=1e-5
    )
    norm_gain: bool = flag(
        "trained factors of the channels in every norm; `None`: `True`, but for `unit`. OLMo 1 has "
        "none, nor biases.",
        derive=lambda spec: spec.norm != "unit",
    )
    norm_bias: bool = flag(
        "a bias in every layer norm; `None`: `True` for `layer` with `norm_gain`. Other norms have "
        "none.",
        derive=lambda spec: spec.norm == "layer" and spec.norm_gain,
    )
    norm_scale: float | str = depth_factor(
        "factor of what a sublayer reads, after the norm before it: a number, or "
        "`inverse_sqrt_depth`, 1 / sqrt(l) in block l (Sun et al. 2025, LayerNorm scaling).",
        ("inverse_sqrt_depth",),
    )
    attention_norm: bool = flag(
        "the norm before self-attention; the first block of ModernBERT has none.",
        default=True,
        by_block=True,
    )
    norm_offset: bool = flag(
        "multiply in an RMS norm by 1 + scale, whose scale starts at zero (Gemma).", default=False
    )
    embedding_norm: bool = flag(
        "a norm on the sum of the embeddings, before their dropout (BERT, BLOOM).", default=False
    )
    final_norm: bool = flag(
        "a norm after the last block of each stack; `None`: `True` for `pre`, `output`, "
        "`sandwich`, `parallel` and `parallel_shared_norm`, which leave the stream unnormalized.",
        derive=lambda spec: spec.norm_placement in ON_BRANCHES,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class AcrossBlocks:
    """Across blocks."""

    block_skips: str = component_name(
        "what a block reads besides the stream x after the block before: `none`, nothing; `unet`, "
        "x + w x_m in the second half of the blocks, with the stream x_m after the mirrored block "
        "of the first half; or `embedding`, a x + b x_0 before each block, with the sum x_0 of "
        "the embeddings. The factors are trained and start at w = a = 1 and b = 0 "
        "(KellerJordan/modded-nanogpt; karpathy/nanochat).",
        ("none", "unet", "embedding"),
        default="none",
    )
    value_residual: bool = flag(
        "mix the values v of self-attention in every block after the first with those of the "
        "first, (1 - a) v + a v_1, with a trained number a for each block that starts at 1/2 (Zhou "
        "et al. 2024).",
        default=False,
    )
    distinct_blocks: int | None = optional_int(
        "blocks of a stack that have weights of their own; they are used in turn, so that block i "
        "has the weights of block i mod this number. 1 is ALBERT (Lan et al. 2020) and, with "
        "positions='coordinates', the Universal Transformer (Dehghani et al. 2019); `None`: all.",
        none="for weights of its own in every block",
        most=MOST_BLOCKS,
    )
