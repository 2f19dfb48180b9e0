"""Changes of a `config.json`: every key removed, or with other values of its type."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

REMOVED = object()

# What no model reads.
_IDENTITY = ("architectures", "model_type", "transformers_version", "torch_dtype", "dtype")
_IDENTITY += ("is_encoder_decoder",)  # by which the inputs are made

_ACTIVATIONS = ("relu", "gelu", "gelu_new", "quick_gelu", "mish")
_WORDS = (
    *_ACTIVATIONS,
    *("gated-gelu", "gated-silu", "gated-relu"),
    *("absolute", "relative_key", "relative_key_query"),
    *("greedy", "group_limited_greedy", "noaux_tc", "softmax", "sigmoid"),
)
_TYPES = ("full_attention", "sliding_attention", "chunked_attention")


@dataclass(frozen=True)
class Change:
    """Another value of a key, which may be within other keys; `REMOVED` removes it."""

    path: tuple[str, ...]
    value: Any

    @property
    def keys(self) -> tuple[str, ...]:
        """The key, those that it is within, and those within its value."""
        return (*self.path, *(self.value if isinstance(self.value, dict) else ()))

    def apply(self, config: dict[str, Any]) -> None:
        *outer, last = self.path
        for key in outer:
            config = config[key]
        if self.value is REMOVED:
            del config[last]
        else:
            config[last] = copy.deepcopy(self.value)

    def __str__(self) -> str:
        key = ".".join(self.path)
        return f"no {key}" if self.value is REMOVED else f"{key}={self.value!r}"


def changes_of(config: dict[str, Any]) -> Iterator[Change]:
    """Return all changes of a configuration, but of keys that name the model."""
    for key, value in config.items():
        if key not in _IDENTITY:
            yield from _changes((key,), value, config)


def _changes(path: tuple[str, ...], value: Any, config: dict[str, Any]) -> Iterator[Change]:
    yield Change(path, REMOVED)
    tried = [value]
    for other in _others(path[-1], value, config):
        if not any(other is x or (other == x and type(other) is type(x)) for x in tried):
            tried.append(other)
            yield Change(path, other)
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _changes((*path, key), inner, config)


def _others(key: str, value: Any, config: dict[str, Any]) -> list[Any]:
    """Return other values of a key; transformers may refuse some."""
    if key.startswith("rope_") and (value is None or isinstance(value, dict)):
        return [None, *_rotary_settings(value or {}, config)]
    if key.endswith("token_id"):
        return [None, 0, 11, config["vocab_size"] - 1]
    if isinstance(value, bool):
        return [not value, None]
    if isinstance(value, int):
        return [value + 1, 2 * value, 1, None]
    if isinstance(value, float):
        return [value / 2 + 0.03, 2 * value + 1, 1.0, 0.0, None]
    if isinstance(value, str):
        return [*_WORDS, None]
    if isinstance(value, list):
        return [value[::-1], value[:-1], [], *_other_lists(value), None]
    return [] if isinstance(value, dict) else [True, 1, 2, 0.7, "relu"]


def _other_lists(value: list[Any]) -> list[list[Any]]:
    if all(isinstance(item, str) for item in value):
        return [[kind] * len(value) for kind in _TYPES]
    if all(isinstance(item, int) for item in value):
        return [[1 - item for item in value], [0] * len(value), [1] * len(value)]
    if all(isinstance(item, float) for item in value):
        return [[2 * item for item in value]]
    return []


def _rotary_settings(given: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]]:
    """Return rotary settings of every type; some without what the type needs."""
    if given and all(isinstance(value, dict) for value in given.values()):
        return []  # settings for each type of blocks, which are changed one at a time
    kept = {k: given[k] for k in ("rope_theta", "partial_rotary_factor") if k in given}
    length = {"original_max_position_embeddings": 7}
    bands = {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    found: list[dict[str, Any]] = [
        {"rope_type": "default"},
        {"rope_type": "linear", "factor": 2.5},
        {"type": "linear", "factor": 3},
        {"rope_type": "dynamic", "factor": 2.0},
        {"rope_type": "llama3", "factor": 8.0, **bands, **length},
        {"rope_type": "yarn", "factor": 4.0},
        {"rope_type": "yarn", "factor": 4.0, **length},
        {"rope_type": "yarn", "factor": 4.0, **length, "attention_factor": 1.3},
        {"rope_type": "yarn", "factor": 4.0, **length, "mscale": 0.7, "mscale_all_dim": 0.4},
        {"rope_type": "yarn", "factor": 4.0, **length, "beta_fast": 4, "beta_slow": 2},
        {"rope_type": "yarn", "factor": 4.0, **length, "truncate": False},
        {"rope_type": "longrope", "factor": 2.0, **length}
        | {"short_factor": [1.5] * 2, "long_factor": [2.5] * 2},
        {"rope_type": "proportional", "factor": 2.0},
        {"rope_theta": 77.0},
        {"rope_type": "linear", "factor": 2.0, "rope_theta": 77.0},
        {"rope_type": "default", "partial_rotary_factor": 0.5},
    ]
    return [{**kept, **settings} for settings in found]
