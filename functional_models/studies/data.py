"""The data of a study in its folder, for workers in other processes or on other machines."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from functional_models.checks import read_manifest
from functional_models.corpora import ParallelCorpus, TextCorpus
from functional_models.corpora.stored import stored_pairs, stored_texts
from functional_models.studies.runs import StudyData
from functional_models.tokenizers import load_tokenizer
from plots.files import write_whole

FORMAT = 1
_MANIFEST, _TOKENIZER = "data.json", "tokenizer"
_SPLITS = ("train", "validation", "test")


def write_data(folder: Path, data: StudyData) -> str:
    """Write corpus and tokenizer to a folder of a study, unless it is there already.

    Returns:
        The name of the new folder, which contains a hash of the content.
    """
    name = f"data-{data.fingerprint()}"
    if (folder / name / _MANIFEST).exists():
        return name
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".data-") as scratch:
        place = Path(scratch) / name
        place.mkdir()
        for split in _SPLITS:
            lines = map(json.dumps, getattr(data.corpus, split))
            with (place / f"{split}.jsonl").open("w", encoding="utf-8") as file:
                file.writelines(f"{line}\n" for line in lines)
        data.tokenizer.save(place / _TOKENIZER)
        kind = "pairs" if isinstance(data.corpus, ParallelCorpus) else "text"
        manifest = {"format": FORMAT, "name": data.corpus.name, "kind": kind}
        write_whole(place / _MANIFEST, json.dumps(manifest) + "\n")
        try:
            os.replace(place, folder / name)
        except OSError:
            if not (folder / name / _MANIFEST).exists():  # of another process
                raise
    return name


@lru_cache(maxsize=1)
def read_data(folder: Path) -> StudyData:
    """Read what `write_data` wrote; a process keeps the last one.

    Raises:
        FileNotFoundError, ValueError: the folder is missing, damaged, or of a newer format.
    """
    manifest = read_manifest(folder / _MANIFEST, FORMAT)
    lines = [_lines(folder / f"{split}.jsonl") for split in _SPLITS]
    corpus: Any
    if manifest["kind"] == "pairs":
        splits = (stored_pairs((source, target) for source, target in split) for split in lines)
        corpus = ParallelCorpus(manifest["name"], *splits)
    else:
        corpus = TextCorpus(manifest["name"], *(stored_texts([[t] for t in s]) for s in lines))
    return StudyData(corpus, load_tokenizer(folder / _TOKENIZER))


def _lines(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        lines: Iterable[str] = file
        yield from map(json.loads, lines)
