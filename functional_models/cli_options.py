"""What several commands share: options that change a spec, the spec that is meant, and Keras."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

import builders
from builders.spec import KINDS


def add_spec_options(sub: argparse.ArgumentParser) -> None:
    """Let a command take --kind and --set."""
    sub.add_argument("--kind", choices=KINDS, help="for a variant that can be built as both")
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the spec, e.g. --set num_layers=6 --set residual=false",
    )


def changes_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return what --set and --kind change in a spec.

    Raises:
        ValueError: a --set is not FIELD=VALUE.
    """
    changes: dict[str, Any] = {}
    for assignment in options.set:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ValueError(f"--set {assignment}: must be FIELD=VALUE, e.g. num_layers=6")
        changes[name] = value_of(text)
    if options.kind:
        changes["kind"] = options.kind
    return changes


def value_of(text: str) -> Any:
    """Return what is meant on a command line: 6, 0.5, True, None, or a word as it is."""
    try:
        return json.loads(text.lower() if text in ("True", "False", "None") else text)
    except json.JSONDecodeError:
        return None if text == "None" else text  # a word, such as sinusoidal


def spec_of(model: str, changes: dict[str, Any]) -> builders.TransformerSpec:
    """Return the spec of the variant or the model folder that was named.

    Raises:
        FileNotFoundError, ValueError: the folder is no model folder, or damaged.
        ValueError: there is no such variant or no such field, or a value is not allowed.
    """
    folder = Path(model)
    if not folder.is_dir():
        return builders.variant(model, **changes)
    from functional_models.model_folder import read_spec

    return read_spec(folder).replace(**changes)


def import_keras() -> Any:
    """Import Keras without the greetings that TensorFlow and CUDA write to stderr regardless.

    Only what native code prints is lost; an import that fails raises as ever.
    """
    sys.stderr.flush()
    stderr, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        import keras

        keras.ops.zeros(())  # the first tensor sets up the devices
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(nowhere)
    return keras
