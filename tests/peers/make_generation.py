"""Make tests/golden/generated.json: what `generate` of transformers returns for golden models.

Needs torch and transformers (`pip install '.[peers]'`):

    PYTHONPATH=tests python tests/peers/make_generation.py
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from golden_folders import GOLDEN

FILE = Path(__file__).parent.parent / "golden" / "generated.json"

# Keys of the configuration of generation, besides the end token, which is chosen below.
CASES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": {},
    # Padding is masked here wherever it stands, and there only in prompts.
    "gemma2": {"suppress_tokens": [0], "renormalize_logits": True},
    "gpt_neox": {},
    "bart": {"forced_eos_token_id": "eos"},
    "t5": {},
    "marian": {
        **{"bad_words_ids": [[30]], "renormalize_logits": True},
        **{"forced_eos_token_id": "eos"},
    },
    "mbart": {"forced_bos_token_id": 7},
}
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"num_beams": 3},
    {"num_beams": 3, "length_penalty": 0.0},
    {"num_beams": 3, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 2},
    {"num_beams": 3, "length_penalty": 0.6, "early_stopping": "never"},
    {"no_repeat_ngram_size": 2, "min_new_tokens": 5, "suppress_tokens": "pad"},
    {"num_beams": 3, "no_repeat_ngram_size": 2, "min_new_tokens": 4, "renormalize_logits": True}
    | {"suppress_tokens": "pad"},
)
# Repeated tokens there are padding too, which prompts have before and sources after them, so that
# it is suppressed; and in a search, the penalty of sources is of the wrong rows.
OF_SOURCES: tuple[dict[str, Any], ...] = (
    {"repetition_penalty": 1.7, "encoder_no_repeat_ngram_size": 1, "min_length": 5}
    | {"suppress_tokens": "pad"},
    {"encoder_repetition_penalty": 2.3, "encoder_no_repeat_ngram_size": 2}
    | {"suppress_tokens": "pad"},
    {"num_beams": 3, "encoder_no_repeat_ngram_size": 2, "repetition_penalty": 1.3}
    | {"no_repeat_ngram_size": 2, "renormalize_logits": True, "suppress_tokens": "pad"},
)
NEW, LENGTHS = 7, (5, 3, 1, 8)


def make_rows(size: int, first: int, seed: int) -> list[list[int]]:
    """Return prompts or sources of several lengths, of tokens from `first` on."""
    random = np.random.default_rng(seed)
    return [random.integers(first, size - 1, length).tolist() for length in LENGTHS]


def generated(
    model: Any, rows: list[list[int]], common: dict[str, Any], settings: dict[str, Any]
) -> list[list[list[int]]]:
    """Return the new tokens of every sequence of every row, up to the end token."""
    is_translator = model.config.is_encoder_decoder
    width, pad = max(map(len, rows)), model.config.pad_token_id or 0
    shape = (len(rows), width)
    ids, mask = np.full(shape, pad), np.zeros(shape, int)
    for row, tokens in enumerate(rows):
        place = slice(len(tokens)) if is_translator else slice(width - len(tokens), None)
        ids[row, place], mask[row, place] = tokens, 1
    # A configuration of its own, with nothing that the model's names.
    start = getattr(model.config, "decoder_start_token_id", None)
    forced = common.get("forced_bos_token_id") is not None
    if "min_new_tokens" in settings:  # forced tokens count here
        settings = {**settings, "min_new_tokens": settings["min_new_tokens"] + forced}
    defaults = {
        **{"pad_token_id": pad, "decoder_start_token_id": start, "do_sample": False},
        # Forced tokens count here.
        **{"max_new_tokens": NEW + forced, "length_penalty": 1.0, "early_stopping": False},
        **{"num_beams": 1, "num_return_sequences": 1},
    }
    config = transformers.GenerationConfig(**{**defaults, **common, **settings})
    model.generation_config = transformers.GenerationConfig()
    with torch.no_grad():
        found = model.generate(
            torch.from_numpy(ids), attention_mask=torch.from_numpy(mask), generation_config=config
        )
    new = found[:, 1 + forced :] if is_translator else found[:, width:]
    cut = [_until(row, common["eos_token_id"]) for row in new.tolist()]
    number = settings.get("num_return_sequences", 1)
    return [cut[i : i + number] for i in range(0, len(cut), number)]


def _until(row: list[int], end: int) -> list[int]:
    return row[: row.index(end) + 1] if end in row else row


def load(name: str) -> Any:
    """Return a golden model."""
    from cases import CASES as MODELS

    return (
        getattr(transformers, MODELS[name][0])
        .from_pretrained(GOLDEN / name, dtype=torch.float32, attn_implementation="eager")
        .eval()
    )


def settings_of(name: str, end: int) -> dict[str, Any]:
    """Return the configuration of generation of a case, with its end token."""
    keys = CASES[name].items()
    return {"eos_token_id": end, **{k: end if v == "eos" else v for k, v in keys}}


def best_end(model: Any, name: str, rows: list[list[int]]) -> int:
    """Return the token at which sequences without an end would be cut to the most lengths."""
    unused = model.config.vocab_size - 1
    found = [generated(model, rows, settings_of(name, unused), given) for given in SETTINGS[:2]]
    new = [tokens for rows in found for row in rows for tokens in row]
    names = ("pad_token_id", "decoder_start_token_id")
    special = {getattr(model.config, name, None) for name in names}
    ends = sorted({token for tokens in new for token in tokens[1:]} - special - {unused})
    return max(ends, key=lambda end: len({len(_until(tokens, end)) for tokens in new}))


def entry_of(model: Any, name: str, seed: int) -> dict[str, Any]:
    """Return the tokens that a model generates with all settings."""
    rows = make_rows(model.config.vocab_size, 8, seed)
    common = settings_of(name, best_end(model, name, rows))
    start = [getattr(model.config, "decoder_start_token_id", None)]
    start += [common[key] for key in ("forced_bos_token_id",) if key in common]
    pad = [model.config.pad_token_id or 0]
    settings = [
        {key: pad if value == "pad" else value for key, value in given.items()}
        for given in (*SETTINGS, *(OF_SOURCES if model.config.is_encoder_decoder else ()))
    ]
    cases = [
        {"settings": given, "new": generated(model, rows, common, given)} for given in settings
    ]
    return {"common": common, "start": start, "rows": rows, "cases": cases}


def main() -> None:
    transformers.logging.set_verbosity_error()
    entries = {name: entry_of(load(name), name, seed=3) for name in CASES}
    lines = (f"{json.dumps(name)}: {json.dumps(entry)}" for name, entry in entries.items())
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"{FILE}: {FILE.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
