"""Transformers as explicit Keras Functional graphs, wired by plain functions from one spec.

Shape letters, used in every docstring, comment and einsum of this package:

| letter | size |
| --- | --- |
| `b` | batch |
| `t` | target (query) length |
| `s` | source (key) length |
| `d` | `hidden_dim` |
| `n` | query heads |
| `k` | key/value heads |
| `h` | `head_dim` |
| `f` | `intermediate_dim` |
| `v` | `vocabulary_size` |
| `m` | `num_streams` |
| `c` | slots of a key/value cache |
| `u` | `value_dim` |

    import builders

    model = builders.build_decoder_only("gpt2_small", num_layers=2)
    spec = builders.variant("pre_norm_learned", vocabulary_size=1000)
    model = builders.build_encoder_decoder(spec)

Listing variants and making specs imports no Keras; the `build_*` functions do, when first used.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from builders.components import register_component
from builders.costs import (
    FlopCounts,
    MemoryCounts,
    count_cache_bytes,
    count_decode_flops,
    count_encode_flops,
    count_flops,
    count_memory,
    count_source_cache_bytes,
)
from builders.counting import ParameterCounts, count_parameters
from builders.errors import public_names, unknown_attribute
from builders.quiet import quiet_tensorflow
from builders.registry import (
    Variant,
    list_variants,
    register_variant,
    variant,
    variant_info,
)
from builders.spec import TransformerSpec

from builders import variants, published  # noqa: F401  isort: skip - they register, in order

if TYPE_CHECKING:
    from builders.decode import (
        build_decode_step,
        build_encode,
        build_packed,
        build_probe,
        empty_cache,
    )
    from builders.models import (
        build,
        build_decoder_only,
        build_encoder_decoder,
        build_encoder_only,
    )
    from builders.scope import LayerScope

__all__ = [
    "FlopCounts",
    "LayerScope",
    "MemoryCounts",
    "ParameterCounts",
    "TransformerSpec",
    "Variant",
    "build",
    "build_decode_step",
    "build_decoder_only",
    "build_encode",
    "build_encoder_decoder",
    "build_encoder_only",
    "build_packed",
    "build_probe",
    "count_cache_bytes",
    "count_decode_flops",
    "count_encode_flops",
    "count_flops",
    "count_memory",
    "count_parameters",
    "count_source_cache_bytes",
    "empty_cache",
    "list_variants",
    "register_component",
    "register_variant",
    "variant",
    "variant_info",
]

_NEEDS_KERAS = {
    "LayerScope": "builders.scope",
    "build": "builders.models",
    "build_decode_step": "builders.decode",
    "build_decoder_only": "builders.models",
    "build_encode": "builders.decode",
    "build_encoder_decoder": "builders.models",
    "build_encoder_only": "builders.models",
    "build_packed": "builders.decode",
    "build_probe": "builders.decode",
    "empty_cache": "builders.decode",
}


quiet_tensorflow()


def __dir__() -> list[str]:
    return public_names(globals(), __all__)


def __getattr__(name: str) -> Any:
    """Import what needs Keras only when it is asked for."""
    if name not in _NEEDS_KERAS:
        raise unknown_attribute(sys.modules[__name__], name, __all__)
    from importlib import import_module

    return getattr(import_module(_NEEDS_KERAS[name]), name)
