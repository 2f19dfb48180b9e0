"""Parameters counted from a spec alone, without Keras."""

from __future__ import annotations

from builders.components import SHIPPED
from builders.registry import as_spec
from builders.spec import TransformerSpec

_NORMS_PER_SUBLAYER = {"post": 1, "pre": 1, "sandwich": 2, "parallel": 1, "none": 0}
UP_PROJECTIONS = {"mlp": 1, "glu": 2}
"""The number of kernels (d, f) of a feed-forward layer, besides the one of (f, d)."""


class ParameterCounts(dict[str, int]):
    """Parameters of a model, by component.

    Components: `embeddings` (of tokens and segments), `positions`, `attention.query`,
    `attention.key`, `attention.value`, `attention.output`, `feedforward`, `norms` (also those of
    queries and keys) and `output` (pooler, masked-language-model head, and the logits' own kernel
    and bias; not a tied table).
    """

    @property
    def total(self) -> int:
        """The sum of all components."""
        return sum(self.values())

    @property
    def attention(self) -> int:
        """The sum of the four projections of every attention."""
        return sum(count for name, count in self.items() if name.startswith("attention."))


def custom_component(spec: TransformerSpec) -> str | None:
    """Return `field='value'` of a registered component whose weights and products are not known."""
    for field in ("norm_placement", "norm", "feedforward", "positions", "attention"):
        if getattr(spec, field) not in SHIPPED[field]:
            return f"{field}={getattr(spec, field)!r}"
    return None


def count_parameters(spec: TransformerSpec | str, *, active: bool = False) -> ParameterCounts:
    """Count the parameters of the model of a spec or a variant, without building it.

    A classic block, with full-width heads and a feed-forward layer of four times the width, has
    about 12 d^2: 4 d^2 in attention and 8 d^2 in the feed-forward layer.

    Args:
        spec: of the model, or the name of a variant.
        active: of a mixture of experts, count only as many experts as a token goes through.

    Raises:
        ValueError: the spec names a registered component whose parameters are not known.
    """
    spec = as_spec("count_parameters", spec)
    if own := custom_component(spec):
        raise ValueError(
            f"{own} is a custom component, whose parameters are not known; build the model "
            "with abstract=True and ask its count_params()"
        )
    d, v = spec.hidden_dim, spec.vocabulary_size
    queries, keys = spec.num_heads * spec.head_dim, spec.num_key_value_heads * spec.head_dim
    translates = spec.kind == "encoder_decoder"
    has_logits = spec.kind != "encoder_only" or spec.masked_lm_head
    encoder_blocks = spec.num_encoder_layers if translates else 0
    stacks = 2 if translates else 1
    blocks = encoder_blocks + spec.num_layers
    attentions = blocks + (spec.num_layers if translates else 0)

    per_channel = 1 + spec.norm_bias
    norm = per_channel * d
    stream_norms = (attentions + blocks) * _NORMS_PER_SUBLAYER[spec.norm_placement]
    stream_norms += stacks * (spec.final_norm + spec.embedding_norm) + spec.masked_lm_head
    head_norms = attentions * 2 * spec.qk_norm * per_channel * spec.head_dim

    tokens = v
    if translates and not spec.share_embeddings:
        tokens += spec.source_vocabulary_size
    e = spec.embedding_dim
    into_stream = 0 if e == d else (2 if translates else 1) * e * d
    into_logits = e * d * (e != d) if spec.tie_embeddings else d * v
    output = has_logits * (into_logits + v * spec.logit_bias)
    output += (spec.pooler + spec.masked_lm_head) * (d + 1) * d
    positions = {
        "learned": spec.max_sequence_length * d,
        "relative": spec.relative_buckets * spec.num_heads,
    }
    bias = spec.attention_bias
    return ParameterCounts(
        {
            "embeddings": tokens * e + spec.num_segments * d + into_stream,
            "positions": stacks * positions.get(spec.positions, 0),
            "attention.query": attentions * (d + bias) * queries,
            "attention.key": attentions * (d + bias) * keys,
            "attention.value": attentions * (d + bias) * keys,
            "attention.output": attentions * (queries + spec.attention_output_bias) * d,
            "feedforward": blocks * _feedforward(spec, active),
            "norms": stream_norms * norm + head_norms,
            "output": output,
        }
    )


def _feedforward(spec: TransformerSpec, active: bool) -> int:
    """Count the parameters of the feed-forward sublayer of a block, without its norms."""
    d, wide = spec.hidden_dim, UP_PROJECTIONS[spec.feedforward]

    def layer(width: int) -> int:
        return (wide + 1) * d * width + spec.feedforward_bias * (wide * width + d)

    if not spec.num_experts:
        return layer(spec.intermediate_dim)
    per_expert = d + spec.router_bias + (spec.router_correction_rate is not None)
    count = spec.num_experts * per_expert
    count += (spec.num_active_experts if active else spec.num_experts) * layer(spec.expert_dim)
    if spec.shared_expert_dim:
        count += layer(spec.shared_expert_dim) + d * spec.shared_expert_gate
    return count
