"""Folders of Hugging Face generate the tokens of `generate`, and account for its settings.

`tests/peers/make_generation.py` writes the tokens that transformers generates.
"""

import json
import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from quick import slow_unless
from test_hugging_face import GOLDEN, read

import functional_models as fm
from functional_models import generation
from functional_models.generation import Generator
from functional_models.hugging_face.generation_settings import (
    FILE,
    NO_OPTION,
    OPTIONS,
    SAYS_NOTHING,
    USED,
    forces_end,
    suppressed_tokens,
    warn_of_unused_settings,
)

ENTRIES: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parent / "golden" / "generated.json").read_text()
)
NEW = 7


def generator_of(
    model: Any, entry: Mapping[str, Any], settings: Mapping[str, Any] = MappingProxyType({})
) -> Generator:
    """Return the generator of a model with the settings that all calls have, and more."""
    common = {**entry["common"], **settings}
    end = common["eos_token_id"]
    return Generator(
        model.model,
        model.spec,
        end_id=end,
        suppressed=suppressed_tokens(common),
        forces_end=forces_end(common, end),
    )


def generated(
    generator: Generator, entry: Mapping[str, Any], settings: Mapping[str, Any]
) -> list[list[list[int]]]:
    """Return the new tokens of every sequence of every row, as `generate` with the settings."""
    rows, spec = entry["rows"], generator._spec
    # Beams have normalized probabilities here, and the generator has suppressed tokens.
    others = ("renormalize_logits", "suppress_tokens")
    options = {key: value for key, value in settings.items() if key not in others}
    if "min_length" in options:  # the start counts there
        options["min_new_tokens"] = options.pop("min_length") - len(entry["start"])
    if "num_beams" in options:
        options = {"length_penalty": 1.0, "early_stopping": False, **options}
    sampler = generator.sampler("beam" if "num_beams" in options else "greedy", **options)
    if spec.kind == "decoder_only":
        prompts = [np.array(row) for row in rows]
        found = generator(prompts, sampler, max_new_tokens=NEW)
    else:
        source = np.full((len(rows), max(map(len, rows))), spec.pad_token_id, "int32")
        for place, row in zip(source, rows, strict=True):
            place[: len(row)] = row
        prompts = [np.array(entry["start"])] * len(rows)
        found = generator(prompts, sampler, max_new_tokens=NEW, source=source)
    return [[new.tolist() for new in row] for row in found]


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run loops step by step, which takes less time than compiling them for a few steps."""
    monkeypatch.setattr(generation, "compiled", lambda function, seeds=(): function)


CASES = [(name, number) for name, entry in ENTRIES.items() for number in range(len(entry["cases"]))]
QUICK = (("gpt2", 5), ("gpt2", 1), ("llama", 1), ("bart", 3), ("t5", 1), ("marian", 9))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("name", "number"), slow_unless(lambda *case: case in QUICK, CASES))
def test_the_tokens_are_those_of_transformers(name: str, number: int, uncompiled: None) -> None:
    entry = ENTRIES[name]
    case = entry["cases"][number]
    generator = generator_of(read(GOLDEN / name), entry, case["settings"])
    assert generated(generator, entry, case["settings"]) == case["new"]


@pytest.mark.parametrize("name", ENTRIES)
def test_some_of_the_tokens_end_early_and_some_at_the_limit(name: str) -> None:
    new = [new for case in ENTRIES[name]["cases"] for row in case["new"] for new in row]
    assert len({len(tokens) for tokens in new}) > 1
    assert NEW in map(len, new)


# Settings ---------------------------------------------------------------------------------------


def warnings_of(settings: Mapping[str, Any], end: int | None = 2) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_of_unused_settings(settings, "FOLDER", "generate", end)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 50},
            "do_sample=True (as sampler='top_p' or 'random'), temperature=0.6, top_p=0.9 (as p), "
            "top_k=50 (as k) can be given to generate",
        ),
        (
            {"num_beams": 4, "length_penalty": 2.0, "no_repeat_ngram_size": 3, "min_length": 56},
            "num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3, min_length=56 (as "
            "min_new_tokens) can be given to generate",
        ),
        (
            {"num_beam_groups": 2, "num_beams": 2, "diversity_penalty": 0.5},
            "num_beams=2 can be given to generate; num_beam_groups=2, diversity_penalty=0.5 are "
            "not supported",
        ),
        ({"bad_words_ids": [[5], [3, 4]]}, "bad_words_ids of several tokens is not supported"),
        ({"forced_eos_token_id": 7}, "forced_eos_token_id=7 is not supported"),
        ({"bonus": 3}, "bonus=3 is not supported"),
    ],
)
def test_settings_that_are_not_applied_are_named(settings: dict[str, Any], message: str) -> None:
    assert warnings_of(settings) == [f"FOLDER: settings are not applied: {message}"]


def test_settings_that_change_nothing_are_not_named() -> None:
    neutral = {key: values[0] for key, (_, values) in OPTIONS.items() if values}
    neutral |= {key: values[0] for key, values in NO_OPTION.items() if values}
    silent = dict.fromkeys(SAYS_NOTHING, "x")
    used = dict.fromkeys(USED, 2) | {"suppress_tokens": [3], "bad_words_ids": [[5]]}
    assert warnings_of({**neutral, **silent, **used}) == []
    # Without draws and beams, their settings have no effect.
    assert warnings_of({"temperature": 0.6, "top_p": 0.9, "length_penalty": 2.0}) == []
    assert len(warnings_of({"num_beams": 2, "length_penalty": 2.0})) == 1
    keys = {*USED, *SAYS_NOTHING, *OPTIONS, *NO_OPTION}
    assert len(keys) == sum(map(len, (USED, SAYS_NOTHING, OPTIONS, NO_OPTION)))


def test_the_settings_of_a_folder_reach_generation_and_are_written_again(tmp_path: Path) -> None:
    shutil.copytree(GOLDEN / "bart", tmp_path / "bart")
    letters = {chr(97 + i): i + 4 for i in range(26)}
    vocabulary = {"<s>": 0, "<pad>": 1, "</s>": 2, "<unk>": 3, **letters, "<mask>": 30}
    (tmp_path / "bart" / "vocab.json").write_text(json.dumps(vocabulary))
    (tmp_path / "bart" / "merges.txt").write_text("#version: 0.2\n")
    settings = {
        **{"bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2},
        **{"forced_bos_token_id": 0, "forced_eos_token_id": 2, "suppress_tokens": [7, 9]},
        **{"bad_words_ids": [[11], [2]], "num_beams": 4, "pad_token_id": 1},
    }
    (tmp_path / "bart" / FILE).write_text(json.dumps(settings))
    with pytest.warns(UserWarning, match=rf"{FILE}: settings are not applied: num_beams=4 can be"):
        model = fm.from_hugging_face(tmp_path / "bart")
    tokenizer = model.target_tokenizer
    assert (tokenizer.target_start, tokenizer.end_ids) == ([2, 0], (2,))
    assert (tokenizer.suppressed_ids, tokenizer.ends_at_limit) == ((7, 9, 11), True)
    fm.to_hugging_face(model, tmp_path / "again", model_type="bart")
    written = json.loads((tmp_path / "again" / FILE).read_text())
    assert written == {
        **{key: settings[key] for key in settings if key not in ("bad_words_ids", "num_beams")},
        **{"suppress_tokens": [7, 9, 11], "bos_token_id": 2},
    }
    model.save(tmp_path / "saved")
    loaded = fm.load(tmp_path / "saved").target_tokenizer
    assert (loaded.suppressed_ids, loaded.ends_at_limit) == ((7, 9, 11), True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", f"{FILE} is damaged"),
        ("{", f"{FILE} is not JSON"),
        ('{"bad_words_ids": 3}', r"bad_words_ids=3: must be a list of lists of token ids"),
        ('{"bad_words_ids": [["x"]]}', r"bad_words_ids=\[\['x'\]\]: must be"),
        ('{"bad_words_ids": [3]}', r"bad_words_ids=\[3\]: must be a list of lists of"),
        ('{"eos_token_id": "</s>"}', r"eos_token_id='</s>': must be"),
        ('{"suppress_tokens": 3}', r"suppress_tokens=3: must be a list of token ids"),
        ('{"forced_bos_token_id": [3]}', r"forced_bos_token_id=\[3\]: must be a token id"),
    ],
)
def test_a_damaged_file_of_settings_is_refused(tmp_path: Path, content: str, message: str) -> None:
    shutil.copytree(GOLDEN / "gpt2", tmp_path / "gpt2")
    (tmp_path / "gpt2" / FILE).write_text(content)
    with pytest.raises(ValueError, match=message):
        fm.from_hugging_face(tmp_path / "gpt2")
