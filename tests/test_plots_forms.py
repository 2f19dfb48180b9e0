"""Equal parts of a picture are laid out once, and each has the places that it would have alone."""

import re

import pytest
from test_plots_pages import stack

from plots.renderers import placement
from plots.renderers.boxes import NO_LABELS
from plots.renderers.forms import Form, form_of
from plots.renderers.pages import page_of

BLOCK = """digraph model {
subgraph "cluster_block_11" {
label="   block_11";
"block_11.a \\"quoted\\"" [tooltip="block_11.a (Dense)", label=<<b>dense 11</b>>, width=0.32];
}
"block_10" -> "block_11.a \\"quoted\\"" [weight=2];
}
"""


def test_graphs_that_differ_in_names_and_digits_have_one_form():
    first, second = form_of(BLOCK), form_of(BLOCK.replace("11", "47").replace("10", "46"))
    assert first.text == second.text
    names = [
        ('"cluster_block_11"', '"cluster_block_47"'),
        ('"block_11.a \\"quoted\\""', '"block_47.a \\"quoted\\""'),
        ('"block_10"', '"block_46"'),
    ]
    assert list(zip(first.names, second.names, strict=True)) == names


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("0.32", "0.56"),
        ("weight=2", "weight=5"),
        ("dense 11", "dense 111"),
        ("dense 11", "wider 11"),
        ('label="   block_11"', 'label="    block_11"'),
        ('"block_10" ->', '"cluster_block_11" ->'),
    ],
    ids=["width", "weight", "digits", "words", "spaces", "ends"],
)
def test_graphs_that_differ_in_what_moves_a_line_have_two_forms(old, new):
    assert BLOCK.count(old) == 1
    assert form_of(BLOCK).text != form_of(BLOCK.replace(old, new)).text


def places(dot):
    """Return the numbers of all positions in DOT, and the text around them."""
    text = dot.to_string()
    number = re.compile(r"-?\d+\.\d+")
    return number.sub("#", text), [float(found) for found in number.findall(text)]


@pytest.mark.parametrize("rankdir", ["TB", "LR"])
def test_each_part_of_a_stack_is_placed_as_it_is_alone(rankdir, monkeypatch):
    graph, laid_out = stack(29), []

    def counted(texts, seconds):
        laid_out.append(len(texts))
        return original(texts, seconds)

    original = placement.layouts_of
    monkeypatch.setattr(placement, "layouts_of", counted)
    words, numbers = places(page_of(graph, NO_LABELS, rankdir, None, "spline", None))
    few = sum(laid_out)
    laid_out.clear()
    monkeypatch.setattr(placement, "form_of", lambda text: Form(text, form_of(text).names))
    expected_words, expected_numbers = places(
        page_of(graph, NO_LABELS, rankdir, None, "spline", None)
    )
    assert words == expected_words
    assert numbers == pytest.approx(expected_numbers, abs=1)  # digits may be kerned
    assert few < sum(laid_out) / 2
