"""Packed documents give the logits, losses and gradients of each document alone."""

import keras
import numpy as np
import pytest
from quick import slow_unless
from small_models import (
    GROUPED,
    LATENTS,
    VARIANTS_AND_KINDS,
    logits_of,
    random_model,
    reduced_variant,
    small_spec,
)
from small_text_models import byte_tokenizer, text_model

import builders
import functional_models as fm
import plots
from builders.components import register_component
from builders.mixers import GatedDeltaMixer
from functional_models.batches import DocumentBatches, TokenBatches
from functional_models.training_graph import TrainingGraph, result_metrics

LENGTHS = ((3, 8), (5, 1, 5))
"""Lengths of the documents in each row of a batch; 8 is long for the reduced LongRoPE."""
ROW = 11
DELTA = {"delta_key_heads": 2, "delta_key_dim": 5, "delta_value_heads": 4, "delta_value_dim": 3}
DELTA |= {"mixer": "gated_delta", "positions": "none"}
RELATIVE = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 7}
CASES = {
    "learned positions": {"positions": "learned"},
    "sinusoids": {"positions": "sinusoidal"},
    "coordinates": {"positions": "coordinates"},
    "no positions": {"positions": "none", "pad_token_id": None},
    "rotary, grouped heads and a window": {
        **GROUPED,
        "positions": "rotary",
        "rotary_dim": 4,
        "attention_window": 3,
        "block_overrides": ({}, {"attention_window": None}),
    },
    "long rotary": {
        "positions": "rotary",
        "rotary_dim": 4,
        "rotary_scaling": "longrope",
        "rotary_factor": 3.0,
        "rotary_original_length": 7,
        "rotary_short_factors": (1.0, 1.5),
        "rotary_long_factors": (2.0, 5.0),
    },
    "chunks": {"positions": "rotary", "rotary_dim": 6, "attention_chunk": 4},
    "temperature": {"attention_temperature": 0.3, "attention_temperature_floor": 3},
    "ALiBi with a soft cap": {
        "positions": "alibi",
        "num_heads": 3,
        "head_dim": 5,
        "attention_soft_cap": 1.5,
    },
    "relative buckets and sinks": {**RELATIVE, "attention_sinks": True},
    "latents": {**LATENTS, "positions": "rotary"},
    "Keras layer": {"attention": "layer"},
    "deltas": {**DELTA, "num_layers": 1},
    "deltas and attention": {**DELTA, "block_overrides": ({}, {"mixer": "attention"})},
    "streams and values of the first block": {
        "merge": "hyper_connections",
        "num_streams": 3,
        "value_residual": True,
    },
}
QUICK = ("rotary, grouped heads and a window", "chunks", "relative buckets and sinks")
QUICK += ("learned positions", "long rotary", "deltas and attention")


def packed_rows(spec, seed=0):
    """Return tokens and documents, int (2, 11), with numbers that go up and down."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, spec.vocabulary_size, (len(LENGTHS), ROW), dtype="int32")
    if spec.pad_token_id is not None:
        tokens[tokens == spec.pad_token_id] = (spec.pad_token_id + 1) % spec.vocabulary_size
    numbers = ((7, 2), (0, 1, 0))
    documents = [np.repeat(*pair) for pair in zip(numbers, LENGTHS, strict=True)]
    return tokens, np.array(documents, "int32")


def each_alone(tokens):
    """Return the documents of `packed_rows`: row, slice and tokens (1, t) of each."""
    for row, lengths in enumerate(LENGTHS):
        ends = np.cumsum(lengths)
        for end, length in zip(ends, lengths, strict=True):
            yield row, slice(end - length, end), tokens[row : row + 1, end - length : end]


def assert_equals_each_alone(spec):
    model = random_model(spec)
    tokens, documents = packed_rows(spec)
    packed = builders.build_packed(model, spec)
    found = logits_of(packed, {"tokens": tokens, "documents": documents})
    assert found.shape == (len(LENGTHS), ROW, spec.vocabulary_size)
    for row, place, alone in each_alone(tokens):
        expected = logits_of(model, alone)[0]
        np.testing.assert_allclose(found[row, place], expected, rtol=1e-5, atol=1e-5)
    together = logits_of(model, tokens)
    first = LENGTHS[0][0]  # token of the second document; or nothing was kept apart
    assert np.abs(together - found)[0, first].max() > 1e-3


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", slow_unless(lambda name: name in QUICK, CASES))
def test_packed_documents_have_the_logits_of_each_alone(name):
    assert_equals_each_alone(small_spec(**CASES[name]))


# A row of a prefix language model has one prefix.
DECODERS = [
    name
    for name, kind in VARIANTS_AND_KINDS
    if kind == "decoder_only" and not builders.variant(name, kind=kind).prefix_lm
]


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODERS)
def test_every_variant_keeps_documents_apart(name):
    assert_equals_each_alone(reduced_variant(name, "decoder_only"))


def test_one_document_is_the_model_itself():
    spec = small_spec(num_layers=1)
    model = random_model(spec)
    tokens, documents = packed_rows(spec)
    packed = builders.build_packed(model, spec)
    found = logits_of(packed, {"tokens": tokens, "documents": 0 * documents + 5})
    np.testing.assert_allclose(found, logits_of(model, tokens), rtol=1e-6, atol=1e-6)


def one_step(model, wiring, batch):
    """Return the loss and the weights after a step of gradient descent; restore the weights."""
    before = model.get_weights()
    graph = TrainingGraph(model, wiring, tokens=2 * ROW)
    graph.compile(keras.optimizers.SGD(0.5), weighted_metrics=result_metrics(), run_eagerly=True)
    inputs, labels, weights = batch
    whole = {"inputs": inputs, "labels": labels, "weights": weights}
    logs = graph.train_on_batch(whole, labels, weights, return_dict=True)
    after = model.get_weights()
    model.set_weights(before)
    return logs["loss"], after


STEPS = slow_unless(lambda name: name == QUICK[0], (QUICK[0], "deltas and attention"))


@pytest.mark.parametrize("name", STEPS)
def test_a_step_on_packed_documents_is_one_on_each_document_in_a_row(name):
    spec = small_spec(**CASES[name])
    model = random_model(spec)
    tokens, documents = packed_rows(spec)
    labels = np.random.default_rng(1).integers(0, spec.vocabulary_size, tokens.shape, "int32")
    weights = np.random.default_rng(2).integers(0, 2, tokens.shape).astype("float32")
    packed = {"tokens": tokens, "documents": documents}
    alone = [np.zeros((5, 8), kind) for kind in ("int32", "int32", "float32")]
    for i, (row, place, _) in enumerate(each_alone(tokens)):
        for array, given in zip(alone, (tokens, labels, weights), strict=True):
            array[i, : place.stop - place.start] = given[row, place]
    wiring = builders.build_packed(model, spec)
    loss, found = one_step(model, wiring, (packed, labels, weights))
    expected_loss, expected = one_step(model, None, tuple(alone))
    np.testing.assert_allclose(loss, expected_loss, rtol=1e-5)
    changed = 0
    for old, new, other in zip(model.get_weights(), found, expected, strict=True):
        np.testing.assert_allclose(new, other, rtol=1e-4, atol=1e-5)
        changed += bool(np.abs(new - old).max() > 1e-3)
    assert changed > len(found) / 2


def test_the_graph_shows_the_mask_and_the_positions():
    spec = small_spec(num_layers=1, positions="rotary", rotary_dim=4, attention_window=3)
    packed = builders.build_packed(builders.build(spec, abstract=True), spec)
    text = plots.to_text(plots.read_graph(packed))
    for name in ("documents", "document_starts", "document_positions", "window_document_mask"):
        assert name in text


def test_models_that_cannot_be_packed_are_refused():
    spec = small_spec(kind="encoder_only")
    with pytest.raises(ValueError, match=r"kind='decoder_only', given one of 'encoder_only'$"):
        builders.build_packed(builders.build(spec, abstract=True), spec)


@pytest.mark.usefixtures("isolated_registry")
def test_a_mixer_that_does_not_say_so_is_refused():
    @register_component("mixer", "unknown_memory")
    class UnknownMemory(GatedDeltaMixer):
        keeps_documents_apart = False

    spec = small_spec(**{**DELTA, "mixer": "unknown_memory", "num_layers": 1})
    with pytest.raises(ValueError, match="mixer='unknown_memory' cannot keep the documents"):
        builders.build_packed(builders.build(spec, abstract=True), spec)


# Batches ----------------------------------------------------------------------------------------


def stream(seed=0, length=97):
    """Return tokens with the end token 2, also twice in a row."""
    return np.random.default_rng(seed).integers(0, 7, length).astype("uint8")


def test_documents_end_with_the_end_token_whose_label_has_no_weight():
    batches = DocumentBatches(stream(), end_id=2, block=11, batch_size=3, seed=5)
    plain = TokenBatches(stream(), block=11, batch_size=3, seed=5)
    for step in (0, 1, 7):
        (inputs, labels, weights), (tokens, same, _) = batches.batch(step), plain.batch(step)
        np.testing.assert_array_equal(inputs["tokens"], tokens)
        np.testing.assert_array_equal(labels, same)
        assert weights.dtype == "float32"
        for row, documents, weight in zip(tokens, inputs["documents"], weights, strict=True):
            number, expected = 0, []
            for token in row:
                expected.append(number)
                number += token == 2
            np.testing.assert_array_equal(documents, expected)
            np.testing.assert_array_equal(weight, row != 2)


def test_evaluation_counts_each_label_within_a_document_once():
    tokens = stream()
    batches = DocumentBatches(tokens, end_id=2, block=11, batch_size=3)
    counted = np.zeros(7)
    for _, labels, weights in batches.eval_batches():
        np.add.at(counted, labels[weights > 0], 1)
    expected = np.bincount(tokens[1:][tokens[:-1] != 2], minlength=7)
    np.testing.assert_array_equal(counted, expected)


# Training ---------------------------------------------------------------------------------------

DOCUMENTS = ["abcde", "fghijk", "lmnopq"]  # with their end tokens 20 tokens, 19 of them read


def loss_of_each_alone(lm):
    """Return the mean loss of the labels of each document, by NumPy from the model's logits."""
    losses = []
    for ids in lm.tokenizer.encode(DOCUMENTS, end=True):
        logits = logits_of(lm.model, ids[None, :-1])[0].astype("float64")
        log_total = np.log(np.exp(logits).sum(axis=-1))
        losses.extend(log_total - logits[np.arange(len(logits)), ids[1:]])
    return np.mean(losses)


def test_evaluation_has_the_loss_of_each_document_alone():
    lm = text_model("decoder_only")
    found = lm.evaluate(DOCUMENTS, packing="documents", batch_size=1, progress=False)
    assert found["loss"] == pytest.approx(loss_of_each_alone(lm), rel=1e-5)
    assert found["tokens"] == 17
    with pytest.raises(ValueError, match="packing='rows': must be one of stream, documents"):
        lm.evaluate(DOCUMENTS, packing="rows")


@pytest.mark.slow
def test_training_packed_documents_trains_the_model(tmp_path):
    lm = text_model("decoder_only", dropout=0.0)
    before = loss_of_each_alone(lm)
    options = {"packing": "documents", "batch_size": 2, "report_every": 3, "progress": False}
    options |= {"learning_rate": 0.01, "folder": tmp_path / "run"}
    rows = lm.fit(DOCUMENTS * 3, DOCUMENTS, steps=6, **options)
    assert rows[-1]["val_loss"] < before - 0.1
    loaded = fm.load(tmp_path / "run")
    assert rows[-1]["val_loss"] == pytest.approx(loss_of_each_alone(loaded), rel=1e-5)
    with pytest.raises(ValueError, match="packing"):
        text_model("decoder_only", dropout=0.0).fit(
            DOCUMENTS * 3, DOCUMENTS, steps=9, **options | {"packing": "stream"}
        )


def test_texts_and_models_without_documents_are_refused():
    lm = text_model("decoder_only")
    end = byte_tokenizer().end_id
    message = rf"the training text has no end token \(id {end}\), so that it is a single document"
    with pytest.raises(ValueError, match=message):
        lm.fit("".join(DOCUMENTS) * 3, packing="documents", progress=False)
    with pytest.raises(ValueError, match="packing='documents' is for language models"):
        text_model("encoder_decoder").fit([("a", "b")], packing="documents", progress=False)
