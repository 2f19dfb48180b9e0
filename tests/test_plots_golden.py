"""Golden text files: small models in every text format."""

import functools
import itertools
from pathlib import Path

import plots_models
import pytest

import plots
from plots.skips import mark_skip_paths

GOLDEN = Path(__file__).parent / "golden"
FOLDED = {
    "pre_norm_folded": lambda: plots_models.decoder_only("pre", blocks=2),
    "post_norm_folded": lambda: plots_models.decoder_only("post", blocks=2),
    "encoder_decoder_folded": lambda: plots_models.encoder_decoder("post", blocks=2),
}
WHOLE = {
    "pre_norm_block": lambda: plots_models.decoder_only("pre", blocks=1),
    "post_norm_block": lambda: plots_models.decoder_only("post", blocks=1),
}


@functools.cache
def graph_of(name: str) -> plots.Graph:
    graph = mark_skip_paths(plots.read_graph((FOLDED | WHOLE)[name]()))
    return plots.fold(graph, depth=2) if name in FOLDED else graph


@pytest.mark.parametrize(
    ("name", "suffix"),
    [
        *itertools.product(FOLDED, ["txt", "mmd", "dot"]),
        ("pre_norm_folded", "json"),
        *itertools.product(WHOLE, ["dot"]),
    ],
)
def test_golden_file(name, suffix, tmp_path, request):
    plots.draw(graph_of(name), tmp_path / f"drawn.{suffix}", plugins=())
    text = (tmp_path / f"drawn.{suffix}").read_text("utf-8")
    golden = GOLDEN / f"{name}.{suffix}"
    if request.config.getoption("--overwrite"):
        golden.write_text(text, "utf-8")
    assert text == golden.read_text("utf-8"), "run pytest with --overwrite if this is meant"
