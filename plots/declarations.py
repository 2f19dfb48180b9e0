"""Declarations of layers: their equations, and the checks that they fit a call.

`plots.layers` says what a layer can declare.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import prod
from typing import Any, TypeVar

from plots.annotations import Declaration
from plots.graph import Shape
from plots.layers import ROLES

Axes = TypeVar("Axes", bound=Sequence[Any])

_KEYS = ("signature", "products", "sizes", "like", "role")
_AXES = re.compile(r"[A-Za-z1]*(\.\.\.)?[A-Za-z1]*")

# Equations --------------------------------------------------------------------------------------


def axis_labels(axes: str, rank: int | None) -> list[str]:
    """Return a label for each axis: its letter, or a number from the right for one under "...".

    Args:
        axes: Such as "b...d".
        rank: How many axes there are; without "..." it is not needed.
    """
    before, dots, after = axes.partition("...")
    covered = (rank or 0) - len(before) - len(after) if dots else 0
    return [*before, *(f"...{place}" for place in range(covered, 0, -1)), *after]


def parse_equation(equation: str, ranks: Sequence[int | None]) -> list[list[str]]:
    """Return the labels of the axes of an einsum equation's operands, and those of its result.

    Args:
        equation: As `numpy.einsum` takes it; without "->" the result has, in alphabetical order,
            the letters that occur once.
        ranks: Number of axes of every operand and the result; it may be None for one without "...".

    Raises:
        ValueError: if there are not as many operands as ranks.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        dots = "..." if "..." in left else ""
        result = dots + "".join(sorted(c for c in letters if letters.count(c) == 1))
    pairs = zip([*left.split(","), result], ranks, strict=True)
    return [axis_labels(axes, rank) for axes, rank in pairs]


def product_labels(declaration: Declaration, labels: Iterable[str]) -> Iterator[list[list[str]]]:
    """Yield the labels [left, right, result] of every product, given those of the signature."""
    covered = sum(label.startswith("...") for label in labels)
    for equation in declaration.products or ():
        parts = re.split(",|->", equation)
        yield [axis_labels(axes, covered + len(axes.replace("...", ""))) for axes in parts]


def declared_tensors(
    declaration: Declaration, inputs: Mapping[str, Axes], outputs: Iterable[Axes]
) -> list[tuple[str, str, Axes]]:
    """Return the tensors of a call as (port, or "" for an output; declared axes; actual axes).

    Raises:
        ValueError: if the signature has another number of outputs.
    """
    given = [
        (port, text, inputs[port]) for port, text in declaration.inputs.items() if port in inputs
    ]
    if not declaration.outputs:
        return given
    return given + [("", *pair) for pair in zip(declaration.outputs, outputs, strict=True)]


# Checks -----------------------------------------------------------------------------------------


def parse_declaration(given: Any, ports: Sequence[str]) -> Declaration:
    """Check the declaration of a layer, and match it to the arguments of one call.

    Args:
        given: The value of `graph_declaration`.
        ports: The arguments, in the order of the positional parameters of `call`.

    Raises:
        ValueError: the declaration is invalid; names the given and the allowed value.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"it is {given!r}, but must be a dict with the keys {_listed(_KEYS)}")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"it has the key {key!r}; allowed are {_listed(_KEYS)}")
    role = given.get("role", "")
    if role and (not isinstance(role, str) or role not in ROLES):
        raise ValueError(f'"role" is {role!r}; allowed are {_listed(ROLES)}')
    like = given.get("like", "")
    if not isinstance(like, str):
        raise ValueError(f'"like" is {like!r}, but must be the name of a class')
    sizes = given.get("sizes") or {}
    if not isinstance(sizes, Mapping) or not all(map(_is_size, sizes.items())):
        raise ValueError(
            f'"sizes" is {sizes!r}, but must map letters to ints, 1 or more, or to the letters '
            "whose sizes are multiplied"
        )
    signature = given.get("signature")
    inputs, outputs = ({}, []) if signature is None else _signature(signature, ports)
    letters = {*"".join([*inputs.values(), *outputs])} - {"1", "."} | set(sizes)
    if unknown := sorted({*"".join(filter(_is_text, sizes.values()))} - letters):
        raise ValueError(f'"sizes" is {sizes!r}, but {_listed(unknown)} is in no tensor')
    products = given.get("products")
    if products is not None:
        if isinstance(products, str) or not isinstance(products, Sequence):
            raise ValueError(f'"products" is {products!r}, but must be a list of equations')
        products = tuple(_product(equation, letters) for equation in products)
    return Declaration(inputs, tuple(outputs), products, dict(sizes), role, like)


def _signature(given: Any, ports: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    operands, outputs = _parsed(given)
    if not outputs:
        raise ValueError(
            f'"signature" is {given!r}, but must be like "btd,bts->btd": letters, "1" or "..." for '
            "the axes of each argument and output"
        )
    if len(operands) > len(ports):
        raise ValueError(
            f'"signature" is {given!r}, with {len(operands)} arguments, but `call` takes '
            f"{len(ports)}: {', '.join(ports) or 'none'}"
        )
    return {p: axes for p, axes in zip(ports, operands, strict=False) if axes}, outputs


def _product(given: Any, letters: set[str]) -> str:
    operands, results = _parsed(given)
    if (len(operands), len(results)) != (2, 1):
        raise ValueError(
            f'"products" has {given!r}, but must have equations of two operands, such as '
            '"btd,df->btf"'
        )
    unknown = sorted({*"".join(operands + results)} - {"."} - letters)
    if unknown:
        raise ValueError(
            f'"products" has {given!r}, but {_listed(unknown)} is in no tensor of "signature": '
            'give its size in "sizes"'
        )
    return f"{','.join(operands)}->{results[0]}"


def _parsed(equation: Any) -> tuple[list[str], list[str]]:
    """Return the axes of operands and results; none if it is not an equation."""
    left, arrow, right = (
        (equation if isinstance(equation, str) else "").replace(" ", "").partition("->")
    )
    operands, results = left.split(","), right.split(",")
    is_equation = arrow and all(map(_AXES.fullmatch, operands + results))
    return (operands, results) if is_equation else ([], [])


def _is_size(item: tuple[Any, Any]) -> bool:
    letter, size = item
    if not isinstance(letter, str) or len(letter) != 1 or not letter.isalpha():
        return False
    if _is_text(size):
        return bool(size.isalpha())
    return isinstance(size, int) and not isinstance(size, bool) and size > 0


def _is_text(size: Any) -> bool:
    return isinstance(size, str)


def check_shapes(
    declaration: Declaration, inputs: Mapping[str, Shape], outputs: Sequence[Shape]
) -> None:
    """Check that a call's tensors have the declared axes.

    Args:
        declaration: The `graph_declaration` of the layer.
        inputs: Shapes by argument.
        outputs: Shapes of the outputs.

    Raises:
        ValueError: if a number of axes, or of outputs, is another one, or if axes with one letter
            have different sizes, none of them 1.
    """
    expected = len(declaration.outputs)
    if expected and len(outputs) != expected:
        raise ValueError(f'"signature" has {expected} outputs, but there are {len(outputs)}')
    sizes = {"1": 1, **declaration.known_sizes}
    for port, axes, shape in declared_tensors(declaration, inputs, outputs):
        labels = axis_labels(axes, len(shape))
        what = f'"signature" has {axes!r} for {port or "the output"}, whose shape is {tuple(shape)}'
        if len(labels) != len(shape):
            raise ValueError(what)
        for label, size in zip(labels, shape, strict=True):
            if size not in (None, 1) and sizes.setdefault(label, size) != size:
                raise ValueError(f"{what}, but {label!r} is {sizes[label]}")
    for letter, factors in declaration.products_of_sizes.items():
        expected = prod(sizes.get(factor, 0) for factor in factors)  # 0 if one is free
        if expected and sizes.get(letter, expected) != expected:
            raise ValueError(
                f'"sizes" has {letter!r} = {"*".join(factors)} = {expected}, but it is '
                f"{sizes[letter]}"
            )


def _listed(words: Iterable[Any]) -> str:
    return ", ".join(map(repr, words))
