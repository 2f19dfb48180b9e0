"""Files of the packages of `requirements.txt`, and what is asked of every model."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import plots

FOLDER = Path(__file__).parents[2] / ".released"


def released(path: str) -> Path:
    """Return the path of a file of a package.

    Raises:
        FileNotFoundError: the packages were not downloaded.
    """
    if not FOLDER.exists():
        raise FileNotFoundError(f"there is no folder {FOLDER}; run make test-released")
    return FOLDER / path


def assert_drawn(model: Any, blocks: dict[str, int], file: Path) -> None:
    """Check that a diagram folds the equal blocks of each stack, with its number of parameters.

    Args:
        model: the text model.
        blocks: number of blocks of each stack, such as `encoder`.
        file: the file to draw.
    """
    paths = plots.skip_paths(plots.read_graph(model.model))
    plots.draw(model, file, plugins=["skip_paths", "fold", "parameters"])
    drawn = file.read_text()
    shown = re.search(r"parameters: ([\d.]+) ([kM])", drawn)
    assert shown is not None
    total = float(shown[1]) * {"k": 1e3, "M": 1e6}[shown[2]]
    assert total == pytest.approx(model.model.count_params(), rel=0.005)
    for stack, count in blocks.items():
        assert f">block_0 × {count}<" in drawn
        ends = [path.target for path in paths if path.target.startswith(f"{stack}.block_0.")]
        assert len(ends) == sum(path.target.startswith(f"{stack}.") for path in paths) / count >= 2
        assert all(f"<title>{end}</title>" in drawn for end in ends)


def share_of_key(scores: np.ndarray, key: int) -> float:
    """Return the share of attention, (n, t, s), that goes to one key, after the first query."""
    return float(scores[:, 1:, key].mean())


def skip_shares(model: Any, inputs: Any) -> np.ndarray:
    """Return the norm of the gradient along each skip path, over that along both paths."""
    profile = plots.depth_profile(model.model, inputs)
    skip, branch = np.array(profile.skip_gradient), np.array(profile.branch_gradient)
    return skip / (skip + branch)
