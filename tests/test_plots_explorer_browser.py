"""The pictures of the HTML explorer in a browser without network, also of two models."""

import itertools
from dataclasses import replace
from operator import itemgetter

import keras
import plots_models
import pytest
from annotated_graphs import ATTENTION, BLOCKS, graph_of
from explorer_pages import at, click, lines_of, seen, settled, spine
from keras import layers
from small_models import reduced_variant

import builders
import plots
from plots import Note, Overlay, renderers
from plots.differences.union import older_side


def test_the_first_view_has_blocks_folded_and_sublayers_collapsed(shown, decoder):
    page = shown(decoder)
    assert page.title() == "pre_norm"
    assert f"{ATTENTION}.*" in seen(page)
    assert not [place for place in seen(page) if "block_1" in place or place.endswith(".query")]
    assert page.text_content(f"{at('decoder.block_0.*')} .badge text") == f"× {BLOCKS}"


@pytest.mark.parametrize("address", ["", "#depth=0", "#depth=1", "#depth=9", "#fold=false&depth=9"])
def test_the_stream_is_one_straight_line_from_embedding_to_output(shown, decoder, address):
    page = shown(decoder, address)
    lines = spine(page)
    if address == "#depth=0":
        assert page.query_selector(f"{at('decoder.*')} .rail")
        return
    assert max(x for x, *_ in lines) - min(x for x, *_ in lines) < 1
    # The gap between two lines is one node on the stream, never a whole row.
    for (_, _, _, above), (_, below, _, _) in itertools.pairwise(sorted(lines, key=itemgetter(1))):
        assert 0 < below - above < 70


@pytest.mark.slow
def test_the_streams_of_encoder_and_decoder_are_straight_too(opened):
    page = opened(graph_of(plots_models.encoder_decoder("post")))
    assert len({round(x) for x, *_ in spine(page)}) == 2
    click(page, "#expand")
    assert len({round(x) for x, *_ in spine(page)}) == 2


@pytest.mark.slow
def test_sublayers_of_top_level_blocks_are_to_the_right_of_the_stream(opened):
    page = opened(graph_of(plots_models.top_level_blocks()), "#fold=false&depth=2")
    assert len({round(x) for x, *_ in spine(page)}) == 1
    stream = page.locator(".edge.stream .line").first.bounding_box()["x"]
    for number, part in itertools.product(range(2), ("self_attention", "feedforward")):
        assert page.locator(at(f"block_{number}.{part}.*")).bounding_box()["x"] > stream


@pytest.mark.slow
@pytest.mark.parametrize("address", ["#depth=9", "#fold=false&depth=9", "#fold=false&depth=2"])
def test_sublayers_are_to_the_right_of_a_stream_that_starts_at_an_input(opened, address):
    x = y = keras.Input((7,), name="x")
    for number in range(3):
        z = layers.LayerNormalization(name=f"net.block_{number}.norm")(y)
        z = layers.Dense(7, name=f"net.block_{number}.feedforward.up")(z)
        y = layers.Add(name=f"net.block_{number}.residual")([y, z])
    page = opened(graph_of(keras.Model(x, y)), address)
    assert len({round(x) for x, *_ in spine(page)}) == 1
    stream = page.locator(".edge.stream .line").first.bounding_box()["x"]
    norms = page.locator(".item.role-norm").all()
    assert norms
    assert all(norm.bounding_box()["x"] > stream for norm in norms)


@pytest.mark.slow
def test_edges_of_parallel_sublayers_stay_on_their_side_of_the_stream(opened):
    spec = reduced_variant("pythia_70m", "decoder_only")
    page = opened(graph_of(builders.build(spec, abstract=True)), "#depth=2")
    (stream,) = {round(x) for x, *_ in spine(page)}
    branches = lines_of(page, ".edge:not(.stream)")
    assert len(branches) > 4
    assert min(min(points[::2]) for points in branches) > stream - 1


def test_hovering_traces_the_skip_path(shown, decoder):
    page = shown(decoder)
    page.hover(at(f"{ATTENTION}.*"))
    path = next(p for p in decoder.skip_paths if f"{ATTENTION}.query" in p.bypassed)
    lit = page.evaluate("Array.from(document.querySelectorAll('.item.lit'), e => e.dataset.id)")
    assert set(lit) == {path.source, path.target, f"{ATTENTION}.*"}
    assert page.locator(".edge.along").count() == 1
    said = page.text_content("#status")
    assert path.source in said
    assert path.target in said
    assert "pre-norm" in said
    page.mouse.move(5, 890)
    assert page.locator(".tracing").count() == 0


def test_an_overlay_colours_and_labels_calls_and_clusters(shown, decoder):
    page = shown(decoder)
    (overlay,) = decoder.overlays
    assert page.locator("#overlay option").all_text_contents() == ["no overlay", "weights"]
    page.select_option("#overlay", "parameters")
    settled(page)
    token = "decoder.token_embedding"
    assert overlay.text(token) in page.locator(f"{at(token)} text").all_text_contents()
    heat = "e => Number(e.style.getPropertyValue('--heat').replace('%', ''))"
    hot = {place: page.eval_on_selector(at(place), heat) for place in (token, f"{ATTENTION}.*")}
    numbers = {
        token: decoder.node(token).parameters,
        f"{ATTENTION}.*": sum(n.parameters for n in decoder.nodes if n.namespace == ATTENTION),
    }
    assert max(hot, key=hot.get) == max(numbers, key=numbers.get)
    assert max(hot.values()) == 100
    page.select_option("#overlay", "")
    settled(page)
    assert page.locator(".weighed").count() == 0


def test_shapes_label_the_edges(shown, decoder):
    page = shown(decoder)
    assert page.locator("text.beside").count() == 0
    click(page, "#shapes")
    assert f"? × ? × {plots_models.WIDTH}" in page.locator("text.beside").all_text_contents()


def test_the_theme_follows_the_system_and_the_button(opened, decoder):
    page = opened(decoder, color_scheme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(background)
    assert page.get_attribute("html", "data-theme") == "dark"
    page.click("#theme")
    assert page.get_attribute("html", "data-theme") == "light"
    assert page.evaluate(background) != dark


def test_the_panel_describes_a_call_and_links_to_others(shown, decoder):
    page = shown(decoder)
    click(page, "#panel .notes a")  # the finding, in a block that is folded
    place = "decoder.block_1.feedforward.up"
    page.wait_for_selector(f"{at(place)}.selected.note-finding")
    text = page.text_content("#panel")
    for said in (place, "Dense", '"relu"', "It is <b>too</b> wide.", "page 7", "pre-norm"):
        assert said in text
    assert f"{decoder.node(place).parameters:,}" in text
    click(page, f"#panel a[title='{place.replace('up', 'norm')}']")
    assert page.text_content("#panel .path") == place.replace("up", "norm")


def test_the_panel_shows_pictures_of_calls(shown, decoder):
    page = shown(decoder, f"#depth=9&select={ATTENTION}.query")
    width = "e => e.decode().then(() => e.naturalWidth)"
    assert page.eval_on_selector("#panel img", width) == 1


def test_calls_that_share_weights_link_to_each_other(opened):
    shared = layers.Dense(5, name="shared")
    x = keras.Input((5,), name="x")
    page = opened(graph_of(keras.Model(x, shared(shared(x)))), "#select=shared")
    click(page, "#panel section:has(h3:text('Shares weights with')) a")
    assert page.text_content("#panel .path") == "shared@2"


def test_boxes_say_what_a_layer_does_and_that_it_is_shared(opened):
    image = keras.Input((13, 13, 3), name="image")
    y = layers.Conv2D(7, 5, strides=2, name="convolution")(image)
    y = layers.Reshape((5, 35))(y)
    y = layers.Bidirectional(layers.LSTM(11, return_sequences=True))(y)
    twice = layers.Dense(22, name="twice")
    y = layers.Concatenate()([twice(y), twice(layers.ReLU()(y))])
    page = opened(graph_of(keras.Model(image, y)))
    texts = {place: page.locator(f"{at(place)} text").all_text_contents() for place in seen(page)}
    assert texts["convolution"] == ["convolution", "Conv2D", "7 filters 5×5, stride 2"]
    assert texts["bidirectional#1"] == ["Bidirectional", "LSTM", "11 units"]
    for place in ("twice", "twice@2"):
        assert texts[place] == ["twice", "Dense", "shared × 2", "22 units"]


def test_notes_on_normal_differences_frame_nothing(opened, decoder):
    place = "decoder.block_0.feedforward.up"
    page = opened(replace(decoder, notes=(Note("deviates", (place,), "Said."),)), "#depth=9")
    assert "noted" not in page.get_attribute(at(place), "class").split()
    assert page.locator(f"{at(place)} .mark").count() == 1


def test_labels_cannot_become_part_of_the_page(opened):
    bad = '</script><script>alert(1)</script><img src="x:y" onerror="alert(2)">&amp;{}|\\n"\''
    x = keras.Input((5,), name="x")
    graph = graph_of(keras.Model(x, layers.Dense(7, name="plain.one")(x)))
    node = replace(graph.nodes[1], id=bad, layer=bad, name=bad, class_name=bad, config={bad: bad})
    graph = replace(
        graph,
        name=bad,
        nodes=(graph.nodes[0], node),
        edges=tuple(replace(edge, target=bad, port=bad) for edge in graph.edges),
        outputs=((bad, 0),),
        notes=(Note(bad, (bad,), bad, bad),),
        overlays=(Overlay(bad, bad, bad, {bad: {"": 3.0}}),),
    )
    page = opened(replace(graph, name="bad"), "#depth=9")
    page.select_option("#overlay", bad)
    settled(page)
    page.locator(".item").nth(1).click()
    assert page.text_content("#panel .path") == bad
    assert page.locator("#panel img, #stage img").count() == 0
    assert opened(replace(graph, name=bad.replace("/", ""))).title() == bad.replace("/", "")


def test_a_model_of_one_layer_is_drawn(opened):
    x = keras.Input((5,), name="x")
    page = opened(graph_of(keras.Model(x, layers.Dense(7, name="only")(x))))
    assert seen(page) == ["x", "only"]
    assert page.locator("#depths, #fold, #overlay, #split").evaluate_all(
        "all => all.every(e => e.hidden)"
    )


@pytest.mark.slow
def test_gpt2_small_opens_in_less_than_two_seconds(opened):
    with keras.StatelessScope(initialize_variables=False):
        graph = graph_of(builders.build_decoder_only("gpt2_small"))
    since_navigation = "performance.now()"
    assert min(opened(graph).evaluate(since_navigation) for _ in range(3)) < 2000


@pytest.mark.slow
def test_a_notebook_shows_the_page_in_a_frame(opened, decoder, tmp_path):
    page = opened(decoder)  # a page that records errors
    (tmp_path / "notebook.html").write_text(f"<!doctype html>{decoder._repr_html_()}")
    page.goto((tmp_path / "notebook.html").as_uri())
    frame = page.frame_locator("iframe")
    frame.locator("html[data-state=ready]").wait_for()
    frame.locator(at(f"{ATTENTION}.*")).click()
    frame.locator(at(f"{ATTENTION}.query")).wait_for()


@pytest.mark.slow
def test_shapes_can_be_shown_at_first(opened, decoder, tmp_path):
    plots.draw(decoder, tmp_path / "model.html", plugins=(), shapes=True)
    page = opened(decoder)
    page.goto((tmp_path / "model.html").as_uri())
    settled(page)
    shape = f"? × ? × {plots_models.WIDTH}"
    assert shape in page.locator("text.beside").all_text_contents()
    click(page, "#shapes")
    assert page.locator("text.beside").count() == 0
    other = "() => location.hash === '#shapes=false'"
    page.wait_for_function(other)
    page.reload()
    settled(page)
    assert page.locator("text.beside").count() == 0


@pytest.mark.slow
def test_an_edge_has_the_colour_of_its_main_note(opened, decoder):
    edge = next(e for e in decoder.edges if e.target.endswith("block_0.feedforward.up"))
    kinds = ("added", "finding", "description")
    notes = tuple(Note(kind, (edge.id,), "Said.") for kind in kinds)
    page = opened(replace(decoder, notes=notes), "#depth=9")
    assert "note-added" in page.get_attribute("#stage .edge.noted", "class")
    line = renderers.noted_colour(replace(decoder, notes=notes), edge.id)
    assert line == renderers.note_colour("added")
    assert f'color="{line}"' in plots.list_renderers()["dot"](replace(decoder, notes=notes))


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
