"""Files of tokenizers: saved and loaded ones are equal, and damage is noticed."""

import dataclasses
import hashlib
import json

import keras_hub
import numpy as np
import pytest
from trained_tokenizers import TEXTS

from functional_models.keras_hub_tokenizer import KerasHubTokenizer
from functional_models.tokenizer_files import TOKENIZER_KINDS, first_difference
from functional_models.tokenizer_training import train_tokenizer
from functional_models.tokenizers import as_tokenizer, load_tokenizer


@pytest.mark.sampled(2)
def test_a_loaded_tokenizer_equals_the_saved_one(tmp_path, tokenizer):
    tokenizer.save(tmp_path / "tokenizer")
    loaded = load_tokenizer(str(tmp_path / "tokenizer"))
    for field in ("kind", "vocabulary_size", "pad_id", "start_id", "end_id", "lowercase"):
        assert getattr(loaded, field) == getattr(tokenizer, field)
    for a, b in zip(loaded.encode(TEXTS), tokenizer.encode(TEXTS), strict=True):
        np.testing.assert_array_equal(a, b)
    assert loaded.decode(loaded.encode(TEXTS)) == tokenizer.decode(tokenizer.encode(TEXTS))


def test_saving_replaces_another_tokenizer_only_with_permission(tmp_path, tokenizers):
    (tmp_path / "model.json").write_text("{}")
    tokenizers["byte"].save(tmp_path)
    tokenizers["byte"].save(tmp_path)  # the same
    before = (tmp_path / "tokenizer.json").read_bytes()
    for other in (tokenizers["byte_pair"], dataclasses.replace(tokenizers["byte"], lowercase=True)):
        with pytest.raises(FileExistsError, match=r"byte of 256 tokens.*overwrite=True"):
            other.save(tmp_path)
        assert (tmp_path / "tokenizer.json").read_bytes() == before
    tokenizers["byte_pair"].save(tmp_path, overwrite=True)
    assert (tmp_path / "model.json").read_text() == "{}"
    assert load_tokenizer(tmp_path).kind == "byte_pair"


@pytest.mark.parametrize("content", ["mine", '{"version": "1.0", "model": {}}', "[]"])
def test_saving_does_not_overwrite_files_of_other_origin(tmp_path, tokenizers, content):
    path = tmp_path / "tokenizer.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"json was not written by Tokenizer\.save"):
        tokenizers["byte_pair"].save(tmp_path)
    assert [found.name for found in tmp_path.iterdir()] == ["tokenizer.json"]
    assert path.read_text() == content


def test_an_interrupted_save_leaves_the_previous_tokenizer(tmp_path, tokenizers, monkeypatch):
    tokenizers["word_piece"].save(tmp_path)

    def interrupt(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("os.replace", interrupt)
        with pytest.raises(KeyboardInterrupt):
            tokenizers["byte_pair"].save(tmp_path, overwrite=True)
    assert load_tokenizer(tmp_path).kind == "word_piece"
    assert [found.name for found in tmp_path.iterdir()] == ["tokenizer.json"]


# All white space and line ends of Unicode, a soft hyphen and signs of no width.
WHITE_SPACE = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\u180e\u200b\u200d\xad\ufeff"


@pytest.mark.parametrize("kind", TOKENIZER_KINDS[1:])
def test_tokenizers_of_text_with_unusual_white_space_are_restored(tmp_path, kind):
    text = " ".join(f"x{space}y{space * 2}z" for space in WHITE_SPACE)
    tokenizer = train_tokenizer(kind, ["alpha beta gamma. " * 30, text * 3], 450)
    tokenizer.save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    vocabulary = list(tokenizer.keras_tokenizer.get_vocabulary())
    assert list(loaded.keras_tokenizer.get_vocabulary()) == vocabulary
    assert loaded.encode([text])[0].tolist() == tokenizer.encode([text])[0].tolist()
    if kind == "word_piece":
        assert {"##\xa0", "##\u2028", "##\u2029", "##\u3000"} <= {*vocabulary}
    else:
        assert loaded.decode(loaded.encode([text])) == [text]


def test_vocabularies_of_others_are_restored(tmp_path):
    vocabulary = ["[UNK]", "[PAD]", "[START]", "[END]", "字", "##典", "a ", "a", "b\n", "b\r", ""]
    keras_tokenizer = keras_hub.tokenizers.WordPieceTokenizer(vocabulary, split_on_cjk=False)
    as_tokenizer(keras_tokenizer).save(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.keras_tokenizer.get_vocabulary() == vocabulary
    assert loaded.encode(["字典 a"])[0].tolist() == [4, 5, 7]


class ForgetfulTokenizer(keras_hub.tokenizers.WordPieceTokenizer):
    """A KerasHub tokenizer with a setting that its configuration lacks."""

    def get_config(self):
        return {k: v for k, v in super().get_config().items() if k != "strip_accents"}


def test_a_tokenizer_that_is_read_back_differently_is_not_saved(tmp_path, tokenizers, monkeypatch):
    monkeypatch.setattr(
        "keras_hub.tokenizers.ForgetfulTokenizer", ForgetfulTokenizer, raising=False
    )
    vocabulary = ["[UNK]", "[PAD]", "[START]", "[END]", "e"]
    tokenizer = as_tokenizer(ForgetfulTokenizer(vocabulary, strip_accents=True))
    tokenizers["byte"].save(tmp_path)
    with pytest.raises(ValueError, match="differs: strip_accents is True, read back as False"):
        tokenizer.save(tmp_path)
    assert load_tokenizer(tmp_path).kind == "byte"
    as_tokenizer(ForgetfulTokenizer(vocabulary)).save(tmp_path, overwrite=True)


def test_the_first_difference_of_tokenizers_is_named():
    def made(*tokens):
        vocabulary = ["[UNK]", "[PAD]", "[START]", "[END]", *tokens]
        return as_tokenizer(keras_hub.tokenizers.WordPieceTokenizer(vocabulary))

    assert first_difference(made("a", "b"), made("a", "b")) is None
    assert first_difference(made("a", "##\xa0"), made("a", "##")) == (
        r"vocabulary: entry 5 is '##\xa0', read back as '##'"
    )
    assert first_difference(made("a"), made("a", "b")) == "vocabulary_size is 5, read back as 6"
    lower = dataclasses.replace(made("a"), lowercase=True)
    assert first_difference(lower, made("a")) == "lowercase is True, read back as False"


def test_training_checks_that_the_tokenizer_can_be_saved(monkeypatch):
    other = train_tokenizer("byte_pair", TEXTS, 301)
    monkeypatch.setattr(KerasHubTokenizer, "from_manifest", lambda _: other)
    with pytest.raises(ValueError, match="this BytePairTokenizer cannot be saved"):
        train_tokenizer("byte_pair", TEXTS, 300)


@pytest.mark.parametrize(
    ("kind", "setting", "wrong"),
    [
        ("byte_pair", "sequence_length", 7),
        ("byte_pair", "sequence_length", "x"),
        ("byte_pair", "add_prefix_space", "no"),
        ("byte", "replacement_char", "x"),
        ("byte", "replacement_char", -1),
        ("byte", "errors", 3),
        ("word_piece", "split", False),
        ("word_piece", "split", "yes"),
        ("word_piece", "suffix_indicator", None),
        ("sentence_piece", "add_bos", True),
        ("sentence_piece", "add_eos", "x"),
    ],
)
def test_a_setting_that_no_text_could_be_encoded_with_raises(
    tmp_path, tokenizers, kind, setting, wrong
):
    tokenizers[kind].save(tmp_path)
    load_tokenizer(tmp_path)

    def change(manifest):
        assert setting in manifest["config"]
        manifest["config"][setting] = wrong

    damage(tmp_path, change)
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("folder", ["nowhere", "."])
def test_a_folder_without_a_tokenizer_raises(tmp_path, folder):
    with pytest.raises(FileNotFoundError, match=r"there is no tokenizer in .*tokenizer\.json"):
        load_tokenizer(tmp_path / folder)


def damage(folder, change):
    """Change a manifest, and its checksum with it."""
    manifest = json.loads((folder / "tokenizer.json").read_text())
    del manifest["sha256"]
    change(manifest)
    manifest["sha256"] = hashlib.sha256(json.dumps(manifest).encode()).hexdigest()
    (folder / "tokenizer.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.pop("vocabulary"),
        lambda m: m.update(vocabulary={}),
        lambda m: m["vocabulary"].update(vocabulary={"a": 0}),
        lambda m: m["vocabulary"].update(merges=["no pair of tokens"]),
        lambda m: m["config"].update(unsplittable_tokens=3),
        lambda m: m.update(kind="byte"),
        lambda m: m.update(end_id="3"),
        lambda m: m.update({"class": "os.system"}),
    ],
)
def test_a_damaged_tokenizer_raises_in_one_line(tmp_path, tokenizers, change):
    tokenizers["byte_pair"].save(tmp_path)
    damage(tmp_path, change)
    with pytest.raises(ValueError, match=r"tokenizer\.json is damaged: no tokenizer") as caught:
        load_tokenizer(tmp_path)
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_a_changed_tokenizer_raises(tmp_path, tokenizers):
    tokenizers["byte_pair"].save(tmp_path)
    path = tmp_path / "tokenizer.json"
    path.write_text(path.read_text().replace('"lowercase": false', '"lowercase": true'))
    with pytest.raises(ValueError, match=r"does not have the checksum that it names"):
        load_tokenizer(tmp_path)


def test_a_newer_format_raises(tmp_path, tokenizers):
    tokenizers["byte"].save(tmp_path)
    manifest = json.loads((tmp_path / "tokenizer.json").read_text())
    manifest["format"] = 99
    (tmp_path / "tokenizer.json").write_text(json.dumps(manifest))
    with pytest.raises(ValueError, match="format 99, this version reads format 2"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"format": 1}', '{"format": 1, "ass'])
def test_a_damaged_manifest_raises(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match="damaged"):
        load_tokenizer(tmp_path)
