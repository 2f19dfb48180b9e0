"""Folders of Hugging Face: tiny models that PyTorch made, and variants of their configurations.

`tests/peers/make_golden.py` writes the folders, with the inputs and the outputs of PyTorch.
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_models import as_array, relative_error

import builders
import functional_models as fm
from functional_models.hugging_face.convert import FAMILIES, family_of

GOLDEN = Path(__file__).parent / "golden" / "hugging_face"
CASES = sorted(path.name for path in GOLDEN.iterdir())


def read(folder: Path, **options: Any) -> Any:
    """Return the text model of a folder that has no tokenizer."""
    with pytest.warns(UserWarning, match="no tokenizer"):
        return fm.from_hugging_face(folder, **options)


def outputs(model: Any, stored: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model by name, for the inputs that are stored."""
    tokens: Any = stored["tokens"]
    if "source" in stored:
        tokens = {"source": stored["source"], "target": tokens}
    elif "segments" in stored:
        tokens = {"tokens": tokens, "segments": stored["segments"]}
    found = model.model(tokens, training=False)
    found = found if isinstance(found, dict) else {"logits": found}
    return {key: as_array(value) for key, value in found.items()}


@pytest.mark.parametrize("name", CASES)
def test_a_folder_has_the_outputs_of_pytorch(name: str) -> None:
    stored = dict(np.load(GOLDEN / name / "expected.npz"))
    model = read(GOLDEN / name)
    found = outputs(model, stored)
    compared = [key for key in ("logits", "hidden", "pooled") if key in stored]
    assert compared
    for key in compared:
        real = slice(None) if key == "pooled" else stored["real"]
        assert relative_error(found[key][real], stored[key][real]) < 1e-5


# Configurations ---------------------------------------------------------------------------------


def config_of(name: str, file: str = "config.json") -> dict[str, Any]:
    config: dict[str, Any] = json.loads((GOLDEN / name / file).read_text())
    return config


def spec_of(config: dict[str, Any]) -> builders.TransformerSpec:
    family, head = family_of(config)
    return builders.TransformerSpec(**family.spec_fields(config, head))


@pytest.mark.parametrize("name", CASES)
def test_transformers_5_writes_the_same_model_in_other_words(name: str) -> None:
    assert spec_of(config_of(name, "config.new.json")) == spec_of(config_of(name))


def other_value(value: Any) -> Any:
    """Return another value that the key of a configuration may have."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 3 * value + 4
    if isinstance(value, float):
        return value / 2 + 0.03
    if isinstance(value, str):
        return "relu" if value != "relu" else "silu"
    return 7 if value is None else ["another"]


@pytest.mark.parametrize("name", CASES)
def test_every_key_that_is_used_changes_the_spec_or_is_refused(name: str) -> None:
    config = config_of(name)
    family, _ = family_of(config)
    spec = spec_of(config)
    assert family.used & config.keys()
    for key in family.used & config.keys():
        try:
            changed = spec_of({**config, key: other_value(config[key])})
        except ValueError:
            continue
        assert changed != spec, key


@pytest.mark.parametrize("name", CASES)
def test_no_key_is_ignored(name: str) -> None:
    config = config_of(name)
    family, _ = family_of(config)
    with pytest.raises(ValueError, match="bonus=3 has an unknown meaning.*no key is ignored"):
        spec_of({**config, "bonus": 3})
    for key, allowed in family.required.items():
        value = next(x for x in (True, False, "other", 1.5) if x not in allowed)
        with pytest.raises(ValueError, match=f"{key}="):
            spec_of({**config, key: value})
    spec = spec_of(config)
    for key in config.keys() - family.used - family.required.keys():
        assert family.reason(key) or key in ("model_type", "architectures"), key
        without = {k: v for k, v in config.items() if k != key}
        if key not in ("model_type", "architectures"):
            assert spec_of(without) == spec
