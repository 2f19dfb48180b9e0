"""Training objectives other than the next token: masked tokens, removed spans, and classes.

Their batches are pure functions of the seed and the step, as are all `batches.Batches`.
"""

from functional_models.objectives.masking import MaskedLM
from functional_models.objectives.spans import SpanCorruption, ul2

__all__ = ["MaskedLM", "SpanCorruption", "ul2"]
