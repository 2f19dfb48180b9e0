"""Shapes that rows are padded to, against all choices for small data, and by their properties."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from functional_models.row_shapes import first_that_fits, row_shapes

SIZES = st.integers(1, 2).flatmap(
    lambda sides: st.lists(st.tuples(*[st.integers(0, 23)] * sides), min_size=1, max_size=60)
)


def padded_tokens(sizes: np.ndarray, shapes: np.ndarray) -> int:
    """Return the tokens of all rows, each in the smallest shape that it fits into."""
    return sum(min(sum(s) for s in shapes if (row <= s).all()) for row in sizes)


@given(SIZES, st.integers(1, 9))
def test_every_row_fits_into_the_first_shape_as_small_as_any(sizes, most):
    sizes = np.array(sizes)
    shapes = row_shapes(sizes, most)
    assert 1 <= len(shapes) <= most
    assert len(np.unique(shapes, axis=0)) == len(shapes)
    assert shapes.sum(axis=1).tolist() == sorted(shapes.sum(axis=1).tolist())
    assert (shapes.max(axis=0) == sizes.max(axis=0)).all()
    chosen = shapes[first_that_fits(sizes, shapes)]
    assert (sizes <= chosen).all()
    assert chosen.sum() == padded_tokens(sizes, shapes)


@given(SIZES)
def test_more_shapes_need_no_more_tokens_and_enough_of_them_no_padding(sizes):
    sizes = np.array(sizes)
    different = len(np.unique(sizes, axis=0))
    needed = [padded_tokens(sizes, row_shapes(sizes, most)) for most in range(1, different + 1)]
    assert needed[0] == len(sizes) * sizes.max(axis=0).sum()
    assert needed == sorted(needed, reverse=True)
    assert needed[-1] == sizes.sum()


@settings(max_examples=40)
@given(st.lists(st.integers(1, 13), min_size=1, max_size=30))
def test_two_widths_are_the_best_two(lengths):
    sizes = np.array(lengths)[:, None]
    pairs = itertools.product(sorted({*lengths}), [max(lengths)])
    best = min(padded_tokens(sizes, np.array(pair)[:, None]) for pair in pairs)
    assert padded_tokens(sizes, row_shapes(sizes, 2)) == best


def test_both_sides_are_cut_where_most_is_saved():
    sizes = np.array([[3, 29]] * 7 + [[31, 5]] * 11 + [[31, 29]] * 2)
    assert row_shapes(sizes, 1).tolist() == [[31, 29]]
    assert row_shapes(sizes, 3).tolist() == [[3, 29], [31, 5], [31, 29]]
    assert row_shapes(sizes, 24).tolist() == [[3, 29], [31, 5], [31, 29]]


@pytest.mark.parametrize(("most", "share"), [(8, 0.2), (24, 0.1)])
def test_lengths_like_those_of_sentences_leave_little_padding(most, share):
    random = np.random.default_rng(5)
    source = random.gamma(6, 2.5, 20_011).astype(int) + 3
    target = np.maximum(source + random.normal(0, 3, 20_011).astype(int), 2)
    sizes = np.stack([source, target], axis=1)
    shapes = row_shapes(sizes, most)
    padded = shapes[first_that_fits(sizes, shapes)]
    # One width for both sides, in equal steps, as many as there are shapes.
    steps = np.linspace(0, sizes.max(), most + 1)[1:]
    plain = 2 * steps[np.searchsorted(steps, sizes.max(axis=1))]
    assert padded.sum() < plain.sum()
    assert 1 - sizes.sum() / padded.sum() < share
