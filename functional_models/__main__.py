"""The program `functional-models`, also as `python -m functional_models`."""

from __future__ import annotations

import gc
import sys

from functional_models.starting import STOPPED


def run() -> int:
    """Run the command of `sys.argv` and return its exit code."""
    try:
        from functional_models.cli import main

        code = main()
    except KeyboardInterrupt:  # before `main` handles it
        print(STOPPED, file=sys.stderr)
        return 130
    # At exit Python would search the half million objects of TensorFlow for cycles, for a second
    # or more, to free memory that the system frees at once. The package itself leaves that to the
    # script that imports it, because a file that a cycle holds open would not be flushed.
    gc.freeze()
    return code


if __name__ == "__main__":
    raise SystemExit(run())
