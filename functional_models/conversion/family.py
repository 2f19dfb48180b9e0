"""Families of KerasHub backbones: tables that are read in both directions.

A table has the spec fields that are constant in a family, the configuration entries of the backbone
that correspond to other fields, and the attribute of the backbone for each layer of a model here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from builders import TransformerSpec

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Rule:
    """Conversion of configuration entries that do not correspond to a single spec field.

    Attributes:
        entries: names of the entries.
        read: configuration -> spec fields.
        write: spec -> entries, of families that are written.
        optional: further entries, which are `None` where they are absent.
    """

    entries: tuple[str, ...]
    read: Callable[[Config], dict[str, Any]]
    write: Callable[[TransformerSpec], dict[str, Any]] = lambda spec: {}
    optional: tuple[str, ...] = ()

    @property
    def keys(self) -> tuple[str, ...]:
        """The names of all entries."""
        return (*self.entries, *self.optional)


@dataclass(frozen=True)
class Part:
    """A weight that is part of a weight of the backbone.

    Attributes:
        path: path of the backbone's layer, or of its variables.
        view: returns the part of the backbone's array, as a view.
    """

    path: str
    view: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """A family of backbones.

    Attributes:
        backbone: class name in `keras_hub.models`.
        constants: spec fields that are constant in the family.
        fields: configuration entry -> spec field with the same value.
        layers: layer of a model here -> attribute of the backbone, which is a layer or a variable,
            or several of them, after spaces; `{i}` is the number of a block.
        rules: conversions of all other entries.
        required: entries that must have this value for the family.
        ignored: entries that this version of KerasHub ignores: the value that it assumes, and the
            spec fields that implement the entry.
        defaults: spec fields without an entry, which do not change the outputs at real tokens.
        computed: ends of the paths of weights that follow from the settings.
        target_start: tokens before a target: `start`, `padding`, or `end, start`.
    """

    backbone: str
    constants: Mapping[str, Any]
    fields: Mapping[str, str]
    layers: Mapping[str, str | Part]
    rules: tuple[Rule, ...] = ()
    required: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, tuple[Any, tuple[str, ...]]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    computed: tuple[str, ...] = ()
    target_start: str = "start"

    def spec(self, config: Config) -> TransformerSpec:
        """Return the spec of a backbone of this configuration."""
        fields = {**self.defaults, **self.constants}
        fields |= {name: config[entry] for entry, name in self.fields.items()}
        for rule in self.rules:
            fields |= rule.read(config)
        return TransformerSpec(**fields)

    def config(self, spec: TransformerSpec) -> dict[str, Any]:
        """Return the configuration of a backbone for a spec; it may compute something else."""
        config = {**self.required, **{entry: value for entry, (value, _) in self.ignored.items()}}
        config |= {entry: getattr(spec, name) for entry, name in self.fields.items()}
        for rule in self.rules:
            config |= rule.write(spec)
        return config

    @property
    def entries(self) -> set[str]:
        """The known configuration entries."""
        of_rules = [name for rule in self.rules for name in rule.entries]
        return {*self.fields, *self.required, *self.ignored, *of_rules}


# Entries, rules and layers that several families share

SIZES = {
    name: name
    for name in ("vocabulary_size", "num_layers", "num_heads", "hidden_dim", "intermediate_dim")
}

SIZES_AND_LENGTH = {**SIZES, "max_sequence_length": "max_sequence_length"}

# Backbones whose dropout is in other places than any spec's; only a rate of zero is the same.
NO_DROPOUT = {"dropout": 0}


def dropout(*places: str) -> Rule:
    """Return the rule of an entry `dropout` that is the rate in several places."""
    return Rule(
        ("dropout",),
        lambda config: dict.fromkeys(("dropout", *places), config["dropout"]),
        lambda spec: {"dropout": spec.dropout},
    )


EVERYWHERE = dropout("attention_dropout", "embedding_dropout")


def unpadded(length: int) -> dict[str, Any]:
    """Return the defaults of a backbone without padding token and maximum length."""
    return {"max_sequence_length": length, "pad_token_id": None}


def attention_layers(ours: str, theirs: str, pattern: str = "_{role}_dense") -> dict[str, str]:
    """Return the four projections of an attention layer -> the attributes of the backbone."""
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
