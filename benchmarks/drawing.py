"""Time to draw large models, and the height of the pictures.

    python benchmarks/drawing.py             # GPT-2 small and GPT-3 175B
    python benchmarks/drawing.py --rounds 5

Measures the time from a Keras model to an SVG file, without imports, and reads the height of the
picture. The peer is `keras.utils.plot_model`, which needs Graphviz' `dot` on the PATH; without it
only this library is measured, with its own Graphviz. Both draw the same model in the same process,
in turns. The models have no weights (`StatelessScope`), since 175 billion would not fit. With
Chromium and playwright, it also measures the time from opening the HTML explorer to its picture.
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
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

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


def import_seconds(module: str) -> float:
    """Return the time to import a module in a new process, without the start of Python."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds")
    options = parser.parse_args()
    imports = [import_seconds("plots") for _ in range(options.rounds)]
    print(f"import plots: {statistics.median(imports):.3f} s")
    if not shutil.which("dot"):
        print("no `dot` on the PATH: keras.utils.plot_model is skipped")
    for variant in VARIANTS:
        with keras.StatelessScope(initialize_variables=False):
            model = builders.build_decoder_only(variant)
        calls = len(plots.read_graph(model).nodes)
        print(f"\n{variant}: {calls} calls, {model.count_params():,} parameters")
        seconds: dict[str, list[float]] = {name: [] for name in contenders()}
        heights: dict[str, float] = {}
        with tempfile.TemporaryDirectory() as folder:
            for _ in range(options.rounds):
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
            size, opening = page.stat().st_size, opening_seconds(page, options.rounds)
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
