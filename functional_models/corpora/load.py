"""Load corpora: embedded, from local files, or from TensorFlow Datasets."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from functional_models.checks import check_path
from functional_models.corpora.corpus import Corpus, Pair, ParallelCorpus, TextCorpus
from functional_models.corpora.docstrings import python_docstrings
from functional_models.corpora.portuguese_english import portuguese_english
from functional_models.corpora.stored import (
    StoredPairs,
    StoredTexts,
    stored_pairs,
    stored_texts,
)
from functional_models.corpora.text_files import StrPath, read_pairs, store_files

EMBEDDED = "embedded"
TFDS = "tfds:"

Files = StrPath | Sequence[StrPath]


def is_named(source: Any) -> bool:
    """Return whether a source is `embedded` or `tfds:NAME`, not files."""
    return source == EMBEDDED or (isinstance(source, str) and source.startswith(TFDS))


def load_text_corpus(
    source: Files = EMBEDDED,
    *,
    validation: Files | None = None,
    test: Files | None = None,
    validation_fraction: float = 0.1,
    progress: bool = True,
) -> TextCorpus:
    """Load text for language modelling.

    Args:
        source: `"embedded"` (the docstrings of Python's standard library), the path of a text file
            or of several, plain or `.gz`, or `"tfds:NAME"`, a data set of TensorFlow Datasets.
        validation, test: further files. With `validation`, all of `source` is for training.
        validation_fraction: held-out share for sources without a validation split. Of a file it is
            the end: as in nanoGPT, n characters are split at `int(n * (1 - validation_fraction))`.
        progress: show the progress with files that take more than a second to read.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: no file; a file is empty or not UTF-8; a fraction out of range; `validation` or
            `test` given for a corpus with its own; the data set is unknown or has no text.
        ImportError: `tfds:` without the extra `datasets`.
    """
    _check_fraction("validation_fraction", validation_fraction)
    if is_named(source):
        _check_own_splits(source, validation, test)
        if source == EMBEDDED:
            return python_docstrings(validation_fraction)
        return _tfds_text(str(source).removeprefix(TFDS), validation_fraction)
    name, texts = _read_texts(source, progress)
    if validation is not None:
        held_out = _read_texts(validation, progress)[1]
    else:
        texts, held_out = texts.split(1 - validation_fraction)
    tested = () if test is None else _read_texts(test, progress)[1]
    return TextCorpus(name, texts.not_blank(), held_out.not_blank(), tested)


def load_parallel_corpus(
    source: Files = EMBEDDED,
    *,
    validation: Files | None = None,
    test: Files | None = None,
    held_out_fraction: float = 0.05,
    progress: bool = True,
) -> ParallelCorpus:
    """Load sentence pairs for translation.

    Of files without `validation`, a share of the training pairs is held out for it, and another
    for `test` if both are omitted. With `validation` but without `test` there are no test pairs.
    Pairs are held out by a hash of their source, so that equal sources are in the same split.

    Args:
        source: `"embedded"` (Portuguese -> English numbers, dates and times), the path of a `.tsv`
            file, the paths of two aligned files, plain or `.gz`, or `"tfds:NAME"`.
        validation, test: further files.
        held_out_fraction: held-out share of the training pairs without such files.
        progress: as for `load_text_corpus`.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: invalid files, see `text_files.read_pairs`; too few distinct sources to split;
            `validation` or `test` given for a corpus with its own; the data set is unknown or not
            parallel.
        ImportError: `tfds:` without the extra `datasets`.
    """
    if is_named(source):
        _check_own_splits(source, validation, test)
        if source == EMBEDDED:
            return portuguese_english()
        return _tfds_parallel(str(source).removeprefix(TFDS), held_out_fraction)
    _check_fraction("held_out_fraction", held_out_fraction)
    pairs: StoredPairs = _read_parallel(source, progress)
    held_out: list[Sequence[Pair]] = [
        () if files is None else _read_parallel(files, progress) for files in (validation, test)
    ]
    if validation is None:
        splits = 1 if test is not None else 2
        pairs, *parts = _hold_out(pairs, held_out_fraction, splits)
        held_out[:splits] = parts
    name = " and ".join(Path(path).name for path in _as_sequence(source))
    return ParallelCorpus(name, pairs, held_out[0], held_out[1])


def load_corpus(
    source: Files = EMBEDDED,
    kind: str | None = None,
    *,
    validation: Files | None = None,
    test: Files | None = None,
    progress: bool = True,
) -> Corpus:
    """Load text or sentence pairs.

    Args:
        source: as for `load_text_corpus` and `load_parallel_corpus`.
        kind: the kind of model to train, `decoder_only` or `encoder_decoder`; by default the one
            that the names of the files show, and `encoder_decoder` for named corpora.
        validation, test: further files, as for these functions.
        progress: as for these functions.

    Raises:
        FileNotFoundError, ValueError, ImportError: as these functions.
    """
    if (kind or kind_of_data(source) or "encoder_decoder") == "encoder_decoder":
        return load_parallel_corpus(source, validation=validation, test=test, progress=progress)
    return load_text_corpus(source, validation=validation, test=test, progress=progress)


def kind_of_data(data: Files) -> str | None:
    """Return the kind of model for these files, or `None` if their names do not show it."""
    paths = _as_sequence(data)
    if len(paths) == 2:
        return "encoder_decoder"
    name = paths[0]
    if is_named(name):
        return None
    return "encoder_decoder" if ".tsv" in Path(str(name).lower()).suffixes else "decoder_only"


def _check_own_splits(source: Any, validation: Any, test: Any) -> None:
    if validation is not None or test is not None:
        raise ValueError(
            f"{source!r} has its own held-out part; omit validation and test, or also give files "
            "for the training data"
        )


def _read_texts(files: Files, progress: bool) -> tuple[str, StoredTexts]:
    """Return a name and the text of each file."""
    paths = [check_path("a text file", path) for path in _as_sequence(files)]
    if not paths:
        raise ValueError("expected at least one text file, got none")
    return ", ".join(path.name for path in paths), store_files(paths, progress=progress)


def _read_parallel(files: Files, progress: bool) -> StoredPairs:
    paths = _as_sequence(files)
    if len(paths) not in (1, 2):
        raise ValueError(
            f"expected one .tsv file or two aligned files, got {len(paths)}: {list(paths)}"
        )
    return read_pairs(*paths, progress=progress)


def _hold_out(pairs: StoredPairs, fraction: float, splits: int) -> list[StoredPairs]:
    """Split pairs into the rest and `splits` parts, each with a fraction of the sources."""
    if fraction == 0:
        return [pairs, *(pairs[:0] for _ in range(splits))]
    hashes = np.fromiter((_hash(source) for source, _ in pairs), "uint64", len(pairs))
    sources, source_of = np.unique(hashes, return_inverse=True)  # in order
    size = max(1, math.floor(len(sources) * fraction))
    if len(sources) <= splits * size:
        raise ValueError(
            f"{len(sources)} distinct sources are too few to hold out {splits} x {size} of them "
            f"for validation and test; give {splits + 1} pairs with different sources or more "
            "(lines end with \\n, \\r\\n or \\r); in Python, held_out_fraction=0 holds out none"
        )
    split_of = np.minimum(source_of // size, splits)
    parts = [pairs.rows(np.flatnonzero(split_of == split)) for split in range(splits + 1)]
    return [parts[-1], *parts[:-1]]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest())


def _as_sequence(paths: StrPath | Sequence[StrPath]) -> Sequence[StrPath]:
    if isinstance(paths, str | os.PathLike):
        return [paths]
    if not isinstance(paths, Sequence) or isinstance(paths, bytes):
        raise TypeError(
            f"a corpus is the path of a file, several, {EMBEDDED!r} or '{TFDS}NAME', given "
            f"{type(paths).__name__}"
        )
    return paths


def _check_fraction(name: str, fraction: float) -> None:
    if not 0 <= fraction < 0.5:
        raise ValueError(f"{name} must be at least 0 and below 0.5, got {fraction}")


def _tfds_builder(name: str) -> Any:
    """Return the prepared builder of a data set, which is downloaded the first time."""
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{TFDS}{name} needs TensorFlow Datasets: pip install tensorflow-datasets, "
            "or give local files"
        ) from error
    try:
        builder = tfds.builder(name)
    except (ValueError, FileNotFoundError) as error:
        raise ValueError(
            f"TensorFlow Datasets has no data set {name!r} ({str(error).splitlines()[0]}); see "
            "https://www.tensorflow.org/datasets/catalog"
        ) from error
    builder.download_and_prepare()
    return builder


def _tfds_columns(builder: Any, split: str, columns: Sequence[str]) -> Iterator[list[str]]:
    """Yield the text columns of each example of a split; nothing if there is no such split."""
    import tensorflow_datasets as tfds

    if split in builder.info.splits:
        for example in tfds.as_numpy(builder.as_dataset(split=split)):
            yield [example[column].decode("utf-8") for column in columns]


def _tfds_text(name: str, validation_fraction: float) -> TextCorpus:
    builder = _tfds_builder(name)
    features = list(builder.info.features)
    if "text" not in features:
        raise ValueError(
            f"{TFDS}{name} has no column named text, but {', '.join(features)}; choose another "
            "data set, or save its text to a file"
        )
    train, validation = (
        stored_texts(_tfds_columns(builder, split, ["text"])).not_blank()
        for split in ("train", "validation")
    )
    if not validation and len(train) == 1:  # a single long text
        train, validation = train.split(1 - validation_fraction)
        validation = validation.not_blank()
    elif not validation:
        size = int(len(train) * validation_fraction)
        train, validation = train[: len(train) - size], train[len(train) - size :]
    return TextCorpus(name, train, validation)


def _tfds_parallel(name: str, held_out_fraction: float) -> ParallelCorpus:
    _check_fraction("held_out_fraction", held_out_fraction)
    builder = _tfds_builder(name)
    keys = builder.info.supervised_keys
    if not keys or len(keys) != 2:
        raise ValueError(
            f"{TFDS}{name} is not a parallel corpus: it has no supervised keys; choose another, "
            "such as tfds:ted_hrlr_translate/pt_to_en"
        )
    train, validation, test = (
        stored_pairs((source, target) for source, target in _tfds_columns(builder, split, keys))
        for split in ("train", "validation", "test")
    )
    if not validation:
        train, validation = _hold_out(train, held_out_fraction, 1)
    return ParallelCorpus(name, train, validation, test)
