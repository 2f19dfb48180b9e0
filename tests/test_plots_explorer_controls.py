"""The controls of the HTML explorer: clicks, search, keys, and links to a view."""

import re

import keras
import pytest
from annotated_graphs import ATTENTION, BLOCKS, graph_of
from explorer_pages import at, click, seen, settled
from keras import layers
from small_graphs import made

import plots
from plots.renderers import html as explorer


def test_a_click_expands_and_collapses_a_cluster(shown, decoder):
    page = shown(decoder)
    before = seen(page)
    assert page.get_attribute(at(f"{ATTENTION}.*"), "aria-expanded") == "false"
    click(page, at(f"{ATTENTION}.*"))
    assert {f"{ATTENTION}.{part}" for part in ("norm", "query", "key", "value")} < set(seen(page))
    assert page.get_attribute(at(f"{ATTENTION}.*"), "aria-expanded") == "true"
    click(page, at(f"{ATTENTION}.*"))
    assert seen(page) == before


def test_buttons_expand_and_collapse_all_clusters_or_one_level(shown, decoder):
    page = shown(decoder)
    click(page, "#expand")
    assert seen(page) == [node.id for node in plots.fold(decoder).nodes]
    click(page, "#collapse")
    assert "decoder.*" in seen(page)
    assert not [place for place in seen(page) if place.startswith("decoder.b")]
    click(page, "#deeper")
    assert "decoder.block_0.*" in seen(page)
    click(page, "#shallower")
    assert "decoder.*" in seen(page)


def test_a_click_unfolds_and_folds_equal_blocks(shown, decoder):
    page = shown(decoder, "#depth=9")
    few = seen(page)
    click(page, f"{at('decoder.block_0.*')} .badge")
    assert set(seen(page)) == {n.id for n in decoder.nodes}
    assert page.text_content(f"{at('decoder.block_1.*')} .badge text") == f"2 of {BLOCKS}"
    click(page, f"{at('decoder.block_0.*')} .badge")
    assert seen(page) == few


def test_runs_inside_of_runs_are_drawn_once(shown, decoder):
    calls = [("x", "InputLayer", [])]
    stages = []
    for stage in range(3):
        stages.append([])
        for block in range(2):
            name = f"net.stage_{stage}.block_{block}"
            calls.append((f"{name}.norm", "LayerNormalization", [calls[-1][0]]))
            calls.append((f"{name}.up", "Dense", [calls[-1][0]], {"units": 7}))
            stages[-1].append([calls[-2][0], calls[-1][0]])
    data = explorer.page_data(made(*calls))
    names = [f"net.stage_{stage}" for stage in range(3)]
    data["runs"] = [{"names": names, "calls": [[*a, *b] for a, b in stages], "period": 1}]
    for name, blocks in zip(names, stages, strict=True):
        inner = {"names": [f"{name}.block_{number}" for number in range(2)], "calls": blocks}
        data["runs"].append(inner | {"period": 1})
    drawn = shown(decoder).evaluate(
        """(data) => {
            const always = () => true;
            const view = viewOf(new Model(data), { isOpen: always, isFolded: always }, true);
            return [[...view.items.keys()], view.edges.length, [...new Set(view.stands.values())]];
        }""",
        data,
    )
    items = ["x", "net.stage_0.block_0.norm", "net.stage_0.block_0.up"]
    assert drawn == [items, 2, items]


def test_search_expands_the_clusters_around_a_hit(shown, decoder):
    page = shown(decoder)
    page.keyboard.press("/")
    page.keyboard.type("block_2 EinsumDense query")
    assert page.locator("#hits [role=option]").count() == 1
    page.keyboard.press("Enter")
    settled(page)
    hit = "decoder.block_2.self_attention.query"
    page.wait_for_selector(f"{at(hit)}.selected")
    assert page.text_content("#panel .path") == hit
    page.keyboard.press("/")
    page.keyboard.type("no such thing")
    assert page.text_content("#hits") == "nothing found"


def test_search_finds_configuration(shown, decoder):
    page = shown(decoder)
    page.fill("#search", "relu")
    assert page.locator("#hits b").all_text_contents() == ["up"] * BLOCKS


WRITTEN = """() => {
    const world = document.querySelector(".picture > g");
    const [, scale] = world.getAttribute("transform").split("scale(");
    return location.hash.endsWith("%2C" + parseFloat(scale).toPrecision(4));
}"""
"""Whether the address contains the scale, which is written with a delay."""


@pytest.mark.slow
def test_a_link_restores_the_view(opened, decoder):
    page = opened(decoder)
    click(page, at(f"{ATTENTION}.*"))
    click(page, f"{at('decoder.block_0.*')} .badge")
    page.select_option("#overlay", "parameters")
    settled(page)
    page.click("#theme")
    page.click(at(f"{ATTENTION}.key"))
    page.keyboard.press("+")
    page.wait_for_function(WRITTEN)
    other = opened(decoder, page.evaluate("location.hash"))
    assert seen(other) == seen(page)
    world = ".picture > g"
    moved = [p.get_attribute(world, "transform") for p in (page, other)]
    numbers = [[float(n) for n in re.findall(r"-?[\d.]+", text)] for text in moved]
    assert numbers[0] == pytest.approx(numbers[1], abs=2)
    assert other.text_content("#panel .path") == f"{ATTENTION}.key"
    assert other.input_value("#overlay") == "parameters"
    assert other.get_attribute("html", "data-theme") == page.get_attribute("html", "data-theme")


def test_unknown_parts_of_a_link_are_ignored(shown, decoder):
    page = shown(decoder, "#select=gone&overlay=gone&depth=x&flipped=gone&zoom=1,2&split=true&a=b")
    assert f"{ATTENTION}.*" in seen(page)
    assert page.text_content("#panel h2") == "pre_norm"
    assert page.text_content("#overlay option:checked") == "no overlay"
    page = shown(decoder, "#zoom=0,0,1e9&theme=gone")
    transform = page.get_attribute(".picture > g", "transform")
    assert float(re.search(r"scale\(([^)]*)\)", transform)[1]) <= 4
    page.emulate_media(color_scheme="dark")
    page.wait_for_selector("html[data-theme=dark]")
    page.emulate_media(color_scheme="light")
    page.wait_for_selector("html[data-theme=light]")


def test_the_keyboard_selects_expands_and_deselects(shown, decoder):
    page = shown(decoder)
    page.keyboard.press("ArrowDown")
    chosen = [page.evaluate("document.activeElement.dataset.id")]
    for _ in range(30):
        page.keyboard.press("ArrowDown")
        chosen.append(page.evaluate("document.activeElement.dataset.id"))
    assert "logits" in chosen
    page.focus(at(f"{ATTENTION}.*"))
    page.keyboard.press("Enter")
    settled(page)
    assert f"{ATTENTION}.query" in seen(page)
    assert page.evaluate("document.activeElement.dataset.id") == f"{ATTENTION}.*"
    page.keyboard.press("Escape")
    assert page.locator(".selected").count() == 0


def test_a_cluster_that_cannot_be_collapsed_stays_expanded_with_a_message(opened):
    x = keras.Input((5,), name="x")
    y = layers.Dense(7, name="around.first")(x)
    y = layers.Dense(11, name="between")(y)
    y = layers.Dense(13, name="around.last")(y)
    page = opened(graph_of(keras.Model(x, y)))
    click(page, at("around.*"))
    assert seen(page) == ["x", "around.first", "between", "around.last"]
    assert "around stays expanded" in page.text_content("#status")


@pytest.mark.slow
def test_obsolete_layouts_are_cancelled(opened, decoder):
    page = opened(decoder)
    page.evaluate("""() => {
        const { layout } = Engine.prototype;
        window.answers = 0;
        Engine.prototype.layout = async function (dot) {
            const answer = await layout.call(this, dot);
            window.answers += 1;
            return answer;
        };
    }""")
    page.evaluate("['expand', 'shapes', 'shapes', 'collapse'].forEach((id) => byId(id).click())")
    settled(page)
    assert page.evaluate("window.answers") == 1
    assert "decoder.*" in seen(page)


def test_a_link_to_a_cluster_of_a_single_call_selects_the_call(opened):
    x = keras.Input((5,), name="x")
    y = layers.Dense(7, name="outer.inner.only")(x)
    y = layers.Dense(11, name="outer.last")(y)
    page = opened(graph_of(keras.Model(x, y)), "#depth=1&select=outer.*")
    click(page, "#panel section:has(h3:text('Inside')) a[title='outer.inner.*']")
    page.wait_for_selector(f"{at('outer.inner.only')}.selected")


@pytest.mark.slow
def test_the_first_click_on_a_cluster_that_cannot_be_collapsed_shows_a_message(opened):
    x = keras.Input((5,), name="x")
    y = layers.Dense(7, name="around.first")(x)
    y = layers.Dense(11, name="between")(y)
    y = layers.Dense(13, name="around.last")(y)
    page = opened(graph_of(keras.Model(x, y)), "#depth=0")
    page.click(at("around.*"))
    assert "around stays expanded" in page.text_content("#status")


def test_only_the_primary_pointer_drags_while_pressed(shown, decoder):
    page = shown(decoder)
    moved = page.evaluate("""() => {
        const picture = document.querySelector(".picture");
        const send = (type, pointerId, at, buttons) => {
            const [isPrimary, place] = [pointerId === 1, { clientX: at, clientY: at }];
            const said = { pointerId, isPrimary, buttons, ...place, bubbles: true };
            picture.dispatchEvent(new PointerEvent(type, said));
        };
        const place = () => picture.firstElementChild.getAttribute("transform");
        const before = place();
        send("pointerdown", 1, 300, 1);
        send("pointerdown", 2, 500, 1);
        send("pointermove", 2, 600, 1); // the other finger
        send("pointermove", 1, 400, 0); // let go outside of the window
        return place() !== before;
    }""")
    assert not moved


def test_the_list_of_hits_closes_when_the_field_loses_focus(shown, decoder):
    page = shown(decoder)
    page.fill("#search", "relu")
    assert page.get_attribute("#search", "aria-expanded") == "true"
    page.evaluate("document.activeElement.blur()")
    assert page.get_attribute("#search", "aria-expanded") == "false"
    assert page.locator("#hits").is_hidden()
    page.fill("#search", "")
