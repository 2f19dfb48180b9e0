"""Prompts and replies: only the labels of replies count, each example in a row or packed."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from quick import slow_unless
from small_models import logits_of
from small_text_models import SIZES, corpus, text_model

import functional_models as fm
from functional_models.examples import ExampleBatches, PackedExamples, best_fit, encode_examples

PAIRS = [("um", "one"), ("dois", "2"), ("quatro", "four"), ("a", ""), ("b c", "d"), ("nove", "9")]
LONGEST = SIZES["max_sequence_length"]


def mean_reply_loss(lm, pairs):
    """Return the mean loss of the tokens of replies, by NumPy from the logits of each example."""
    losses = []
    for prompt, reply in pairs:
        start = lm.tokenizer.encode_prompts([prompt])[0]
        ids = np.concatenate([start, lm.tokenizer.encode([reply], end=True)[0]])
        logits = logits_of(lm.model, ids[None, :-1])[0].astype("float64")
        log_total = np.log(np.exp(logits).sum(axis=-1))
        all_losses = log_total - logits[np.arange(len(logits)), ids[1:]]
        losses.extend(all_losses[len(start) - 1 :])
    return np.mean(losses), len(losses)


packings = slow_unless(lambda packing: packing == "documents", ("stream", "documents"))


@pytest.mark.parametrize("packing", packings)
def test_evaluation_has_the_loss_of_the_replies_alone(packing):
    lm = text_model("decoder_only")
    loss, tokens = mean_reply_loss(lm, PAIRS)
    found = lm.evaluate(PAIRS, packing=packing, batch_size=2)
    assert found["loss"] == pytest.approx(loss, rel=1e-5)
    assert found["tokens"] == tokens == sum(len(reply) + 1 for _, reply in PAIRS)
    bits = loss * tokens / np.log(2) / sum(len(reply) for _, reply in PAIRS)
    assert found["bits_per_character"] == pytest.approx(bits, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_training_lowers_the_loss_of_the_replies(packing):
    lm = text_model("decoder_only", dropout=0.0)
    before, _ = mean_reply_loss(lm, PAIRS)
    options = {"steps": 7, "report_every": 7, "batch_size": 3, "learning_rate": 0.02}
    lm.fit(PAIRS, packing=packing, progress=False, warmup_steps=0, **options)
    assert mean_reply_loss(lm, PAIRS)[0] < before - 0.3


@pytest.mark.slow
def test_a_parallel_corpus_is_prompts_and_replies():
    lm = text_model("decoder_only")
    pairs = corpus("encoder_decoder")
    rows = lm.fit(pairs, steps=1, report_every=1, batch_size=3, progress=False)
    assert rows[0]["val_loss"] == pytest.approx(mean_reply_loss(lm, pairs.validation)[0], rel=1e-5)


def batches_of(cls, pairs=PAIRS, **options):
    lm = text_model("decoder_only")
    tokens = encode_examples(lm.tokenizer, pairs)
    return cls(tokens, pad_id=0, batch_size=2, **options), [
        (prompt.tolist(), reply.tolist()) for prompt, reply in tokens
    ]


def examples_in(batch):
    """Return the examples in a batch, taken apart by documents and weights."""
    inputs, labels, weights = batch
    if not isinstance(inputs, dict):
        inputs = {"tokens": inputs, "documents": np.zeros_like(inputs)}
    for row, documents in enumerate(inputs["documents"]):
        for number in np.unique(documents):
            places = np.flatnonzero((documents == number) & (labels[row] > 0))
            counts = places[weights[row, places] > 0]
            if len(counts):
                tokens = inputs["tokens"][row, places]
                np.testing.assert_array_equal(tokens[1:], labels[row, places[:-1]])
                prompt = tokens[: counts[0] - places[0] + 1]
                assert np.array_equal(counts, np.arange(counts[0], places[-1] + 1))
                yield prompt.tolist(), labels[row, counts].tolist()


@pytest.mark.parametrize("cls", [ExampleBatches, PackedExamples])
def test_every_epoch_has_each_example_once(cls):
    options = {"block": 13} if cls is PackedExamples else {}
    batches, expected = batches_of(cls, seed=3, **options)
    orders = []
    for epoch in range(2):
        steps = range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch)
        found = [example for step in steps for example in examples_in(batches.batch(step))]
        assert sorted(found) == sorted(expected)
        orders.append(found)
    assert orders[0] != orders[1]
    again, _ = batches_of(cls, seed=3, **options)
    assert [*examples_in(again.batch(1))] == [*examples_in(batches.batch(1))]
    in_order = [example for batch in batches.eval_batches() for example in examples_in(batch)]
    assert sorted(in_order) == sorted(expected)
    assert len([*batches.eval_batches()]) == batches.num_eval_batches


@given(st.lists(st.integers(1, 13), min_size=1, max_size=40))
def test_best_fit_places_everything_in_few_rows(lengths):
    rows = best_fit(np.array(lengths), 13)
    assert sorted(number for row in rows for number in row) == list(range(len(lengths)))
    sizes = [sum(lengths[number] for number in row) for row in rows]
    assert max(sizes) <= 13
    assert all(a + b > 13 for i, a in enumerate(sizes) for b in sizes[:i])  # no two fit into one


CHATS = [
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo"}],
    [
        {"role": "system", "content": "x"},
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "b"},
    ],
]


class _Templated:
    """A tokenizer of bytes with a chat template."""

    def __init__(self, tokenizer, changes_prompt=False):
        self._tokenizer, self._changes = tokenizer, changes_prompt

    def __getattr__(self, name):
        return getattr(self._tokenizer, name)

    def format_chat(self, messages, add_generation_prompt=True):
        turns = "".join(f"<{m['role'][0]}>{m['content']};" for m in messages)
        start = "!" * (self._changes and not add_generation_prompt)
        return start + turns + "<a>" * add_generation_prompt


def test_the_reply_of_a_conversation_is_its_last_message():
    tokenizer = _Templated(text_model("decoder_only").tokenizer)
    found = encode_examples(tokenizer, CHATS)
    texts = ["".join(map(chr, ids)) for example in found for ids in example]
    end = chr(tokenizer.end_id)
    assert texts == ["<u>hi;<a>", f"yo;{end}", "<s>x;<u>a;<a>", f"b;{end}"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([("a", "b"), ("c",)], r"example number 2 is \('c',\); must be \(prompt, reply\), or a"),
        ([("a", 1)], "example number 1 is"),
        ([("a", "b"), 5], "example number 2 is 5; must be"),
        ([{"prompt": "a", "reply": "b"}], "example number 1 is {'prompt': 'a', 'rep"),
        ([CHATS[0][:1]], "conversation number 1 must have a prompt and end with a message of"),
        ([CHATS[0]], "tokenizer has no chat template"),
        ([("", "b")], "1 prompts have no tokens"),
        (
            [("a", "b"), ("c" * 11, "d" * 9)],
            rf"1 examples have more than {LONGEST} tokens in prompt and reply \(the first is "
            "number 2, the longest has 20",
        ),
    ],
)
@pytest.mark.parametrize("packing", ["stream", "documents"])
def test_bad_examples_are_named_in_one_line(data, message, packing):
    lm = text_model("decoder_only")
    with pytest.raises(ValueError, match=message) as caught:
        lm.fit(data, packing=packing, steps=1, progress=False)
    assert "\n" not in str(caught.value)


def test_a_template_that_changes_the_prompt_is_refused():
    tokenizer = _Templated(text_model("decoder_only").tokenizer, changes_prompt=True)
    with pytest.raises(ValueError, match="does not write the reply after its prompt"):
        encode_examples(tokenizer, CHATS)


@pytest.mark.slow
def test_the_longest_example_fills_a_row():
    lm = text_model("decoder_only")
    pairs = [("c" * 11, "d" * 8)]  # 20 ids with the end token, of which 19 are read
    assert fm.CausalLM.evaluate(lm, pairs)["tokens"] == 9
