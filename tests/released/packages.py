"""Files of the packages of `requirements.txt`, and what is asked of every model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

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


def assert_drawn(model: Any, sublayers: int, file: Path) -> None:
    """Check that a diagram has the ends of all skip paths, and the number of parameters."""
    paths = plots.skip_paths(plots.read_graph(model.model))
    assert len(paths) == sublayers
    plots.draw(model, file, plugins=["skip_paths", "parameters"])
    drawn = file.read_text()
    assert all(f"<title>{path.target}</title>" in drawn for path in paths)
    assert f"parameters: {model.model.count_params() / 1e6:.3g} M" in drawn


def share_of_key(scores: np.ndarray, key: int) -> float:
    """Return the share of attention, (n, t, s), that goes to one key, after the first query."""
    return float(scores[:, 1:, key].mean())


def skip_shares(model: Any, inputs: Any) -> np.ndarray:
    """Return the norm of the gradient along each skip path, over that along both paths."""
    profile = plots.depth_profile(model.model, inputs)
    skip, branch = np.array(profile.skip_gradient), np.array(profile.branch_gradient)
    return skip / (skip + branch)
