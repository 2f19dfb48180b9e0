"""Damaged files of every format: one error that names the file, and no other exception."""

import json
import os
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_text_models import text_model

import functional_models as fm
import plots
from builders import TransformerSpec
from functional_models.callbacks import _read_checkpoint
from functional_models.checks import read_manifest
from functional_models.model_folder import read_spec
from plots.conformance import sample_graphs

GRAPH = sample_graphs(large=False)["annotated"].to_json()
WRONG = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=3,
)


def places(value, place=()):
    """Yield the path of every value in JSON data."""
    yield place
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in entries:
            yield from places(item, (*place, key))


def changed(data, rng, wrong):
    """Return JSON data with one value, chosen at random, replaced."""
    data = json.loads(json.dumps(data))
    *way, last = rng.choice([place for place in places(data) if place])
    part = data
    for key in way:
        part = part[key]
    part[last] = wrong
    return data


@given(st.randoms(use_true_random=False), WRONG)
@settings(max_examples=100)
def test_a_graph_with_a_wrong_value_is_read_or_refused(rng, wrong):
    text = json.dumps(changed(json.loads(GRAPH), rng, wrong))
    try:
        read = plots.Graph.from_json(text)
    except ValueError:
        return
    # A value of the right type: the graph can be written and shown.
    assert plots.Graph.from_json(read.to_json()) == read
    assert repr(read)


@given(st.randoms(use_true_random=False), WRONG)
@settings(max_examples=100)
def test_a_spec_with_a_wrong_value_is_read_or_refused(rng, wrong):
    spec = TransformerSpec(vocabulary_size=31, num_layers=3, hidden_dim=14, num_heads=2)
    text = json.dumps(changed(json.loads(spec.to_json()), rng, wrong))
    try:
        read = TransformerSpec.from_json(text)
    except ValueError:
        return
    assert TransformerSpec.from_json(read.to_json()) == read


def damage(data, rng):
    """Return bytes that are cut off, or of which one bit or a few bytes are changed."""
    place = rng.randrange(len(data))
    kind = rng.randrange(3)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    return data[:place] + rng.randbytes(rng.randrange(1, 9)) + data[place + 3 :]


def message_of(read, folder):
    """Return the message of the error, or the name of the folder if there is none."""
    try:
        read(folder)
    except (ValueError, FileNotFoundError) as error:
        return str(error)
    return str(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("damaged") / "model"
    text_model("decoder_only").save(folder)
    return folder


def test_damaged_manifests_are_read_or_refused(folder):
    path = folder / "model.json"
    before = path.read_bytes()
    rng = random.Random(0)
    for _ in range(100):
        path.write_bytes(damage(before, rng))
        assert str(folder) in message_of(read_spec, folder)
    path.write_bytes(before)


@pytest.mark.parametrize("pattern", ["weights-*", "tokenizer-*/tokenizer.json"])
def test_damaged_parts_are_read_or_refused(folder, pattern):
    (path,) = folder.glob(pattern)
    before = path.read_bytes()
    rng = random.Random(1)
    for _ in range(7):
        path.write_bytes(damage(before, rng))
        assert str(folder) in message_of(fm.load, folder)
    path.write_bytes(before)


def test_damaged_checkpoints_are_read_or_raise(tmp_path):
    """Any exception is reported as damage; what is read must have the right types."""
    path = tmp_path / "checkpoint.npz"
    state = json.dumps({"run": {"seed": 1}, "rows": []})
    np.savez(path, state=np.array(state), array_0=np.arange(6.0), array_1=np.zeros((3, 2)))
    before = path.read_bytes()
    rng = random.Random(2)
    refused = 0
    for _ in range(150):
        path.write_bytes(damage(before, rng))
        try:
            run, rows, arrays = _read_checkpoint(path)
        except Exception:
            refused += 1
        else:
            assert isinstance(run, dict)
            assert rows == []
            assert all(array.dtype.kind in "biuf" for array in arrays)
    assert refused > 100


@pytest.mark.parametrize("content", ["[" * 100_000, "9" * 5_000, "null", '"x"', "\x00", "{}", ""])
def test_manifests_of_any_content_are_refused(tmp_path, content):
    path = tmp_path / "model.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=r"model\.json is damaged, or not written by functional_m"):
        read_manifest(path, 1)


def test_pipes_and_folders_are_no_manifests(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(ValueError, match="is damaged, or not written by"):
            read_manifest(path, 1)
