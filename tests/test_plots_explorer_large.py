"""Large, wide and dense models in the HTML explorer: never blank, and bounded work per click."""

import graphlib
import itertools
import random

import keras
import pytest
from annotated_graphs import ATTENTION, graph_of
from explorer_pages import at, click, seen, settled
from small_graphs import made

from plots.renderers import html as explorer
from plots.skips import mark_skip_paths

MOST_INSIDE, MOST_BOXES = 300, 600
"""Limits of `sections.js` and `explorer.js`."""

IN_VIEW = """() => {
    const stage = document.querySelector("#stage").getBoundingClientRect();
    const isIn = ({ left, right, top, bottom }) =>
        right > stage.left && left < stage.right && bottom > stage.top && top < stage.bottom;
    const items = [...document.querySelectorAll("#stage .item")];
    return items.filter((e) => isIn(e.getBoundingClientRect())).map((e) => e.dataset.id);
}"""
"""The ids of the items that are visible, at least in part."""

RECTANGLES = """(selector) => [...document.querySelectorAll(selector)].map((element) => {
    const { e: x, f: y } = element.transform.baseVal.consolidate()?.matrix ?? { e: 0, f: 0 };
    const box = (element.querySelector(".shape") ?? element).getBBox();
    return [box.x + x, box.y + y, box.x + x + box.width, box.y + y + box.height];
})"""
"""[left, top, right, bottom] of elements, in the coordinates of the picture."""

DRAWN = """([data, depth]) => {
    const model = new Model(data);
    const isOpen = (namespace) => namespace.depth <= depth;
    const view = viewOf(model, { isOpen, isFolded: () => false }, true);
    const items = [...view.items.values()].map(({ id, calls }) => [id, calls]);
    return { items, edges: view.edges.map(({ source, target }) => [source, target]) };
}"""
"""The items with their calls, and the edges, of the view of a model at a depth."""


def flat_chain(length):
    """Return a graph of calls in a row, whose names have no dots."""
    calls = [("x", "InputLayer", [])]
    for number in range(1, length):
        calls.append((f"call_{number}", "Relu", [calls[-1][0]]))
    return made(*calls)


def residual_stack(blocks, names):
    """Return a graph of blocks of a norm, a layer and a merge, with these names."""
    calls = [("x", "InputLayer", [])]
    for number in range(1, blocks + 1):
        source = calls[-1][0]
        norm, up, add = (name.format(number) for name in names)
        calls.append((norm, "LayerNormalization", [source]))
        calls.append((up, "Dense", [norm], {"units": 7}))
        calls.append((add, "Add", [source, up]))
    return mark_skip_paths(made(*calls))


def parallel_inputs(count):
    inputs = [(f"input_{number}", "InputLayer", []) for number in range(count)]
    return made(*inputs, ("all", "Concatenate", [name for name, *_ in inputs]))


def random_flat(count):
    """Return calls with one to three sources, of which some are far away."""
    drawn = random.Random(17)
    calls = [("x", "InputLayer", [])]
    for number in range(1, count):
        far = [calls[drawn.randrange(number)][0] for _ in range(drawn.randrange(3))]
        calls.append((f"call_{number}", "Add", list(dict.fromkeys([calls[-1][0], *far]))))
    return made(*calls)


def alternating(count):
    """Return a chain that leads from one namespace to the other and back with every call."""
    calls = [("x", "InputLayer", [])]
    for number in range(count):
        calls.append((f"{'ab'[number % 2]}.call_{number}", "Relu", [calls[-1][0]]))
    return made(*calls)


def all_to_all(count):
    """Return calls that each add the outputs of all earlier ones."""
    calls = [("x", "InputLayer", [])]
    for number in range(1, count):
        calls.append((f"sum_{number}", "Add", [name for name, *_ in calls]))
    return made(*calls)


def said(page):
    return page.text_content("#status")


@pytest.mark.slow
def test_a_wide_picture_opens_with_its_beginning_and_fits(opened):
    page = opened(parallel_inputs(17), "#fold=false")
    assert 0 < len(page.evaluate(IN_VIEW)) < 18
    page.click("#fit")
    assert sorted(page.evaluate(IN_VIEW)) == sorted(seen(page))
    world, stage = (page.locator(e).bounding_box() for e in (".picture > g", "#stage"))
    margins = [world["x"] - stage["x"], stage["x"] + stage["width"] - world["x"] - world["width"]]
    assert margins[0] == pytest.approx(margins[1], abs=15)
    page.keyboard.press("-")
    assert page.evaluate(IN_VIEW)


@pytest.mark.slow
def test_a_strip_is_wrapped_into_rows(opened):
    page = opened(parallel_inputs(97), "#fold=false")
    assert len(seen(page)) == 98
    assert "too wide to read" in said(page)
    page.click("#fit")
    sizes = [page.locator(at(f"input_{number}")).bounding_box()["height"] for number in (0, 96)]
    assert min(sizes) > 3


@pytest.mark.slow
def test_a_long_chain_opens_in_groups_and_every_call_can_be_reached(opened):
    page = opened(flat_chain(1201), "#fold=false")
    groups = seen(page)
    assert 1 < len(groups) <= MOST_INSIDE
    assert page.evaluate(IN_VIEW)
    assert "groups" in said(page)
    click(page, "#expand")
    assert seen(page) == groups
    assert f"at most {MOST_BOXES} boxes" in said(page)
    page.keyboard.press("/")
    page.keyboard.type("call_789")
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator(".item.selected").get_attribute("data-id") == "call_789"
    assert "call_789" in page.evaluate(IN_VIEW)
    assert len(seen(page)) < len(groups) + 60  # the group with the hit only


@pytest.mark.slow
@pytest.mark.parametrize(
    ("graph", "depth"),
    [
        (random_flat(401), 0),
        (alternating(401), 0),
        (all_to_all(61), 0),
        (parallel_inputs(211), 0),
        (residual_stack(311, ("b_{}.norm", "b_{}.up", "b_{}.add")), 1),
    ],
    ids=["random", "alternating", "dense", "wide", "residual"],
)
def test_groups_contain_every_call_once_and_form_no_cycle(shown, decoder, graph, depth):
    drawn = shown(decoder).evaluate(DRAWN, [explorer.page_data(graph), depth])
    assert len(drawn["items"]) < min(MOST_INSIDE, len(graph.nodes) / 3)
    calls = [call for _, inside in drawn["items"] for call in inside]
    assert sorted(calls) == sorted(node.id for node in graph.nodes)
    before = {item: set() for item, _ in drawn["items"]}
    for source, target in drawn["edges"]:
        before[target].add(source)
    assert len(list(graphlib.TopologicalSorter(before).static_order())) == len(before)


def test_rows_replace_a_layout_that_fails(opened, decoder):
    page = opened(decoder)
    page.evaluate(
        "() => { Engine.prototype.layout = async () => { throw new Error('no <b>memory</b>') } }"
    )
    click(page, "#expand")
    assert "Graphviz failed (no <b>memory</b>)" in said(page)
    assert f"{ATTENTION}.query" in seen(page)
    assert page.evaluate(IN_VIEW)
    items, frames = (page.evaluate(RECTANGLES, which) for which in (".item", ".cluster"))
    for a, b in itertools.combinations(items, 2):
        apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
        assert apart, "two items overlap"
    for item, (left, top, right, bottom) in itertools.product(items, frames):
        inside = left <= item[0] and item[2] <= right and top <= item[1] and item[3] <= bottom
        outside = right <= item[0] or item[2] <= left or bottom <= item[1] or item[3] <= top
        assert inside or outside, "an item crosses the frame of a cluster"


@pytest.mark.slow
def test_visible_hits_are_not_laid_out_again(shown, decoder):
    page = shown(decoder, "#depth=9&fold=false")
    page.evaluate("""() => {
        const { layout } = Engine.prototype;
        window.layouts = 0;
        Engine.prototype.layout = function (dot) {
            window.layouts += 1;
            return layout.call(this, dot);
        };
    }""")
    page.keyboard.press("/")
    page.keyboard.type("query einsumdense")
    page.keyboard.press("Enter")
    hits = [page.text_content("#panel .path")]
    for key in ("n", "n", "n", "N"):
        page.keyboard.press(key)
        settled(page)
        hits.append(page.text_content("#panel .path"))
    queries = [f"decoder.block_{number}.self_attention.query" for number in range(3)]
    assert hits == [*queries, queries[0], queries[2]]
    assert page.text_content(".steps output") == "3 of 3"
    assert page.evaluate("window.layouts") == 0


@pytest.mark.slow
def test_the_picture_stays_in_view_when_it_changes_its_size(opened):
    page = opened(residual_stack(13, ("net.b_{}.norm", "net.b_{}.up", "net.b_{}.add")))
    click(page, "#fold")
    click(page, "#expand")
    for _ in range(8):
        page.keyboard.press("+")
    page.evaluate(
        "document.querySelector('.picture').dispatchEvent("
        "new WheelEvent('wheel', { deltaY: 4000, deltaX: 900 }))"
    )
    click(page, "#collapse")
    assert page.evaluate(IN_VIEW)


def test_long_names_are_shortened_in_the_picture_only(opened):
    name = "layer_" + "x" * 5000
    page = opened(made(("x", "InputLayer", []), (name, "Relu", ["x"])))
    assert page.locator(at(name)).bounding_box()["width"] < 700
    assert page.evaluate(IN_VIEW) == ["x", name]
    page.click(at(name))
    assert page.text_content("#panel .path") == name


@pytest.mark.slow
def test_a_layout_that_takes_too_long_is_replaced_by_rows(opened, decoder):
    page = opened(decoder)
    page.evaluate("() => { Worker.prototype.postMessage = () => {} }")  # it never answers
    click(page, "#expand")
    assert "needs too long" in said(page)
    assert page.evaluate(IN_VIEW)


@pytest.mark.slow
def test_a_first_layout_that_is_stopped_is_replaced_by_rows(opened, decoder):
    page = opened(decoder)
    page.add_init_script("Worker.prototype.postMessage = () => {}")  # it never answers
    page.reload()
    page.wait_for_function("() => document.querySelector('#status').textContent.includes('Esc')")
    page.keyboard.press("Escape")
    settled(page)
    assert "stopped" in said(page)
    assert page.evaluate(IN_VIEW)


@pytest.mark.slow
@pytest.mark.parametrize("address", ["", "#shapes=true"])
@pytest.mark.parametrize("name", ["NASNetMobile", "InceptionResNetV2"])
def test_large_applications_open_with_their_beginning_in_view(opened, name, address):
    with keras.StatelessScope(initialize_variables=False):
        graph = graph_of(getattr(keras.applications, name)(weights=None))
    assert opened(graph, address).evaluate(IN_VIEW)


@pytest.mark.slow
def test_a_frame_that_is_shown_later_has_a_picture(opened, decoder, tmp_path):
    page = opened(decoder)  # a page that records errors
    hidden = f"<!doctype html><div hidden>{decoder._repr_html_()}</div>"
    (tmp_path / "notebook.html").write_text(hidden, encoding="utf-8")
    page.goto((tmp_path / "notebook.html").as_uri())
    page.wait_for_timeout(1500)
    page.evaluate("document.querySelector('div').hidden = false")
    frame = page.frame_locator("iframe")
    frame.locator("html[data-state=ready]").wait_for()
    box = frame.locator(at(f"{ATTENTION}.*")).bounding_box()
    assert box["width"] > 30


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        lambda: flat_chain(10_000),
        lambda: alternating(10_000),
        lambda: residual_stack(
            3333, ("net.block_{}.norm", "net.block_{}.ff.up", "net.block_{}.add")
        ),
        lambda: residual_stack(3333, ("norm_{}", "up_{}", "add_{}")),
        lambda: residual_stack(3333, ("layer_normalization#{}", "dense#{}", "add#{}")),
    ],
    ids=["chain", "alternating", "nested", "flat", "unnamed"],
)
@pytest.mark.parametrize("fold", ["true", "false"])
def test_every_click_on_a_model_of_10000_calls_takes_less_than_two_seconds(opened, build, fold):
    graph = build()
    page = opened(graph, f"#fold={fold}")
    taken = {"open": page.evaluate("performance.now()")}
    assert page.evaluate(IN_VIEW)

    def step(name, does):
        start = page.evaluate("performance.now()")
        does()
        settled(page)
        frame = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        page.evaluate(frame)
        taken[name] = page.evaluate("performance.now()") - start
        assert page.evaluate(IN_VIEW), name

    press = "(e) => e.dispatchEvent(new MouseEvent('click', { bubbles: true }))"
    for control in ("expand", "collapse", "deeper", "fit", "theme", "shapes", "shapes"):
        if page.locator(f"#{control}").is_visible():
            step(control, lambda control=control: page.click(f"#{control}"))
    page.fill("#search", graph.nodes[7001].id)
    step("search", lambda: page.press("#search", "Enter"))
    assert graph.nodes[7001].id in page.evaluate(IN_VIEW)
    if page.locator(".item.closed").count():
        step("open", lambda: page.locator(".item.closed").first.evaluate(press))
    if page.locator(".header").count():
        step("close", lambda: page.locator(".header").last.evaluate(press))
    assert max(taken.values()) < 2000, taken
