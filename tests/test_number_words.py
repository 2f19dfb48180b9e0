"""Numbers, ordinals and times in words, compared with num2words and known values."""

import random
from decimal import Decimal

import pytest
from num2words import num2words

from functional_models.corpora.dates import _time_in_words
from functional_models.corpora.number_words import (
    LARGEST_ORDINAL,
    english,
    english_ordinal,
    portuguese,
    portuguese_ordinal,
)


@pytest.mark.parametrize(
    ("number", "source", "target"),
    [
        (0, "zero", "zero"),
        (21, "vinte e um", "twenty-one"),
        (100, "cem", "one hundred"),
        (101, "cento e um", "one hundred and one"),
        (1000, "mil", "one thousand"),
        (1100, "mil e cem", "one thousand, one hundred"),
        (1101, "mil cento e um", "one thousand, one hundred and one"),
        (2020, "dois mil e vinte", "two thousand and twenty"),
        (16_000, "dezesseis mil", "sixteen thousand"),
        (1_000_001, "um milhão e um", "one million and one"),
        (
            2_300_450,
            "dois milhões trezentos mil quatrocentos e cinquenta",
            "two million, three hundred thousand, four hundred and fifty",
        ),
        (1_200_000, "um milhão e duzentos mil", "one million, two hundred thousand"),
        (
            3_001_000_000,
            "três bilhões e um milhão",
            "three billion, one million",
        ),
        (-14, "menos catorze", "minus fourteen"),
        (Decimal("3.05"), "três vírgula zero cinco", "three point zero five"),
        (Decimal("0.5"), "zero vírgula cinco", "zero point five"),
    ],
)
def test_numbers_in_words_equal_known_values(number, source, target):
    assert portuguese(number) == source
    assert english(number) == target


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (1, "uma"),
        (22, "vinte e duas"),
        (200, "duzentas"),
        (2_531, "duas mil quinhentas e trinta e uma"),
        (2_000_002, "dois milhões e duas"),
    ],
)
def test_portuguese_numbers_agree_with_feminine_nouns(number, words):
    assert portuguese(number, feminine=True) == words


def test_english_numbers_equal_num2words():
    draw = random.Random(0)
    for digits in range(1, 13):
        for _ in range(20):
            number = draw.randrange(10**digits)
            assert english(number) == num2words(number, lang="en")


def test_portuguese_numbers_equal_num2words_without_commas():
    draw = random.Random(0)
    for _ in range(200):
        number = draw.randrange(10**6)
        assert portuguese(number) == num2words(number, lang="pt_BR").replace(",", "")


@pytest.mark.parametrize(
    ("number", "masculine", "feminine", "target"),
    [
        (1, "primeiro", "primeira", "first"),
        (12, "décimo segundo", "décima segunda", "twelfth"),
        (99, "nonagésimo nono", "nonagésima nona", "ninety-ninth"),
        (
            345,
            "tricentésimo quadragésimo quinto",
            "tricentésima quadragésima quinta",
            "three hundred and forty-fifth",
        ),
    ],
)
def test_ordinals_in_words_equal_known_values(number, masculine, feminine, target):
    assert portuguese_ordinal(number) == masculine
    assert portuguese_ordinal(number, feminine=True) == feminine
    assert english_ordinal(number) == target


@pytest.mark.parametrize("convert", [portuguese_ordinal, english_ordinal])
@pytest.mark.parametrize("number", [0, LARGEST_ORDINAL + 1])
def test_ordinals_out_of_range_raise(convert, number):
    with pytest.raises(ValueError, match="from 1 to 399"):
        convert(number)


@pytest.mark.parametrize(
    ("hour", "minute", "source", "target"),
    [
        (0, 0, "à meia-noite", "at midnight"),
        (0, 15, "à meia-noite e quinze", "at a quarter past midnight"),
        (1, 0, "à uma hora da madrugada", "at one o'clock in the morning"),
        (1, 30, "à uma e meia da madrugada", "at half past one in the morning"),
        (8, 7, "às oito e sete da manhã", "at eight oh seven in the morning"),
        (11, 45, "às quinze para o meio-dia", "at a quarter to noon"),
        (12, 0, "ao meio-dia", "at noon"),
        (12, 31, "ao meio-dia e trinta e um", "at thirty-one minutes past noon"),
        (12, 50, "às dez para a uma da tarde", "at ten to one in the afternoon"),
        (14, 40, "às vinte para as três da tarde", "at twenty to three in the afternoon"),
        (17, 37, "às cinco e trinta e sete da tarde", "at five thirty-seven in the afternoon"),
        (18, 5, "às seis e cinco da noite", "at five past six in the evening"),
        (22, 0, "às dez horas da noite", "at ten o'clock at night"),
        (23, 55, "às cinco para a meia-noite", "at five to midnight"),
    ],
)
def test_times_in_words_equal_known_values(hour, minute, source, target):
    phrase = _time_in_words(hour, minute)
    assert phrase.source_preposition + phrase.source == source
    assert phrase.target_preposition + phrase.target == target
