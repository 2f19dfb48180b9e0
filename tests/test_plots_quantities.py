"""Polynomials of free sizes: sums and products agree with those of their values."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

import plots
from plots.annotations import Quantity

monomials = st.lists(st.sampled_from("bst"), max_size=3).map(
    lambda letters: " ".join(sorted(letters))
)
quantities = st.dictionaries(monomials, st.integers(-9, 9), max_size=4).map(Quantity)
SIZES = {"b": 2, "t": 11, "s": 13}


@given(quantities, quantities, st.integers(-9, 9))
def test_sums_and_products_are_those_of_the_values(left, right, number):
    assert (left + right).at(SIZES) == left.at(SIZES) + right.at(SIZES)
    assert (left - right).at(SIZES) == left.at(SIZES) - right.at(SIZES)
    assert (left * right).at(SIZES) == left.at(SIZES) * right.at(SIZES)
    assert (number * left).at(SIZES) == number * left.at(SIZES) == (left * number).at(SIZES)
    assert sum([left, right], Quantity()) == left + right == right + left
    assert left - left == {}


def test_terms_have_sorted_letters_and_zeros_are_left_out():
    assert Quantity({"t": 2}) * {"b s": 3} * {"t": 1} == {"b s t t": 6}
    assert Quantity({"b": 1, "": 2}) + {"b": -1} == {"": 2}
    assert Quantity({"t": Fraction(1, 2)}) * 4 == {"t": 2}
    assert Quantity({"b t": 1, "t": 2, "": 3}).letters == {"b", "t"}


def test_a_quantity_is_immutable_and_equal_to_a_dict_with_the_same_terms():
    quantity = Quantity({"b": 1})
    assert quantity == {"b": 1} != Quantity({"b": 2})
    assert len({quantity, Quantity({"b": 1}), Quantity(1)}) == 2
    with pytest.raises(TypeError):
        quantity["b"] = 2


def test_text_has_the_largest_power_first_and_signs():
    quantity = Quantity({"b t": 1.18e6, "b t t": 1570, "": -3})
    assert quantity.text("FLOP") == "1.57 kFLOP b t² + 1.18 MFLOP b t - 3 FLOP"
    assert Quantity().text("B") == "0 B"


def test_letters_without_a_size_count_as_1():
    assert Quantity({"b t": 3, "": 2}).at({"t": 5}) == 17


def test_overlays_take_plain_dicts():
    overlay = plots.Overlay("a", "a", "", {"x": {"b": 3}}, {"b": 6}, sizes={"b": 5})
    assert overlay.values["x"] + overlay.whole == {"b": 9}
    assert overlay.share("x") == 0.5
