"""Text tables do not depend on the terminal."""

import pytest

from functional_models.tables import format_table

ROWS = [("name", "count", ""), ("[bold]a :smile:", "1,234", "x" * 300), ("日本", "7", "")]


@pytest.fixture(autouse=True)
def narrow_colour_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "20")


def test_columns_are_aligned_without_wrapping_colours_or_trailing_spaces():
    assert format_table(ROWS).split("\n") == [
        "name             count",
        "[bold]a :smile:  1,234  " + "x" * 300,
        "日本                 7",
    ]


def test_columns_are_left_aligned_on_request():
    assert format_table([row[:2] for row in ROWS], align="left").split("\n") == [
        "name             count",
        "[bold]a :smile:  1,234",
        "日本             7",
    ]


def test_the_first_row_is_the_header_in_markdown():
    assert format_table([("a", "b"), ("two\nlines", "1")], markdown=True).split("\n") == [
        "| a         | b |",
        "|-----------|---|",
        "| two lines | 1 |",
    ]
