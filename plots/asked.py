"""What was found out about a call is kept with it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

Call = TypeVar("Call", bound="Asked")
Answer = TypeVar("Answer")


class Asked:
    """The base class of calls: it has room for the answers of `once_per_call`."""

    __slots__ = ("_found",)
    _found: dict[Callable[[Any], Any], Any]


def once_per_call(question: Callable[[Call], Answer]) -> Callable[[Call], Answer]:
    """Decorator for functions of a call, such as `is_norm`: the answer is kept with the call.

    All rules ask the same questions about the same calls. Graphs that a plugin returns have the
    calls of the graph that it was given, and so their answers.
    """

    @wraps(question)
    def kept(call: Call) -> Answer:
        try:
            known: Answer = call._found[question]
            return known
        except AttributeError:
            object.__setattr__(call, "_found", {})
        except KeyError:
            pass
        answer = call._found[question] = question(call)
        return answer

    return kept
