"""BLEU and chrF of translations, and language models beyond their window."""

import math
import sys
from collections import Counter

import numpy as np
import pytest
from small_models import logits_of
from small_text_models import PAIRS, TEXT

import functional_models as fm
from functional_models.strided_batches import StridedBatches

REFERENCES = ["the quick brown fox jumps over the dog", "one two three four five"]
TRANSLATIONS = ["the quick fox jumps over the lazy dog", "one two three five four"]


def reference_bleu(translations, references):
    """Papineni et al. 2002, section 2.3, over words, with one reference."""
    words = [([*t.split()], [*r.split()]) for t, r in zip(translations, references, strict=True)]
    logs = []
    for n in range(1, 5):
        right = total = 0
        for pair in words:
            found, wanted = (
                Counter(tuple(w[i : i + n]) for i in range(len(w) - n + 1)) for w in pair
            )
            right += (found & wanted).total()
            total += found.total()
        logs.append(math.log(right / total))
    c, r = (sum(len(pair[side]) for pair in words) for side in (0, 1))
    return 100 * math.exp(min(0, 1 - r / c) + np.mean(logs))


def test_scores_are_those_of_the_papers():
    found = fm.translation_scores(TRANSLATIONS, REFERENCES)
    assert found.bleu == pytest.approx(reference_bleu(TRANSLATIONS, REFERENCES), rel=1e-9)
    assert 0 < found.chrf < 100
    perfect = fm.translation_scores(REFERENCES, REFERENCES)
    assert (perfect.bleu, perfect.chrf) == (pytest.approx(100), pytest.approx(100))
    assert found.signatures["bleu"].startswith(
        "bleu: nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|"
    )
    assert found.signatures["chrf"].startswith("chrf: nrefs:1|case:mixed|eff:yes|nc:6|nw:0|")
    assert "version:" in found.signatures["bleu"]


def test_scores_need_one_reference_for_each_translation():
    for translations, references in (([], []), (["a"], ["a", "b"])):
        with pytest.raises(ValueError, match="give one reference for each translation"):
            fm.translation_scores(translations, references)


@pytest.mark.slow
def test_evaluate_translates_and_prints_the_signatures(fresh, capsys):
    translator = fresh["encoder_decoder"]
    pairs = PAIRS[:3]
    plain = translator.evaluate(pairs)
    found = translator.evaluate(pairs, bleu=True)
    texts = translator.translate([source for source, _ in pairs])
    scores = fm.translation_scores(texts, [target for _, target in pairs])
    assert found == plain | {"bleu": scores.bleu, "chrf": scores.chrf}
    assert capsys.readouterr().out.splitlines() == list(scores.signatures.values())


def test_options_of_translations_need_bleu(fresh):
    translator, pairs = fresh["encoder_decoder"], PAIRS[:3]
    with pytest.raises(TypeError, match="sampler, num_beams: only for bleu=True"):
        translator.evaluate(pairs, sampler="beam", num_beams=2)
    with pytest.raises(ValueError, match="omit it with an objective"):
        translator.evaluate(TEXT, bleu=True, objective=fm.SpanCorruption())


def test_without_sacrebleu_an_error_names_it(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(ImportError, match="pip install sacrebleu"):
        fresh["encoder_decoder"].evaluate(PAIRS[:3], bleu=True)


# Windows that overlap


def reference_losses(lm, tokens, block, stride):
    """Return the loss of each token but the first, one window after the other."""
    losses, done = np.zeros(len(tokens) - 1), 0
    start = 0
    while done < len(losses):
        start = min(start, len(tokens) - 1 - block)
        window = tokens[start : start + block + 1]
        logits = logits_of(lm.model, window[None, :-1])[0].astype("float64")
        log_total = np.log(np.exp(logits).sum(axis=-1))
        found = log_total - logits[np.arange(block), window[1:]]
        losses[done : start + block] = found[done - start :]
        done = start + block
        start += stride
    return losses


@pytest.mark.sampled(1)
@pytest.mark.parametrize("stride", [1, 5, 13])
def test_a_stride_gives_every_token_more_context(fresh, stride):
    lm = fresh["decoder_only"]
    text, block = TEXT[:47], 13
    expected = reference_losses(lm, lm.tokens(text), block, stride).mean()
    found = lm.evaluate(text, block=block, stride=stride, batch_size=3)
    assert found["loss"] == pytest.approx(expected, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(expected), rel=1e-5)
    assert found["tokens"] == len(text) - 1


def test_a_stride_of_a_block_changes_nothing(fresh):
    lm = fresh["decoder_only"]
    assert lm.evaluate(TEXT, block=13, stride=13) == pytest.approx(lm.evaluate(TEXT, block=13))


@pytest.mark.parametrize("length", [12, 13, 14, 17, 41])
@pytest.mark.parametrize("stride", [1, 2, 7, 11])
def test_each_label_counts_once(length, stride):
    tokens = np.arange(length)
    batches = StridedBatches(tokens, stride=stride, block=11, batch_size=3)
    found = list(batches.eval_batches())
    assert len(found) == batches.num_eval_batches
    labels = np.concatenate([labels[weights > 0] for _, labels, weights in found])
    np.testing.assert_array_equal(labels, tokens[1:])
    for number, (inputs, labels, weights) in enumerate(found):
        for row, (read, label, weight) in enumerate(zip(inputs, labels, weights, strict=True)):
            if number or row:  # every label has at least block - stride tokens before it
                assert all(label[weight > 0] - read[0] >= 11 - stride + 1)


def test_a_stride_is_checked(fresh):
    for data, packing in ((TEXT, "documents"), ([("a", "b")], "stream")):
        with pytest.raises(ValueError, match="blocks overlap in a stream of text alone"):
            fresh["decoder_only"].evaluate(data, stride=3, packing=packing)
    for stride in (0, 14, 2.5):
        with pytest.raises(ValueError, match=f"stride={stride}: must be an integer, 1 to 13"):
            fresh["decoder_only"].evaluate(TEXT, block=13, stride=stride)
