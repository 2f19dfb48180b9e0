"""Span corruption: the spans that are removed, batches, and training on them."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from scipy.stats import chisquare
from small_models import logits_of
from small_text_models import TEXT, byte_tokenizer, text_model

import builders
import functional_models as fm
from functional_models.objectives.spans import SpanBatches, SpanCorruption, corrupt, ul2

SENTINELS = tuple(range(1001, 1051))
USUAL = SpanCorruption()
ONE_SPAN = SpanCorruption(mean_span=None, noise_density=0.25)


def spans_of(row, sentinels=SENTINELS):
    """Return the parts of a row between sentinels, with the sentinels."""
    parts = [(None, [])]
    for token in row:
        if token in sentinels:
            parts.append((token, []))
        else:
            parts[-1][1].append(token)
    return parts


def restored(source, target, sentinels=SENTINELS):
    """Put the spans of a target into the places of its sentinels in the source."""
    (none, before), *removed = spans_of(target, sentinels)
    assert (none, before) == (None, [])  # a target begins with a sentinel
    spans = dict(removed)
    assert all(spans.values())
    return [t for token in source for t in spans.get(token, [token])]


@pytest.mark.parametrize("length", [2, 3, 13, 101])
@pytest.mark.parametrize(
    "objective",
    [
        USUAL,
        SpanCorruption(noise_density=0.5, mean_span=1.0),
        SpanCorruption(noise_density=0.9, mean_span=2.0),
        ONE_SPAN,
    ],
    ids=repr,
)
def test_a_text_is_restored_from_source_and_target(objective, length):
    tokens = np.random.default_rng(length).integers(1000, size=(7, length))
    sources, targets = corrupt(tokens, objective, SENTINELS, np.random.default_rng(3))
    noise = min(max(round(length * objective.noise_density), 1), length - 1)
    mean = objective.mean_span or noise
    spans = min(max(round(noise / mean), 1), length - noise)
    assert sources.shape == (7, length - noise + spans)
    assert targets.shape == (7, noise + spans)
    for row, source, target in zip(tokens, sources, targets, strict=True):
        assert restored(source, target) == row.tolist()
        used = [token for token in source if token in SENTINELS]
        assert used == list(SENTINELS[:spans])  # in order
        kept = [len(part) for _, part in spans_of(source)]
        assert all(kept[:-1])  # a token that stays is before each span
        assert kept[-1] == 0  # the last span ends the row


def test_all_ways_to_divide_removed_and_remaining_tokens_are_equally_likely():
    tokens = np.tile(np.arange(11), (4201, 1))
    objective = SpanCorruption(noise_density=5 / 11, mean_span=5 / 3)
    sources, targets = corrupt(tokens, objective, SENTINELS, np.random.default_rng(1))
    for rows, total in ((sources, 6), (targets, 5)):
        lengths = (tuple(len(part) for _, part in spans_of(row) if part) for row in rows)
        counts = Counter(lengths)
        ways = [way for way in itertools.product(range(1, 6), repeat=3) if sum(way) == total]
        assert set(counts) == set(ways)
        assert len(ways) == math.comb(total - 1, 2)
        assert chisquare([counts[way] for way in ways]).pvalue > 1e-3


def test_a_single_span_continues_the_text():
    tokens = np.arange(16)[None]
    sources, targets = corrupt(tokens, ONE_SPAN, SENTINELS, np.random.default_rng(1))
    assert sources[0].tolist() == [*range(12), SENTINELS[0]]
    assert targets[0].tolist() == [SENTINELS[0], *range(12, 16)]


def batches_of(objectives=(USUAL,), *, longest=19, text=TEXT, **options):
    tokenizer = byte_tokenizer()
    tokens = tokenizer.encode([text])[0]
    options = {"batch_size": 5, **options}
    return SpanBatches(tokens, tokenizer, objectives, longest=longest, **options)


@pytest.mark.parametrize("longest", [3, 5, 19, 31])
@pytest.mark.parametrize("density", [0.15, 0.5, 0.85])
def test_rows_are_as_long_as_the_model_allows(longest, density):
    inputs, labels, weights = batches_of(
        [SpanCorruption(noise_density=density, mean_span=1.0 if longest < 7 else 3.0)],
        longest=longest,
    ).batch(2)
    source, target = inputs["source"].shape[1], inputs["target"].shape[1]
    assert max(source, target) in (longest, longest - 1)  # a text one longer may have two more
    assert labels.shape == weights.shape == (5, target)
    assert (weights == 1).all()
    np.testing.assert_array_equal(inputs["target"][:, 1:], labels[:, :-1])
    tokenizer = byte_tokenizer()
    assert (inputs["target"][:, 0] == tokenizer.start_id).all()
    assert (labels[:, -1] == tokenizer.end_id).all()
    assert (labels[:, 0] == tokenizer.sentinel_ids[0]).all()


def test_a_batch_is_a_function_of_seed_and_step():
    one, same, other = (batches_of(seed=seed) for seed in (5, 5, 6))
    for step in (9, 0, 4):
        (inputs, labels, _), (again, labels_again, _) = one.batch(step), same.batch(step)
        np.testing.assert_array_equal(inputs["source"], again["source"])
        np.testing.assert_array_equal(labels, labels_again)
        assert not np.array_equal(inputs["source"], other.batch(step)[0]["source"])
    assert one.fingerprint() != batches_of([SpanCorruption(mean_span=2.0)]).fingerprint()
    assert one.fingerprint() != batches_of(longest=18).fingerprint()


def test_evaluation_has_every_whole_row_of_text_once_for_each_objective():
    objectives = [SpanCorruption(prefix="[R]"), SpanCorruption(mean_span=None, prefix="[S]")]
    one, other = (batches_of(objectives, seed=seed) for seed in (1, 2))
    found, tokenizer = list(one.eval_batches()), byte_tokenizer()
    assert len(found) == one.num_eval_batches
    texts = {"[R]": b"", "[S]": b""}
    for (inputs, labels, weights), (again, *_) in zip(found, other.eval_batches(), strict=True):
        np.testing.assert_array_equal(inputs["source"], again["source"])
        for source, target, counts in zip(inputs["source"], labels, weights, strict=True):
            assert counts.all() or not counts.any()
            if counts.any():
                prefix = bytes(source[:3].tolist()).decode()
                text = restored(source[3:], target[:-1], tokenizer.sentinel_ids)
                texts[prefix] += bytes(int(token) for token in text)
    for text in texts.values():
        assert TEXT.encode()[1:].startswith(text)
        assert len(text) > len(TEXT) - 40


def test_the_denoisers_of_a_mixture_take_turns_in_a_drawn_order():
    objectives = [SpanCorruption(prefix=f"[{name}]") for name in "ABC"]
    batches = batches_of(objectives, seed=3)
    names = [chr(batches.batch(step)[0]["source"][0, 1]) for step in range(36)]
    rounds = [tuple(names[at : at + 3]) for at in range(0, 36, 3)]
    assert all(sorted(order) == ["A", "B", "C"] for order in rounds)
    assert len(set(rounds)) > 2


def test_ul2_has_the_denoisers_of_its_paper():
    """Tay et al. 2022, table 1: R and X denoisers by mean span and rate, and a quarter for S."""
    found = {(d.prefix.strip(), d.mean_span, d.noise_density) for d in ul2()}
    regular, extreme = {(3, 0.15), (8, 0.15)}, {(3, 0.5), (8, 0.5), (64, 0.15), (64, 0.5)}
    expected = {("[R]", *one) for one in regular} | {("[X]", *one) for one in extreme}
    assert found == expected | {("[S]", None, 0.25)}
    # At the length of the paper every denoiser has the rows that its numbers say.
    for denoiser in ul2():
        removed, spans = denoiser.sizes(512)
        assert removed == round(512 * denoiser.noise_density)
        assert spans == (1 if denoiser.mean_span is None else round(removed / denoiser.mean_span))


def test_the_loss_is_the_mean_over_all_tokens_of_targets(fresh):
    model = fresh["encoder_decoder"]
    found = model.evaluate(TEXT, objective=USUAL, batch_size=5)
    losses = []
    for inputs, labels, weights in batches_of().eval_batches():
        logits = logits_of(model.model, inputs).astype("float64")
        chosen = np.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
        losses.append((np.log(np.exp(logits).sum(-1)) - chosen)[weights > 0])
    np.testing.assert_allclose(found["loss"], np.concatenate(losses).mean(), rtol=1e-5)
    assert found["tokens"] == np.concatenate(losses).size


@pytest.mark.slow
def test_a_translator_trains_on_text_and_resumes(tmp_path):
    options = {"objective": [USUAL, ONE_SPAN], "batch_size": 5, "report_every": 2}
    options |= {"schedule": "constant", "progress": False}
    whole = text_model("encoder_decoder").fit(TEXT, TEXT, steps=4, **options)
    text_model("encoder_decoder").fit(TEXT, TEXT, steps=2, folder=tmp_path, **options)
    again = text_model("encoder_decoder")
    rows = again.fit(TEXT, TEXT, steps=4, folder=tmp_path, **options)
    assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in whole], rel=1e-5)
    found = fm.load(tmp_path).evaluate(TEXT, objective=options["objective"], progress=False)
    assert found["loss"] == pytest.approx(min(row["val_loss"] for row in rows), rel=1e-5)
    assert found.keys() == {"loss", "perplexity", "token_accuracy", "tokens"}


# Errors


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"noise_density": 0}, "noise_density=0: must be above 0 and below 1"),
        ({"noise_density": 1.0}, "noise_density=1.0: must be above 0 and below 1"),
        ({"mean_span": 0.5}, "mean_span=0.5: must be 1 or more, or None"),
        ({"mean_span": math.inf}, "mean_span=inf: must be 1 or more"),
        ({"prefix": 3}, "prefix=3: must be a text"),
    ],
)
def test_an_objective_is_checked(values, message):
    with pytest.raises(ValueError, match=message) as error:
        SpanCorruption(**values)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("objective", "options", "message"),
    [
        (SpanCorruption(mean_span=64.0), {}, r"mean_span=64.0: a row of text has \d+ tokens"),
        (SpanCorruption(), {"longest": 2}, "block=2: no text fits"),
        (SpanCorruption(prefix="long " * 4), {}, "block=19: no text fits"),
        (SpanCorruption(mean_span=1.0), {"longest": 97}, "spans of .* has 12 sentinels for them"),
        (SpanCorruption(), {"text": "short"}, "the corpus has 5 tokens, and a row has"),
    ],
)
def test_rows_that_are_not_possible_are_one_line(objective, options, message):
    with pytest.raises(ValueError, match=message) as error:
        batches_of([objective], **options)
    assert "\n" not in str(error.value)


def test_text_and_pairs_are_not_mixed():
    model = text_model("encoder_decoder")
    with pytest.raises(TypeError, match="or train on text with objective=SpanCorruption"):
        model.fit(TEXT)
    with pytest.raises(TypeError, match="must be a SpanCorruption or several, such as ul2"):
        model.fit(TEXT, objective=fm.MaskedLM())
    with pytest.raises(ValueError, match="block is for text with an objective"):
        model.fit([("a", "b")], block=3)
    with pytest.raises(ValueError, match="block=20: must be an integer, 1 to 19"):
        model.fit(TEXT, block=20, objective=fm.SpanCorruption())
    other = fm.train_tokenizer("byte_pair", [TEXT], 300)
    spec = builders.variant("pre_norm_learned", vocabulary_size=300, source_vocabulary_size=256)
    with pytest.raises(ValueError, match="different tokenizers"):
        fm.Translator(spec, byte_tokenizer(), other).fit(TEXT, objective=fm.SpanCorruption())
