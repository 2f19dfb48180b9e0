"""The command that measures claims of the literature."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable

from functional_models.cli_options import add_flag, complete_with, import_keras, whole_number


def add_claims_command(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command of this module to the command line."""
    text = "measure claims of the literature on models of this library"
    sub = command("claims", claims, text, "--train --to out/claims", quiet=True)
    sub.description = (
        "Measure claims of the literature about Transformers on models of this library, each "
        "against a band, with the verdict agrees, disagrees or not decided. The claims on models "
        "at initialisation take seconds."
    )
    add_flag(sub, "--train", "also the claims on trained models: up to half an hour on two cores")
    text = "names of claims to measure; default: all at initialisation"
    only = sub.add_argument("--only", nargs="+", default=[], metavar="NAME", help=text)
    complete_with(only, _names)
    text = "folder of claims.json, claims.md and claims.html; an interrupted run resumes"
    sub.add_argument("--to", default="out/claims", metavar="FOLDER", help=text)
    add_flag(sub, "--overwrite", "replace claims in the folder that have other settings")
    text = "steps of every training run; default: 200"
    sub.add_argument("--steps", type=whole_number, metavar="N", help=text)
    text = "training runs of each setting, at least 3; default: 4"
    sub.add_argument("--seeds", type=whole_number, metavar="N", help=text)
    sub.set_defaults(if_stopped="what is finished is in {to}; the same command goes on from there")


def _names() -> Iterable[str]:
    import functional_models.claims.running  # noqa: F401 - registers the claims
    from functional_models.claims.claim import CLAIMS

    return CLAIMS


def claims(options: argparse.Namespace) -> None:
    """Measure claims."""
    from functional_models.claims.claim import chosen_claims
    from functional_models.claims.running import run_claims

    chosen_claims(options.only)  # raises before Keras is imported
    import_keras()
    given = {"steps": options.steps, "seeds": options.seeds}
    run_claims(
        options.only,
        train=options.train,
        folder=options.to,
        overwrite=options.overwrite,
        progress=not options.quiet,
        **{name: value for name, value in given.items() if value is not None},
    )
