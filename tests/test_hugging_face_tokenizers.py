"""Tokenizers of Hugging Face folders give the ids and texts of transformers."""

import gzip
import hashlib
import itertools
import json
import random
import shutil
from functools import cache
from pathlib import Path

import pytest

from functional_models.graph_tokenizers import GraphDecoder, graph_encoder
from functional_models.hugging_face.chat import chat_text
from functional_models.hugging_face.tokenizers import read_tokenizer, read_tokenizers
from functional_models.hugging_face.tokenizers_cuts import Cuts
from functional_models.tokenizers import load_tokenizer

GOLDEN = Path(__file__).parent / "golden_tokenizers"
EXPECTED = json.loads(gzip.decompress((GOLDEN / "expected.json.gz").read_bytes()))
TEXTS, FOLDERS = EXPECTED["texts"], EXPECTED["folders"]


@cache
def roles(name):
    return read_tokenizers(GOLDEN / name, "encoder_decoder")


def read(name):
    return roles(name)["source_tokenizer"]


def first_unequal(found, expected):
    pairs = zip(TEXTS, found, expected, strict=True)
    return next(((t, list(a), b) for t, a, b in pairs if list(a) != b), None)


@pytest.mark.parametrize("name", FOLDERS)
def test_ids_are_those_of_transformers(name):
    tokenizer, expected = read(name), FOLDERS[name]
    assert first_unequal(tokenizer.encode(TEXTS), expected["plain"]) is None
    assert first_unequal(tokenizer.encode_sources(TEXTS), expected["ids"]) is None
    if "targets" in expected:
        targets = roles(name)["target_tokenizer"].encode(TEXTS, end=True)
        tail = slice(1 if name == "m2m100" else 0, None)  # the language
        expected_targets = [ids[tail] for ids in expected["targets"]]
        assert first_unequal(targets, expected_targets) is None
    else:
        assert first_unequal(tokenizer.encode_prompts(TEXTS), expected["ids"]) is None
    assert tokenizer.vocabulary_size == expected["vocabulary_size"]


@pytest.mark.parametrize("name", FOLDERS)
def test_texts_are_those_of_transformers(name):
    tokenizer, expected = roles(name)["target_tokenizer"], FOLDERS[name]
    kept = [i for i, text in enumerate(expected["decoded"]) if text is not None]
    assert len(kept) > len(TEXTS) / 2
    ids = expected["targets" if "targets" in expected else "plain"]
    found = tokenizer.decode([ids[i] for i in kept])
    pairs = zip(kept, found, strict=True)
    assert [(TEXTS[i], t) for i, t in pairs if t != expected["decoded"][i]] == []


@pytest.mark.parametrize("name", [name for name, found in FOLDERS.items() if "chats" in found])
def test_chats_are_those_of_transformers(name):
    pairs = itertools.product(EXPECTED["conversations"], EXPECTED["chat_options"])
    for (messages, options), expected in zip(pairs, FOLDERS[name]["chats"], strict=True):
        assert read(name).format_chat(messages, **options) == expected


def test_special_ids_are_those_of_the_folder():
    llama = read("llama3")
    ends = json.loads((GOLDEN / "llama3/generation_config.json").read_text())["eos_token_id"]
    assert llama.end_ids == tuple(ends)
    assert llama.target_start == llama.input_start == [llama.start_id]
    assert read("qwen").end_ids == (422, 420)
    assert read("qwen").pad_id == 420
    assert read("gpt2").target_start == [0]
    t5 = read("t5")
    assert (t5.pad_id, t5.end_id, t5.target_start, t5.source_end) == (0, 1, [0], [1])
    bert = read("bert")
    assert bert.decode([bert.encode(["a dog"], start=True, end=True)[0]]) == ["a dog"]
    assert (
        bert.encode(["a"], start=True, end=True)[0].tolist()
        == bert.encode_prompts(["a"])[0].tolist()
    )


@pytest.mark.parametrize("name", ["qwen", "llama2", "bert_cased", "marian"])
def test_a_saved_tokenizer_is_restored(tmp_path, name):
    tokenizer = read(name)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    for before, after in zip(
        tokenizer.encode_prompts(TEXTS), loaded.encode_prompts(TEXTS), strict=True
    ):
        assert before.tolist() == after.tolist()
    assert loaded.file_content == tokenizer.file_content
    assert loaded.end_ids == tokenizer.end_ids
    if name == "qwen":
        chats = [t.format_chat([{"role": "user", "content": "é"}]) for t in (tokenizer, loaded)]
        assert chats[0] == chats[1]


def test_a_damaged_file_is_not_loaded(tmp_path):
    read("t5").save(tmp_path)
    path = tmp_path / "tokenizer.json"
    manifest = json.loads(path.read_text())
    manifest["ends"] = [10**6]
    del manifest["sha256"]
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    path.write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: no tokenizer"):
        load_tokenizer(tmp_path)


def test_texts_of_a_stream_have_their_ids(monkeypatch):
    monkeypatch.setattr("functional_models.hugging_face.tokenizers._BATCH", 11)
    for name in ("llama2", "roberta"):
        tokenizer = read(name)
        rows = [[*ids, tokenizer.end_id] for ids in FOLDERS[name]["plain"]]
        together = tokenizer.encode_together(TEXTS, end=True)
        assert together.tolist() == [i for row in rows for i in row]
        pairs = tokenizer.encode_pairs(list(zip(TEXTS[1:4], TEXTS[4:7], strict=True)), tokenizer)
        assert pairs[0][0].tolist() == FOLDERS[name]["ids"][1]


def changed(name, folder, file, content):
    shutil.copytree(GOLDEN / name, folder, dirs_exist_ok=True)
    (folder / file).write_bytes(content)
    return folder


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("gpt2", "tokenizer.json", b"{", "tokenizer.json is not JSON"),
        ("gpt2", "tokenizer.json", b"[]", "tokenizer.json is damaged: it has no tokenizer"),
        ("gpt2", "tokenizer.json", b'{"model": {"type": "x"}}', "is damaged: "),
        (
            "gpt2",
            "tokenizer_config.json",
            b"[]",
            "tokenizer_config.json is damaged: it has no JSON",
        ),
        ("gpt2", "special_tokens_map.json", b"{]", "special_tokens_map.json is not JSON"),
        (
            "gpt2_older",
            "merges.txt",
            b"#version: 0.2\na b c\n",
            "merges.txt is damaged: a line has 3",
        ),
        ("gpt2_older", "vocab.json", b"\xff", "vocab.json is not JSON"),
        ("gpt2_older", "vocab.json", b'{"a": 0}', "is damaged: "),
        ("bert", "vocab.txt", b"a\nb\n", r"'\[CLS\]' is not in the vocabulary"),
        ("bert", "vocab.txt", b"\xff\n", "vocab.txt is damaged"),
        ("t5", "spiece.model", b"no model", "spiece.model is damaged: it is no model of SentenceP"),
        ("t5", "spiece.model", b"", "spiece.model is damaged: its model has no pieces"),
        ("t5", "tokenizer_config.json", b"{}", r"of a class that has no conversion \(none named"),
        (
            "bert",
            "config.json",
            b'{"tokenizer_class": "BertJapaneseTokenizer"}',
            r"\(BertJapanese; known are Bert, ",
        ),
        ("roberta", "config.json", b'{"model_type": "clip"}', "vocab.json is of a class"),
    ],
)
def test_a_bad_folder_raises_in_one_line(tmp_path, name, file, content, message):
    with pytest.raises(ValueError, match=message) as caught:
        read_tokenizer(changed(name, tmp_path, file, content))
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_without_a_tokenizer_names_the_files(tmp_path):
    with pytest.raises(
        FileNotFoundError, match=r"none of tokenizer\.json, vocab\.txt, vocab\.json"
    ):
        read_tokenizer(tmp_path)
    with pytest.raises(FileNotFoundError, match="the folder is missing"):
        read_tokenizer(tmp_path / "nowhere")
    read("t5").save(tmp_path)
    with pytest.raises(ValueError, match="load it with load_tokenizer"):
        read_tokenizer(tmp_path)


def test_templates_are_chosen_by_name_and_refuse_messages():
    qwen, user = read("qwen"), [{"role": "user", "content": "x"}]
    assert qwen.format_chat(user, template="tool_use", tools=[]).startswith("[]")
    with pytest.raises(ValueError, match=r"no chat template 'other'; choose .* default, tool_use"):
        qwen.format_chat(user, template="other")
    with pytest.raises(
        ValueError, match="cannot be applied to these messages: the role judge is n"
    ):
        read("llama3").format_chat([{"role": "judge", "content": "x"}])
    with pytest.raises(ValueError, match="has no chat template"):
        read("gpt2").format_chat(user)
    with pytest.raises(ValueError, match="there are no messages"):
        qwen.format_chat([])
    with pytest.raises(TypeError, match="must be a list"):
        qwen.format_chat("hi")
    with pytest.raises(TypeError, match="values of JSON"):
        qwen.format_chat([{"role": "user", "content": object()}])


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append({}) }}",
        "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
        "{% include '/etc/passwd' %}",
    ],
)
def test_templates_run_in_a_sandbox(template):
    with pytest.raises(ValueError, match="the chat template cannot be applied"):
        chat_text({"default": template}, [{"role": "user", "content": "x"}], {})


def test_export_refuses_them():
    with pytest.raises(ValueError, match="a hugging_face tokenizer has no TensorFlow graph"):
        graph_encoder(read("gpt2"))
    with pytest.raises(ValueError, match="a hugging_face tokenizer has no TensorFlow graph"):
        GraphDecoder(read("gpt2"))


WORDS = [
    "word",
    "Größe",
    "naïve",
    "日本",
    "1,234",
    "x  y",
    "it's",
    "\n\n  tab\t",
    "a<mask>b",
    " .",
    "é",
]


@pytest.mark.parametrize("name", [name for name in FOLDERS if name not in ("marian", "m2m100")])
def test_chunks_of_a_long_text_have_its_tokens(name, monkeypatch):
    draw = random.Random(5)
    text = " ".join(draw.choices([*WORDS, *TEXTS], k=4000))
    tokenizer = read(name)
    whole = tokenizer.backend.encode(text, add_special_tokens=False).ids
    monkeypatch.setattr("functional_models.hugging_face.tokenizers_cuts.CHUNK", 61)
    pieces = [text[i : i + 997] for i in range(0, len(text), 997)]
    chunks = list(tokenizer._cuts.chunks(pieces))
    assert len(chunks) > 100
    assert tokenizer.encode([text])[0].tolist() == whole


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({}, True),
        ({"normalizer": {"type": "Nmt"}}, False),
        ({"pre_tokenizer": None}, True),
        ({"pre_tokenizer": {"type": "Whitespace"}}, False),
        ({"added_tokens": [{"content": "a b", "lstrip": False, "rstrip": False}]}, False),
        ({"added_tokens": [{"content": "▁", "lstrip": False, "rstrip": False}]}, False),
        ({"added_tokens": [{"content": "▁▁", "lstrip": False, "rstrip": False}]}, True),
        ({"added_tokens": [{"content": "<a b>", "lstrip": True, "rstrip": False}]}, False),
        ({"added_tokens": [{"content": "<ab>", "lstrip": True, "rstrip": True}]}, True),
        ({"added_tokens": [{"content": "end", "lstrip": False, "rstrip": True}]}, False),
        ({"model": {"type": "BPE", "merges": [["a", "▁b"]]}, "pre_tokenizer": None}, False),
        ({"model": {"type": "BPE", "merges": [["▁", "▁b"]]}, "pre_tokenizer": None}, True),
        ({"model": {"type": "Unigram", "vocab": []}, "pre_tokenizer": None}, False),
        ({"model": {"type": "BPE", "merges": [], "dropout": 0.1}}, False),
    ],
)
def test_texts_are_cut_only_if_it_is_proven(change, allowed):
    content = {
        "model": {"type": "BPE", "merges": [["a", "b"]]},
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True},
        **change,
    }
    assert Cuts(content).allowed == allowed
    assert not Cuts(content, lambda letter: f"{letter} ").allowed
