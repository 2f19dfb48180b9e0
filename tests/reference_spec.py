"""The fields of a spec for the reference Transformer; see `reference`."""

from collections.abc import Mapping

import numpy as np

Spec = Mapping[str, object]
Weights = Mapping[str, np.ndarray]


def fill_derived_fields(spec: Spec) -> dict:
    """Return the spec with the values of all derived fields filled in.

    `pattern` has the specs of the blocks of `block_overrides`, whose fields are derived from the
    changed ones.
    """
    width = spec["head_dim"] or spec["hidden_dim"] // spec["num_heads"]
    delta_heads = spec["delta_key_heads"] or spec["num_heads"]
    gain = spec["norm"] != "unit" if spec["norm_gain"] is None else spec["norm_gain"]
    derived = {
        "num_encoder_layers": spec["num_layers"],
        "source_vocabulary_size": spec["vocabulary_size"],
        "embedding_dim": spec["hidden_dim"],
        "intermediate_dim": 4 * spec["hidden_dim"],
        "num_key_value_heads": spec["num_heads"],
        "head_dim": spec["hidden_dim"] // spec["num_heads"],
        "final_norm": spec["norm_placement"] not in ("post", "none"),
        "num_streams": 4 if "hyper_connections" in spec["merge"] else 1,
        "delta_key_heads": delta_heads,
        "delta_value_heads": delta_heads,
        "delta_key_dim": width,
        "delta_value_dim": spec["delta_key_dim"] or width,
        "norm_gain": gain,
        "norm_bias": spec["norm"] == "layer" and gain,
        "embedding_scale": None,
        "logit_scale": None,
        "branch_scale": {"rezero": 0.0, "layer_scale": 1e-4, "spherical": 0.05}.get(
            spec["merge"], 1.0
        ),
        "attention_output_bias": spec["attention_bias"],
        "rotary_dim": spec["head_dim"] or spec["hidden_dim"] // spec["num_heads"],
        "rotary_original_length": spec["max_sequence_length"],
        "rotary_magnitude": None,
        "latent_dim": None,
        "query_latent_dim": None,
        "attention_scale": None,
        "attention_soft_cap": None,
        "logit_soft_cap": None,
        "attention_window": None,
        "attention_chunk": None,
        "qk_norm_gain": gain or spec["qk_norm_heads"] in ("separate", "tied"),
        "distinct_blocks": None,
        "pad_token_id": None,
        "num_active_groups": spec["num_expert_groups"],
        "router_correction_rate": None,
    }
    full = derived | {field: value for field, value in spec.items() if value is not None}
    shared = full["rotary_dim"] if full["latent_dim"] is not None else 0
    further = {"value_dim": full["head_dim"] - shared, "expert_dim": full["intermediate_dim"]}
    pattern = [
        fill_derived_fields({**spec, "block_overrides": (), **own})
        for own in spec["block_overrides"]
    ]
    return {**further, **full, "pattern": pattern}


def of_block(spec: dict, index: int) -> dict:
    """Return the spec of a block, with the changes that the pattern has for it."""
    return spec["pattern"][index % len(spec["pattern"])] if spec["pattern"] else spec
