"""Small specs of distinct prime sizes, and models of them with every weight random."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import keras
import numpy as np

import builders

KINDS = ("decoder_only", "encoder_decoder")
"""The kinds that write."""
ALL_KINDS = (*KINDS, "encoder_only")
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
GROUPED = {"num_heads": 6, "num_key_value_heads": 3, "head_dim": 5}
TRANSLATOR = {"kind": "encoder_decoder"}


def small_spec(**changes: Any) -> builders.TransformerSpec:
    """Spec with the sizes above; with shared embeddings both vocabularies are the target's."""
    if changes.get("share_embeddings"):
        changes = {"source_vocabulary_size": None, **changes}
    return builders.TransformerSpec(**{**SIZES, **changes})


def reduced_variant(name: str, kind: str) -> builders.TransformerSpec:
    """Spec of a variant at the sizes above; what is free of them, or smaller, stays so."""
    spec = builders.variant(name, kind=kind)
    changes: dict[str, Any] = dict(SIZES)
    if spec.share_embeddings:
        del changes["source_vocabulary_size"]
    if spec.embedding_dim != spec.hidden_dim:
        changes["embedding_dim"] = 11
    if spec.head_dim * spec.num_heads != spec.hidden_dim:
        changes["head_dim"] = 5
    if spec.positions == "rotary":
        changes["head_dim"] = 6  # channels are turned in pairs
        changes["rotary_dim"] = 4 if spec.rotary_dim < spec.head_dim else None
        changes["rotary_original_length"] = 7
    if spec.num_key_value_heads < spec.num_heads:
        changes["num_key_value_heads"] = 1
    else:
        changes["num_key_value_heads"] = None
    if spec.attention_window:
        changes["attention_window"] = 3
    if spec.pad_token_id is not None and spec.pad_token_id >= SIZES["source_vocabulary_size"]:
        changes["pad_token_id"] = 7
    return spec.replace(**changes)


def variants_and_kinds() -> list[tuple[str, str]]:
    """Every variant and the kinds that it can be built as; one of those that differ in size."""
    found = {}
    for name in builders.list_variants():
        for kind in builders.variant_info(name).kinds:
            found.setdefault(reduced_variant(name, kind), (name, kind))
    return list(found.values())


ALL_VARIANTS = variants_and_kinds()
VARIANTS_AND_KINDS = [row for row in ALL_VARIANTS if row[1] in KINDS]


@contextmanager
def computing_in(dtype_policy: str) -> Iterator[None]:
    """Layers made in here compute in this precision."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


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
        if name.endswith(("gamma", "scale")):
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
    if spec.kind == "encoder_only" and spec.num_segments:
        segments = rng.integers(0, spec.num_segments, target.shape, dtype="int32")
        return {"tokens": target, "segments": segments}
    if spec.kind != "encoder_decoder":
        return target
    assert spec.source_vocabulary_size is not None
    return {"source": draw(SOURCE_LENGTH, spec.source_vocabulary_size), "target": target}


def target_of(tokens: Any) -> np.ndarray:
    return tokens["target"] if isinstance(tokens, dict) else tokens


def with_target(tokens: Any, target: np.ndarray) -> Any:
    return {**tokens, "target": target} if isinstance(tokens, dict) else target


def changed_at(spec: builders.TransformerSpec, tokens: np.ndarray, t: int) -> np.ndarray:
    """Tokens (b, t) with another one, and no padding, at position t of every row."""
    changed = tokens.copy()
    changed[:, t] = (changed[:, t] + 3) % spec.vocabulary_size
    if spec.pad_token_id is not None:
        changed[:, t] = np.where(changed[:, t] == spec.pad_token_id, 5, changed[:, t])
    return changed


def train_one_step(model: keras.Model, tokens: Any, learning_rate: float = 10.0) -> None:
    """One step of plain gradient descent on random labels, through `model.fit`."""
    labels = np.random.default_rng(5).integers(
        0, model.output_shape[-1], (BATCH, TARGET_LENGTH), dtype="int32"
    )
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    model.fit(tokens, labels, batch_size=BATCH, epochs=1, verbose=0)


def as_array(tensor: Any) -> np.ndarray:
    """A tensor of any backend in NumPy; floats in float32, as NumPy has no bfloat16."""
    if isinstance(tensor, np.ndarray):
        return tensor
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)):
        tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.convert_to_numpy(tensor)


def logits_of(model: keras.Model, tokens: Any, training: bool = False) -> np.ndarray:
    """Logits (b, t, v) in float32, by an eager call, which is quicker here than compiling.

    Of an encoder, all numbers that it gives, in a row.
    """
    return in_a_row(model(tokens, training=training))


def in_a_row(outputs: Any) -> np.ndarray:
    """One output as it is, and several by name as one array (N,)."""
    if not isinstance(outputs, dict):
        return as_array(outputs)
    return np.concatenate([as_array(outputs[name]).ravel() for name in sorted(outputs)])


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Largest difference, in units of the largest expected magnitude."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def probed(model: keras.Model, spec: builders.TransformerSpec, tokens: Any, what: Any) -> Any:
    """What is inside, by name and in the order asked for, which not every backend keeps."""
    inner = builders.build_probe(model, spec, what)(tokens)
    names = sorted(inner) if isinstance(what, str) else what
    assert inner.keys() == set(names)
    return {name: as_array(inner[name]) for name in names}
