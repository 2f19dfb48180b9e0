"""Random valid specs of small sizes, in which every field varies.

A new field of `TransformerSpec` needs a line here, and one in the overrides of blocks if it can
differ between them, which `test_builders_random.py` checks. A comment gives the reason where the
range is narrower than the spec allows.
"""

import json
import math
from typing import Any

import keras
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st
from reference import reference_logits
from small_models import ALL_KINDS, SOURCE_LENGTH, flatten_outputs, relative_error
from small_specs import expert_values

import builders
from builders.components import SHIPPED

RATES = st.sampled_from((0.0, 0.3))  # inactive at inference, but its layers are wired


WITH_FIRST_NORMS = ("pre", "sandwich", "parallel")  # before each sublayer


def shipped(field: str) -> st.SearchStrategy[str]:
    """Return the built-in values of a component field."""
    return st.sampled_from(SHIPPED[field])


@st.composite
def field_values(draw: st.DrawFn, kinds: tuple[str, ...] = ALL_KINDS) -> dict[str, Any]:
    """Draw a valid value of every field."""

    def either(*values: Any) -> Any:
        return draw(st.sampled_from(values))

    def between(low: float, high: float) -> float:
        return draw(st.floats(low, high))

    some = st.integers(1, 29)
    flag = st.booleans()
    values: dict[str, Any] = {
        "kind": either(*kinds),
        "num_layers": either(1, 2, 3),
        "num_encoder_layers": either(None, 1, 2, 3),
        "embedding_dim": draw(st.none() | st.integers(3, 29)),
        "intermediate_dim": draw(st.none() | st.integers(3, 29)),
        "max_sequence_length": draw(st.integers(SOURCE_LENGTH, 29)),
        "relative_by_block": draw(flag),
        "norm_placement": draw(shipped("norm_placement")),
        "norm": draw(shipped("norm")),
        # A norm over a few nearly equal channels divides by almost zero, and Keras computes the
        # variance as a difference, which loses its digits in float32.
        "norm_epsilon": between(1e-3, 0.1),
        "embedding_norm": draw(flag),
        "final_norm": draw(st.none() | flag),
        "merge": draw(shipped("merge")),
        "num_streams": either(None, 1),
        "stochastic_depth": draw(RATES),
        "block_skips": draw(shipped("block_skips")),
        "positions": either(*SHIPPED["positions"], "rotary"),  # which has the most fields
        "feedforward": draw(shipped("feedforward")),
        "glu_limit": between(0.3, 7),
        "activation": draw(shipped("activation")),
        "feedforward_bias": draw(flag),
        "attention": either("graph", "graph", "graph", "layer"),
        "attention_window": either(None, draw(some)),
        "attention_chunk": None,
        "attention_bias": draw(flag),
        "scale_embeddings": draw(flag),
        "norm_gain": either(None, True, False),
        "logit_gain": draw(flag),
        "kernel_constraint": either("none", "none", "unit_norm"),
        "tie_embeddings": draw(flag),
        "logit_bias": draw(flag),
        "scale_logits": draw(flag),
        "mask_target_padding": draw(flag),
        "logit_soft_cap": either(None, between(0.5, 50)),
        "dropout": draw(RATES),
        "feedforward_dropout": draw(st.none() | RATES),
        "attention_dropout": draw(RATES),
        "embedding_dropout": draw(RATES),
        "activation_dropout": draw(RATES),
        "final_dropout": draw(RATES),
        "initializer": draw(shipped("initializer")),
        "initializer_range": between(0.01, 0.5),
    }
    squares = values["feedforward"] != "mlp" or values["activation"] == "relu_squared"
    if values["norm_placement"] == "none" and squares:
        # Without norms, squaring the stream in every block soon overflows float32.
        values |= {"num_layers": 1, "num_encoder_layers": either(None, 1)}
    if values["norm"] == "unit":
        values["norm_gain"] = either(None, False)
    has_bias = values["norm"] == "layer"
    values["norm_bias"] = draw(st.none() | flag) if has_bias else either(None, False)
    has_gain = values["norm"] == "rms" and values["norm_gain"] is not False
    values["norm_offset"] = has_gain and draw(flag)
    values["attention_norm"] = values["norm_placement"] not in WITH_FIRST_NORMS or draw(flag)
    scale = st.none() | st.floats(0.3, 3)
    values["embedding_scale"] = None if values["scale_embeddings"] else draw(scale)
    values["logit_scale"] = None if values["scale_logits"] else draw(scale)
    if values["merge"] == "none":
        values["stochastic_depth"] = 0.0
    if values["norm_placement"] == "post" and "hyper_connections" in values["merge"]:
        values["merge"] = "add"
    if "hyper_connections" in values["merge"]:
        values["num_streams"] = either(None, 1, 2, 3)
    encodes = values["kind"] == "encoder_only"
    values["num_segments"] = either(0, 2, 3) if encodes else 0
    values["pooler"] = encodes and draw(flag)
    values["pooler_activation"] = either("tanh", "relu", "gelu")
    values["masked_lm_head"] = encodes and draw(flag)
    values["classes"] = either((), ("ham", "spam"), ("low", "mid", "top")) if encodes else ()
    values["class_pooling"] = either("first", "mean")
    if encodes:  # one stack
        values |= {"num_encoder_layers": either(None, values["num_layers"])}
    if values["attention"] == "layer":  # the Keras layer supports only these
        values["positions"] = either("learned", "sinusoidal", "coordinates", "none")
        values["kernel_constraint"] = "none"
    if "hyper_connections" in values["merge"] and values["positions"] == "coordinates":
        values["positions"] = "sinusoidal"
    if values["attention_window"] is None:
        values["attention_chunk"] = either(None, draw(some))
    values |= draw(factors(values["merge"], values["norm_placement"]))
    values |= draw(vocabularies(values["kind"]))
    values |= draw(heads(values["positions"], values["attention"]))
    of_heads = values["qk_norm_heads"] in ("separate", "tied")
    gains = (True,) if of_heads else (False, values["norm_gain"])
    values["qk_norm_gain"] = either(None, *gains)
    width = values["head_dim"] or values["hidden_dim"] // values["num_heads"]
    values |= draw(rotary_values(values["positions"], (values["rotary_dim"] or width) // 2))
    by_length = values["positions"] == "rotary" and values["rotary_scaling"] == "longrope"
    if by_length:  # whose cache must not be shorter than the sequence
        values |= {"attention_window": None, "attention_chunk": None}
    values["prefix_lm"] = values["kind"] == "decoder_only" and draw(flag)
    is_causal = values["kind"] == "decoder_only" and not values["prefix_lm"]
    values |= draw(bucket_values(values["positions"], 1 if is_causal else 2))
    values |= draw(expert_values())
    if values["num_experts"] or values["latent_dim"] is not None:
        values["kernel_constraint"] = "none"
        values["feedforward"] = either("mlp", "glu", "clamped_glu")
    values |= draw(mixers(values))
    narrow, d = values["embedding_dim"], values["hidden_dim"]
    can_project_sum = narrow not in (None, d) and not (
        values["positions"].startswith("sinusoidal") and narrow % 2
    )
    values["embedding_projection"] = either("tokens", "sum") if can_project_sum else "tokens"
    values["block_overrides"] = draw(overrides(values))
    values["distinct_blocks"] = draw(distinct_blocks(values))
    return values


def may_mix_otherwise(values: dict[str, Any]) -> bool:
    """Return whether blocks may have a Gated DeltaNet in the place of attention."""
    is_free = not values["value_residual"] and values["kernel_constraint"] == "none"
    return values["kind"] == "decoder_only" and not values["prefix_lm"] and is_free


@st.composite
def mixers(draw: st.DrawFn, values: dict[str, Any]) -> dict[str, Any]:
    heads = draw(st.none() | st.integers(1, 3))
    multiple = draw(st.none() | st.integers(1, 2))
    return {
        "mixer": draw(shipped("mixer")) if may_mix_otherwise(values) else "attention",
        "delta_key_heads": heads,
        "delta_value_heads": multiple and multiple * (heads or values["num_heads"]),
        "delta_key_dim": draw(st.none() | st.integers(2, 7)),
        "delta_value_dim": draw(st.none() | st.integers(3, 7)),
        "delta_convolution": draw(st.integers(1, 5)),
    }


@st.composite
def distinct_blocks(draw: st.DrawFn, values: dict[str, Any]) -> int | None:
    """Draw how many blocks have weights of their own, where others would be equal to them."""
    if isinstance(values["branch_scale"], str) and values["merge"] != "scaled":
        return None
    pattern = len(values["block_overrides"]) or 1
    numbers = [few for few in range(1, values["num_layers"] + 1) if few % pattern == 0]
    return draw(st.sampled_from((None, *numbers)))


@st.composite
def overrides(draw: st.DrawFn, values: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Draw other values for a pattern of blocks, of every field that can differ between blocks."""
    by_length = values["positions"] == "rotary" and values["rotary_scaling"] == "longrope"
    is_limited = values["attention_window"] is not None or values["attention_chunk"] is not None
    # As above, in all blocks: either any may have a limit, or any may be rotated by length.
    may_limit = not by_length and (is_limited or draw(st.booleans()))
    single = fields_of_one_block(values)
    groups = [st.fixed_dictionaries({}, optional=single)]
    if may_limit:
        groups.append(st.just({}) | limits())
    if values["positions"] == "rotary":
        groups.append(st.just({}) | other_rotations(values, by_length=not may_limit))
    if values["num_experts"]:
        groups.append(st.just({}) | other_experts(values))
    one = st.tuples(*groups).map(lambda parts: {k: v for part in parts for k, v in part.items()})
    number = draw(st.sampled_from((0, 1, 2)))  # a list would often be empty
    return tuple(draw(one) for _ in range(min(number, values["num_layers"])))


def fields_of_one_block(values: dict[str, Any]) -> dict[str, st.SearchStrategy[Any]]:
    """Return what a block may have in each of the fields that go with all values of others."""
    flag, number = st.booleans(), values["num_heads"]
    layers = SHIPPED["feedforward"]
    if values["num_experts"]:
        layers = tuple(name for name in layers if name != "scaled_glu")
    choices: dict[str, st.SearchStrategy[Any]] = {
        "intermediate_dim": st.integers(3, 29),
        "feedforward": st.sampled_from(layers),
        "glu_limit": st.floats(0.3, 7),
        "activation": shipped("activation"),
        "feedforward_bias": flag,
        "attention_temperature_floor": st.integers(1, 5),
    }
    if values["attention"] == "graph":
        choices["attention_sinks"] = flag
    if values["attention"] == "graph" and values["latent_dim"] is None:
        divisors = [few for few in range(1, number + 1) if number % few == 0]
        if not values["value_residual"] and values["qk_norm_heads"] != "tied":
            choices["num_key_value_heads"] = st.sampled_from(divisors)
        choices |= {"qk_norm": flag, "attention_temperature": st.floats(0, 1)}
    if values["positions"] in ("rotary", "alibi", "relative"):
        choices["positions"] = st.sampled_from((values["positions"], "none"))
    if values["norm_placement"] in WITH_FIRST_NORMS:
        choices["attention_norm"] = flag
    if values["norm_placement"] == "none":  # as above, where nothing may square the stream again
        del choices["feedforward"], choices["activation"]
    if may_mix_otherwise(values):
        choices["mixer"] = shipped("mixer")
    return choices


def limits() -> st.SearchStrategy[dict[str, Any]]:
    """Draw the limit of the keys that a block attends to: a window, chunks, or none."""
    size, none = st.none() | st.integers(1, 29), st.none()
    window = st.fixed_dictionaries({"attention_window": size, "attention_chunk": none})
    return window | st.fixed_dictionaries({"attention_window": none, "attention_chunk": size})


@st.composite
def other_rotations(draw: st.DrawFn, values: dict[str, Any], by_length: bool) -> dict[str, Any]:
    """Draw all fields of the rotation of a block; `by_length` allows factors by length."""
    width = values["head_dim"] or values["hidden_dim"] // values["num_heads"]
    has_others = values["latent_dim"] is not None  # channels that are not rotated
    pairs = draw(st.integers(1, (width - has_others) // 2))
    own = draw(rotary_values("rotary", pairs))
    if own["rotary_scaling"] == "longrope" and not by_length:
        own["rotary_scaling"] = "yarn"
    return {"rotary_dim": 2 * pairs, **own}


@st.composite
def other_experts(draw: st.DrawFn, values: dict[str, Any]) -> dict[str, Any]:
    """Draw the number and the widths of the experts of a block, or one layer in their place."""
    groups, least = values["num_expert_groups"], values["group_score_experts"]
    in_group = draw(st.integers(max(2, least), 5))
    active = draw(st.integers(1, in_group * (values["num_active_groups"] or groups)))
    has_some = draw(st.booleans())
    return {
        "num_experts": groups * in_group * has_some,
        "num_active_experts": active * has_some,
        "expert_dim": draw(st.none() | st.integers(3, 13)),
        "shared_expert_dim": draw(
            st.sampled_from((5, 11, *[0] * (not values["shared_expert_gate"])))
        ),
    }


@st.composite
def factors(draw: st.DrawFn, merge: str, norm_placement: str) -> dict[str, Any]:
    """Draw the factors of the residual stream, numbers and rules, where there are any."""

    def drawn(field: str) -> Any:
        return draw(shipped(field) | st.floats(0.3, 2))

    reads_norm = norm_placement not in ("post", "output", "none")
    values = {
        "skip_scale": drawn("skip_scale") if merge == "scaled" else 1.0,
        "branch_scale": None,
        "norm_scale": drawn("norm_scale") if reads_norm else 1.0,
    }
    if merge in ("scaled", "rezero", "layer_scale", "spherical"):
        least = 0.1 if merge == "spherical" else 0.0
        values["branch_scale"] = draw(st.none() | shipped("branch_scale") | st.floats(least, 2))
    return values


@st.composite
def vocabularies(draw: st.DrawFn, kind: str) -> dict[str, Any]:
    size = st.integers(5, 37)
    target, source = draw(size), draw(st.none() | size)
    share = kind == "encoder_decoder" and draw(st.booleans())
    if share and source is not None:
        source = target
    smallest = min(target, source or target) if kind == "encoder_decoder" else target
    return {
        "vocabulary_size": target,
        "source_vocabulary_size": source,
        "share_embeddings": share,
        "pad_token_id": draw(st.none() | st.integers(0, smallest - 1)),
    }


@st.composite
def heads(draw: st.DrawFn, positions: str, attention: str) -> dict[str, Any]:
    """Draw widths and attention fields; at least 3 channels, since norms over fewer are steps."""
    width = draw(st.integers(3, 7))
    number = draw(st.integers(1 if width > 4 else 2, 7))
    rotary_dim = draw(st.none() | st.integers(1, 11))
    if positions == "rotary":
        rotary_dim = draw(st.sampled_from([None, 2, 4, 6][width % 2 : 1 + width // 2]))
    free = draw(st.booleans())
    hidden_dim = draw(st.integers(5, 29)) if free else number * width
    if (positions.startswith("sinusoidal") or positions == "coordinates") and hidden_dim % 2:
        number, hidden_dim = (number, hidden_dim + 1) if free else (2 * number, 2 * hidden_dim)
    divisors = [few for few in range(1, number + 1) if number % few == 0]
    values: dict[str, Any] = {
        "num_heads": number,
        "head_dim": width if free else None,
        "hidden_dim": hidden_dim,
        "rotary_dim": rotary_dim,
        "num_key_value_heads": None,
        "attention_output_bias": None,
        "attention_scale": None,
        "attention_soft_cap": None,
        "attention_sinks": False,
        "attention_gate": False,
        "attention_temperature": 0.0,
        "attention_temperature_floor": draw(st.integers(1, 5)),
        "qk_norm": False,
        "qk_norm_after_rotary": draw(st.booleans()),
        "value_residual": False,
        "qk_norm_heads": draw(st.sampled_from(("shared", "separate", "tied", "joint"))),
        "latent_dim": None,
        "query_latent_dim": None,
        "value_dim": None,
    }
    if attention == "layer":
        return values
    positive = st.none() | st.floats(0.1, 2)
    values |= {
        "attention_output_bias": draw(st.none() | st.booleans()),
        "attention_scale": draw(positive),
        "attention_soft_cap": draw(positive),
        "attention_sinks": draw(st.booleans()),
        "attention_gate": draw(st.booleans()),
    }
    if draw(st.integers(0, 3)) == 0:  # latents, whose norms need some channels too
        even = draw(st.integers(1, (width - 1) // 2))
        return values | {
            "rotary_dim": 2 * even if positions == "rotary" else draw(st.integers(1, width - 1)),
            "latent_dim": draw(st.integers(3, 11)),
            "query_latent_dim": draw(st.none() | st.integers(3, 11)),
            "value_dim": draw(st.none() | st.integers(1, 7)),
        }
    is_tied = values["qk_norm_heads"] == "tied"
    key_value_heads = None if is_tied else draw(st.none() | st.sampled_from(divisors))
    return values | {
        "num_key_value_heads": key_value_heads,
        "attention_temperature": draw(st.just(0.0) | st.floats(0.1, 1)),
        "qk_norm": draw(st.booleans()),
        "value_residual": draw(st.booleans()),
    }


@st.composite
def rotary_values(draw: st.DrawFn, positions: str, pairs: int) -> dict[str, Any]:
    scaling = draw(shipped("rotary_scaling"))
    factors = st.tuples(*[st.floats(1, 9)] * pairs) if pairs else st.none()
    scales = scaling != "none" or positions != "rotary"
    slow = draw(st.floats(0.1, 2))
    return {
        "rotary_base": draw(st.floats(2, 1e6)),
        "rotary_scaling": scaling,
        "rotary_factor": draw(st.floats(1, 17)) if scales else 1.0,
        "rotary_original_length": draw(st.none() | st.integers(5, 97)),
        "rotary_magnitude": draw(st.none() | st.floats(0.5, 2)),
        "rotary_low_freq_factor": slow,
        "rotary_high_freq_factor": slow + draw(st.floats(0.1, 31)),
        "rotary_whole_pairs": draw(st.booleans()),
        "rotary_short_factors": draw(factors),
        "rotary_long_factors": draw(factors),
    }


@st.composite
def bucket_values(draw: st.DrawFn, positions: str, sides: int) -> dict[str, Any]:
    """Draw the buckets of keys on one side of the query, or on both."""
    number = 2 * sides * draw(st.integers(1, 7 // sides))
    farthest = number // 2 + draw(st.integers(1, 23))
    # At the border of two buckets the result depends on rounding to float32.
    for exact in {number // 2, number // (2 * sides)}:
        for distance in range(exact + 1, min(farthest, SOURCE_LENGTH)):
            bucket = exact * math.log(distance / exact) / math.log(farthest / exact)
            assume(positions != "relative" or abs(bucket - round(bucket)) > 1e-5)
    return {"relative_buckets": number, "relative_max_distance": farthest}


def scale_examples(number: int) -> int:
    """Return the number of examples, fewer on backends that compile for every new size."""
    return number if keras.backend.backend() == "tensorflow" else math.ceil(number / 8)


def rounding_error(
    spec: builders.TransformerSpec, weights: dict[str, np.ndarray], tokens: Any
) -> float:
    """Return the largest relative change of the reference logits under float32 rounding of weights.

    It bounds how far two correct float32 computations of an ill-conditioned spec may differ.
    """
    fields = json.loads(spec.to_json())
    exact = flatten_outputs(reference_logits(fields, weights, tokens))
    errors = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rounded = {
            name: value * (1.0 + 2.0**-24 * rng.choice([-1.0, 1.0], value.shape))
            for name, value in weights.items()
        }
        errors.append(
            relative_error(flatten_outputs(reference_logits(fields, rounded, tokens)), exact)
        )
    return max(errors)


def small_specs(kinds: tuple[str, ...] = ALL_KINDS) -> st.SearchStrategy[builders.TransformerSpec]:
    """Return a strategy of specs that fit `small_models.random_tokens`."""
    return field_values(kinds).map(lambda values: builders.TransformerSpec(**values))
