"""Pages of the HTML explorer in a browser without network, and questions about them."""

import functools
import re
import shutil

import pytest

import plots

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)


@functools.cache
def _decoder() -> plots.Graph:
    from annotated_graphs import annotated_decoder

    return annotated_decoder()


@pytest.fixture(scope="module")
def decoder() -> plots.Graph:
    return _decoder()


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="needs `pip install playwright`")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: `apt-get install chromium`")
    with playwright.sync_playwright() as driver:
        # Chromium needs this flag to run as root, as in a container.
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


class Watched:
    """A browser window that records errors and network requests of its pages."""

    def __init__(self, browser, folder):
        self.folder = folder
        self.complaints = []
        self.pages = {}
        self.context = browser.new_context(
            viewport={"width": 1280, "height": 900}, reduced_motion="reduce"
        )
        self.context.set_default_timeout(10_000)
        self.context.route("**/*", self.only_files)

    def only_files(self, route):
        if route.request.url.startswith(("file:", "blob:", "data:")):
            route.continue_()
        else:
            self.complaints.append(f"request: {route.request.url}")
            route.abort()

    def open(self, graph, address="", before=None, **media):
        """Open a new page."""
        path = self.folder / f"{len(self.context.pages)}.html"
        path.write_text(plots.to_html(graph, before=before), encoding="utf-8")
        page = self.context.new_page()
        page.on("console", lambda message: self.complaints.append(f"console: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"error: {error}"))
        page.on("dialog", lambda dialog: self.complaints.append(f"dialog: {dialog.message}"))
        page.emulate_media(**media)
        page.goto(f"{path.as_uri()}{address}")
        return settled(page)

    def show(self, graph, address="", before=None):
        """Show a graph in its page, the same on every call, at another address."""
        if id(graph) not in self.pages:
            self.pages[id(graph)] = self.open(graph, before=before)
        page = self.pages[id(graph)]
        page.bring_to_front()
        page.mouse.move(0, 0)
        page.evaluate("document.activeElement.blur()")
        # The address may still be outdated after a change of the zoom.
        go = "to => { location.hash = to; dispatchEvent(new HashChangeEvent('hashchange')) }"
        page.evaluate(go, address)
        return settled(page)


@pytest.fixture(scope="module")
def window(browser, tmp_path_factory):
    window = Watched(browser, tmp_path_factory.mktemp("pages"))
    yield window
    window.context.close()


@pytest.fixture
def opened(window):
    """Open a new page; the test fails on errors and network requests of any page."""
    yield window.open
    assert window.complaints == []


@pytest.fixture
def shown(window):
    """Show a graph in its page; the test fails on errors and network requests of any page."""
    yield window.show
    assert window.complaints == []


def settled(page):
    page.wait_for_selector("html[data-state=ready]")
    return page


def click(page, selector):
    page.click(selector)
    return settled(page)


def at(place):
    return f'#stage [data-id="{place}"]'


def seen(page, within="#stage"):
    """Return the ids of the visible calls and collapsed clusters."""
    found = f"Array.from(document.querySelectorAll('{within} .item'), e => e.dataset.id)"
    return page.evaluate(found)


def lines_of(page, edges):
    """Return the numbers x, y, x, y, ... of the points of every line of some edges."""
    paths = page.evaluate(
        f"Array.from(document.querySelectorAll('{edges} .line'), e => e.getAttribute('d'))"
    )
    return [[float(n) for n in re.findall(r"-?[\d.]+", path)] for path in paths]


def spine(page):
    """Return the ends (x, y, x, y) of the lines of the residual stream, from top to bottom."""
    points = lines_of(page, ".edge.stream")
    for xs in (numbers[::2] for numbers in points):
        assert max(xs) - min(xs) < 0.2, "the stream bends"
    return sorted((*p[:2], *p[-2:]) for p in points)
