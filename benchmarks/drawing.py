"""How long does a picture of a large model take, and how tall is it?

    python benchmarks/drawing.py             # GPT-2 small and GPT-3 175B
    python benchmarks/drawing.py --rounds 5

Takes the time from a finished Keras model to a finished SVG file, imports left out, and reads off
how tall the picture is. The peer is `keras.utils.plot_model`, which needs Graphviz' `dot` on the
PATH; without one only this library is measured, with the Graphviz that comes with it. Both draw the
same model in the same process, in turns, and the models have no weights (`StatelessScope`), since
175 billion would not fit.
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

VARIANTS = ("gpt2_small", "gpt3_175b")


def draw_folded(model: keras.Model, file: str) -> None:
    plots.draw(model, file, plugins=["skip_paths"], depth=2)


def draw_all(model: keras.Model, file: str) -> None:
    plots.draw(model, file, plugins=["skip_paths"])


def draw_with_keras(model: keras.Model, file: str) -> None:
    keras.utils.plot_model(model, file, show_shapes=False)


def contenders() -> dict[str, Callable[[keras.Model, str], None]]:
    ours = {"folded, depth 2": draw_folded, "all calls": draw_all}
    return ours | ({"keras.utils.plot_model": draw_with_keras} if shutil.which("dot") else {})


def height_in_points(svg: str) -> float:
    """The height that the picture asks for, in points (72 to the inch)."""
    match = re.search(r'<svg width="[\d.]+(?:pt|px)?" height="([\d.]+)', svg)
    if match is None:
        raise ValueError("this SVG does not say how tall it is")
    return float(match.group(1))


def import_seconds(module: str) -> float:
    """Time to import a module in a new process, without the start of Python itself."""
    code = f"import time; t = time.perf_counter(); import {module}; print(time.perf_counter() - t)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is drawn")
    options = parser.parse_args()
    imports = [import_seconds("plots") for _ in range(options.rounds)]
    print(f"import plots: {statistics.median(imports):.3f} s")
    if not shutil.which("dot"):
        print("no `dot` on the PATH: keras.utils.plot_model is left out")
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
                    draw(model, str(file))
                    seconds[name].append(time.perf_counter() - begin)
                    heights[name] = height_in_points(file.read_text(encoding="utf-8"))
        for name, measured in seconds.items():
            print(
                f"  {name:<24} {statistics.median(measured):7.3f} s"
                f"   {heights[name]:>8,.0f} points tall"
            )


if __name__ == "__main__":
    main()
