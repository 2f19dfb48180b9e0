"""Families of Hugging Face models: tables that account for every key and every tensor.

A table has the spec fields that are constant in a family, the keys of `config.json` that correspond
to other fields, and the tensors of each layer of a model here. A key is used, must have a certain
value, or says nothing about the outputs, for a stated reason; any other key is refused.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from builders import TransformerSpec
from builders.errors import similar_names
from builders.fields import check_value
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.block_types import BLOCKS, merged
from functional_models.hugging_face.silent import REQUIRED, SILENT

Read = Callable[[str], np.ndarray]
"""Returns a tensor by name, without the family's prefix."""


@dataclass(frozen=True)
class Place:
    """The tensors of a layer's weights.

    Attributes:
        weight: name of the tensor of a kernel, an embedding or the scale of a norm.
        bias: name of the tensor of the bias; empty where it is zero and not stored.
        part: returns the part of both that is the layer's, outputs first; `None`: all.
        inputs_first: whether a kernel is stored as (inputs, outputs), and not transposed as by
            `torch.nn.Linear`.
        by_head: whether the scale of a norm is stored as (heads, head_dim), and is a vector here.
        of_experts: whether kernels and biases are those of all experts of a mixture, (e, inputs,
            outputs) and (e, outputs) with `inputs_first`.
        by_channel: whether a kernel is stored as that of a convolution of single channels,
            (channels, 1, width).
    """

    weight: str
    bias: str = ""
    part: Callable[[np.ndarray, TransformerSpec], np.ndarray] | None = None
    inputs_first: bool = False
    by_head: bool = False
    of_experts: bool = False
    by_channel: bool = False

    def tensor(self, variable: str) -> str:
        """Return the name of the tensor of a variable of the layer; "" if it is not stored."""
        return self.bias if variable in ("bias", "beta") else self.weight


@dataclass(frozen=True)
class OfExperts:
    """The tensors of the kernels of a mixture, one for each expert, outputs first.

    Attributes:
        weight: name of the tensor of a kernel; `{e}` is the number of the expert.
        stack: name of the tensor that has the kernels of all experts instead, where transformers 5
            saves its own layout.
        half: number of the half of the outputs in that tensor that is the layer's; `None`: all.
    """

    weight: str
    stack: str = ""
    half: int | None = None


@dataclass(frozen=True)
class Computed:
    """A weight that is computed from several tensors, or from the spec alone.

    Attributes:
        read: returns the weight.
        write: weight -> the tensors that it is computed from; raises a ValueError if there are none
            for it.
    """

    read: Callable[[Read, TransformerSpec], np.ndarray]
    write: Callable[[np.ndarray, TransformerSpec], dict[str, np.ndarray]]


Layers = Mapping[str, str | Place | OfExperts | Computed]


def place_of(layers: Layers, layer: str) -> Place | OfExperts | Computed | None:
    """Return the place of a layer: that of its block, or of the layers of this name in all."""
    place = layers.get(layer) or layers.get(re.sub(r"block_\d+", "block_{i}", layer))
    return Place(f"{place}.weight", f"{place}.bias") if isinstance(place, str) else place


class StoredTensors(Protocol):
    """The tensors of a folder, before they are assigned."""

    def find(self, name: str) -> np.ndarray | None:
        """Return a tensor, or `None` if it is not stored."""

    def differ(self, first: str, second: str) -> bool:
        """Return whether both tensors are stored, with other values."""


NEEDS_TIED: Mapping[str, Any] = {"tie_embeddings": True}
"""Fields of a class without a head, whose logits are those of the embedding."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A family of models.

    Attributes:
        model_types: values of `model_type`.
        heads: class in `architectures` -> the spec fields of its head, which must agree with those
            of the configuration. With `NEEDS_TIED`, the class has no head of its own.
        constants: spec fields that are constant in the family.
        fields: key -> spec field with the same value.
        rules: conversions of other keys.
        defaults: key -> value where the key is absent; a used key that is not here must be given.
        required: key -> the values that it may have, besides being absent.
        never_null: keys that may be absent but not null, which means something else.
        silent: key -> why it says nothing about the outputs.
        aliases: other name of a key -> the key.
        layers: layer of a model here -> name of its tensors without `.weight` and `.bias`; `{i}` is
            the number of a block. A block may have entries of its own. May be a function of the
            spec and the configuration.
        prefix: before the names of all tensors but those of heads; a class without a head omits it.
        renamed: part of the names of stored tensors -> what `layers` has in its place.
        tied: groups of tensors of equal values, of which one may stand for the others.
        computed: tensor -> what it must equal, if it is stored.
        unread: end of a tensor's name -> why it is not read.
        left_out: tensor -> what it is; a warning says that it is not read.
        later_tokens: tensor of a block after the last one that shows that it predicts later tokens;
            the tensors of this block are not read.
        stored: spec fields that follow from the stored tensors and the fields of the configuration.
    """

    model_types: tuple[str, ...]
    heads: Mapping[str, Mapping[str, Any]]
    constants: Mapping[str, Any]
    fields: Mapping[str, str]
    layers: Layers | Callable[[TransformerSpec, Config], Layers]
    rules: tuple[Rule, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    never_null: tuple[str, ...] = ()
    silent: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    renamed: Mapping[str, str] = field(default_factory=dict)
    tied: tuple[tuple[str, ...], ...] = ()
    computed: Mapping[str, Callable[[TransformerSpec], np.ndarray]] = field(default_factory=dict)
    unread: Mapping[str, str] = field(default_factory=dict)
    left_out: Mapping[str, str] = field(default_factory=dict)
    later_tokens: str = ""
    stored: Callable[[StoredTensors, Mapping[str, Any]], dict[str, Any]] | None = None

    @property
    def used(self) -> set[str]:
        """The keys that determine spec fields."""
        entries = (key for rule in self.rules for key in rule.entries)
        return {*self.fields, *entries, *self._optional}

    def layers_of(self, spec: TransformerSpec, config: Config) -> Layers:
        """Return the tensors of the layers of the model of a spec and its configuration."""
        if not callable(self.layers):
            return self.layers
        return self.layers(spec, self._completed(self._renamed(config)))

    def reason(self, key: str) -> str | None:
        """Return why a key says nothing about the outputs; `None` if that is not known."""
        return self.silent.get(key) or SILENT.get(key)

    def spec_fields(self, config: Config, head: str) -> dict[str, Any]:
        """Return the spec fields of a configuration, with those of a class of `heads`.

        Raises:
            ValueError: a key is unknown or missing, or has a value that no spec expresses.
        """
        config = self._renamed(config)
        self._check_keys(config)
        given = {**self._completed(config), "architectures": [head]}
        if missing := sorted(self.used - given.keys()):
            raise ValueError(
                f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; "
                f"{self.model_types[0]} needs it: take the config.json that belongs to the weights"
            )
        plain = {name: given[key] for key, name in self.fields.items()}
        self._check_plain(plain)  # rules count blocks, of which there may not be too many
        fields = {**self.constants, **plain}
        found = [_read(rule, given) for rule in self.rules]
        blocks = [own.pop(BLOCKS) for own in found if BLOCKS in own]
        for own in (*found, merged(blocks)):
            fields |= own
        for name, value in self.heads[head].items():
            if fields.setdefault(name, value) != value:
                keys = "".join(f"{key}: " for key in self.keys_of(name, config)[:1])
                raise ValueError(keys + self._other_head(head, name, value, fields[name]))
        return fields

    def _check_plain(self, fields: Mapping[str, Any]) -> None:
        """Check the values of spec fields that are those of single keys."""
        keys = {name: key for key, name in self.fields.items()}
        for one in dataclasses.fields(TransformerSpec):
            if one.name not in fields:
                continue
            try:
                check_value(one, fields[one.name])
            except ValueError as error:
                key = keys[one.name]
                raise ValueError(f"{key}: {error}" if key != one.name else str(error)) from None

    def keys_of(self, name: str, config: Config) -> list[str]:
        """Return the keys of a configuration that determine a spec field of another name."""
        same = [key for key, field in self.fields.items() if field == name]
        if same:
            return [key for key in same if key != name]
        given = self._completed(self._renamed(config))
        keys = [key for rule in self.rules if name in _names(rule.read(given)) for key in rule.keys]
        return [key for key in dict.fromkeys(keys) if key in config and key != name]

    def _other_head(self, head: str, name: str, value: Any, given: Any) -> str:
        if self.heads[head] is NEEDS_TIED:
            return (
                f"{head} has no logits, since its embeddings are not tied; save the "
                f"{next(iter(self.heads))} of this model instead"
            )
        return (
            f"the head of {head} has {name}={value!r} and its blocks {given!r}; a spec has one "
            "value of both: save the model without its head"
        )

    def _renamed(self, config: Config) -> Config:
        """Return a configuration without other names of keys."""
        found = {key: value for key, value in config.items() if key not in self.aliases}
        for alias in config.keys() & self.aliases.keys():
            key = self.aliases[alias]
            if found.setdefault(key, config[alias]) != config[alias]:
                raise ValueError(
                    f"{alias}={config[alias]!r} and {key}={found[key]!r}: two names of one "
                    "setting; remove one of them"
                )
        return found

    def _completed(self, config: Config) -> dict[str, Any]:
        found = {**dict.fromkeys(self._optional), **self.defaults, **config}
        # transformers asks for the truth of a switch, and that of null is False; a spec may mean
        # its own default by None.
        off = (key for key, value in self.defaults.items() if isinstance(value, bool))
        return found | {key: False for key in off if found[key] is None}

    @property
    def _optional(self) -> set[str]:
        """Keys of rules that may be absent without a default."""
        return {key for rule in self.rules for key in rule.optional}

    def config(self, spec: TransformerSpec) -> dict[str, Any]:
        """Return the configuration of a model of this family for a spec.

        It may compute something else: read it again to find out.
        """
        config = {key: getattr(spec, name) for key, name in self.fields.items()}
        for rule in self.rules:
            config |= rule.write(spec)
        return config

    def _check_keys(self, config: Config) -> None:
        required = {**REQUIRED, **self.required}
        for key, allowed in required.items():
            if key in config and config[key] not in allowed:
                shown = " or ".join(map(repr, allowed))
                raise ValueError(
                    f"{key}={config[key]!r}: must be {shown}, or absent; no spec "
                    f"of {self.model_types[0]} expresses another value"
                )
        for key in self.never_null:
            if key in config and config[key] is None:
                raise ValueError(
                    f"{key}=None: must have a value, or be absent; null means something else "
                    "than that, in some version of transformers"
                )
        known = {*self.used, *required, *self.silent, *SILENT, "model_type", "architectures"}
        if unknown := [key for key in config if key not in known]:
            key = unknown[0]
            hint = similar_names(key, self.used)
            more = f", as have {', '.join(unknown[1:6])}" if len(unknown) > 1 else ""
            raise ValueError(
                f"{key}={config[key]!r} has an unknown meaning in {self.model_types[0]}"
                + (f" (is {hint[0]} meant?)" if hint else "")
                + f"{more}; no key is ignored: remove it, if it says nothing about the outputs"
            )


def _names(found: Mapping[str, Any]) -> set[str]:
    """Return the names of the fields that a rule returned, also of single blocks."""
    return {*found, *(name for block in found.get(BLOCKS, ()) for name in block)}


def _read(rule: Rule, given: Config) -> dict[str, Any]:
    """Return the fields of a rule; any error names the keys."""
    try:
        return rule.read(given)
    except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
        if isinstance(error, ValueError) and any(key in str(error) for key in given):
            raise
        known = [key for key in rule.keys if key in rule.entries or given[key] is not None]
        shown = ", ".join(f"{key}={given[key]!r}" for key in known)
        raise ValueError(f"{shown}: cannot be read ({error})") from None
