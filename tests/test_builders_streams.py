"""Hyper-connections start as a residual connection, and have the published numbers of weights."""

import itertools
from typing import Any

import keras
import numpy as np
import pytest
from quick import slow_unless
from small_models import logits_of, random_tokens, relative_error, small_spec, variables_by_name

import builders

MERGES = ("static_hyper_connections", "hyper_connections")
PLACEMENTS = ("pre", "output", "sandwich", "parallel", "parallel_shared_norm", "none")


def with_equal_weights(spec: builders.TransformerSpec, plain: keras.Model) -> keras.Model:
    """Return a new model of a spec with the weights of a plain one, where that has them."""
    model = builders.build(spec)
    values = variables_by_name(plain)
    for name, variable in variables_by_name(model).items():
        if name in values:
            variable.assign(values[name].value)
    return model


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("placement", "merge"),
    slow_unless(
        lambda placement, merge: (placement in PLACEMENTS[::3]) == (merge in MERGES[:1]),
        itertools.product(PLACEMENTS[::2], MERGES),
    )
    + slow_unless(lambda *_: False, itertools.product(PLACEMENTS[1::2], MERGES)),
)
def test_before_training_any_number_of_streams_is_one_residual_stream(
    merge: str, placement: str
) -> None:
    """The streams are equal then, so that their sum is a multiple, which the final norm removes."""
    spec = small_spec(norm_placement=placement, final_norm=True, norm_epsilon=1e-9)
    plain = builders.build(spec)
    tokens = random_tokens(spec)
    for number in (1, 3):
        model = with_equal_weights(spec.replace(merge=merge, num_streams=number), plain)
        assert relative_error(logits_of(model, tokens), logits_of(plain, tokens)) < 1e-5, number


def test_one_static_stream_is_a_residual_stream_without_any_final_norm() -> None:
    spec = small_spec(final_norm=False)
    plain = builders.build(spec)
    model = with_equal_weights(spec.replace(merge="static_hyper_connections", num_streams=1), plain)
    tokens = random_tokens(spec)
    assert relative_error(logits_of(model, tokens), logits_of(plain, tokens)) < 1e-6


def test_sublayers_read_the_streams_in_turn_before_training() -> None:
    changes: dict[str, Any] = {"merge": "static_hyper_connections", "num_streams": 5}
    weights = variables_by_name(builders.build(small_spec(kind="encoder_decoder", **changes)))
    read = {
        name.removesuffix(".read_streams.kernel"): int(np.argmax(variable.numpy()))
        for name, variable in weights.items()
        if name.endswith("read_streams.kernel")
    }
    assert read == {
        "encoder.block_0.self_attention": 0,
        "encoder.block_0.feedforward": 1,
        "encoder.block_1.self_attention": 2,
        "encoder.block_1.feedforward": 3,
        "decoder.block_0.self_attention": 0,
        "decoder.block_0.cross_attention": 1,
        "decoder.block_0.feedforward": 2,
        "decoder.block_1.self_attention": 3,
        "decoder.block_1.cross_attention": 4,
        "decoder.block_1.feedforward": 0,
    }


@pytest.mark.parametrize(
    ("merge", "added"), [("static_hyper_connections", 768), ("hyper_connections", 394_048)]
)
def test_four_streams_add_the_published_number_of_weights_to_olmo_1b(
    merge: str, added: int
) -> None:
    """OLMo-1B has 16 blocks of width 2048 (Zhu et al. 2024, appendix B)."""
    sizes = {"vocabulary_size": 31, "num_layers": 16, "hidden_dim": 2048, "num_heads": 16}
    spec = builders.TransformerSpec(**sizes, merge=merge)
    assert builders.count_parameters(spec)["merges"] == added
