"""The benchmark for a GPU runs as it is, without TensorFlow, before there is a GPU to try it."""

import re
import subprocess
import sys

import pytest
from python_process import ROOT

BLOCKED = """
import importlib.abc, sys

class Blocked(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "tensorflow":
            raise ImportError("TensorFlow is blocked")

sys.meta_path.insert(0, Blocked())
"""


@pytest.mark.slow
def test_the_benchmark_for_a_gpu_needs_no_tensorflow(tmp_path, monkeypatch):
    (tmp_path / "text.txt").write_text(
        "To be, or not to be, that is the question.\n" * 200, "utf-8"
    )
    (tmp_path / "sitecustomize.py").write_text(BLOCKED, "utf-8")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    parts = ["nanogpt", "training", "unfused", "generation"]
    command = [sys.executable, str(ROOT / "benchmarks/gpu.py"), str(tmp_path / "text.txt")]
    done = subprocess.run(
        [*command, "--quick", "--only", *parts], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for part in parts:
        assert re.search(rf"^{part}: .*[1-9][\d,]* tokens/s", done.stdout, re.MULTILINE)
