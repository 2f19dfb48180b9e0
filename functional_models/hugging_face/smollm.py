"""SmolLM3: Llama with blocks that have no positions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builders import TransformerSpec
from functional_models.conversion import forms
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import (
    BLOCKS,
    FULL,
    SLIDING,
    blocks_of,
    check_layer_types,
    window_fields,
    written_layer_types,
    written_window,
)
from functional_models.hugging_face.family import Family
from functional_models.hugging_face.llama import DEFAULTS, SHARED, SIZES, heads, layers
from functional_models.hugging_face.rules import DECODER_PADDING, activation, rotary
from functional_models.hugging_face.silent import EXECUTION


def _has_positions(config: Config) -> Sequence[Any]:
    """Return whether each block has positions, in spite of the name of the key."""
    blocks, listed = config["num_hidden_layers"], config["no_rope_layers"]
    if listed is None:
        period = config["no_rope_layer_interval"]
        return [(i + 1) % period != 0 for i in range(blocks)]
    if not isinstance(listed, list) or len(listed) != blocks or not set(listed) <= {0, 1}:
        raise ValueError(
            f"no_rope_layers={listed!r}: must be a list of 1, with positions, or 0, without, for "
            f"each of {blocks} blocks"
        )
    return listed


def _read(config: Config) -> dict[str, Any]:
    rotated, types = _has_positions(config), config["layer_types"]
    window = config["sliding_window"] if config["use_sliding_window"] else None
    if types is None:
        types = [FULL if has or window is None else SLIDING for has in rotated]
    check_layer_types(types, config["num_hidden_layers"])
    positions = [{"positions": "rotary" if has else "none"} for has in rotated]
    found: dict[str, Any] = window_fields(types, window)
    return {BLOCKS: [{**one, **other} for one, other in zip(found[BLOCKS], positions, strict=True)]}


def _write(spec: TransformerSpec) -> dict[str, Any]:
    return {
        "no_rope_layers": [int(block.positions != "none") for block in blocks_of(spec)],
        "layer_types": written_layer_types(spec),
        "use_sliding_window": any(spec.windows),
        "sliding_window": written_window(spec, None),
    }


FAMILIES: tuple[Family, ...] = (
    Family(
        model_types=("smollm3",),
        heads=heads("SmolLM3"),
        constants=forms.LLAMA,
        fields={**SIZES, "attention_bias": "attention_bias", "mlp_bias": "feedforward_bias"},
        rules=(
            activation("hidden_act"),
            rotary(2_000_000.0),
            DECODER_PADDING,
            Rule(
                ("use_sliding_window", "sliding_window", "no_rope_layer_interval"),
                _read,
                _write,
                optional=("no_rope_layers", "layer_types"),
            ),
        ),
        defaults={
            **DEFAULTS,
            "num_key_value_heads": 4,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
            "sliding_window": None,
            "no_rope_layer_interval": 4,
            "pad_token_id": 128004,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
        },
        silent={
            "max_window_layers": "of Qwen 2, and not read in this family",
            "pretraining_tp": EXECUTION,
        },
        layers=layers(),
        **SHARED,
    ),
)
