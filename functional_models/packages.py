"""The packages `builders` and `plots`, also as `functional_models.builders` and `.plots`.

Their names are common words. A file or folder of a user with the same name, in the folder of the
script or the current folder, would be imported in their place.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

PACKAGES = ("builders", "plots")

_ROOT = Path(__file__).parent.parent


def import_own_packages() -> list[str]:
    """Import `builders` and `plots` from the folder of this package, if others have their names.

    Returns:
        A message for each module of another origin that this hides.

    Raises:
        ImportError: another module with the name of one of them has been imported before.
    """
    messages = []
    for name in PACKAGES:
        own = _ROOT / name / "__init__.py"
        if not own.exists():  # packed in some other way
            continue
        if name in sys.modules:
            place = _place(sys.modules[name])
            if place != own.parent.resolve():
                raise ImportError(
                    f"functional_models needs its package {name}, and another module of that name "
                    f"has been imported from {place}; rename that one, or import functional_models "
                    "first"
                )
            continue
        found = importlib.util.find_spec(name)
        if found is None or (place := _place(found)) == own.parent.resolve():
            continue
        _import_file(name, own)
        if found.origin is not None:  # not a folder that only holds other files
            messages.append(
                f"{place} has the name of {name}, a package of functional_models, which is used "
                f"instead; rename {place.name} to import it"
            )
    return messages


def _place(module: ModuleType | ModuleSpec) -> Path:
    """Return the folder of a package, or the file of a module."""
    spec = module if isinstance(module, ModuleSpec) else module.__spec__
    folders = getattr(module, "__path__", None) or getattr(spec, "submodule_search_locations", None)
    origin = getattr(module, "__file__", None) or getattr(spec, "origin", None)
    return Path(next(iter(folders)) if folders else origin or "an unknown place").resolve()


def _import_file(name: str, path: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise


class _Alias(MetaPathFinder, Loader):
    """Imports `functional_models.plots.registry` as `plots.registry`, the same module object."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        parent, _, name = fullname.partition(".")
        if parent == __package__ and name.partition(".")[0] in PACKAGES:
            return ModuleSpec(fullname, self)
        return None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = importlib.import_module(spec.name.partition(".")[2])
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        """Restore the module's own spec, which the import system has replaced."""
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state


def install_aliases() -> None:
    """Make `functional_models.builders` and `functional_models.plots` importable."""
    if not any(type(finder).__name__ == _Alias.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, _Alias())
