"""English text that every Python carries: the docstrings of its standard library."""

from __future__ import annotations

import ast
import hashlib
import inspect
import os
import sysconfig
import warnings
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from functional_models.corpora.corpus import TextCorpus

__all__ = ["python_docstrings"]

# Installed packages are not the standard library; tests describe nothing; `__phello__` and the like
# are fixtures.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_SHORTEST = 40  # characters; shorter docstrings ("Return self.") are all alike


@cache
def python_docstrings(validation_fraction: float = 0.1) -> TextCorpus:
    """Gives the docstrings of this Python's standard library, one document per module.

    The sources are parsed, never imported. A document holds the docstrings of a module in the order
    of the source, separated by blank lines; a docstring seen before (a copied one) is left out.
    Whole modules are held out, chosen by a hash of their names, so that the split depends neither
    on the machine nor on the order of files, and no docstring of a held-out module is in training.

    Args:
        validation_fraction: about how much of the modules is held out, at least 0 and below 1.

    Raises:
        FileNotFoundError: this Python came without the sources of its standard library.
        ValueError: `validation_fraction` is out of range.
    """
    if not 0 <= validation_fraction < 1:
        raise ValueError(f"validation_fraction must be in [0, 1), got {validation_fraction}")
    root = Path(sysconfig.get_path("stdlib"))
    parts: dict[bool, list[str]] = {False: [], True: []}
    seen: set[str] = set()
    for path in _sources(root):
        document = _document(path, seen)
        if document:
            name = path.relative_to(root).as_posix()
            held_out = _fraction(name) < validation_fraction
            parts[held_out].append(document)
    if not parts[False]:
        raise FileNotFoundError(
            f"found no docstrings in {root}: this Python carries no sources of its standard "
            "library; give a text file instead"
        )
    return TextCorpus("python_docstrings", tuple(parts[False]), tuple(parts[True]))


def _document(path: Path, seen: set[str]) -> str:
    """Gives the docstrings in a source file that are not in `seen`, and adds them to it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # old sources have invalid escapes; not our business
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return ""  # templates, and sources kept broken on purpose
    found = []
    for owner in _owners(tree):
        text = inspect.cleandoc(ast.get_docstring(owner, clean=False) or "").strip()
        if len(text) >= _SHORTEST and text not in seen:
            seen.add(text)
            found.append(text)
    return "\n\n".join(found)


def _sources(root: Path) -> list[Path]:
    """Gives the Python files below a folder in an order that does not depend on the file system."""
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = set(subfolders) - _SKIPPED_FOLDERS
        paths.extend(Path(folder, name) for name in names if name.endswith(".py"))
    return sorted(paths, key=Path.as_posix)


def _owners(node: Owner) -> Iterator[Owner]:
    """Gives a module, class or function and all that are defined in it, in the source's order."""
    yield node
    # Only statements are visited: expressions are most of a tree, and have no docstrings.
    statements: list[ast.AST] = list(reversed(node.body))
    while statements:
        statement = statements.pop()
        if isinstance(statement, Owner):
            yield from _owners(statement)
        else:
            for block in ("finalbody", "orelse", "cases", "handlers", "body"):
                statements.extend(reversed(getattr(statement, block, ())))


def _fraction(name: str) -> float:
    """Maps a name to [0, 1), evenly and always the same (`hash` differs from run to run)."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) / 2**48
