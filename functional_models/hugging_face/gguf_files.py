"""GGUF files of Llama and Qwen, in the words of folders of Hugging Face.

A file has keys, tensors that may be quantized, and a tokenizer. Here each key becomes one of
`config.json` and each tensor gets its name of Hugging Face; what the family's table does not know
is refused there. Source: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md, and for names
`gguf/constants.py` and `convert_hf_to_gguf.py` of llama.cpp.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from functional_models.checks import check_is_file
from functional_models.hugging_face.stored_tensor import StoredTensor

CLASSES = {"llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM"}
"""Architecture, which is also the `model_type`, -> class."""

KEYS = {
    "vocab_size": "vocab_size",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "block_count": "num_hidden_layers",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
    "rope.freq_base": "rope_theta",
}
"""Key, after the architecture, -> key of `config.json`."""

_BLOCK = "model.layers.{i}"
TENSORS = {
    "token_embd": "model.embed_tokens",
    "blk.{i}.attn_norm": f"{_BLOCK}.input_layernorm",
    "blk.{i}.attn_q": f"{_BLOCK}.self_attn.q_proj",
    "blk.{i}.attn_k": f"{_BLOCK}.self_attn.k_proj",
    "blk.{i}.attn_v": f"{_BLOCK}.self_attn.v_proj",
    "blk.{i}.attn_q_norm": f"{_BLOCK}.self_attn.q_norm",
    "blk.{i}.attn_k_norm": f"{_BLOCK}.self_attn.k_norm",
    "blk.{i}.attn_output": f"{_BLOCK}.self_attn.o_proj",
    "blk.{i}.ffn_norm": f"{_BLOCK}.post_attention_layernorm",
    "blk.{i}.ffn_gate": f"{_BLOCK}.mlp.gate_proj",
    "blk.{i}.ffn_up": f"{_BLOCK}.mlp.up_proj",
    "blk.{i}.ffn_down": f"{_BLOCK}.mlp.down_proj",
    "output_norm": "model.norm",
    "output": "lm_head",
}
"""Tensor, without .weight and .bias, -> name of Hugging Face; `{i}` is the number of a block."""

# Keys that say nothing about the outputs: of the file, how it was quantized, and the tokenizer.
_SILENT = re.compile(r"(GGUF|general|quantize|tokenizer)\..*")

# What divides rotary frequencies, in Llama 3.1 and later. Of their settings, which are not stored,
# all releases have these, and factors of 8 or 32.
_FACTORS = "rope_freqs.weight"
_LLAMA_3 = {
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}

Keys = Mapping[str, Any]


@dataclass(frozen=True)
class QuantizedTensor(StoredTensor):
    """A tensor of a GGUF file, which is read as float32.

    Attributes:
        heads: heads whose halves of rotated channels are stored in turn; 0 where they are not.
        bytes_shape: shape in bytes, as stored; rows are quantized by blocks of channels.
    """

    heads: int = 0
    bytes_shape: tuple[int, ...] = field(default=(), kw_only=True)

    @property
    def is_float(self) -> bool:
        return True

    def read(self) -> np.ndarray:
        import gguf

        count = int(np.prod(self.bytes_shape))
        stored = np.fromfile(self.path, "u1", count, offset=self.offset)
        kind = gguf.GGMLQuantizationType[self.type]
        try:
            array: np.ndarray = gguf.dequantize(stored.reshape(self.bytes_shape), kind)
        except NotImplementedError:  # raised by the package gguf, for some types that it only names
            raise ValueError(
                f"there are weights of the type {self.type}, which the package gguf does not "
                "dequantize; take a file with other types"
            ) from None
        array = array.reshape(self.shape)
        if not self.heads:
            return array
        # Row 2 c + h of a head is row c of half h.
        pairs = array.reshape(self.heads, -1, 2, *self.shape[1:])
        return pairs.swapaxes(1, 2).reshape(self.shape)

    def equals(self, other: StoredTensor) -> bool:
        return self.shape == other.shape and np.array_equal(self.read(), other.read())


@dataclass(frozen=True)
class GgufFile:
    """A file, in the words of a folder of Hugging Face.

    Attributes:
        config: what would be in `config.json`.
        tensors: the tensors by their names of Hugging Face.
        keys: the keys of the file.
    """

    config: dict[str, Any]
    tensors: dict[str, StoredTensor]
    keys: Keys


def read_gguf(path: Path) -> GgufFile:
    """Return what a GGUF file has; its tensors are not read yet.

    Raises:
        FileNotFoundError: there is no file.
        ImportError: the package `gguf` is not installed.
        ValueError: a damaged file, another architecture, or a key of unknown meaning.
    """
    keys, stored = _content(path)
    kind = keys.get("general.architecture")
    if kind not in CLASSES:
        raise ValueError(
            f"{path}: the architecture {kind!r} is not supported; supported: {', '.join(CLASSES)}"
        )
    config = _config(path, kind, keys, stored)
    tensors = _tensors(path, config, stored)
    if (factors := tensors.get(_FACTORS)) is not None:
        config["rope_scaling"] = _scaling(path, factors.read(), config)
        del tensors[_FACTORS]
    return GgufFile(config, tensors, keys)


def _tensors(path: Path, config: Keys, stored: Mapping[str, Any]) -> dict[str, StoredTensor]:
    """Return the tensors of a file by their names of Hugging Face; unknown ones keep theirs."""
    heads: dict[str, int] = {}
    if config["model_type"] == "llama":  # it stores the halves that are rotated in turn
        queries = config.get("num_attention_heads", 0)
        heads = {"attn_q": queries, "attn_k": config.get("num_key_value_heads", queries)}
    found: dict[str, StoredTensor] = {}
    for name, tensor in stored.items():
        number = re.search(r"blk\.(\d+)\.", name)
        owner, _, last = re.sub(r"blk\.\d+\.", "blk.{i}.", name).rpartition(".")
        theirs = TENSORS.get(owner, "").format(i=number and number[1])
        found[f"{theirs}.{last}" if theirs else name] = QuantizedTensor(
            path,
            tensor.tensor_type.name,
            tuple(int(size) for size in reversed(tensor.shape)),
            tensor.data_offset,
            heads=heads.get(owner.rpartition(".")[2], 0),
            bytes_shape=tensor.data.view("u1").shape,
        )
    return found


def _scaling(path: Path, factors: np.ndarray, config: Keys) -> dict[str, Any]:
    """Return the rotary scaling of Llama 3 that has some factors, which divide the frequencies."""
    largest = float(factors.max())
    base, (low, high, length) = config.get("rope_theta", 10_000.0), _LLAMA_3.values()
    rotations = base ** -(np.arange(len(factors)) / len(factors)) * length / (2 * math.pi)
    kept = np.clip((rotations - low) / (high - low), 0, 1)
    expected = 1 / (kept + (1 - kept) / largest)
    if not np.allclose(factors, expected, rtol=1e-4):
        raise ValueError(
            f"{path}: {_FACTORS} has other factors than those of the rotary scaling of Llama 3.1"
        )
    return {"rope_type": "llama3", "factor": largest, **_LLAMA_3}


def _content(path: Path) -> tuple[Keys, Mapping[str, Any]]:
    """Return the keys and the tensors of a file, as the package `gguf` reads them."""
    check_is_file(path)
    if not path.exists():
        raise FileNotFoundError(f"there is no file {path}; download the model first")
    try:
        import gguf
    except ImportError:
        raise ImportError(
            f"{path} is a GGUF file, which the package gguf reads; install it: "
            "pip install 'functional-models[gguf]'"
        ) from None
    try:
        reader = gguf.GGUFReader(path)
        keys = {name: entry.contents() for name, entry in reader.fields.items()}
    except Exception as error:  # the reader has no common class of errors
        raise ValueError(
            f"{path} is damaged, or no GGUF file ({type(error).__name__}); download it again"
        ) from None
    if reader.byte_order != "I":
        raise ValueError(f"{path} has the byte order of another machine; take a file of this one")
    return keys, {tensor.name: tensor for tensor in reader.tensors}


def _config(path: Path, kind: str, keys: Keys, stored: Keys) -> dict[str, Any]:
    """Return the configuration that the keys of a file mean."""
    config: dict[str, Any] = {"model_type": kind, "architectures": [CLASSES[kind]]}
    for name, theirs in KEYS.items():
        if (value := keys.get(key := f"{kind}.{name}")) is not None:
            config[theirs] = _number(path, key, value)
    if "token_embd.weight" in stored:
        config.setdefault("vocab_size", int(stored["token_embd.weight"].shape[1]))
    config["tie_word_embeddings"] = "output.weight" not in stored
    if kind == "llama":
        config["attention_bias"] = "blk.0.attn_q.bias" in stored
    for token in ("bos", "eos"):
        config[f"{token}_token_id"] = keys.get(f"tokenizer.ggml.{token}_token_id")
    config["pad_token_id"] = keys.get("tokenizer.ggml.padding_token_id")
    width = config.get("head_dim") or config.get("hidden_size", 0) // (
        config.get("num_attention_heads") or 1
    )
    # The keys that may have one value only.
    required = {"rope.dimension_count": width, "attention.value_length": width}
    required["rope.scaling.type"] = "none"
    for key, value in keys.items():
        name = key.removeprefix(f"{kind}.")
        if name in required and value != required[name]:
            raise ValueError(f"{path}: {key}={value!r}: must be {required[name]!r}")
        if name not in {*KEYS, *required} and not _SILENT.fullmatch(name):
            raise ValueError(
                f"{path}: {key}={value!r} has an unknown meaning in {kind}; no key is ignored"
            )
    return config


def _number(path: Path, key: str, value: Any) -> int | float:
    """Return a number; of a float32, the decimal number that was meant, such as 1e-05."""
    if not isinstance(value, int | float):
        raise ValueError(f"{path}: {key}={value!r}: must be one number for all blocks")
    return float(str(np.float32(value))) if isinstance(value, float) else value
