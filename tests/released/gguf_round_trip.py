"""Folders of Hugging Face, written as GGUF with the package `gguf`, are read as the same models."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file
from small_models import as_array, relative_error, weights_by_name
from test_hugging_face import GOLDEN, outputs, read
from test_hugging_face_tokenizers import EXPECTED, first_unequal
from test_hugging_face_tokenizers import GOLDEN as TOKENIZERS

import functional_models as fm
from builders.rotary import llama3, plain_frequencies
from functional_models.cli import main
from functional_models.hugging_face.gguf_files import CLASSES, read_gguf
from functional_models.hugging_face.tokenizers import read_tokenizer

Config = dict[str, Any]
Tensors = dict[str, np.ndarray]
_ARCHITECTURES = {kind: arch for arch, kind in gguf.MODEL_ARCH_NAMES.items()}


def permuted(tensor: np.ndarray, heads: int) -> np.ndarray:
    """As `LlamaModel.permute` in `convert_hf_to_gguf.py` of llama.cpp."""
    rows = tensor.reshape(heads, 2, len(tensor) // heads // 2, *tensor.shape[1:])
    return rows.swapaxes(1, 2).reshape(tensor.shape)


def write(path: Path, config: Config, tensors: Tensors, add: Callable[..., Any] | None = None):
    """Write a model as GGUF, as llama.cpp does."""
    kind = config["model_type"]
    writer = gguf.GGUFWriter(path, kind)
    writer.add_name("a small model")
    writer.add_vocab_size(config["vocab_size"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    if add is not None:
        add(writer)
    names = gguf.get_tensor_name_map(_ARCHITECTURES[kind], config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in tensors.items():
        part = re.search(r"[qk]_proj", name)
        if part and kind == "llama":
            tensor = permuted(tensor, heads[part[0]])
        theirs = names.get_name(name, try_suffixes=(".weight", ".bias")) or name
        writer.add_tensor(theirs, np.ascontiguousarray(tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def golden(name: str) -> tuple[Config, Tensors]:
    config = json.loads((GOLDEN / name / "config.json").read_text())
    return config, load_file(GOLDEN / name / "model.safetensors")


@pytest.mark.parametrize("name", CLASSES)
def test_a_file_has_the_outputs_of_pytorch(name: str, tmp_path: Path) -> None:
    config, tensors = golden(name)
    write(tmp_path / "model.gguf", config, tensors)
    model = read(tmp_path / "model.gguf")
    stored = dict(np.load(GOLDEN / name / "expected.npz"))
    found = outputs(model, stored)["logits"][stored["real"]]
    assert relative_error(found, stored["logits"][stored["real"]]) < 1e-5
    assert model.spec == read(GOLDEN / name).spec


def test_biases_of_queries_are_permuted_as_their_rows_are(tmp_path: Path) -> None:
    config, tensors = golden("llama_options")
    tensors = {name: x for name, x in tensors.items() if not re.search(r"mlp.*bias", name)}
    write(tmp_path / "model.gguf", config, tensors)
    found = weights_by_name(read(tmp_path / "model.gguf").model)
    expected = weights_by_name(read(GOLDEN / "llama_options").model)
    assert found.keys() == {name for name in expected if not re.search("feedforward.*bias", name)}
    assert any("query" in name and "bias" in name for name in found)
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


BASE = 2.6e8  # rotations within 8192 tokens: many, between 1 and 4, and few


def factors_of_llama_3(factor: float) -> np.ndarray:
    """As `LlamaModel.generate_extra_tensors` in `convert_hf_to_gguf.py` of llama.cpp."""
    low_freq_factor, high_freq_factor, original_length = 1.0, 4.0, 8192
    found = []
    for frequency in 1.0 / (BASE ** (np.arange(0, 6, 2) / 6)):
        wavelength = 2 * math.pi / frequency
        if wavelength < original_length / high_freq_factor:
            found.append(1.0)
        elif wavelength > original_length / low_freq_factor:
            found.append(factor)
        else:
            smooth = original_length / wavelength - low_freq_factor
            smooth /= high_freq_factor - low_freq_factor
            found.append(1 / ((1 - smooth) / factor + smooth))
    return np.array(found, "float32")


def test_scaled_frequencies_are_those_of_llama_3(tmp_path: Path) -> None:
    config, tensors = golden("llama")
    config["rope_theta"] = BASE
    factors = factors_of_llama_3(32.0)
    assert 1 == factors[0] < factors[1] < factors[2] == 32
    path = tmp_path / "model.gguf"
    write(path, config, tensors | {"rope_freqs.weight": factors})
    spec = read(path).spec
    scaling, _ = llama3(spec)
    np.testing.assert_allclose(plain_frequencies(spec) / factors, scaling, rtol=1e-6)
    assert (spec.rotary_scaling, spec.rotary_factor) == ("llama3", 32)
    write(path, config, tensors | {"rope_freqs.weight": factors[[0, 2, 2]]})
    with pytest.raises(ValueError, match=r"rope_freqs.weight has other factors than those of the"):
        fm.from_hugging_face(path)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q6_K", "BF16"])
def test_quantized_weights_are_those_of_the_package(kind: str, tmp_path: Path) -> None:
    table = np.random.default_rng(5).normal(size=(31, 256)).astype("float32")
    quantization = gguf.GGMLQuantizationType[kind]
    if kind == "Q6_K":  # the package reads it, and cannot write it
        blocks = np.random.default_rng(6).integers(0, 255, (31, 210), "uint8")
        blocks[:, -2:] = np.array([0.01], "float16").view("u1")
    else:
        blocks = gguf.quantize(table, quantization)
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "qwen3")
    writer.add_tensor("token_embd.weight", blocks, raw_dtype=quantization)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_gguf(tmp_path / "model.gguf").tensors["model.embed_tokens.weight"]
    assert (found.type, found.shape, found.is_float) == (kind, table.shape, True)
    np.testing.assert_array_equal(found.read(), gguf.dequantize(blocks, quantization))
    if kind != "Q6_K":
        assert relative_error(found.read(), table) < 0.1


# Tokenizers -------------------------------------------------------------------------------------


def add_tokenizer(folder: Path, pre: str) -> Callable[[Any], None]:
    """Return a function that adds the tokenizer of a folder to a file."""
    backend = read_tokenizer(folder).backend
    content = json.loads(backend.to_str())
    special = {token["content"] for token in content["added_tokens"]}
    size = backend.get_vocab_size()
    tokens = [backend.id_to_token(i) for i in range(size)]

    def add(writer: Any) -> None:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        types = gguf.TokenType.CONTROL, gguf.TokenType.NORMAL
        writer.add_token_types([types[token not in special] for token in tokens])
        merges = content["model"]["merges"]
        writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
        writer.add_eos_token_id(size - 1)
        writer.add_chat_template("{{ messages[0].content }}")

    return add


PRE = {"gpt2": "gpt-2", "llama3": "llama-bpe", "qwen": "qwen2"}


@pytest.mark.parametrize("name", PRE)
def test_ids_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    config, tensors = golden("qwen3")
    add = add_tokenizer(TOKENIZERS / name, PRE[name])
    size = read_tokenizer(TOKENIZERS / name).vocabulary_size
    config["vocab_size"] = size
    for table in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[table] = np.resize(tensors[table], (size, config["hidden_size"]))
    write(tmp_path / "model.gguf", config, tensors, add)
    tokenizer = fm.from_hugging_face(tmp_path / "model.gguf").tokenizer
    texts, expected = EXPECTED["texts"], EXPECTED["folders"][name]["plain"]
    assert first_unequal(tokenizer.encode(texts), expected) is None
    assert tokenizer.end_id == size - 1
    assert tokenizer.format_chat([{"role": "user", "content": "hello"}]) == "hello"


# Files that are refused -------------------------------------------------------------------------


def string(key: str, value: str) -> Callable[[Any], None]:
    return lambda writer: writer.add_string(key, value)


def number(key: str, value: int) -> Callable[[Any], None]:
    return lambda writer: writer.add_uint32(key, value)


@pytest.mark.parametrize(
    ("add", "message"),
    [
        (number("qwen3.expert_count", 4), "qwen3.expert_count=4 has an unknown meaning in qwen3"),
        (number("split.count", 2), r"split.count=2 has an unknown meaning in qwen3"),
        (string("qwen3.rope.scaling.type", "yarn"), "rope.scaling.type='yarn': must be 'none'"),
    ],
)
def test_no_key_is_ignored(add: Callable[..., Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    write(path, *golden("qwen3"), add)
    with pytest.raises(ValueError, match=message) as error:
        fm.from_hugging_face(path)
    assert str(error.value).startswith(f"{path}: ")


def test_sizes_that_differ_from_block_to_block_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    config, tensors = golden("qwen3")
    config["num_attention_heads"] = [4, 2]
    write(path, config, tensors)
    with pytest.raises(ValueError, match=r"head_count=\[4, 2\]: must be one number for all blocks"):
        fm.from_hugging_face(path)


def test_types_that_the_package_does_not_read_are_refused(tmp_path: Path) -> None:
    config, tensors = golden("qwen3")
    tensors["model.norm.weight"] = np.ones(12, "int32")
    write(tmp_path / "model.gguf", config, tensors)
    with pytest.raises(ValueError, match=r"model.gguf: there are weights of the type I32, which"):
        fm.from_hugging_face(tmp_path / "model.gguf")


def test_no_tensor_is_ignored(tmp_path: Path) -> None:
    config, tensors = golden("qwen3")
    write(tmp_path / "model.gguf", config, tensors | {"rope_scale.weight": np.ones(3, "float32")})
    with pytest.raises(ValueError, match=r"of this configuration has no tensor rope_scale.weight"):
        fm.from_hugging_face(tmp_path / "model.gguf")


def test_an_unknown_way_to_cut_words_is_named(tmp_path: Path) -> None:
    def add(writer: Any) -> None:
        add_tokenizer(TOKENIZERS / "gpt2", "gpt-7")(writer)

    write(tmp_path / "model.gguf", *golden("qwen3"), add)
    with pytest.warns(UserWarning, match="tokenizer.ggml.pre='gpt-7'; known is 'gpt2' with gpt-2"):
        assert fm.from_hugging_face(tmp_path / "model.gguf").tokenizers == {}


def test_a_damaged_file_is_refused_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.gguf"
    write(path, *golden("qwen3"))
    content = path.read_bytes()
    for damaged in (b"", b"GGUF", b"<html>" * 9, content[:100], content[:700], content[:-2000]):
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match="is damaged, or no GGUF file"):
            fm.from_hugging_face(path)
    assert main(["import", str(path), "--to", str(tmp_path / "to")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is damaged" in line
    gguf_of_bert = gguf.GGUFWriter(path, "bert")
    gguf_of_bert.write_header_to_file()
    gguf_of_bert.write_kv_data_to_file()
    gguf_of_bert.close()
    with pytest.raises(ValueError, match="the architecture 'bert' is not supported; supported: ll"):
        fm.from_hugging_face(path)
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other.gguf"):
        fm.from_hugging_face(tmp_path / "other.gguf")


def test_the_command_imports_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "model.gguf", *golden("llama"))
    with pytest.warns(UserWarning, match="without a tokenizer"):
        assert main(["import", str(tmp_path / "model.gguf"), "--to", str(tmp_path / "to")]) == 0
    assert "decoder_only, 2 blocks of width 12" in capsys.readouterr().out
    stored = golden("llama")[1]["model.embed_tokens.weight"]
    table = fm.load(tmp_path / "to").model.get_layer("decoder.token_embedding").embeddings
    np.testing.assert_array_equal(as_array(table), stored)
