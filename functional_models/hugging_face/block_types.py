"""Rules of blocks that differ: their types, windows, and what depends on the type.

A rule may return `BLOCKS`, a list of spec fields for each block, of which `merged` makes the fields
of a spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from builders import TransformerSpec
from functional_models.conversion.family import Config, Rule
from functional_models.hugging_face.rules import rotary_scaling, settings_of, written_scaling

BLOCKS = "blocks"
"""Key of the fields of every block, among the fields that a rule returns."""

FULL, SLIDING = "full_attention", "sliding_attention"

Fields = Mapping[str, Any]
Types = Callable[[Config], Sequence[str]]
"""Returns the type of every block of a configuration, `FULL` or `SLIDING`."""


def merged(rows: Sequence[Sequence[Fields]]) -> dict[str, Any]:
    """Return the spec fields of a model whose rules return these fields of every block.

    The most frequent values become those of the model, and others its `block_overrides`.
    """
    if not rows:
        return {}
    blocks = [{k: v for own in block for k, v in own.items()} for block in zip(*rows, strict=True)]
    common = max(blocks, key=blocks.count)
    overrides = [{k: v for k, v in block.items() if v != common[k]} for block in blocks]
    return {**common, "block_overrides": block_pattern(overrides)}


def block_pattern(overrides: Sequence[Fields]) -> tuple[Fields, ...]:
    """Return the shortest pattern whose repetition has these overrides of all blocks."""
    number = len(overrides)
    period = next(
        size
        for size in range(1, number + 1)
        if all(overrides[i] == overrides[i % size] for i in range(number))
    )
    pattern = tuple(overrides[:period])
    return pattern if any(pattern) else ()


def blocks_of(spec: TransformerSpec) -> tuple[TransformerSpec, ...]:
    """Return the specs of the blocks of the decoder, or of the only stack."""
    return spec.blocks(spec.stacks[-1])


# Types ------------------------------------------------------------------------------------------


def every(number: int, key: str = "", first: bool = False) -> Types:
    """Return the types of blocks: those of `layer_types`, or every n-th block has full attention.

    Args:
        number: n, where no key has it.
        key: the key of n.
        first: whether the first of n blocks has full attention, not the last.
    """

    def types(config: Config) -> Sequence[str]:
        blocks, given = config["num_hidden_layers"], config["layer_types"]
        if given is not None:
            return check_layer_types(given, blocks)
        period = number if config.get(key) is None else config[key]
        return [FULL if (i + (not first)) % period == 0 else SLIDING for i in range(blocks)]

    return types


def check_layer_types(types: Any, blocks: int) -> Sequence[str]:
    """Return the types of blocks, which must be one for each.

    Raises:
        ValueError: they are not.
    """
    if not isinstance(types, list) or len(types) != blocks:
        raise ValueError(f"layer_types={types!r}: must be a list of one type for {blocks} blocks")
    return types


def written_layer_types(spec: TransformerSpec) -> list[str]:
    """Return the types of the blocks of a spec."""
    return [FULL if window is None else SLIDING for window in spec.windows]


# Windows ----------------------------------------------------------------------------------------


def window_fields(types: Sequence[str], window: int | None) -> dict[str, Any]:
    """Return the fields of the windows of blocks.

    Args:
        types: `FULL` or `SLIDING` for each block.
        window: keys that a sliding block attends to.

    Raises:
        ValueError: another type, or no window for a sliding block.
    """
    if unknown := set(types) - {FULL, SLIDING}:
        raise ValueError(f"layer_types has {sorted(unknown)[0]!r}; allowed: {FULL}, {SLIDING}")
    if window is None and SLIDING in types:
        raise ValueError(f"layer_types has {SLIDING!r}, but sliding_window is null")
    return {BLOCKS: [{"attention_window": window if kind == SLIDING else None} for kind in types]}


def written_window(spec: TransformerSpec, default: int | None = 4096) -> int | None:
    """Return the window of the blocks of a spec that have one, or the default."""
    return next((window for window in spec.windows if window is not None), default)


def windows(types: Types, *optional: str) -> Rule:
    """Return the rule of `sliding_window`, which the blocks of type `SLIDING` have.

    Args:
        types: returns the types of the blocks.
        optional: the keys that it reads, besides `layer_types`.
    """
    return Rule(
        ("sliding_window",),
        lambda config: window_fields(types(config), config["sliding_window"]),
        lambda spec: {
            "sliding_window": written_window(spec),
            "layer_types": written_layer_types(spec),
        },
        optional=("layer_types", *optional),
    )


def positions_in_windows(types: Types) -> Rule:
    """Return the rule of rotary positions in the blocks of type `SLIDING` alone."""
    return Rule(
        (),
        lambda config: {
            BLOCKS: [
                {"positions": "rotary" if kind == SLIDING else "none"} for kind in types(config)
            ]
        },
    )


# Rotary positions -------------------------------------------------------------------------------


def rotary_by_type(
    types: Types,
    keys: Mapping[str, str],
    bases: Mapping[str, float | None],
    scaled: Sequence[str],
    repeat_parameters: bool = False,
) -> Rule:
    """Return the rule of rotary positions with settings for each type of blocks.

    Transformers 4 has a key of the base of each type, and `rope_scaling`; transformers 5 has the
    settings of each type in `rope_parameters`.

    Args:
        types: returns the types of the blocks.
        keys: type -> key of its base.
        bases: type -> base where no key has it; `None`: a key must.
        scaled: types that `rope_scaling` applies to.
        repeat_parameters: whether both spellings are written, for transformers 5 that misreads the
            older one.
    """

    def of_type(config: Config, kind: str) -> dict[str, Any]:
        scaling, parameters = config["rope_scaling"], config["rope_parameters"]
        if parameters is None:
            own = settings_of("rope_scaling", scaling) if kind in scaled else {}
            return _of_type(config, "rope_scaling", own, keys[kind], bases[kind])
        if not isinstance(parameters, dict) or not parameters.keys() <= {FULL, SLIDING}:
            raise ValueError(
                f"rope_parameters={parameters!r}: must have settings for each of {FULL} and "
                f"{SLIDING}"
            )
        name = f"rope_parameters of {kind}"
        own = settings_of(name, parameters.get(kind))
        base = own.pop("rope_theta", None)
        found = _of_type(config, name, own, keys[kind], bases[kind] if base is None else base)
        if base is not None and config[keys[kind]] not in (None, base):
            raise ValueError(f"{keys[kind]}={config[keys[kind]]!r}, and {name} have {base!r}")
        if scaling is not None and found != of_type({**config, "rope_parameters": None}, kind):
            raise ValueError(f"rope_scaling={scaling!r}, and {name} differ: remove one of them")
        return found

    def read(config: Config) -> dict[str, Any]:
        own = {kind: of_type(config, kind) for kind in dict.fromkeys(types(config))}
        names = {name for found in own.values() for name in found}
        filled = {
            kind: {name: found.get(name, _PLAIN[name]) for name in names}
            for kind, found in own.items()
        }
        return {BLOCKS: [filled[kind] for kind in types(config)]}

    def write(spec: TransformerSpec) -> dict[str, Any]:
        first = {FULL if b.attention_window is None else SLIDING: b for b in blocks_of(spec)[::-1]}
        found: dict[str, Any] = {keys[kind]: block.rotary_base for kind, block in first.items()}
        scalings = [written_scaling(first[kind]) for kind in scaled if kind in first]
        found["rope_scaling"] = next(iter(scalings), None)
        if repeat_parameters:
            found["rope_parameters"] = {
                kind: {
                    "rope_theta": block.rotary_base,
                    **(written_scaling(block) or {"rope_type": "default"}),
                }
                for kind, block in first.items()
            }
        return found

    return Rule((), read, write, (*keys.values(), "rope_scaling", "rope_parameters"))


_PLAIN: Mapping[str, Any] = {field.name: field.default for field in fields(TransformerSpec)}
"""Values of fields of blocks without a scaling, where other blocks have one."""


def _of_type(
    config: Config, name: str, given: dict[str, Any], key: str, base: float | None
) -> dict[str, Any]:
    found = base if config[key] is None else config[key]
    if found is None:
        raise ValueError(
            f"{key} is missing, also in rope_parameters, and versions of transformers disagree on "
            "its default; give it"
        )
    return {"rotary_base": found, **rotary_scaling(name, given)}
