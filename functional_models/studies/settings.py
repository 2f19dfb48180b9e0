"""The settings of a study: specs and recipes, from grids, ablations and learning rates."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import builders
from builders.errors import unknown_name
from functional_models.field_values import parse_field
from functional_models.recipe import Recipe

Spec = str | builders.TransformerSpec

SPEC_FIELDS = tuple(field.name for field in dataclasses.fields(builders.TransformerSpec))
RECIPE_FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))
MATCHES = ("parameters", "flops")


@dataclass(frozen=True)
class Setting:
    """What is trained once for each seed.

    Attributes:
        name: Unique within a study.
        spec: The spec.
        recipe: The recipe, whose seed is replaced.
        of: The name of the setting without its learning rate, if several rates are tried.
        matched: Change of `intermediate_dim` that makes the sizes equal, in words; or "".
    """

    name: str
    spec: builders.TransformerSpec
    recipe: Recipe
    of: str = ""
    matched: str = ""

    @property
    def group(self) -> str:
        """The name of the setting, without its learning rate if several are tried."""
        return self.of or self.name


def make_settings(
    specs: Mapping[str, builders.TransformerSpec],
    recipe: Recipe,
    *,
    grid: Mapping[str, Sequence[Any]] | None = None,
    ablate: Iterable[str] = (),
    learning_rates: Sequence[float] = (),
) -> list[Setting]:
    """Return the settings of a study, all of which are valid.

    Args:
        specs: Specs by name.
        recipe: The common recipe.
        grid: Values to try, by field of the spec or of the recipe: every spec is trained with
            every combination.
        ablate: Changes to make one at a time to every spec: "qk_norm" switches a field that is
            True or False, "warmup_steps=0" sets one. The unchanged spec is trained too.
        learning_rates: Rates to try for every setting.

    Raises:
        ValueError: an unknown field, a value that is not allowed, or equal settings.
    """
    if isinstance(ablate, str):
        ablate = [ablate]
    changes = [*_grid(grid or {})] if grid else [{}]
    ablate = list(ablate)
    if ablate and grid:
        raise ValueError("give grid or ablate, not both: ablate changes one field at a time")
    settings = []
    for name, spec in specs.items():
        alone = [_ablation(text, spec) for text in ablate]
        for change in [*changes, *alone]:
            settings.append(_changed(name, spec, recipe, change))
    if learning_rates:
        settings = [at for setting in settings for at in _rates(setting, learning_rates)]
    seen: dict[str, Setting] = {}
    for setting in settings:
        if setting.name in seen:
            raise ValueError(f"two settings have the name {setting.name!r}; give each value once")
        seen[setting.name] = setting
    return settings


def _grid(grid: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Yield the combinations of the values of a grid."""
    if not isinstance(grid, Mapping):
        raise TypeError(f"grid must be a dict of fields and values, given {grid!r:.60}")
    for field, values in grid.items():
        _check_field(field)
        if isinstance(values, str) or not isinstance(values, Sequence) or not values:
            raise ValueError(f"grid: {field}={values!r:.60} must be a list of one value or more")
    for values in itertools.product(*grid.values()):
        yield dict(zip(grid, values, strict=True))


def _ablation(text: str, spec: builders.TransformerSpec) -> dict[str, Any]:
    """Return the change that an ablation stands for."""
    field, equals, value = str(text).partition("=")
    _check_field(field)
    if equals:
        return {field: parse_field(field, value)}
    now = getattr(spec, field, None)
    if not isinstance(now, bool):
        raise ValueError(f"ablate: {field} is {now!r}, not True or False; write {field}=VALUE")
    return {field: not now}


def _check_field(field: str) -> None:
    if field == "seed":
        raise ValueError("the seed is no field to compare; give seeds=, such as seeds=3")
    if field not in SPEC_FIELDS + RECIPE_FIELDS:
        raise ValueError(unknown_name("field", str(field), (*SPEC_FIELDS, *RECIPE_FIELDS)))


def _changed(
    name: str, spec: builders.TransformerSpec, recipe: Recipe, change: Mapping[str, Any]
) -> Setting:
    shown = ", ".join([name, *(f"{field}={value}" for field, value in change.items())])
    of_spec = {field: value for field, value in change.items() if field in SPEC_FIELDS}
    of_recipe = {field: value for field, value in change.items() if field not in SPEC_FIELDS}
    try:
        return Setting(shown, spec.replace(**of_spec), dataclasses.replace(recipe, **of_recipe))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{shown}: {error}") from error


def _rates(setting: Setting, rates: Sequence[float]) -> Iterator[Setting]:
    if isinstance(rates, str | float | int):
        raise TypeError(f"learning_rates must be a list of numbers, given {rates!r:.60}")
    for rate in rates:
        name = f"{setting.name}, learning_rate={rate:g}"
        recipe = dataclasses.replace(setting.recipe, learning_rate=rate)
        yield dataclasses.replace(setting, name=name, recipe=recipe, of=setting.name)


def match_sizes(settings: Sequence[Setting], by: str, length: int) -> list[Setting]:
    """Return settings whose feed-forward width makes them as large as the first.

    Args:
        settings: The settings; the first one stays as it is.
        by: "parameters", or "flops" of the forward pass.
        length: Tokens of a sequence, for "flops".

    Raises:
        ValueError: another `by`, or a setting that no width makes as large.
    """
    if by not in MATCHES:
        raise ValueError(unknown_name("match", str(by), MATCHES))
    goal = _size(settings[0].spec, by, length)
    return [settings[0], *(_matched(setting, by, length, goal) for setting in settings[1:])]


def _matched(setting: Setting, by: str, length: int, goal: int) -> Setting:
    """Return a setting with the width whose size is nearest to `goal`."""

    def size(width: int) -> int:
        return _size(setting.spec.replace(intermediate_dim=width), by, length)

    low, high = 1, 2 * setting.spec.intermediate_dim
    while size(high) < goal:
        high *= 2
    if size(low) > goal:
        raise ValueError(
            f"{setting.name} has more {by} than {goal:,} at any intermediate_dim; make it smaller, "
            "or compare without match"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= goal else (low, middle)
    width = min((low, high), key=lambda width: abs(size(width) - goal))
    off = size(width) / goal - 1
    return dataclasses.replace(
        setting,
        spec=setting.spec.replace(intermediate_dim=width),
        matched=(
            f"intermediate_dim {setting.spec.intermediate_dim} -> {width}, "
            f"{by} {off:+.2%} of the first"
        ),
    )


def _size(spec: builders.TransformerSpec, by: str, length: int) -> int:
    if by == "parameters":
        return builders.count_parameters(spec).total
    return sum(builders.count_flops(spec, length).values())


def folder_name(text: str) -> str:
    """Return a text as part of the name of a folder."""
    return re.sub(r"[^\w.+-]+", "_", text).strip("._")[:80]
