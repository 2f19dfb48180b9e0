"""Checks of the fields of attention, and of what takes its place."""

from __future__ import annotations

from builders.errors import require as _require
from builders.spec_fields import SpecFields


def check_heads(spec: SpecFields) -> None:
    """Check the numbers of heads, and the norms of queries and keys."""
    _require(
        spec,
        "num_key_value_heads",
        spec.num_heads % spec.num_key_value_heads == 0,
        f"a divisor of num_heads={spec.num_heads}, whose heads share them in equal groups",
    )
    if spec.attention_chunk is not None:
        one_limit = (
            f"None where attention_window={spec.attention_window}, which limits the keys too"
        )
        no_window = spec.attention_window is None
        _require(spec, "attention_chunk", no_window, one_limit, "give one of the two")
    if not spec.qk_norm:
        return
    _check_head_norms(spec)
    if spec.qk_norm_heads == "tied":
        _require(
            spec,
            "qk_norm_heads",
            spec.num_key_value_heads == spec.num_heads,
            f"another value where num_key_value_heads={spec.num_key_value_heads} and "
            f"num_heads={spec.num_heads}, since queries and keys have one gain",
            "use qk_norm_heads='separate'",
        )


def _check_head_norms(spec: SpecFields) -> None:
    """Check that the norms of queries and keys have weights where their form needs them."""
    name, has_gain = "qk_norm_gain", spec.qk_norm_gain
    if spec.qk_norm_heads in ("separate", "tied"):
        of_heads = f"True where qk_norm_heads={spec.qk_norm_heads!r}, a gain for each head"
        _require(spec, name, has_gain, of_heads, "use qk_norm_heads='shared'")
        return
    without = "False where norm_gain=False, whose norms have no weights"
    _require(spec, name, spec.norm_gain or not has_gain, without, "leave it out")


def check_constraint(spec: SpecFields) -> None:
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


def check_mixer(spec: SpecFields) -> None:
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


def check_prefix(spec: SpecFields) -> None:
    """Check that a model with a prefix is one decoder, whose blocks can read in both directions."""
    if not spec.prefix_lm:
        return
    _require(
        spec,
        "prefix_lm",
        spec.kind == "decoder_only",
        f"False where kind={spec.kind!r}, whose encoder reads in both directions",
        "use kind='decoder_only'",
    )
    for overrides in spec.block_overrides or ({},):
        mixer = overrides.get("mixer", spec.mixer)
        _require(
            spec,
            "prefix_lm",
            mixer == "attention",
            f"False where a block has mixer={mixer!r}, which sees earlier tokens alone",
            "use mixer='attention' in all blocks",
        )


def check_latents(spec: SpecFields) -> None:
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


def check_attention_layer(spec: SpecFields) -> None:
    """Check that the attention is one that the library's attention layer computes."""
    if spec.attention != "layer":
        return
    supported = {
        "num_key_value_heads": spec.num_heads,
        "attention_output_bias": spec.attention_bias,
        "attention_scale": None,
        "attention_soft_cap": None,
        "attention_sinks": False,
        "attention_gate": False,
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
