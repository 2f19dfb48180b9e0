"""LoRA: low-rank adapters of chosen layers, and which layers of a model train.

An adapter adds (alpha / rank) a b to a frozen kernel, with a of rank columns that starts at random
and b of as many rows that starts at zero (Hu et al. 2022, "LoRA", section 4.1). The layers compute
it themselves, by `enable_lora` of Keras, so that every graph of the layers has it too.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import keras
import numpy as np
from keras import ops

from functional_models.checks import check_count
from functional_models.compiled import to_numpy

QUERY_AND_VALUE = ("*attention.query", "*attention.value")
"""The layers that Hu et al. adapt (section 4.2)."""

_MOST_SHOWN = 6

_frozen: WeakKeyDictionary[keras.Model, list[keras.Variable]] = WeakKeyDictionary()
"""The variables of models that LoRA has frozen."""


def enable_lora(
    model: keras.Model,
    rank: int,
    layers: str | Sequence[str] = QUERY_AND_VALUE,
    alpha: float | None = None,
) -> list[str]:
    """Add adapters to layers of a model and freeze everything else; return the layers' names.

    Args:
        model: a model without adapters.
        rank: of the adapters.
        layers: patterns of names, in which `*` is anything.
        alpha: see the module docstring; by default the rank.

    Raises:
        ValueError: a `rank` below 1, an `alpha` that is not above 0, a pattern without any layer
            that can have an adapter, or a model that has adapters.
    """
    check_count("rank", rank)
    is_number = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if alpha is not None and not (is_number and 0 < alpha < float("inf")):
        raise ValueError(f"alpha={alpha!r}: must be a number above 0")
    if adapted_layers(model):
        raise ValueError("the model has LoRA already; merge_lora first")
    chosen = matching(filter(_can_adapt, model.layers), layers, "with a kernel for LoRA")
    for layer in chosen:
        names = "kernel_constraint", "embeddings_constraint"
        if any(getattr(layer, name, None) is not None for name in names):
            raise ValueError(
                f"{layer.name} has a constraint on its kernel, and can have no LoRA; leave it out "
                "of layers"
            )
    _adapt(model, [(layer, rank, alpha) for layer in chosen])
    return [layer.name for layer in chosen]


def _adapt(model: keras.Model, adapters: Sequence[tuple[Any, int, float | None]]) -> None:
    """Add adapters to layers, each with its rank and alpha, and freeze everything else."""
    _frozen[model] = model.trainable_variables
    for variable in _frozen[model]:
        variable.trainable = False
    for layer, rank, alpha in adapters:
        layer.enable_lora(rank, lora_alpha=alpha)
    forget_compiled(model)


def merge_lora(model: keras.Model) -> None:
    """Add the adapters of a model to its kernels, remove them, and let all weights train again.

    Raises:
        ValueError: the model has no adapters.
    """
    layers = adapted_layers(model)
    if not layers:
        raise ValueError("the model has no LoRA to merge; use enable_lora first")
    for layer in layers:
        a, b = _adapter(layer)
        base = _base(layer)
        change = layer.lora_alpha / layer.lora_rank * ops.matmul(a, b)
        base.assign(ops.cast(ops.cast(base, "float32") + change, base.dtype))
        base.trainable = True
        layer.lora_enabled, layer.lora_rank, layer.lora_alpha = False, None, None
        for name in _names(layer):
            layer._untrack_variable(getattr(layer, name))
            setattr(layer, name, None)
    for variable in _frozen.pop(model, []):
        variable.trainable = True
    forget_compiled(model)


def freeze(model: keras.Model, layers: str | Sequence[str]) -> list[str]:
    """Let layers whose names match not train, and all others train; return the names.

    Args:
        model: a model without adapters.
        layers: patterns of names, in which `*` is anything; none at all: every layer trains.

    Raises:
        ValueError: a pattern without a layer with weights, no layer is left to train, or a model
            that has adapters.
    """
    if adapted_layers(model):
        raise ValueError("the model has LoRA, which trains its adapters alone; merge_lora first")
    with_weights = [layer for layer in model.layers if layer.weights]
    chosen = matching(with_weights, layers, "with weights") if layers else []
    if len(chosen) == len(with_weights):
        raise ValueError(f"layers={layers!r}: match every layer with weights; leave some to train")
    for layer in with_weights:
        layer.trainable = layer not in chosen
    forget_compiled(model)
    return [layer.name for layer in chosen]


def matching(
    candidates: Any, patterns: str | Sequence[str], what: str, argument: str = "layers"
) -> list[Any]:
    """Return the layers whose names match one of the patterns, in the order of the model.

    `argument` is the one that has the patterns.

    Raises:
        ValueError: a pattern that matches none.
    """
    layers = list(candidates)
    given = [patterns] if isinstance(patterns, str) else list(patterns)
    for pattern in given or ["()"]:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = [layer.name for layer in layers]
            more = f" and {len(names) - _MOST_SHOWN} more" if len(names) > _MOST_SHOWN else ""
            raise ValueError(
                f"{argument}={pattern!r}: matches no layer {what}; those are "
                f"{', '.join(names[:_MOST_SHOWN])}{more}"
            )
    return [x for x in layers if any(fnmatchcase(x.name, pattern) for pattern in given)]


def adapted_layers(model: keras.Model) -> list[Any]:
    """Return the layers of a model that have adapters."""
    return [layer for layer in model.layers if getattr(layer, "lora_enabled", False)]


def check_merged(model: keras.Model, function: str) -> None:
    """Check that a model has no adapters.

    Raises:
        ValueError: it has.
    """
    if adapted_layers(model):
        raise ValueError(f"{function} writes no LoRA: merge it into the weights with merge_lora()")


def forget_compiled(model: keras.Model) -> None:
    """Remove the compiled functions of a model, which know its former variables."""
    model.train_function = model.test_function = model.predict_function = None


@contextmanager
def without_adapters(model: keras.Model) -> Iterator[None]:
    """Let the layers of a model be those without adapters; they are kept."""
    layers = adapted_layers(model)
    ranks = [layer.lora_rank for layer in layers]
    for layer in layers:
        layer.lora_enabled, layer.lora_rank = False, None
    try:
        yield
    finally:
        for layer, rank in zip(layers, ranks, strict=True):
            layer.lora_enabled, layer.lora_rank = True, rank


def write_adapters(model: keras.Model, path: Path) -> None:
    """Write the adapters of a model to an .npz file."""
    layers = adapted_layers(model)
    about = {layer.name: [layer.lora_rank, layer.lora_alpha] for layer in layers}
    arrays = {
        f"{layer.name}/{part}": to_numpy(variable)
        for layer in layers
        for part, variable in zip("ab", _adapter(layer), strict=True)
    }
    np.savez(path, about=np.array(json.dumps(about)), **arrays)  # type: ignore[arg-type]


def read_adapters(model: keras.Model, path: Path) -> None:
    """Read adapters from a file of `write_adapters`; a model without adapters gets them.

    Raises:
        OSError, ValueError, KeyError: the file is damaged or of another model.
    """
    # NumPy does not close a file that it opened and cannot read.
    with path.open("rb") as file, np.load(file, allow_pickle=False) as saved:
        about = json.loads(str(saved["about"]))
        if not adapted_layers(model):
            _adapt(model, [(model.get_layer(name), *values) for name, values in about.items()])
        for layer in adapted_layers(model):
            for part, variable in zip("ab", _adapter(layer), strict=True):
                variable.assign(saved[f"{layer.name}/{part}"])


def _can_adapt(layer: Any) -> bool:
    kinds = keras.layers.Dense, keras.layers.EinsumDense, keras.layers.Embedding
    return isinstance(layer, kinds)


def _names(layer: Any) -> tuple[str, str]:
    """Return the names of the attributes a and b of a layer."""
    role = "embeddings" if isinstance(layer, keras.layers.Embedding) else "kernel"
    return f"lora_{role}_a", f"lora_{role}_b"


def _adapter(layer: Any) -> tuple[keras.Variable, keras.Variable]:
    first, second = _names(layer)
    return getattr(layer, first), getattr(layer, second)


def _base(layer: Any) -> keras.Variable:
    """Return the kernel of a layer without its adapter."""
    return layer._embeddings if isinstance(layer, keras.layers.Embedding) else layer._kernel
