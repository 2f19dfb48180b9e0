"""Samplers by name: KerasHub's, and beam search, with checked options.

Keras is imported when a sampler is made, so that importing this module is cheap.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any

from builders.errors import unknown_name
from functional_models.checks import check_count, check_early_stopping, check_real
from functional_models.recipe import LARGEST_SEED

# Options of each sampler.
_OPTIONS = {
    "greedy": (),  # the likeliest token is the same at any temperature
    "top_k": ("temperature", "k", "seed"),
    "top_p": ("temperature", "k", "p", "seed"),
    "random": ("temperature", "seed"),
    "contrastive": ("temperature", "k", "alpha"),
    "beam": (
        *("temperature", "num_beams", "num_return_sequences"),
        *("length_penalty", "length_offset", "early_stopping"),
    ),
}
SAMPLERS = tuple(_OPTIONS)
_RULES = ("min_new_tokens", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty")
_OF_ALL = (
    *("seed", "num_return_sequences", "repetition_penalty", "no_repeat_ngram_size", "min_p"),
    *_RULES,
)
"""Options that any sampler takes, `num_return_sequences` only as 1."""


def _checks_given(make: Callable[..., Any]) -> Callable[..., Any]:
    """Return `make_sampler` with a check of the options that are given, not of the defaults."""

    @functools.wraps(make)
    def check_and_make(sampler: Any = "greedy", **given: Any) -> Any:
        check_option_names(make, given)
        made = make(sampler, **given)
        check_options_of(sampler, given)
        return made

    return check_and_make


@_checks_given
def make_sampler(
    sampler: Any = "greedy",
    *,
    temperature: float = 1.0,
    k: int | None = None,
    p: float | None = None,
    alpha: float = 0.6,
    num_beams: int = 4,
    num_return_sequences: int = 1,
    length_penalty: float = 0.0,
    length_offset: float = 0.0,
    early_stopping: str | bool = "never",
    repetition_penalty: float | None = None,
    no_repeat_ngram_size: int | None = None,
    min_new_tokens: int | None = None,
    encoder_no_repeat_ngram_size: int | None = None,
    encoder_repetition_penalty: float | None = None,
    min_p: float | None = None,
    seed: int | None = None,
) -> Any:
    """Return a KerasHub sampler by name; an instance is returned as it is.

    `random`, `top_k` and `top_p` are a `RandomSampler` of KerasHub, which draws from the tokens
    that processors of the logits leave, in the order of Hugging Face Transformers: repetition
    penalty, repeated tokens, temperature, k, p, min_p. KerasHub's own classes draw from other
    tokens where logits are equal, where the likeliest tokens have a total probability of exactly p,
    and where k and p are given. The command line takes its options, with their help, from this
    signature.

    Args:
        sampler: one of `SAMPLERS`, or a `keras_hub.samplers.Sampler`.
        temperature: divides the logits of all samplers but `greedy`; above 0.
        k: number of likeliest tokens to choose from; by default 5 for `top_k` and `contrastive`,
            and all for `top_p`.
        p: total probability of the tokens that `top_p` chooses from, of those that `k` leaves;
            default: 0.9.
        alpha: weight of the similarity to earlier tokens in `contrastive`, 0 to 1.
        num_beams: number of beams of `beam`.
        num_return_sequences: number of sequences that `beam` returns for each prompt, best first.
        length_penalty: exponent of the length that `beam` divides log-probabilities by; higher
            values favour longer sequences.
        length_offset: number c in the length (c + number of new tokens) / (c + 1); 0 as in Hugging
            Face, and 5 as in Wu et al. (2016).
        early_stopping: when `beam` stops: `never` before no better sequence can follow; `false` by
            an estimate of that, as is the default of Hugging Face; `true` at `num_beams` sequences.
        repetition_penalty: makes tokens that have occurred less likely if above 1.
        no_repeat_ngram_size: number n, where no n tokens that follow each other occur again.
        min_new_tokens: number of new tokens before which no text ends.
        encoder_no_repeat_ngram_size: number n, where no n tokens that follow each other in the
            source of a translation do so in it.
        encoder_repetition_penalty: makes tokens of the source of a translation more likely if
            above 1.
        min_p: drops tokens less likely than this fraction of the likeliest token's probability.
        seed: seed of the random draws; by default, draws differ from call to call.

    Raises:
        TypeError: an unknown option.
        ValueError: an unknown name, a value that is not allowed, an option that the sampler does
            not use, or a sampler that needs a draft model.
    """
    options: dict[str, Any] = {
        "temperature": temperature,
        "k": 5 if k is None else k,
        "p": 0.9 if p is None else p,
        "alpha": alpha,
        "num_beams": num_beams,
        "num_return_sequences": num_return_sequences,
        "length_penalty": length_penalty,
        "length_offset": length_offset,
        "early_stopping": check_early_stopping(early_stopping),
        "seed": seed,
    }
    for name in ("temperature", "p", "alpha", "length_penalty", "length_offset"):
        check_real(name, options[name])
    for name in ("k", "num_beams", "num_return_sequences"):
        check_count(name, options[name])
    if seed is not None:
        check_count("seed", seed, least=0, most=LARGEST_SEED)
    chosen = _create(sampler, options) if isinstance(sampler, str) else _check_instance(sampler)
    if num_return_sequences not in (1, getattr(chosen, "num_return_sequences", 1)):
        raise ValueError(
            f"num_return_sequences={num_return_sequences!r}: must be 1 with sampler {sampler!r}; "
            "'beam' returns several, and an instance as many as it was created for"
        )
    from functional_models import logit_processors as of
    from functional_models.processed_sampler import ProcessedSampler
    from functional_models.token_rules import TokenRules

    # In the order of Hugging Face; all but the first leave the logits of the tokens that they keep.
    processors: list[Any] = []
    if repetition_penalty is not None:
        processors.append(of.RepetitionPenalty(repetition_penalty))
    if no_repeat_ngram_size is not None:
        processors.append(of.NoRepeatNgrams(no_repeat_ngram_size))
    if sampler == "top_k" or (sampler == "top_p" and k is not None):
        processors.append(of.TopK(options["k"]))
    if sampler == "top_p":
        processors.append(of.TopP(options["p"], temperature=temperature))
    if min_p is not None:
        processors.append(of.MinP(min_p, temperature=chosen.temperature))
    given = (min_new_tokens, encoder_no_repeat_ngram_size, encoder_repetition_penalty)
    rules: dict[str, Any] = dict(zip(_RULES, given, strict=True))
    rules = {name: value for name, value in rules.items() if value is not None}
    if not processors and not rules:
        return chosen
    return ProcessedSampler(chosen, processors, TokenRules(**rules))


def check_option_names(
    function: Callable[..., Any], given: Iterable[str], called: str | None = None
) -> None:
    """Check the names of options that a function passes on to `make_sampler`.

    Args:
        function: the function.
        given: the names.
        called: the function that the user has called, if it is another one.

    Raises:
        TypeError: neither the function nor `make_sampler` has such an option.
    """
    both = [inspect.signature(f).parameters.values() for f in (function, make_sampler)]
    allowed = dict.fromkeys(p.name for ps in both for p in ps if p.kind is p.KEYWORD_ONLY)
    for name in given:
        if name not in allowed:
            raise TypeError(
                f"{called or function.__name__}: {unknown_name('option', name, allowed)}"
            )


def check_options_of(
    sampler: Any, given: Iterable[str], shown: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Check that a sampler uses the options that are given.

    A seed is always allowed: without draws, the result is reproducible anyway.

    Args:
        sampler: a name, or an instance, whose own options are set where it is created.
        given: names of options.
        shown: how the options are written, for errors; by default as arguments of Python.

    Raises:
        ValueError: it does not use one of them.
    """
    own = _OPTIONS.get(sampler, ()) if isinstance(sampler, str) else ()
    for name in given:
        if name in (*own, *_OF_ALL):
            continue
        option = shown.get(name, name)
        if not isinstance(sampler, str):
            raise ValueError(
                f"{option} has no effect on {sampler!r:.60}; give it where the sampler is created"
            )
        users = [other for other, options in _OPTIONS.items() if name in options]
        raise ValueError(
            f"{option} is an option of {' and '.join(users)}, and the sampler is {sampler}; "
            f"choose {' or '.join(users)}, or leave {option} out"
        )


def _create(name: str, options: Mapping[str, Any]) -> Any:
    """Return a new sampler with those options that it has."""
    if name not in _OPTIONS:
        raise ValueError(unknown_name("sampler", name, SAMPLERS))
    from keras_hub import samplers

    from functional_models.beam_search import BeamSearch
    from functional_models.processed_sampler import InverseSampler

    classes = {
        "greedy": samplers.GreedySampler,
        **dict.fromkeys(("top_k", "top_p", "random"), InverseSampler),
        "contrastive": samplers.ContrastiveSampler,
        "beam": BeamSearch,
    }
    processed = ("k", "p") if classes[name] is InverseSampler else ()
    names = [option for option in _OPTIONS[name] if option not in processed]
    return classes[name](**{option: options[option] for option in names})


def _check_instance(sampler: Any) -> Any:
    from keras_hub import samplers

    if not isinstance(sampler, samplers.Sampler):
        raise ValueError(unknown_name("sampler", sampler, SAMPLERS))
    # Older releases of KerasHub have no such class.
    if isinstance(sampler, getattr(samplers, "SpeculativeSampler", ())):
        raise ValueError(
            f"sampler={sampler!r}: speculative sampling with a draft model is not supported; "
            f"allowed: {', '.join(SAMPLERS)}, or an instance of another KerasHub sampler"
        )
    return sampler
