"""Declarations: a layer says which axes it takes and returns, what it multiplies, and its role.

A layer or operation declares what its `call` computes in `graph_declaration`, an attribute or a
property that holds a plain dict. It imports nothing for that, and all keys are optional::

    class Scores(keras.layers.Layer):
        graph_declaration = {
            "signature": "btnh,bskh->bnts",
            "products": ["btnh,bskh->bnts"],
            "role": "attention_scores",
        }

* "signature": axes of the tensors that `call` takes, in the order of its positional parameters, and
  of those that it returns, as in an einsum equation. Letters are those of the glossary
  (`plots.axes.letters.GLOSSARY`), or any others for axes without a meaning of their own. "1" is an
  axis of size 1, and "..." any number of axes. An axis of size 1 is broadcast to its letter. A list
  of tensors counts as its items. A scalar, or a parameter that is no tensor, has no axes
  ("bt,->bt"); trailing parameters may be left out, and a missing optional argument is skipped.
* "products": einsum equations of the matrix products in the call, each of two operands, which may
  be weights; [] declares that there are none. A product costs 2 FLOPs x the sizes of its letters,
  without letters of one operand only, such as the heads that grouped keys share.
* "sizes": sizes of letters that no tensor in the signature has, such as {"f": 256}.
* "role": one of `ROLES`.

A declaration describes the `call` next to it. A subclass inherits both; one that overrides `call`
does not inherit the declaration, and declares anew (`graph_declaration = Base.graph_declaration`,
where it still holds).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

ROLES = {
    "add": "adds up its inputs",
    "alibi_positions": "attention biases that grow with the distance",
    "attention": "attention of query, key and value",
    "attention_scores": "products of queries and keys",
    "attention_weights": "softmax of attention scores",
    "causal_mask": "mask of keys later than the query",
    "identity": "returns its input, up to noise in training, a cast or one constant factor",
    "learned_positions": "trained vectors of positions",
    "norm": "normalises activations",
    "padding_mask": "mask of padding",
    "position_ids": "positions of tokens as integers",
    "relative_positions": "trained attention biases by distance",
    "rotary_positions": "rotates queries and keys by their positions",
    "sinusoidal_positions": "sines and cosines of positions",
}
"""Roles that a layer may declare."""

_KEYS = ("signature", "products", "sizes", "role")
_AXES = re.compile(r"[A-Za-z1]*(\.\.\.)?[A-Za-z1]*")

Shape = Sequence[int | None]
Equation = tuple[list[list[str]], list[str]]
"""Labels of the axes of every operand, and those of the result."""


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a layer declares about one of its calls.

    Attributes:
        inputs: Argument (`Edge.port`) -> its axes, such as "btnh".
        outputs: Axes of every output; none if there is no signature.
        products: Equations of its matrix products; None if it does not declare them.
        sizes: Sizes of letters that no tensor has.
        role: One of `ROLES`, or "".
    """

    inputs: Mapping[str, str] = field(default_factory=dict, hash=False)
    outputs: tuple[str, ...] = ()
    products: tuple[str, ...] | None = None
    sizes: Mapping[str, int] = field(default_factory=dict, hash=False)
    role: str = ""


DOT_PRODUCT_ATTENTION = Declaration(
    inputs={"query": "btnh", "key": "bskh", "value": "bskh", "bias": "bnts", "mask": "bnts"},
    outputs=("btnh",),
    products=("btnh,bskh->bnts", "bnts,bskh->btnh"),
    role="attention",
)
"""What `keras.ops.dot_product_attention` would declare."""


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


def parse_equation(equation: str, ranks: Sequence[int | None], rank: int | None = None) -> Equation:
    """Return the labels of an einsum equation's axes.

    Args:
        equation: As `numpy.einsum` takes it; without "->" the result has, in alphabetical order,
            the letters that occur once.
        ranks: Number of axes of every operand; it may be None for one without "...".
        rank: Number of axes of the result, for one with "...".

    Raises:
        ValueError: if there are not as many operands as ranks.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        dots = "..." if "..." in left else ""
        result = dots + "".join(sorted(c for c in letters if letters.count(c) == 1))
    pairs = zip(left.split(","), ranks, strict=True)
    return [axis_labels(axes, known) for axes, known in pairs], axis_labels(result, rank)


def product_labels(
    declaration: Declaration, covered: int
) -> Iterator[tuple[list[str], list[str], list[str]]]:
    """Yield the labels (left, right, result) of every product.

    `covered` is the number of axes that "..." stands for in the signature.
    """
    for equation in declaration.products or ():
        left, right, result = (
            axis_labels(axes, covered + len(axes.replace("...", "")))
            for axes in re.split(",|->", equation)
        )
        yield left, right, result


# Checks -----------------------------------------------------------------------------------------


def parse_declaration(given: Any, ports: Sequence[Sequence[str]]) -> Declaration:
    """Check what a layer declares, and match it to the arguments of one call.

    Args:
        given: The value of `graph_declaration`.
        ports: For every positional parameter of `call`, its name, or those of its items.

    Raises:
        ValueError: naming what was given and what is allowed.
    """
    if not isinstance(given, Mapping):
        raise ValueError(f"it is {given!r}, but must be a dict with the keys {_listed(_KEYS)}")
    for key in given:
        if key not in _KEYS:
            raise ValueError(f"it has the key {key!r}; allowed are {_listed(_KEYS)}")
    role = given.get("role", "")
    if role and (not isinstance(role, str) or role not in ROLES):
        raise ValueError(f'"role" is {role!r}; allowed are {_listed(ROLES)}')
    sizes = given.get("sizes") or {}
    if not isinstance(sizes, Mapping) or not all(map(_is_size, sizes.items())):
        raise ValueError(f'"sizes" is {sizes!r}, but must map letters to ints, 1 or more')
    inputs, outputs = _signature(given.get("signature"), ports)
    letters = {*"".join([*inputs.values(), *outputs])} - {"1", "."} | set(sizes)
    products = given.get("products")
    if products is not None:
        if isinstance(products, str) or not isinstance(products, Sequence):
            raise ValueError(f'"products" is {products!r}, but must be a list of equations')
        products = tuple(_product(equation, letters) for equation in products)
    return Declaration(inputs, outputs, products, dict(sizes), role)


def _signature(
    given: Any, ports: Sequence[Sequence[str]]
) -> tuple[dict[str, str], tuple[str, ...]]:
    if given is None:
        return {}, ()
    text = given.replace(" ", "") if isinstance(given, str) else ""
    left, arrow, right = text.partition("->")
    operands, outputs = left.split(","), right.split(",")
    if not arrow or not all(_AXES.fullmatch(axes) for axes in (*operands, *outputs)):
        raise ValueError(
            f'"signature" is {given!r}, but must be like "btd,bts->btd": letters, "1" or "..." for '
            "the axes of each argument and output"
        )
    names = [port for item in ports for port in item]
    if len(operands) > len(names):
        raise ValueError(
            f'"signature" is {given!r}, with {len(operands)} arguments, but `call` takes '
            f"{len(names)}: {', '.join(names) or 'none'}"
        )
    return {p: axes for p, axes in zip(names, operands, strict=False) if axes}, tuple(outputs)


def _product(equation: Any, letters: set[str]) -> str:
    text = equation.replace(" ", "") if isinstance(equation, str) else ""
    left, _, result = text.partition("->")
    parts = [*left.split(","), result]
    if len(parts) != 3 or not all(_AXES.fullmatch(axes) for axes in parts):
        raise ValueError(
            f'"products" has {equation!r}, but must have equations of two operands, such as '
            '"btd,df->btf"'
        )
    unknown = sorted({*text} - {*",->."} - letters)
    if unknown:
        raise ValueError(
            f'"products" has {equation!r}, but {_listed(unknown)} is in no tensor of "signature": '
            'give its size in "sizes"'
        )
    return text


def _is_size(item: tuple[Any, Any]) -> bool:
    letter, size = item
    is_letter = isinstance(letter, str) and len(letter) == 1 and letter.isalpha()
    return is_letter and isinstance(size, int) and not isinstance(size, bool) and size > 0


def check_shapes(
    declaration: Declaration, inputs: Mapping[str, Shape], outputs: Sequence[Shape]
) -> None:
    """Check that a call's tensors have the declared axes.

    Args:
        declaration: What the layer declares.
        inputs: Shapes by argument.
        outputs: Shapes of what it returns.

    Raises:
        ValueError: if a number of axes, or of outputs, is another one, or if axes with one letter
            have different sizes, none of them 1.
    """
    if not declaration.outputs:
        return
    if len(outputs) != len(declaration.outputs):
        raise ValueError(
            f'"signature" has {len(declaration.outputs)} outputs, but there are {len(outputs)}'
        )
    tensors = [
        (port, declaration.inputs[port], inputs[port])
        for port in declaration.inputs
        if port in inputs
    ]
    tensors += [
        ("the output", axes, shape)
        for axes, shape in zip(declaration.outputs, outputs, strict=True)
    ]
    sizes: dict[str, int] = {"1": 1, **declaration.sizes}
    for name, axes, shape in tensors:
        labels = axis_labels(axes, len(shape))
        if len(labels) != len(shape):
            raise ValueError(f'"signature" has {axes!r} for {name}, whose shape is {tuple(shape)}')
        for label, size in zip(labels, shape, strict=True):
            if size not in (None, 1) and sizes.setdefault(label, size) != size:
                raise ValueError(
                    f'"signature" has {axes!r} for {name}, whose shape is {tuple(shape)}, but '
                    f"{label!r} is {sizes[label]}"
                )


def _listed(words: Iterable[Any]) -> str:
    return ", ".join(repr(word) for word in words)
