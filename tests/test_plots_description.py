"""Descriptions are true or silent: structure decides every word, and names decide nothing."""

import re
import warnings

import keras
import pytest
from described_models import DESCRIBED, attend, causal, language_model, translator

import plots

MASKS = ("one off", "inverted", "too small", "times a mask", "of ones", "off by one")
RIGHT = [kind for kind in DESCRIBED if not any(word in kind for word in MASKS)]
MISTAKEN = {"mixed masks", "Bidirectional decoder"} | {k for k in RIGHT if k.startswith("position")}


def diagnosed(model):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Keras on masks, and on layers without `build`
        notes = plots.diagnose(plots.read_graph(model, open_nested=True)).notes
    description = next(note.text for note in notes if note.kind == "description")
    return description, [note.text for note in notes if note.kind == "finding"]


@pytest.mark.parametrize("kind", DESCRIBED)
def test_the_description_of_a_model_is_true(kind):
    build, expected = DESCRIBED[kind]
    description, findings = diagnosed(build())
    assert re.search(expected, description), description
    if kind in RIGHT and kind not in MISTAKEN:
        assert findings == []


@pytest.mark.parametrize("name", ["mini_gpt", "llama", "bert_encoder", "masked_lm", "decoder"])
def test_the_names_of_a_model_and_its_layers_change_nothing(name):
    plain = language_model(attend)

    def renamed(layer):
        return layer.__class__.from_config({**layer.get_config(), "name": f"{name}.{layer.name}"})

    copy = keras.models.clone_model(plain, clone_function=renamed)
    named = keras.Model(copy.inputs, copy.outputs, name=name)
    assert diagnosed(named) == diagnosed(plain)


def test_one_attention_of_a_decoder_that_is_not_causal_is_found():
    _, findings = diagnosed(DESCRIBED["mixed masks"][0]())
    assert len(findings) == 1
    assert "without a causal mask" in findings[0]
    assert diagnosed(translator())[1] == []
    assert "attends to an encoder of tokens" in diagnosed(translator(attend))[1][0]


@pytest.mark.parametrize(
    ("attention", "outputs", "number"), [(attend, 13, 1), (causal, 13, 0), (attend, 7, 0)]
)
def test_a_model_of_its_own_tokens_that_is_not_causal_gets_a_remark(attention, outputs, number):
    graph = plots.diagnose(plots.read_graph(language_model(attention, outputs=outputs)))
    remarks = [note.text for note in graph.notes if "next token" in note.text]
    assert len(remarks) == number
    assert all(note.kind == "remark" for note in graph.notes if "next token" in note.text)


@pytest.mark.parametrize("make", [keras.layers.Embedding, keras.layers.ReversibleEmbedding])
def test_a_mask_that_exists_only_when_the_model_runs_is_read(make):
    tokens = keras.Input((None,), dtype="int32")
    x = make(13, 8, mask_zero=True)(tokens)
    y = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 4)(x, x)])
    graph = plots.read_graph(keras.Model(tokens, keras.layers.LayerNormalization()(y)))
    assert [edge.port for edge in graph.edges if edge.implicit] == ["query_mask", "value_mask"]
    assert plots.findings(graph) == ()
