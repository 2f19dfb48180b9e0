"""What rows of several families have in common: sizes, dropout, the layers of a block."""

from __future__ import annotations

from typing import Any

from functional_models.conversion.family import Part, Rule

SIZES = {
    name: name
    for name in ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim")
}

SIZES_AND_LENGTH = {**SIZES, "max_sequence_length": "max_sequence_length"}

# These drop in places, or as often, as no spec says; only a rate of zero is the same.
NO_DROPOUT = {"dropout": 0}


def dropout(*places: str) -> Rule:
    """One rate for several places, `dropout` among them."""
    return Rule(
        ("dropout",),
        lambda config: dict.fromkeys(("dropout", *places), config["dropout"]),
        lambda spec: {"dropout": spec.dropout},
    )


EVERYWHERE = dropout("attention_dropout", "embedding_dropout")


def unpadded(length: int) -> dict[str, Any]:
    """Return the defaults of a backbone without a padding token and without a longest text."""
    return {"max_sequence_length": length, "pad_token_id": None}


def attention_layers(ours: str, theirs: str, pattern: str = "_{role}_dense") -> dict[str, str]:
    """Return the four projections of an attention of ours -> the attributes that are theirs."""
    roles = ("query", "key", "value", "output")
    return {f"{ours}.{role}": f"{theirs}.{pattern.format(role=role)}" for role in roles}


def block_layers(
    ours: str, theirs: str, attentions: str = "self_attention"
) -> dict[str, str | Part]:
    """Return the layers of a `keras_hub.layers.TransformerEncoder` or `TransformerDecoder`."""
    layers: dict[str, str | Part] = {
        f"{ours}.feedforward.up": f"{theirs}._feedforward_intermediate_dense",
        f"{ours}.feedforward.down": f"{theirs}._feedforward_output_dense",
        f"{ours}.feedforward.norm": f"{theirs}._feedforward_layer_norm",
    }
    for part in attentions.split():
        layers |= attention_layers(f"{ours}.{part}", f"{theirs}._{part}_layer")
        layers[f"{ours}.{part}.norm"] = f"{theirs}._{part}_layer_norm"
    return layers
