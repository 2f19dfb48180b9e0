"""Samplers by name: KerasHub's, and beam search, with checked options.

Keras is imported when a sampler is made, so that importing this module is cheap.
"""

from __future__ import annotations

from typing import Any

from functional_models.checks import check_count, check_real

SAMPLERS = ("greedy", "top_k", "top_p", "random", "contrastive", "beam")


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
            "'beam' returns several, and an instance as many as it was created for"
        )
    return _processed(chosen, repetition_penalty=repetition_penalty, min_p=min_p)


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
    # Older releases of KerasHub have no such class.
    if isinstance(sampler, getattr(samplers, "SpeculativeSampler", ())):
        raise ValueError(
            f"sampler={sampler!r}: speculative sampling with a draft model is not supported; "
            f"allowed: {', '.join(SAMPLERS)}, or an instance of another KerasHub sampler"
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
    if min_p is not None:  # last: min-p applies to the probabilities that tokens are drawn by
        processors.append(MinP(min_p, temperature=sampler.temperature))
    return ProcessedSampler(sampler, processors)
