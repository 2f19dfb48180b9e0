"""Models that are written as folders of Hugging Face are the same when they are read again.

`tests/peers/check_export.py` shows that transformers loads them with equal outputs.
"""

import dataclasses
import json

import numpy as np
import pytest
from golden_folders import GOLDEN
from quick import slow_unless
from small_models import as_array
from small_text_models import SIZES, TEXT, byte_tokenizer

import builders
import functional_models as fm
from functional_models.conversion.matching import differences
from functional_models.tokenizer_files import PROBES

LLAMA = {"norm": "rms", "feedforward": "glu", "activation": "silu", "feedforward_bias": False}

pytestmark = pytest.mark.filterwarnings("ignore:.*no tokenizer")


def small(**changes):
    spec = builders.TransformerSpec(**{"kind": "decoder_only", **SIZES, **changes})
    return fm.CausalLM(spec, byte_tokenizer())


def is_plain(name):
    """Return whether a golden model is the usual one of its family, and unlike other ones."""
    if name in ("cohere", "exaone4", "olmo"):
        return False
    return name in ("gpt_neox", "m2m_100", "xlm_roberta") or "_" not in name


def weights_of(model):
    return {weight.path: as_array(weight) for weight in model.model.weights}


def assert_read_as(model, folder):
    """Check that a folder is read as a model of the same spec and weights."""
    again = fm.from_hugging_face(folder)
    assert not differences(model.spec, again.spec)
    found, expected = weights_of(again), weights_of(model)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[path], array) for path, array in expected.items())


@pytest.mark.sampled(10)
@pytest.mark.parametrize(
    "name", slow_unless(is_plain, sorted(path.name for path in GOLDEN.iterdir()))
)
def test_what_is_read_is_written(tmp_path, name):
    model = fm.from_hugging_face(GOLDEN / name)
    config = json.loads((GOLDEN / name / "config.json").read_text())
    if name == "mt5_tied":  # of which the versions of transformers compute different logits
        with pytest.raises(ValueError, match=r"no mt5 .* differs in scale_logits=True"):
            fm.to_hugging_face(model, tmp_path, model_type="mt5")
        config["model_type"] = "t5"
    fm.to_hugging_face(model, tmp_path, model_type=config["model_type"])
    assert_read_as(model, tmp_path)


@pytest.mark.parametrize(
    ("changes", "model_type"),
    [
        ({"activation": "gelu_tanh", "tie_embeddings": True}, "gpt2"),
        ({"activation": "relu", "norm_placement": "post", "final_norm": False}, "opt"),
        ({"norm_placement": "parallel", "positions": "rotary", "rotary_dim": 2}, "gpt_neox"),
        ({**LLAMA, "positions": "rotary", "attention_bias": False}, "llama"),
        ({**LLAMA, "positions": "rotary", "attention_bias": False, "rotary_dim": 2}, "phi3"),
        ({**LLAMA, "positions": "rotary", "attention_output_bias": False}, "qwen2"),
    ],
)
def test_the_first_family_that_implements_a_spec_is_written(tmp_path, changes, model_type):
    fm.to_hugging_face(small(**{"hidden_dim": 12, **changes}), tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model_type"] == model_type


PUBLISHED = {
    "gemma2_2b": "gemma2",
    "gemma3_1b": "gemma3_text",
    "gemma3_4b": "gemma3_text",
    "command_r_plus": "cohere",
    "command_r7b": "cohere2",
    "olmo_7b": "olmo",
    "olmo3_7b": "olmo3",
    "exaone4_1.2b": "exaone4",
    "exaone4_32b": "exaone4",
    "smollm3_3b": "smollm3",
    "granite3.3_2b": "granite",
    "falcon_40b": "falcon",
    "modernbert_base": "modernbert",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_variant_is_written_and_read_as_its_family(tmp_path, name):
    """The registry and the tables describe the same blocks, in other words."""
    whole = builders.variant(name)
    sizes = {**SIZES, "num_layers": 6, "hidden_dim": 24, "num_heads": 4, "intermediate_dim": 13}
    grouped = {1: 1, whole.num_heads: 4}.get(whole.num_key_value_heads, 2)
    blocks = (
        {} if len(whole.block_overrides) <= 6 else {"block_overrides": whole.block_overrides[:6]}
    )
    others = {"head_dim": None, "pad_token_id": 0, "num_key_value_heads": grouped}
    spec = whole.replace(**sizes, **others, **blocks)
    wrap = fm.TextEncoder if spec.kind == "encoder_only" else fm.CausalLM
    model = wrap(spec, byte_tokenizer())
    fm.to_hugging_face(model, tmp_path, model_type=PUBLISHED[name])
    assert_read_as(model, tmp_path)


def test_what_no_class_computes_is_refused_with_the_difference(tmp_path):
    with pytest.raises(ValueError, match=r"no model of Hugging Face .* nearest.*merge='none'"):
        fm.to_hugging_face(small(merge="none"), tmp_path / "new")
    with pytest.raises(
        ValueError, match=r"no llama .* differs in .*positions='learned' \(there 'rotary'\)"
    ):
        fm.to_hugging_face(small(), tmp_path / "new", model_type="llama")
    with pytest.raises(ValueError, match=r"unknown model_type 'lama' \(did you mean 'llama'"):
        fm.to_hugging_face(small(), tmp_path / "new", model_type="lama")
    with pytest.raises(TypeError, match="takes a CausalLM"):
        fm.to_hugging_face(small().model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def encoder(**changes):
    fields = {"kind": "encoder_only", **SIZES, "norm_placement": "post", "final_norm": False}
    fields |= {
        "embedding_norm": True,
        "logit_bias": True,
        "tie_embeddings": True,
        "num_segments": 2,
    }
    return fm.TextEncoder(builders.TransformerSpec(**{**fields, **changes}), byte_tokenizer())


def test_a_classifier_is_written_with_the_names_of_its_classes(tmp_path):
    texts = ["a joy", ("it was", "a joy"), "bad"]
    trained = encoder(masked_lm_head=True)
    model = trained.with_classes(["so so", "good", "bad"], pooler=True, masked_lm_head=False)
    fm.to_hugging_face(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["architectures"] == ["BertForSequenceClassification"]
    assert config["id2label"] == {"0": "so so", "1": "good", "2": "bad"}
    assert config["label2id"] == {"so so": 0, "good": 1, "bad": 2}
    assert (
        "AutoModelForSequenceClassification.from_pretrained" in (tmp_path / "README.md").read_text()
    )
    again = fm.from_hugging_face(tmp_path)
    np.testing.assert_array_equal(
        again.class_probabilities(texts), model.class_probabilities(texts)
    )
    assert again.classify(texts) == model.classify(texts)


@pytest.mark.parametrize(
    ("changes", "model_type", "message"),
    [
        ({"pooler": False}, "bert", r"differs in pooler=False \(there True\)"),
        ({"class_pooling": "mean"}, "bert", r"class_pooling='mean' \(there 'first'\)"),
        ({"pooler_activation": "relu"}, "bert", r"pooler_activation='relu' \(there 'tanh'\)"),
        ({"num_segments": 0}, "distilbert", r"pooler_activation='tanh' \(there 'relu'\)"),
        ({}, "modernbert", "no modernbert that is known here implements this spec"),
    ],
)
def test_a_classifier_that_no_class_has_is_refused(tmp_path, changes, model_type, message):
    model = encoder(**{"pooler": True, "classes": ("a", "b"), **changes})
    with pytest.raises(ValueError, match=message):
        fm.to_hugging_face(model, tmp_path, model_type=model_type)


def test_a_folder_is_replaced_only_with_permission(tmp_path):
    model = small()
    fm.to_hugging_face(model, tmp_path)
    with pytest.raises(FileExistsError, match="overwrite=True"):
        fm.to_hugging_face(model, tmp_path)
    fm.to_hugging_face(model, tmp_path, overwrite=True, license="mit")
    assert "license: mit" in (tmp_path / "README.md").read_text()
    assert {path.name for path in tmp_path.iterdir()} >= {"config.json", "model.safetensors"}
    model.save(tmp_path / "own")
    with pytest.raises(FileExistsError, match=r"holds a model \(model.json\)"):
        fm.to_hugging_face(model, tmp_path / "own", overwrite=True)


def test_settings_and_tokenizer_of_a_replaced_model_are_removed(tmp_path):
    fm.to_hugging_face(small(), tmp_path)
    for name in ("generation_config.json", "vocab.json", "notes.txt"):
        (tmp_path / name).write_text('{"suppress_tokens": [3]}')
    fm.to_hugging_face(small(), tmp_path, overwrite=True)
    names = {path.name for path in tmp_path.iterdir()}
    assert names.isdisjoint({"generation_config.json", "vocab.json"})
    assert names >= {"config.json", "notes.txt"}


def test_trained_positions_are_no_sinusoids(tmp_path):
    model = fm.from_hugging_face(GOLDEN / "m2m_100")
    fm.to_hugging_face(model, tmp_path / "same", model_type="m2m_100")
    layer = model.model.get_layer("encoder.position_embedding")
    layer.set_weights([array + 0.25 for array in layer.get_weights()])
    with pytest.raises(ValueError, match=r"m2m_100.*position vectors are trained"):
        fm.to_hugging_face(model, tmp_path / "other", model_type="m2m_100")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("kind", ["byte", "byte_pair", "sentence_piece", "word_piece"])
def test_the_tokenizer_is_written_with_the_same_ids(tmp_path, kind):
    size = {} if kind == "byte" else {"vocabulary_size": 401}
    tokenizer = fm.train_tokenizer(kind, [TEXT, *PROBES, "a/b " * 11, "ไทย日本"], **size)
    spec = builders.TransformerSpec(**{**SIZES, "vocabulary_size": tokenizer.vocabulary_size})
    fm.to_hugging_face(fm.CausalLM(spec, tokenizer), tmp_path)
    read = fm.from_hugging_face(tmp_path).tokenizer
    texts = [*PROBES, TEXT, "  two  spaces ", "[END] </s> <unk>", "ไทย" * 11, "ไทย" * 12, "a" * 101]
    for ours, theirs in zip(tokenizer.encode(texts), read.encode(texts), strict=True):
        assert theirs.tolist() == ours.tolist()
    assert (read.pad_id, read.end_id) == (tokenizer.pad_id, tokenizer.end_id)
    ids = tokenizer.encode(texts)
    assert read.decode(ids) == tokenizer.decode(ids)


def test_a_tokenizer_that_no_class_has_is_not_written(tmp_path):
    tokenizer = fm.train_tokenizer("word_piece", [TEXT], vocabulary_size=97)
    tokenizer = dataclasses.replace(tokenizer, lowercase=True)
    spec = builders.TransformerSpec(**{**SIZES, "vocabulary_size": tokenizer.vocabulary_size})
    with pytest.warns(UserWarning, match="no tokenizer was written"):
        fm.to_hugging_face(fm.CausalLM(spec, tokenizer), tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()


def test_a_tokenizer_whose_copy_has_other_ids_is_not_written(tmp_path):
    """Without a token for "/", a copy would read "</s>" in a text as the end."""
    tokenizer = fm.train_tokenizer("sentence_piece", [TEXT], vocabulary_size=301)
    spec = builders.TransformerSpec(**{**SIZES, "vocabulary_size": tokenizer.vocabulary_size})
    with pytest.warns(UserWarning, match="would have other ids"):
        fm.to_hugging_face(fm.CausalLM(spec, tokenizer), tmp_path)
    assert not (tmp_path / "tokenizer.json").exists()
