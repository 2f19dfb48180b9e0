"""Settings of `generate` in a folder of Hugging Face: every key is accounted for.

A setting is used; or it changes nothing at its value; or it says nothing about the tokens; or a
warning names it, with the option that it is here.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from functional_models.checks import check_link, read_json

FILE = "generation_config.json"

USED: Mapping[str, str] = {
    "bos_token_id": "the start of texts, where the tokenizer names none",
    "eos_token_id": "the ends of texts",
    "pad_token_id": "padding, where the model masks none",
    "decoder_start_token_id": "the first token of a target",
    "forced_bos_token_id": "the second token of a target",
    "forced_eos_token_id": "the last token of a text that reaches its limit",
    "suppress_tokens": "tokens that are never generated",
    "bad_words_ids": "tokens that are never generated",
}
"""Keys that the tokenizers of the folder hold, with their meaning."""

OPTIONS: Mapping[str, tuple[str, tuple[Any, ...]]] = {
    "do_sample": ("sampler", (False,)),
    "temperature": ("temperature", (1.0,)),
    "top_k": ("k", (0,)),
    "top_p": ("p", (1.0,)),
    "min_p": ("min_p", (0.0,)),
    "repetition_penalty": ("repetition_penalty", (1.0,)),
    "no_repeat_ngram_size": ("no_repeat_ngram_size", (0,)),
    "encoder_no_repeat_ngram_size": ("encoder_no_repeat_ngram_size", (0,)),
    "encoder_repetition_penalty": ("encoder_repetition_penalty", (1.0,)),
    "penalty_alpha": ("alpha", (0.0,)),
    "num_beams": ("num_beams", (1,)),
    "num_return_sequences": ("num_return_sequences", (1,)),
    "length_penalty": ("length_penalty", (0.0,)),
    "early_stopping": ("early_stopping", ("never",)),
    "min_length": ("min_new_tokens", (0,)),
    "min_new_tokens": ("min_new_tokens", (0,)),
    "max_length": ("max_new_tokens", ()),
    "max_new_tokens": ("max_new_tokens", ()),
}
"""Keys that are options here, by another name or the same: the option, and its value by default."""

NO_OPTION: Mapping[str, tuple[Any, ...]] = {
    "begin_suppress_tokens": (),
    "constraints": (),
    "diversity_penalty": (0.0,),
    "dola_layers": (),
    "epsilon_cutoff": (0.0,),
    "eta_cutoff": (0.0,),
    "exponential_decay_length_penalty": (),
    "force_bos_token_to_be_generated": (False,),
    "force_words_ids": (),
    "guidance_scale": (1.0,),
    "max_time": (),
    "num_beam_groups": (1,),
    "sequence_bias": (),
    "stop_strings": (),
    "token_healing": (False,),
    "top_h": (),
    "typical_p": (1.0,),
    "watermarking_config": (),
}
"""Keys that are no options here, and the values that change nothing."""

_SAMPLING = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("length_penalty", "early_stopping", "diversity_penalty", "num_beam_groups")

SAYS_NOTHING = (
    *("_commit_hash", "_from_model_config", "assistant_confidence_threshold"),
    *("assistant_early_exit", "assistant_ensemble_weight", "assistant_lookbehind", "cache_config"),
    *("cache_implementation", "compile_config", "continuous_batching_config", "disable_compile"),
    *("generation_kwargs", "is_assistant", "low_memory", "max_cache_len"),
    *("max_matching_ngram_size", "num_assistant_tokens", "num_assistant_tokens_schedule"),
    *("output_attentions", "output_hidden_states", "output_logits", "output_scores", "prefix"),
    *("prefill_chunk_size", "prompt_lookup_num_tokens", "remove_invalid_values"),
    *("renormalize_logits", "return_dict_in_generate", "return_legacy_cache", "speculation_type"),
    *("target_lookbehind", "task_specific_params", "transformers_version", "use_cache", "use_mtp"),
)
"""Keys of execution and of what `generate` returns; beams here are always normalized."""


def read_generation_settings(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of `generate`: of a file of their own, or of an old configuration.

    Args:
        folder: the folder.
        config: its configuration.

    Raises:
        ValueError: a damaged file.
    """
    check_link(folder / FILE)
    if (folder / FILE).exists():
        found = read_json(folder / FILE)
        if not isinstance(found, dict):
            raise ValueError(f"{folder / FILE} is damaged: it has no JSON object")
    else:
        found = {key: config[key] for key in (*USED, *OPTIONS, *NO_OPTION) if key in config}
    for key in USED:
        _check_kind(folder, key, found.get(key))
    return found


_OTHER_KINDS: Mapping[str, str] = {
    "bad_words_ids": "a list of lists of token ids",
    "suppress_tokens": "a list of token ids",
    **dict.fromkeys(("decoder_start_token_id", "forced_bos_token_id"), "a token id"),
}
"""Keys of `USED` that are something else than a token id or a list of them."""


def _check_kind(folder: Path, key: str, value: Any) -> None:
    """Check that the value of a key of `USED` is missing, or of its kind."""
    kind = _OTHER_KINDS.get(key, "a token id, or a list of them")
    rows = value if key == "bad_words_ids" and isinstance(value, list) else [value]
    is_list = all(isinstance(row, list) for row in rows)
    is_right = is_list == kind.startswith("a list") or kind.endswith("of them")
    if value is not None and not (is_right and all(map(_are_tokens, map(_listed, rows)))):
        raise ValueError(f"{settings_file(folder)}: {key}={value!r}: must be {kind}")


def settings_file(folder: Path) -> Path:
    """Return the file that has the settings of `generate`."""
    return folder / (FILE if (folder / FILE).exists() else "config.json")


def suppressed_tokens(settings: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the tokens that are never generated."""
    words = [word[0] for word in settings.get("bad_words_ids") or [] if len(word) == 1]
    ends = _listed(settings.get("eos_token_id"))
    # `generate` lets texts end, whatever the bad words are.
    words = [token for token in words if token not in ends]
    return tuple(dict.fromkeys((*(settings.get("suppress_tokens") or ()), *words)))


def forces_end(settings: Mapping[str, Any], end_id: int) -> bool:
    """Return whether the last token of a text that reaches its limit is its end, `end_id`."""
    return _listed(settings.get("forced_eos_token_id")) == [end_id]


def warn_of_unused_settings(
    settings: Mapping[str, Any], source: str | Path, function: str, end_id: int | None
) -> None:
    """Warn, in one line, of the settings that are not applied.

    Args:
        settings: the settings of `generate`.
        source: the file that has them.
        function: the function that they are given to.
        end_id: the end token, if there is a tokenizer.
    """
    neutral = {**{key: values for key, (_, values) in OPTIONS.items()}, **NO_OPTION}
    samples, beams = settings.get("do_sample"), settings.get("num_beams") or 1

    def is_neutral(key: str, value: Any) -> bool:
        without_effect = (_SAMPLING if not samples else ()) + (_BEAMS if beams == 1 else ())
        return value is None or key in without_effect or value in neutral.get(key, ())

    known = {*USED, *SAYS_NOTHING}
    rest = {k: v for k, v in settings.items() if k not in known and not is_neutral(k, v)}
    others = [f"{key}={value!r}" for key, value in rest.items() if key not in OPTIONS]
    if any(len(word) > 1 for word in settings.get("bad_words_ids") or []):
        others.append("bad_words_ids of several tokens")
    forced = settings.get("forced_eos_token_id")
    if forced is not None and end_id is not None and not forces_end(settings, end_id):
        others.append(f"forced_eos_token_id={forced!r}")
    given = [_advice(key, value) for key, value in rest.items() if key in OPTIONS]
    if not given and not others:
        return
    parts = [f"{', '.join(given)} can be given to {function}"] if given else []
    parts += [f"{', '.join(others)} {'is' if len(others) == 1 else 'are'} not supported"] * bool(
        others
    )
    warnings.warn(f"{source}: settings are not applied: {'; '.join(parts)}", stacklevel=3)


def _advice(key: str, value: Any) -> str:
    """Return a setting, and the option that it is here."""
    if key == "do_sample":
        return "do_sample=True (as sampler='top_p' or 'random')"
    option = OPTIONS[key][0]
    return f"{key}={value!r}" + (f" (as {option})" if option != key else "")


def _are_tokens(values: list[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) for value in values)


def _listed(value: Any) -> list[Any]:
    """Return a value that may be a list, or missing, as a list."""
    return [] if value is None else value if isinstance(value, list) else [value]
