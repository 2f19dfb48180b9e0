"""Checks of combinations of spec fields and of lengths."""

from __future__ import annotations

from builders import attention_checks, residual_checks
from builders.errors import invalid_value
from builders.errors import require as _require
from builders.expert_checks import check_experts
from builders.position_checks import ADDED_POSITIONS, check_relative, check_rotary, check_sines
from builders.spec_fields import SpecFields


def check_combinations(spec: SpecFields) -> None:
    """Check whether the fields of a spec, each allowed on its own, go together.

    Raises:
        ValueError: naming a field, its value and the values that go with the others.
    """
    for check in (
        _check_pad_token,
        attention_checks.check_heads,
        _check_norms,
        _check_embeddings,
        residual_checks.check_merge,
        residual_checks.check_block_overrides,
        residual_checks.check_distinct_blocks,
        residual_checks.check_value_residual,
        attention_checks.check_constraint,
        attention_checks.check_mixer,
        attention_checks.check_prefix,
        check_sines,
        _check_encoder_only,
        attention_checks.check_latents,
        attention_checks.check_attention_layer,
        check_rotary,
        check_relative,
        _check_shared_embeddings,
        check_experts,
    ):
        check(spec)


def _check_pad_token(spec: SpecFields) -> None:
    smallest = spec.vocabulary_size
    if spec.kind == "encoder_decoder":
        smallest = min(smallest, spec.source_vocabulary_size)
    pad = spec.pad_token_id
    is_token = isinstance(pad, int) and not isinstance(pad, bool) and 0 <= pad < smallest
    allowed = f"None or a token id in [0, {smallest}), of every vocabulary"
    _require(spec, "pad_token_id", pad is None or is_token, allowed)


def _check_norms(spec: SpecFields) -> None:
    norm = spec.norm
    if norm in ("rms", "unit"):
        has_no_bias = f"False where norm={norm!r}, which has no bias"
        _require(spec, "norm_bias", not spec.norm_bias, has_no_bias, "leave it out")
    if norm == "unit":
        has_no_gain = "False where norm='unit', which has no weights"
        _require(spec, "norm_gain", not spec.norm_gain, has_no_gain, "leave it out")
    if not spec.norm_gain:
        no_factors = "False where norm_gain=False, which leaves nothing to add 1 to"
        _require(spec, "norm_offset", not spec.norm_offset, no_factors, "leave it out")
    if norm == "layer":
        of_rms = "False where norm='layer'"
        _require(spec, "norm_offset", not spec.norm_offset, of_rms, "use norm='rms'")
    if not spec.attention_norm:
        _require(
            spec,
            "attention_norm",
            spec.norm_placement not in ("post", "output", "parallel_shared_norm", "none"),
            f"True where norm_placement={spec.norm_placement!r}, which has no norm before "
            "self-attention alone",
            "use norm_placement='pre'",
        )


def _check_embeddings(spec: SpecFields) -> None:
    _require(
        spec,
        "embedding_projection",
        spec.embedding_projection == "tokens" or spec.embedding_dim != spec.hidden_dim,
        f"tokens where embedding_dim=hidden_dim={spec.hidden_dim}, which needs no projection",
        "give another embedding_dim, or leave it out",
    )
    for name, other in (("embedding_scale", "scale_embeddings"), ("logit_scale", "scale_logits")):
        is_free = getattr(spec, name) is None or not getattr(spec, other)
        _require(spec, name, is_free, f"None where {other}=True", "give one factor or the other")


def _check_encoder_only(spec: SpecFields) -> None:
    if spec.kind != "encoder_only":
        for name in ("num_segments", "pooler", "masked_lm_head", "classes"):
            off = type(getattr(spec, name))()
            is_off = getattr(spec, name) == off
            allowed = f"{off} where kind={spec.kind!r}"
            _require(spec, name, is_off, allowed, "only kind='encoder_only' has it")
        return
    one_stack = f"num_layers={spec.num_layers} where kind='encoder_only', which has one stack"
    is_one = spec.num_encoder_layers == spec.num_layers
    _require(spec, "num_encoder_layers", is_one, one_stack, "leave it out")


def _check_shared_embeddings(spec: SpecFields) -> None:
    if not spec.share_embeddings:
        return
    _require(
        spec,
        "share_embeddings",
        spec.kind == "encoder_decoder",
        f"False where kind={spec.kind!r}, which has one embedding",
        "tie_embeddings=True shares it with the logits",
    )
    _require(
        spec,
        "source_vocabulary_size",
        spec.source_vocabulary_size == spec.vocabulary_size,
        f"equal to vocabulary_size={spec.vocabulary_size} where share_embeddings=True",
        "leave it out",
    )


def check_length(spec: SpecFields, name: str, length: int) -> None:
    """Check whether the model of a spec takes sequences of a length.

    Raises:
        ValueError: no positive int, or more tokens than the positions of the model.
    """
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise invalid_value(name, length, "a positive int, a number of tokens")
    if spec.positions in ADDED_POSITIONS and length > spec.max_sequence_length:
        raise invalid_value(
            name,
            length,
            f"at most max_sequence_length={spec.max_sequence_length} where "
            f"positions={spec.positions!r}",
            "give a spec with a larger one",
        )
