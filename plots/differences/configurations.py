"""In which entries two configurations of a layer differ, and how to say it on one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_BOOKKEEPING = ("build_config", "compile_config", "module", "shared_object_id")
"""What Keras writes into a serialised object besides what it is."""

_MOST_LETTERS = 60
_ABSENT = object()


def without_names(config: Any) -> Any:
    """A configuration without the names of layers inside of layers, which Keras counts up."""
    if isinstance(config, Mapping):
        inner = config["config"] if _is_object(config) else None
        if isinstance(inner, Mapping) and inner.keys() == {"name"}:
            return inner["name"]  # a dtype policy, which some layers give by its name
        dropped = set(_BOOKKEEPING) if _is_object(config) else set()
        if "trainable" in config:  # of a layer
            dropped.add("name")
        return {key: without_names(item) for key, item in config.items() if key not in dropped}
    return [without_names(item) for item in config] if isinstance(config, list | tuple) else config


def changed_entries(
    before: Mapping[str, Any], after: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    """Entries that differ, as (name, old, new) in words.

    An entry that is not there counts as None: newer releases of Keras write more of them.
    """
    if before == after:
        return
    old, new = without_names(before), without_names(after)
    for name in sorted({*old, *new}):
        if old.get(name) != new.get(name):
            words = _in_words(old.get(name), new.get(name))
            differ = words[0] != words[1]  # else they are cut short, or rounded
            yield name, *(words if differ else (repr(old.get(name)), repr(new.get(name))))


def _in_words(old: Any, new: Any) -> tuple[str, str]:
    """Two different values; of objects of one class only the arguments that differ."""
    if _is_object(old) and _is_object(new) and _class_of(old) == _class_of(new):
        arguments = old["config"], new["config"]
        if isinstance(arguments[0], Mapping) and isinstance(arguments[1], Mapping):
            differ = [
                key
                for key in sorted({*arguments[0], *arguments[1]})
                if arguments[0].get(key, _ABSENT) != arguments[1].get(key, _ABSENT)
            ]
            return _call(old, differ), _call(new, differ)
    return value_text(old), value_text(new)


def value_text(value: Any) -> str:
    """A value on one short line."""
    if _is_object(value):
        return _call(value, sorted(value["config"]) if isinstance(value["config"], dict) else [])
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    text = re.sub(r"\s+", " ", text)
    return text if len(text) <= _MOST_LETTERS else text[: _MOST_LETTERS - 3] + "..."


def _call(serialised: Mapping[str, Any], arguments: list[str]) -> str:
    """A serialised object as one would write it: "RandomNormal(stddev=0.02)"."""
    given = [
        f"{name}={value_text(serialised['config'][name])}"
        for name in arguments
        if serialised["config"].get(name) is not None
    ]
    name = _class_of(serialised).rpartition(">")[2]
    return f"{name}({', '.join(given)})" if given else name


def _is_object(value: Any) -> bool:
    """Whether Keras has serialised an object: its class and its configuration."""
    return isinstance(value, Mapping) and {"class_name", "config"} <= value.keys()


def _class_of(serialised: Mapping[str, Any]) -> str:
    """What it is, with the package that registered it: "my_package>swish"."""
    registered, inner = serialised.get("registered_name"), serialised["config"]
    if isinstance(inner, str) and registered in (None, "function"):
        return inner  # a function, such as an activation of one's own
    return str(registered or serialised["class_name"])
