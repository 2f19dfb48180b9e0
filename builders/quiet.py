"""Imports of modules that need Keras, without the notices that TensorFlow writes on import."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

_LEVEL = "TF_CPP_MIN_LOG_LEVEL"
_GPU_DRIVERS = ("/dev/nvidiactl", "/dev/dxg")

# Information that TensorFlow logs before it reads the level; with its continuation lines.
_NOTICE = re.compile(
    rb"I\d{4} |\d{4}-\d\d-\d\d [\d:.]+: I |WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions: "
)


def import_quietly(name: str) -> Any:
    """Import a module, and Keras with it, without TensorFlow's notices on stderr.

    Warnings and errors are still written. With TF_CPP_MIN_LOG_LEVEL=0 nothing is left out. Where
    the variable is not set, it is set to 2, and to 3 without a GPU driver, whose absence
    TensorFlow logs as an error.
    """
    if "tensorflow" in sys.modules:
        return import_module(name)
    has_driver = any(Path(path).exists() for path in _GPU_DRIVERS)
    level = os.environ.setdefault(_LEVEL, "2" if has_driver else "3")
    with contextlib.nullcontext() if level == "0" else _without_notices():
        return import_module(name)


@contextlib.contextmanager
def _without_notices() -> Iterator[None]:
    """Hold back what is written to stderr, also by native code, and then write all but notices."""
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
