"""Samplers by name: KerasHub's, and beam search, with checked options.

Keras is imported when a sampler is made, so that importing this module is cheap.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from builders.errors import unknown_name
from functional_models.checks import check_count, check_real

# Options of each sampler.
_OPTIONS = {
    "greedy": ("temperature",),
    "top_k": ("temperature", "k", "seed"),
    "top_p": ("temperature", "p", "seed"),
    "random": ("temperature", "seed"),
    "contrastive": ("temperature", "k", "alpha"),
    "beam": ("temperature", "num_beams", "length_penalty", "num_return_sequences"),
}
SAMPLERS = tuple(_OPTIONS)
_OF_ALL = ("seed", "num_return_sequences", "repetition_penalty", "min_p")
"""Options that any sampler takes, `num_return_sequences` only as 1."""


def check_taken(sampler: Any, options: Iterable[str]) -> None:
    """Check that a sampler has the options that a caller gave.

    Raises:
        ValueError: naming the options that it has; an instance has none.
    """
    own = _OPTIONS.get(sampler, ()) if isinstance(sampler, str) else ()
    if isinstance(sampler, str) and sampler not in _OPTIONS:
        return  # an unknown name, of which `make_sampler` says more
    for name in options:
        if name not in (*own, *_OF_ALL):
            fitting = [known for known, names in _OPTIONS.items() if name in names]
            if not fitting:
                continue  # an unknown option
            shown = repr(sampler) if isinstance(sampler, str) else "an instance"
            raise ValueError(
                f"{name}: sampler {shown} does not take it; omit it, or use {', '.join(fitting)}"
            )


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
    """Return a KerasHub sampler by name; an instance is returned as it is.

    With `repetition_penalty` or `min_p`, the sampler is wrapped in a `ProcessedSampler`. Options
    that a sampler does not use are checked and then ignored. The command line takes its options,
    with their help, from this signature.

    Args:
        sampler: one of `SAMPLERS`, or a `keras_hub.samplers.Sampler`.
        temperature: divides the logits; above 0.
        k: number of tokens that `top_k` and `contrastive` choose from.
        p: total probability of the tokens that `top_p` chooses from.
        alpha: weight of the similarity to earlier tokens in `contrastive`, 0 to 1.
        num_beams: number of beams of `beam`.
        length_penalty: exponent of the length normalisation of `beam`; higher values favour longer
            sequences.
        num_return_sequences: number of sequences that `beam` returns for each prompt, best first.
        repetition_penalty: makes tokens that have occurred less likely if above 1.
        min_p: drops tokens less likely than this fraction of the likeliest token's probability.
        seed: seed of the random draws; by default, draws differ from call to call.

    Raises:
        ValueError: an unknown name, a value that is not allowed, or a sampler that needs a draft
            model.
    """
    options = {
        "temperature": temperature,
        "k": k,
        "p": p,
        "alpha": alpha,
        "num_beams": num_beams,
        "length_penalty": length_penalty,
        "num_return_sequences": num_return_sequences,
        "seed": seed,
    }
    for name in ("temperature", "p", "alpha", "length_penalty"):
        check_real(name, options[name])
    for name in ("k", "num_beams", "num_return_sequences"):
        check_count(name, options[name])
    if seed is not None:
        check_count("seed", seed, least=0)
    chosen = _create(sampler, options) if isinstance(sampler, str) else _check_instance(sampler)
    if num_return_sequences not in (1, getattr(chosen, "num_return_sequences", 1)):
        raise ValueError(
            f"num_return_sequences={num_return_sequences!r}: must be 1 with sampler {sampler!r}; "
            "'beam' returns several, and an instance as many as it was created for"
        )
    if repetition_penalty is None and min_p is None:
        return chosen
    from functional_models.logit_processors import MinP, ProcessedSampler, RepetitionPenalty

    processors: list[Any] = []
    if repetition_penalty is not None:
        processors.append(RepetitionPenalty(repetition_penalty))
    if min_p is not None:  # last: min-p applies to the probabilities that tokens are drawn by
        processors.append(MinP(min_p, temperature=chosen.temperature))
    return ProcessedSampler(chosen, processors)


def _create(name: str, options: Mapping[str, Any]) -> Any:
    """Return a new sampler with those options that it has."""
    if name not in _OPTIONS:
        raise ValueError(unknown_name("sampler", name, SAMPLERS))
    from keras_hub import samplers

    from functional_models.beam_search import BeamSearch

    classes = {
        "greedy": samplers.GreedySampler,
        "top_k": samplers.TopKSampler,
        "top_p": samplers.TopPSampler,
        "random": samplers.RandomSampler,
        "contrastive": samplers.ContrastiveSampler,
        "beam": BeamSearch,
    }
    return classes[name](**{option: options[option] for option in _OPTIONS[name]})


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
