"""The settings of a tokenizer in a folder of Hugging Face: its class, special and added tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from functional_models.checks import check_link, read_json
from functional_models.hugging_face.generation_settings import (
    forces_end,
    read_generation_settings,
    suppressed_tokens,
)

NAMED_TOKENS = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)

# What the classes of `transformers` take for settings that no file of the folder has. A class that
# is missing here has no defaults: its tokenizer.json is taken as it is.
_BERT = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
    "do_lower_case": True,
    "tokenize_chinese_chars": True,
    "strip_accents": None,
}
_GPT_2 = {
    "unk_token": "<|endoftext|>",
    "bos_token": "<|endoftext|>",
    "eos_token": "<|endoftext|>",
    "add_prefix_space": False,
}
_ROBERTA = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": {"content": "<mask>", "lstrip": True, "normalized": False},
}
_NORMALIZED_MASK = {"content": "<mask>", "lstrip": True, "normalized": True}
_LLAMA = {
    "unk_token": "<unk>",
    "bos_token": "<s>",
    "eos_token": "</s>",
    "add_bos_token": True,
    "add_eos_token": False,
    "add_prefix_space": None,
}
_SEQUENCES = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}

DEFAULTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("Bert", "DistilBert", "Electra", "MobileBert", "ConvBert"), _BERT),
    "MPNet": {
        **_ROBERTA,
        "unk_token": "[UNK]",
        "mask_token": _NORMALIZED_MASK,
        "do_lower_case": True,
    },
    **dict.fromkeys(("GPT2", "CodeGen"), _GPT_2),
    "GPTNeoX": {**_GPT_2, "add_bos_token": False, "add_eos_token": False},
    "Bloom": {"bos_token": "<s>", "add_prefix_space": False, **_SEQUENCES},
    "Qwen2": {
        "unk_token": "<|endoftext|>",
        "eos_token": "<|endoftext|>",
        "pad_token": "<|endoftext|>",
    },
    **dict.fromkeys(("Roberta", "Bart", "Longformer", "LED"), _ROBERTA),
    **dict.fromkeys(("XLMRoberta", "Camembert", "MBart"), _ROBERTA),
    "MBart50": {**_ROBERTA, "mask_token": _NORMALIZED_MASK},
    **dict.fromkeys(("Llama", "CodeLlama"), _LLAMA),
    "Cohere": {
        "unk_token": "<UNK>",
        "bos_token": "<BOS_TOKEN>",
        "eos_token": "<|END_OF_TURN_TOKEN|>",
        "add_bos_token": True,
        "add_eos_token": False,
        "add_prefix_space": False,
    },
    "Gemma": {**_LLAMA, "bos_token": "<bos>", "eos_token": "<eos>", "pad_token": "<pad>"},
    "T5": {**_SEQUENCES, "extra_ids": 100},
    "Pegasus": {
        **_SEQUENCES,
        "mask_token": "<mask_2>",
        "mask_token_sent": "<mask_1>",
        "offset": 103,
    },
    "Marian": _SEQUENCES,
    "M2M100": {**_SEQUENCES, "bos_token": "<s>"},
}

_CLASS_OF_MODEL = {
    **dict.fromkeys(("bert", "distilbert", "electra", "mobilebert", "convbert"), "Bert"),
    **dict.fromkeys(("cohere", "cohere2"), "Cohere"),
    **dict.fromkeys(("exaone4", "olmo3", "granite"), "GPT2"),
    **dict.fromkeys(("gpt2", "gptj", "gpt_neo", "opt", "starcoder2", "gpt_bigcode"), "GPT2"),
    **dict.fromkeys(("gpt_neox", "mpt", "stablelm", "olmo", "olmo2"), "GPTNeoX"),
    **dict.fromkeys(("llama", "mistral", "mixtral", "phi3"), "Llama"),
    **dict.fromkeys(("deepseek_v2", "deepseek_v3"), "Llama"),
    **dict.fromkeys(("gemma", "gemma2", "gemma3", "gemma3_text"), "Gemma"),
    **dict.fromkeys(("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"), "Qwen2"),
    **dict.fromkeys(("t5", "mt5", "umt5"), "T5"),
    "bart": "Bart",
    "bloom": "Bloom",
    "camembert": "Camembert",
    "led": "LED",
    "longformer": "Longformer",
    "m2m_100": "M2M100",
    "marian": "Marian",
    "mbart": "MBart",
    "mpnet": "MPNet",
    "pegasus": "Pegasus",
    **dict.fromkeys(("codegen", "phi"), "CodeGen"),
    "roberta": "Roberta",
    "xlm-roberta": "XLMRoberta",
}


@dataclass(frozen=True)
class Settings:
    """What the JSON files of a folder say about its tokenizer; a missing file says nothing.

    Attributes:
        folder: the folder.
        config: `tokenizer_config.json`.
        special: `special_tokens_map.json`.
        added: `added_tokens.json`, ids by token.
        model: `config.json`, with what `generation_config.json` replaces.
        generation: the settings of `generate`.
    """

    folder: Path
    config: Mapping[str, Any]
    special: Mapping[str, Any]
    added: Mapping[str, int]
    model: Mapping[str, Any]
    generation: Mapping[str, Any]

    @cached_property
    def class_name(self) -> str:
        """The class of the tokenizer, without `Tokenizer` and `Fast`; empty if unknown."""
        named = self.config.get("tokenizer_class") or self.model.get("tokenizer_class")
        if named is None:
            return _CLASS_OF_MODEL.get(str(self.model.get("model_type")), "")
        return str(named).removesuffix("Fast").removesuffix("Tokenizer")

    def get(self, name: str, default: Any = None) -> Any:
        """Return a setting of the folder, or the default of the class."""
        if name in self.special and "added_tokens_decoder" not in self.config:
            return self.special[name]
        if name in self.config:
            return self.config[name]
        return DEFAULTS.get(self.class_name, {}).get(name, default)

    def token(self, name: str) -> str | None:
        """Return the text of a special token, such as `eos_token`."""
        value = self.get(name)
        return value["content"] if isinstance(value, dict) else value

    def tokens_around(self) -> tuple[list[str], list[str]] | None:
        """Return the tokens before and after every text; None if tokenizer.json tells them.

        In `transformers` 4, classes such as Llama's do not look at the post-processor of the file.
        Version 5, which names a `backend`, does so if nothing is said.
        """
        language = str(self.get("src_lang") or "en_XX")
        if self.class_name == "MBart":
            return [], ["</s>", language]
        if self.class_name == "MBart50":
            return [language], ["</s>"]
        names = ("add_bos_token", "add_eos_token")
        if "backend" in self.config:
            told = any(name in self.config for name in names)
            adds = [self.config.get(name) for name in names]
        else:
            told = names[0] in DEFAULTS.get(self.class_name, {})
            adds = [self.get(name) for name in names]
        start, end = self.token("bos_token"), self.token("eos_token")
        before, after = (
            [t] if t and add else [] for t, add in zip((start, end), adds, strict=True)
        )
        return (before, after) if told else None

    @property
    def further_special_tokens(self) -> list[Any]:
        """The special tokens without a name, as texts or as dicts of their flags."""
        found = [*(self.get("additional_special_tokens") or [])]
        extra = self.get("extra_special_tokens") or []
        found += list(extra.values()) if isinstance(extra, dict) else list(extra)
        if sentence := self.token("mask_token_sent"):  # of Pegasus
            found = [sentence, *(f"<unk_{i}>" for i in range(2, self.get("offset")))]
        number = self.get("extra_ids", 0)
        if number and not any("<extra_id_" in str(token) for token in found):
            found += [f"<extra_id_{i}>" for i in range(number)]
        return found

    @cached_property
    def special_tokens(self) -> dict[str, Any]:
        """The special tokens by name, as the variables of a chat template."""
        found: dict[str, Any] = {name: self.token(name) for name in NAMED_TOKENS}
        further = [t["content"] if isinstance(t, dict) else t for t in self.further_special_tokens]
        found["additional_special_tokens"] = further
        return {name: value for name, value in found.items() if value}

    def added_tokens(self) -> list[dict[str, Any]]:
        """Return the tokens to add, in order, each with its flags and perhaps its `id`.

        Those with ids come first. A special token that is only named has no flags.
        """
        listed = self.config.get("added_tokens_decoder")
        tokens = [{**t, "id": int(i)} for i, t in (listed or {}).items()]
        special = [self.get(name) for name in NAMED_TOKENS] + self.further_special_tokens
        special = [t if isinstance(t, dict) else {"content": t} for t in special if t]
        names = {t["content"] for t in special}
        if listed is None:
            tokens += [
                {"content": t, "id": i, "special": t in names} for t, i in self.added.items()
            ]
        tokens.sort(key=lambda token: token["id"])
        known = {token["content"] for token in tokens}
        return tokens + [{**t, "special": True} for t in special if t["content"] not in known]

    def chat_templates(self) -> dict[str, str]:
        """Return the chat templates by name; `default` is the name of a single one."""
        file, others = self.folder / "chat_template.jinja", "additional_chat_templates/*.jinja"
        found = {path.stem: path.read_text("utf-8") for path in sorted(self.folder.glob(others))}
        check_link(file)
        if file.is_file():
            found["default"] = file.read_text("utf-8")
        if found:
            return found
        template = self.config.get("chat_template") or {}
        if isinstance(template, list):
            return {entry["name"]: entry["template"] for entry in template}
        return {"default": template} if isinstance(template, str) else dict(template)


GENERATION_FIELDS: Mapping[str, Any] = {"suppressed": (), "forces_end": False}
"""Fields of tokenizers that earlier versions did not save."""


def generation_fields(settings: Mapping[str, Any], end_id: int, size: int) -> dict[str, Any]:
    """Return the fields of a tokenizer with `size` ids that settings of `generate` determine."""
    suppressed = tuple(i for i in suppressed_tokens(settings) if 0 <= i < size)
    return {"suppressed": suppressed, "forces_end": forces_end(settings, end_id)}


def read_settings(folder: Path) -> Settings:
    """Read the settings of a tokenizer.

    Raises:
        ValueError: a file that is no JSON, or has no object.
    """
    config = _read(folder / "config.json")
    generation = read_generation_settings(folder, config)
    return Settings(
        folder,
        _read(folder / "tokenizer_config.json"),
        _read(folder / "special_tokens_map.json"),
        _read(folder / "added_tokens.json"),
        {**config, **generation},
        generation,
    )


def _read(path: Path) -> dict[str, Any]:
    check_link(path)
    found = read_json(path) if path.exists() else {}
    if not isinstance(found, dict):
        raise ValueError(f"{path} is damaged: it has no JSON object")
    return found
