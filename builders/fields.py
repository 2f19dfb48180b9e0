"""Kinds of spec fields: each defines default, allowed values and documentation in one place.

A field with `derive` may be left out or be `None`. It then follows from fields defined before it.
With `by_block`, a field may have another value in some blocks (`block_overrides`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from typing import Any

from builders.components import component_names
from builders.errors import invalid_value, unknown_name
from builders.overrides import Overrides

Derive = Callable[[Any], Any]
"""Returns the value of a field from a spec whose earlier fields are set."""


@dataclass(frozen=True)
class Rule:
    """The definition of a field beyond its type and default.

    Attributes:
        doc: its documentation, as in a docstring.
        allowed: the allowed values in words that follow "must be".
        accepts: returns whether a value is allowed.
        derive: returns the value that `None` stands for.
        names: the allowed names of a field that takes one of several; of a component field, those
            that ship.
        is_component: whether others may register further names.
        is_number: whether the field takes numbers too, which `accepts` checks.
        by_block: whether `block_overrides` may change the field.
        convert: returns an allowed value in the form that the spec keeps.
    """

    doc: str
    allowed: str = ""
    accepts: Callable[[Any], bool] = lambda value: True
    derive: Derive | None = None
    names: tuple[str, ...] = ()
    is_component: bool = False
    is_number: bool = False
    by_block: bool = False
    convert: Callable[[Any], Any] = lambda value: value


def rule_of(field: dataclasses.Field[Any]) -> Rule:
    """Return the rule of a spec field."""
    rule: Rule = field.metadata["rule"]
    return rule


def check_value(field: dataclasses.Field[Any], value: Any) -> None:
    """Check the value of one field.

    Raises:
        ValueError: the value is invalid; names the field, the value and the allowed values.
    """
    rule = rule_of(field)
    if value is None and rule.derive:
        return
    names = component_names(field.name) if rule.is_component else rule.names
    is_name = bool(names) and (isinstance(value, str) or not rule.is_number)
    if is_name and value not in names:
        or_number = f", or {rule.allowed}" * rule.is_number
        raise ValueError(unknown_name(field.name, value, names) + or_number)
    if not is_name and not rule.accepts(value):
        # The command line reads 2.0 as it is written, and JSON of other programs has such numbers.
        is_whole = isinstance(value, float) and value.is_integer() and rule.accepts(int(value))
        advice = f"write {int(value)}" if is_whole else ""
        raise invalid_value(field.name, value, rule.allowed, advice)


def choice(doc: str, names: tuple[str, ...], default: str) -> Any:
    """Define a field that takes one of some names."""
    return _field(Rule(doc, names=names), default)


def component_name(doc: str, shipped: tuple[str, ...], default: str, by_block: bool = False) -> Any:
    """Define a field that takes the name of a component: one that ships or a registered one."""
    return _field(Rule(doc, names=shipped, is_component=True, by_block=by_block), default)


def flag(
    doc: str, default: bool | None = None, derive: Derive | None = None, by_block: bool = False
) -> Any:
    """Define a field that is `True` or `False`."""
    return _field(Rule(doc, "True or False", _is_bool, derive, by_block=by_block), default)


MOST = 3e38
"""Numbers are float32 in a model."""
MOST_BLOCKS = 10_000
"""DeepNet (Wang et al. 2022) has 1,000 layers."""
MOST_WIDTH = 1 << 22
"""GPT-3's feed-forward layer is 49,152 wide, T5-11B's 65,536."""
MOST_EXPERTS = 1 << 16
"""Switch-C (Fedus et al. 2022) has 2,048."""
MOST_TOKENS = 1 << 24
"""Entries of a vocabulary: XLM-V (Liang et al. 2023) has 1 million."""
MOST_POSITIONS = 1 << 30
"""LongNet (Ding et al. 2023) reads sequences of a billion tokens."""


def positive_int(
    doc: str,
    default: Any = MISSING,
    derive: Derive | None = None,
    most: int = MOST_WIDTH,
    by_block: bool = False,
) -> Any:
    """Define a field that is an int from 1 to `most`."""
    allowed = f"a positive int of at most {most:,}"
    return _field(Rule(doc, allowed, _int_between(1, most), derive, by_block=by_block), default)


def optional_int(doc: str, none: str, most: int = MOST_POSITIONS, by_block: bool = False) -> Any:
    """Define a field that is an int from 1 to `most` or `None`, the default, in words `none`."""
    allowed = f"a positive int, or None {none}; at most {most:,}"
    return _field(Rule(doc, allowed, _or_none(_int_between(1, most)), by_block=by_block), None)


def non_negative_int(doc: str, default: int, most: int = MOST_WIDTH, by_block: bool = False) -> Any:
    """Define a field that is an int from 0 to `most`."""
    allowed = f"an int of at least 0 and at most {most:,}"
    return _field(Rule(doc, allowed, _int_between(0, most), by_block=by_block), default)


def block_overrides(doc: str) -> Any:
    """Define a field that is a tuple of mappings from fields to values; a list is accepted too."""
    allowed = "a tuple of mappings of fields, such as ({}, {'positions': 'none'})"
    return _field(Rule(doc, allowed, _are_mappings, convert=_frozen_overrides), ())


def _frozen_overrides(value: Any) -> tuple[Overrides, ...]:
    frozen = (
        {name: tuple(x) if isinstance(x, list) else x for name, x in one.items()} for one in value
    )
    return tuple(map(Overrides, frozen))


def _are_mappings(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(one, Mapping) and all(isinstance(name, str) for name in one) for one in value
    )


def token_id(doc: str, default: int | None) -> Any:
    """Define a field that is a token id or `None`; its range depends on the vocabularies."""
    return _field(Rule(doc), default)


def rate(doc: str, default: float | None = 0.0, derive: Derive | None = None) -> Any:
    """Define a field that is a probability in [0, 1)."""
    accepts: Callable[[Any], bool] = lambda v: _is_number(v) and 0 <= v < 1  # noqa: E731
    return _field(Rule(doc, "a probability in [0, 1)", accepts, derive), default)


def fraction(doc: str, default: float) -> Any:
    """Define a field that is a number above 0 and below 1."""
    return _field(Rule(doc, "a number between 0 and 1", _is_fraction), default)


def number(doc: str, least: float, default: float, by_block: bool = False) -> Any:
    """Define a field that is a number, from `least` to the largest float32."""
    allowed = f"a number of at least {least} and at most {MOST}"
    accepts: Callable[[Any], bool] = lambda v: _is_number(v) and least <= v <= MOST  # noqa: E731
    return _field(Rule(doc, allowed, accepts, by_block=by_block), default)


def positive_number(doc: str, default: float, by_block: bool = False) -> Any:
    """Define a field that is a number above 0, up to the largest float32."""
    rule = Rule(doc, f"a positive number of at most {MOST}", _is_positive, by_block=by_block)
    return _field(rule, default)


def depth_factor(
    doc: str, shipped: tuple[str, ...], default: float = 1.0, derive: Derive | None = None
) -> Any:
    """Define a field that is a number or the name of a component that computes one by depth."""
    allowed = f"a number from 0 to {MOST}, or the name of a rule by depth"
    accepts: Callable[[Any], bool] = lambda v: _is_number(v) and 0 <= v <= MOST  # noqa: E731
    rule = Rule(doc, allowed, accepts, derive, shipped, is_component=True, is_number=True)
    return _field(rule, default)


def optional_number(doc: str, by_block: bool = False) -> Any:
    """Define a field that is a positive finite number, or `None` by default."""
    allowed = f"a positive number, or None; at most {MOST}"
    return _field(Rule(doc, allowed, _or_none(_is_positive), by_block=by_block), None)


def optional_numbers(doc: str, by_block: bool = False) -> Any:
    """Define a field that is a tuple of positive numbers, or `None` by default; a list too."""
    allowed = f"a tuple of positive numbers of at most {MOST}, or None"
    convert: Callable[[Any], Any] = lambda v: None if v is None else tuple(v)  # noqa: E731
    rule = Rule(doc, allowed, _or_none(_are_positive), convert=convert, by_block=by_block)
    return _field(rule, None)


def names(doc: str) -> Any:
    """Define a field that is a tuple of distinct names, empty by default; a list too."""
    allowed = "two or more different texts that are not blank, or none"
    return _field(Rule(doc, allowed, _are_names, convert=tuple), ())


def _are_names(value: Any) -> bool:
    if not isinstance(value, list | tuple) or len(value) == 1:
        return False
    return all(isinstance(one, str) and one.strip() for one in value) and (
        len(set(value)) == len(value)
    )


def _are_positive(value: Any) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(map(_is_positive, value))


def _field(rule: Rule, default: Any) -> Any:
    return dataclasses.field(default=None if rule.derive else default, metadata={"rule": rule})


def _or_none(accepts: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: value is None or accepts(value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _int_between(least: int, most: int) -> Callable[[Any], bool]:
    return lambda value: _is_int(value) and least <= value <= most


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_positive(value: Any) -> bool:
    return _is_number(value) and 0 < value <= MOST


def _is_fraction(value: Any) -> bool:
    return _is_number(value) and 0 < value < 1
