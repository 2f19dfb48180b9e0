"""Claims on learning-rate warm-up, in translation with a 6-6 Transformer as in their source."""

from __future__ import annotations

from functional_models.claims.bands import is_above, is_at_most
from functional_models.claims.claim import Measured, claim
from functional_models.claims.runs import Trainer
from functional_models.claims.tasks import BLOCKS, PAIRS_PER_BATCH, TRANSLATION, VOCABULARY, WIDTH
from functional_models.claims.training import MUCH, difference, loss_result

HIGH = 1e-3
"""The higher peak rate of the source; the other is half of it."""

BASE = (
    f"An encoder-decoder of {BLOCKS} and {BLOCKS} blocks, as in the source, with d = {WIDTH} "
    f"instead of 512, 4 heads, ReLU, sinusoidal positions, on the embedded Portuguese-English "
    f"corpus with {VOCABULARY} tokens instead of IWSLT14, {PAIRS_PER_BATCH} pairs per batch: AdamW "
    "(0.9, 0.98) without weight decay and clipping, linear warm-up for a third of the steps or "
    "none, then cosine decay instead of the inverse square root. Loss on 512 held-out pairs in "
    "nats per token instead of BLEU, paired by seed."
)
"""What all runs have in common, and where they deviate from Xiong et al. 2020, section 3.2."""


@claim(
    statement="A post-norm model needs warm-up: without it, training at a high rate fails.",
    source="Xiong et al. 2020 (arXiv 2002.04745), section 3.2: 8.45 BLEU without warm-up against "
    "about 34",
    band=f"without warm-up the loss is higher, with the 95 % interval of the difference above "
    f"{MUCH}",
    setting=f"Peak rate {HIGH:g}. {BASE}",
)
def post_norm_needs_warmup(trainer: Trainer, norm_placement: str = "post") -> Measured:
    """Compare the losses with and without warm-up."""
    runs = {
        "warm-up": trainer.runs(TRANSLATION, rate=HIGH, norm_placement=norm_placement),
        "none": trainer.runs(TRANSLATION, rate=HIGH, warmup=0, norm_placement=norm_placement),
    }
    test = difference(runs["none"], runs["warm-up"])
    return loss_result(is_above(test, MUCH), f"Without - with warm-up: {test.text}.", runs)


@claim(
    statement="A pre-norm model needs no warm-up: without it, the loss is about the same.",
    source="Xiong et al. 2020 (arXiv 2002.04745), section 4",
    band=f"without warm-up the loss is higher by no more than {MUCH}: the 95 % interval of the "
    "difference is below it",
    setting=f"Peak rate {HIGH:g}. {BASE}",
)
def pre_norm_needs_no_warmup(trainer: Trainer, norm_placement: str = "pre") -> Measured:
    """Compare the losses with and without warm-up."""
    runs = {
        "warm-up": trainer.runs(TRANSLATION, rate=HIGH, norm_placement=norm_placement),
        "none": trainer.runs(TRANSLATION, rate=HIGH, warmup=0, norm_placement=norm_placement),
    }
    test = difference(runs["none"], runs["warm-up"])
    verdict = is_at_most(test, MUCH)
    return loss_result(verdict, f"Without - with warm-up: {test.text}.", runs)


@claim(
    statement="With a short warm-up, a post-norm model is much worse at a high rate than at half "
    "of it.",
    source="Xiong et al. 2020 (arXiv 2002.04745), section 3.2: 500 steps of warm-up, 1e-3 against "
    "5e-4",
    band=f"at the high rate the loss is higher, with the 95 % interval of the difference above "
    f"{MUCH}",
    setting=f"Peak rates {HIGH:g} and {HIGH / 2:g}, warm-up for an eighth of the usual steps, as "
    f"500 are of 4,000. {BASE}",
)
def post_norm_short_warmup(trainer: Trainer, norm_placement: str = "post") -> Measured:
    """Compare the losses at a high rate and at half of it, with a short warm-up."""
    short = trainer.warmup(1 / 8)
    runs = {
        f"rate {rate:g}": trainer.runs(
            TRANSLATION, rate=rate, warmup=short, norm_placement=norm_placement
        )
        for rate in (HIGH, HIGH / 2)
    }
    test = difference(*runs.values())
    return loss_result(is_above(test, MUCH), f"High - half the rate: {test.text}.", runs)
