"""Encoders that classify texts and pairs: batches, training, saving, and errors."""

import keras
import numpy as np
import pytest
from small_models import as_array
from small_text_models import SIZES, TEXT, byte_tokenizer

import builders
import functional_models as fm
from functional_models.corpora import ParallelCorpus
from functional_models.objectives.labels import LabelledBatches, encode_labelled, encode_texts

CLASSES = ("cat", "dog", "owl")
SOUNDS = {"cat": "meow", "dog": "wuff", "owl": "hoot"}
EXAMPLES = [
    (f"{'la ' * (i % 3)}{SOUNDS[name]}{' lo' * (i % 4)}", name)
    for i in range(13)
    for name in CLASSES
]
POOLINGS = ("first", "mean")


def encoder(**changes):
    keras.utils.set_random_seed(5)
    fields = {**SIZES, "kind": "encoder_only", "classes": CLASSES, "max_sequence_length": 29}
    return fm.TextEncoder(builders.TransformerSpec(**{**fields, **changes}), byte_tokenizer())


def labelled(examples, classes=CLASSES, *, num_segments=0, batch_size=4, **options):
    tokenizer = byte_tokenizer()
    rows = encode_labelled(examples, tokenizer, classes)
    return LabelledBatches(
        rows, num_segments=num_segments, pad_id=0, batch_size=batch_size, **options
    )


def test_texts_and_pairs_are_between_special_tokens():
    tokenizer = byte_tokenizer()
    one, two = encode_texts(tokenizer, ["abc", ("de", "f")])
    assert bytes(one.tokens.tolist()) == b"\x02abc\x03"
    assert bytes(two.tokens.tolist()) == b"\x02de\x03f\x03"
    assert (one.second, two.second) == (5, 4)


def test_each_example_is_once_in_an_epoch_with_its_label_and_segments():
    examples = [*EXAMPLES[:7], (("ab", "cd"), 2), (("abc", ""), "dog")]
    batches = labelled(examples, num_segments=2, max_shapes=2, seed=3)
    epochs = []
    for steps in (
        range(batches.steps_per_epoch),
        range(batches.steps_per_epoch, 2 * batches.steps_per_epoch),
    ):
        seen = []
        for step in steps:
            inputs, labels, weights = batches.batch(step)
            assert labels.shape == weights.shape == (4, 1)
            for tokens, segments, label, weight in zip(
                inputs["tokens"], inputs["segments"], labels, weights, strict=True
            ):
                if weight[0]:
                    ids = tokens[tokens != 0]
                    first, *rest = bytes(ids.tolist()).strip(b"\x02\x03").split(b"\x03")
                    assert not segments[: len(first) + 2].any()
                    assert segments[len(first) + 2 : len(ids)].all()
                    seen.append((first, *rest, CLASSES[label[0]]))
                else:
                    assert not tokens.any()
        epochs.append(seen)
    expected = [
        (text.strip().encode(), name) if text.strip() == text else (text.encode(), name)
        for text, name in EXAMPLES[:7]
    ]
    expected += [(b"ab", b"cd", "owl"), (b"abc", "dog")]
    assert sorted(epochs[0], key=str) == sorted(epochs[1], key=str) == sorted(expected, key=str)
    assert epochs[0] != epochs[1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_results_equal_those_of_each_text_alone_and_of_the_loss(pooling):
    model = encoder(class_pooling=pooling)
    texts = [text for text, _ in EXAMPLES[:11]]
    together = model.class_probabilities(texts)
    alone = np.concatenate([model.class_probabilities([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(together.sum(axis=1), 1, rtol=1e-5)
    found = model.evaluate(EXAMPLES[:11], batch_size=3)
    labels = [CLASSES.index(name) for _, name in EXAMPLES[:11]]
    chances = together.astype("float64")[np.arange(11), labels]
    np.testing.assert_allclose(found["loss"], -np.log(chances).mean(), rtol=1e-5)
    right = together.argmax(axis=1) == labels
    np.testing.assert_allclose(found["accuracy"], right.mean(), rtol=1e-6)
    assert found["texts"] == 11
    assert model.classify(texts) == [CLASSES[i] for i in together.argmax(axis=1)]
    assert model.classify([]) == []


def test_mean_pooling_is_the_mean_of_the_vectors_of_tokens():
    model = encoder(class_pooling="mean")
    texts = ["meow", "wuff lo"]
    weights = {weight.path: as_array(weight.value) for weight in model.model.weights}
    kernel, bias = weights["classifier.logits/kernel"], weights["classifier.logits/bias"]
    means = np.stack([vectors.mean(axis=0) for vectors in model.vectors(texts)])
    powers = np.exp(means @ kernel + bias)
    expected = powers / powers.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(model.class_probabilities(texts), expected, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("pooling", "pooler"), [("first", True), ("mean", False)])
def test_classes_are_learned_saved_and_loaded(pooling, pooler, tmp_path):
    model = encoder(class_pooling=pooling, pooler=pooler, dropout=0.0)
    options = {"steps": 40, "report_every": 20, "batch_size": 13, "learning_rate": 0.02}
    corpus = ParallelCorpus("sounds", EXAMPLES[6:], EXAMPLES[:6], ())
    rows = model.fit(corpus, folder=tmp_path, progress=False, **options)
    assert rows[-1]["val_token_accuracy"] == 1
    texts = [text for text, _ in EXAMPLES[:6]]
    assert model.classify(texts) == [name for _, name in EXAMPLES[:6]]
    loaded = fm.load(tmp_path)
    assert loaded.spec.classes == CLASSES
    np.testing.assert_allclose(
        loaded.class_probabilities(texts), model.class_probabilities(texts), rtol=1e-6
    )


@pytest.mark.slow
def test_a_head_is_added_to_a_trained_encoder():
    model = encoder(classes=(), masked_lm_head=True)
    made = model.with_classes(["a", "b"], pooling="mean")
    assert (made.spec.classes, made.spec.class_pooling) == (("a", "b"), "mean")
    for one, other in zip(model.vectors([TEXT[:20]]), made.vectors([TEXT[:20]]), strict=True):
        np.testing.assert_array_equal(one, other)
    assert made.evaluate(TEXT)["loss"] == pytest.approx(model.evaluate(TEXT)["loss"], rel=1e-6)
    again = made.with_classes(["c", "d", "e"])
    assert again.class_probabilities(["a"]).shape == (1, 3)
    other = made.with_classes(["a", "b"], pooler=True, masked_lm_head=False)
    assert (other.spec.pooler, other.spec.masked_lm_head) == (True, False)
    np.testing.assert_array_equal(made.vectors(["a"])[0], other.vectors(["a"])[0])


# Errors


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        (
            [("a", 3)],
            "example 1 has the label 3; must be one of 'cat', 'dog', 'owl', or its number",
        ),
        ([("a", "cat"), ("a", -1)], "example 2 has the label -1; .*0 to 2"),
        ([("a", True)], "example 1 has the label True"),
        ([("a", "cow")], "example 1 has the label 'cow'"),
        ([("a", "cat"), ("b", "dog")], "'owl': no training example has this class"),
        ([("a", 0)], "'dog', 'owl': no training example has these classes"),
        ([("a", "cat", "b")], r"example 1 is \('a', 'cat', 'b'\); must be \(text, label\)"),
        ([*EXAMPLES[:3], (("a", 5), "cat")], r"text 3 is \('a', 5\); must be a text, or a pair"),
        (
            [*EXAMPLES[:3], ("x" * 40, "cat")],
            "1 texts have more than 29 tokens .* number 4, with 42",
        ),
    ],
)
def test_examples_that_cannot_be_learned_are_one_line(examples, message):
    with pytest.raises(ValueError, match=message) as error:
        encoder().fit(examples)
    assert "\n" not in str(error.value)


def test_validation_may_lack_a_class():
    batches = labelled([("a", "cat"), ("b", "dog")])
    assert batches.steps_per_epoch == 1


def test_texts_and_examples_are_not_mixed():
    model = encoder(masked_lm_head=True)
    with pytest.raises(ValueError, match="must both be text, or both be"):
        model.fit(EXAMPLES, TEXT)
    with pytest.raises(ValueError, match="objective and block are for text"):
        model.fit(EXAMPLES, block=5)
    with pytest.raises(ValueError, match="expected a list of texts, got a single one"):
        model.classify("meow")
    with pytest.raises(ValueError, match=r"this model has no classes.*with_classes"):
        encoder(classes=()).classify(["meow"])


@pytest.mark.parametrize("classes", [("a",), ("a", "a"), ("a", " "), "ab", (1, 2)], ids=str)
def test_classes_are_two_or_more_different_names(classes):
    with pytest.raises(ValueError, match=r"classes=.*must be two or more different texts"):
        encoder(classes=classes)
