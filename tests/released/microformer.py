"""MGM: GPT-2 for microbiomes, a folder of Hugging Face with a pickle (Zhang et al. 2024).

A sample is the genera that live together, from the most to the least abundant for its genus.
"""

from __future__ import annotations

import itertools
import pickletools
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from packages import assert_drawn, released, share_of_key, skip_shares

import functional_models as fm
import plots

GUT, SEA = (
    line.split()
    for line in (
        "Bacteroides Faecalibacterium Blautia Roseburia Bifidobacterium Ruminococcus Alistipes "
        "Parabacteroides Coprococcus Dorea Akkermansia Lachnospira Sutterella Bilophila "
        "Eubacterium",
        "Prochlorococcus Synechococcus Alteromonas Marinobacter Roseobacter Sulfitobacter "
        "Polaribacter Pseudoalteromonas Planktomarina Ascidiaceihabitans Nitrosopumilus "
        "Glaciecola Marinomonas Oleispira Phaeobacter",
    )
)
SHOWN = 7  # genera of the 15, after which the others are predicted


@pytest.fixture(scope="module")
def lm() -> Any:
    with pytest.warns(UserWarning, match="without a tokenizer"):
        return fm.from_hugging_face(released("mgm/resources/general_model"))


@pytest.fixture(scope="module")
def ids() -> dict[str, int]:
    """Return the ids of genera; their names are the texts of a pickle, which is not run."""
    content = released("mgm/resources/MicroTokenizer.pkl").read_bytes()
    texts = [value for _, value, _ in pickletools.genops(content) if isinstance(value, str)]
    after = texts[texts.index("toks") + 1 :]
    tokens = itertools.takewhile(lambda text: text.startswith(("g__", "<")), after)
    return {token.removeprefix("g__"): i for i, token in enumerate(tokens)}


def test_it_has_8_blocks_of_width_256(lm: Any, ids: dict[str, int]) -> None:
    assert lm.model.count_params() == 8_924_928
    spec = lm.spec
    assert (spec.num_layers, spec.hidden_dim, spec.num_heads) == (8, 256, 8)
    assert spec.vocabulary_size == len(ids) == 9669
    assert [ids[name] for name in ("<pad>", "<mask>", "<bos>", "<eos>")] == [0, 1, 2, 3]


def test_genera_of_the_gut_are_expected_in_the_gut_and_those_of_the_sea_there(
    lm: Any, ids: dict[str, int]
) -> None:
    def expected(after: list[str], genera: list[str]) -> float:
        """Return the mean log-probability of the next genus being one of some."""
        tokens = np.array([[ids["<bos>"], *(ids[name] for name in after)]])
        scores = np.asarray(keras.ops.log_softmax(lm.model(tokens, training=False)))[0, -1]
        return float(scores[[ids[name] for name in genera]].mean())

    gut, sea = GUT[:SHOWN], SEA[:SHOWN]
    assert expected(gut, GUT[SHOWN:]) > expected(gut, SEA[SHOWN:]) + 7
    assert expected(sea, SEA[SHOWN:]) > expected(sea, GUT[SHOWN:]) + 4


def sample(ids: dict[str, int]) -> np.ndarray:
    return np.array([[ids[name] for name in ("<bos>", *GUT, "<eos>")]])


def test_it_is_drawn(lm: Any, tmp_path: Path) -> None:
    assert_drawn(lm, {"decoder": 8}, tmp_path / "microformer.svg")


def test_about_half_of_the_attention_goes_to_the_start_token(lm: Any, ids: dict[str, int]) -> None:
    maps = plots.attention_maps(lm.model, sample(ids))
    shares = [share_of_key(found.weights[0], 0) for found in maps.values()]
    assert len(shares) == 8
    assert shares[0] < 0.35  # an equal share would be 0.15
    assert min(shares[1:]) > 0.4


def test_most_of_the_gradient_comes_back_along_skip_paths(lm: Any, ids: dict[str, int]) -> None:
    shares = skip_shares(lm, sample(ids))
    assert len(shares) == 16
    assert shares[0] < 0.2  # but for the first attention layer
    assert min(shares[1:]) > 0.5
