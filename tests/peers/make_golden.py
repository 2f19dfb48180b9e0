"""Make tests/golden/hugging_face: tiny random models of `cases.py`, with the outputs of PyTorch.

Needs torch and transformers (`pip install '.[peers]'`). First with transformers 4, which writes the
models; then with transformers 5 and `--add-new`, which checks the outputs and adds the
configuration as it writes it:

    PYTHONPATH=tests python tests/peers/make_golden.py [CASE ...]
    PYTHONPATH=tests python tests/peers/make_golden.py --add-new [CASE ...]
"""

import copy
import json
import re
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from cases import CASES
from golden_folders import pack, unpack

LENGTHS, SOURCE_LENGTHS = (11, 7), (5, 13)
CLOSE = 1e-5
OF_TEXTS = ("pooled", "class_logits")
"""Outputs of whole texts, which have no padding."""
ENCODERS = ("Bert", "Roberta", "XLMRoberta", "Camembert", "DistilBert", "Electra", "Albert")
ENCODERS += ("ModernBert",)


def make_model(name: str) -> Any:
    """Return the model of a case; every parameter is random, a multiple of 1/8."""
    cls, settings = CASES[name]
    model_class = getattr(transformers, cls)
    torch.manual_seed(0)
    config = model_class.config_class(**settings)
    # Of all implementations of attention, only this one applies all settings.
    model = model_class._from_config(config, attn_implementation="eager").eval()
    shake(model, zlib.crc32(name.encode()))
    return model


def shake(model: Any, seed: int) -> None:
    """Give every parameter, and every buffer that is saved, random values."""
    random = torch.Generator().manual_seed(seed)
    saved = {id(tensor) for tensor in model.state_dict(keep_vars=True).values()}
    for key, tensor in [*model.named_parameters(), *model.named_buffers()]:
        if id(tensor) not in saved or not tensor.is_floating_point():
            continue
        if "embed_positions" in key and not tensor.requires_grad:  # sinusoids
            continue
        centre = 1.0 if "norm" in key.lower() or "ln_" in key or ".ln" in key else 0.0
        values = 0.3 * torch.randn(tensor.shape, generator=random)
        with torch.no_grad():  # a few different values, which can be compressed
            tensor.copy_((8 * values).round() / 8 + centre * key.endswith("weight"))


def untie(model: Any) -> None:
    """Change the weights of routers, so that experts have no equal scores, of which any is chosen.

    All weights are multiples of 1/8.
    """
    for name, weights in model.named_parameters():
        if re.search(r"(router|gate)\.weight$", name) and weights.ndim == 2:
            with torch.no_grad():
                weights += torch.arange(len(weights))[:, None] / 64


def make_inputs(model: Any, seed: int = 7) -> dict[str, np.ndarray]:
    """Return inputs by name, with padding after the text of each row."""
    config, random = model.config, np.random.default_rng(seed)
    pad = config.pad_token_id if config.pad_token_id is not None else 0

    def tokens(lengths: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
        shape = (len(lengths), max(lengths))
        real = np.arange(shape[1]) < np.array(lengths)[:, None]
        found = random.integers(0, config.vocab_size, shape)
        found[found == pad] = (pad + 1) % config.vocab_size
        return np.where(real, found, pad).astype("int32"), real

    target, target_is_real = tokens(LENGTHS)
    if not config.is_encoder_decoder or not hasattr(model, "get_decoder"):
        inputs = {"tokens": target, "real": target_is_real}
        if getattr(config, "type_vocab_size", 0) > 1:
            inputs["segments"] = random.integers(0, config.type_vocab_size, target.shape, "int32")
        return inputs
    source, source_is_real = tokens(SOURCE_LENGTHS)
    target[:, 0] = config.decoder_start_token_id or 0
    return {
        "source": source,
        "source_real": source_is_real,
        "tokens": target,
        "real": target_is_real,
    }


def outputs_of(model: Any, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the outputs of a model by the names that they have here."""
    given = {key: torch.from_numpy(value).long() for key, value in inputs.items()}
    arguments = {"input_ids": given["tokens"], "attention_mask": given["real"]}
    if "segments" in given:
        arguments["token_type_ids"] = given["segments"]
    if "source" in given:
        arguments = {
            "input_ids": given["source"],
            "attention_mask": given["source_real"],
            "decoder_input_ids": given["tokens"],
        }
    with torch.no_grad():
        found = model(**arguments, output_hidden_states=True)
        logits = getattr(found, "logits", None)
        outputs = {}
        if logits is None:
            outputs["hidden"] = hidden = found.last_hidden_state
            if getattr(found, "pooler_output", None) is not None:
                outputs["pooled"] = found.pooler_output
            if "T5" in model.__class__.__name__:  # as its class with tied logits
                hidden = hidden * model.config.d_model**-0.5
            if not model.__class__.__name__.startswith(ENCODERS):
                outputs = {"logits": hidden @ model.get_input_embeddings().weight.T}
        elif model.__class__.__name__.endswith("ForSequenceClassification"):
            outputs["class_logits"] = logits
        else:
            outputs["logits"] = logits
    return {key: value.float().numpy() for key, value in outputs.items()}


@contextmanager
def float64() -> Iterator[None]:
    """Let models of float64 compute norms, rotary angles and softmax in float64 too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.Tensor, "float", torch.Tensor.double)
        patch.setattr(torch, "float32", torch.float64)
        patch.setattr(torch, "float", torch.float64)
        yield


def rounding_of(model: Any, inputs: dict[str, np.ndarray]) -> float:
    """Return how far outputs are from those in float64, relative to the largest."""
    outputs = outputs_of(model, inputs)
    exact_model = copy.deepcopy(model).double()
    if hasattr(exact_model, "set_experts_implementation"):  # that of float32 takes no float64
        exact_model.set_experts_implementation("eager")
    with float64():
        exact = outputs_of(exact_model, inputs)
    real = {key: slice(None) if key in OF_TEXTS else inputs["real"] for key in exact}
    # Windows of padding may have no tokens at all, of which PyTorch makes NaN.
    return max(
        abs(outputs[key] - exact[key])[real[key]].max() / abs(exact[key][real[key]]).max()
        for key in exact
    )


def settle(model: Any, inputs: dict[str, np.ndarray], first: int = 0) -> None:
    """Change weights until PyTorch's own rounding is far below the tolerance."""
    for seed in range(first, first + 9):
        try:
            rounding = rounding_of(model, inputs)
        except RuntimeError:  # a model that mixes precisions
            break
        if not rounding >= CLOSE / 4:  # NaN, where the exact model cannot mask whole rows
            break
        print(f"rounding changes outputs by {rounding:.2g}; other weights")
        shake(model, seed)


def make(name: str, scratch: Path) -> None:
    model, folder = make_model(name), scratch / name
    inputs = make_inputs(model)
    settle(model, inputs)
    expected = outputs_of(model, inputs)
    for key in expected.keys() - {*OF_TEXTS}:  # padding is not compared
        expected[key] = np.where(inputs["real"][..., None], expected[key], np.float32(0))
    model.half().save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    np.savez(folder / "expected.npz", **inputs, **expected)
    size = pack(folder).stat().st_size
    largest = max(abs(x).max() for x in expected.values())
    print(f"{name}: {size / 1e3:.1f} kB, largest {largest:.3g}")


def add_new(name: str, scratch: Path) -> None:
    """Check the outputs of a golden model, and add the configuration of this transformers."""
    folder = unpack(name, scratch)
    model = getattr(transformers, CASES[name][0]).from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager"
    )
    stored = dict(np.load(folder / "expected.npz"))
    found = outputs_of(model.eval(), stored)
    for key, value in found.items():
        off = abs(value - stored[key])
        off = off if key in OF_TEXTS else off[stored["real"]]
        error = off.max() / abs(stored[key]).max()
        if error > CLOSE:
            print(f"{name}: {key} differs by {error:.2g} from transformers 4")
    model.half().save_pretrained(scratch / "new")
    new = json.loads((scratch / "new" / "config.json").read_text())
    names = set(_names(scratch / "new"))
    if names != set(_names(folder)):
        print(f"{name}: names differ: {sorted(names ^ set(_names(folder)))[:6]}")
    (folder / "config.new.json").write_text(json.dumps(new, indent=2) + "\n")
    pack(folder)


def _names(folder: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(folder / "model.safetensors", "np") as file:
        return list(file.keys())


if __name__ == "__main__":
    chosen = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    for case in chosen or CASES:
        with tempfile.TemporaryDirectory() as scratch:
            (add_new if "--add-new" in sys.argv else make)(case, Path(scratch))
