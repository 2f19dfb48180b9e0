"""The sizes of small specs, distinct primes where that is possible, and specs of them."""

from typing import Any

from builders import TransformerSpec

SIZES: dict[str, Any] = {
    "vocabulary_size": 31,
    "num_layers": 3,
    "hidden_dim": 14,
    "num_heads": 2,
}


def spec_of(**changes: Any) -> TransformerSpec:
    return TransformerSpec(**{**SIZES, **changes})
