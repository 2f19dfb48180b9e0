"""Install test packages with pip and use them in new processes."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def install(name: str, folder: Path) -> Path:
    """Install `tests/<name>` with pip, offline; return the folder to import from."""
    # From a copy, since pip leaves build files beside the source.
    source = shutil.copytree(ROOT / "tests" / name, folder / "source")
    offline = ("--no-deps", "--no-index", "--no-build-isolation", "--disable-pip-version-check")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", *offline)
    packages = folder / "packages"
    done = subprocess.run(
        [*pip, "--target", str(packages), str(source)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return packages


def run_python(code: str, *arguments: Any, path: tuple[Path, ...] = ()) -> None:
    """Run a program in a new process with `path` on its module search path."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, path))}
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
