"""The model card of an exported model: what it is, how it was trained, and how to load it."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from functional_models.folders import RUN
from functional_models.hugging_face.family import Family
from functional_models.recipe import Recipe
from functional_models.text_model import TextModel

_AUTO_CLASSES = {
    "decoder_only": "AutoModelForCausalLM",
    "encoder_decoder": "AutoModelForSeq2SeqLM",
    "encoder_only": "AutoModelForMaskedLM",
}


def model_card(model: TextModel, family: Family, license: str | None) -> str:
    """Return the card as Markdown, with the metadata that the hub reads."""
    spec = model.spec
    auto = _AUTO_CLASSES[spec.kind]
    if spec.classes:
        auto = "AutoModelForSequenceClassification"
    elif spec.kind == "encoder_only" and not spec.masked_lm_head:
        auto = "AutoModel"
    metadata = ["library_name: transformers", *([f"license: {license}"] if license else [])]
    sections = [
        "---\n" + "\n".join(metadata) + "\n---",
        f"# A {family.model_types[0]} model",
        f"{model.model.count_params():,} parameters, written by functional_models "
        f"{version('functional-models')}.",
        f"```python\nfrom transformers import {auto}\n\n"
        f'model = {auto}.from_pretrained("path/to/this/folder")\n```',
        f"## Specification\n\n```json\n{json.dumps(spec.to_dict(), indent=1)}\n```",
    ]
    if (recipe := _recipe(model.folder)) is not None:
        sections.append(f"## Training\n\n```json\n{json.dumps(recipe, indent=1)}\n```")
    if license is None:
        sections.append("No license was given.")
    return "\n\n".join(sections) + "\n"


def _recipe(folder: Path | None) -> dict[str, Any] | None:
    """Return the recipe of the run in the folder that a model was loaded from, if there is one."""
    path = None if folder is None else folder / RUN
    if path is None or not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as saved:
            run = json.loads(str(saved["state"]))["run"]
        return {name: run[name] for name in Recipe.__dataclass_fields__ if name in run}
    except (OSError, ValueError, KeyError):  # a damaged checkpoint costs no export
        return None
