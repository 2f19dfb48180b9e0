"""Claims that are not measured, each with the reason."""

from __future__ import annotations

from functional_models.claims.claim import NotChecked

NOT_CHECKED = (
    NotChecked(
        "rezero_at_initialisation",
        "With ReZero, logits do not depend on the depth at step 0, and only the scalars get a "
        "gradient.",
        "derived from x + alpha f(x) with alpha = 0 (Bachlechner et al. 2020, arXiv 2003.04887)",
        "no component of builders has a learned scalar on a branch",
    ),
    NotChecked(
        "deepnorm_update_by_depth",
        "The size of an update does not grow with depth under DeepNorm, and does with post-norm.",
        "Wang et al. 2022 (arXiv 2203.00555)",
        "no norm placement of builders scales the skip path, and no initializer depends on it",
    ),
    NotChecked(
        "rezero_and_fixup_loss",
        "ReZero and Fixup end at a higher loss than pre-norm.",
        "Narang et al. 2021 (arXiv 2102.11972), table 1: 1.939 and 2.067 against 1.838",
        "builders has neither of them",
    ),
    NotChecked(
        "speed_run_scalars",
        "What learned scalars on skip paths and embeddings gain shrinks with depth.",
        "nanochat, dev/LOG.md: -0.0103, -0.0077, -0.0057 and -0.0039 bits per byte at depth 8, 12, "
        "16 and 20",
        "builders has no such scalars, and these depths take hours on two cores",
    ),
)
