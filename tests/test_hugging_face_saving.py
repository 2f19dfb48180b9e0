"""Tokenizers are written as files of Hugging Face that give the same ids."""

import shutil

import pytest
from small_text_models import SIZES
from test_hugging_face_tokenizers import FOLDERS, GOLDEN, TEXTS, roles

import builders
from functional_models.hugging_face.tokenizers import read_tokenizers
from functional_models.hugging_face.tokenizers_export import tokenizer_files


@pytest.mark.parametrize("name", FOLDERS)
def test_a_tokenizer_is_written_as_it_was_read(tmp_path, name):
    for file, content in tokenizer_files(roles(name), builders.TransformerSpec(**SIZES)).items():
        (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    if (GOLDEN / name / "config.json").exists():
        shutil.copy(GOLDEN / name / "config.json", tmp_path)
    for role, again in read_tokenizers(tmp_path, "encoder_decoder").items():
        tokenizer = roles(name)[role]
        pairs = zip(tokenizer.encode_sources(TEXTS), again.encode_sources(TEXTS), strict=True)
        assert all(before.tolist() == after.tolist() for before, after in pairs)
        for field in ("templates", "special_tokens", "pad_id", "decoder_start"):
            assert getattr(again, field, None) == getattr(tokenizer, field, None)
