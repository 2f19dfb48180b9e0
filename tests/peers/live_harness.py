"""The evaluation harness evaluates models of this package: `make test-peers`.

References are computed without the harness's code, from the logits of one request at a time.
"""

import json
import re
from pathlib import Path

import lm_eval
import numpy as np
import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from small_models import as_array, logits_of
from small_text_models import TEXT, model_that_writes, text_model
from test_harness import reference

import builders
import functional_models as fm
from functional_models.hugging_face.tokenizers import read_tokenizer
from functional_models.row_scores import RowScorer

pytestmark = pytest.mark.filterwarnings("ignore")

ROOT = Path(__file__).parent.parent.parent
TOKENIZERS = ROOT / "tests" / "golden_tokenizers"
LONGEST = 19
"""The maximum length of `text_model`."""

LETTERS = b"abcdefghijklmnopqrstuvwxyz"
PAIRS = [
    ("the quick", " brown fox"),
    ("the quick brown", " fox"),
    ("the lazy ", "dog"),  # whose space belongs to the continuation
    ("", "the"),
    (" ", "the"),
    ("a", "b"),
    ("the quick brown fox jumps over", " the"),  # of which the model reads the end
    ("x" * 40, "y" * LONGEST),  # as many as it can read, after one more
    ("the", " quick brown fox"),
]


def ask(model, kind, *arguments, **options):
    """Return the answers of a model to requests of one kind."""
    requests = [Instance(kind, {}, of_request, 0) for of_request in arguments]
    return getattr(model, kind)(requests, disable_tqdm=True, **options)


def random_model(tokenizer=None, seed=0, **changes):
    """Return a model of random weights, whose predictions differ from place to place."""
    # In one layer, it would make no difference what a prefix attends to.
    lm = text_model("decoder_only", seed, **{"dropout": 0.0, "num_layers": 2, **changes})
    if tokenizer is not None:
        size, pad = tokenizer.vocabulary_size, tokenizer.pad_id
        lm = fm.CausalLM(lm.spec.replace(vocabulary_size=size, pad_token_id=pad), tokenizer)
    rng = np.random.default_rng(seed)
    for weight in lm.model.trainable_weights:
        values = rng.normal(size=weight.shape, scale=0.5)
        if weight.path == "logits/kernel" and tokenizer is None:
            values[:, list(LETTERS)] *= 4  # so that bytes are whole characters
        weight.assign(values)
    return lm


@pytest.fixture(scope="module")
def lm():
    return random_model()


@pytest.fixture(scope="module")
def model(lm):
    return fm.harness_model(lm)


def assert_equal_answers(found, expected):
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    totals = [total for total, _ in expected]
    np.testing.assert_allclose([total for total, _ in found], totals, rtol=2e-5)


# --- log-likelihoods of continuations ----------------------------------------------------------


def reference_of_bytes(lm, context, continuation):
    """Return the answer to a request of a model on bytes, whose end token is 3."""
    words = context.rstrip()
    before, after = [*words.encode()] or [3], [*(context[len(words) :] + continuation).encode()]
    return reference(lm, before[-(LONGEST + 1 - len(after)) :], after)


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


def rolling_reference(lm, text):
    """Return the log-likelihood of a text of bytes, window after window, after the end token."""
    tokens = [3, *text.encode()]
    total, done = 0.0, 1
    while done < len(tokens):
        end = min(done + LONGEST, len(tokens))
        start = max(0, end - 1 - LONGEST)  # a later window is full, and begins before `done`
        total += reference(lm, tokens[start:done], tokens[done:end])[0]
        done = end
    return total


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


# --- the harness's own model -------------------------------------------------------------------


def random_published(family, tokenizer):
    """Return a small model of a family, with more logits than the tokenizer has tokens."""
    size = tokenizer.vocabulary_size
    sizes = {"num_layers": 2, "hidden_dim": 24, "num_heads": 2, "num_key_value_heads": 2}
    sizes |= {"head_dim": 12, "intermediate_dim": 31, "max_sequence_length": 41}
    spec = builders.variant(family).replace(vocabulary_size=size + 5, pad_token_id=None, **sizes)
    lm = fm.CausalLM(spec, tokenizer)
    rng = np.random.default_rng(17)
    for weight in lm.model.trainable_weights:
        values = as_array(weight) + rng.normal(size=weight.shape, scale=0.3)
        # Logits of 0, which transformers would otherwise generate tokens of.
        if weight.shape[0] == size + 5:
            values[size:] = 0
        if weight.shape[-1] == size + 5:
            values[..., size:] = 0
        weight.assign(values)
    return lm


@pytest.mark.parametrize(
    ("name", "family"), [("gpt2", "gpt2_small"), ("llama3", "llama3_8b"), ("qwen", "qwen3_0.6b")]
)
def test_the_answers_are_those_of_a_folder_of_hugging_face(name, family, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("accelerate")
    from lm_eval.models.huggingface import HFLM

    tokenizer = read_tokenizer(TOKENIZERS / name)
    lm = random_published(family, tokenizer)
    fm.to_hugging_face(lm, tmp_path / "folder")
    # Its cache takes the wrong tokens of a text that is cut at several places, as in PAIRS.
    options = {"device": "cpu", "dtype": "float32", "batch_size": 3, "logits_cache": False}
    theirs = HFLM(pretrained=str(tmp_path / "folder"), **options)
    ours = fm.harness_model(lm, batch_size=3)
    assert ours.prefix_token_id == theirs.prefix_token_id
    pairs = [*PAIRS[:4], PAIRS[-1], (TEXT, " the"), (TEXT[:75], " quick brown fox"), ("the", " A")]
    expected = ask(theirs, "loglikelihood", *pairs)
    assert_equal_answers(ask(ours, "loglikelihood", *pairs), expected)
    if not tokenizer.input_start:  # which `HFLM` would have twice
        texts = [(TEXT[:30],), (TEXT,), (TEXT[7:99],)]
        expected = ask(theirs, "loglikelihood_rolling", *texts)
        np.testing.assert_allclose(ask(ours, "loglikelihood_rolling", *texts), expected, rtol=2e-5)
    kwargs = {"until": ["e"], "max_gen_toks": 11}
    requests = [(text, dict(kwargs)) for text in ("the quick", "the lazy", TEXT, "a")]
    assert ask(ours, "generate_until", *requests) == ask(theirs, "generate_until", *requests)


# --- whole runs --------------------------------------------------------------------------------

CHOICES = {
    "output_type": "multiple_choice",
    "doc_to_text": "{{question}}",
    "doc_to_choice": "choices",
    "doc_to_target": "answer",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc"}],
}
PERPLEXITY = {
    "output_type": "loglikelihood_rolling",
    "doc_to_text": "",
    "doc_to_target": "{{text}}",
    "metric_list": [{"metric": "byte_perplexity"}, {"metric": "bits_per_byte"}],
}
ANSWERS = {
    "output_type": "generate_until",
    "doc_to_text": "{{question}}",
    "doc_to_target": "{{reply}}",
    "generation_kwargs": {"until": ["o"], "max_gen_toks": 6},
    "metric_list": [{"metric": "exact_match"}],
}


def write_tasks(folder, documents):
    """Write a file of documents, and a task of each kind; return their `TaskManager`."""
    folder.mkdir()
    data = folder / "documents.json"
    data.write_text("\n".join(map(json.dumps, documents)))
    for name, task in {"choices": CHOICES, "perplexity": PERPLEXITY, "answers": ANSWERS}.items():
        source = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(data)}}}
        content = {"task": f"own_{name}", "test_split": "test", **source, **task}
        (folder / f"{name}.yaml").write_text(json.dumps(content))  # which is YAML too
    return TaskManager(include_path=str(folder), include_defaults=False)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")


@pytest.fixture(scope="module")
def trained():
    lm = text_model("decoder_only", dropout=0.0, hidden_dim=26)
    lm.fit(TEXT, steps=40, report_every=40, batch_size=7, learning_rate=0.02, progress=False)
    return lm


def test_a_run_has_the_metrics_of_a_trained_model(trained, tmp_path):
    words = ["quick", "brown", "fox", "jumps", "over", "the", "lazy"]
    documents = []
    for number, word in enumerate(words):
        question = "the quick brown fox jumps over the lazy"[: 3 + 4 * number]
        choices = [word, word[::-1], words[number - 1] + "s"]
        documents.append({"question": question, "choices": choices, "answer": number % 3})
        documents[-1] |= {"text": TEXT[number : 9 * number + 5], "reply": word[:2]}
    replies = [
        trained.generate(doc["question"][-13:], "greedy", max_new_tokens=6).split("o")[0]
        for doc in documents
    ]
    documents[2]["reply"] = replies[2]
    trained.save(tmp_path / "lm")
    model = fm.harness_model(fm.load(tmp_path / "lm"), batch_size=3)
    manager = write_tasks(tmp_path / "tasks", documents)
    names = ["own_choices", "own_perplexity", "own_answers"]
    run = {"tasks": names, "task_manager": manager, "bootstrap_iters": 0}
    found = lm_eval.simple_evaluate(model=model, **run)["results"]

    right = []
    for doc in documents:
        totals = [reference_of_bytes(trained, doc["question"], c)[0] for c in doc["choices"]]
        right.append(int(np.argmax(totals)) == doc["answer"])
    assert 0 < np.mean(right) < 1
    assert found["own_choices"]["acc,none"] == pytest.approx(np.mean(right))
    total = sum(rolling_reference(trained, doc["text"]) for doc in documents)
    size = sum(len(doc["text"]) for doc in documents)
    bits = -total / size / np.log(2)
    assert found["own_perplexity"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-5)
    assert found["own_perplexity"]["byte_perplexity,none"] == pytest.approx(2**bits, rel=1e-5)
    equal = [reply == doc["reply"] for reply, doc in zip(replies, documents, strict=True)]
    assert 0 < np.mean(equal) < 1
    assert found["own_answers"]["exact_match,none"] == pytest.approx(np.mean(equal))


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


def test_answers_come_from_the_cache_of_the_harness(trained, tmp_path, monkeypatch):
    document = {"question": "the quick", "choices": [" brown", " lazy"], "answer": 0}
    document |= {"text": TEXT[:31], "reply": " br"}
    manager = write_tasks(tmp_path / "tasks", [document])
    model = fm.harness_model(trained)
    run = {"model": model, "tasks": ["own_choices", "own_perplexity", "own_answers"]}
    run |= {"task_manager": manager, "bootstrap_iters": 0, "use_cache": str(tmp_path / "cache")}
    first = lm_eval.simple_evaluate(**run)["results"]

    def fail(*_):
        raise AssertionError("computed again")

    for name in ("_loglikelihood_tokens", "_continued"):
        monkeypatch.setattr(model, name, fail)
    assert lm_eval.simple_evaluate(**run)["results"] == first


def test_the_example_of_the_docs_runs(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "training.md").read_text("utf-8")
    section = page.partition("## The evaluation harness")[2].partition("\n## ")[0]
    task, documents, code = (
        re.search(rf"```{kind}\n(.*?)```", section, re.S)[1] for kind in ("yaml", "json", "python")
    )
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "capitals.yaml").write_text(task)
    (tmp_path / "capitals.jsonl").write_text(documents)
    trained.save("out/lm")
    exec(code, {})
    right = []
    for document in map(json.loads, documents.splitlines()):
        texts = [f" {choice}" for choice in document["choices"]]
        totals = [reference_of_bytes(trained, document["question"], t)[0] for t in texts]
        right.append(int(np.argmax(totals)) == document["answer"])
    assert float(capsys.readouterr().out.split()[-1]) == np.mean(right)
