"""What a family of backbones of keras-nlp is: one row of data, read in both directions.

A row says which spec fields all of a family have, which entries of the backbone's configuration
say what other fields say, and by which attribute of the backbone each of our layers is found.
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
    """Entries of a configuration that together say what some spec fields say.

    Attributes:
        names: of the entries.
        read: the configuration -> spec fields.
        write: a spec -> the entries.
    """

    names: tuple[str, ...]
    read: Callable[[Config], dict[str, Any]]
    write: Callable[[TransformerSpec], dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """Where a weight of ours is inside one of theirs.

    Attributes:
        path: of their layer.
        view: gives, of an array of theirs, the view that is ours.
    """

    path: str
    view: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Family:
    """One kind of backbone.

    Attributes:
        backbone: its class in `keras_hub.models`.
        same: spec fields that all of the family have.
        names: entry of the configuration -> spec field of the same value.
        layers: our layer -> the attribute that is theirs; `{i}` is the number of a block. What
            theirs is called there may also be a single variable.
        rules: for entries that are no plain values of a field.
        where: entries that have this value; others are of another family, or of none.
        ignored: entries that this keras-nlp does not apply: as what value it computes, and the
            spec fields by which ours can do what they ask for.
        defaults: spec fields of which the configuration says nothing, and which change no number
            at the tokens of a text.
        target_start: what comes before a target: the token `start`, `padding`, or `end, start`.
    """

    backbone: str
    same: Mapping[str, Any]
    names: Mapping[str, str]
    layers: Mapping[str, str | Part]
    rules: tuple[Rule, ...] = ()
    where: Mapping[str, Any] = field(default_factory=dict)
    ignored: Mapping[str, tuple[Any, tuple[str, ...]]] = field(default_factory=dict)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    target_start: str = "start"

    def spec(self, config: Config) -> TransformerSpec:
        """Return the spec of a backbone of this configuration."""
        fields = {**self.defaults, **self.same}
        fields |= {name: config[entry] for entry, name in self.names.items()}
        for rule in self.rules:
            fields |= rule.read(config)
        return TransformerSpec(**fields)

    def config(self, spec: TransformerSpec) -> dict[str, Any]:
        """Return the configuration of a backbone that computes a spec, if one can."""
        config = {**self.where, **{entry: value for entry, (value, _) in self.ignored.items()}}
        config |= {entry: getattr(spec, name) for entry, name in self.names.items()}
        for rule in self.rules:
            config |= rule.write(spec)
        return config

    @property
    def entries(self) -> set[str]:
        """The entries of a configuration that are known here."""
        of_rules = [name for rule in self.rules for name in rule.names]
        return {*self.names, *self.where, *self.ignored, *of_rules}
