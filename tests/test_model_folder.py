"""Model folders: loading restores what was saved, and damaged folders raise errors."""

import dataclasses
import errno
import json
import os
import shutil

import keras
import numpy as np
import pytest
from kills import copied_before_every_change
from small_text_models import (
    KINDS,
    PAIRS,
    TEXT,
    byte_tokenizer,
    text_model,
    trained_translator,
)

import functional_models as fm
from functional_models import model_folder
from functional_models.folders import only_writer
from functional_models.model_folder import model_writer, read_spec


class Never(keras.callbacks.Callback):
    """Fails if training starts."""

    def on_train_begin(self, logs=None):
        raise AssertionError


def logits(model):
    tokens = np.array([[5, 7, 11, 13]])
    if model.kind == "encoder_decoder":
        tokens = {"source": tokens, "target": tokens + 1}
    return np.asarray(model.model(tokens, training=False))


@pytest.fixture(scope="module")
def translator():
    return trained_translator()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_loading_restores_spec_logits_and_tokenizers(fresh, kind, tmp_path):
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
def test_a_loaded_model_translates_the_same(translator, tmp_path):
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
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": 3}))


@pytest.mark.parametrize(
    ("damage", "error", "message"),
    [
        (
            lambda f: remove(f, "model.json"),
            FileNotFoundError,
            "not a complete model folder: it has no model",
        ),
        (lambda f: remove(f, "weights-*"), FileNotFoundError, "incomplete: weights-.* missing"),
        (lambda f: remove(f, "tokenizer-*/*"), FileNotFoundError, "there is no tokenizer in"),
        (lambda f: (f / "model.json").write_text('{"format": 1'), ValueError, "json is damaged"),
        (lambda f: (f / "model.json").write_text("[1]"), ValueError, "json is damaged"),
        (lambda f: (remove(f, "model.json"), (f / "model.json").mkdir()), ValueError, "is damaged"),
        (lambda f: (f / "model.json").write_bytes(b"\xff\xfe"), ValueError, "json is damaged"),
        (lambda f: edit(f, format=2), ValueError, "has format 2, .* reads format 1; upgrade"),
        (lambda f: edit(f, weights=None), ValueError, "no valid weights"),
        (lambda f: edit(f, tokenizers=["tokenizer"]), ValueError, "no valid tokenizers"),
        (lambda f: edit(f, tokenizers={"tokenizer": [3]}), ValueError, "no valid tokenizers"),
        (lambda f: edit(f, spec=spec_with(f, format=2)), ValueError, "spec has format 2"),
        (lambda f: edit(f, spec=spec_with(f, width=3)), ValueError, "unknown spec field 'width'"),
        (damage_weights, ValueError, r"weights-\w+\.keras cannot be read"),
        (lambda f: edit(f, spec=spec_with(f, hidden_dim=26)), ValueError, "cannot be read"),
        (newer_tokenizer, ValueError, "format 3, this version reads format 2"),
    ],
)
def test_damaged_folders_raise(folder, damage, error, message):
    damage(folder)
    with pytest.raises(error, match=message) as caught:
        fm.load(folder)
    assert str(folder) in str(caught.value)


def test_a_missing_folder_raises(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model folder .*nowhere"):
        fm.load(tmp_path / "nowhere")


def test_a_model_of_another_kind_raises(folder):
    with pytest.raises(ValueError, match=r"Translator needs .*; use functional_models\.load"):
        fm.Translator.load(folder)


def test_a_file_in_place_of_the_folder_raises(fresh, tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match="is a file; give the path of a folder"):
            fresh["decoder_only"].save(path)
        with pytest.raises(ValueError, match="is a file; give the path of a folder"):
            fresh["decoder_only"].fit(TEXT, steps=1, folder=path, progress=False)


def files_of(folder):
    """Return name -> content of all files in a folder."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_another_model_is_replaced_only_with_permission(folder, fresh):
    before = files_of(folder)
    with pytest.raises(FileExistsError, match=r"holds a model \(model\.json\).* overwrite=True"):
        fresh["encoder_decoder"].save(folder)
    for fit in (fresh["decoder_only"].fit, fresh["encoder_decoder"].fit):
        data = TEXT if fit.__self__.kind == "decoder_only" else PAIRS
        with pytest.raises(FileExistsError, match=r"holds a model .*overwrite=True"):
            fit(data, steps=1, folder=folder, progress=False, callbacks=(Never(),))
    assert files_of(folder) == before
    fresh["encoder_decoder"].save(folder, overwrite=True)
    assert fm.load(folder).kind == "encoder_decoder"


@pytest.mark.parametrize("name", ["comparison.json", "export.json", "config.json"])
def test_folders_of_another_kind_are_never_replaced(tmp_path, fresh, name):
    (tmp_path / name).write_text("{}")
    for overwrite in (False, True):
        with pytest.raises(FileExistsError, match=rf"holds .*{name}.*; choose another folder$"):
            fresh["decoder_only"].save(tmp_path, overwrite=overwrite)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_saving_over_a_run_removes_its_checkpoint_unless_it_fails(folder, fresh, monkeypatch):
    (folder / "checkpoint.npz").write_bytes(b"a run")
    before = files_of(folder)
    with monkeypatch.context() as patched:
        patched.setattr("functional_models.model_folder.write_whole", full_disk)
        with pytest.raises(OSError, match="No space left"):
            fresh["encoder_decoder"].save(folder, overwrite=True)
    assert files_of(folder) == before
    fresh["encoder_decoder"].save(folder, overwrite=True)
    assert not (folder / "checkpoint.npz").exists()


def full_disk(*given, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_locked_folder_is_read_but_not_written(folder, fresh):
    before = files_of(folder)
    with only_writer(folder):
        with pytest.raises(BlockingIOError, match="is being written by process"):
            fresh["encoder_decoder"].save(folder, overwrite=True)
        fm.load(folder)
    assert files_of(folder) == before


def test_a_model_that_is_replaced_while_it_is_read_is_read_again(folder, fresh, monkeypatch):
    new = fresh["encoder_decoder"]
    read = model_folder.read_spec

    def replace_after(path):
        spec = read(path)
        monkeypatch.setattr(model_folder, "read_spec", read)
        new.save(folder, overwrite=True)
        return spec

    monkeypatch.setattr(model_folder, "read_spec", replace_after)
    np.testing.assert_array_equal(logits(fm.load(folder)), logits(new))


def test_saved_weights_hold_no_state_of_the_optimizer(tmp_path):
    model = text_model("decoder_only", vocabulary_size=1999, hidden_dim=46)
    model.model.compile("adamw", "mse")
    model.model.optimizer.build(model.model.trainable_variables)
    model.save(tmp_path)
    (weights,) = tmp_path.glob("weights-*")
    assert weights.stat().st_size < 1.3 * 4 * model.model.count_params()
    assert model.model.compiled
    np.testing.assert_array_equal(logits(fm.load(tmp_path)), logits(model))


@pytest.mark.parametrize("overwrites", [False, True])
def test_a_save_that_is_killed_anywhere_leaves_one_model_and_no_rubbish(
    tmp_path, fresh, overwrites
):
    old, new, last = fresh["decoder_only"], fresh["encoder_decoder"], fresh["decoder_only"]
    if overwrites:
        old.save(tmp_path / "model")
        (tmp_path / "model" / "checkpoint.npz").write_bytes(b"a run")
    with copied_before_every_change(tmp_path / "model", tmp_path / "copies") as copies:
        new.save(tmp_path / "model", overwrite=overwrites)
    assert len(copies) > 8
    kinds = []
    for copy in copies:
        if overwrites or (copy / "model.json").exists():
            kinds.append(read_spec(copy).kind)
            assert {name.split("/")[0] for name in model_folder._parts(copy)} <= {
                path.name for path in copy.iterdir()
            }
        with model_writer(copy, overwrite=True):
            pass  # the next writer
        assert not [path for path in copy.iterdir() if path.name.startswith(".")]
        assert {path.name for path in copy.glob("*-*")} == model_folder._parts(copy)
    assert set(kinds) == ({"decoder_only", "encoder_decoder"} if overwrites else {new.kind})
    last.save(copies[-2], overwrite=True)
    assert fm.load(copies[-2]).kind == last.kind


def test_saving_deletes_only_files_of_the_previous_model(folder):
    own = {path.name for path in folder.iterdir()}
    (folder / "weights-mine.keras").write_text("mine")
    (folder / "weights-0123456789ab.keras").write_text("mine")
    (folder / "my-tokenizer-file").write_text("mine")
    (folder / "my-tokenizer-notes.txt").write_text("mine")
    (folder / "tokenizer-0123456789ab").mkdir()
    (folder / "weights-other.keras").mkdir()
    kept = {path.name for path in folder.iterdir()} - own
    new = text_model("decoder_only", seed=5)
    new = fm.CausalLM(new.spec, dataclasses.replace(new.tokenizer, lowercase=True))
    new.save(folder, overwrite=True)
    names = {path.name for path in folder.iterdir()}
    assert kept < names
    assert names & own == {"model.json"}
    assert len(names - kept) == 3
    np.testing.assert_array_equal(logits(fm.load(folder)), logits(new))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["../precious", "precious", "model.json", ".", ""])
def test_saving_deletes_nothing_else_that_a_manifest_names(folder, fresh, name):
    for place in (folder, folder.parent):
        (place / "precious").write_text("mine")
    edit(folder, weights=name, tokenizers={"tokenizer": name})
    fresh["decoder_only"].save(folder, overwrite=True)
    assert (folder / "precious").read_text() == (folder.parent / "precious").read_text() == "mine"
    fm.load(folder)


def test_the_tokenizer_of_another_model_raises(folder, tmp_path):
    (path,) = folder.glob("tokenizer-*")
    byte_tokenizer(lowercase=True).save(path, overwrite=True)
    with pytest.raises(ValueError, match="is not the tokenizer that the model was saved with"):
        fm.load(folder)
    shutil.rmtree(path)
    byte_tokenizer().save(path)
    assert not fm.load(folder).tokenizer.lowercase


@pytest.mark.parametrize("content", ['{"class_name": "Functional"}', "[1]", "no JSON"])
def test_a_model_json_of_other_origin_is_not_overwritten(fresh, tmp_path, content):
    (tmp_path / "model.json").write_text(content)
    with pytest.raises(ValueError, match=r"not written by .*; it is not overwritten: save to"):
        fresh["decoder_only"].save(tmp_path)
    with pytest.raises(ValueError, match="it is not overwritten"):  # before the first step
        fresh["decoder_only"].fit(TEXT, steps=1, folder=tmp_path, callbacks=(Never(),))
    assert [path.name for path in tmp_path.iterdir()] == ["model.json"]
    assert (tmp_path / "model.json").read_text() == content


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["missing", "changed"])
def test_saving_again_repairs_a_damaged_tokenizer(folder, fresh, damage):
    (path,) = folder.glob("tokenizer-*/tokenizer.json")
    path.unlink() if damage == "missing" else path.write_text("{}")
    fresh["decoder_only"].save(folder, overwrite=True)
    assert fm.load(folder).tokenizer.vocabulary_size == 256
    assert len(list(folder.iterdir())) == 3


def test_a_crash_while_saving_leaves_the_previous_model(folder, monkeypatch):
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
                new.save(folder, overwrite=True)
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
    assert len(list(folder.iterdir())) == 3  # nothing of the old model or of interrupted saves
