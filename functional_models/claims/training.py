"""Claims on models after a short training, decided by paired t-tests over seeds."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from functional_models.claims.bands import (
    Paired,
    all_of,
    geometric_mean,
    is_above,
    is_below,
    is_equal,
    paired,
)
from functional_models.claims.claim import Figure, Measured, claim
from functional_models.claims.runs import RATE, Trainer
from functional_models.claims.tasks import BLOCKS, WIDTH, Run

MUCH = 0.1
"""Nats per byte that count as much, where a source reports several BLEU."""

GLU_GAIN = 0.055
"""Nats per token that SwiGLU gains early in training in Narang et al. 2021, table 1."""

BASE = (
    f"Decoders of {BLOCKS} blocks, d = {WIDTH}, 4 heads, ReLU, on the bytes of the docstrings of "
    "Python's standard library: AdamW (0.9, 0.98) without weight decay and clipping, linear "
    f"warm-up for a third of the steps, cosine decay, peak rate {RATE:.2g} unless said otherwise. "
    "Loss on held-out text in nats per byte, paired by seed."
)
"""What all runs have in common."""


@claim(
    statement="RMS norm and layer norm end at the same loss.",
    source="Narang et al. 2021 (arXiv 2102.11972), table 1: 1.821 against 1.838 at 223M",
    band="the 95 % interval of the difference is within +- 0.03, about half of the early gain of "
    "SwiGLU there",
    setting=f"Pre-norm. {BASE}",
)
def rms_against_layer_norm(trainer: Trainer, norm: str = "rms") -> Measured:
    """Compare the losses of both norms."""
    runs = {"layer norm": trainer.runs(), "RMS norm": trainer.runs(norm=norm)}
    test = difference(runs["RMS norm"], runs["layer norm"])
    return loss_result(is_equal(test, GLU_GAIN / 2), f"RMS - layer norm: {test.text}.", runs)


@claim(
    statement="A gated feed-forward layer (GLU) ends at a lower loss than an MLP with as many "
    "parameters.",
    source="Narang et al. 2021 (arXiv 2102.11972), table 1: SwiGLU 1.789 against 1.838 at 223M; "
    "Shazeer 2020 (arXiv 2002.05202)",
    band="significantly lower, p < 0.05",
    setting=f"SiLU in the GLU, two thirds of the MLP's width. Pre-norm. {BASE}",
)
def glu_against_mlp(trainer: Trainer, feedforward: str = "glu") -> Measured:
    """Compare the losses of both feed-forward layers."""
    narrow = round(2 / 3 * 4 * WIDTH)
    gated = trainer.runs(feedforward=feedforward, activation="silu", intermediate_dim=narrow)
    runs = {"MLP": trainer.runs(), "GLU": gated}
    test = difference(runs["GLU"], runs["MLP"])
    return loss_result(is_below(test), f"GLU - MLP: {test.text}.", runs)


@claim(
    statement="Without skip paths, a deep model learns much less.",
    source="standard (He et al. 2016, arXiv 1512.03385, section 4.1, for convolutions)",
    band=f"the 95 % interval of the difference is above {MUCH}",
    setting=f"Pre-norm with and without the skip paths. {BASE}",
)
def no_residual(trainer: Trainer, merge: str = "none") -> Measured:
    """Compare the losses with and without skip paths."""
    runs = {"skip paths": trainer.runs(), "none": trainer.runs(merge=merge)}
    test = difference(runs["none"], runs["skip paths"])
    return loss_result(is_above(test, MUCH), f"Without - with skip paths: {test.text}.", runs)


@claim(
    statement="In training, the variance of the stream grows fastest with pre-norm.",
    source="Kim et al. 2025, Peri-LN (arXiv 2502.02732); arXiv 2502.05795",
    band="the factor by which the variance after the last block grows is significantly larger than "
    "with sandwich norm and with post-norm, each p < 0.05",
    setting=f"Variance after the last block, before any norm on the stream. {BASE}",
)
def variance_growth(trainer: Trainer, pre: str = "pre") -> Measured:
    """Compare the growth of the variance of the stream by placement."""
    placements = {"pre": pre, "sandwich": "sandwich", "post": "post"}
    runs = {
        label: trainer.runs(norm_placement=placement) for label, placement in placements.items()
    }
    growth = {label: [math.log(_growth(run)) for run in of] for label, of in runs.items()}
    tests = {label: paired(growth[label], growth["pre"]) for label in ("sandwich", "post")}
    factors = {label: math.exp(np.mean(logs)) for label, logs in growth.items()}
    shown = ", ".join(f"{factor:.2f} ({label})" for label, factor in factors.items())
    p = ", ".join(f"{test.p:.2g} ({label})" for label, test in tests.items())
    means = {label: geometric_mean([run.variances for run in of]) for label, of in runs.items()}
    return Measured(
        all_of([is_below(test) for test in tests.values()]),
        f"The variance grows by a factor of {shown}; against pre-norm p = {p}.",
        {"growth": {label: [math.exp(x) for x in logs] for label, logs in growth.items()}},
        Figure(
            "training step",
            "variance after the last block",
            {label: [[0, trainer.steps], mean] for label, mean in means.items()},
            log="y",
        ),
    )


def _growth(run: Run) -> float:
    before, after = run.variances
    return after / before


@claim(
    statement="With a norm on queries and keys, the loss depends less on the learning rate.",
    source="Wortsman et al. 2023 (arXiv 2309.14322), section 3.1.1",
    band="the sensitivity, the mean over the rates of loss - lowest loss, is significantly lower, "
    "p < 0.05",
    setting=f"Peak rates of 1/4, 1, 4 and 16 times {RATE:.2g}, where the source has three orders "
    f"of magnitude. A run that ends above ln 256 counts as ln 256. Pre-norm. {BASE}",
)
def qk_norm_sensitivity(trainer: Trainer, qk_norm: bool = True) -> Measured:
    """Compare the sensitivity to the learning rate with and without a norm on queries and keys."""
    rates = [RATE * factor for factor in (0.25, 1, 4, 16)]
    found = {
        label: np.array([losses(trainer.runs(rate=rate, qk_norm=used)) for rate in rates])
        for label, used in (("without", False), ("qk-norm", qk_norm))
    }
    sensitivity = {label: (x - x.min(axis=0)).mean(axis=0) for label, x in found.items()}
    test = paired(sensitivity["qk-norm"], sensitivity["without"])
    shown = ", ".join(f"{x.mean():.4f} ({label})" for label, x in sensitivity.items())
    return Measured(
        is_below(test),
        f"The sensitivity is {shown}; difference {test.text}.",
        {label: x.tolist() for label, x in found.items()},
        Figure(
            "peak learning rate",
            "loss (nats per byte)",
            {label: [rates, [*map(float, x.mean(axis=1))]] for label, x in found.items()},
            log="x",
        ),
    )


def losses(runs: Sequence[Run]) -> list[float]:
    """Return the losses of runs."""
    return [run.loss for run in runs]


def difference(a: Sequence[Run], b: Sequence[Run]) -> Paired:
    """Return the test of the losses of a minus those of b."""
    return paired(losses(a), losses(b))


def loss_result(verdict: str, summary: str, runs: Mapping[str, Sequence[Run]]) -> Measured:
    """Return the result of a claim on losses, with the mean training curves as the figure."""
    means = ", ".join(f"{np.mean(losses(of)):.4f} ({label})" for label, of in runs.items())
    curves: dict[str, list[list[float]]] = {}
    for label, of in runs.items():
        longest = max((run.steps for run in of), key=len)
        finished = [run.losses for run in of if run.steps == longest]  # others diverged
        curves[label] = [[*longest], [*map(float, np.mean(finished, axis=0))]]
    return Measured(
        verdict,
        f"{summary} Losses {means}.",
        {"losses": {label: losses(of) for label, of in runs.items()}},
        Figure("training step", "training loss (nats per token)", curves),
    )
