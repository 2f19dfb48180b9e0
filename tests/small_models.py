"""Small specs of distinct prime sizes, and models of them with every weight random."""

from typing import Any

import keras
import numpy as np

import builders

BATCH, TARGET_LENGTH, SOURCE_LENGTH = 3, 11, 13
SIZES: dict[str, Any] = {
    "vocabulary_size": 31,
    "source_vocabulary_size": 29,
    "num_layers": 2,
    "hidden_dim": 14,
    "num_heads": 2,  # heads of 7
    "intermediate_dim": 23,
    "max_sequence_length": 17,
}


def small_spec(**changes: Any) -> builders.TransformerSpec:
    """Spec with the sizes above; with shared embeddings both vocabularies are the target's."""
    if changes.get("share_embeddings"):
        changes = {"source_vocabulary_size": None, **changes}
    return builders.TransformerSpec(**{**SIZES, **changes})


def random_model(
    spec: builders.TransformerSpec, seed: int = 0, **build_options: Any
) -> keras.Model:
    """Model of a spec whose weights are all random, also biases and norms, so that none hides."""
    model = builders.build(spec, **build_options)
    randomise_weights(model, seed)
    return model


def randomise_weights(model: keras.Model, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    for name, variable in sorted(variables_by_name(model).items()):
        noise = rng.normal(size=variable.shape).astype("float32")
        if name.endswith("gamma"):
            value = 1.0 + 0.3 * noise
        elif name.endswith("kernel"):  # (n, h, d) sums over two axes, all others over the first
            fan_in = variable.shape[:2] if ".output." in name else variable.shape[:1]
            value = noise / np.sqrt(np.prod(fan_in))
        else:
            value = 0.5 * noise
        variable.assign(value)


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """All weights, keyed "<layer name>.<variable name>" as the reference wants them.

    The library's attention layer keeps its projections inside; they get the names that the wired
    projections have.
    """
    inside = {".attention/": "/", "/attention_output/": "/output/", "/": "."}
    variables = {}
    for variable in model.weights:
        name = variable.path
        for part, wired in inside.items():
            name = name.replace(part, wired)
        variables[name] = variable
    assert len(variables) == len(model.weights)
    return variables


def weights_by_name(model: keras.Model) -> dict[str, np.ndarray]:
    return {
        name: keras.ops.convert_to_numpy(variable.value)
        for name, variable in variables_by_name(model).items()
    }


def copy_weights(source: keras.Model, target: keras.Model) -> None:
    values = weights_by_name(source)
    variables = variables_by_name(target)
    assert values.keys() == variables.keys()
    for name, variable in variables.items():
        variable.assign(values[name])


def random_tokens(spec: builders.TransformerSpec, seed: int = 0, padding: bool = True) -> Any:
    """Token ids without padding in the first row, at the end of the second, inside the third."""
    rng = np.random.default_rng(seed)

    def draw(length: int, vocabulary_size: int) -> np.ndarray:
        tokens = rng.integers(0, vocabulary_size, (BATCH, length), dtype="int32")
        pad = spec.pad_token_id
        if pad is not None:
            tokens[tokens == pad] = (pad + 1) % vocabulary_size
            if padding:
                tokens[1, -4:] = pad
                tokens[2, 2:5] = pad
        return tokens

    target = draw(TARGET_LENGTH, spec.vocabulary_size)
    if spec.kind == "decoder_only":
        return target
    assert spec.source_vocabulary_size is not None
    return {"source": draw(SOURCE_LENGTH, spec.source_vocabulary_size), "target": target}


def logits_of(model: keras.Model, tokens: Any, training: bool = False) -> np.ndarray:
    """Logits (b, t, v) in float32, by an eager call, which is quicker here than compiling."""
    logits = keras.ops.cast(model(tokens, training=training), "float32")
    return keras.ops.convert_to_numpy(logits)


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in units of the largest expected magnitude."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())
