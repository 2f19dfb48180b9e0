"""Tokenizers are written as files of Hugging Face that give the same ids."""

import json
import shutil

import pytest
from test_hugging_face_tokenizers import FOLDERS, GOLDEN, TEXTS, read, roles

from functional_models.hugging_face.tokenizers import read_tokenizer, read_tokenizers
from functional_models.hugging_face.tokenizers_saving import write_tokenizers
from functional_models.tokenizer_training import train_tokenizer

PROSE = ["The quick brown fox jumps over the lazy dog; it isn't 1,234.56 km away.\n\n  é 日本"] * 3
NO_CONTROL = str.maketrans("", "", "\x00\x02\x03")


@pytest.mark.parametrize("name", FOLDERS)
def test_a_tokenizer_is_written_as_it_was_read(tmp_path, name):
    write_tokenizers(roles(name), tmp_path)
    if (GOLDEN / name / "config.json").exists():
        shutil.copy(GOLDEN / name / "config.json", tmp_path)
    for role, again in read_tokenizers(tmp_path, "encoder_decoder").items():
        tokenizer = roles(name)[role]
        pairs = zip(tokenizer.encode_sources(TEXTS), again.encode_sources(TEXTS), strict=True)
        assert all(before.tolist() == after.tolist() for before, after in pairs)
        for field in ("templates", "special_tokens", "pad_id", "decoder_start"):
            assert getattr(again, field, None) == getattr(tokenizer, field, None)


@pytest.mark.parametrize("kind", ["byte", "byte_pair"])
def test_trained_tokenizers_are_written(tmp_path, kind):
    tokenizer = train_tokenizer(kind, PROSE, None if kind == "byte" else 300)
    write_tokenizers({"tokenizer": tokenizer}, tmp_path)
    ids = {"pad_token_id": 0, "bos_token_id": tokenizer.start_id, "eos_token_id": tokenizer.end_id}
    (tmp_path / "config.json").write_text(json.dumps(ids))
    again = read_tokenizer(tmp_path)
    texts = [*(text.translate(NO_CONTROL) for text in TEXTS), "[END] of [PAD]"]
    for text, before, after in zip(
        texts, tokenizer.encode(texts), again.encode_prompts(texts), strict=True
    ):
        assert (text, before.tolist()) == (text, after.tolist())
    assert again.decode(again.encode(texts)) == texts
    assert (again.pad_id, again.start_id, again.end_id) == (0, tokenizer.start_id, tokenizer.end_id)


def test_what_has_no_equal_file_is_refused(tmp_path):
    lower = train_tokenizer("byte", [], lowercase=True)
    with pytest.raises(ValueError, match="a lowercasing byte tokenizer is not written"):
        write_tokenizers({"tokenizer": lower}, tmp_path)
    pieces = train_tokenizer("sentence_piece", PROSE, 400)
    with pytest.raises(ValueError, match="a sentence_piece tokenizer is not written"):
        write_tokenizers({"tokenizer": pieces}, tmp_path)
    two = {"source_tokenizer": read("t5"), "target_tokenizer": read("gpt2")}
    with pytest.raises(ValueError, match="of sources and another of targets are not written"):
        write_tokenizers(two, tmp_path)
    assert not list(tmp_path.iterdir())
