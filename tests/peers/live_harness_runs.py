"""Whole runs of the evaluation harness, and answers of its own models: `make test-peers`."""

import json
import re

import lm_eval
import numpy as np
import pytest
from harness_requests import (
    PAIRS,
    ROOT,
    TOKENIZERS,
    ask,
    assert_equal_answers,
    reference_of_bytes,
    rolling_reference,
)
from lm_eval.tasks import TaskManager
from small_models import as_array
from small_text_models import TEXT, text_model

import builders
import functional_models as fm
from functional_models.hugging_face.tokenizers import read_tokenizer

pytestmark = pytest.mark.filterwarnings("ignore")

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
