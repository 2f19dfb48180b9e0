"""Time to draw large models, and the size of the pictures.

    python benchmarks/drawing.py             # everything
    python benchmarks/drawing.py --rounds 5
    python benchmarks/drawing.py --only limits

`--only transformers` draws GPT-2 small and GPT-3 175B. It measures the time from a Keras model to
an SVG file, without imports, and reads the height of the picture. The peer is
`keras.utils.plot_model`, which needs Graphviz' `dot` on the PATH; without it only this library is
measured, with its own Graphviz. Both draw the same model in the same process, in turns. The models
have no weights (`abstract=True`), since 175 billion would not fit. With Chromium and playwright,
it also measures the time from opening the HTML explorer to its picture.

`--only limits` measures single steps on large and dense models, next to the time that each should
take on two CPU cores. Models are built before the clock starts.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
from keras import layers

import builders
import plots
from functional_models.tables import format_table

LIMIT = 60  # seconds for one picture
VARIANTS = ("gpt2_small", "gpt3_175b")


def draw_folded(model: keras.Model, file: str) -> None:
    plots.draw(model, file, plugins=["skip_paths"], depth=2)


def draw_all(model: keras.Model, file: str) -> None:
    plots.draw(model, file, plugins=["skip_paths"])


def draw_with_keras(model: keras.Model, file: str) -> None:
    # As `plot_model`, without displaying the file, which fails for SVG with IPython.
    text = keras.utils.model_to_dot(model, show_layer_names=False).to_string()
    command = ["dot", "-Tsvg", "-o", file]
    subprocess.run(command, input=text.encode(), check=True, timeout=LIMIT)


def contenders() -> dict[str, Callable[[keras.Model, str], None]]:
    ours = {"folded, depth 2": draw_folded, "all calls": draw_all}
    return ours | ({"keras.utils.plot_model": draw_with_keras} if shutil.which("dot") else {})


def height_in_points(svg: str) -> float:
    """Return the height of the picture in points (72 per inch)."""
    match = re.search(r'<svg width="[\d.]+(?:pt|px)?" height="([\d.]+)', svg)
    if match is None:
        raise ValueError("this SVG has no height")
    return float(match.group(1))


def opening_seconds(page: Path, rounds: int) -> list[float]:
    """Return the times from opening the explorer in a headless Chromium to its picture."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        return []
    measured = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for _ in range(rounds):
            tab = browser.new_page()
            begin = time.perf_counter()
            tab.goto(page.as_uri())
            tab.wait_for_selector("html[data-state=ready]", timeout=60_000)
            measured.append(time.perf_counter() - begin)
            tab.close()
        browser.close()
    return measured


def chain(calls: int) -> keras.Model:
    """Return a model of so many calls in a row, without names."""
    x = y = keras.Input((7,))
    for _ in range(calls - 1):
        y = layers.Activation("relu")(y)
    return keras.Model(x, y)


def flat_names(calls: int) -> keras.Model:
    """Return a model of residual blocks whose names have no dots: "stage1_block2_dense"."""
    x = y = keras.Input((7,), name="x")
    for number in range(calls // 4):
        name = f"stage{number // 50}_block{number % 50}"
        z = layers.LayerNormalization(name=f"{name}_norm")(y)
        z = layers.Dense(7, name=f"{name}_dense")(z)
        z = layers.Activation("relu", name=f"{name}_relu")(z)
        y = layers.Add(name=f"{name}_add")([y, z])
    return keras.Model(x, y)


def merges(number: int) -> keras.Model:
    """Return a model of so many residual blocks of one layer."""
    x = y = keras.Input((7,), name="x")
    for block in range(number):
        z = layers.Dense(7, name=f"block_{block}.dense")(y)
        y = layers.Add(name=f"block_{block}.residual")([y, z])
    return keras.Model(x, y)


def dense_block(depth: int) -> keras.Model:
    """Return a block in which each convolution takes all earlier outputs, as a list."""
    x = keras.Input((8, 8, 4))
    outputs = [x]
    for _ in range(depth):
        y = layers.Concatenate()(outputs) if len(outputs) > 1 else x
        y = layers.Activation("relu")(layers.BatchNormalization()(y))
        outputs.append(layers.Conv2D(4, 3, padding="same")(y))
    return keras.Model(x, layers.Concatenate()(outputs))


def all_to_all(calls: int) -> keras.Model:
    """Return a model in which each sum takes the outputs of all earlier calls."""
    outputs = [keras.Input((7,))]
    for _ in range(calls - 1):
        outputs.append(layers.Add()(outputs) if len(outputs) > 1 else layers.ReLU()(outputs[0]))
    return keras.Model(outputs[0], outputs[-1])


def unasked(graph: plots.Graph) -> plots.Graph:
    """Return a graph without what was found out about its calls before."""
    return replace(graph, nodes=tuple(replace(node) for node in graph.nodes))


def analyse(graph: plots.Graph) -> None:
    marked = plots.apply_plugins(graph, ["skip_paths"])
    plots.findings(marked)
    plots.fold(marked, 1)


def limits(folder: Path) -> Iterator[tuple[str, float, Callable[[], object]]]:
    """Yield what is measured, the seconds that it should take, and the function to measure."""
    svg, page = folder / "model.svg", folder / "model.html"
    for name, model in (("a chain", chain(10_000)), ("flat names", flat_names(10_000))):
        yield f"read 10,000 calls, {name}", 2, partial(plots.read_graph, model)
    for number in (1000, 3333):
        graph = plots.read_graph(merges(number))
        what = f"skip paths, findings and folding of {number:,} merges"
        yield what, 1, lambda graph=graph: analyse(unasked(graph))  # type: ignore[misc]
    graph = plots.apply_plugins(plots.read_graph(merges(1000)), ["skip_paths"])
    yield "SVG of 1,000 merges", 3, partial(plots.draw, graph, svg, plugins=())
    model = keras.applications.InceptionResNetV2(weights=None)
    steps = ["skip_paths", "shapes"]
    yield "SVG of InceptionResNetV2 with shapes", 3, partial(plots.draw, model, svg, plugins=steps)
    model = keras.applications.NASNetLarge(weights=None)
    yield "SVG of NASNetLarge", 3, partial(plots.draw, model, svg)
    yield "HTML explorer of NASNetLarge", 2, partial(plots.draw, model, page)
    yield "SVG of a dense block, 24 layers", 3, partial(plots.draw, dense_block(24), svg)
    yield (
        "SVG of sums of all earlier calls, 120 calls",
        3,
        partial(plots.draw, all_to_all(120), svg),
    )


def measure_limits(rounds: int) -> None:
    """Print the seconds of every round next to the limit."""
    sys.setrecursionlimit(1_000_000)  # Keras builds deep models recursively
    warnings.filterwarnings("ignore", message=".*(with arcs|too large to read)")
    rows = [("", "limit", "seconds of each round", "")]
    with tempfile.TemporaryDirectory() as folder, keras.StatelessScope(initialize_variables=False):
        file = Path(folder) / "model.svg"
        for what, limit, function in limits(Path(folder)):
            file.unlink(missing_ok=True)
            measured = []
            for _ in range(rounds):
                begin = time.perf_counter()
                function()
                measured.append(time.perf_counter() - begin)
            size = re.search(r'<svg width="(\d+)pt" height="(\d+)pt"', _text(file))
            points = f"{int(size[1]):,} x {int(size[2]):,} points" if size else ""
            rows.append((what, f"{limit} s", " ".join(f"{n:.2f}" for n in measured), points))
            if what.startswith("HTML"):
                opened = opening_seconds(Path(folder) / "model.html", rounds)
                seconds = " ".join(f"{n:.2f}" for n in opened)
                rows += [("opening it in Chromium", f"{limit} s", seconds, "")] * bool(opened)
            print(f"{what}: {rows[-1][2]}", flush=True)
    print(format_table(rows))


def _text(file: Path) -> str:
    return file.read_text(encoding="utf-8") if file.exists() else ""


def import_seconds(module: str) -> float:
    """Return the time to import a module in a new process, without the start of Python."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    parser.add_argument("--only", choices=("transformers", "limits"), help="part to measure")
    options = parser.parse_args()
    if options.only != "transformers":
        measure_limits(options.rounds)
    if options.only != "limits":
        draw_transformers(options.rounds)


def draw_transformers(rounds: int) -> None:
    """Print the time to draw the variants, and the height of the pictures."""
    imports = [import_seconds("plots") for _ in range(rounds)]
    print(f"import plots: {statistics.median(imports):.3f} s")
    if not shutil.which("dot"):
        print("no `dot` on the PATH: keras.utils.plot_model is skipped")
    for variant in VARIANTS:
        model = builders.build_decoder_only(variant, abstract=True)
        calls = len(plots.read_graph(model).nodes)
        print(f"\n{variant}: {calls} calls, {model.count_params():,} parameters")
        seconds: dict[str, list[float]] = {name: [] for name in contenders()}
        heights: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(rounds):
                for name, draw in contenders().items():
                    file = Path(folder) / "model.svg"
                    begin = time.perf_counter()
                    try:
                        draw(model, str(file))
                    except subprocess.TimeoutExpired:
                        continue
                    seconds[name].append(time.perf_counter() - begin)
                    heights[name] = height_in_points(file.read_text(encoding="utf-8"))
            page = Path(folder) / "model.html"
            plots.draw(model, page, plugins=["skip_paths", "flops"])
            size, opening = page.stat().st_size, opening_seconds(page, rounds)
        rows = []
        for name, measured in seconds.items():
            if measured:
                time_taken = f"{statistics.median(measured):.3f} s"
                rows.append((name, time_taken, f"{heights[name]:,.0f} points high"))
            else:
                rows.append((name, f"not within {LIMIT} s", ""))
        if opening:
            time_taken = f"{statistics.median(opening):.3f} s"
            rows.append(("opening the HTML explorer", time_taken, f"{size / 1000:,.0f} kB"))
        print(format_table(rows))


if __name__ == "__main__":
    main()
