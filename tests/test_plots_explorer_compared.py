"""Comparisons in the HTML explorer: two models side by side."""
# ruff: noqa: F811 - fixtures are imported

import plots_models
import pytest
from annotated_graphs import ATTENTION, BLOCKS, graph_of
from explorer_pages import (  # noqa: F401 - fixtures
    at,
    browser,
    click,
    opened,
    seen,
    settled,
    shown,
    spine,
    window,
)

import plots
from plots.differences.union import older_side


@pytest.fixture(scope="module")
def compared():
    """The comparison of a post-norm and a pre-norm model, and the older of the two."""
    old, new = (graph_of(plots_models.decoder_only(norm, BLOCKS)) for norm in ("post", "pre"))
    marked = plots.diff(new, against=old)
    return marked, older_side(marked, plots.compare_graphs(old, new))


def edges_seen(page, within):
    """Return the tooltips of all edges, which name their ends."""
    return set(page.locator(f"{within} .edge title").all_text_contents())


def test_a_comparison_is_shown_side_by_side(shown, compared):
    marked, older = compared
    page = shown(marked, "#depth=9", before=older)
    assert "note-added" in page.get_attribute(at("decoder.final_norm"), "class")
    norm = "decoder.block_0.feedforward.norm"
    assert "note-moved" in page.get_attribute(at(norm), "class")
    click(page, "#split")
    assert page.locator(".side h2").all_text_contents() == ["before", "after"]
    left, right = (f".side:nth-child({number})" for number in (1, 2))
    assert set(seen(page, right)) - set(seen(page, left)) == {"decoder.final_norm"}
    # Each side has the edges of its own model: the norm after the merge, or first on the branch.
    merge, up = (norm.replace("norm", part) for part in ("residual", "up"))
    assert any(tip.startswith(f"{merge} → {norm} ") for tip in edges_seen(page, left))
    assert any(tip.startswith(f"{norm} → {up} ") for tip in edges_seen(page, right))
    assert spine(page)


def test_the_two_sides_of_a_comparison_move_together(shown, compared):
    marked, older = compared
    page = shown(marked, "#split=true", before=older)
    left, right = (f".side:nth-child({number})" for number in (1, 2))
    page.hover(f"{left} [data-id='{ATTENTION}.*']")
    for side in (left, right):
        assert page.locator(f"{side} [data-id='{ATTENTION}.*'].lit").count() == 1
    click(page, f"{left} [data-id='{ATTENTION}.*']")
    for side in (left, right):
        assert f"{ATTENTION}.query" in seen(page, side)
    page.click(f"{right} [data-id='{ATTENTION}.query']")
    for side in (left, right):
        assert page.locator(f"{side} .selected").get_attribute("data-id") == f"{ATTENTION}.query"


def test_fit_before_the_first_layout_does_nothing(shown, compared):
    marked, older = compared
    page = shown(marked, before=older)
    page.evaluate("['split', 'fit'].forEach((id) => byId(id).click())")
    settled(page)
    assert page.locator(".side").count() == 2


def test_arrow_keys_work_from_a_call_that_only_one_side_has(shown, compared):
    marked, older = compared
    page = shown(marked, "#depth=9&split=true&select=decoder.final_norm", before=older)
    page.keyboard.press("ArrowDown")
    assert page.text_content("#panel .path") == "logits"
    assert page.evaluate("document.activeElement.dataset.id") == "logits"
