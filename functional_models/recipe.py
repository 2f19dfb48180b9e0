"""Training recipes: the hyperparameters of a run, checked, without importing Keras."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from builders.errors import invalid_value, names_similar_fields
from functional_models.checks import LARGEST_COUNT, LARGEST_NUMBER

SCHEDULES = ("cosine", "inverse_sqrt", "warmup_stable_decay", "constant")

OPTIMIZERS = ("adamw", "muon", "lion", "adafactor")

PACKINGS = ("stream", "documents")

LARGEST_SEED = 2**32 - 1
"""The largest seed that Keras and NumPy take."""


@names_similar_fields("recipe field")
@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Hyperparameters of a training run.

    Several models trained with the same recipe have the same budget. The command line takes its
    options, with their help, from these fields.

    Attributes:
        steps: number of weight updates.
        batch_size: sequences per weight update.
        max_shapes: most shapes that sentence pairs, examples and labelled texts are padded to. With
            more, less is padding, but the rows of a batch are more alike; default: 24, or 8 on JAX.
        packing: of the texts of a language model: `stream`, in which tokens attend to earlier texts
            of their row, or `documents`, in which they attend to their own, where positions begin
            at 0.
        gradient_accumulation: parts that a batch is computed in, one after the other, for less
            memory; the gradients are those of the whole batch.
        optimizer: `adamw`, `muon`, `lion` or `adafactor`.
        learning_rate: peak of the learning-rate schedule; default: by the width of the model and
            the optimizer, see `default_learning_rate`.
        learning_rate_factors: factors of the learning rate of some layers, such as
            `*embedding=0.1 decoder.block_0.*=0.5`. In a name, `*` is anything; of several factors
            for a layer, the last one counts.
        schedule: `cosine`, `inverse_sqrt`, `warmup_stable_decay` or `constant`.
        warmup_steps: steps of linear warm-up; default: half of the steps, at most 100.
        decay_steps: last steps, in which `warmup_stable_decay` decays; default: a fifth.
        weight_decay: decoupled weight decay; not applied to biases, norms and embeddings.
        beta_2: decay rate of the second moment, for Lion that of its momentum; Adafactor has its
            own.
        clip_norm: maximum global norm of the gradients.
        label_smoothing: probability that is spread over the whole vocabulary.
        z_loss: factor of a loss that keeps the logarithm of the sum of exponentials near zero.
        ema_decay: decay rate of averages of the weights, such as 0.999, which are evaluated, saved
            and sampled in place of the weights; default: no averages.
        report_every: steps between two reports; each evaluates, samples and saves.
        validation_batches: most batches that a report evaluates, evenly spread over the validation
            data.
        seed: seed of the weights, the dropout and the order of the data.

    Raises:
        ValueError: a value is not allowed; the error names the field and the allowed values.
    """

    steps: int = 2000
    batch_size: int = 32
    max_shapes: int | None = None
    packing: str = "stream"
    gradient_accumulation: int = 1
    optimizer: str = "adamw"
    learning_rate: float | None = None
    learning_rate_factors: str = ""
    schedule: str = "cosine"
    warmup_steps: int | None = None
    decay_steps: int | None = None
    weight_decay: float = 0.01
    beta_2: float = 0.98
    clip_norm: float = 1.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    ema_decay: float | None = None
    report_every: int = 200
    validation_batches: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        self._check_values()

    def _check_types(self) -> None:
        """Check the type of each field, and that its number is one of a training step."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            kind, _, optional = str(field.type).partition(" | ")
            if value is None and optional:
                continue
            # As in Python's own arithmetic an int is a valid float; a bool is neither.
            types: Any = {"int": int, "float": (int, float), "str": str}[kind]
            if isinstance(value, bool) or not isinstance(value, types):
                raise invalid_value(field.name, value, f"of type {kind}")
            if kind == "float" and not abs(value) <= LARGEST_NUMBER:  # NaN too
                raise invalid_value(field.name, value, f"finite, and at most {LARGEST_NUMBER}")
            if kind == "int" and field.name != "seed" and value > LARGEST_COUNT:
                raise invalid_value(field.name, value, f"at most {LARGEST_COUNT:,}")

    def _check_values(self) -> None:
        rules: dict[str, tuple[bool, str]] = {
            "steps": (self.steps >= 1, "1 or more"),
            "batch_size": (self.batch_size >= 1, "1 or more"),
            "gradient_accumulation": (
                self.gradient_accumulation >= 1
                and self.batch_size % max(self.gradient_accumulation, 1) == 0,
                f"1 or more, and a divisor of batch_size={self.batch_size}",
            ),
            "max_shapes": (self.max_shapes is None or self.max_shapes >= 1, "1 or more"),
            "packing": (self.packing in PACKINGS, f"one of {', '.join(PACKINGS)}"),
            "optimizer": (self.optimizer in OPTIMIZERS, f"one of {', '.join(OPTIMIZERS)}"),
            "learning_rate": (self.learning_rate is None or self.learning_rate > 0, "above 0"),
            "learning_rate_factors": (
                rate_factors(self.learning_rate_factors) is not None,
                "names with factors above 0, such as '*embedding=0.1 decoder.block_0.*=0.5'",
            ),
            "schedule": (self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}"),
            "warmup_steps": (self.warmup_steps is None or self.warmup_steps >= 0, "0 or more"),
            "decay_steps": (self.decay_steps is None or self.decay_steps >= 1, "1 or more"),
            "weight_decay": (self.weight_decay >= 0, "0 or more"),
            "beta_2": (0 <= self.beta_2 < 1, "in [0, 1)"),
            "clip_norm": (self.clip_norm > 0, "above 0"),
            "label_smoothing": (0 <= self.label_smoothing < 1, "in [0, 1)"),
            "z_loss": (self.z_loss >= 0, "0 or more"),
            "ema_decay": (self.ema_decay is None or 0 < self.ema_decay < 1, "in (0, 1)"),
            "report_every": (self.report_every >= 1, "1 or more"),
            "validation_batches": (self.validation_batches >= 1, "1 or more"),
            "seed": (0 <= self.seed <= LARGEST_SEED, f"0 to {LARGEST_SEED}"),
        }
        for name, (is_allowed, allowed) in rules.items():
            if not is_allowed:
                raise invalid_value(name, getattr(self, name), allowed)
        if self.ema_decay is not None and self.gradient_accumulation > 1:
            raise ValueError(
                f"ema_decay={self.ema_decay!r} with gradient_accumulation="
                f"{self.gradient_accumulation}: Keras would average after every part of a batch; "
                "leave one of them at its default"
            )
        if self.decay_steps is not None and self.schedule != "warmup_stable_decay":
            raise ValueError(
                f"decay_steps={self.decay_steps}: the schedule {self.schedule!r} has none; leave "
                'it out, or use schedule="warmup_stable_decay"'
            )

    def for_width(self, hidden_dim: int) -> Recipe:
        """Return the recipe with the defaults for a model of a width filled in."""
        rate, warmup = self.learning_rate, self.warmup_steps
        if rate is None:
            rate = default_learning_rate(hidden_dim, self.optimizer)
        return dataclasses.replace(
            self,
            learning_rate=rate,
            warmup_steps=min(self.steps // 2, 100) if warmup is None else warmup,
        )


def rate_factors(text: str) -> dict[str, float] | None:
    """Return the factors in `Recipe.learning_rate_factors` by name; None if the text has others."""
    found: dict[str, float] = {}
    for item in text.split():
        name, _, number = item.rpartition("=")
        try:
            factor = float(number)
        except ValueError:
            return None
        if not name or not 0 < factor < math.inf:
            return None
        found.pop(name, None)  # the last one counts
        found[name] = factor
    return found


def default_learning_rate(hidden_dim: int, optimizer: str = "adamw") -> float:
    """Return the peak learning rate for a model of a width: for AdamW 0.5 / width, at most 0.01.

    At widths 64 to 256 the loss is within 0.02 nats of the best of a grid (`benchmarks/README.md`).
    At larger ones it is within a factor of two of the rates of GPT-3, 6e-4 at width 768 to 0.6e-4
    at width 12288 (Brown et al. 2020, Table 2.1).

    Muon has the same rate, since its updates are scaled to the size of AdamW's (Liu et al. 2025,
    section 2.2). Lion has a third: its authors take a third to a tenth (Chen et al. 2023, section
    5). The rates of Adafactor are relative to the size of the weights, here 1 / sqrt(width)
    (Shazeer and Stern 2018, section 8).
    """
    rate = min(0.5 / hidden_dim, 0.01)
    return rate * {"lion": 1 / 3, "adafactor": math.sqrt(hidden_dim)}.get(optimizer, 1.0)


def make_recipe(recipe: Recipe | None, changes: Mapping[str, Any]) -> Recipe:
    """Return a recipe, by default `Recipe()`, with changed fields.

    Raises:
        ValueError: an unknown field, or a value that is not allowed.
        TypeError: `recipe` is not a `Recipe`.
    """
    if recipe is not None and not isinstance(recipe, Recipe):
        raise TypeError(
            f"expected a Recipe, given {recipe!r:.60}; write Recipe(steps=500), or steps=500 alone"
        )
    return dataclasses.replace(recipe or Recipe(), **changes)


def default_budget(**changes: Any) -> Recipe:
    """Return the default recipe of `compare`: about a minute per variant on two cores.

    Runs are short, so that pairs have few shapes: a step is compiled for each, and the lengths of
    the embedded pairs tell what they are about, so that batches of many shapes are one-sided.

    Raises:
        ValueError: an unknown field, or a value that is not allowed.
    """
    defaults = {"steps": 1300, "batch_size": 64, "max_shapes": 8, "report_every": 130}
    return make_recipe(None, {**defaults, **changes})
