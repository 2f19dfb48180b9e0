"""The plan of a study: all that is known before anything is trained, and all that can be wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import builders
from builders.errors import unknown_name
from functional_models.checks import check_count
from functional_models.corpora import Corpus, ParallelCorpus, load_corpus
from functional_models.loading import sized_for
from functional_models.recipe import LARGEST_SEED
from functional_models.studies.budgets import (
    Budget,
    flops_per_step,
    mean_lengths,
    measure_speed,
    with_budget,
)
from functional_models.studies.results import Cost
from functional_models.studies.runs import Run, StudyData, make_runs
from functional_models.studies.settings import Setting, Spec
from functional_models.tokenizer_training import shared_tokenizer

_KINDS = ("encoder_decoder", "decoder_only")


@dataclass(frozen=True)
class Plan:
    """What a study trains.

    Attributes:
        settings: The settings.
        seeds: The seeds of each setting.
        baseline: The name of a setting, or of one without its learning rate.
        data: Corpus and tokenizer of all runs.
        fingerprint: A hash of the data.
        precision: The name of Keras' dtype policy.
        speeds: Steps per second of settings, where a budget in seconds needs them.
    """

    settings: tuple[Setting, ...]
    seeds: tuple[int, ...]
    baseline: str
    data: StudyData
    fingerprint: str
    precision: str
    speeds: Mapping[str, float]

    @cached_property
    def runs(self) -> list[Run]:
        """All settings with the first seed, then with the second, ..."""
        return make_runs(self.settings, self.seeds, self.fingerprint, self.precision)

    @cached_property
    def costs(self) -> dict[str, Cost]:
        """What a step of each setting costs, if its operations are known."""
        costs = {}
        for setting in self.settings:
            lengths = mean_lengths(setting.spec, self.data)
            with suppress(ValueError):  # a custom component
                flops = flops_per_step(setting, lengths)
                costs[setting.name] = Cost(lengths.target * setting.recipe.batch_size, flops)
        return costs

    def with_known_steps(self, budget: Budget | None, measured: Mapping[str, float]) -> Plan:
        """Return the plan with the steps of a budget, without settings whose speed is not measured.

        Args:
            budget: What each run may spend; `None`: the steps of its recipe.
            measured: Speeds that were measured before.
        """
        if budget is None:
            return self
        known = [s for s in self.settings if budget.unit != "seconds" or s.name in measured]
        return replace(self, settings=tuple(known)).with_budget(budget, measured)

    def with_budget(
        self, budget: Budget, measured: Mapping[str, float], *, progress: bool = True
    ) -> Plan:
        """Return the plan with the steps of a budget.

        Args:
            budget: What each run may spend.
            measured: Speeds that were measured before.
            progress: Say what is measured.
        """
        speeds, changed = dict(measured), []
        for setting in self.settings:
            name = setting.name
            if budget.unit == "seconds" and name not in speeds:
                if progress:
                    print(f"measuring the speed of {name}", flush=True)
                speeds[name] = measure_speed(setting, self.data)
            lengths = mean_lengths(setting.spec, self.data)
            changed.append(with_budget(setting, budget, lengths, speeds.get(name)))
        return replace(self, settings=tuple(changed), speeds=speeds)


def study_data(
    data: str | Sequence[str] | Corpus,
    kind: str | None,
    *,
    tokenizer: str,
    vocabulary_size: int | None,
    progress: bool,
) -> StudyData:
    """Return the corpus of a study, and the tokenizer that is trained on it.

    Raises:
        ValueError: another kind, or data without a held-out part; otherwise as `load_corpus`.
    """
    if kind is not None and kind not in _KINDS:
        raise ValueError(
            f"kind={kind!r}: must be 'encoder_decoder' or 'decoder_only'; compare trains "
            "translators and language models"
        )
    corpus = data if isinstance(data, Corpus) else load_corpus(data, kind, progress=progress)
    if not (corpus.test or corpus.validation):
        raise ValueError(f"{corpus.name} has no held-out text to evaluate on; give more text")
    if vocabulary_size is None and tokenizer != "byte":
        vocabulary_size = 2000
    return StudyData(
        corpus, shared_tokenizer(corpus, tokenizer, vocabulary_size, progress=progress)
    )


def chosen_seeds(seeds: int | Sequence[int], first: int) -> tuple[int, ...]:
    """Return a list of seeds, or that many seeds from the first on.

    Raises:
        TypeError, ValueError: no seeds, or equal ones.
    """
    if isinstance(seeds, int) and not isinstance(seeds, bool):
        check_count("seeds", seeds)
        return tuple(first + number for number in range(seeds))
    if isinstance(seeds, str | bool) or not isinstance(seeds, Iterable):
        raise TypeError(f"seeds must be a number or a list of seeds, given {seeds!r:.60}")
    listed = tuple(seeds)
    if not listed or len(set(listed)) < len(listed):
        raise ValueError(f"seeds={list(listed)!r:.60}: must be one seed or more, each once")
    for seed in listed:
        check_count("seed", seed, least=0, most=LARGEST_SEED)
    return listed


def check_losses(settings: Sequence[Setting]) -> None:
    """Check that the losses of all settings are of the same tokens.

    Raises:
        ValueError: a prefix language model, which predicts what follows random prefixes only.
    """
    for setting in settings:
        if setting.spec.prefix_lm:
            raise ValueError(
                f"{setting.name} has prefix_lm=True: its loss is of the tokens after random "
                "prefixes, and not comparable with that of another model; train it with "
                "CausalLM.fit, or `functional-models train`"
            )


def chosen_baseline(baseline: str | None, settings: Sequence[Setting]) -> str:
    """Return the baseline, by default the first setting.

    Raises:
        ValueError: no setting has this name.
    """
    if baseline is None:
        return settings[0].group
    names = [name for s in settings for name in dict.fromkeys((s.name, s.group))]
    if baseline not in names:
        raise ValueError(unknown_name("baseline", str(baseline), names))
    return baseline


def specs_by_name(specs: Iterable[Spec] | Mapping[str, Spec]) -> dict[str, Spec]:
    """Return specs by name.

    Raises:
        TypeError: something is neither a variant nor a spec.
        ValueError: there is none, or two have one name.
    """
    if isinstance(specs, Mapping):
        given: dict[str, Spec] = {str(name): spec for name, spec in specs.items()}
    else:
        given = {}
        several = isinstance(specs, Iterable) and not isinstance(specs, str | bytes)
        listed: Any = specs if several else [specs]
        for spec in listed:
            if _name(spec) in given:
                raise ValueError(f"two specs have the name {_name(spec)}; name them with a dict")
            given[_name(spec)] = spec
    if not given:
        raise ValueError("there is nothing to compare; give at least one variant")
    for spec in given.values():
        _name(spec)  # raises for other types
    return given


def _name(spec: Spec) -> str:
    if isinstance(spec, str):
        return spec
    if not isinstance(spec, builders.TransformerSpec):
        raise TypeError(f"compare takes variants and specs, given {type(spec).__name__}")
    return f"{spec.norm_placement}_norm_{spec.positions}" + "_no_skips" * (spec.merge == "none")


def sized_specs(
    given: Mapping[str, Spec], data: StudyData, changes: Mapping[str, Any]
) -> dict[str, builders.TransformerSpec]:
    """Return specs for the data and its vocabulary.

    Raises:
        ValueError: a spec of another kind than the data.
    """
    kind = "encoder_decoder" if isinstance(data.corpus, ParallelCorpus) else "decoder_only"
    chosen = {}
    for name, spec in given.items():
        plain = builders.variant(spec, kind=kind) if isinstance(spec, str) else spec
        if plain.kind != kind:
            raise ValueError(f"{name} is of kind={plain.kind!r}, the data is for {kind!r}")
        chosen[name] = sized_for(plain, data.tokenizer, changes)
    return chosen
