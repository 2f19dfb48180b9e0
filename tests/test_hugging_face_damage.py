"""Folders of Hugging Face whose files lie, are links to nothing, or have values of wrong types."""

import itertools
import json
import math
import os
import shutil
import struct
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from changed_folders import Tensors, header, shard, write
from quick import slow_unless
from safetensors.numpy import load_file, save_file
from test_hugging_face import CASES, config_of, read, spec_of
from test_hugging_face_tokenizers import GOLDEN as GOLDEN_TOKENIZERS

import functional_models as fm
from functional_models.cli import main
from functional_models.hugging_face.generation_settings import (
    FILE,
    NO_OPTION,
    OPTIONS,
    USED,
    read_generation_settings,
    warn_of_unused_settings,
)
from functional_models.hugging_face.tokenizers import read_tokenizers
from functional_models.hugging_face.tokenizers_settings import generation_fields
from functional_models.hugging_face.weight_files import INDEX, SINGLE

Damage = Callable[[Path], object]

# Configurations ---------------------------------------------------------------------------------

WRONG: tuple[Any, ...] = (
    *(None, True, False, -1, 0, 1, 3, 10**30, 0.5, -1.5, math.nan, math.inf, -math.inf),
    *(
        "",
        "12",
        "x",
        "relu",
        [],
        [1],
        [-1],
        ["x"],
        [None],
        [[1]],
        [[["global"], 10**15]],
        [math.nan],
    ),
    *(
        {},
        {"a": 1},
        {"rope_type": "linear"},
        {"rope_type": [1]},
        {"rope_type": "yarn", "factor": "x"},
    ),
    *({"rope_type": "llama3", "factor": math.nan}, {"full_attention": "x"}, {"alibi": 1}),
    *({"rope_theta": []}, {"type": "longrope", "short_factor": 1, "long_factor": {}}),
)


def first_of_each_family() -> set[str]:
    found: dict[str, str] = {}
    for name in CASES:
        found.setdefault(config_of(name)["model_type"], name)
    return set(found.values())


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("name", "file"),
    slow_unless(
        lambda name, file: (name, file) in (("gpt2", "config.json"), ("olmo3", "config.new.json")),
        itertools.product(sorted(first_of_each_family()), ("config.json", "config.new.json")),
    ),
)
def test_a_wrong_value_of_any_key_is_read_or_refused_by_a_key(name: str, file: str) -> None:
    config = config_of(name, file)
    for key in config:
        for value in WRONG:
            changed = {**config, key: value}
            message = refusal(partial(spec_of, changed, tensors_of=name), key)
            # Where two keys contradict each other, it may be the other one; and an older name.
            known = {*config, "rope_theta", "rope_scaling"}
            assert any(other in message for other in known), (key, value, message)


def refusal(read: Callable[[], object], otherwise: str = "") -> str:
    """Return the message of a refusal, or another text if there is none."""
    try:
        read()
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return otherwise


def test_a_wrong_value_of_any_setting_of_generation_is_read_or_refused(tmp_path: Path) -> None:
    def read_settings() -> None:
        settings = read_generation_settings(tmp_path, {})
        generation_fields(settings, 7, 31)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warn_of_unused_settings(settings, FILE, "generate", 7)

    for key in (*USED, *OPTIONS, *NO_OPTION):
        for value in WRONG:
            (tmp_path / FILE).write_text(json.dumps({"eos_token_id": 7, key: value}))
            assert key in refusal(read_settings, key), value


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["bert", "llama2", "m2m100", "marian", "pegasus", "roberta"])
def test_a_wrong_setting_of_a_tokenizer_is_read_or_refused(tmp_path: Path, name: str) -> None:
    folder = shutil.copytree(GOLDEN_TOKENIZERS / name, tmp_path / name)
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text()) if file.exists() else {}
    keys = {*config, "added_tokens_decoder", "additional_special_tokens", "extra_special_tokens"}
    for key in sorted({*keys, "chat_template", "eos_token", "src_lang", "tgt_lang", "extra_ids"}):
        for value in (None, True, -1, 3, 0.5, "", "x", [], [1], [None], {}, {"a": 1}, {"1": {}}):
            file.write_text(json.dumps({**config, key: value}))
            message = refusal(lambda: read_tokenizers(folder, "encoder_decoder"), str(folder))
            assert str(folder) in message, (key, value)


# Files ------------------------------------------------------------------------------------------


def entry(first: int, end: int, **others: Any) -> dict[str, Any]:
    return {"dtype": "F32", "shape": [(end - first) // 4], "data_offsets": [first, end], **others}


def safetensors(size: int, **entries: dict[str, Any]) -> Damage:
    """Return a function that writes a file with the entries of a header, and zeros."""
    content = header(json.dumps(entries).encode()) + bytes(size)
    return write(SINGLE, content)


def in_two_shards(folder: Path) -> None:
    """Store a tensor in the other shard too, with other values."""
    shard(folder)
    first, second = sorted(folder.glob("model-*.safetensors"))
    name = next(iter(load_file(first)))
    save_file({**load_file(second), name: np.ones(3, "float32")}, second)


def moved_in_the_index(folder: Path) -> None:
    shard(folder)
    index = json.loads((folder / INDEX).read_text())
    places = index["weight_map"]
    other = {
        "model.norm.weight": next(f for f in places.values() if f != places["model.norm.weight"])
    }
    (folder / INDEX).write_text(json.dumps({"weight_map": {**places, **other}}))


def without_an_index(folder: Path) -> None:
    shard(folder)
    (folder / INDEX).unlink()


def link(name: str, to: str) -> Damage:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        os.symlink(to, folder / name)

    return make


def a_file_in_place_of_the_folder(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.write_bytes(b"abc")


def a_link_to_itself(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.symlink_to(folder)


def as_in_the_cache(folder: Path) -> None:
    """Move the files where the package huggingface_hub puts them."""
    content = shutil.copytree(folder, folder.parent / "content")
    shutil.rmtree(folder)
    (folder / "snapshots").mkdir(parents=True)
    content.rename(folder / "snapshots" / "0a1b")


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def as_a_folder(name: str) -> Damage:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        (folder / name).mkdir()

    return make


def with_key(key: str, text: str) -> Damage:
    """Return a function that gives a key of the configuration a value, in words of JSON."""

    def make(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        config.pop(key, None)
        content = json.dumps(config).removesuffix("}") + f', "{key}": {text}}}'
        (folder / "config.json").write_text(content)

    return make


TWICE = b'{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": {}}'
FILES: list[tuple[Damage, str]] = [
    (safetensors(16, a=entry(0, 8), b=entry(4, 12)), "is damaged: b overlaps another tensor"),
    (safetensors(16, a=entry(0, 8), b=entry(12, 16)), "is damaged: b begins after unused bytes"),
    (safetensors(16, a=entry(0, 8), b=entry(0, 8)), "is damaged: b overlaps another tensor"),
    (safetensors(16, a=entry(4, 16)), "is damaged: a begins after unused bytes"),
    (safetensors(16, a=entry(0, 8)), "is damaged: there are 8 bytes after its last tensor"),
    (safetensors(16, a=entry(8, 0, shape=[-2])), "is damaged: .*a size that is no number of"),
    (safetensors(4, a=entry(0, 4, shape=[True])), "is damaged: .*a size that is no number of"),
    (safetensors(4, a=entry(0, 4, shape=[1.0])), "is damaged: .*a size that is no number of"),
    (safetensors(4, a=entry(0, 4, shape=["1"])), "is damaged: .*a size that is no number of"),
    (safetensors(4, a=entry(0, 4, shape=[1 << 62, 4])), "another size than that of its shape"),
    (safetensors(4, a=entry(0, 4, dtype="F4")), r"has the type 'F4'; known are F64, F32"),
    (safetensors(4, a=entry(0, 4, dtype=[])), r"is damaged: .*\(TypeError\)"),
    (safetensors(4, a=entry(0, 4, data_offsets=[0])), r"is damaged"),
    (write(SINGLE, header(TWICE)), "is damaged: .*it names a twice"),
    (write(SINGLE, header(b'{"\xe9": 1}')), r"is damaged: .*\(UnicodeDecodeError\)"),
    (write(SINGLE, header(b'{"a": ' * 9999)), "is damaged: its header is not"),
    (write(SINGLE, struct.pack("<Q", 1 << 63)), "is truncated"),
    (write(SINGLE, b""), "is truncated, or no safetensors"),
    (in_two_shards, "disagree: .* is in model-00001-of-00002.safetensors there, and stored in"),
    (moved_in_the_index, r"disagree: model.norm.weight is in .* there, and stored in model-0000"),
    (without_an_index, r"model-00001-of-00002.safetensors holds a part of the weights: download"),
    (lambda f: (shard(f), write(INDEX, b'{"weight_map": {}}')(f)), "weight_map names no tensor"),
    (lambda f: (shard(f), write(INDEX, b'{"weight_map": {"a": ".."}}')(f)), "damaged: its weight"),
    (lambda f: (shard(f), write(INDEX, b'{"weight_map": {"a": ""}}')(f)), "damaged: its weight"),
    (lambda f: (shard(f), write(INDEX, b"[1]")(f)), "is damaged: its weight_map"),
    (lambda f: (f / SINGLE).rename(f / "consolidated.safetensors"), "of another name than model"),
    (link(SINGLE, "../blobs/0"), r"is a link to ../blobs/0, where there is nothing"),
    (link(SINGLE, SINGLE), r"is a link to model.safetensors, where there is nothing"),
    (link("config.json", "config.json"), r"config.json is a link to config.json, where there is"),
    (as_a_folder(SINGLE), "model.safetensors is a folder; give the path of a file"),
    (as_a_folder("config.json"), "config.json is a folder; give the path of a file"),
    (a_file_in_place_of_the_folder, "is a file; give the folder that has it, or a GGUF file"),
    (a_link_to_itself, "is a link to .*llama, where there is nothing"),
    (as_in_the_cache, r"has no config.json; there is one in .*snapshots/0a1b: give that"),
    (empty, "has no config.json; give the folder of a model of Hugging Face"),
    (write("config.json", b"[" * 99_999), r"config.json is not JSON \(RecursionError\)"),
    (write("config.json", b""), r"config.json is not JSON \(JSONDecodeError\)"),
    (write("config.json", b'{"model_type": "lla\xe9"}'), r"is not JSON \(UnicodeDecodeError\)"),
    (write("config.json", b"null"), "config.json is damaged: it holds no JSON object"),
    (with_key("rms_norm_eps", "NaN"), "rms_norm_eps: norm_epsilon=nan: must be"),
    (with_key("rope_theta", "-Infinity"), "rope_theta, rope_scaling: rotary_base=-inf: must be"),
    (with_key("hidden_size", "1e999"), "hidden_size: hidden_dim=inf: must be"),
    (with_key("num_hidden_layers", "9" * 30), "num_hidden_layers: num_layers=9+: must be"),
    (with_key("num_hidden_layers", "9" * 9999), r"config.json is not JSON \(ValueError\)"),
    (with_key("rope_scaling", '"linear"'), "rope_scaling='linear': cannot be read; it must be"),
]


@pytest.mark.parametrize(("damage", "message"), FILES)
def test_a_damaged_folder_is_one_line_of_the_command(
    copy: Callable[..., Path], damage: Damage, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy()
    damage(folder)
    to = folder.parent / "to"
    assert main(["import", str(folder), "--to", str(to)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert str(folder) in line
    assert "--debug" not in line  # as faults of the program have it
    with pytest.raises((ValueError, OSError), match=message):
        fm.from_hugging_face(folder)
    assert not to.exists()


def as_bytes(name: str, like: str = "") -> Callable[[Tensors], object]:
    """Return a function that stores a tensor as bytes, with the shape that it or another has."""
    return lambda tensors: tensors.update({name: np.ones(tensors[like or name].shape, "int8")})


SINUSOIDS = "model.encoder.embed_positions.weight"
QUANTIZED = [
    ("gpt2", as_bytes("lm_head.weight", "transformer.wte.weight"), "lm_head.weight"),
    ("llama", as_bytes("model.norm.weight"), "norm.weight"),
    ("bart", as_bytes("final_logits_bias"), "final_logits_bias"),
    ("bert_base", as_bytes("pooler.dense.weight"), "pooler.dense.weight"),
    ("marian", as_bytes(SINUSOIDS, "model.shared.weight"), "embed_positions.weight"),
]


@pytest.mark.parametrize(("name", "change", "tensor"), QUANTIZED)
def test_quantized_tensors_are_refused_wherever_they_are_compared(
    copy: Callable[..., Path], name: str, change: Callable[[Tensors], object], tensor: str
) -> None:
    with pytest.raises(ValueError, match=rf"the tensor \S*{tensor} has the type I8; quantized"):
        fm.from_hugging_face(copy(name, change))


TOKENIZERS = [
    (lambda folder: None, "it has none of tokenizer.json, vocab.txt"),
    (write("tokenizer.json", b"{"), "tokenizer.json is not JSON"),
    (write("tokenizer.json", b"[]"), "tokenizer.json is damaged"),
    (write("tokenizer.json", b'{"model": {"type": "BPE"}}'), "is damaged"),
    (write("tokenizer.json", b'{"model": {"type": "\xff"}}'), "is not JSON"),
    (write("tokenizer_config.json", b"[]"), "tokenizer_config.json is damaged"),
    (write("vocab.txt", b"\xff\n"), "vocab.txt is "),
    (lambda folder: (folder / "tokenizer.json").mkdir(), "tokenizer.json is a folder"),
    (lambda folder: (folder / "tokenizer.json").symlink_to("x"), "is a link to x, where"),
]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("damage", "message"), TOKENIZERS)
def test_without_a_tokenizer_there_is_still_a_model(
    copy: Callable[..., Path], damage: Damage, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = copy()
    damage(folder)
    with pytest.warns(UserWarning, match=rf"the model is read without a tokenizer: .*{message}"):
        assert main(["import", str(folder), "--to", str(folder.parent / "to")]) == 0
    assert fm.load(folder.parent / "to").tokenizers == {}


def test_a_folder_may_consist_of_links(copy: Callable[..., Path]) -> None:
    """Those of the cache of the package huggingface_hub do."""
    folder = copy()
    links = folder.parent / "links"
    links.mkdir()
    for path in folder.iterdir():
        (links / path.name).symlink_to(path)
    assert read(links).spec == read(folder).spec
