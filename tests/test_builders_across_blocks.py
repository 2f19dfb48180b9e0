"""Properties of skips across blocks, shared blocks and several streams."""

from typing import Any

import numpy as np
from small_models import (
    probe_activations,
    random_tokens,
    shared_model,
    small_spec,
)

import builders

SHARED: dict[str, Any] = {"num_layers": 5, "distinct_blocks": 2, "value_residual": True}


def test_a_probe_returns_every_call_of_a_shared_block() -> None:
    spec = small_spec(**SHARED)
    model = shared_model(spec)
    scores = probe_activations(model, spec, random_tokens(spec), "attention_scores")
    assert list(scores) == [f"decoder.block_{index}.self_attention" for index in range(5)]
    first, *others = scores.values()
    assert all(np.abs(other - first).max() > 1e-3 for other in others)


def test_blocks_that_share_their_weights_have_the_layers_of_the_first_ones() -> None:
    spec = small_spec(num_layers=5, distinct_blocks=2, block_skips="unet")
    blocks = {
        layer.name.split(".")[1]
        for layer in builders.build(spec, abstract=True).layers
        if ".block_" in layer.name
    }
    assert blocks == {"block_0", "block_1", "block_2", "block_3"}  # of the last two, skips alone
    kernels = [w.path for w in builders.build(spec, abstract=True).weights if "kernel" in w.path]
    assert not any("block_2" in path or "block_3" in path for path in kernels)
