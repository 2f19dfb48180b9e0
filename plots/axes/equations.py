"""Einsum equations, such as "btd,dnh->btnh"."""

from __future__ import annotations

from collections.abc import Sequence

Equation = tuple[list[list[str]], list[str]]
"""Labels of the axes of every operand, and those of the result."""


def parse_equation(equation: str, ranks: Sequence[int | None]) -> Equation:
    """The labels of an equation's axes; each axis that "..." stands for gets one of its own.

    Args:
        equation: As `numpy.einsum` takes it; without "->" the result has, in the order of the
            alphabet, what occurs once.
        ranks: Number of axes of every operand; None where it is not known, without "..." there.

    Raises:
        ValueError: if there are not as many operands as ranks.
    """
    left, arrow, result = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(",", "").replace(".", "")
        dots = "..." if "..." in left else ""
        result = dots + "".join(sorted(c for c in letters if letters.count(c) == 1))
    covered = [
        (rank or 0) - len(term.replace("...", "")) if "..." in term else 0
        for term, rank in zip(terms, ranks, strict=True)
    ]
    most = max(covered)
    operands = [_labels(term, count, most) for term, count in zip(terms, covered, strict=True)]
    return operands, _labels(result, most, most)


def _labels(term: str, covered: int, most: int) -> list[str]:
    before, dots, after = term.partition("...")
    between = [f"...{number}" for number in range(most - covered, most)] if dots else []
    return [*before, *between, *after]
