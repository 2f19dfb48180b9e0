"""Rules that several families share: activations, padding, rotary positions and windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from builders import TransformerSpec
from functional_models.conversion.family import Config, Rule

SIZES: Mapping[str, str] = {
    "vocab_size": "vocabulary_size",
    "hidden_size": "hidden_dim",
    "num_hidden_layers": "num_layers",
    "num_attention_heads": "num_heads",
    "max_position_embeddings": "max_sequence_length",
    "attention_dropout": "attention_dropout",
    "tie_word_embeddings": "tie_embeddings",
}
"""Keys that most families name alike -> spec fields."""


def without(entries: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """Return the entries but for some, which a family reads otherwise or does not have."""
    return {key: value for key, value in entries.items() if key not in keys}


ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_python_tanh": "gelu_tanh",
    "gelu_accurate": "gelu_tanh",
    "quick_gelu": "gelu_sigmoid",
    "relu": "relu",
    "relu2": "relu_squared",
    "silu": "silu",
    "swish": "silu",
}
"""Name in Hugging Face -> name in a spec."""

_WRITTEN_ACTIVATIONS = {
    "relu": "relu",
    "gelu": "gelu",
    "gelu_tanh": "gelu_new",
    "silu": "silu",
    "gelu_sigmoid": "quick_gelu",
    "relu_squared": "relu2",
}


def activation_named(key: str, name: Any) -> str:
    """Return the activation of a spec.

    Raises:
        ValueError: a spec has none of that name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(
            f"{key}={name!r}: no activation of a spec; allowed: {', '.join(ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def written_activation(spec: TransformerSpec) -> str:
    """Return the name of the activation of a spec in Hugging Face; its own, if it has none."""
    return _WRITTEN_ACTIVATIONS.get(spec.activation, spec.activation)


def activation(key: str) -> Rule:
    """Return the rule of the activation of the feed-forward layers."""
    return Rule(
        (key,),
        lambda config: {"activation": activation_named(key, config[key])},
        lambda spec: {key: written_activation(spec)},
    )


def derived(
    key: str,
    name: str,
    value: Callable[[Any], Any],
    written: Callable[[TransformerSpec], Any],
) -> Rule:
    """Return the rule of a key whose value, converted, is that of a spec field."""
    return Rule(
        (key,), lambda config: {name: value(config[key])}, lambda spec: {key: written(spec)}
    )


def several(key: str, *names: str) -> Rule:
    """Return the rule of a key that is the value of several spec fields."""
    return Rule(
        (key,),
        lambda config: dict.fromkeys(names, config[key]),
        lambda spec: {key: getattr(spec, names[0])},
    )


def is_token(value: Any, vocabulary_size: Any) -> bool:
    """Return whether a value is a token id; -1 and ids beyond the vocabulary stand for none."""
    return isinstance(value, int) and 0 <= value < vocabulary_size


def _read_decoder_padding(config: Config) -> dict[str, Any]:
    pad = config["pad_token_id"]
    others: list[Any] = [config["bos_token_id"]]
    ends = config["eos_token_id"]
    others += ends if isinstance(ends, list) else [ends]
    real = not is_token(pad, config["vocab_size"]) or pad in others
    return {"pad_token_id": None if real else pad}


# A padding token that also starts or ends texts is a real token, which must not be masked.
def _written_padding(spec: TransformerSpec) -> dict[str, Any]:
    return {"pad_token_id": spec.pad_token_id}


DECODER_PADDING = Rule(
    ("pad_token_id",),
    _read_decoder_padding,
    _written_padding,
    optional=("bos_token_id", "eos_token_id"),
)

PADDING = Rule(
    ("pad_token_id",),
    lambda config: {
        "pad_token_id": config["pad_token_id"]
        if is_token(config["pad_token_id"], config["vocab_size"])
        else None
    },
    _written_padding,
)


def equal(first: str, second: str, name: str) -> Rule:
    """Return the rule of two keys, of which a spec has one value.

    Raises:
        ValueError: when read, if they differ.
    """

    def read(config: Config) -> dict[str, Any]:
        if config[first] != config[second]:
            raise ValueError(
                f"{first}={config[first]!r} and {second}={config[second]!r}: a spec has one "
                f"{name} for both stacks"
            )
        return {name: config[first]}

    return Rule(
        (first, second), read, lambda spec: dict.fromkeys((first, second), getattr(spec, name))
    )


# Rotary positions -------------------------------------------------------------------------------

FREQUENCIES = {r"rotary_emb\.inv_freq": "rotary frequencies, which follow from the settings"}
"""Tensors of old folders that are not read."""

_SCALINGS: dict[str, dict[str, str]] = {
    "default": {},
    "linear": {"factor": "rotary_factor"},
    "llama3": {
        "factor": "rotary_factor",
        "low_freq_factor": "rotary_low_freq_factor",
        "high_freq_factor": "rotary_high_freq_factor",
        "original_max_position_embeddings": "rotary_original_length",
    },
    "yarn": {
        "factor": "rotary_factor",
        "beta_slow": "rotary_low_freq_factor",
        "beta_fast": "rotary_high_freq_factor",
        "original_max_position_embeddings": "rotary_original_length",
        "truncate": "rotary_whole_pairs",
    },
}
_YARN_DEFAULTS = {
    "truncate": True,
    "beta_slow": 1,
    "beta_fast": 32,
    "original_max_position_embeddings": None,
}
_OMITTED = {"truncate": True}
"""Settings that are not written where they have this value, which old versions do not know."""

_FACTORS = ("factor", "beta_slow", "beta_fast")
"""Ends of the settings that are numbers and no lengths."""

_YARN_MAGNITUDE = ("attention_factor", "mscale", "mscale_all_dim")


def head_width(config: Config) -> int:
    """Return the width of a head, which is given or follows from the sizes."""
    width: int = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    return width


def rotary(
    base: float | None = 10_000.0,
    share: float = 1.0,
    bases: tuple[str, ...] = ("rope_theta",),
    shares: tuple[str, ...] = ("partial_rotary_factor",),
    kind: str = "rope_type",
    scales: bool = False,
) -> Rule:
    """Return the rule of rotary positions.

    Transformers 4 has `rope_scaling` and single keys, transformers 5 has `rope_parameters`.

    Args:
        base: base where no key has it; `None`: a key must.
        share: share of the channels of a head that are rotated, where no key has it; 1: always
            all of them.
        bases: keys of the base, which must agree; transformers reads the last one.
        shares: the same of the share.
        kind: key of the type of a scaling, where it is written.
        scales: whether a configuration without a scaling has one, which must then be given.
    """

    def read(config: Config) -> dict[str, Any]:
        name, given = rope_settings(config)
        if scales and not given:
            raise ValueError(
                "rope_scaling is missing, for which versions of transformers have other defaults; "
                'give it, or rope_parameters, such as {"rope_type": "default"}'
            )
        fraction = agreed(config, given, shares, share)
        if share == 1 and fraction != 1:
            raise ValueError(
                f"{shares[0]}={fraction!r}: must be 1, or absent; of this family, transformers 4 "
                "runs no such model, and 5 rotates all channels"
            )
        return {
            "rotary_base": agreed(config, given, bases, base),
            **({} if fraction == 1 else {"rotary_dim": int(head_width(config) * fraction)}),
            **rotary_scaling(name, given),
        }

    def write(spec: TransformerSpec) -> dict[str, Any]:
        scaling = written_scaling(spec, kind) or ({kind: "default"} if scales else None)
        keys = {bases[-1]: spec.rotary_base, "rope_scaling": scaling}
        fraction = spec.rotary_dim / spec.head_dim
        return keys if fraction == share == 1 else {**keys, shares[-1]: fraction}

    optional = (*bases, *shares, "rope_scaling", "rope_parameters")
    return Rule((), read, write, optional)


def written_scaling(spec: TransformerSpec, kind: str = "rope_type") -> dict[str, Any] | None:
    """Return the settings of the rotary scaling of a spec, if it has one; `kind` names its type."""
    names = _SCALINGS.get(spec.rotary_scaling)
    if not names:
        return None
    # Transformers warns of ints among the factors.
    scaling = {
        key: float(value) if key.endswith(_FACTORS) else value
        for key, name in names.items()
        for value in [getattr(spec, name)]
    }
    scaling = {key: value for key, value in scaling.items() if _OMITTED.get(key) != value}
    if spec.rotary_scaling == "yarn" and spec.rotary_magnitude is not None:
        scaling["attention_factor"] = float(spec.rotary_magnitude)
    return {kind: spec.rotary_scaling, **scaling}


def rotary_scaling(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a scaling from its settings, which must all be known.

    Args:
        name: the key of the settings.
        given: the settings, without base and share.
    """
    kind = rope_type(name, given)
    if kind not in _SCALINGS:
        raise ValueError(
            f"{name} has rope_type={kind!r}: no rotary_scaling of a spec; allowed: "
            f"{', '.join(_SCALINGS)}"
        )
    scaling = "none" if kind == "default" else kind
    return {"rotary_scaling": scaling, **_scaling_fields(name, kind, given)}


def _scaling_fields(name: str, kind: str, given: dict[str, Any]) -> dict[str, Any]:
    magnitude: dict[str, Any] = {}
    if kind == "yarn":
        magnitude = _yarn_magnitude(name, given)
        given = {**_YARN_DEFAULTS, **{k: v for k, v in given.items() if v is not None}}
    names = _SCALINGS[kind]
    for key in names.keys() - given.keys():
        raise ValueError(f"{name} has no {key}, which rope_type={kind!r} needs")
    for key in given.keys() - names.keys():
        raise ValueError(
            f"{name} has {key}={given[key]!r}, of unknown meaning for rope_type={kind!r}; remove "
            "it, if it says nothing about the outputs"
        )
    return {names[key]: value for key, value in given.items()} | magnitude


def settings_of(name: str, value: Any) -> dict[str, Any]:
    """Return a copy of the settings that a key has, by name; none where it is null.

    Raises:
        ValueError: it has something else.
    """
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{name}={value!r}: cannot be read; it must be settings by name, or null")
    return dict(value or {})


def agreed(config: Config, given: dict[str, Any], keys: tuple[str, ...], default: Any) -> Any:
    """Return the value of several keys, which may also be among the rotary settings.

    Of a configuration, transformers reads the last key alone; it writes the others beside it.
    """
    ignored = [key for key in keys[:-1] if config[key] not in (None, default)]
    if ignored and config[keys[-1]] is None and given.keys().isdisjoint(keys):
        raise ValueError(
            f"{ignored[0]}={config[ignored[0]]!r} without {keys[-1]}, which transformers reads in "
            f"its place; give {keys[-1]}"
        )
    values = [(key, config[key]) for key in keys] + [(key, given.pop(key, None)) for key in keys]
    found: dict[Any, str] = {}
    for key, value in values:
        if value is not None:
            found.setdefault(value, key)
    if len(found) > 1:
        shown = " and ".join(f"{key}={value!r}" for value, key in found.items())
        raise ValueError(f"{shown}: given with two values; remove one of them")
    if not found and default is None:
        raise ValueError(
            f"{keys[0]} is missing, also in rope_parameters, and versions of transformers disagree "
            "on its default; give it"
        )
    return next(iter(found), default)


def rope_settings(config: Config) -> tuple[str, dict[str, Any]]:
    """Return the key of the settings and a copy of them."""
    scaling, parameters = config["rope_scaling"], config["rope_parameters"]
    if scaling is not None and parameters is not None:
        raise ValueError(
            f"rope_scaling={scaling!r} and rope_parameters={parameters!r}: remove one of them"
        )
    name = "rope_scaling" if parameters is None else "rope_parameters"
    return name, settings_of(name, config[name])


def rope_type(name: str, given: dict[str, Any]) -> str:
    """Remove the type of scaling from the settings, which have the key `name`, and return it."""
    kinds = {given.pop("rope_type", None), given.pop("type", None)} - {None}
    if len(kinds) > 1:
        raise ValueError(f"{name} has two types, {' and '.join(sorted(map(str, kinds)))}")
    return next(iter(kinds), "default")


def _yarn_magnitude(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Remove the settings of the magnitude; return its field, if it is not that of the paper."""
    values = {key: given.pop(key, None) for key in _YARN_MAGNITUDE}
    factor = given.get("factor")
    if factor is None:
        raise ValueError(f"{name} has no factor, which rope_type='yarn' needs")
    found, over, under = values.values()
    if found is None and over and under:
        found = _magnitude(factor, over) / _magnitude(factor, under)
    if found is None or math.isclose(found, _magnitude(factor, 1), rel_tol=1e-6):
        return {}
    return {"rotary_magnitude": found}


def _magnitude(factor: float, scale: float) -> float:
    return 0.1 * scale * math.log(factor) + 1 if factor > 1 else 1.0
