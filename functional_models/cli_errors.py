"""Messages and exit codes of commands that fail or are stopped."""

from __future__ import annotations

import _thread
import errno
import os
import signal
import sys
import threading
from typing import NoReturn

_USER_ERRORS = (ValueError, TypeError, OSError, ImportError)
_LONGEST = 2000


def report(error: BaseException, debug: bool = False) -> int:
    """Print an error in one line, and return the exit code 2; with `debug`, raise it.

    A closed output, such as that of `head`, is not an error: the exit code is 0.
    """
    if isinstance(error, BrokenPipeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    if debug or not isinstance(error, Exception):
        raise error
    message = str(error)
    if isinstance(error, OSError) and error.errno and error.strerror and error.filename:
        message = f"{error.strerror}: {error.filename!r}"  # without the number of the error
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        message += "; free some space, and run the same command again"
    elif isinstance(error, MemoryError):
        message = "there is not enough memory; reduce the sizes, or use a machine with more"
    elif not isinstance(error, _USER_ERRORS):
        first = message.strip().partition("\n")[0]
        message = (
            f"{type(error).__name__}: {first} (this is a fault of functional-models; --debug "
            "shows where)"
        )
    print(f"functional-models: {one_line(message)}", file=sys.stderr)
    return 2


def one_line(message: str) -> str:
    """Return a message without line ends, control characters and lone surrogates."""
    text = " ".join(message.split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return shown if len(shown) <= _LONGEST else f"{shown[:_LONGEST]} ..."


class StopSignals:
    """Raises KeyboardInterrupt on Ctrl-C, SIGTERM and SIGHUP, and again until the command stops.

    Libraries may swallow it in imports and callbacks, or turn it into another error.

    Attributes:
        received: the number of the first signal, or 0.
    """

    seconds = 2.0  # between two of them
    received: int = 0

    def __enter__(self) -> None:
        # Elsewhere than in the main thread of a foreground job there is no Ctrl-C to handle, and
        # `nohup` has SIGHUP ignored.
        is_main = threading.current_thread() is threading.main_thread()
        usual = (signal.default_int_handler, signal.SIG_DFL)
        numbers = [getattr(signal, name, None) for name in ("SIGINT", "SIGTERM", "SIGHUP")]
        handlers = {number: signal.getsignal(number) for number in numbers if number and is_main}
        self._before = {number: known for number, known in handlers.items() if known in usual}
        for number in self._before:
            signal.signal(number, self._interrupt)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.received:
            self._timer.cancel()

    def _interrupt(self, number: int, *_: object) -> NoReturn:
        self.received = self.received or number
        self._timer = threading.Timer(self.seconds, _thread.interrupt_main, [self.received])
        self._timer.daemon = True
        self._timer.start()
        raise KeyboardInterrupt
