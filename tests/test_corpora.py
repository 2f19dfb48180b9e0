"""Corpora: exact references, disjoint splits, and clear errors."""

import datetime
import random
import re
import sys
import types

import pytest
from babel.dates import format_date

from functional_models.corpora import (
    ParallelCorpus,
    TextCorpus,
    load_corpus,
    load_parallel_corpus,
    load_text_corpus,
    portuguese_english,
    python_docstrings,
)
from functional_models.corpora.kinds import KINDS, Values, split_of
from functional_models.corpora.portuguese_english import (
    KIND_WEIGHTS,
    LONGEST,
    MOST_WORDS,
    SENTENCES,
    SHAPE_WEIGHTS,
)


@pytest.fixture(scope="module")
def corpus():
    return portuguese_english(8_000)


@pytest.fixture(scope="module")
def docstrings():
    return python_docstrings()


# --- Portuguese -> English ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "source", "target"),
    [
        ("day_and_month", "vinte e um de abril", "April twenty-first"),
        ("day_and_month", "primeiro de maio", "May first"),
        ("day_and_month", "4 de março", "March 4"),
        ("ordinal_feminine", "21ª", "21st"),
        ("ordinal_masculine", "11º", "11th"),
        ("time", "14:35", "2:35 PM"),
        ("time", "00:05", "12:05 AM"),
        ("time", "duas e meia da tarde", "half past two in the afternoon"),
        ("percentage", "12,5%", "12.5%"),
        ("percentage", "doze vírgula cinco por cento", "twelve point five percent"),
        ("negative", "-42", "-42"),
        ("money", "R$ 900,00", "R$900.00"),
        ("money", "um dólar", "one dollar"),
        ("money", "novecentos reais", "nine hundred reais"),
        ("count", "duas casas", "two houses"),
        ("duration", "duas horas", "two hours"),
        ("length", "3 quilômetros", "3 kilometers"),
        ("temperature", "-8 graus Celsius", "-8 degrees Celsius"),
    ],
)
def test_kinds_draw_known_pairs(kind, source, target):
    values = Values(random.Random(0), "train")
    drawn = {}
    for _ in range(20_000):
        item = KINDS[kind].draw(values)
        for phrase in (item.figures, item.words):
            if phrase is not None:
                drawn[phrase.source] = phrase.target
        if source in drawn:
            break
    assert drawn.get(source) == target


def test_every_kind_has_a_weight_and_every_slot_a_kind():
    assert set(KIND_WEIGHTS) == set(KINDS)
    roles = {kind.role for kind in KINDS.values()}
    for template in SENTENCES:
        slots = [[part.split("}")[0] for part in side.split("{")[1:]] for side in template]
        assert slots[0] == slots[1]
        assert set(slots[0]) <= roles


def test_full_dates_are_those_of_cldr():
    values = Values(random.Random(0), "train")
    for _ in range(50):
        figures = KINDS["date_full"].draw(values).figures
        day = datetime.datetime.strptime(figures.target, "%A, %B %d, %Y").date()
        assert figures.source == format_date(day, "full", locale="pt_BR")
        assert figures.target == format_date(day, "full", locale="en_US")


@pytest.mark.slow
def test_no_source_has_two_targets():
    targets = {}
    for seed in range(3):
        corpus = portuguese_english(8_000, seed=seed)
        for source, target in corpus.train + corpus.validation + corpus.test:
            assert targets.setdefault(source, target) == target


def test_no_item_has_two_targets():
    values = Values(random.Random(0), "train")
    targets = {}
    for kind in KINDS.values():
        for _ in range(500):
            item = kind.draw(values)
            phrases = [("alone", phrase) for phrase in (item.figures, item.words) if phrase]
            for shape, phrase in phrases:
                assert targets.setdefault((shape, phrase.source), phrase.target) == phrase.target
            if item.words and item.reversible:
                key = ("in figures", item.words.source)
                assert targets.setdefault(key, item.figures.target) == item.figures.target
            if item.words:
                key = ("in words", item.figures.source)
                assert targets.setdefault(key, item.words.target) == item.words.target


def test_held_out_sources_do_not_occur_in_training(corpus):
    parts = [
        {source for source, _ in part} for part in (corpus.train, corpus.validation, corpus.test)
    ]
    assert [len(part) for part in parts] == [8_000, 800, 800]  # no source occurs twice
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]


def test_held_out_values_do_not_occur_in_training(corpus):
    dated = re.compile(r"\b(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)")

    def large_numbers(pairs):
        # A year in a date is part of the date, which is held out as a whole.
        pairs = [(source, target) for source, target in pairs if not dated.search(target)]
        words = [word.strip(".:%$") for _, target in pairs for word in target.split()]
        numbers = [word.strip("R$€.").replace(",", "") for word in words]
        return {n for n in numbers if n.isdigit() and len(n.strip("0")) >= 4}

    held_out = large_numbers(corpus.test)
    assert len(held_out) > 50
    assert not held_out & large_numbers(corpus.train)
    assert all(split_of(number) == "test" for number in held_out)


def test_held_out_dates_do_not_occur_in_training(corpus):
    def dates(pairs):
        pairs = [pair for pair in pairs if "–" not in pair[1]]  # an interval is held out as a whole
        pattern = r"\b[JFMASOND][a-z]{2,8} \d+, \d{4}"
        return {date for _, target in pairs for date in re.findall(pattern, target)}

    assert len(dates(corpus.test)) > 50
    assert not dates(corpus.test) & dates(corpus.train)


def test_splits_have_the_same_mixture_of_kinds(corpus):
    def shares(pairs):
        beginnings = ("por extenso", "em algarismos", "O ", "A ", "em ")
        counts = [sum(source.startswith(b) for source, _ in pairs) for b in beginnings]
        return [count / len(pairs) for count in counts]

    for share, held_out in zip(shares(corpus.train), shares(corpus.test), strict=True):
        assert held_out == pytest.approx(share, abs=0.05)


def test_pairs_are_short_and_clean(corpus):
    for pair in corpus.train + corpus.validation + corpus.test:
        for text in pair:
            assert 0 < len(text) <= LONGEST
            assert len(text.split()) <= MOST_WORDS
            assert text == " ".join(text.split())
            assert text.isprintable()
            assert "{" not in text


def test_every_shape_and_sentence_occurs(corpus):
    sources = [source for source, _ in corpus.train]
    for source, _ in SENTENCES:
        assert any(s.startswith(source.split("{")[0]) for s in sources)
    assert set(SHAPE_WEIGHTS) == {"alone", "sentence", "in_words", "in_figures"}


def test_pairs_depend_on_the_seed_and_fewer_pairs_are_a_prefix(corpus):
    fewer = portuguese_english(300)
    assert portuguese_english(300) == fewer
    assert corpus.train[:300] == fewer.train
    assert corpus.test[: len(fewer.test)] == fewer.test
    assert portuguese_english(300, seed=1).train != fewer.train


def test_a_corpus_of_no_pairs_raises():
    with pytest.raises(ValueError, match="at least 1, got 0"):
        portuguese_english(0)


# --- docstrings -----------------------------------------------------------------------------------


def test_docstrings_are_english_text_of_known_modules(docstrings):
    text = "\n".join(docstrings.train + docstrings.validation)
    assert len(text) > 1_000_000
    assert (
        "Return a deep copy" not in docstrings.train
    )  # documents are modules, not single docstrings
    assert "Counter" in text
    assert "Turn argparse" not in text
    assert text.count(" the ") > 5_000


def test_docstrings_are_split_by_module_without_duplicates(docstrings):
    assert len(docstrings.train) > 5 * len(docstrings.validation) > 50
    documents = docstrings.train + docstrings.validation
    assert len(set(documents)) == len(documents)
    trained = set("\n\n".join(docstrings.train).split("\n\n"))
    held_out = [part for part in "\n\n".join(docstrings.validation).split("\n\n") if len(part) > 99]
    assert sum(part in trained for part in held_out) < 0.02 * len(held_out)


def test_docstrings_are_read_without_importing_modules(tmp_path, monkeypatch):
    (tmp_path / "package" / "tests").mkdir(parents=True)
    (tmp_path / "site-packages").mkdir()
    long = "This is a docstring that is long enough to be kept."
    source = (
        f'"""Module. {long}"""\nraise SystemExit\nclass A:\n    """Class. {long}"""\n'
        f"    if True:\n        async def f(self):\n            '''Method. {long}'''\n"
        f'def g():\n    """Function. {long}"""\ndef h():\n    """Short."""\n'
        f'def again():\n    """Function. {long}"""\n'
    )
    (tmp_path / "package" / "a.py").write_text(source)
    (tmp_path / "package" / "bad.py").write_text("def (")
    (tmp_path / "package" / "tests" / "b.py").write_text(source.replace("long", "LONG"))
    (tmp_path / "site-packages" / "c.py").write_text(source.replace("long", "LONG"))
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    corpus = python_docstrings.__wrapped__(validation_fraction=0)
    parts = [f"{owner}. {long}" for owner in ("Module", "Class", "Method", "Function")]
    assert corpus == TextCorpus("python_docstrings", ("\n\n".join(parts),), ())


def test_a_python_without_sources_raises(tmp_path, monkeypatch):
    monkeypatch.setattr("sysconfig.get_path", lambda name: str(tmp_path))
    with pytest.raises(FileNotFoundError, match="no docstrings in"):
        python_docstrings.__wrapped__()


# --- load_* ---------------------------------------------------------------------------------------


@pytest.mark.slow  # builds the corpus again
def test_embedded_loads_the_docstrings(docstrings):
    assert load_text_corpus("embedded") == docstrings


@pytest.mark.slow  # generates all pairs again
def test_embedded_loads_the_generated_pairs(corpus):
    assert load_parallel_corpus("embedded").train[:1000] == corpus.train[:1000]


def test_the_last_tenth_of_a_text_is_held_out(tmp_path):
    text = "".join(random.Random(0).choices("abc \n", k=997))
    (tmp_path / "a.txt").write_text(text)
    corpus = load_text_corpus(tmp_path / "a.txt")
    assert corpus == TextCorpus("a.txt", (text[:897],), (text[897:],))


def test_several_texts_are_several_documents(tmp_path):
    for name in "ab":
        (tmp_path / name).write_text(name * 10)
    corpus = load_text_corpus([tmp_path / "a", str(tmp_path / "b")], validation_fraction=0.2)
    assert corpus.train == ("a" * 8, "b" * 8)
    assert corpus.validation == ("aa", "bb")


def test_text_files_for_validation_and_test_are_used_completely(tmp_path):
    for name in "abc":
        (tmp_path / name).write_text(name * 10)
    files = {"validation": str(tmp_path / "b"), "test": [tmp_path / "c", tmp_path / "b"]}
    corpus = load_text_corpus(tmp_path / "a", **files)
    assert corpus == TextCorpus("a", ("a" * 10,), ("b" * 10,), ("c" * 10, "b" * 10))
    assert load_corpus(tmp_path / "a", "decoder_only", **files) == corpus
    corpus = load_text_corpus(tmp_path / "a", test=tmp_path / "c")
    assert corpus == TextCorpus("a", ("a" * 9,), ("a",), ("c" * 10,))


def test_the_names_of_files_choose_text_or_pairs(tmp_path):
    pairs = write_pairs(tmp_path / "a.tsv", 47)
    assert load_corpus(pairs, test=pairs) == load_parallel_corpus(pairs, test=pairs)
    assert load_corpus((pairs, pairs)) == load_parallel_corpus([pairs, pairs])
    assert load_corpus(pairs, "decoder_only") == load_text_corpus(pairs)


def write_pairs(path, number):
    path.write_text("".join(f"fonte {i}\tsource {i}\n" for i in range(number)))
    return path


def test_pairs_without_validation_files_are_held_out_by_source(tmp_path):
    path = write_pairs(tmp_path / "a.tsv", 100)
    path.write_text(path.read_text() * 2)  # every source occurs twice
    corpus = load_parallel_corpus(path)
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [180, 10, 10]
    assert len({*corpus.train, *corpus.validation, *corpus.test}) == 100
    assert not set(corpus.train) & {*corpus.validation, *corpus.test}
    assert load_parallel_corpus(path) == corpus


def test_validation_and_test_files_are_used_completely(tmp_path):
    train, validation = write_pairs(tmp_path / "a.tsv", 9), write_pairs(tmp_path / "b.tsv", 4)
    corpus = load_parallel_corpus(train, validation=validation)
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [9, 4, 0]
    corpus = load_parallel_corpus(str(train), test=[validation])
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [8, 1, 4]


def test_two_aligned_files_are_a_parallel_corpus(tmp_path):
    (tmp_path / "a.pt").write_text("um\ndois\ntrês\n", encoding="utf-8")
    (tmp_path / "a.en").write_text("one\ntwo\nthree\n")
    corpus = load_parallel_corpus((tmp_path / "a.pt", tmp_path / "a.en"), held_out_fraction=0)
    pairs = (("um", "one"), ("dois", "two"), ("três", "three"))
    assert corpus == ParallelCorpus("a.pt and a.en", pairs, (), ())


def test_bad_sources_raise(tmp_path):
    path = write_pairs(tmp_path / "a.tsv", 2)
    with pytest.raises(ValueError, match="2 distinct sources are too few"):
        load_parallel_corpus(path)
    with pytest.raises(ValueError, match=r"one \.tsv file or two aligned files, got 3"):
        load_parallel_corpus([path, path, path])
    for load in (load_text_corpus, load_parallel_corpus):
        with pytest.raises(ValueError, match="'embedded' has its own held-out part"):
            load("embedded", test=path)
    with pytest.raises(ValueError, match=r"validation_fraction must be .* got 1"):
        load_text_corpus(path, validation_fraction=1)
    with pytest.raises(ValueError, match="at least one text file"):
        load_text_corpus([])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load_text_corpus("nowhere")


# --- TensorFlow Datasets, mocked ------------------------------------------------------------------


@pytest.fixture
def datasets(monkeypatch):
    """Mock `tensorflow_datasets`, which is optional and needs a network."""
    splits = {
        "pairs": {"train": [{"pt": f"{i}a".encode(), "en": b"x"} for i in range(40)], "test": []},
        "texts": {"train": [{"text": b"0123456789"}]},
        "labels": {"train": [{"label": 1}]},
    }

    class Builder:
        def __init__(self, name):
            if name not in splits:
                raise ValueError(f"Failed to find {name}\ntraceback")
            self.splits = splits[name]
            features = self.splits["train"][0]
            keys = ("pt", "en") if name == "pairs" else None
            self.info = types.SimpleNamespace(
                splits=self.splits, features=features, supervised_keys=keys
            )

        def download_and_prepare(self):
            pass

        def as_dataset(self, split):
            return self.splits[split]

    module = types.SimpleNamespace(builder=Builder, as_numpy=iter)
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", module)


@pytest.mark.usefixtures("datasets")
def test_data_sets_are_loaded_by_name():
    corpus = load_parallel_corpus("tfds:pairs")
    assert [len(part) for part in (corpus.train, corpus.validation, corpus.test)] == [38, 2, 0]
    assert load_text_corpus("tfds:texts") == TextCorpus("texts", ("012345678",), ("9",))


@pytest.mark.usefixtures("datasets")
def test_unsuitable_data_sets_raise():
    with pytest.raises(ValueError, match=r"no data set 'nothing' \(Failed to find nothing\)"):
        load_text_corpus("tfds:nothing")
    with pytest.raises(ValueError, match="no column named text, but label"):
        load_text_corpus("tfds:labels")
    with pytest.raises(ValueError, match="not a parallel corpus"):
        load_parallel_corpus("tfds:texts")


def test_missing_tensorflow_datasets_raises_with_the_package_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r"pip install tensorflow-datasets"):
        load_text_corpus("tfds:tiny_shakespeare")
