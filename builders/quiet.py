"""Imports TensorFlow without the notices that it writes to stderr, once this package is imported.

TensorFlow logs some of them before it reads TF_CPP_MIN_LOG_LEVEL, so they are left out of what the
import writes. Warnings and errors are still written.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")

# Information that is logged in any case; with its continuation lines.
_NOTICE = re.compile(
    rb"I\d{4} |\d{4}-\d\d-\d\d [\d:.]+: I |WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions: "
)


def quiet_tensorflow() -> None:
    """Leave out the notices of the first import of TensorFlow.

    With TF_CPP_MIN_LOG_LEVEL=0 nothing is left out. Where the variable is not set, the import sets
    it to 2, and to 3 without a GPU driver, whose absence TensorFlow logs as an error.
    """
    if "tensorflow" not in sys.modules:
        sys.meta_path.insert(0, _TensorFlowFinder())


class _TensorFlowFinder(MetaPathFinder):
    """Finds TensorFlow as the other finders do, and makes it run quietly."""

    _is_searching = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != "tensorflow" or self._is_searching:
            return None
        self._is_searching = True
        try:
            spec = find_spec(fullname)
        finally:
            self._is_searching = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                has_driver = any(Path(driver).exists() for driver in _GPU_DRIVERS)
                level = os.environ.setdefault(_LEVEL, "2" if has_driver else "3")
                with contextlib.nullcontext() if level == "0" else _without_notices():
                    execute(module)

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Buffer the output to stderr, also of native code, and then write all but notices."""
    try:
        sys.stderr.flush()
        stderr = os.dup(2)
    except (AttributeError, OSError):  # there is no stderr
        yield
        return
    traces_crashes = not faulthandler.is_enabled()
    with tempfile.TemporaryFile() as held:
        if traces_crashes:  # a crash of native code would end the process before the text is shown
            faulthandler.enable(stderr)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            with contextlib.suppress(Exception):
                sys.stderr.flush()
            os.dup2(stderr, 2)
            if traces_crashes:
                faulthandler.disable()
            held.seek(0)
            for line in held:
                if not _NOTICE.match(line):
                    os.write(stderr, line)
            os.close(stderr)
