"""The Graphviz of pygraphviz as a process that draws one graph after the other.

`plots.renderers.graphviz` starts this file by its path, so that the process imports pygraphviz and
nothing else. It reads requests (DOT, format, layout engine, time limit in seconds) from standard
input and writes (whether it succeeded, the drawing or the error) to standard output, both with
`marshal`. It ends when its standard input is closed, so it never outlives its parent by more than
the time limit.
"""

from __future__ import annotations

import marshal
import os
import signal
import sys
from typing import Any, BinaryIO


def main() -> None:
    """Answer the requests on standard input until it is closed."""
    requests, replies = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # for what Graphviz prints
    sys.path.append(sys.argv[1])
    while request := _next(requests):
        marshal.dump(_reply(*request), replies)
        replies.flush()


def _next(requests: BinaryIO) -> Any:
    try:
        return marshal.load(requests)
    except EOFError:
        return None


def _reply(text: str, picture: str, engine: str, seconds: int) -> tuple[bool, str | bytes]:
    if hasattr(signal, "alarm"):
        signal.alarm(seconds + 2)  # in case that the parent is killed and cannot stop this process
    try:
        import pygraphviz

        graph = pygraphviz.AGraph(string=text)
        drawn = graph.draw(format=picture, prog=engine)
        graph.close()
    except Exception as error:
        return False, f"{type(error).__name__}: {error}"
    finally:
        if hasattr(signal, "alarm"):
            signal.alarm(0)
    return True, drawn


if __name__ == "__main__":
    main()
