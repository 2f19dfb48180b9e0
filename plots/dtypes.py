"""How large numbers are, by dtype."""

from __future__ import annotations

BYTES = {
    "bfloat16": 2,
    "bool": 1,
    "complex64": 8,
    "complex128": 16,
    "float16": 2,
    "float32": 4,
    "float64": 8,
    "float8_e4m3fn": 1,
    "float8_e5m2": 1,
    "int4": 0.5,
    "int8": 1,
    "int16": 2,
    "int32": 4,
    "int64": 8,
    "uint8": 1,
    "uint16": 2,
    "uint32": 4,
    "uint64": 8,
}
"""Bytes of one number, by dtype."""


def bytes_of(dtype: str) -> float:
    """Bytes of one number; those of a float32 for a dtype that is not known."""
    return BYTES.get(dtype, 4)
