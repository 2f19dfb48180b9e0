"""The Python of README and docs runs, and their tables list the registered names."""

from __future__ import annotations

import json
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from python_process import run_python

import builders

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
VARIANTS, COSTS, ABOUT_PLOTS = (
    (ROOT / "docs" / f"{name}.md").read_text("utf-8") for name in ("variants", "costs", "plots")
)
PYTHON = re.findall(r"```python\n(.*?)```", README + ABOUT_PLOTS, re.S)


QUICKER = {
    "steps=200": "steps=3",
    'kind="decoder_only", vocabulary_size=1000)': (
        'kind="decoder_only", vocabulary_size=1000, num_layers=1, max_sequence_length=23)'
    ),
    'build_decoder_only("gpt2_small", num_layers=2,': (
        'build_decoder_only("gpt2_small", num_layers=2, vocabulary_size=97,'
    ),
    "num_layers=6) for name in names": "num_layers=2) for name in names",
}
"""Parts of the examples, and what takes their places in the quick test."""
COMPILES_MUCH = ('lm.generate(["Once"',)


def run(code: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
@pytest.mark.parametrize("code", PYTHON)
def test_the_python_of_readme_and_docs_runs(code: str, tmp_path: Path) -> None:
    run(code, tmp_path)


@pytest.mark.slow
def test_the_quick_python_of_readme_and_docs_runs_in_a_row(tmp_path: Path) -> None:
    """In one process, as a reader would, with three steps of training and smaller models."""
    quick = [code for code in PYTHON if not any(sign in code for sign in COMPILES_MUCH)]
    assert len(quick) == len(PYTHON) - len(COMPILES_MUCH)
    program = "\n".join(quick)
    for part, smaller in QUICKER.items():
        assert part in program
        program = program.replace(part, smaller)
    run(program, tmp_path)


def test_the_table_of_variants_is_the_registry() -> None:
    """A row has all sizes of a family."""
    rows = re.findall(r"^\| (`.*?`) \|", VARIANTS, re.M)
    listed = [name for row in rows for name in re.findall(r"`([\w.]+)`", row)]
    assert listed == builders.list_variants()
    for name, summary in re.findall(r"^\| `([\w.]+)`.* \| (.*?) \|$", VARIANTS, re.M):
        assert builders.variant_info(name).summary == summary
    assert f"{len(listed)} variants" in README


def test_the_tables_of_variants_are_generated() -> None:
    """`make tables` writes them."""
    for path, text in runpy.run_path(str(ROOT / "docs" / "tables.py"))["pages"]().items():
        assert path.read_text("utf-8") == text, path


def test_the_costs_in_the_docs_equal_the_output_of_inspect(
    capsys: pytest.CaptureFixture[str],
) -> None:
    from functional_models.cli import main

    [(name, shown)] = re.findall(r"inspect (\w+)` prints.*?```text\n(.*?)```", COSTS, re.S)
    assert main(["inspect", name]) == 0
    assert capsys.readouterr().out.endswith("}\n\n" + shown)


def test_the_tables_of_plugins_and_formats_list_the_registered_ones() -> None:
    ours = "import json, plots; print(json.dumps([[[n, p.summary] for n, p in of().items()]"
    code = f"{ours} for of in (plots.list_plugins, plots.list_renderers)]))"
    # A process of its own, as other tests register plugins.
    listed = json.loads(run_python(code))
    plugins = re.findall(r"^\| `(\w+)` \| (.*?) \|$", ABOUT_PLOTS, re.M)
    formats = re.findall(r"^\| (\w+) \| `\..*?` \| (.*?) \|$", ABOUT_PLOTS, re.M)
    assert [[list(row) for row in plugins], [list(row) for row in formats]] == listed


def test_every_picture_exists() -> None:
    shown = [ROOT / path for path in re.findall(r"!\[.*?\]\((\S+)\)", README)]
    shown += [ROOT / "docs" / path for path in re.findall(r"!\[.*?\]\((\S+)\)", ABOUT_PLOTS)]
    assert len(shown) > 5
    for path in shown:
        assert path.read_bytes().startswith(b"\x89PNG"), path


def test_every_command_of_the_readme_exists() -> None:
    from functional_models.cli import _parser

    actions = _parser()._subparsers._group_actions[0]  # type: ignore[union-attr]
    for command in re.findall(r"functional-models ([a-z]+)", README + ABOUT_PLOTS):
        assert command in actions.choices, command  # type: ignore[operator]


def test_every_make_target_of_the_readme_exists() -> None:
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for target in re.findall(r"make ([a-z-]+)", README):
        assert target in targets, target
