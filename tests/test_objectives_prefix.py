"""Prefix language modelling: random splits of text, and prompts with their replies."""

import keras
import numpy as np
import pytest
from small_models import logits_of, randomise_weights, with_prefix
from small_text_models import TEXT, text_model

import functional_models as fm
from functional_models.batches import TokenBatches
from functional_models.examples import ExampleBatches, PrefixExamples, encode_examples
from functional_models.objectives.prefixes import PrefixBatches

BLOCK, BATCH = 11, 3
PAIRS = [("um", "one"), ("dois", "2"), ("quatro", "four"), ("a", ""), ("b c", "d")]


def stream(length=197):
    return np.random.default_rng(0).integers(0, 29, length).astype("uint8")


def batches(tokens=None, seed=5, cls=PrefixBatches):
    tokens = stream() if tokens is None else tokens
    return cls(tokens, block=BLOCK, batch_size=BATCH, seed=seed)


def prefix_model(**changes):
    options = {"prefix_lm": True, "num_layers": 2, "dropout": 0.0}  # one block sees no difference
    lm = text_model("decoder_only", **options | changes)
    randomise_weights(lm.model)
    return lm


# Batches ----------------------------------------------------------------------------------------


def test_only_labels_after_the_prefix_have_weight():
    split, plain = batches(), batches(cls=TokenBatches)
    assert split.steps_per_epoch == plain.steps_per_epoch
    for step in (0, 1, 7):
        (inputs, labels, weights), (tokens, same, _) = split.batch(step), plain.batch(step)
        np.testing.assert_array_equal(inputs["tokens"], tokens)
        np.testing.assert_array_equal(labels, same)
        assert inputs["prefix_length"].shape == (BATCH,)
        assert (inputs["prefix_length"].dtype, weights.dtype) == ("int32", "float32")
        for length, row in zip(inputs["prefix_length"], weights, strict=True):
            expected = [0.0] * (length - 1) + [1.0] * (BLOCK - length + 1)
            np.testing.assert_array_equal(row, expected)


def test_a_batch_is_a_function_of_seed_and_step():
    first, again, other = batches(), batches(), batches(seed=6)
    for step in (9, 0, 4):
        keras.tree.map_structure(
            np.testing.assert_array_equal, first.batch(step), again.batch(step)
        )
    lengths = [first.batch(step)[0]["prefix_length"].tolist() for step in range(5)]
    assert len({*map(tuple, lengths)}) > 3
    assert lengths != [other.batch(step)[0]["prefix_length"].tolist() for step in range(5)]


def test_every_split_is_equally_likely():
    split = batches()
    found = np.concatenate([split.batch(step)[0]["prefix_length"] for step in range(1100)])
    counts = np.bincount(found, minlength=BLOCK + 1)
    assert counts[0] == 0
    assert len(counts) == BLOCK + 1
    np.testing.assert_allclose(counts[1:], 300, atol=75)  # four standard deviations


def test_evaluation_has_the_same_splits_for_every_seed_and_no_label_twice():
    found = [*batches(seed=1).eval_batches()]
    keras.tree.map_structure(
        np.testing.assert_array_equal, found, [*batches(seed=2).eval_batches()]
    )
    assert len(found) == batches().num_eval_batches
    plain = [*batches(cls=TokenBatches).eval_batches()]
    for (inputs, _, weights), (_, _, counted) in zip(found, plain, strict=True):
        after = np.arange(BLOCK) >= inputs["prefix_length"][:, None] - 1
        np.testing.assert_array_equal(weights, counted * after)


def test_the_prompt_of_an_example_is_its_prefix():
    lm = text_model("decoder_only")
    pairs = encode_examples(lm.tokenizer, PAIRS)
    options = {"pad_id": lm.tokenizer.pad_id, "batch_size": BATCH, "seed": 3}
    own, plain = PrefixExamples(pairs, **options), ExampleBatches(pairs, **options)
    for step in range(own.steps_per_epoch):
        (inputs, labels, weights), (tokens, same, counted) = own.batch(step), plain.batch(step)
        np.testing.assert_array_equal(inputs["tokens"], tokens)
        np.testing.assert_array_equal(labels, same)
        np.testing.assert_array_equal(weights, counted)
        first = [np.argmax(row) + 1 if row.any() else 0 for row in weights]
        np.testing.assert_array_equal(inputs["prefix_length"], first)


# Training ---------------------------------------------------------------------------------------


def losses_after(lm, ids, prefix, after):
    """Return the losses of the tokens of a row after some number, by NumPy."""
    inputs = with_prefix(ids[None, :-1], prefix)
    logits = logits_of(lm.model, inputs)[0].astype("float64")
    log_total = np.log(np.exp(logits).sum(axis=-1))
    return (log_total - logits[np.arange(len(logits)), ids[1:]])[after - 1 :]


def mean_reply_loss(lm, pairs):
    losses = []
    for prompt, reply in pairs:
        start = lm.tokenizer.encode_prompts([prompt])[0]
        ids = np.concatenate([start, lm.tokenizer.encode([reply], end=True)[0]])
        losses.extend(losses_after(lm, ids, len(start), len(start)))
    return np.mean(losses)


def test_evaluation_has_the_loss_of_what_follows_each_prefix():
    lm = prefix_model()
    tokens = lm.tokens(TEXT[:50])
    losses = []
    for inputs, labels, weights in batches(tokens).eval_batches():
        for row, length in enumerate(inputs["prefix_length"]):
            ids = np.append(inputs["tokens"][row], labels[row, -1])
            losses.extend(losses_after(lm, ids, length, 1)[weights[row] > 0])
    found = lm.evaluate(tokens, block=BLOCK, batch_size=BATCH)
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert found["tokens"] == len(losses) < len(tokens) - 1


@pytest.mark.slow
def test_evaluation_of_examples_has_the_loss_of_replies_to_whole_prompts():
    lm = prefix_model()
    found = lm.evaluate(PAIRS, batch_size=2)
    assert found["loss"] == pytest.approx(mean_reply_loss(lm, PAIRS), rel=1e-5)
    causal = text_model("decoder_only", num_layers=2, dropout=0.0)
    randomise_weights(causal.model)
    assert abs(causal.evaluate(PAIRS, batch_size=2)["loss"] - found["loss"]) > 1e-3


OPTIONS = {"steps": 6, "report_every": 3, "batch_size": 4, "learning_rate": 0.02, "progress": False}


@pytest.mark.slow
@pytest.mark.parametrize("parts", [1, 2])
def test_training_lowers_the_loss_and_saves_the_model(tmp_path, parts):
    lm = text_model("decoder_only", prefix_lm=True, dropout=0.0)
    before = lm.evaluate(TEXT)["loss"]
    options = {**OPTIONS, "warmup_steps": 0, "gradient_accumulation": parts}
    rows = lm.fit(TEXT, TEXT[:99], folder=tmp_path / "lm", sample_prompt="the", **options)
    assert rows[-1]["val_loss"] < before - 0.3
    loaded = fm.load(tmp_path / "lm")
    assert loaded.spec.prefix_lm
    assert loaded.evaluate(TEXT)["loss"] == pytest.approx(lm.evaluate(TEXT)["loss"], rel=1e-6)
    assert loaded.generate("the ", "greedy", max_new_tokens=5) == lm.generate(
        "the ", "greedy", max_new_tokens=5
    )


@pytest.mark.slow
def test_a_run_that_resumes_equals_one_without_interruption(tmp_path):
    options = {**OPTIONS, "schedule": "constant"}
    expected = text_model("decoder_only", prefix_lm=True).fit(TEXT, **options)
    options["folder"] = tmp_path / "lm"
    text_model("decoder_only", prefix_lm=True).fit(TEXT, **{**options, "steps": 3})
    found = text_model("decoder_only", prefix_lm=True).fit(TEXT, **options)
    assert [row["loss"] for row in found] == pytest.approx([r["loss"] for r in expected], rel=1e-6)


@pytest.mark.slow
def test_training_on_examples_lowers_the_loss_of_replies():
    lm = text_model("decoder_only", prefix_lm=True, dropout=0.0)
    before = mean_reply_loss(lm, PAIRS)
    lm.fit(PAIRS, warmup_steps=0, **OPTIONS)
    assert mean_reply_loss(lm, PAIRS) < before - 0.3


def test_attention_maps_are_those_of_a_prompt():
    lm = prefix_model()
    for weights in lm.attention_maps("a b c").scores.values():
        assert (weights > 0).all()


# What is refused --------------------------------------------------------------------------------


def test_rows_of_several_documents_and_overlapping_blocks_are_refused():
    lm = prefix_model()
    message = "packing='documents': a row of a model with prefix_lm=True has one prefix"
    for data in (["ab", "cd"], PAIRS):
        with pytest.raises(ValueError, match=message):
            lm.fit(data, packing="documents", progress=False)
    with pytest.raises(ValueError, match=r"stride=3: blocks of a model with prefix_lm=True"):
        lm.evaluate(TEXT, stride=3)


def test_studies_refuse_losses_of_other_tokens(tmp_path):
    specs = {"causal": "pre_norm_learned", "prefix": "prefix_lm"}
    corpus = fm.TextCorpus("text", (TEXT,), (TEXT[:99],))
    with pytest.raises(ValueError, match=r"^prefix has prefix_lm=True: its loss is of the tokens"):
        fm.compare(specs, data=corpus, folder=tmp_path / "study", progress=False)
    assert not (tmp_path / "study").exists()


def test_other_libraries_have_no_such_model(tmp_path):
    lm = text_model("decoder_only", prefix_lm=True, pad_token_id=0)
    for convert in (lambda: fm.to_hugging_face(lm, tmp_path / "hf"), lambda: fm.to_keras_hub(lm)):
        with pytest.raises(ValueError, match=r"implements this spec.*prefix_lm=True"):
            convert()
    assert not (tmp_path / "hf").exists()


@pytest.mark.slow
@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="export requires TensorFlow")
def test_an_exported_model_reads_prompts_in_both_directions(tmp_path):
    import tensorflow as tf

    lm = prefix_model(max_sequence_length=31)
    texts = ["the quick", "fox", "a lazy dog"]
    expected = lm.generate(texts, "greedy", max_new_tokens=7)
    folder = lm.export(tmp_path / "exported", max_new_tokens=7)
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    found = [text.decode() for text in serve(text=tf.constant(texts))["text"].numpy()]
    assert found == expected
