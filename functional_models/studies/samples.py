"""Samples of what a model writes for held-out text, and the command that shows more."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

from functional_models.causal_lm import CausalLM
from functional_models.corpora import Corpus, ParallelCorpus, TextCorpus
from functional_models.corpora.stored import in_pieces
from functional_models.tables import format_table
from functional_models.text_model import TextModel
from functional_models.translator import Translator


def usage_command(folder: str | Path, corpus: Corpus) -> str:
    """Return a shell command that uses the model of a folder, on a sample of its corpus.

    Without `functional-models` on the PATH, the command names the program as it was called.
    """
    program = "functional-models"
    if shutil.which(program) is None:
        called_as_script = Path(sys.argv[0]).name == program
        program = sys.argv[0] if called_as_script else "python -m functional_models"
    where = shlex.quote(str(folder))
    if isinstance(corpus, TextCorpus):
        return f'{program} generate {where} "The "'
    source = (corpus.test or corpus.train)[0][0]
    return f"{program} translate {where} {shlex.quote(source)}"


def samples(model: TextModel, corpus: Corpus, number: int = 20) -> str:
    """Return a Markdown page of the model's output for held-out text."""
    if isinstance(model, Translator) and isinstance(corpus, ParallelCorpus):
        pairs = (corpus.test or corpus.validation)[:number]
        written = model.translate([source for source, _ in pairs])
        rows = [("source", "translation", "reference")]
        for (source, target), text in zip(pairs, written, strict=True):
            rows.append((source, text, "the same" if text == target else target))
        return format_table(rows, align="left", markdown=True) + "\n"
    assert isinstance(model, CausalLM)
    assert isinstance(corpus, TextCorpus)
    length = min(20, model.spec.max_sequence_length // 8)  # characters, of up to 4 tokens each
    starts = (next(iter(pieces), "") for pieces in in_pieces(corpus.validation[:5]))
    prompts = [start.strip()[:length] for start in starts if start.strip()]
    texts = model.generate(prompts, seed=0)
    return "\n\n".join(f"**{p}**{t}" for p, t in zip(prompts, texts, strict=True)) + "\n"
