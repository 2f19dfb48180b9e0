"""Every value that a spec refuses has an error that names it and what is allowed."""

import ast
import dataclasses
import json
import math
import re
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conflicting_specs import CONFLICTING_VALUES, EXPERTS
from mistaken_specs import BAD_VALUES, INVALID_JSON, MISSPELLED_NAMES
from small_specs import SIZES, spec_of

from builders import (
    TransformerSpec,
    components,
    expert_fields,
    fields,
    spec_fields,
)
from builders import spec as spec_module


@pytest.mark.parametrize(("field", "value", "allowed"), BAD_VALUES)
def test_the_error_for_a_bad_value_names_field_value_and_allowed_values(
    field: str, value: Any, allowed: str
) -> None:
    for make in (spec_of, spec_of().replace):
        with pytest.raises(ValueError) as error:  # noqa: PT011
            make(**{field: value})
        message = str(error.value)
        assert field in message
        assert repr(value) in message
        assert allowed in message


def test_every_field_has_a_bad_value() -> None:
    assert {field for field, _, _ in BAD_VALUES} == {
        field.name for field in dataclasses.fields(TransformerSpec)
    }


WRONG_VALUES: dict[str, tuple[Any, ...]] = {
    "int": (-1, -1.0, True, False, 2.0, 2.5, math.nan, math.inf, "2", [2]),
    "float": (-0.5, True, False, math.nan, math.inf, -math.inf, "0.5", [0.5]),
    "tuple[float, ...]": (0, True, "1", {}, (), [0.0], (math.nan,), ("1",), (1.0, None)),
    "tuple[Mapping[str, Any], ...]": (0, True, "none", {}, [1], ({1: 2},), ({}, None)),
    "tuple[str, ...]": (0, True, "ab", {}, [1], ("a",), ("a", "a"), ("a", " "), ("a", None)),
    "bool": (0, 1, 1.0, math.nan, "True", "no", [True]),
    "str": (0, True, math.nan, "", "nonsense", ["none"]),
}
"""Values that no field of the type allows."""


@pytest.mark.parametrize("field", dataclasses.fields(TransformerSpec), ids=lambda field: field.name)
def test_values_of_another_type_and_nan_are_rejected(field: dataclasses.Field[Any]) -> None:
    """The message names the given value first, then the allowed ones."""
    name = field.name
    type_name, _, optional = str(field.type).partition(" | ")
    values = WRONG_VALUES[type_name]
    if not optional and field.default is not None:  # not derived either
        values += (None,)
    for value in values:
        given = re.escape(repr(value))
        with pytest.raises(
            ValueError, match=rf"^({name}={given}: must be|unknown {name} {given}).*\w"
        ):
            spec_of(**{name: value})


@pytest.mark.parametrize(("field", "given_name", "close"), MISSPELLED_NAMES)
def test_the_error_for_an_unknown_name_suggests_the_closest_and_lists_all(
    field: str, given_name: Any, close: str
) -> None:
    begin = rf"^unknown {field} {given_name!r} \(did you mean {close!r}.*\?\); allowed: "
    with pytest.raises(ValueError, match=begin) as error:
        spec_of(**{field: given_name})
    listed = str(error.value).partition("; allowed: ")[2].split(", ")
    rule = fields.rule_of({f.name: f for f in dataclasses.fields(TransformerSpec)}[field])
    names = components.component_names(field) if rule.is_component else rule.names
    assert listed == list(names)


def test_every_field_that_takes_a_name_has_a_misspelled_name() -> None:
    names = {field.name for field in dataclasses.fields(TransformerSpec) if field.type == "str"}
    assert {field for field, _, _ in MISSPELLED_NAMES} == names


@pytest.mark.parametrize("feedforward", ["mlp", "glu"])
@pytest.mark.parametrize("activation", [None, "", "linear", "none"])
def test_every_feedforward_requires_an_activation(feedforward: str, activation: Any) -> None:
    with pytest.raises(ValueError, match=rf"unknown activation {activation!r}.*allowed: relu, "):
        spec_of(feedforward=feedforward, activation=activation)


@pytest.mark.parametrize(("changes", "words"), CONFLICTING_VALUES)
def test_conflicting_values_are_rejected(changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011
        spec_of(**changes)
    field, value = words[0].split("=")[0], words[0].partition("=")[2]
    assert str(error.value).startswith(f"{field}={value}: must be ")
    for word in words:
        assert word in str(error.value)


@pytest.fixture
def own_feedforward(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return a spec's fields with a registered feed-forward layer, for the duration of a test."""
    monkeypatch.setattr(components, "_components", dict(components._components))
    components.register_component("feedforward", "own")(lambda scope, x: x)
    return {"feedforward": "own"}


def test_experts_of_a_registered_form_are_rejected(own_feedforward: dict[str, Any]) -> None:
    assert spec_of(**own_feedforward).feedforward == "own"
    with pytest.raises(
        ValueError, match="feedforward='own': must be mlp or glu or clamped_glu where"
    ):
        spec_of(**own_feedforward, **EXPERTS)


def test_an_unknown_field_is_rejected() -> None:
    with pytest.raises((TypeError, ValueError), match="num_layer"):
        spec_of(num_layer=2)


def test_replace_and_from_json_suggest_the_closest_field_and_how_to_list_all() -> None:
    bad_json = json.dumps({**SIZES, "num_layer": 2})
    for attempt in (
        lambda: spec_of().replace(num_layer=2),
        lambda: TransformerSpec.from_json(bad_json),
    ):
        with pytest.raises(ValueError, match=r"'num_layer'.*did you mean 'num_layers'") as error:
            attempt()
        number = len(dataclasses.fields(TransformerSpec))
        assert str(error.value).endswith(f"`functional-models fields` lists all {number}")


def test_an_unknown_field_of_a_block_is_rejected() -> None:
    with pytest.raises(ValueError, match=r"block_overrides: .*'window' \(did you mean") as error:
        spec_of(block_overrides=({"window": 3},))
    assert "rotary_base" in str(error.value)


@pytest.mark.parametrize(("text", "words"), INVALID_JSON)
def test_invalid_json_is_rejected(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        TransformerSpec.from_json(text)


# Coverage of errors -----------------------------------------------------------------------------


# All checks of specs, also those of files that are new.
CHECKS = Path(spec_module.__file__).parent.glob("*_checks.py")
SPEC_FILES = (
    *(str(path) for path in CHECKS if path.name != "model_checks.py"),
    spec_module.__file__,
    spec_fields.__file__,
    expert_fields.__file__,
    fields.__file__,
)


def lines_that_raise() -> list[tuple[str, int, int]]:
    """Return (file, first line, last line) of every `raise` and `_require(...)` of a spec."""
    lines = []
    for file in SPEC_FILES:
        tree = ast.parse(Path(file).read_text("utf-8"))
        ignored = ("check_length",)  # about sequences, not specs
        tree.body = [node for node in tree.body if getattr(node, "name", "") not in ignored]
        lines += [
            (file, node.lineno, node.end_lineno or node.lineno)
            for node in ast.walk(tree)
            if isinstance(node, ast.Raise)
            or (isinstance(node, ast.Call) and ast.unparse(node.func) == "_require")
        ]
    return lines


def line_that_raised(make: Callable[[], Any]) -> tuple[str, int]:
    """Return the (file, line) of an error, outside `require`."""
    with pytest.raises(ValueError) as error:  # noqa: PT011
        make()
    frames = [
        frame
        for frame in traceback.extract_tb(error.value.__traceback__)
        if frame.filename in SPEC_FILES
    ]
    return frames[-1].filename, frames[-1].lineno or 0


def test_every_error_of_a_spec_is_tested(own_feedforward: dict[str, Any]) -> None:
    attempts: list[Callable[[], Any]] = [lambda: spec_of().replace(num_layer=2)]
    attempts += [lambda: spec_of(**own_feedforward, **EXPERTS)]
    attempts += [lambda: spec_of(block_overrides=({"window": 3},))]
    attempts += [lambda f=f, v=v: spec_of(**{f: v}) for f, v, _ in BAD_VALUES]
    attempts += [lambda changes=changes: spec_of(**changes) for changes, _ in CONFLICTING_VALUES]
    attempts += [lambda text=text: TransformerSpec.from_json(text) for text, _ in INVALID_JSON]
    raised = {line_that_raised(attempt) for attempt in attempts}
    for file, first, last in lines_that_raise():
        lines = {line for other, line in raised if other == file}
        assert lines & set(range(first, last + 1)), f"{file}, line {first}"
