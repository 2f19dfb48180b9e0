"""Golden text files: what small models look like in every text format."""

import functools
import itertools
from pathlib import Path

import plots_models
import pytest

import plots
from plots.skips import mark_skip_paths

GOLDEN = Path(__file__).parent / "golden"
MODELS = {
    "pre_norm": lambda: plots_models.decoder_only("pre", blocks=2),
    "post_norm": lambda: plots_models.decoder_only("post", blocks=2),
    "encoder_decoder": lambda: plots_models.encoder_decoder("post", blocks=2),
}


@functools.cache
def folded(name: str) -> plots.Graph:
    return plots.fold(mark_skip_paths(plots.read_graph(MODELS[name]())), depth=2)


@pytest.mark.parametrize(
    ("name", "suffix"),
    [*itertools.product(MODELS, ["txt", "mmd", "dot"]), ("pre_norm", "json")],
)
def test_golden_file(name, suffix, tmp_path, request):
    plots.draw(folded(name), tmp_path / f"drawn.{suffix}", plugins=())
    text = (tmp_path / f"drawn.{suffix}").read_text("utf-8")
    golden = GOLDEN / f"{name}_folded.{suffix}"
    if request.config.getoption("--overwrite"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8"), "run pytest with --overwrite if this is meant"
