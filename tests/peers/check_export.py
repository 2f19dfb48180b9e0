"""Check that transformers loads what `to_hugging_face` wrote, with the outputs of the originals.

Write the golden models with functional_models, then load them where transformers is installed:

    PYTHONPATH=tests python tests/peers/check_export.py --write out/exported
    PYTHONPATH=tests python tests/peers/check_export.py out/exported

Names of tensors that are missing or that nothing reads are failures too, but for poolers of models
without one.
"""

import argparse
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch_first  # noqa: F401
from golden_folders import GOLDEN

CLOSE = 1e-5


def write(folder: Path) -> None:
    import functional_models as fm

    warnings.simplefilter("ignore")
    for path in sorted(GOLDEN.iterdir()):
        model_type = json.loads((path / "config.json").read_text())["model_type"]
        if path.name == "mt5_tied":  # of which the versions compute different logits
            model_type = "t5"
        model = fm.from_hugging_face(path)
        fm.to_hugging_face(model, folder / path.name, model_type=model_type, overwrite=True)


def problems_of(folder: Path) -> list[str]:
    """Return what is wrong with an exported model."""
    import torch
    import transformers
    from make_golden import OF_TEXTS, outputs_of

    [head] = json.loads((folder / "config.json").read_text())["architectures"]
    loaded: Any = auto_class(transformers, head).from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    model, info = loaded
    found = [
        f"{kind}: {sorted(names)[:4]}"
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys")
        if (names := [name for name in info[kind] if "pooler" not in str(name)])
    ]
    if type(model).__name__ != head:
        found.append(f"loaded as {type(model).__name__}")
    stored = dict(np.load(GOLDEN / folder.name / "expected.npz"))
    outputs = outputs_of(model.eval(), stored)
    for key in outputs.keys() & stored.keys():
        off = abs(outputs[key] - stored[key])
        error = (off if key in OF_TEXTS else off[stored["real"]]).max() / abs(stored[key]).max()
        if not error < CLOSE:
            found.append(f"{key} differs by {error:.2g}")
    if not outputs.keys() & stored.keys() - {"pooled"}:
        found.append("nothing to compare")
    return found


def auto_class(transformers: Any, head: str) -> Any:
    """Return the class with which users load a model."""
    if head.endswith(("ForCausalLM", "LMHeadModel")):
        return transformers.AutoModelForCausalLM
    if head.endswith(("ForConditionalGeneration", "MTModel")):
        return transformers.AutoModelForSeq2SeqLM
    if head.endswith("ForSequenceClassification"):
        return transformers.AutoModelForSequenceClassification
    return transformers.AutoModelForMaskedLM if "MaskedLM" in head else transformers.AutoModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    if options.write:
        write(options.folder)
        return
    wrong = 0
    for folder in sorted(options.folder.iterdir()):
        found = problems_of(folder)
        wrong += bool(found)
        print(f"{folder.name}: {'; '.join(found) or 'equal'}")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
