"""How the next token is chosen: keras-nlp samplers by name, with their options checked.

Keras is imported when a sampler is made, so that the names and the checks cost nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Any

SAMPLERS = ("greedy", "top_k", "top_p", "random", "contrastive", "beam")

# What a real-valued option may be: a test, and the same in words.
_ALLOWED: dict[str, tuple[Callable[[float], bool], str]] = {
    "temperature": (lambda value: value > 0, "above 0; for no chance, use greedy"),
    "p": (lambda value: 0 < value <= 1, "above 0, and 1 at the most"),
    "alpha": (lambda value: 0 <= value <= 1, "0 to 1"),
    # Powers of lengths stay far from the largest float32.
    "length_penalty": (lambda value: 0 <= value <= 10, "0 to 10; 0 compares log-probabilities"),
    "repetition_penalty": (lambda value: value > 0, "above 0; 1 changes nothing"),
    "min_p": (lambda value: 0 <= value < 1, "0 or more, and below 1"),
}


def make_sampler(
    sampler: Any = "greedy",
    *,
    temperature: float = 1.0,
    k: int = 5,
    p: float = 0.9,
    alpha: float = 0.6,
    num_beams: int = 4,
    length_penalty: float = 0.0,
    num_return_sequences: int = 1,
    repetition_penalty: float | None = None,
    min_p: float | None = None,
    seed: int | None = None,
) -> Any:
    """Return a keras-nlp sampler by name; an instance is returned as it is.

    With `repetition_penalty` or `min_p`, either is wrapped in a `ProcessedSampler`. An option that
    a sampler has no use for is checked and then ignored.

    Args:
        sampler: one of `SAMPLERS`, or a `keras_hub.samplers.Sampler`.
        temperature: logits are divided by it; above 0.
        k: how many tokens `top_k` and `contrastive` choose among.
        p: the probability that the tokens `top_p` chooses among have together.
        alpha: how much `contrastive` counts likeness to earlier tokens against probability.
        num_beams: beams of `beam`.
        length_penalty: of `beam`; see `BeamSearch`.
        num_return_sequences: how many sequences `beam` returns for a prompt.
        repetition_penalty: see `RepetitionPenalty`; `None` for none.
        min_p: see `MinP`; `None` for none.
        seed: of the draws; `None` differs from call to call.

    Raises:
        ValueError: an unknown name, a value that is not allowed, or a sampler that needs a draft
            model.
    """
    _check_options(
        {"temperature": temperature, "p": p, "alpha": alpha, "length_penalty": length_penalty},
        {"k": k, "num_beams": num_beams, "num_return_sequences": num_return_sequences},
    )
    if seed is not None:
        check_count("seed", seed, least=0)
    if isinstance(sampler, str):
        chosen = _named_sampler(
            sampler,
            temperature=temperature,
            k=k,
            p=p,
            alpha=alpha,
            num_beams=num_beams,
            length_penalty=length_penalty,
            num_return_sequences=num_return_sequences,
            seed=seed,
        )
    else:
        chosen = _given_sampler(sampler)
    if num_return_sequences not in (1, getattr(chosen, "num_return_sequences", 1)):
        raise ValueError(
            f"num_return_sequences={num_return_sequences!r}: must be 1 with sampler {sampler!r}; "
            "'beam' returns more, and an instance as many as it was made for"
        )
    return _processed(chosen, repetition_penalty=repetition_penalty, min_p=min_p)


def check_count(name: str, value: Any, *, least: int = 1, most: int | None = None) -> None:
    """Refuse what is no whole number of `least` to `most`.

    Raises:
        ValueError: names the option, the value and what is allowed.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        allowed = f"{least} or more" if most is None else f"{least} to {most}"
        raise ValueError(f"{name}={value!r}: must be a whole number, {allowed}")


def check_real(name: str, value: Any) -> None:
    """Refuse what the real-valued sampler option `name` may not be.

    Raises:
        ValueError: names the option, the value and what is allowed.
    """
    fits, allowed = _ALLOWED[name]
    if not (_is_real(value) and fits(value)):
        raise ValueError(f"{name}={value!r}: must be {allowed}")


def _is_real(value: Any) -> bool:
    real = isinstance(value, int | float) and not isinstance(value, bool)
    return real and -math.inf < value < math.inf  # false for nan, and no overflow for a long int


def _check_options(reals: dict[str, Any], counts: dict[str, Any]) -> None:
    for name, value in reals.items():
        check_real(name, value)
    for name, value in counts.items():
        check_count(name, value)


def _named_sampler(
    name: str,
    *,
    temperature: float,
    k: int,
    p: float,
    alpha: float,
    num_beams: int,
    length_penalty: float,
    num_return_sequences: int,
    seed: int | None,
) -> Any:
    if name not in SAMPLERS:
        raise _unknown(name)
    from keras_hub import samplers

    match name:
        case "greedy":
            return samplers.GreedySampler(temperature=temperature)
        case "top_k":
            return samplers.TopKSampler(k=k, seed=seed, temperature=temperature)
        case "top_p":
            return samplers.TopPSampler(p=p, seed=seed, temperature=temperature)
        case "random":
            return samplers.RandomSampler(seed=seed, temperature=temperature)
        case "contrastive":
            return samplers.ContrastiveSampler(k=k, alpha=alpha, temperature=temperature)
    from functional_models.beam_search import BeamSearch

    return BeamSearch(
        num_beams=num_beams,
        length_penalty=length_penalty,
        num_return_sequences=num_return_sequences,
        temperature=temperature,
    )


def _given_sampler(sampler: Any) -> Any:
    from keras_hub import samplers

    if not isinstance(sampler, samplers.Sampler):
        raise _unknown(sampler)
    # Older releases of keras-nlp have no such class.
    if isinstance(sampler, getattr(samplers, "SpeculativeSampler", ())):
        raise ValueError(
            f"sampler={sampler!r}: speculative sampling needs a draft model, and there is none; "
            f"allowed: {', '.join(SAMPLERS)}, or an instance of another keras-nlp sampler"
        )
    return sampler


def _unknown(sampler: Any) -> ValueError:
    return ValueError(f"unknown sampler {sampler!r}; allowed: {', '.join(SAMPLERS)}")


def _processed(
    sampler: Any, *, repetition_penalty: float | None = None, min_p: float | None = None
) -> Any:
    if repetition_penalty is None and min_p is None:
        return sampler
    from functional_models.logit_processors import MinP, ProcessedSampler, RepetitionPenalty

    processors: list[Any] = []
    if repetition_penalty is not None:
        processors.append(RepetitionPenalty(repetition_penalty))
    if min_p is not None:  # last: it drops by the probabilities that tokens are drawn by
        processors.append(MinP(min_p, temperature=sampler.temperature))
    return ProcessedSampler(sampler, processors)
