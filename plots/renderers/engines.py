"""Run Graphviz in a process of its own, with a time limit.

The program `dot` is used if it is installed and works, or else the Graphviz in the wheel of
pygraphviz. Layout can take hours for some graphs and crash for others. In a process of its own it
can be stopped at the time limit and by Ctrl-C, and a crash does not end Python.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import marshal
import os
import re
import shutil
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

SECONDS = 15
"""Time limit of one call of Graphviz."""

_LEAST_SECONDS = 0.1
"""Time for a graph where that of several is used up."""

_FAIR_SECONDS = 3
"""Time in which an installed program that works draws a small graph, also at its first start."""

_SMALL = 300
"""Edges of a small graph, which any Graphviz lays out in a second or two."""

_PROCESS_FILE = Path(__file__).with_name("graphviz_process.py")
_PDF_DATE = re.compile(rb"(/(?:CreationDate|ModDate) \(D:)\d{14}")

_worked: set[str] = set()  # installed programs that have drawn a graph, by path
_failed: set[str] = set()  # those that failed once; not tried again
_lock = threading.Lock()
_processes: dict[int, subprocess.Popen[bytes]] = {}
"""Id of this process -> the one with the Graphviz of pygraphviz, kept because its start is slow."""


def run_graphviz(text: str, picture: str, engine: str = "dot", seconds: float = SECONDS) -> bytes:
    """Lay out DOT text and return the bytes of the given format.

    Args:
        text: The graph.
        picture: The format, such as "svg" or "json0".
        engine: The layout engine: "dot", or "nop2" for graphs with all positions.
        seconds: The time limit.

    Raises:
        ImportError: if neither `dot` nor pygraphviz is installed.
        RuntimeError: if Graphviz cannot draw the graph, or not within the time limit.
    """
    program = shutil.which("dot")
    data = None
    if program is not None and program not in _failed:
        begin = time.monotonic()
        limit = _time_for_installed(program, text, seconds)
        try:
            data = _run_installed(program, text, picture, engine, limit)
            _worked.add(program)
        except RuntimeError as error:
            is_late = isinstance(error, _TimeoutError)
            if is_late and limit == seconds < SECONDS:  # it may work well
                raise RuntimeError(f"Graphviz did not finish within {SECONDS} s") from None
            if is_late and limit < seconds:  # if both run out of time, the graph is to blame
                left = seconds - (time.monotonic() - begin)
                data = _run_bundled(text, picture, engine, left)
            _failed.add(program)
            warnings.warn(
                f"the installed Graphviz is not used: {program} {error}; the Graphviz of "
                "pygraphviz takes its place",
                stacklevel=2,
            )
    if data is None:
        data = _run_bundled(text, picture, engine, seconds)
    # A PDF contains the time of writing. The new date has the same length, because the table of
    # contents of a PDF refers to byte offsets.
    return _PDF_DATE.sub(rb"\g<1>19700101000000", data) if picture == "pdf" else data


def layouts_of(texts: Sequence[str], seconds: float = SECONDS) -> list[dict[str, Any]]:
    """Lay out several graphs and return the documents in the format "json0".

    An installed program is started once for all, because its start takes longer than the layout of
    a small graph.

    Args:
        texts: The graphs as DOT.
        seconds: The time limit for all of them.

    Raises:
        ImportError, RuntimeError: see `run_graphviz`.
    """
    end = time.monotonic() + seconds
    program = shutil.which("dot")
    if len(texts) > 1 and program is not None and program not in _failed:
        with suppress(RuntimeError, ValueError):  # each graph alone shows what is to blame
            data = _run_installed(program, "\n".join(texts), "json0", "dot", seconds)
            if len(found := _documents(data)) == len(texts):
                return found
    found = []
    for text in texts:
        left = max(end - time.monotonic(), _LEAST_SECONDS)
        found += _documents(run_graphviz(text, "json0", seconds=left))
    return found


def _time_for_installed(program: str, text: str, seconds: float) -> float:
    """Return the time limit of an installed program, the rest of which is for the bundled one.

    A program that has drawn before has all of the time, and so has one without a substitute.
    """
    if program in _worked or importlib.util.find_spec("pygraphviz") is None:
        return seconds
    return min(_FAIR_SECONDS if text.count("->") <= _SMALL else SECONDS, seconds)


class _TimeoutError(RuntimeError):
    """The installed program takes longer than the time that is left for a picture."""


def _run_installed(program: str, text: str, picture: str, engine: str, seconds: float) -> bytes:
    command = [program, f"-K{engine}", f"-T{picture}"]
    try:
        done = subprocess.run(
            command, input=text.encode(), capture_output=True, check=False, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        raise _TimeoutError(f"did not finish within {seconds:.0f} seconds") from None
    except OSError as error:
        raise RuntimeError(f"cannot be run ({error.strerror})") from None
    said = " ".join(done.stderr.decode(errors="replace").split())[:200]
    reason = f"({said})" if said else ""
    if done.returncode:
        raise RuntimeError(
            f"failed with exit status {done.returncode}" + (f" ({said})" * bool(said))
        )
    if not _is_whole(done.stdout, picture):
        raise RuntimeError(f"returned something that is no {picture} {reason}".rstrip())
    return done.stdout


def _documents(data: bytes) -> list[dict[str, Any]]:
    """Return the JSON objects that follow each other in a text.

    Raises:
        ValueError: if there is anything else.
    """
    text, decoder = data.decode().strip(), json.JSONDecoder(object_pairs_hook=dict)
    found, place = [], 0
    while place < len(text):
        document, end = decoder.raw_decode(text, place)
        if not isinstance(document, dict):
            raise ValueError(f"a JSON object was expected, not {type(document).__name__}")
        found.append(document)
        place = end + len(text[end:]) - len(text[end:].lstrip())
    return found


def _is_json(data: bytes) -> bool:
    try:
        return bool(_documents(data))
    except ValueError:
        return False


_CHECKS: dict[str, Callable[[bytes], bool]] = {
    "svg": lambda data: b"<svg" in data and data.rstrip().endswith(b"</svg>"),
    "png": lambda data: data.startswith(b"\x89PNG\r\n\x1a\n") and b"IEND" in data[-12:],
    "pdf": lambda data: data.startswith(b"%PDF-") and b"%%EOF" in data[-32:],
    "plain": lambda data: data.startswith(b"graph ") and data.rstrip().endswith(b"stop"),
    "json0": _is_json,
}


def _is_whole(data: bytes, picture: str) -> bool:
    """Return whether `data` begins and ends as files of the format do."""
    return _CHECKS.get(picture, bool)(data)


def _run_bundled(text: str, picture: str, engine: str, seconds: float) -> bytes:
    with _lock:
        for _ in range(2):  # something else may have ended the process
            process = _running()
            begin = time.monotonic()
            try:
                done, answer = _asked(process, (text, picture, engine, round(seconds)), seconds)
            except (EOFError, OSError):
                _stop()
                if time.monotonic() - begin >= seconds:
                    raise RuntimeError(
                        f"Graphviz did not finish within {seconds:.0f} s: draw fewer calls at once"
                    ) from None
                continue
            except BaseException:  # such as KeyboardInterrupt
                _stop()
                raise
            if not done:
                raise RuntimeError(f"Graphviz failed to draw the graph: {answer}")
            return answer if isinstance(answer, bytes) else answer.encode()
    raise RuntimeError("Graphviz failed to draw the graph: it crashed")


def _asked(process: subprocess.Popen[bytes], request: Any, seconds: float) -> Any:
    """Send a request to the process and return its reply; it is killed after the time limit."""
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    requests, replies = _pipes(process)
    try:
        marshal.dump(request, requests)
        requests.flush()
        return marshal.load(replies)
    finally:
        timer.cancel()


def _pipes(process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
    assert process.stdin is not None
    assert process.stdout is not None
    return process.stdin, process.stdout


def _running() -> subprocess.Popen[bytes]:
    """Return the process with the Graphviz of pygraphviz, started if necessary."""
    own = os.getpid()  # a process that was forked must not use the pipes of its parent
    if own in _processes and _processes[own].poll() is not None:
        _stop()
    if own not in _processes:
        found = importlib.util.find_spec("pygraphviz")
        if found is None or found.origin is None:
            raise ImportError(
                "drawing needs Graphviz: `pip install pygraphviz` (its wheel includes Graphviz), "
                "or put the program `dot` on the PATH; a .dot file can be written without either"
            )
        folder = str(Path(found.origin).parent.parent)
        _processes[own] = subprocess.Popen(
            [sys.executable, "-I", "-S", str(_PROCESS_FILE), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # so that Ctrl-C interrupts the parent only
        )
    return _processes[own]


def _stop() -> None:
    process = _processes.pop(os.getpid(), None)
    if process is not None:
        process.kill()
        process.wait()
        for pipe in _pipes(process):
            with suppress(OSError):  # a request that was not sent
                pipe.close()


def _unlock() -> None:
    """Replace the lock, which another thread of the parent may have held at the fork."""
    global _lock
    _lock = threading.Lock()


atexit.register(_stop)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_unlock)
