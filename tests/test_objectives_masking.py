"""Masked language modelling: what is masked, its batches, and training on them."""

import itertools
import math

import keras
import numpy as np
import pytest
from scipy.stats import binom
from small_models import as_array
from small_text_models import SIZES, TEXT, byte_tokenizer
from trained_tokenizers import TEXTS

import builders
import functional_models as fm
from functional_models.objectives.masking import MaskedBatches, MaskedLM, Masker

CERTAIN = 1 - 1e-6
BLOCK, ROWS = 17, 5
USUAL = MaskedLM()


def encoder(**changes):
    keras.utils.set_random_seed(3)
    fields = {**SIZES, "kind": "encoder_only", "masked_lm_head": True, **changes}
    return fm.TextEncoder(builders.TransformerSpec(**fields), byte_tokenizer())


def ordinary_ids(tokenizer):
    return np.setdiff1d(np.arange(tokenizer.vocabulary_size), sorted(tokenizer.special_ids))


def reference_mask(objective, tokenizer, tokens, random):
    """Mask token by token, with the draws of the library in its order."""
    draws, action = random.random(tokens.shape), random.random(tokens.shape)
    ordinary = ordinary_ids(tokenizer)
    other = random.integers(len(ordinary), size=tokens.shape)
    inputs, chosen = tokens.copy(), np.zeros(tokens.shape, bool)
    for row, ids in enumerate(tokens):
        first, after_special = 0, True
        for place, token in enumerate(ids):
            if token in tokenizer.special_ids:
                after_special = True
                continue
            if not objective.whole_words or after_special or tokenizer.word_starts[token]:
                first = place
            after_special = False
            if draws[row, first] >= objective.mask_rate:
                continue
            chosen[row, place] = True
            if action[row, place] < objective.mask_share:
                inputs[row, place] = tokenizer.mask_id
            elif action[row, place] < objective.mask_share + objective.random_share:
                inputs[row, place] = ordinary[other[row, place]]
    return inputs, chosen


@pytest.mark.sampled(3)
@pytest.mark.parametrize("whole_words", [False, True])
@pytest.mark.parametrize("kind", ["byte", "byte_pair", "word_piece", "sentence_piece"])
def test_masks_equal_those_of_a_loop_over_tokens(kind, whole_words):
    size = None if kind == "byte" else 400
    tokenizer = fm.train_tokenizer(kind, TEXTS, size, mask=True)
    ids = np.concatenate(tokenizer.encode(TEXTS, start=True, end=True))
    tokens = ids[: len(ids) // 3 * 3].reshape(3, -1)
    objective = MaskedLM(mask_rate=0.4, mask_share=0.5, random_share=0.3, whole_words=whole_words)
    found = Masker(objective, tokenizer)(tokens, np.random.default_rng(7))
    expected = reference_mask(objective, tokenizer, tokens, np.random.default_rng(7))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


def test_shares_of_masked_random_and_kept_tokens_are_in_binomial_intervals():
    tokenizer = byte_tokenizer()
    tokens = np.resize(tokenizer.encode([TEXT])[0], (211, 503))
    inputs, chosen = Masker(MaskedLM(), tokenizer)(tokens, np.random.default_rng(11))
    assert (inputs == tokens)[~chosen].all()
    number = int(chosen.sum())
    low, high = binom.interval(CERTAIN, tokens.size, 0.15)
    assert low <= number <= high
    ordinary = len(ordinary_ids(tokenizer))
    kept = 0.1 + 0.1 / ordinary  # a random token may be the same
    for share, count in (
        (0.8, np.sum(inputs[chosen] == tokenizer.mask_id)),
        (kept, np.sum((inputs == tokens)[chosen])),
    ):
        low, high = binom.interval(CERTAIN, number, share)
        assert low <= count <= high


def test_random_tokens_are_drawn_uniformly_from_those_of_text():
    tokenizer = byte_tokenizer()
    tokens = np.full((97, 499), ord("a"))
    objective = MaskedLM(mask_rate=0.5, mask_share=0.0, random_share=1.0)
    inputs, chosen = Masker(objective, tokenizer)(tokens, np.random.default_rng(5))
    counts = np.bincount(inputs[chosen], minlength=256)
    ordinary = ordinary_ids(tokenizer)
    assert counts[sorted(tokenizer.special_ids)].sum() == 0
    low, high = binom.interval(CERTAIN, chosen.sum(), 1 / len(ordinary))
    assert low <= counts[ordinary].min()
    assert counts[ordinary].max() <= high


@pytest.mark.parametrize("kind", ["byte_pair", "word_piece", "sentence_piece"])
def test_whole_words_are_masked_or_not(kind):
    words = [word for text in TEXTS[:2] for word in text.split()]
    tokenizer = fm.train_tokenizer(kind, TEXTS, 400, mask=True)
    if kind == "word_piece":  # which also splits at punctuation
        words = [word for word in words if word.isalnum()]
    text = " ".join(words)
    tokens = tokenizer.encode([text])
    starts = np.cumsum(
        [0]
        + [
            len(tokenizer.encode([w if i == 0 or kind != "byte_pair" else f" {w}"])[0])
            for i, w in enumerate(words)
        ]
    )
    assert starts[-1] == len(tokens[0])  # the tokens of the words, one word after the other
    masker = Masker(MaskedLM(mask_rate=0.3, whole_words=True), tokenizer)
    _, (chosen,) = masker(np.array(tokens), np.random.default_rng(2))
    of_words = [chosen[a:b] for a, b in itertools.pairwise(starts)]
    assert all(word.all() or not word.any() for word in of_words)
    assert any(word.all() and len(word) > 1 for word in of_words)
    assert not chosen.all()


def batches_of(tokens, tokenizer, objective=USUAL, **options):
    options = {"block": BLOCK, "batch_size": ROWS, **options}
    return MaskedBatches(tokens, Masker(objective, tokenizer), **options)


def test_a_batch_is_a_function_of_seed_and_step_and_masks_change_with_every_epoch():
    tokenizer = byte_tokenizer()
    tokens = tokenizer.encode([TEXT])[0][: (BLOCK - 2) * ROWS + 1]
    one, same, other = (batches_of(tokens, tokenizer, seed=seed) for seed in (5, 5, 6))
    assert one.steps_per_epoch == 1
    seen = set()
    for step in (3, 0, 2, 1):
        inputs, labels, weights = one.batch(step)
        for array, again in zip((inputs, labels, weights), same.batch(step), strict=True):
            np.testing.assert_array_equal(array, again)
        assert not np.array_equal(weights, other.batch(step)[2])
        seen.add(weights.tobytes())
        assert inputs.shape == labels.shape == weights.shape == (ROWS, BLOCK)
        assert (labels[:, 0] == tokenizer.start_id).all()
        assert (labels[:, -1] == tokenizer.end_id).all()
        assert not weights[:, [0, -1]].any()
        np.testing.assert_array_equal(inputs[weights == 0], labels[weights == 0])
    assert len(seen) == 4
    assert len({other.fingerprint(), one.fingerprint()}) == 1  # the seed is part of the recipe
    assert (
        batches_of(tokens, tokenizer, MaskedLM(whole_words=True)).fingerprint() != one.fingerprint()
    )


def test_evaluation_has_every_token_once_and_the_same_masks_for_every_seed():
    tokenizer = byte_tokenizer()
    tokens = tokenizer.encode([TEXT])[0]
    objective = MaskedLM(mask_rate=1 - 1e-12)
    one, other = (batches_of(tokens, tokenizer, objective, seed=seed) for seed in (1, 2))
    found = list(one.eval_batches())
    assert len(found) == one.num_eval_batches
    labels = np.concatenate([labels[weights > 0] for _, labels, weights in found])
    np.testing.assert_array_equal(labels, tokens[1:])
    for batch, again in zip(found, other.eval_batches(), strict=True):
        np.testing.assert_array_equal(batch[0], again[0])


def test_only_masked_tokens_count_in_the_loss():
    model = encoder(num_segments=2, dropout=0.0)
    found = model.evaluate(TEXT, block=BLOCK, batch_size=ROWS, progress=False)
    batches = batches_of(model.tokenizer.encode([TEXT])[0], model.tokenizer, with_segments=True)
    losses, right = [], []
    for inputs, labels, weights in batches.eval_batches():
        assert not inputs["segments"].any()
        logits = as_array(model.model(inputs, training=False)["logits"]).astype("float64")
        logits = logits[weights > 0]
        log_total = np.log(np.exp(logits).sum(-1))
        chosen = logits[np.arange(len(logits)), labels[weights > 0]]
        losses.append(log_total - chosen)
        right.append(chosen >= logits.max(-1))
    losses = np.concatenate(losses)
    np.testing.assert_allclose(found["loss"], losses.mean(), rtol=1e-5)
    np.testing.assert_allclose(found["token_accuracy"], np.concatenate(right).mean(), rtol=1e-5)
    assert found["tokens"] == len(losses)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_and_its_folder_is_loaded(tmp_path):
    options = {"batch_size": ROWS, "report_every": 2, "schedule": "constant", "progress": False}
    whole = encoder(pooler=True).fit(TEXT, TEXT, steps=4, block=BLOCK, **options)
    part = encoder(pooler=True)
    part.fit(TEXT, TEXT, steps=2, block=BLOCK, folder=tmp_path, **options)
    again = encoder(pooler=True)
    rows = again.fit(TEXT, TEXT, steps=4, block=BLOCK, folder=tmp_path, **options)
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in whole], rel=1e-5)
    loaded = fm.load(tmp_path)
    assert loaded.evaluate(TEXT)["loss"] == pytest.approx(again.evaluate(TEXT)["loss"], rel=1e-6)
    with pytest.raises(ValueError, match="data"):
        encoder(pooler=True).fit(
            TEXT, TEXT, steps=4, folder=tmp_path, objective=MaskedLM(mask_rate=0.3), **options
        )


# Errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mask_rate": 0}, "mask_rate=0: must be above 0 and below 1"),
        ({"mask_rate": 1}, "mask_rate=1: must be above 0 and below 1"),
        ({"mask_rate": math.nan}, "mask_rate=nan: must be above 0"),
        ({"mask_rate": True}, "mask_rate=True: must be above 0"),
        ({"mask_share": 1.5}, "mask_share=1.5: must be 0 to 1"),
        ({"random_share": 0.5}, "mask_share=0.8 and random_share=0.5: must add up to at most 1"),
        ({"whole_words": 1}, "whole_words=1: must be True or False"),
    ],
)
def test_an_objective_is_checked(values, message):
    with pytest.raises(ValueError, match=message) as error:
        MaskedLM(**values)
    assert "\n" not in str(error.value)


def test_a_model_without_a_head_or_a_mask_says_what_is_missing(tokenizers):
    with pytest.raises(
        ValueError, match=r"masked_lm_head=False.*build it with masked_lm_head=True"
    ):
        encoder(masked_lm_head=False).fit(TEXT)
    tokenizer = tokenizers["byte_pair"]
    fields = {**SIZES, "kind": "encoder_only", "masked_lm_head": True, "vocabulary_size": 400}
    model = fm.TextEncoder(builders.TransformerSpec(**fields, pad_token_id=0), tokenizer)
    with pytest.raises(ValueError, match=r"no mask token.*train_tokenizer\(\.\.\., mask=True\)"):
        model.fit(TEXT)


def test_text_objectives_and_examples_are_not_mixed():
    model = encoder()
    with pytest.raises(ValueError, match="block=2: must be an integer, 3 or more"):
        model.fit(TEXT, block=2)
    with pytest.raises(ValueError, match="block=20: must be an integer, 1 to 19"):
        model.fit(TEXT, block=20)
    with pytest.raises(ValueError, match="packing='documents' is for language models"):
        model.fit(TEXT, packing="documents")
    with pytest.raises(TypeError, match="an encoder takes a MaskedLM"):
        model.fit(TEXT, objective=fm.SpanCorruption())
    with pytest.raises(ValueError, match="this model has no classes"):
        model.fit([("a", "b")])
    with pytest.raises(ValueError, match="5 tokens, fewer than a block of 17 tokens"):
        model.fit("short")


def test_special_tokens_of_trained_tokenizers_are_no_text(tokenizers):
    plain = tokenizers["byte_pair"]
    assert (plain.mask_id, plain.sentinel_ids) == (None, ())
    for kind in ("byte_pair", "word_piece", "sentence_piece"):
        made = fm.train_tokenizer(kind, TEXTS, 400, mask=True, sentinels=3)
        assert len({made.mask_id, *made.sentinel_ids} - {made.pad_id, made.start_id}) == 4
        found = made.encode(["a [MASK] b <extra_id_0> <extra_id_1>"])[0]
        assert not set(found) & made.special_ids
    byte = byte_tokenizer()
    every = np.concatenate(byte.encode([chr(i) for i in (9, 255, 0x800, 0xFFFF, 0x10FFFF)]))
    assert not set(every) & {byte.mask_id, *byte.sentinel_ids}
    with pytest.raises(ValueError, match="sentinels=13: must be an integer, 0 to 12"):
        byte_tokenizer(sentinels=13)


def test_a_tokenizer_with_a_mask_is_saved_and_loaded(tmp_path):
    made = fm.train_tokenizer("sentence_piece", TEXTS, 400, mask=True, sentinels=2)
    made.save(tmp_path)
    loaded = fm.load_tokenizer(tmp_path)
    assert (loaded.mask_id, loaded.sentinel_ids) == (made.mask_id, made.sentinel_ids)
