"""Change every key of configurations, one at a time: equal outputs, or a refusal by name.

For one case of every family, each key of `config.json` is removed and given other values. What
transformers computes for such a folder is what is read from it here; or it is refused, by a key of
it. Changes that transformers refuses are left out. Needs this project and transformers 4 or 5:

    PYTHONPATH=tests python tests/peers/every_key.py [CASE ...] [--several N]
"""

import argparse
import copy
import json
import logging
import random
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch_first  # noqa: F401
import transformers
from cases import CASES
from config_changes import Change, changes_of
from make_golden import (
    CLOSE,
    OF_TEXTS,
    make_inputs,
    make_model,
    outputs_of,
    rounding_of,
    settle,
    shake,
    untie,
)
from small_models import relative_error
from test_hugging_face import outputs

import builders
import functional_models as fm
from functional_models.hugging_face.convert import family_of, spec_from
from functional_models.hugging_face.weight_files import stored_tensors
from functional_models.hugging_face.weights import Tensors

Outputs = dict[str, np.ndarray]

ILLEGAL, SAME, EQUAL, REFUSED = "illegal", "without effect", "equal", "refused"

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 7}
YARN |= {"mscale": 0.7, "mscale_all_dim": 0.4}

DISAGREE = {
    ("4", "gemma", "hidden_act='gelu'"),
    ("4", "deepseek_v2", f"rope_scaling={YARN}"),
    ("4", "deepseek_v3", "num_experts_per_tok=4"),
    ("4", "deepseek_v3", "topk_group=1"),
}
"""Version, family and change that versions of transformers read otherwise; see the docs."""

# Of training only.
INERT = {f.name for f in fields(builders.TransformerSpec) if f.name.endswith("dropout")}


@dataclass(frozen=True)
class Peer:
    """A model of transformers, and its outputs."""

    model: Any
    inputs: Outputs
    outputs: Outputs

    def real(self, key: str) -> np.ndarray:
        """Return an output without padding."""
        return self.outputs[key] if key in OF_TEXTS else self.outputs[key][self.inputs["real"]]

    def computes_the_same_as(self, other: "Peer") -> bool:
        ours, theirs = self.model.state_dict(), other.model.state_dict()
        return (
            self.outputs.keys() == other.outputs.keys()
            and self.inputs.keys() == other.inputs.keys()
            and all(np.array_equal(self.inputs[k], other.inputs[k]) for k in self.inputs)
            and {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in theirs.items()}
            and all(np.array_equal(self.real(k), other.real(k)) for k in self.outputs)
        )


def peer_of(model_class: Any, config: dict[str, Any], seed: int) -> Peer | None:
    """Return the model of a configuration, or `None` if transformers has none, or no numbers."""
    try:
        read = model_class.config_class.from_dict(copy.deepcopy(config))
        if read.vocab_size == 1:  # a text would be padding
            return None
        model = model_class._from_config(read, attn_implementation="eager").eval()
        shake(model, seed)
        untie(model)
        inputs = make_inputs(model)
        if read.pad_token_id is None:  # then there is no padding
            inputs |= {k: np.ones_like(v) for k, v in inputs.items() if k.endswith("real")}
        peer = Peer(model, inputs, outputs_of(model, inputs))
    except Exception:  # whatever transformers raises
        return None
    return peer if all(np.isfinite(peer.real(key)).all() for key in peer.outputs) else None


def rounding(peer: Peer) -> float:
    """Return the rounding of PyTorch; the tolerance, for a model without exact outputs."""
    try:
        return float(rounding_of(peer.model, peer.inputs))
    except RuntimeError:  # it mixes precisions
        return CLOSE


def halve(model: Any) -> None:
    """Halve the kernels of a model, so that it amplifies roundings less."""
    for weights in model.parameters():
        if weights.ndim > 1:
            weights.data /= 2


class Sweep:
    """The changes of the configuration of one case."""

    def __init__(self, name: str, scratch: Path) -> None:
        self.seed, self.scratch = 7, scratch
        model = make_model(name)
        settle(model, make_inputs(model))
        model.save_pretrained(scratch / "base")
        self.config = json.loads((scratch / "base" / "config.json").read_text())
        self.model_class = type(model)
        base = peer_of(self.model_class, self.config, self.seed)
        assert base is not None
        self.base = base
        self.base.model.save_pretrained(scratch / "base")
        self.spec = self.spec_of(scratch / "base")

    def spec_of(self, folder: Path) -> builders.TransformerSpec:
        config = json.loads((folder / "config.json").read_text())
        family, head = family_of(config)
        tensors = Tensors(stored_tensors(folder), family)
        return spec_from(family, head, config, tensors)

    def try_change(self, changes: list[Change]) -> tuple[str, str]:
        """Return what happens with changes, and what is wrong with that; nothing if it is right."""
        config = copy.deepcopy(self.config)
        for change in changes:
            change.apply(config)
        peer = peer_of(self.model_class, config, self.seed)
        if peer is None:
            return ILLEGAL, ""
        same = peer.computes_the_same_as(self.base)
        folder = self.folder_of(config, self.base if same else peer)
        try:
            if same and self.is_inert(folder):
                return SAME, ""
            error = self.error(folder, peer)
            for _ in range(4):
                if error < CLOSE or rounding(peer) < CLOSE / 10:
                    break
                halve(peer.model)
                peer = Peer(peer.model, peer.inputs, outputs_of(peer.model, peer.inputs))
                error = self.error(self.folder_of(config, peer), peer)
        except ValueError as refusal:
            keys = {*config, *(key for change in changes for key in change.keys)}
            named = any(key in str(refusal) for key in keys)
            return REFUSED, "" if named else f"not named: {refusal}"
        except Exception as crash:
            return REFUSED, f"{type(crash).__name__}: {crash}"
        # Wide heads, such as the 256 of Gemma by default, go on rounding by more.
        is_close = error < CLOSE or error < 4 * rounding(peer)
        return (SAME if same else EQUAL), "" if is_close else f"differs by {error:.2g}"

    def is_inert(self, folder: Path) -> bool:
        """Return whether the spec of a folder computes what that of the base does."""
        spec = self.spec_of(folder)
        return all(
            getattr(spec, field.name) == getattr(self.spec, field.name)
            for field in fields(spec)
            if field.name not in INERT
        )

    def folder_of(self, config: dict[str, Any], peer: Peer) -> Path:
        """Write a folder with a configuration as it is, and the tensors of a model."""
        folder = self.scratch / "base"
        if peer is not self.base:
            folder = self.scratch / "changed"
            for path in folder.glob("*"):
                path.unlink()
            peer.model.save_pretrained(folder)
        (folder / "config.json").write_text(json.dumps(config))
        return folder

    def error(self, folder: Path, peer: Peer) -> float:
        """Return the largest difference between outputs here and there."""
        model, inputs = fm.from_hugging_face(folder), peer.inputs
        if model.spec.num_segments and "segments" not in inputs:
            inputs = {**inputs, "segments": np.zeros_like(inputs["tokens"])}
        found = outputs(model, inputs)
        if missing := peer.outputs.keys() - found.keys():
            raise LookupError(f"no {', '.join(missing)}")
        real = peer.inputs["real"]
        return max(
            relative_error(found[key] if key in OF_TEXTS else found[key][real], peer.real(key))
            for key in peer.outputs
        )


def sweep(name: str, several: int) -> Iterator[tuple[str, str, str]]:
    """Change every key of a case; then several at once, of those that are read."""
    with tempfile.TemporaryDirectory() as scratch:
        case = Sweep(name, Path(scratch))
        read = []
        for change in changes_of(case.config):
            kind, problem = case.try_change([change])
            if kind == EQUAL and not problem:
                read.append(change)
            yield kind, str(change), problem
        draw = random.Random(name)
        for _ in range(several if len(read) > 2 else 0):
            chosen = draw.sample(read, draw.choice((2, 3)))
            kind, problem = case.try_change(chosen)
            yield kind, " and ".join(map(str, chosen)), problem


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cases", nargs="*", help="by default, one of every family")
    parser.add_argument("--several", type=int, default=0, help="changes of several keys at once")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    wrong = 0
    for name in options.cases or first_of_each_family():
        counts: Counter[str] = Counter()
        for kind, change, problem in sweep(name, options.several):
            counts[kind] += 1
            case = transformers.__version__[0], name.removesuffix("_options"), change
            if problem and case not in DISAGREE:
                wrong += 1
                print(f"{name}: {change}: {problem}", flush=True)
        print(f"{name}: {', '.join(f'{n} {kind}' for kind, n in counts.items())}", flush=True)
    sys.exit(1 if wrong else 0)


def first_of_each_family() -> list[str]:
    """Return the first case of every class of configurations."""
    found: dict[Any, str] = {}
    for name, (cls, _) in CASES.items():
        found.setdefault(getattr(transformers, cls).config_class, name)
    return list(found.values())


if __name__ == "__main__":
    main()
