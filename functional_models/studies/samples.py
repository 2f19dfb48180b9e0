"""Samples of what a model writes for held-out text, and the command that shows more."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from functional_models.causal_lm import CausalLM
from functional_models.corpora import Corpus, ParallelCorpus, TextCorpus
from functional_models.corpora.stored import in_pieces
from functional_models.loading import load
from functional_models.studies.execution import RUNS
from functional_models.studies.results import Study
from functional_models.tables import format_table
from functional_models.text_model import TextModel
from functional_models.translator import Translator
from plots.files import write_whole

MOST_MODELS = 6
"""Number of settings whose models write samples."""


def usage_command(folder: str | Path, corpus: Corpus, kind: str | None = None) -> str:
    """Return a shell command that uses the model of a folder, on a sample of its corpus.

    The `kind` of the model is by default that of language models or translators.

    Without `functional-models` on the PATH, the command names the program as it was called.
    """
    program = "functional-models"
    if shutil.which(program) is None:
        called_as_script = Path(sys.argv[0]).name == program
        program = sys.argv[0] if called_as_script else "python -m functional_models"
    where = shlex.quote(str(folder))
    if isinstance(corpus, TextCorpus) and kind == "encoder_only":
        return f"{program} evaluate {where} --data FILE"
    if isinstance(corpus, TextCorpus):
        return f'{program} generate {where} "The "'
    source = (corpus.test or corpus.train)[0][0]
    commands = {"encoder_only": "classify", "decoder_only": "generate"}
    command = commands.get(kind or "", "translate")
    return f"{program} {command} {where} {shlex.quote(source)}"


def write_samples(study: Study, corpus: Corpus) -> None:
    """Write what the models of a study make of the same held-out text, as Markdown and JSON.

    Of each setting the first finished run writes, and of many settings the best ones.
    """
    settings = [s for s in study.compared if study.values(s.name, "loss")]
    settings.sort(key=lambda setting: study.values(setting.name, "validation_loss").popitem()[1])
    models = {}
    for setting in study.compared:
        if setting in settings[:MOST_MODELS]:
            run = next(run for run, o in study.of(setting.name) if o.status == "finished")
            models[setting.name] = load(study.folder / RUNS / run.folder)
    titles, rows = sample_table(models, corpus)
    page = format_table([titles, *rows], align="left", markdown=True)
    write_whole(study.folder / "samples.md", page + "\n")
    content = {"titles": titles, "rows": rows}
    write_whole(study.folder / "samples.json", json.dumps(content, indent=1) + "\n")


def sample_table(
    models: Mapping[str, TextModel], corpus: Corpus, number: int = 20
) -> tuple[list[str], list[list[str]]]:
    """Return what models make of held-out text: the titles of columns, and rows of cells.

    Translations that equal the reference are marked by a tick.
    """
    if isinstance(corpus, ParallelCorpus):
        pairs = (corpus.test or corpus.validation)[:number]
        columns = []
        for model in models.values():
            assert isinstance(model, Translator)
            written = model.translate([source for source, _ in pairs])
            columns.append(
                [
                    "✓" if text == target else text
                    for (_, target), text in zip(pairs, written, strict=True)
                ]
            )
        rows = [[*pair, *texts] for pair, *texts in zip(pairs, *columns, strict=True)]
        return ["source", "reference", *models], rows
    starts = (next(iter(pieces), "") for pieces in in_pieces(corpus.validation[:5]))
    prompts: list[str] = []
    columns = []
    for model in models.values():
        assert isinstance(model, CausalLM)
        if not prompts:  # of up to 4 tokens for each character
            length = min(20, model.spec.max_sequence_length // 8)
            prompts = [start.strip()[:length] for start in starts if start.strip()]
        columns.append(model.generate(prompts, seed=0))
    return ["prompt", *models], [list(row) for row in zip(prompts, *columns, strict=True)]
