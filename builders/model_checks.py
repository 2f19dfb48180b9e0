"""Check that a spec is the one that a model was built from."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import keras

from builders.models import build
from builders.spec import TransformerSpec

_checked: WeakKeyDictionary[keras.Model, set[TransformerSpec]] = WeakKeyDictionary()

# Properties of weights, not of the computation, and those that depend on what is done to a model.
_NOT_COMPARED = ("name", "dtype", "trainable", "seed", "build_config", "lora", "quantization")


def check_spec_of_model(model: keras.Model, spec: TransformerSpec) -> None:
    """Check that a spec describes a model: the same layers with the same options and connections.

    Initializers, precision, LoRA and quantization may differ.

    Raises:
        TypeError: no Keras model, or no spec.
        ValueError: naming the first layer that differs.
    """
    if not isinstance(spec, TransformerSpec):
        raise TypeError(
            f"expected the TransformerSpec that the model was built from, not {spec!r:.40}; "
            "for a variant give builders.variant(name)"
        )
    if not isinstance(model, keras.Model):
        advice = "; give its attribute model" if hasattr(model, "model") else ""
        raise TypeError(f"expected a Keras model, not {type(model).__name__}{advice}")
    known = _checked.setdefault(model, set())
    if spec in known:
        return
    state = random.getstate()  # Keras draws the seeds of new layers from it
    expected = _calls(build(spec, abstract=True))
    random.setstate(state)
    calls = _calls(model)
    for differences in (_missing, _other_options, _other_inputs):
        for name, difference in differences(expected, calls):
            raise ValueError(
                f"the spec does not describe the model {model.name!r}: {name} {difference}; "
                "use the spec that the model was built from"
            )
    known.add(spec)


@dataclass(frozen=True)
class _Call:
    """A call of a layer, and the names of the layers whose outputs it takes."""

    layer: Any
    inputs: tuple[str, ...]


_Calls = dict[str, list[_Call]]
"""The calls of a model by the name of their layer."""


def _missing(expected: _Calls, found: _Calls) -> Iterator[tuple[str, str]]:
    for name in sorted(expected.keys() - found.keys()):
        yield name, "is missing in the model"
    for name in sorted(found.keys() - expected.keys()):
        yield name, "is missing in the spec"


def _other_options(expected: _Calls, found: _Calls) -> Iterator[tuple[str, str]]:
    for name, ((wanted, *_), (own, *_)) in _pairs(expected, found):
        classes = type(wanted.layer).__name__, type(own.layer).__name__
        if classes[0] != classes[1]:
            yield name, f"is a {classes[0]} in the spec and a {classes[1]} in the model"
        options, own_options = dict(_options(wanted.layer)), dict(_options(own.layer))
        for key in options:
            if key in own_options and options[key] != own_options[key]:
                values = f"{key}={options[key]!r} in the spec and {key}={own_options[key]!r}"
                yield name, f"has {values} in the model"


def _other_inputs(expected: _Calls, found: _Calls) -> Iterator[tuple[str, str]]:
    for name, (wanted, own) in _pairs(expected, found):
        inputs, own_inputs = ([", ".join(call.inputs) for call in calls] for calls in (wanted, own))
        if inputs != own_inputs:
            taken = f"{'; '.join(inputs)} in the spec and {'; '.join(own_inputs)} in the model"
            yield name, f"takes {taken}"


def _pairs(
    expected: _Calls, found: _Calls
) -> Iterator[tuple[str, tuple[list[_Call], list[_Call]]]]:
    return ((name, (calls, found[name])) for name, calls in expected.items())


def _options(layer: Any) -> Iterator[tuple[str, Any]]:
    """Yield the options of a layer that its computation depends on."""
    try:
        config = layer.get_config()
    except TypeError:  # such as an activation that cannot be serialized
        return
    for name, value in sorted(config.items()):
        if not name.endswith("_initializer") and not name.startswith(_NOT_COMPARED):
            if isinstance(value, dict):  # a registered function or object
                value = value.get("registered_name") or value.get("config")
            yield name, list(value) if isinstance(value, tuple) else value


def _calls(model: keras.Model) -> _Calls:
    """Return the calls of a model, traced back from its outputs."""
    found: _Calls = {}
    seen = set()
    waiting = list(reversed(model.outputs))
    while waiting:
        layer, index, _ = waiting.pop()._keras_history
        node = layer._inbound_nodes[index]
        if id(node) not in seen:
            seen.add(id(node))
            inputs = tuple(tensor._keras_history[0].name for tensor in node.input_tensors)
            found.setdefault(layer.name, []).append(_Call(layer, inputs))
            waiting += reversed(node.input_tensors)
    return found
