"""Equal budgets for models of different sizes: steps, tokens, training FLOPs or seconds."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import builders
from builders.errors import unknown_name
from functional_models.corpora import ParallelCorpus
from functional_models.studies.runs import StudyData
from functional_models.studies.settings import Setting
from plots.parsing import parse_value

UNITS = ("steps", "tokens", "flops", "seconds")

_SAMPLE = 1000
"""Number of pairs whose lengths are measured."""

_PROBE_STEPS = 30


@dataclass(frozen=True)
class Budget:
    """What every setting may spend on training.

    Attributes:
        amount: The number of units.
        unit: "steps"; "tokens", target tokens that count; "flops" of forward and backward passes;
            or "seconds" of training steps, without compilation and evaluation.
    """

    amount: float
    unit: str

    def __str__(self) -> str:
        amount = f"{self.amount:,.0f}" if self.amount < 1e9 else f"{self.amount:.3g}"
        return f"{amount} {'FLOPs' if self.unit == 'flops' else self.unit}"


def parse_budget(given: Any) -> Budget:
    """Return a budget: a number of steps, or a text such as "2e6 tokens".

    Raises:
        ValueError: another text, or a number that is not positive.
        TypeError: neither a number nor a text.
    """
    if isinstance(given, Budget):
        return given
    if isinstance(given, bool) or not isinstance(given, int | str):
        raise TypeError(
            f"budget must be a number of steps, or a text such as '2e6 tokens', given {given!r:.60}"
        )
    number, _, unit = str(given).strip().partition(" ")
    amount, unit = parse_value(number), unit.strip().lower() or "steps"
    if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 < amount < 1e30:
        raise ValueError(f"budget={given!r}: {number!r} must be a number above 0")
    if unit not in UNITS:
        raise ValueError(unknown_name("unit of the budget", unit, UNITS))
    if unit == "steps" and amount != int(amount):
        raise ValueError(f"budget={given!r}: must be a whole number of steps")
    return Budget(amount, unit)


@dataclass(frozen=True)
class Lengths:
    """Mean numbers of tokens of a row of a batch, without padding.

    Attributes:
        target: Of the text, or the target, t.
        source: Of the source, s; None for text.
    """

    target: float
    source: float | None


def mean_lengths(spec: builders.TransformerSpec, data: StudyData) -> Lengths:
    """Return the mean lengths of rows; of pairs, those of an evenly spread sample."""
    if not isinstance(data.corpus, ParallelCorpus):
        return Lengths(spec.max_sequence_length, None)
    pairs = data.corpus.train
    chosen = [pairs[i] for i in range(0, len(pairs), max(len(pairs) // _SAMPLE, 1))]
    sources, targets = zip(*chosen, strict=True)
    source, target = (
        sum(map(len, data.tokenizer.encode(list(texts)))) / len(texts)
        for texts in (sources, targets)
    )
    return Lengths(target + 1, source)  # the end token is learned


def flops_per_step(setting: Setting, lengths: Lengths) -> float:
    """Return the floating-point operations of a training step, without padding."""
    source = None if lengths.source is None else max(round(lengths.source), 1)
    counts = builders.count_flops(setting.spec, max(round(lengths.target), 1), source)
    return counts.training * setting.recipe.batch_size


def with_budget(
    setting: Setting, budget: Budget, lengths: Lengths, tokens_per_second: float | None = None
) -> Setting:
    """Return a setting whose recipe has the steps of a budget, with ten reports.

    Raises:
        ValueError: the budget is less than a step.
    """
    if budget.unit == "steps":
        steps = budget.amount
    else:
        tokens = lengths.target * setting.recipe.batch_size
        if budget.unit == "tokens":
            of_a_step = tokens
        elif budget.unit == "flops":
            of_a_step = flops_per_step(setting, lengths)
        else:
            assert tokens_per_second is not None
            of_a_step = tokens / tokens_per_second
        steps = budget.amount / of_a_step
        if steps < 1:
            raise ValueError(
                f"budget: {budget} are less than a step of {setting.name}, which takes "
                f"{of_a_step:,.3g}"
            )
    whole = int(steps)
    recipe = dataclasses.replace(
        setting.recipe, steps=whole, report_every=max(math.ceil(whole / 10), 1)
    )
    return dataclasses.replace(setting, recipe=recipe)


def measure_speed(setting: Setting, data: StudyData) -> float:
    """Train a few steps, and return target tokens per second without compilation."""
    from functional_models.loading import new_text_model

    recipe = setting.recipe.for_width(setting.spec.hidden_dim)
    recipe = dataclasses.replace(recipe, steps=_PROBE_STEPS, report_every=_PROBE_STEPS)
    model = new_text_model(setting.spec, data.tokenizer)
    corpus: Any = data.corpus
    corpus = dataclasses.replace(corpus, validation=(), test=())
    rows: Sequence[Any] = model.fit(corpus, recipe=recipe, progress=False)
    return float(rows[-1]["tokens_per_second"])
