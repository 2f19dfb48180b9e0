"""Saving, loading and rebuilding models, also in a process without TensorFlow."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from python_process import run_python
from quick import slow_unless
from small_models import copy_weights, logits_of, random_model, random_tokens, small_spec

QUICK = ("pre_learned", "concat_tied", "grouped_window")
MODELS: dict[str, dict[str, Any]] = {
    "pre_learned": {"dropout": 0.1, "attention_dropout": 0.1, "embedding_dropout": 0.1},
    "post_sinusoidal": {"norm_placement": "post", "positions": "sinusoidal", "logit_bias": True},
    "concat_tied": {
        "positions": "sinusoidal_concat",
        "tie_embeddings": True,
        "logit_bias": True,
        "scale_embeddings": True,
        "activation": "relu_squared",
        "pad_token_id": 7,
    },
    "no_positions": {"positions": "none", "merge": "none", "pad_token_id": None},
    "grouped_window": {
        "num_key_value_heads": 1,
        "attention_window": 3,
        "block_overrides": ({}, {"attention_window": None, "intermediate_dim": 19}),
        "merge": "layer_scale",
        "stochastic_depth": 0.1,
    },
    "deep_norm": {"norm_placement": "post", "merge": "scaled", "skip_scale": "deep_norm"}
    | {"initializer": "deep_norm"},
    "across_blocks": {"num_layers": 4, "distinct_blocks": 2, "block_skips": "unet"}
    | {"value_residual": True},
    "streams": {"merge": "hyper_connections", "num_streams": 3},
    "static_streams": {"merge": "static_hyper_connections", "norm_placement": "parallel"},
    "highway": {"norm_placement": "output", "merge": "highway"},
    "keras_layer": {"attention": "layer", "activation": "gelu_tanh"},
    "encoder": {
        "kind": "encoder_only",
        "num_segments": 3,
        "embedding_dim": 5,
        "pooler": True,
        "masked_lm_head": True,
        "tie_embeddings": True,
        "scale_logits": True,
    },
    "translator": {"kind": "encoder_decoder", "activation": "silu"},
    "shared_translator": {
        "kind": "encoder_decoder",
        "share_embeddings": True,
        "tie_embeddings": True,
        "attention": "layer",
        "initializer": "depth_scaled",
    },
}


def as_arrays(tokens: Any) -> dict[str, np.ndarray]:
    return tokens if isinstance(tokens, dict) else {"tokens": tokens}


LOAD_AND_COMPARE = """
import sys
from pathlib import Path
import builders.models
import keras
import numpy as np

for path in sorted(Path(sys.argv[1]).glob("*.keras")):
    arrays = dict(np.load(path.with_suffix(".npz")))
    expected = arrays.pop("logits")
    model = keras.saving.load_model(path)
    outputs = model(arrays if len(arrays) > 1 else arrays["tokens"])
    if isinstance(outputs, dict):
        rows = [keras.ops.reshape(outputs[name], (-1,)) for name in sorted(outputs)]
        outputs = keras.ops.concatenate(rows)
    actual = keras.ops.convert_to_numpy(outputs)
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-5, err_msg=path.stem)
    print(path.stem)
"""


@pytest.mark.slow
def test_a_saved_model_returns_the_same_logits_in_another_process(tmp_path: Path) -> None:
    for name, changes in MODELS.items():
        spec = small_spec(**changes)
        model = random_model(spec)
        tokens = random_tokens(spec)
        model.save(tmp_path / f"{name}.keras")
        np.savez(tmp_path / f"{name}.npz", logits=logits_of(model, tokens), **as_arrays(tokens))
    assert run_python(LOAD_AND_COMPARE, str(tmp_path)).split() == sorted(MODELS)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "name", slow_unless(("pre_learned", "concat_tied", "grouped_window").__contains__, MODELS)
)
def test_saved_weights_load_into_a_model_of_the_same_spec(name: str, tmp_path: Path) -> None:
    spec = small_spec(**MODELS[name])
    model, other = random_model(spec), random_model(spec, seed=1)
    tokens = random_tokens(spec)
    assert np.abs(logits_of(model, tokens) - logits_of(other, tokens)).max() > 1e-2
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(
        logits_of(other, tokens), logits_of(model, tokens), rtol=0, atol=1e-6
    )


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", MODELS)
def test_a_model_is_rebuilt_from_its_config(name: str) -> None:
    spec = small_spec(**MODELS[name])
    model = random_model(spec)
    rebuilt = keras.Model.from_config(model.get_config())
    copy_weights(model, rebuilt)
    tokens = random_tokens(spec)
    assert [layer.name for layer in rebuilt.layers] == [layer.name for layer in model.layers]
    np.testing.assert_allclose(
        logits_of(rebuilt, tokens), logits_of(model, tokens), rtol=0, atol=1e-6
    )


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None  # makes importing it fail
import builders
import keras
import numpy as np

assert keras.backend.backend() == "jax"
tokens = np.ones((3, 11), "int32")
sizes = dict(vocabulary_size=31, num_layers=1, hidden_dim=14, num_heads=2, max_sequence_length=17)
for kind in ("decoder_only", "encoder_decoder"):
    for positions in ("learned", "sinusoidal", "sinusoidal_concat", "none"):
        spec = builders.TransformerSpec(
            kind=kind,
            positions=positions,
            scale_embeddings=sys.argv[1] == "scaled",
            dropout=0.1,
            attention_dropout=0.1,
            **sizes,
        )
        model = builders.build(spec)
        inputs = tokens if kind == "decoder_only" else {"source": tokens, "target": tokens}
        assert model(inputs, training=True).shape == (3, 11, 31)
        print(kind, positions)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(inputs, tokens, verbose=0)
"""


@pytest.mark.slow
@pytest.mark.parametrize("embeddings", ["plain", "scaled"])
def test_models_build_and_train_on_jax_without_tensorflow(embeddings: str) -> None:
    assert run_python(WITHOUT_TENSORFLOW, embeddings, KERAS_BACKEND="jax").count("\n") == 8
