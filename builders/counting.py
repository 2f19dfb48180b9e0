"""Parameters counted from a spec alone, without Keras."""

from __future__ import annotations

from builders.components import SHIPPED
from builders.registry import as_spec
from builders.spec import TransformerSpec

_NORMS_PER_SUBLAYER = {"post": 1, "pre": 1, "output": 1, "sandwich": 2, "parallel": 1}
_PARALLEL = ("parallel", "parallel_shared_norm")
"""Norm placements that write to the stream once in a block, not once after every sublayer."""
UP_PROJECTIONS = {"mlp": 1, "glu": 2, "scaled_glu": 2, "clamped_glu": 2}
"""The number of kernels (d, f) of a feed-forward layer, besides the one of (f, d)."""


_COMPONENTS = (
    *("embeddings", "positions"),
    *(f"attention.{x}" for x in ("latents", "query", "key", "value", "output", "sinks", "gates")),
    *("feedforward", "norms", "merges", "output"),
)


class ParameterCounts(dict[str, int]):
    """Parameters of a model, by component.

    Components: `embeddings` (of tokens and segments), `positions`, `attention.latents` (from the
    token to latents and shared keys), `attention.query`, `attention.key`, `attention.value`,
    `attention.output`, `attention.sinks`, `attention.gates` (of outputs; also decays, corrections
    and convolutions of a Gated DeltaNet), `feedforward`, `norms` (also those of queries, keys and
    latents), `merges` (also those across blocks) and `output` (pooler, heads of masked tokens and
    of classes, and the logits' own kernel and bias; not a tied table).
    """

    @property
    def total(self) -> int:
        """The sum of all components."""
        return sum(self.values())

    @property
    def attention(self) -> int:
        """The sum of all parts of every attention, or of what is in its place."""
        return sum(count for name, count in self.items() if name.startswith("attention."))


def custom_component(spec: TransformerSpec) -> str | None:
    """Return `field='value'` of a registered component whose weights and products are not known."""
    fields = ("mixer", "norm_placement", "merge", "block_skips", "norm", "feedforward", "positions")
    for field in (*fields, "attention"):
        for block in (spec, *spec.blocks(spec.stacks[-1])):
            if getattr(block, field) not in SHIPPED[field]:
                return f"{field}={getattr(block, field)!r}"
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
    parts = [_outside_of_blocks(spec)]
    for stack in spec.stacks:
        attentions = 2 if spec.crosses(stack) else 1
        distinct = spec.blocks(stack)[: spec.distinct_blocks]
        parts += (_in_block(block, attentions, active) for block in distinct)
        parts.append({"merges": _across_blocks(spec, spec.num_blocks(stack))})
    return ParameterCounts({name: sum(part.get(name, 0) for part in parts) for name in _COMPONENTS})


def number_of_writes(spec: TransformerSpec, sublayers: int) -> int:
    """Return how often a block of so many sublayers writes to the residual stream."""
    return 1 if spec.norm_placement in _PARALLEL else sublayers


def _in_block(spec: TransformerSpec, attentions: int, active: bool) -> dict[str, int]:
    """Count the parameters of a block with so many attentions and a feed-forward layer."""
    d = spec.hidden_dim
    norm = _norm(spec, d)
    sublayers = attentions + 1
    shared = spec.norm_placement == "parallel_shared_norm"
    norms = shared or sublayers * _NORMS_PER_SUBLAYER.get(spec.norm_placement, 0)
    norms -= not spec.attention_norm
    norms_within = attentions * (_head_norms(spec) * spec.qk_norm + _latent_norms(spec))
    m = spec.num_streams
    merge = {
        "rezero": 1,
        "layer_scale": d,
        "spherical": d,
        "highway": (d + 1) * d,
        "static_hyper_connections": m * (m + 2),
        "hyper_connections": (d + m) * (m + 2) + 2,
    }.get(spec.merge, 0)
    mixed = {f"attention.{role}": attentions * n for role, n in _attention(spec).items()}
    mixed["attention.sinks"] = attentions * spec.num_heads * spec.attention_sinks
    gate = spec.num_heads * spec.value_dim * (d + spec.attention_bias)
    mixed["attention.gates"] = attentions * gate * spec.attention_gate
    if spec.mixer == "gated_delta":
        mixed, norms_within = _gated_delta(spec), spec.delta_value_dim
    return {
        **mixed,
        "feedforward": _feedforward(spec, active),
        "norms": norms * norm + norms_within,
        "merges": number_of_writes(spec, sublayers) * merge,
    }


def _gated_delta(spec: TransformerSpec) -> dict[str, int]:
    """Count the parameters of a Gated DeltaNet without its norm."""
    d, n, width = spec.hidden_dim, spec.delta_value_heads, spec.delta_convolution
    keys, values = spec.delta_key_heads * spec.delta_key_dim, n * spec.delta_value_dim
    per_head = 2 * d + 2  # its decay and beta
    return {
        "attention.query": d * keys,
        "attention.key": d * keys,
        "attention.value": d * values,
        "attention.output": d * values,
        "attention.gates": d * values + n * per_head + width * (2 * keys + values),
    }


def _attention(spec: TransformerSpec) -> dict[str, int]:
    """Count the parameters of the projections of one attention, by role."""
    d, n, h, bias = spec.hidden_dim, spec.num_heads, spec.head_dim, spec.attention_bias
    output = (n * spec.value_dim + spec.attention_output_bias) * d
    if spec.latent_dim is None:
        keys = (d + bias) * spec.num_key_value_heads * h
        return {"query": (d + bias) * n * h, "key": keys, "value": keys, "output": output}
    from_token = spec.latent_dim + spec.rotary_dim + (spec.query_latent_dim or 0)
    return {
        "latents": (d + bias) * from_token,
        "query": (spec.query_latent_dim or d) * n * h,
        "key": spec.latent_dim * n * (h - spec.rotary_dim),
        "value": spec.latent_dim * n * spec.value_dim,
        "output": output,
    }


def _across_blocks(spec: TransformerSpec, blocks: int) -> int:
    """Count the trained factors of skips across so many blocks, and of their values."""
    skips = {"unet": blocks // 2, "embedding": 2 * blocks}.get(spec.block_skips, 0)
    mixing = {spec.owner_of_block(index) for index in range(1, blocks)}
    return skips + spec.value_residual * len(mixing)


def _feedforward(spec: TransformerSpec, active: bool) -> int:
    """Count the parameters of the feed-forward sublayer of a block, without its norms."""
    d, wide = spec.hidden_dim, UP_PROJECTIONS[spec.feedforward]

    def layer(width: int) -> int:
        gains = wide * width * (spec.feedforward == "scaled_glu")
        return (wide + 1) * d * width + spec.feedforward_bias * (wide * width + d) + gains

    if not spec.num_experts:
        return layer(spec.intermediate_dim)
    per_expert = d + spec.router_bias + (spec.router_correction_rate is not None)
    count = spec.num_experts * per_expert
    count += (spec.num_active_experts if active else spec.num_experts) * layer(spec.expert_dim)
    if spec.shared_expert_dim:
        count += layer(spec.shared_expert_dim) + d * spec.shared_expert_gate
    return count


def _norm(spec: TransformerSpec, width: int) -> int:
    return (spec.norm_gain + spec.norm_bias) * width


def _head_norms(spec: TransformerSpec) -> int:
    """Count the parameters of the norms of queries and keys of one attention."""
    n, k, h = spec.num_heads, spec.num_key_value_heads, spec.head_dim
    if spec.qk_norm_heads == "separate":  # one gain for each channel of each head, no biases
        return (n + k) * h
    if spec.qk_norm_heads == "tied":
        return n * h
    width = (n + k) * h if spec.qk_norm_heads == "joint" else 2 * h
    return _norm(spec, width) * spec.qk_norm_gain


def _latent_norms(spec: TransformerSpec) -> int:
    """Count the parameters of the norms of the latents of one attention."""
    return _norm(spec, (spec.latent_dim or 0) + (spec.query_latent_dim or 0))


def _outside_of_blocks(spec: TransformerSpec) -> dict[str, int]:
    """Count the parameters of embeddings, positions, the norms of stacks, and outputs."""
    d, e, v = spec.hidden_dim, spec.embedding_dim, spec.vocabulary_size
    width = spec.embedding_sum_dim  # also of the masked-language-model head
    stacks = len(spec.stacks)
    tokens = v
    if stacks == 2 and not spec.share_embeddings:
        tokens += spec.source_vocabulary_size
    into_stream = stacks * (e + (width == e)) * d * (e != d)
    before_logits = width if spec.masked_lm_head else d
    into_logits = before_logits * (e * (e != before_logits) if spec.tie_embeddings else v)
    has_logits = spec.kind != "encoder_only" or spec.masked_lm_head
    output = has_logits * (into_logits + v * (spec.logit_bias + spec.logit_gain))
    output += (spec.pooler * d + spec.masked_lm_head * width + len(spec.classes)) * (d + 1)
    positions = spec.max_sequence_length * width * (spec.positions == "learned")
    positions *= stacks
    for stack in spec.stacks:
        blocks = spec.blocks(stack)
        biased = [b.positions == "relative" and b.mixer == "attention" for b in blocks]
        tables = sum(biased[: spec.distinct_blocks]) if spec.relative_by_block else any(biased)
        positions += tables * spec.relative_buckets * spec.num_heads
    norms = stacks * spec.final_norm * _norm(spec, d)
    norms += (stacks * spec.embedding_norm + spec.masked_lm_head) * _norm(spec, width)
    return {
        "embeddings": tokens * e + spec.num_segments * width + into_stream,
        "positions": positions,
        "norms": norms,
        "output": output,
    }
