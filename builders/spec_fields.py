"""The fields of a `TransformerSpec`, by part of the model.

A field is defined here and nowhere else: its type, default or derivation, allowed values and
documentation. `builders.fields` has the kinds of fields, and the modules `builders.*_fields` the
larger parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.attention_fields import Attention, LatentAttention
from builders.errors import invalid_value
from builders.expert_fields import Experts
from builders.fields import (
    MOST_BLOCKS,
    MOST_POSITIONS,
    MOST_TOKENS,
    block_overrides,
    choice,
    component_name,
    flag,
    fraction,
    names,
    non_negative_int,
    optional_number,
    positive_int,
    positive_number,
    rate,
    token_id,
)
from builders.mixer_fields import Mixers
from builders.position_fields import Positions
from builders.residual_fields import AcrossBlocks, ResidualStream

KINDS = ("decoder_only", "encoder_decoder", "encoder_only")


def _width_per_head(spec: Any) -> int:
    if spec.hidden_dim % spec.num_heads:
        raise invalid_value(
            "hidden_dim",
            spec.hidden_dim,
            f"a multiple of num_heads={spec.num_heads} where head_dim is not given",
            "change one of the two, or give head_dim",
        )
    width: int = spec.hidden_dim // spec.num_heads
    return width


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Sizes:
    """Sizes."""

    kind: str = choice(
        "`decoder_only` (tokens -> logits), `encoder_decoder` (source, target -> logits) or "
        "`encoder_only` (tokens -> vectors).",
        KINDS,
        default="decoder_only",
    )
    vocabulary_size: int = positive_int(
        "tokens that the model reads (decoder) and predicts, `v`.", most=MOST_TOKENS
    )
    source_vocabulary_size: int = positive_int(
        "tokens that the encoder of an `encoder_decoder` reads; `None`: `vocabulary_size`.",
        derive=lambda spec: spec.vocabulary_size,
        most=MOST_TOKENS,
    )
    num_layers: int = positive_int("blocks of the decoder, or of the only stack.", most=MOST_BLOCKS)
    num_encoder_layers: int = positive_int(
        "blocks of the encoder of an `encoder_decoder`; `None`: `num_layers`.",
        derive=lambda spec: spec.num_layers,
        most=MOST_BLOCKS,
    )
    hidden_dim: int = positive_int("width of the residual stream, `d`.")
    intermediate_dim: int = positive_int(
        "width of the feed-forward layer, `f`; `None`: 4 d.",
        derive=lambda spec: 4 * spec.hidden_dim,
        by_block=True,
    )
    num_heads: int = positive_int("query heads, `n`.")
    num_key_value_heads: int = positive_int(
        "key/value heads, `k`, each shared by n / k query heads (grouped-query attention, Ainslie "
        "et al. 2023; 1 is multi-query attention, Shazeer 2019); `None`: `num_heads`.",
        derive=lambda spec: spec.num_heads,
        by_block=True,
    )
    head_dim: int = positive_int(
        "width of one head, `h`; `None`: d / n. n * h need not be d.", derive=_width_per_head
    )
    max_sequence_length: int = positive_int(
        "maximum number of tokens of a sequence. `learned` and sinusoidal positions refuse longer "
        "sequences; with other positions a model takes any length.",
        default=512,
        most=MOST_POSITIONS,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Blocks:
    """Blocks that differ."""

    block_overrides: tuple[Mapping[str, Any], ...] = block_overrides(
        "other values of fields in some blocks: a pattern that repeats, with the changed fields of "
        "each block. With `({}, {'attention_window': None})`, every second block has full "
        "attention (Gemma 2, section 2); a pattern as long as the model says it for each block."
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Embeddings:
    """Embeddings."""

    embedding_dim: int = positive_int(
        "width of the token embeddings; `None`: d. If it differs from d, one projection maps "
        "embeddings to d, and another maps d back to it before tied logits (OPT-350M; Lan et al. "
        "2020, ALBERT, section 3.1).",
        derive=lambda spec: spec.hidden_dim,
    )
    embedding_projection: str = choice(
        "what that first projection maps: `tokens`, the vectors of tokens, without a bias, before "
        "others are added to them (OPT-350M); or `sum`, the sum of all embeddings after its norm "
        "and dropout, with a bias, in which case the masked-language-model head maps back to the "
        "width of embeddings (ALBERT, ELECTRA).",
        ("tokens", "sum"),
        default="tokens",
    )
    num_segments: int = non_negative_int(
        "segments of a sequence, each with a trained vector (BERT's token types), for "
        "`encoder_only`; 0: none.",
        default=0,
    )
    scale_embeddings: bool = flag("multiply token embeddings by sqrt(d).", default=False)
    embedding_scale: float | None = optional_number(
        "another factor of the token embeddings (Granite, MiniCPM); `None`: none."
    )
    share_embeddings: bool = flag("use one token embedding for source and target.", default=False)
    pad_token_id: int | None = token_id(
        "token that pads short sequences and is masked in attention; `None`: no token is padding.",
        default=0,
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class FeedForward:
    """Feed-forward."""

    feedforward: str = component_name(
        "`mlp`, down(activation(up(x))); `glu`, down(activation(gate(x)) * up(x)) (Shazeer 2020, "
        "equation 6); `scaled_glu`, the same with gate(x) and up(x) times a trained number for "
        "each channel, which starts at sqrt(d) (Loshchilov et al. 2024, nGPT); or `clamped_glu`, "
        "down(activation(min(gate(x), c)) * (clip(up(x), -c, c) + 1)) with c = `glu_limit` "
        "(gpt-oss).",
        ("mlp", "glu", "scaled_glu", "clamped_glu"),
        default="mlp",
        by_block=True,
    )
    glu_limit: float = positive_number(
        "limit c of `clamped_glu`: of the gate from above, of what it multiplies on both sides.",
        default=7.0,
        by_block=True,
    )
    activation: str = component_name(
        "`relu`, `gelu`, `gelu_tanh` and `gelu_sigmoid`, which approximate it, `silu` or "
        "`relu_squared`.",
        ("relu", "gelu", "gelu_tanh", "gelu_sigmoid", "silu", "relu_squared"),
        default="gelu",
        by_block=True,
    )
    feedforward_bias: bool = flag(
        "biases of the feed-forward projections.", default=True, by_block=True
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Output:
    """Output."""

    tie_embeddings: bool = flag(
        "compute logits with the transposed token embedding of the target.", default=False
    )
    logit_bias: bool = flag("a bias of the logits.", default=False)
    scale_logits: bool = flag(
        "divide the hidden states by sqrt(d) before the logits (T5 v1.0).", default=False
    )
    logit_scale: float | None = optional_number(
        "another factor of the hidden states before the logits (Cohere; Granite); `None`: none."
    )
    logit_gain: bool = flag(
        "multiply the logits by a trained number for each token (Loshchilov et al. 2024, nGPT, "
        "equation 3).",
        default=False,
    )
    logit_soft_cap: float | None = optional_number("as `attention_soft_cap`, of the logits.")
    pooler: bool = flag(
        "an `encoder_only` model also returns `pooler_activation` of a projection of its first "
        "token (Devlin et al. 2019, BERT, the authors' code).",
        default=False,
    )
    pooler_activation: str = choice(
        "`tanh` (same source), `relu` (Sanh et al. 2019, DistilBERT, the authors' code) or `gelu` "
        "(Clark et al. 2020, ELECTRA, the authors' code).",
        ("tanh", "relu", "gelu"),
        default="tanh",
    )
    masked_lm_head: bool = flag(
        "an `encoder_only` model also returns logits, after a projection, the activation and a "
        "norm (same source). Without it, the fields on logits have no effect there.",
        default=False,
    )
    classes: tuple[str, ...] = names(
        "names of the classes of a text: an `encoder_only` model also returns a logit for each, a "
        "projection of one vector, after `dropout` (same source, section 4.1)."
    )
    class_pooling: str = choice(
        "that vector: `first`, the first token, after the `pooler` where there is one, or `mean`, "
        "of all tokens but padding (Reimers and Gurevych 2019, Sentence-BERT, section 3).",
        ("first", "mean"),
        default="first",
    )


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Regularization:
    """Regularization and initialization."""

    dropout: float = rate("on the output of every sublayer, before it is merged.")
    feedforward_dropout: float = rate(
        "on the output of the feed-forward layer; `None`: `dropout`.",
        derive=lambda spec: spec.dropout,
    )
    attention_dropout: float = rate("on the attention weights.")
    embedding_dropout: float = rate("on the sum of token and position embeddings.")
    stochastic_depth: float = rate(
        "of dropping the whole branch of a sublayer in training, for each row; it grows linearly "
        "with depth to this rate in the last block (Huang et al. 2016)."
    )
    activation_dropout: float = rate(
        "inside the feed-forward layer, before the projection back to d (T5)."
    )
    final_dropout: float = rate("on the output of each stack, after its norm (T5).")
    initializer: str = component_name(
        "`glorot_uniform`; `glorot_packed`, the same with query, key and value as one kernel; "
        "`normal`, with standard deviation `initializer_range`; `depth_scaled`, "
        "the same with the projections that end a sublayer divided by sqrt(sublayers of their "
        "stack) (GPT-2, section 2.3); `deep_norm`, Glorot normal, smaller by depth where values "
        "and the feed-forward layer are computed (Wang et al. 2022); or `t5`, by the width that "
        "each kernel reads.",
        ("glorot_uniform", "glorot_packed", "normal", "depth_scaled", "deep_norm", "t5"),
        default="glorot_uniform",
    )
    initializer_range: float = fraction(
        "standard deviation of `normal` and `depth_scaled`.", default=0.02
    )
    kernel_constraint: str = choice(
        "what holds for the token embeddings and for the kernels of attention, feed-forward layers "
        "and logits, from the start and after every training step: `none`, or `unit_norm`, unit "
        "length of their vectors of d channels (Loshchilov et al. 2024, nGPT, section 2.6).",
        ("none", "unit_norm"),
        default="none",
    )


# Dataclasses collect fields from the last base class to the first, so that sizes come first.
@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class SpecFields(
    Regularization,
    Output,
    Experts,
    FeedForward,
    Mixers,
    LatentAttention,
    Attention,
    AcrossBlocks,
    ResidualStream,
    Positions,
    Embeddings,
    Blocks,
    Sizes,
):
    """All fields of a `TransformerSpec`."""


GROUPS: tuple[type, ...] = SpecFields.__bases__[::-1]
"""The groups of fields, in order."""
