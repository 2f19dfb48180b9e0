"""The README's Python is run as it stands, and what it says of the registry is what is there."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

import builders

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, re.S)


TRAINS = "steps=200"
AS_THEY_ARE = [
    pytest.param(code, marks=pytest.mark.slow if TRAINS in code else []) for code in PYTHON
]
FOR_A_FEW_STEPS = [code.replace(TRAINS, "steps=3") for code in PYTHON if TRAINS in code]


@pytest.mark.parametrize("code", AS_THEY_ARE + FOR_A_FEW_STEPS)
def test_the_python_of_the_readme_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_table_of_variants_is_the_registry() -> None:
    """A row has all sizes of a family."""
    rows = re.findall(r"^\| (`.*?`) \|", README, re.M)
    listed = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert listed == builders.list_variants()


def test_the_costs_in_the_readme_are_what_inspect_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from functional_models.cli import main

    [(name, shown)] = re.findall(r"inspect (\w+)` prints.*?```text\n(.*?)```", README, re.S)
    assert main(["inspect", name]) == 0
    assert capsys.readouterr().out.endswith("}\n\n" + shown)


def test_every_command_of_the_readme_exists() -> None:
    from functional_models.cli import _parser

    actions = _parser()._subparsers._group_actions[0]  # type: ignore[union-attr]
    for command in re.findall(r"functional-models ([a-z]+)", README):
        assert command in actions.choices, command  # type: ignore[operator]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for target in re.findall(r"make ([a-z-]+)", README):
        assert target in targets, target
