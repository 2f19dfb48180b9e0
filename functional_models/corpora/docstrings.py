"""The docstrings of the Python standard library, as English text without a download."""

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

# Installed packages are not part of the standard library, and tests have few docstrings.
_SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "idle_test", "__pycache__"}
Owner = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
_SHORTEST = 40  # characters; shorter docstrings ("Return self.") are too similar


@cache
def python_docstrings(validation_fraction: float = 0.1) -> TextCorpus:
    """Return the docstrings of the standard library as a corpus, one document per module.

    Sources are parsed, not imported. A document has the docstrings of a module in source order,
    separated by blank lines, without duplicates. Whole modules are held out, chosen by a hash of
    their names, so that the split does not depend on the machine or the order of files, and no
    docstring of a held-out module is in training.

    Args:
        validation_fraction: approximate share of held-out modules, at least 0 and below 1.

    Raises:
        FileNotFoundError: this Python has no sources of its standard library.
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
            f"found no docstrings in {root}: this Python has no sources of its standard library; "
            "use a text file instead"
        )
    return TextCorpus("python_docstrings", tuple(parts[False]), tuple(parts[True]))


def _document(path: Path, seen: set[str]) -> str:
    """Return the docstrings of a source file that are not in `seen`; add them to it."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in old sources
            tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return ""  # templates, and intentionally invalid sources
    found = []
    for owner in _owners(tree):
        text = inspect.cleandoc(ast.get_docstring(owner, clean=False) or "").strip()
        if len(text) >= _SHORTEST and text not in seen:
            seen.add(text)
            found.append(text)
    return "\n\n".join(found)


def _sources(root: Path) -> list[Path]:
    paths: list[Path] = []
    for folder, subfolders, names in os.walk(root):
        subfolders[:] = set(subfolders) - _SKIPPED_FOLDERS
        paths.extend(Path(folder, name) for name in names if name.endswith(".py"))
    return sorted(paths, key=Path.as_posix)


def _owners(node: Owner) -> Iterator[Owner]:
    """Yield a module, class or function and all definitions inside of it, in source order."""
    yield node
    # Only statements: expressions are most of a tree and have no docstrings.
    statements: list[ast.AST] = list(reversed(node.body))
    while statements:
        statement = statements.pop()
        if isinstance(statement, Owner):
            yield from _owners(statement)
        else:
            for block in ("finalbody", "orelse", "cases", "handlers", "body"):
                statements.extend(reversed(getattr(statement, block, ())))


def _fraction(name: str) -> float:
    """Map a name to [0, 1), uniformly and reproducibly, unlike `hash`."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=6).digest()) / 2**48
