"""Checks of combinations of spec fields and of lengths."""

from __future__ import annotations

from dataclasses import fields

from builders.errors import invalid_value, unknown_name
from builders.errors import require as _require
from builders.fields import rule_of
from builders.position_checks import check_relative, check_rotary
from builders.residual_fields import HYPER_CONNECTIONS, LEARNED_FACTORS
from builders.spec_fields import SpecFields

_OF_EXPERTS = ("mlp", "glu", "clamped_glu")
"""Feed-forward layers whose weights are projections alone."""

_SINES = ("sinusoidal", "sinusoidal_concat", "coordinates")
_ADDED = ("learned", *_SINES)
"""Positions that are added to the embeddings, or to the stream before every block."""

_UNSCALED = ("add", "none", "highway", *HYPER_CONNECTIONS)
_ONE_STREAM = ("add", "none", "scaled", *LEARNED_FACTORS, "highway")
"""Merges that ship and have one stream."""
_WITHOUT_FACTOR = {"skip_scale": (*_UNSCALED, *LEARNED_FACTORS), "branch_scale": _UNSCALED}
"""Factors of the residual stream, and the merges that have none."""


def check_combinations(spec: SpecFields) -> None:
    """Check whether the fields of a spec, each allowed on its own, go together.

    Raises:
        ValueError: naming a field, its value and the values that go with the others.
    """
    smallest = spec.vocabulary_size
    if spec.kind == "encoder_decoder":
        smallest = min(smallest, spec.source_vocabulary_size)
    pad = spec.pad_token_id
    is_token = isinstance(pad, int) and not isinstance(pad, bool) and 0 <= pad < smallest
    _require(
        spec,
        "pad_token_id",
        pad is None or is_token,
        f"None or a token id in [0, {smallest}), of every vocabulary",
    )
    _require(
        spec,
        "num_key_value_heads",
        spec.num_heads % spec.num_key_value_heads == 0,
        f"a divisor of num_heads={spec.num_heads}, whose heads share them in equal groups",
    )
    if spec.norm in ("rms", "unit"):
        has_no_bias = f"False where norm={spec.norm!r}, which has no bias"
        _require(spec, "norm_bias", not spec.norm_bias, has_no_bias, "leave it out")
    if spec.norm == "unit":
        has_no_gain = "False where norm='unit', which has no weights"
        _require(spec, "norm_gain", not spec.norm_gain, has_no_gain, "leave it out")
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
    if not spec.norm_gain:
        no_factors = "False where norm_gain=False, which leaves nothing to add 1 to"
        _require(spec, "norm_offset", not spec.norm_offset, no_factors, "leave it out")
    if not spec.attention_norm:
        _require(
            spec,
            "attention_norm",
            spec.norm_placement not in ("post", "output", "parallel_shared_norm", "none"),
            f"True where norm_placement={spec.norm_placement!r}, which has no norm before "
            "self-attention alone",
            "use norm_placement='pre'",
        )
    if spec.norm == "layer":
        of_rms = "False where norm='layer'"
        _require(spec, "norm_offset", not spec.norm_offset, of_rms, "use norm='rms'")
    if spec.attention_chunk is not None:
        one_limit = (
            f"None where attention_window={spec.attention_window}, which limits the keys too"
        )
        no_window = spec.attention_window is None
        _require(spec, "attention_chunk", no_window, one_limit, "give one of the two")
    if spec.qk_norm:
        _check_head_norms(spec)
    _check_merge(spec)
    _check_block_overrides(spec)
    _check_distinct_blocks(spec)
    _check_value_residual(spec)
    if spec.qk_norm and spec.qk_norm_heads == "tied":
        _require(
            spec,
            "qk_norm_heads",
            spec.num_key_value_heads == spec.num_heads,
            f"another value where num_key_value_heads={spec.num_key_value_heads} and "
            f"num_heads={spec.num_heads}, since queries and keys have one gain",
            "use qk_norm_heads='separate'",
        )
    _check_constraint(spec)
    _check_mixer(spec)
    if spec.positions in _SINES:
        is_embedded = spec.positions != "coordinates"
        of_sum = spec.embedding_projection == "sum" and is_embedded
        width = "embedding_dim" if of_sum else "hidden_dim"
        _require(
            spec,
            width,
            getattr(spec, width) % 2 == 0,
            f"even where positions={spec.positions!r}, which are sines and cosines in pairs",
            "change the width, or the positions",
        )
        _require(
            spec,
            "positions",
            is_embedded or spec.merge not in HYPER_CONNECTIONS,
            f"another value where merge={spec.merge!r}, whose streams have no one place to add to",
            "use positions='sinusoidal'",
        )
    if spec.kind == "encoder_only":
        _check_encoder_only(spec)
    else:
        for name in ("num_segments", "pooler", "masked_lm_head"):
            off = type(getattr(spec, name))()
            _require(
                spec,
                name,
                getattr(spec, name) == off,
                f"{off} where kind={spec.kind!r}",
                "only kind='encoder_only' has it",
            )
    _check_latents(spec)
    if spec.attention == "layer":
        _check_attention_layer(spec)
    if spec.positions == "rotary":
        check_rotary(spec)
    if spec.positions == "relative":
        check_relative(spec)
    if spec.share_embeddings:
        _check_shared_embeddings(spec)
    if spec.num_experts:
        _check_experts(spec)
    else:
        has_none = "0 where num_experts=0, which is one layer for all tokens"
        _require(
            spec, "num_active_experts", not spec.num_active_experts, has_none, "give num_experts"
        )


def check_length(spec: SpecFields, name: str, length: int) -> None:
    """Check whether the model of a spec takes sequences of a length.

    Raises:
        ValueError: no positive int, or more tokens than the positions of the model.
    """
    if not isinstance(length, int) or isinstance(length, bool) or length < 1:
        raise invalid_value(name, length, "a positive int, a number of tokens")
    if spec.positions in _ADDED and length > spec.max_sequence_length:
        raise invalid_value(
            name,
            length,
            f"at most max_sequence_length={spec.max_sequence_length} where "
            f"positions={spec.positions!r}",
            "give a spec with a larger one",
        )


def _check_block_overrides(spec: SpecFields) -> None:
    """Check that overrides are of fields that can differ between blocks, for blocks that exist."""
    pattern = spec.block_overrides
    blocks = spec.num_layers
    if spec.kind == "encoder_decoder":
        blocks = max(blocks, spec.num_encoder_layers)
    _require(
        spec,
        "block_overrides",
        len(pattern) <= blocks,
        f"a pattern of at most {blocks} blocks, as many as the model has",
        "shorten it, or change num_layers",
    )
    by_name = {field.name: rule_of(field) for field in fields(spec)}
    varying = [name for name, rule in by_name.items() if rule.by_block]
    for name in dict.fromkeys(name for overrides in pattern for name in overrides):
        if name not in by_name:
            raise ValueError(f"block_overrides: {unknown_name('spec field', name, varying)}")
        _require(
            spec,
            "block_overrides",
            name in varying,
            f"changes of fields that can differ between blocks, unlike {name}; these can: "
            f"{', '.join(varying)}",
            f"set {name} for the whole model",
        )
    schemes = {spec.positions, *(overrides.get("positions", "") for overrides in pattern)} - {""}
    _require(
        spec,
        "block_overrides",
        len(schemes) == 1 or schemes.isdisjoint(_ADDED),
        f"without other positions than {spec.positions!r} where one of them is added to the "
        "stream, which all blocks share",
        "use positions='rotary', 'alibi', 'relative' or 'none'",
    )


def _check_merge(spec: SpecFields) -> None:
    """Check that the factors of the residual stream are ones that its merge and norms have."""
    for name, merges in _WITHOUT_FACTOR.items():
        _require(
            spec,
            name,
            getattr(spec, name) == 1 or spec.merge not in merges,
            f"1 where merge={spec.merge!r}, which has no such factor",
            "use merge='scaled'",
        )
    _require(
        spec,
        "branch_scale",
        spec.branch_scale != 0 or spec.merge != "spherical",
        "above 0 where merge='spherical', whose trained numbers are multiples of it",
        "leave it out",
    )
    if spec.merge in HYPER_CONNECTIONS:
        _require(
            spec,
            "norm_placement",
            spec.norm_placement != "post",
            f"other than 'post' where merge={spec.merge!r}, whose streams have no norm between "
            "sublayers",
            "use norm_placement='pre'",
        )
    _require(
        spec,
        "num_streams",
        spec.num_streams == 1 or spec.merge not in _ONE_STREAM,
        f"1 where merge={spec.merge!r}, which has one stream",
        "use merge='hyper_connections'",
    )
    _require(
        spec,
        "stochastic_depth",
        spec.stochastic_depth == 0 or spec.merge != "none",
        "0 where merge='none', since nothing is left of a stream without its branch",
        "use merge='add'",
    )
    _require(
        spec,
        "norm_scale",
        spec.norm_scale == 1 or spec.norm_placement not in ("post", "output", "none"),
        f"1 where norm_placement={spec.norm_placement!r}, which has no norm before a sublayer",
        "use norm_placement='pre'",
    )


def _check_distinct_blocks(spec: SpecFields) -> None:
    """Check that blocks with the same weights are the same block."""
    distinct = spec.distinct_blocks
    if distinct is None:
        return
    blocks = spec.num_layers
    if spec.kind == "encoder_decoder":
        blocks = max(blocks, spec.num_encoder_layers)
    _require(
        spec,
        "distinct_blocks",
        distinct <= blocks,
        f"at most {blocks}, the blocks of the model",
        "leave it out",
    )
    pattern = len(spec.block_overrides) or 1
    _require(
        spec,
        "distinct_blocks",
        distinct % pattern == 0,
        f"a multiple of {pattern}, the blocks of the pattern of block_overrides, since blocks with "
        "the same weights are equal",
        "change one of the two",
    )
    _require(
        spec,
        "branch_scale",
        not isinstance(spec.branch_scale, str) or spec.merge not in LEARNED_FACTORS,
        f"a number where merge={spec.merge!r} and distinct_blocks={distinct}, since blocks with "
        "the same weights share the trained factor",
        "give the number that it starts at",
    )


def _check_value_residual(spec: SpecFields) -> None:
    """Check that the values of all blocks have one shape, so that they can be mixed."""
    name = "num_key_value_heads"
    given = {overrides.get(name, spec.num_key_value_heads) for overrides in spec.block_overrides}
    heads = {spec.num_heads if number is None else number for number in given}
    _require(
        spec,
        "value_residual",
        not spec.value_residual or len(heads) < 2,
        f"False where block_overrides change {name}, since values of other heads cannot be mixed",
        f"give all blocks the same {name}",
    )


def _check_mixer(spec: SpecFields) -> None:
    """Check that Gated DeltaNets are in a decoder-only model, and that their sizes fit."""
    mixers = {overrides.get("mixer", spec.mixer) for overrides in spec.block_overrides}
    if "gated_delta" not in {spec.mixer, *mixers}:
        return
    name = "mixer" if spec.mixer == "gated_delta" else "block_overrides"
    conditions = {
        f"attention where kind={spec.kind!r}, since a Gated DeltaNet sees earlier tokens alone": (
            spec.kind == "decoder_only",
            "use kind='decoder_only'",
        ),
        "attention where value_residual=True, which mixes the values of attention": (
            not spec.value_residual,
            "use value_residual=False",
        ),
        f"attention where kernel_constraint={spec.kernel_constraint!r}, which its kernels have "
        "not": (spec.kernel_constraint == "none", "leave one of the two out"),
    }
    for allowed, (holds, advice) in conditions.items():
        _require(spec, name, holds, allowed, advice)
    _require(
        spec,
        "delta_value_heads",
        spec.delta_value_heads % spec.delta_key_heads == 0,
        f"a multiple of delta_key_heads={spec.delta_key_heads}, each of which serves equally many",
        "change one of the two",
    )


def _check_constraint(spec: SpecFields) -> None:
    """Check that the constrained kernels are ones of layers that take a constraint."""
    unconstrained = {"attention='layer'": spec.attention == "layer"}
    unconstrained[f"num_experts={spec.num_experts}"] = spec.num_experts > 0
    unconstrained[f"latent_dim={spec.latent_dim}"] = spec.latent_dim is not None
    for given, is_given in unconstrained.items():
        _require(
            spec,
            "kernel_constraint",
            spec.kernel_constraint == "none" or not is_given,
            f"none where {given}, whose kernels have no constraints",
            "leave one of the two out",
        )


def _check_encoder_only(spec: SpecFields) -> None:
    one_stack = f"num_layers={spec.num_layers} where kind='encoder_only', which has one stack"
    is_one = spec.num_encoder_layers == spec.num_layers
    _require(spec, "num_encoder_layers", is_one, one_stack, "leave it out")


def _check_head_norms(spec: SpecFields) -> None:
    """Check that the norms of queries and keys have weights where their form needs them."""
    name, has_gain = "qk_norm_gain", spec.qk_norm_gain
    if spec.qk_norm_heads in ("separate", "tied"):
        of_heads = f"True where qk_norm_heads={spec.qk_norm_heads!r}, a gain for each head"
        _require(spec, name, has_gain, of_heads, "use qk_norm_heads='shared'")
        return
    without = "False where norm_gain=False, whose norms have no weights"
    _require(spec, name, spec.norm_gain or not has_gain, without, "leave it out")


def _check_attention_layer(spec: SpecFields) -> None:
    """Check that the attention is one that the library's attention layer computes."""
    supported = {
        "num_key_value_heads": spec.num_heads,
        "attention_output_bias": spec.attention_bias,
        "attention_scale": None,
        "attention_soft_cap": None,
        "attention_sinks": False,
        "attention_temperature": 0,
        "qk_norm": False,
        "value_residual": False,
        "latent_dim": None,
    }
    for name, value in supported.items():
        _require(
            spec,
            name,
            getattr(spec, name) == value,
            f"{value} where attention='layer', which supports nothing else",
            "use attention='graph'",
        )
    _require(
        spec,
        "positions",
        spec.positions not in ("rotary", "alibi", "relative"),
        "added to the embeddings where attention='layer', whose scores cannot be changed",
        "use attention='graph'",
    )


def _check_latents(spec: SpecFields) -> None:
    """Check that keys and values that come from latents are like that, and others are not."""
    if spec.latent_dim is None:
        for name, value in (("query_latent_dim", None), ("value_dim", spec.head_dim)):
            without = f"{value} where latent_dim=None, which is no latent attention"
            _require(spec, name, getattr(spec, name) == value, without, "give latent_dim too")
        return
    latents = f"where latent_dim={spec.latent_dim}"
    _require(
        spec,
        "rotary_dim",
        spec.rotary_dim < spec.head_dim,
        f"below head_dim={spec.head_dim} {latents}, since the other channels of a key come from "
        "its latent",
        "give the channels of a key that all heads share",
    )
    _require(
        spec,
        "num_key_value_heads",
        spec.num_key_value_heads == spec.num_heads,
        f"{spec.num_heads}, as num_heads, {latents}, from which every head has a key of its own",
        "leave it out",
    )
    _require(
        spec,
        "qk_norm",
        not spec.qk_norm,
        f"False {latents}, which has a norm in place of the keys",
        "leave it out",
    )
    _require(
        spec,
        "value_residual",
        not spec.value_residual,
        f"False {latents}, since a cache of latents has no values to mix",
        "leave it out",
    )
    _require(
        spec,
        "attention_temperature",
        not spec.attention_temperature,
        f"0 {latents}, whose queries have two parts",
        "leave it out",
    )


def _check_experts(spec: SpecFields) -> None:
    number, groups = spec.num_experts, spec.num_expert_groups
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


def _check_shared_embeddings(spec: SpecFields) -> None:
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
