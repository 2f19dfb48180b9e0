"""Tokens are drawn and generated as by the transformers that is installed.

Needs torch and transformers 4 or 5: `make test-peers`.
"""

import keras
import make_generation
import make_samplers
import numpy as np
import pytest
from test_hugging_face import read
from test_hugging_face_generation import generated, generator_of, uncompiled
from test_samplers import sampler_of

from functional_models.processed_sampler import ProcessedSampler

__all__ = ["uncompiled"]  # a fixture

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("settings", make_samplers.SETTINGS, ids=str)
@pytest.mark.parametrize("rounded", [False, True])
def test_tokens_have_the_probabilities_of_generate(settings: dict, rounded: bool) -> None:
    random = np.random.default_rng(7)
    logits = random.normal(scale=2.3, size=(17, 997)).astype("float32")
    if rounded:  # many are equal, as in half precision
        logits = logits.round(1)
    tokens = random.integers(0, 997, (17, 5)).astype("int32")
    sampler = sampler_of(settings)
    if isinstance(sampler, ProcessedSampler):
        found = sampler.compute_probabilities(sampler.process(logits, tokens, 5))
    else:
        found = sampler.compute_probabilities(logits)
    found = keras.ops.convert_to_numpy(found)
    expected = make_samplers.probabilities(settings, logits, tokens.tolist())
    if rounded:  # PyTorch sorts equal ones in an arbitrary order
        found, expected = np.sort(found), np.sort(expected)
    np.testing.assert_array_equal(found > 0, expected > 0)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.parametrize("seed", [11, 13])
@pytest.mark.usefixtures("uncompiled")
@pytest.mark.parametrize("name", make_generation.CASES)
def test_the_tokens_are_those_of_generate(name: str, seed: int) -> None:
    theirs = make_generation.load(name)
    entry = make_generation.entry_of(theirs, name, seed)
    model = read(make_generation.GOLDEN / name)
    for case in entry["cases"]:
        ours = generator_of(model, entry, case["settings"])
        assert generated(ours, entry, case["settings"]) == case["new"], case["settings"]
