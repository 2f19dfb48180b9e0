"""Folders of Hugging Face that are sharded, old, damaged or incomplete."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from changed_folders import Tensors, header, shard, write
from safetensors.numpy import load_file
from small_models import as_array, weights_by_name
from test_hugging_face import GOLDEN, read

import functional_models as fm
from functional_models import model_folder
from functional_models.cli import main
from functional_models.hugging_face.weight_files import INDEX, SINGLE, stored_tensors


def assert_same_weights(model: Any, other: Any) -> None:
    expected = weights_by_name(other.model)
    found = weights_by_name(model.model)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


# Forms of the same weights ----------------------------------------------------------------------


def test_shards_are_read_as_one_file(copy: Callable[..., Path]) -> None:
    folder = copy()
    shard(folder)
    assert_same_weights(read(folder), read(GOLDEN / "llama"))


def test_names_may_lack_the_prefix_and_come_with_old_tensors(copy: Callable[..., Path]) -> None:
    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[name.removeprefix("model.")] = tensors.pop(name)
        tensors["layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(3, "float32")

    assert_same_weights(read(copy(change=rename)), read(GOLDEN / "llama"))


def test_blocks_that_predict_later_tokens_are_not_read(copy: Callable[..., Path]) -> None:
    def add(tensors: Tensors) -> None:
        tensors["mtp.layers.0.mlp.gate.weight"] = np.ones((5, 12), "float32")

    assert_same_weights(read(copy("qwen3_next", add)), read(GOLDEN / "qwen3_next"))


def test_old_names_of_norms_are_read(copy: Callable[..., Path]) -> None:
    def rename(tensors: Tensors) -> None:
        for name in [name for name in tensors if "LayerNorm" in name]:
            new = name.replace(".weight", ".gamma").replace(".bias", ".beta")
            tensors[new] = tensors.pop(name)
        tensors["bert.embeddings.position_ids"] = np.arange(17)

    assert_same_weights(read(copy("bert", rename)), read(GOLDEN / "bert"))


def test_a_tied_table_may_have_any_of_its_names(copy: Callable[..., Path]) -> None:
    def rename(tensors: Tensors) -> None:
        tensors["lm_head.weight"] = tensors.pop("model.shared.weight")
        tensors["model.decoder.embed_tokens.weight"] = tensors["lm_head.weight"]

    assert_same_weights(read(copy("bart", rename)), read(GOLDEN / "bart"))


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_a_dtype_is_that_of_the_weights(copy: Callable[..., Path], kind: str) -> None:
    def convert(tensors: Tensors) -> None:
        for name, tensor in tensors.items():
            tensors[name] = tensor.astype(keras.src.backend.standardize_dtype(kind))

    folder = copy(change=convert)
    assert {tensor.type for tensor in stored_tensors(folder).values()} <= {"F32", "BF16"}
    model = read(folder, dtype=kind)
    assert {variable.dtype for variable in model.model.weights} == {kind}
    table = as_array(model.model.get_layer("decoder.token_embedding").embeddings)
    stored = stored_tensors(folder)["model.embed_tokens.weight"].read()
    np.testing.assert_array_equal(table.astype("float32"), stored.astype("float32"))


def test_the_pooler_and_the_head_that_is_left_out(copy: Callable[..., Path]) -> None:
    """The released BERT is a masked language model, stored with a pooler and another head."""

    def add(tensors: Tensors) -> None:
        base = load_file(GOLDEN / "bert_base" / SINGLE)
        tensors |= {f"bert.{name}": base[name] for name in base if "pooler" in name}
        tensors["cls.seq_relationship.weight"] = np.ones((2, 14), "float32")

    with pytest.warns(UserWarning, match=r"cls.seq_relationship.weight is left out: the head of"):
        model = read(copy("bert", add))
    assert model.spec.pooler
    assert model.spec.masked_lm_head


def test_a_pooler_that_a_classifier_does_not_use_is_left_out(copy: Callable[..., Path]) -> None:
    """Released classifiers of RoBERTa have one."""

    def add(tensors: Tensors) -> None:
        base = load_file(GOLDEN / "roberta_base" / SINGLE)
        tensors |= {f"roberta.{name}": base[name] for name in base if "pooler" in name}

    with pytest.warns(UserWarning, match=r"pooler.dense.(bias|weight) is left out: the pooler of"):
        model = read(copy("roberta_classes", add))
    assert_same_weights(model, read(GOLDEN / "roberta_classes"))


def test_zeros_as_a_bias_of_logits_are_no_bias(copy: Callable[..., Path]) -> None:
    assert read(GOLDEN / "bart").spec.logit_bias

    def clear(tensors: Tensors) -> None:
        tensors["final_logits_bias"][:] = 0

    assert not read(copy("bart", clear)).spec.logit_bias


def test_from_keras_hub_reads_a_folder_of_hugging_face_directly() -> None:
    source = str(GOLDEN / "gpt2")
    with pytest.warns(UserWarning, match="without a tokenizer"):
        assert fm.from_keras_hub(source).spec == read(source).spec
    with pytest.raises(ValueError, match=r"pad_token_id=3: the configuration of .* defines it"):
        fm.from_keras_hub(source, pad_token_id=3)


@pytest.mark.parametrize("kind", ["float32", "bfloat16"])
def test_large_weights_are_saved_in_pieces(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_folder, "_CHUNK", 50)  # rows of 12 to 48
    model = read(GOLDEN / "llama", dtype=kind)
    model.save(tmp_path / "model")
    again = fm.load(tmp_path / "model")
    for name, value in weights_by_name(again.model).items():
        expected = weights_by_name(model.model)[name].astype("float32")
        np.testing.assert_array_equal(value, expected, err_msg=name)


@pytest.mark.slow
def test_the_command_imports_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, to = GOLDEN / "gpt2", tmp_path / "model"
    with pytest.warns(UserWarning, match="without a tokenizer"):
        assert main(["import", str(source), "--to", str(to), "--dtype", "bfloat16"]) == 0
    assert "decoder_only, 2 blocks of width 14" in capsys.readouterr().out
    table = fm.load(to).model.get_layer("decoder.token_embedding").embeddings
    stored = load_file(source / SINGLE)["transformer.wte.weight"]
    np.testing.assert_allclose(as_array(table), stored, rtol=0.01)


def byte_pairs(folder: Path, letters: int) -> None:
    """Write the files of a tokenizer of letters and their merges."""
    vocabulary = {"<|endoftext|>": 0, **{chr(97 + i): i + 1 for i in range(letters)}, "th": 27}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    (folder / "merges.txt").write_text("t h\n")


def test_a_tokenizer_pads_with_the_token_that_the_model_masks(copy: Callable[..., Path]) -> None:
    folder = copy("gpt2", pad_token_id=5)
    byte_pairs(folder, 26)
    lm = fm.from_hugging_face(folder)
    assert lm.tokenizer.pad_id == lm.spec.pad_token_id == 5
    assert lm.tokenizer.encode(["thy"])[0].tolist() == [27, 25]
    given = fm.from_hugging_face(folder, tokenizer=lm.tokenizer)
    assert given.tokenizer.pad_id == 5


def test_a_tokenizer_that_is_larger_than_the_model_is_left_out(copy: Callable[..., Path]) -> None:
    folder = copy("gpt2")
    byte_pairs(folder, 40)
    with pytest.warns(UserWarning, match=r"the tokenizer has 41 tokens, the model vectors for 31"):
        assert fm.from_hugging_face(folder).tokenizers == {}


def copy_of_whole(copy: Callable[..., Path], **keys: Any) -> Path:
    """Copy Gemma 3 as the language model of a model of texts and images."""
    text = json.loads((GOLDEN / "gemma3_text_options" / "config.json").read_text())

    def rename(tensors: Tensors) -> None:
        for name in list(tensors):
            tensors[f"language_model.{name}"] = tensors.pop(name)
        tensors["vision_tower.vision_model.head.bias"] = np.ones(3, "float32")

    whole = {
        **{"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"]},
        **{"text_config": text, "vision_config": {"hidden_size": 3}, "image_token_index": 30},
    }
    folder = copy("gemma3_text_options", rename)
    (folder / "config.json").write_text(json.dumps({**whole, **keys}))
    return folder


def test_the_language_model_of_a_model_of_images_is_read(copy: Callable[..., Path]) -> None:
    folder = copy_of_whole(copy)
    with pytest.warns(UserWarning, match=r"1 tensors of images are left out, such as vision_tower"):
        model = read(folder)
    assert_same_weights(model, read(GOLDEN / "gemma3_text_options"))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"bonus": 3}, "bonus=3 has an unknown meaning in gemma3"),
        ({"architectures": ["Gemma3Model"]}, r"architectures=\['Gemma3Model'\]: must be"),
        ({"text_config": None}, "text_config=None: must have the configuration of the language"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings=True, and False in text_config"),
        (
            {"text_config": {"final_logit_softcapping": 2.5}},
            "final_logit_softcapping=2.5 in text_config: must be None",
        ),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.*: must be None"),
        ({"model_type": "lava"}, "model_type='lava' has a text_config: it is a model of more than"),
    ],
)
def test_other_models_of_images_are_refused(
    copy: Callable[..., Path], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refused(copy_of_whole(copy, **keys))


# Folders that are refused -----------------------------------------------------------------------


def without(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def with_tensor(name: str, *shape: int) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: np.ones(shape, "float32")})


KEYS = [
    ({"model_type": "lama"}, r"model_type='lama' is not supported \(the nearest is 'llama'\)"),
    ({"model_type": None}, "model_type=None is not supported; supported: albert, bart, bert"),
    ({"architectures": None}, "architectures=None: must name the class .* LlamaForCausalLM"),
    (
        {"architectures": ["LlamaForSequenceClassification"]},
        r"the outputs of LlamaForSequenceClassification are not .* LlamaForCausalLM, LlamaModel",
    ),
    ({"architectures": ["LlamaModel"]}, "LlamaModel has no logits, since its embeddings are not"),
    ({"hidden_activation": "silu"}, r"hidden_activation='silu' has an unknown meaning in llama"),
    ({"hiden_size": 12}, r"hiden_size=12 has an unknown meaning .*\(is hidden_size meant\?\)"),
    ({"hidden_act": "tanh"}, "hidden_act='tanh': no activation of a spec; allowed: gelu"),
    ({"quantization_config": {"bits": 4}}, r"quantization_config=.*: must be None, or absent"),
    ({"hidden_size": "12"}, "hidden_dim='12'"),
    ({"vocab_size": None}, "vocab_size: vocabulary_size=None"),
    (
        {"num_hidden_layers": 3},
        r"the tensor layers.2.* is missing; the configuration is of another",
    ),
    ({"num_hidden_layers": 1}, r"no tensor layers.1.* \(and 8 more\)"),
    ({"intermediate_size": 7}, r"mlp.* has the shape .* which is not that of"),
    ({"attention_bias": True}, r"self_attn.*bias is missing"),
    ({"tie_word_embeddings": True}, "tied by the configuration, but their values differ"),
]


def test_a_tensor_that_the_configuration_does_not_tie_is_missed(copy: Callable[..., Path]) -> None:
    message = "lm_head.weight is missing, and tie_word_embeddings does not tie it to another"
    with pytest.raises(ValueError, match=message):
        refused(copy("gpt2", tie_word_embeddings=False))


@pytest.mark.parametrize(("keys", "message"), KEYS)
def test_a_configuration_of_another_model_is_refused(
    copy: Callable[..., Path], keys: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refused(copy(**keys))


TENSORS = [
    (without("model.norm.weight"), r"the tensor norm.weight is missing"),
    (without("model.embed_tokens.weight"), r"the tensor embed_tokens.weight is missing"),
    (with_tensor("score.weight", 2, 12), r"LlamaForCausalLM .* has no tensor score.weight"),
    (with_tensor("model.layers.2.mlp.up_proj.weight", 13, 12), r"no tensor layers.2.mlp.up_proj"),
    (with_tensor("model.norm.weight", 13), r"norm.weight has the shape \(13,\)"),
    (with_tensor("model.norm.weight", 12, 1), r"norm.weight has the shape \(12, 1\)"),
    (with_tensor("norm.weight", 12), r"norm.weight is stored twice"),
    (
        lambda tensors: tensors.update({"lm_head.weight": np.ones((31, 12), "int8")}),
        r"lm_head.weight has the type I8; quantized weights are not",
    ),
]


@pytest.mark.parametrize(("change", "message"), TENSORS)
def test_tensors_of_another_model_are_refused(
    copy: Callable[..., Path], change: Callable[[Tensors], object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        refused(copy(change=change))


OF_BLOCKS = (
    *(
        "cohere",
        "cohere2",
        "exaone4",
        "gemma3_text",
        "modernbert",
        "olmo",
        "olmo3",
        "qwen2_moe_dense",
    ),
    *("qwen3_moe_dense", "qwen3_next", "smollm3"),
)


@pytest.mark.slow
@pytest.mark.parametrize("name", OF_BLOCKS)
def test_any_tensor_of_a_family_is_missed_and_checked(
    copy: Callable[..., Path], name: str, tmp_path: Path
) -> None:
    tensors = load_file(GOLDEN / name / SINGLE)
    tied = ("lm_head.weight", "decoder.weight", "embed_tokens.weight", "tok_embeddings.weight")
    single = [tensor for tensor in tensors if not tensor.endswith(tied)]
    for number, tensor in enumerate((single[0], single[len(single) // 2], single[-1])):
        short = tensor.removeprefix("model.")
        changes = {
            rf"the tensor {short} is missing": without(tensor),
            rf"the tensor {short} has the shape": with_tensor(tensor, 3, 41),
            rf"has no tensor {short}_": with_tensor(f"{tensor}_", 3),
        }
        for again, (message, change) in enumerate(changes.items()):
            folder = copy(name, change).rename(tmp_path / f"{number}_{again}")
            with pytest.raises(ValueError, match=message) as caught:
                refused(folder)
            assert "\n" not in str(caught.value)


def refused(folder: Path) -> None:
    """Read a folder that has no tokenizer, without a warning about that before the error."""
    fm.from_hugging_face(folder)


def truncate(folder: Path) -> None:
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[: len(data) // 2])


def only_pickles(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


def only_weights_of_flax(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "flax_model.msgpack")


def only_an_adapter(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def without_a_shard(folder: Path) -> None:
    shard(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


def change_index(**changes: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        shard(folder)
        index = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps({**index, **changes}))

    return change


def unnamed_in_the_index(folder: Path) -> None:
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    del index["weight_map"]["lm_head.weight"]
    (folder / INDEX).write_text(json.dumps(index))


BAD_ENTRY = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}'
LONG_ENTRY = b'{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}'
FILES = [
    (truncate, "is truncated, or no safetensors"),
    (write(SINGLE, b"abc"), "is truncated, or no safetensors"),
    (
        write(SINGLE, b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n"),
        "is a pointer of Git LFS, in place of the file; run `git lfs pull`",
    ),
    (write(SINGLE, b"<html>" * 9), "is truncated, or no safetensors"),
    (write(SINGLE, header(b"[1]")), "is damaged: its header is not"),
    (write(SINGLE, header(BAD_ENTRY) + bytes(4)), "is damaged: its header is not"),
    (write(SINGLE, header(LONG_ENTRY) + bytes(4)), "is truncated"),
    (only_pickles, r"pytorch_model.bin is damaged, or no file of torch.save"),
    (only_weights_of_flax, r"flax_model.msgpack holds weights of Flax; .*save_pretrained"),
    (only_an_adapter, r"adapter_config.json holds an adapter \(LoRA\): merge it"),
    (lambda folder: (folder / SINGLE).unlink(), "download the files of weights too"),
    (without_a_shard, r"model-00002-of-00002.safetensors of its 2 files of weights is missing"),
    (change_index(weight_map=[1]), "index.json is damaged: its weight_map"),
    (change_index(weight_map={"a": "../x"}), "index.json is damaged: its weight_map"),
    (unnamed_in_the_index, "disagree: lm_head.weight is not named there"),
    (lambda folder: (shard(folder), write(INDEX, b"{")(folder)), "is not JSON"),
    (write("config.json", b"{"), "config.json is not JSON"),
    (write("config.json", b"[]"), "config.json is damaged"),
    (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
    (shutil.rmtree, "there is no folder .* download the model first"),
    (write("model.json", b"{}"), "is a model folder already"),
]


@pytest.mark.parametrize(("damage", "message"), FILES)
def test_a_damaged_folder_is_refused(
    copy: Callable[..., Path], damage: Callable[[Path], object], message: str
) -> None:
    folder = copy()
    damage(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        refused(folder)


def test_a_gguf_file_needs_its_package(
    copy: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)  # an import raises an error
    path = (folder := copy()) / "model.gguf"
    (folder / SINGLE).rename(path)
    with pytest.raises(FileNotFoundError, match=r"model.gguf holds the whole model as GGUF: give"):
        refused(folder)
    with pytest.raises(ImportError, match=r"pip install 'functional-models\[gguf\]'"):
        fm.from_hugging_face(path)
    assert main(["import", str(path), "--to", str(folder / "to")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "install it: pip install" in line


def test_a_configuration_without_sizes_names_them(copy: Callable[..., Path]) -> None:
    folder = copy()
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"], config["vocab_size"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"config.json: num_hidden_layers, vocab_size are missing"):
        refused(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"bonus": 3}', "model_type=None is not supported"), ("{", "config.json is not JSON")],
)
def test_the_command_reports_a_bad_folder_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    assert main(["import", str(tmp_path), "--to", str(tmp_path / "to")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "to").exists()
