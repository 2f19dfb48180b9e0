"""The start of the program: Ctrl-C while modules are imported ends it without a traceback."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress

TYPE_CHECKING = False
if TYPE_CHECKING:  # what takes time to import is not imported here
    from typing import Any, NoReturn

STOPPED = "\nstopped; nothing was written"


def is_program() -> bool:
    """Return whether this process is the command line, and not one that imports the package."""
    if sys.argv[:1] == ["-m"]:  # Python looks for the module of `python -m`
        following = sys.orig_argv[sys.orig_argv.index("-m") + 1 :] if "-m" in sys.orig_argv else []
        return following[:1] in (["functional_models"], ["functional_models.__main__"])
    name = os.path.basename(sys.argv[0]) if sys.argv else ""
    return name in ("functional-models", "functional-models.exe")


def stop_quietly() -> None:
    """End the process on Ctrl-C from here on, if that would raise a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        with suppress(ValueError):  # another thread than the main one
            signal.signal(signal.SIGINT, _stop)


def raise_again() -> None:
    """Undo `stop_quietly`: Ctrl-C raises a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _stop:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _stop(*_: Any) -> NoReturn:
    os.write(2, f"{STOPPED}\n".encode())
    os._exit(130)  # code that imports modules may catch any exception
