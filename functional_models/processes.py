"""Several processes that share a computation: how they meet, agree, and write files once.

Every process runs the same program. Without others, the functions here change nothing, on any
backend.
"""

from __future__ import annotations

import socket
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import keras
import numpy as np

_LONGEST_MESSAGE = 2000


def is_shared() -> bool:
    """Return whether several processes share the computation."""
    distribution = keras.distribution.distribution()
    return distribution is not None and distribution.num_processes > 1


def is_first_process() -> bool:
    """Return whether this process writes the files and the output."""
    if not is_shared():
        return True
    import jax

    return jax.process_index() == 0


def of_all_processes(value: Any) -> list[Any]:
    """Return a number of every process; all of them must call it."""
    if not is_shared():
        return [value]
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(np.asarray(value)).tolist()


def check_is_same(what: str, content: str) -> None:
    """Check that all processes have the same content; all of them must call it.

    Raises:
        ValueError: they do not.
    """
    if len(set(of_all_processes(zlib.crc32(content.encode())))) > 1:
        raise ValueError(f"the processes have different {what}; start all with the same arguments")


def in_first_process(action: Callable[[], Any]) -> None:
    """Call a function in the first process; all of them must call this, and wait for it.

    Raises:
        Exception: that of the function; in other processes, an `OSError` with its message.
    """
    if not is_shared():
        action()
        return
    from jax.experimental.multihost_utils import broadcast_one_to_all

    raised: Exception | None = None
    message = np.zeros(_LONGEST_MESSAGE, "uint8")
    if is_first_process():
        try:
            action()
        except Exception as error:
            raised = error
            text = (str(error) or type(error).__name__).encode()[:_LONGEST_MESSAGE]
            message[: len(text)] = np.frombuffer(text, "uint8")
    message = broadcast_one_to_all(message)
    if raised is not None:
        raise raised
    if message.any():
        raise OSError(message.tobytes().rstrip(b"\0").decode(errors="replace"))


def whole(x: Any) -> Any:
    """Return a tensor or variable of which every process has all; all of them must call it."""
    if not is_shared():
        return x
    value = getattr(x, "value", x)
    if getattr(value, "is_fully_addressable", True) or value.is_fully_replicated:
        return value
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(value, tiled=True)


@contextmanager
def whole_weights(model: keras.Model) -> Iterator[None]:
    """Let one process alone read the variables of a model; all of them must call it.

    Within the scope, the variables are arrays in the memory of the host.
    """
    if not is_shared():
        yield
        return
    values = [variable._value for variable in model.variables]
    arrays = [np.asarray(whole(value)) for value in values]
    try:
        for variable, array in zip(model.variables, arrays, strict=True):
            variable._value = array
        yield
    finally:
        for variable, value in zip(model.variables, values, strict=True):
            variable._value = value


@contextmanager
def reports_lost_processes() -> Iterator[None]:
    """Say what to do if the computation with other processes fails within this scope.

    If another process dies, some computations fail and others wait, until JAX ends this process.

    Raises:
        ConnectionError: the computation failed.
    """
    try:
        yield
    except Exception as error:
        if not is_shared():
            raise
        import jax

        if not isinstance(error, jax.errors.JaxRuntimeError):
            raise
        raise ConnectionError(
            f"the computation with the other processes failed ({first_line(error)}); if one of "
            "them has ended, start all again with the same command: the run resumes from its last "
            "checkpoint"
        ) from error


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error."""
    return str(error).strip().partition("\n")[0][:200]


# How processes meet


def meet(address: str, process: int, processes: int, timeout: int) -> None:
    """Wait until all processes have answered: JAX would kill a process that waits in vain.

    Raises:
        TimeoutError: a process has not answered.
        ValueError: a number was given twice, or the processes have different numbers of processes.
        OSError: the first process cannot listen.
    """
    host, _, port = address.rpartition(":")
    end = time.monotonic() + timeout
    if process:
        _answer((host.strip("[]"), int(port)), f"{process}/{processes}", timeout, end)
    else:
        _listen(int(port), {f"{i}/{processes}" for i in range(1, processes)}, timeout, end)


def _listen(port: int, expected: set[str], timeout: int, end: float) -> None:
    """Wait in the first process for the numbers of all others, and tell them that all are there."""
    options: dict[str, Any] = {}
    if socket.has_dualstack_ipv6():
        options = {"family": socket.AF_INET6, "dualstack_ipv6": True}
    try:
        server = socket.create_server(("", port), **options)
    except OSError as error:
        raise OSError(
            f"process 0 cannot listen on port {port} ({error.strerror}); use another one"
        ) from None
    found: dict[str, socket.socket] = {}
    with ExitStack() as opened:
        opened.enter_context(server)
        while missing := expected - found.keys():
            server.settimeout(max(end - time.monotonic(), 0.01))
            try:
                connection = opened.enter_context(server.accept()[0])
                connection.settimeout(5)
                number = connection.recv(32).decode(errors="replace")
            except TimeoutError:
                if time.monotonic() < end:  # that connection says nothing
                    continue
                numbers = ", ".join(sorted(number.partition("/")[0] for number in missing))
                raise TimeoutError(
                    f"process {numbers} has not answered within {timeout} seconds; start all "
                    f"processes, with the address of this one and port {port}"
                ) from None
            except OSError:
                continue
            if number in missing:
                found[number] = connection
            else:
                connection.sendall(b"no")
        for connection in found.values():
            connection.sendall(b"ok")


def _answer(address: tuple[str, int], number: str, timeout: int, end: float) -> None:
    """Tell the first process the number of this one, and wait until all are there."""
    where = ":".join(map(str, address))
    reason: OSError | None = None
    while (left := end - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=left) as connection:
                connection.sendall(number.encode())
                reply = connection.recv(2)
            if reply == b"ok":
                return
            if reply == b"no":
                raise ValueError(
                    f"process {number} is not expected at {where}: number the processes from 0, "
                    "each once, and give all the same number of processes"
                )
        except OSError as error:
            reason = error
        time.sleep(min(left, 0.2))  # also if something else answers, or nothing is said
    raise TimeoutError(
        f"process 0 has not answered at {where} within {timeout} seconds"
        f"{f' ({reason.strerror or reason})' if reason else ''}; start all processes, with the "
        "address of process 0"
    )
