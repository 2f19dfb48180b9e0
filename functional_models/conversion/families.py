"""All families of backbones of keras-nlp that a spec can describe."""

from __future__ import annotations

from functional_models.conversion import bart, bert, gemma, gpt, llama, t5
from functional_models.conversion.family import Family

FAMILIES: tuple[Family, ...] = (
    *gpt.FAMILIES,
    *llama.FAMILIES,
    *gemma.FAMILIES,
    *bert.FAMILIES,
    *bart.FAMILIES,
    *t5.FAMILIES,
)
