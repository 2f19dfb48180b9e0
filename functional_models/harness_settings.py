"""How the evaluation harness wants texts to be generated: the `generation_kwargs` of its tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.errors import unknown_name
from functional_models.checks import check_count, check_real

# The names that the harness has for the limit of new tokens; the first one counts.
_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")
_ALLOWED = ("until", "do_sample", "temperature", "top_k", "top_p", "num_beams", *_LIMITS)


@dataclass(frozen=True)
class Settings:
    """How a text is generated.

    Attributes:
        until: texts that end it, and are no part of it.
        limit: the maximum number of new tokens.
        sampler: name of a sampler.
        options: its options, as pairs.
    """

    until: tuple[str, ...]
    limit: int
    sampler: str
    options: tuple[tuple[str, Any], ...]

    def cut(self, text: str) -> str:
        """Return the text before the first text that ends it."""
        for stop in filter(None, self.until):
            text = text.partition(stop)[0]
        return text


def read_settings(given: Mapping[str, Any], longest: int, limit: int) -> Settings:
    """Return the settings of the `generation_kwargs` of a task, with the defaults of the harness.

    Args:
        given: the options; without `do_sample`, texts are drawn if there is a temperature above 0.
        longest: tokens that the model reads at once.
        limit: the maximum number of new tokens, if it is not given.

    Raises:
        ValueError: an option that is unknown, or has a value that is not allowed.
    """
    for name in given:
        if name not in _ALLOWED:
            raise ValueError(unknown_name("option of generation", name, _ALLOWED))
    if given.get("num_beams", 1) != 1:
        raise ValueError(f"num_beams={given['num_beams']!r}: the harness generates with 1 only")
    until = given.get("until") or []
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, list | tuple) or not all(isinstance(stop, str) for stop in until):
        raise ValueError(f"until={until!r}: must be a text, or a list of texts")
    limit = next((given[name] for name in _LIMITS if given.get(name) is not None), limit)
    check_count("max_gen_toks", limit)
    if limit >= longest:
        raise ValueError(
            f"max_gen_toks={limit}: with max_sequence_length={longest}, at most {longest - 1} "
            "leave room for a context; give fewer in the generation_kwargs of the task"
        )
    return Settings(tuple(until), limit, *_sampler(given))


def _sampler(given: Mapping[str, Any]) -> tuple[str, tuple[tuple[str, Any], ...]]:
    """Return the name of a sampler, and its options."""
    temperature = given.get("temperature")
    samples = given.get("do_sample")
    if samples not in (None, True, False):
        raise ValueError(f"do_sample={samples!r}: must be true or false")
    if not (bool(temperature) if samples is None else samples):
        return "greedy", ()
    options = {"temperature": 1.0 if temperature is None else temperature}
    check_real("temperature", options["temperature"])
    top_k, top_p = given.get("top_k") or None, given.get("top_p")
    if top_k is not None:
        check_count("top_k", top_k)
        options["k"] = top_k
    if top_p is not None:
        check_real("p", top_p)
    if top_p is None or top_p == 1:
        return "random" if top_k is None else "top_k", tuple(options.items())
    return "top_p", (*options.items(), ("p", top_p))
