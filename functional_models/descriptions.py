"""What the command line says of architectures: the table of variants, parameters, cache."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Sequence
from typing import Any

import builders


def variants_json(names: Sequence[str]) -> str:
    """Return the registry rows of variants, with their whole specs, as a JSON list."""
    rows = [(builders.variant_info(name), builders.variant(name)) for name in names]
    listed = [
        {
            "name": info.name,
            "kinds": info.kinds,
            "source": info.source,
            "parameters": info.parameters,
            "summary": info.summary,
            "spec": spec.to_dict(),
        }
        for info, spec in rows
    ]
    return json.dumps(listed, indent=1)


def variants_table(names: Sequence[str]) -> list[str]:
    """Return the lines of a table of variants."""
    table = [("variant", "kind", "norm", "positions", "layers", "width", "what is special")]
    for name in names:
        info, spec = builders.variant_info(name), builders.variant(name)
        kinds = " / ".join(kind.replace("_", "-") for kind in info.kinds)
        table.append(
            (
                info.name,
                kinds,
                spec.norm_placement,
                spec.positions,
                str(spec.num_layers),
                str(spec.hidden_dim),
                info.summary,
            )
        )
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in table
    ]


def parameter_lines(model: Any) -> list[str]:
    """Return the parameters of a model: in all, and by part, blocks together."""
    parts: dict[str, int] = {}
    for layer in model.layers:
        if count := layer.count_params():
            part = re.sub(r"block_\d+", "block_*", layer.name)
            parts[part] = parts.get(part, 0) + count
    total = model.count_params()
    width = max(map(len, parts))
    return [f"{'parameters':<{width}}  {total:>13,}"] + [
        f"{part:<{width}}  {count:>13,}  {count / total:6.1%}" for part, count in parts.items()
    ]


def cache_lines(spec: builders.TransformerSpec) -> list[str]:
    """Return how many bytes a row of the key/value cache takes, in float32."""
    from builders.cache import cache_entries, memory_entries

    longest, window = spec.max_sequence_length, spec.attention_window
    lines = [
        "key/value cache, float32",
        f"per token  {_bytes(cache_entries(spec, 1, 1, 'float32')):>13,} bytes",
        f"per row    {_bytes(cache_entries(spec, 1, longest, 'float32')):>13,} bytes, for ",
    ]
    if window is not None and window < longest:
        lines[-1] += f"{window} tokens or more: at its window of {window} it stops growing"
    else:
        lines[-1] += f"{longest} tokens"
    if of_source := memory_entries(spec, 1, 1, "float32"):
        lines.append(f"and for each token of the source {_bytes(of_source):,} bytes")
    return lines


def _bytes(entries: dict[str, tuple[tuple[Any, ...], str]]) -> int:
    import numpy as np

    return sum(math.prod(shape) * np.dtype(kind).itemsize for shape, kind in entries.values())
