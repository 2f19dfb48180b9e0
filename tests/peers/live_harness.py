"""The evaluation harness evaluates models of this package: `make test-peers`.

References are computed without the harness's code, from the logits of one request at a time.
"""

import numpy as np
import pytest
from harness_requests import (
    LONGEST,
    PAIRS,
    TOKENIZERS,
    ask,
    assert_equal_answers,
    random_model,
    reference_of_bytes,
    rolling_reference,
)
from small_models import logits_of
from small_text_models import TEXT, model_that_writes
from test_harness import reference

import functional_models as fm
from functional_models.hugging_face.tokenizers import read_tokenizer
from functional_models.row_scores import RowScorer

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def lm():
    return random_model()


@pytest.fixture(scope="module")
def model(lm):
    return fm.harness_model(lm)


# --- log-likelihoods of continuations ----------------------------------------------------------


@pytest.mark.parametrize("prefix_lm", [False, True])
@pytest.mark.parametrize("batch_size", [1, 4, 32])
def test_log_likelihoods_are_those_of_each_request_alone(batch_size, prefix_lm):
    lm = random_model(prefix_lm=prefix_lm)
    greedy = lm.generate("the quick", "greedy", max_new_tokens=1)
    pairs = [*PAIRS, ("the quick", greedy)]
    expected = [reference_of_bytes(lm, *pair) for pair in pairs]
    assert [flag for _, flag in expected] == [False] * len(PAIRS) + [True]
    found = ask(fm.harness_model(lm, batch_size=batch_size), "loglikelihood", *pairs)
    assert_equal_answers(found, expected)


def test_choices_that_differ_in_the_last_token_are_scored_with_one_row(lm, monkeypatch):
    rows = []
    score = RowScorer.__call__
    monkeypatch.setattr(
        RowScorer,
        "__call__",
        lambda self, given, size: rows.extend(given) or score(self, given, size),
    )
    pairs = [("the quick", letter) for letter in "ABCD"]
    pairs += [("the quic", "kA"), ("the quick", " A")]
    found = ask(fm.harness_model(lm), "loglikelihood", *pairs)
    assert len(rows) == 2
    assert_equal_answers(found, [reference_of_bytes(lm, *pair) for pair in pairs])


def test_weights_and_adapters_that_come_later_are_seen():
    lm = random_model(seed=3)
    model = fm.harness_model(lm)
    before = ask(model, "loglikelihood", PAIRS[0])
    lm.enable_lora(rank=2)
    rng = np.random.default_rng(5)
    for weight in lm.model.trainable_weights:
        weight.assign(rng.normal(size=weight.shape))
    found = ask(model, "loglikelihood", PAIRS[0])
    assert_equal_answers(found, [reference_of_bytes(lm, *PAIRS[0])])
    assert found != before


def test_a_cut_is_reported_once(model, caplog):
    ask(model, "loglikelihood", *PAIRS)
    ask(model, "generate_until", ("x" * 40, {"max_gen_toks": 5}))
    ask(model, "loglikelihood", PAIRS[0])
    # The longest has 59 bytes, of which the model reads 19 and predicts the last.
    assert [record.getMessage().partition(" tokens")[0] for record in caplog.records] == [
        "2 requests are longer than the model can read, and are cut on the left, by up to 39",
        "1 requests are longer than the model can read, and are cut on the left, by up to 26",
    ]


def test_continuations_without_tokens_or_with_too_many_are_refused(model):
    with pytest.raises(ValueError, match="continuation '' has 0 tokens; a continuation has"):
        ask(model, "loglikelihood", ("a", ""))
    with pytest.raises(ValueError, match="has 20 tokens; a continuation has 1 to 19"):
        ask(model, "loglikelihood", ("a", "y" * (LONGEST + 1)))


# --- tokens ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def byte_pair():
    return fm.train_tokenizer("byte_pair", [TEXT, "hello (A) (B) world"] * 5, 300)


def test_a_token_that_would_span_both_texts_is_split(byte_pair):
    lm = random_model(byte_pair)
    (whole,) = byte_pair.encode(["the quick"])
    assert len(whole) == 2  # "the" and " quick"
    pairs = [("th", "e quick"), ("the qu", "ick"), ("the", " quick")]
    expected = []
    for pair in pairs:
        before, after = (ids.tolist() for ids in byte_pair.encode(list(pair)))
        expected.append(reference(lm, before, after))
    assert_equal_answers(ask(fm.harness_model(lm), "loglikelihood", *pairs), expected)


@pytest.mark.parametrize("at", range(1, 24))
def test_no_text_is_lost_between_context_and_continuation(byte_pair, at):
    model = fm.harness_model(random_model(byte_pair))
    text = "the quick hello  world\nfox"
    before, after = model._encode_pair(text[:at], text[at:])
    assert after
    assert byte_pair.decode([[*before, *after]]) == [text]


START = "<|begin_of_text|>"


@pytest.mark.parametrize("context", ["the quick", f"{START}the quick"])
def test_the_start_token_is_put_once(context):
    tokenizer = read_tokenizer(TOKENIZERS / "llama3")
    lm = random_model(tokenizer)
    (start,) = tokenizer.input_start
    before, after = (ids.tolist() for ids in tokenizer.encode(["the quick", " brown"]))
    found = ask(fm.harness_model(lm), "loglikelihood", (context, " brown"))
    assert_equal_answers(found, [reference(lm, [start, *before], after)])
    options = {"max_gen_toks": 3}
    assert ask(fm.harness_model(lm), "generate_until", (context, options)) == [
        lm.generate("the quick", "greedy", max_new_tokens=3)
    ]


@pytest.mark.parametrize("text", [" brown", f"{START} brown"])
def test_without_a_context_a_text_follows_the_start_token(text):
    tokenizer = read_tokenizer(TOKENIZERS / "llama3")
    lm = random_model(tokenizer)
    model = fm.harness_model(lm)
    (start,) = tokenizer.input_start
    assert model.prefix_token_id == start != model.eot_token_id == tokenizer.end_id
    (ids,) = tokenizer.encode([" brown"])
    expected = reference(lm, [start], ids.tolist())
    assert_equal_answers(ask(model, "loglikelihood", ("", text)), [expected])
    (total,) = ask(model, "loglikelihood_rolling", (text,))
    assert total == pytest.approx(expected[0], rel=2e-5)


# --- log-likelihoods of texts ------------------------------------------------------------------


@pytest.mark.parametrize("prefix_lm", [False, True])
def test_every_token_of_a_text_is_predicted_once_and_texts_are_apart(prefix_lm):
    lm = random_model(prefix_lm=prefix_lm)
    lengths = (0, 1, LONGEST - 1, LONGEST, LONGEST + 1, 2 * LONGEST, 61)
    texts = [TEXT[n : 2 * n] for n in lengths]
    found = ask(fm.harness_model(lm, batch_size=3), "loglikelihood_rolling", *[(t,) for t in texts])
    expected = [rolling_reference(lm, text) for text in texts]
    np.testing.assert_allclose(found, expected, rtol=2e-5)


# --- generation --------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix_lm", [False, True])
def test_texts_are_those_of_generate_up_to_a_stop(prefix_lm):
    lm = random_model(seed=7, prefix_lm=prefix_lm)
    prompts = ["the", "quick brown", "f", "jumps", "the lazy d"]
    whole = lm.generate(prompts, "greedy", max_new_tokens=8)
    alone = [lm.generate(prompt, "greedy", max_new_tokens=8) for prompt in prompts]
    assert whole == alone
    stops = [text[i : i + 1 + i % 2] for i, text in enumerate(whole)]
    requests = [
        (prompt, {"until": [stop, "~~"], "max_gen_toks": 8})
        for prompt, stop in zip(prompts, stops, strict=True)
    ]
    requests += [(prompt, {"until": stops[0], "max_gen_toks": 8}) for prompt in prompts]
    requests += [("the", {"until": [], "max_gen_toks": 5})]
    expected = [text.split(stop)[0] for text, stop in zip(whole, stops, strict=True)]
    expected += [text.split(stops[0])[0] for text in whole]
    expected += [lm.generate("the", "greedy", max_new_tokens=5)]
    assert len(set(expected)) > len(prompts)
    assert ask(fm.harness_model(lm, batch_size=2), "generate_until", *requests) == expected


def test_a_context_that_leaves_no_room_is_cut_on_the_left(lm, model):
    text = TEXT[:31]
    found = ask(model, "generate_until", (text, {"max_gen_toks": 7}), (text, {}))
    assert model.max_gen_toks == 9
    assert found == [
        lm.generate(text[-12:], "greedy", max_new_tokens=7),
        lm.generate(text[-10:], "greedy", max_new_tokens=9),
    ]


def test_an_empty_context_is_the_end_token(lm, model):
    tokens = [3]
    for _ in range(4):
        tokens.append(int(logits_of(lm.model, np.array([tokens], "int32"))[0, -1].argmax()))
    assert 3 not in tokens[1:]
    expected = lm.tokenizer.decode([tokens[1:]])
    assert ask(model, "generate_until", ("", {"max_gen_toks": 4})) == expected


def test_generation_ends_when_every_text_has_its_stop(monkeypatch):
    """The model would write 400 tokens, of which few are computed."""
    text = "ab stop " + "c" * 500
    tokens = [*b"x", *text.encode()]
    lm = model_that_writes(tokens, fm.train_tokenizer("byte", []), len(tokens) + 9)
    seen = []
    stream = type(lm._generator).stream

    def watched(self, *arguments, **options):
        for rows in stream(self, *arguments, **options):
            seen.append(max(map(len, rows)))
            yield rows

    monkeypatch.setattr(type(lm._generator), "stream", watched)
    requests = [("x", {"until": ["stop"], "max_gen_toks": 400})] * 2
    assert ask(fm.harness_model(lm), "generate_until", *requests) == ["ab ", "ab "]
    assert seen[-1] < 100


def test_draws_depend_on_the_seed_of_numpy_and_differ_in_a_batch(lm, model):
    requests = [("the", {"do_sample": True, "temperature": 1.5, "max_gen_toks": 7})] * 5

    def drawn(seed):
        np.random.seed(seed)
        return ask(model, "generate_until", *requests)

    first = drawn(11)
    assert len(set(first)) > 1
    assert drawn(11) == first != drawn(13)
    likeliest = {"do_sample": True, "temperature": 1.5, "top_k": 1, "max_gen_toks": 7}
    assert ask(model, "generate_until", ("the", likeliest)) == [
        lm.generate("the", "greedy", max_new_tokens=7)
    ]


def test_unknown_options_are_refused_before_anything_is_generated(model):
    with pytest.raises(ValueError, match="unknown option of generation 'penalty_alpha'"):
        ask(model, "generate_until", ("the", {}), ("the", {"penalty_alpha": 0.5}))


# --- conversations -----------------------------------------------------------------------------

MESSAGES = [
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ho"},
    {"role": "user", "content": "a"},
]


def test_chats_are_those_of_the_model():
    tokenizer = read_tokenizer(TOKENIZERS / "llama3")
    text = tokenizer.format_chat(MESSAGES)
    prompt, reply, end, rest = tokenizer.encode([text, "The dog.", "<|eot_id|>", " and more"])
    tokens = [*prompt, *reply, *end, *rest]
    lm = model_that_writes(tokens, tokenizer, len(tokens) + 9)
    model = fm.harness_model(lm)
    assert model.apply_chat_template(MESSAGES) == text
    assert text.startswith(START)
    options = {"until": [], "max_gen_toks": 9}
    assert ask(model, "generate_until", (text, options)) == ["The dog."]
    assert lm.chat(MESSAGES, "greedy", max_new_tokens=9) == "The dog."
    continued = model.apply_chat_template(MESSAGES, add_generation_prompt=False)
    assert continued.endswith("\n\na")
    assert model.tokenizer_name.startswith("hugging_face-")


def test_a_special_token_can_be_a_stop():
    tokenizer = read_tokenizer(TOKENIZERS / "llama3")
    stop = "<|start_header_id|>"
    tokens = np.concatenate(tokenizer.encode([f"{START}The dog", " ran", stop, " and more"]))
    lm = model_that_writes(tokens, tokenizer, len(tokens) + 9)
    options = {"until": [stop], "max_gen_toks": 9}
    assert ask(fm.harness_model(lm), "generate_until", ("The dog", options)) == [" ran"]


def test_a_tokenizer_without_a_chat_template_says_so(model):
    with pytest.raises(ValueError, match="a byte tokenizer has no chat template"):
        model.apply_chat_template(MESSAGES)


# --- the cache --------------------------------------------------------------------------------


def test_each_answer_is_stored_as_soon_as_it_is_known(lm, model, monkeypatch):
    class Hook:
        def __init__(self):
            self.stored = []

        def add_partial(self, *entry):
            self.stored.append(entry)

    monkeypatch.setattr(model, "cache_hook", hook := Hook())
    options = {"until": ["e"], "max_gen_toks": 3}
    for kind, arguments in {
        "loglikelihood": PAIRS,
        "loglikelihood_rolling": [(TEXT[:23],), (TEXT[:50],)],
        "generate_until": [("the", options), ("quick", options)],
    }.items():
        hook.stored.clear()
        found = ask(model, kind, *arguments)
        for of_request, answer in zip(arguments, found, strict=True):
            assert (kind, of_request, answer) in hook.stored
        assert len(hook.stored) == len(arguments)
