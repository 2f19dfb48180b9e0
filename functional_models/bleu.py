"""BLEU and chrF of translations, as sacrebleu computes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class TranslationScores:
    """Scores of a list of translations against one reference each.

    Attributes:
        bleu: BLEU of the corpus, 0 to 100 (Papineni et al. 2002).
        chrf: chrF2 of the corpus, 0 to 100 (Popović 2015).
        signatures: how each was computed, by name, to be named with it (Post 2018).
    """

    bleu: float
    chrf: float
    signatures: dict[str, str]


def translation_scores(translations: Sequence[str], references: Sequence[str]) -> TranslationScores:
    """Return BLEU and chrF with the settings of sacrebleu: its tokenizer `13a`, with case.

    Raises:
        ValueError: no translations, or another number of references.
        ImportError: sacrebleu is not installed.
    """
    if len(translations) != len(references) or not translations:
        raise ValueError(
            f"given {len(translations)} translations and {len(references)} references; give one "
            "reference for each translation, and at least one"
        )
    metrics = import_sacrebleu()
    scores, signatures = {}, {}
    for name, metric in (("bleu", metrics.BLEU()), ("chrf", metrics.CHRF())):
        scores[name] = float(metric.corpus_score(list(translations), [list(references)]).score)
        signatures[name] = f"{name}: {metric.get_signature().format()}"
    return TranslationScores(scores["bleu"], scores["chrf"], signatures)


def import_sacrebleu() -> Any:
    """Return the metrics of sacrebleu.

    Raises:
        ImportError: it is not installed.
    """
    try:
        from sacrebleu import metrics
    except ImportError as error:
        raise ImportError(
            "BLEU and chrF need sacrebleu: pip install sacrebleu, or the extra bleu"
        ) from error
    return metrics
