"""Folders of models: what is loaded is what was saved, and one that is not whole is refused."""

import dataclasses
import json
import os

import numpy as np
import pytest
from small_text_models import KINDS, PAIRS, TEXT, text_model, trained_translator

import functional_models as fm


def logits(model):
    tokens = np.array([[5, 7, 11, 13]])
    if model.kind == "encoder_decoder":
        tokens = {"source": tokens, "target": tokens + 1}
    return np.asarray(model.model(tokens, training=False))


@pytest.fixture(scope="module")
def translator():
    return trained_translator()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_loaded_has_the_same_spec_logits_and_tokenizers(fresh, kind, tmp_path):
    model = fresh[kind]
    model.save(tmp_path / "new" / "folder")
    for loaded in (fm.load(tmp_path / "new" / "folder"), type(model).load(tmp_path / "new/folder")):
        assert type(loaded) is type(model)
        assert loaded.spec == model.spec
        np.testing.assert_array_equal(logits(loaded), logits(model))
        text = ["olá, mundo"]
        for role, tokenizer in model.tokenizers.items():
            again = loaded.tokenizers[role]
            np.testing.assert_array_equal(again.encode(text)[0], tokenizer.encode(text)[0])


@pytest.mark.slow
def test_what_is_loaded_says_the_same(translator, tmp_path):
    translator.save(tmp_path)
    sources = [source for source, _ in PAIRS[:8]]
    assert fm.load(tmp_path).translate(sources) == translator.translate(sources)


@pytest.fixture
def folder(tmp_path, fresh):
    fresh["decoder_only"].save(tmp_path / "model")
    return tmp_path / "model"


def edit(folder, **changes):
    manifest = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({**manifest, **changes}))


def spec_with(folder, **changes):
    return {**json.loads((folder / "model.json").read_text())["spec"], **changes}


def damage_weights(folder):
    (path,) = folder.glob("weights-*")
    path.write_bytes(path.read_bytes()[:100])


def remove(folder, pattern):
    for path in folder.glob(pattern):
        path.unlink()


def newer_tokenizer(folder):
    (path,) = folder.glob("tokenizer-*/tokenizer.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 2}))


@pytest.mark.parametrize(
    ("harm", "error", "message"),
    [
        (lambda f: remove(f, "model.json"), FileNotFoundError, "never finished: it has no model"),
        (lambda f: remove(f, "weights-*"), FileNotFoundError, "half-written: weights-.* missing"),
        (lambda f: remove(f, "tokenizer-*/*"), FileNotFoundError, "there is no tokenizer in"),
        (lambda f: (f / "model.json").write_text('{"format": 1'), ValueError, "json is damaged"),
        (lambda f: (f / "model.json").write_text("[1]"), ValueError, "json is damaged"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), ValueError, "json is damaged"),
        (lambda f: edit(f, format=2), ValueError, "has format 2, .* reads format 1; upgrade"),
        (lambda f: edit(f, weights=None), ValueError, "no proper weights"),
        (lambda f: edit(f, tokenizers=["tokenizer"]), ValueError, "no proper tokenizers"),
        (lambda f: edit(f, spec=spec_with(f, format=2)), ValueError, "spec has format 2"),
        (lambda f: edit(f, spec=spec_with(f, width=3)), ValueError, "unknown spec field 'width'"),
        (damage_weights, ValueError, r"weights-\w+\.keras cannot be read"),
        (lambda f: edit(f, spec=spec_with(f, hidden_dim=26)), ValueError, "cannot be read"),
        (newer_tokenizer, ValueError, "format 2 and this version reads format 1"),
    ],
)
def test_a_folder_that_is_not_whole_is_refused_with_what_is_wrong(folder, harm, error, message):
    harm(folder)
    with pytest.raises(error, match=message) as caught:
        fm.load(folder)
    assert str(folder) in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model folder .*nowhere"):
        fm.load(tmp_path / "nowhere")


def test_a_folder_of_the_other_kind_is_refused_with_what_takes_it(folder):
    with pytest.raises(ValueError, match=r"Translator needs .*; use functional_models\.load"):
        fm.Translator.load(folder)


def test_a_file_where_the_folder_should_be_is_named(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file; give the path of a folder"):
            fresh["decoder_only"].save(path)
        with pytest.raises(ValueError, match="is a file; give the path of a folder"):
            fresh["decoder_only"].fit(TEXT, steps=1, folder=path, progress=False)


def test_a_crash_at_any_moment_of_saving_leaves_a_folder_that_loads(folder, monkeypatch):
    old = fm.load(folder)
    new = text_model("decoder_only", seed=5)
    lowercase = dataclasses.replace(new.tokenizer, lowercase=True)
    new = fm.CausalLM(new.spec, lowercase)
    replace = os.replace
    for survived in range(20):
        calls = []

        def crash(source, target, survived=survived, calls=calls):
            calls.append(target)
            if len(calls) > survived:
                raise KeyboardInterrupt
            replace(source, target)

        with monkeypatch.context() as patched:
            patched.setattr(os, "replace", crash)
            try:
                new.save(folder)
            except KeyboardInterrupt:
                pass
            else:
                break
        found = fm.load(folder)
        np.testing.assert_array_equal(logits(found), logits(old))
        assert not found.tokenizer.lowercase
    assert survived >= 4  # weights, tokenizer, its own files, manifest
    found = fm.load(folder)
    np.testing.assert_array_equal(logits(found), logits(new))
    assert found.tokenizer.lowercase
    assert len(list(folder.iterdir())) == 3  # nothing of the old one, and nothing half-written
