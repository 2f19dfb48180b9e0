"""The fields of a `TransformerSpec` on attention, also on that from latents."""

from __future__ import annotations

from dataclasses import dataclass

from builders.fields import (
    MOST_POSITIONS,
    MOST_WIDTH,
    choice,
    component_name,
    flag,
    number,
    optional_int,
    optional_number,
    positive_int,
)


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Attention:
    """Attention."""

    attention: str = component_name(
        "`graph` wires every step as a node; `layer` is one "
        "`keras_hub.layers.CachedMultiHeadAttention` node with equal numbers.",
        ("graph", "layer"),
        default="graph",
    )
    attention_window: int | None = optional_int(
        "keys that self-attention attends to: in a decoder, the query's own and those just before "
        "it (Mistral; Beltagy et al. 2020, section 3.1); with `encoder_only`, also as many after "
        "it; `None`: all. The encoder of an `encoder_decoder` has no window.",
        none="for full attention",
        by_block=True,
    )
    attention_chunk: int | None = optional_int(
        "length of the chunks that a sequence is divided into: self-attention attends to keys of "
        "the query's own chunk only (Llama 4, section on iRoPE); `None`: to all. The encoder of an "
        "`encoder_decoder` has no chunks.",
        none="for one chunk",
        by_block=True,
    )
    prefix_lm: bool = flag(
        "in a `decoder_only` model, the tokens of a prefix attend to all of the prefix, and those "
        "after it to earlier tokens (Dong et al. 2019, UniLM, section 2.3; Raffel et al. 2020, T5, "
        "section 3.2.1). The model also takes the length of the prefix of each row; a prompt is "
        "the prefix of what is generated. A window is on both sides in the prefix.",
        default=False,
    )
    mask_target_padding: bool = flag(
        "mask padding in the self-attention of a decoder. T5 does not: its targets start with "
        "the padding token.",
        default=True,
    )
    attention_bias: bool = flag(
        "biases of query, key and value projections; with latents, of the projections to these "
        "and to the shared keys.",
        default=True,
    )
    attention_output_bias: bool = flag(
        "a bias of the output projection; `None`: `attention_bias`.",
        derive=lambda spec: spec.attention_bias,
    )
    attention_scale: float | None = optional_number(
        "factor of the scores q k^T; `None`: 1 / sqrt(h)."
    )
    attention_soft_cap: float | None = optional_number(
        "cap of the scores s, which become cap * tanh(s / cap) (Gemma 2, section 2); `None`: no "
        "cap."
    )
    attention_temperature: float = number(
        "strength a of a factor of the queries of self-attention that grows with their position p, "
        "1 + a ln(1 + floor((p + 1) / `attention_temperature_floor`)) (Llama 4, 0.1; Nakanishi "
        '2025, "Scalable-Softmax"); 0: no factor.',
        least=0,
        default=0.0,
        by_block=True,
    )
    attention_temperature_floor: int = positive_int(
        "positions in each step of that factor.", default=8192, most=MOST_POSITIONS, by_block=True
    )
    attention_sinks: bool = flag(
        "a trained logit for each head, the sink, next to the scores in their softmax. Its weight "
        "has no value, so that the weights of all keys may be small (OpenAI 2025, gpt-oss, section "
        "2; with a logit of 0, softmax-off-by-one).",
        default=False,
        by_block=True,
    )
    attention_gate: bool = flag(
        "multiply what each head reads by the sigmoid of a projection of the token, before the "
        'output projection (Qiu et al. 2025, "Gated Attention for Large Language Models"; '
        "Qwen3-Next). The projection has a bias with `attention_bias`.",
        default=False,
    )
    qk_norm: bool = flag(
        "a norm of every query and key (Henry et al. 2020; Qwen 3).", default=False, by_block=True
    )
    qk_norm_heads: str = choice(
        "what that norm is over: `shared`, the h channels of a head, with one gain for all heads; "
        "`separate`, the same with a gain for each head (Command R+); `tied`, that gain being one "
        "for queries and keys (nGPT); or `joint`, the channels of all heads at once (OLMo 2).",
        ("shared", "separate", "tied", "joint"),
        default="shared",
    )
    qk_norm_gain: bool = flag(
        "trained weights of that norm; `None`: `norm_gain`, or True with `separate` and `tied`. "
        "Llama 4 has none.",
        derive=lambda spec: spec.norm_gain or spec.qk_norm_heads in ("separate", "tied"),
    )
    qk_norm_after_rotary: bool = flag(
        "apply that norm after queries and keys are rotated (Llama 4, nGPT), and not before.",
        default=False,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class LatentAttention:
    """Latent attention."""

    latent_dim: int | None = optional_int(
        "width of a vector of each token, the latent, from which the keys and values of all heads "
        "are computed, and which a cache holds in their place (DeepSeek-AI 2024, DeepSeek-V2, "
        "section 2.1). It has a norm. The first r channels of a key, `rotary_dim`, are no product "
        "with it: all heads share them. `None`: no latents.",
        none="for keys and values of their own",
        most=MOST_WIDTH,
    )
    query_latent_dim: int | None = optional_int(
        "width of a latent that the queries are computed from, where `latent_dim` is given.",
        none="for queries that are computed from the token",
        most=MOST_WIDTH,
    )
    value_dim: int = positive_int(
        "width of the values of a head; `None`: h, and h - r with latents.",
        derive=lambda spec: spec.head_dim - (spec.latent_dim is not None) * spec.rotary_dim,
    )
