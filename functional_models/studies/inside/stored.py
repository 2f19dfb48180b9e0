"""Measurements in files: `inside.json` of a run, and `inside.parquet` of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from functional_models.checks import read_manifest
from plots.files import write_whole

INSIDE, TABLE = "inside.json", "inside.parquet"
FORMAT = 1


class Measured(NamedTuple):
    """One number that was measured inside a model.

    Attributes:
        quantity: What it is, such as "stream_rms"; see `docs/studies.md`.
        place: Where: a sublayer, a layer, positions, or a class of tokens.
        depth: The number of the sublayer in its stack, from 1 at the input; else the number of the
            group of positions or of the class; 0 for none.
        value: The number; None if it is not finite.
        number: How many tokens, units, heads or weights it was measured on.
    """

    quantity: str
    place: str
    depth: int
    value: float | None
    number: int

    @property
    def stack(self) -> str:
        """The stack that the place is in: `encoder` or `decoder`."""
        return self.place.partition(".")[0]


@dataclass(frozen=True)
class Inside:
    """All measurements of a run.

    Attributes:
        reports: By the step of training after which they were made; 0 is the initialisation.
    """

    reports: Mapping[int, list[Measured]] = field(default_factory=dict, repr=False)

    def at(self, step: int, quantity: str) -> list[Measured]:
        """Return a quantity at a step, in the order of the model."""
        return [found for found in self.reports.get(step, ()) if found.quantity == quantity]


def write_inside(folder: Path, key: str, inside: Inside) -> None:
    """Write the measurements of a run to its folder."""
    reports = {step: list(found) for step, found in inside.reports.items()}
    content = {"format": FORMAT, "key": key, "columns": Measured._fields, "reports": reports}
    write_whole(folder / INSIDE, json.dumps(content, allow_nan=False) + "\n")


def read_inside(folder: Path, key: str) -> Inside | None:
    """Return the measurements of a run; None if there are none.

    Raises:
        ValueError: the file is damaged, of another run, or of a newer format.
    """
    path = folder / INSIDE
    if not path.exists():
        return None
    saved = read_manifest(path, FORMAT)
    try:
        if saved["key"] == key and tuple(saved["columns"]) == Measured._fields:
            reports = {
                int(step): [Measured(*row) for row in rows]
                for step, rows in saved["reports"].items()
            }
            return Inside(reports)
    except (KeyError, TypeError, ValueError, AttributeError):
        pass
    raise ValueError(f"{path} is damaged; delete it, and the study is shown without it")


def write_table(path: Path, runs: Sequence[tuple[Mapping[str, Any], Inside]]) -> None:
    """Write the measurements of runs as Parquet, for pandas, Polars and DuckDB.

    Args:
        path: The file.
        runs: The further columns of each run, and its measurements.
    """
    import pyarrow
    from pyarrow import parquet

    rows = [
        {**columns, "step": step, **found._asdict()}
        for columns, inside in runs
        for step, listed in inside.reports.items()
        for found in listed
    ]
    write_whole(path, lambda part: parquet.write_table(pyarrow.Table.from_pylist(rows), part))
