"""Small specs of distinct prime sizes, and models with random weights."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import keras
import numpy as np

import builders
from builders.elementwise import LearnedScale

KINDS = ("decoder_only", "encoder_decoder")
"""The kinds with a decoder."""
ALL_KINDS = (*KINDS, "encoder_only")
BATCH, TARGET_LENGTH, SOURCE_LENGTH = 3, 11, 13
PREFIX_LENGTH = 4
"""Tokens of the prefix of each row, where there is one."""
SIZES: dict[str, Any] = {
    "vocabulary_size": 31,
    "source_vocabulary_size": 29,
    "num_layers": 2,
    "hidden_dim": 14,
    "num_heads": 2,  # heads of 7
    "intermediate_dim": 23,
    "max_sequence_length": 17,
}
OTHER_NUMBERS: dict[str, Any] = {
    "norm_epsilon": 1e-5,
    "rotary_base": 97.0,
    "rotary_factor": 3.7,
    "rotary_magnitude": 0.8,
    "attention_scale": 0.3,
    "embedding_scale": 1.7,
    "logit_scale": 0.6,
    "initializer_range": 0.02,
}
GROUPED = {"num_heads": 6, "num_key_value_heads": 3, "head_dim": 5}
LATENTS = {"num_heads": 3, "head_dim": 11, "rotary_dim": 4, "latent_dim": 5, "value_dim": 13}
ROTARY_LATENTS = {**LATENTS, "positions": "rotary", "query_latent_dim": 9, "norm": "rms"}
TRANSLATOR = {"kind": "encoder_decoder"}


def small_spec(**changes: Any) -> builders.TransformerSpec:
    """Return a spec of the sizes above; shared embeddings use the target vocabulary for both."""
    if changes.get("share_embeddings"):
        changes = {"source_vocabulary_size": None, **changes}
    return builders.TransformerSpec(**{**SIZES, **changes})


def reduced_variant(name: str, kind: str) -> builders.TransformerSpec:
    """Return the spec of a variant reduced to the sizes above, with all other options kept."""
    spec = builders.variant(name, kind=kind)
    changes: dict[str, Any] = dict(SIZES)
    if spec.num_encoder_layers != spec.num_layers:
        changes["num_encoder_layers"] = None
    if spec.share_embeddings:
        del changes["source_vocabulary_size"]
    if spec.embedding_dim != spec.hidden_dim:
        changes["embedding_dim"] = 11
    if spec.head_dim * spec.num_heads != spec.hidden_dim:
        changes["head_dim"] = 5
    if spec.positions == "rotary":
        changes["head_dim"] = 6  # channels are rotated in pairs
        changes["rotary_dim"] = 4 if spec.rotary_dim < spec.head_dim else None
        changes["rotary_original_length"] = 7
        pairs = (changes["rotary_dim"] or changes["head_dim"]) // 2
        for name in ("rotary_short_factors", "rotary_long_factors"):
            changes[name] = (getattr(spec, name) or ())[:: 48 // pairs] or None
    if spec.latent_dim is not None:
        changes |= {"head_dim": 7, "rotary_dim": 4, "latent_dim": 5, "value_dim": 3}
        changes["query_latent_dim"] = 11 if spec.query_latent_dim else None
    if spec.num_key_value_heads < spec.num_heads:
        changes["num_key_value_heads"] = 1
    else:
        changes["num_key_value_heads"] = None
    if spec.attention_window:
        changes["attention_window"] = 3
    if spec.attention_chunk:
        changes |= {"attention_chunk": 4, "attention_temperature_floor": 3}
    if spec.num_experts:
        active = min(spec.num_active_experts, 3)
        changes |= {"num_experts": 6, "num_active_experts": active, "expert_dim": 11}
        changes["shared_expert_dim"] = 5 * (spec.shared_expert_dim > 0)
    if spec.router_scale > 1:  # of scores that are smaller for more experts
        changes["router_scale"] = 1.7
    if spec.num_expert_groups > 1:
        changes |= {"num_expert_groups": 3, "num_active_groups": 2}
    if pattern := spec.block_overrides:
        changes["block_overrides"] = tuple(map(reduced_overrides, (pattern[0], pattern[-1])))
    if spec.pad_token_id is not None and spec.pad_token_id >= SIZES["source_vocabulary_size"]:
        changes["pad_token_id"] = 7
    return spec.replace(**changes)


def reduced_overrides(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return other values of fields in a block, reduced to the sizes above."""
    small = {"attention_window": 5, "intermediate_dim": 19, "num_key_value_heads": 1}
    small |= {"rotary_original_length": 7, "num_experts": 6, "expert_dim": 11}
    return {name: small.get(name, value) if value else value for name, value in overrides.items()}


def variants_and_kinds() -> list[tuple[str, str]]:
    """Return (variant, kind) pairs, one of each group that differs only in sizes and numbers."""
    found = {}
    for name in builders.list_variants():
        for kind in builders.variant_info(name).kinds:
            found.setdefault(wiring_of(reduced_variant(name, kind)), (name, kind))
    return list(found.values())


def wiring_of(spec: builders.TransformerSpec) -> builders.TransformerSpec:
    """Return a spec with the same wiring and other numbers, such as epsilons."""
    numbers = {k: v for k, v in OTHER_NUMBERS.items() if getattr(spec, k) not in (None, 1)}
    overrides = tuple(
        {name: OTHER_NUMBERS.get(name, value) if value else value for name, value in own.items()}
        for own in spec.block_overrides
    )
    return spec.replace(**numbers, block_overrides=overrides)


ALL_VARIANTS = variants_and_kinds()
VARIANTS_AND_KINDS = [row for row in ALL_VARIANTS if row[1] in KINDS]


@contextmanager
def dtype_policy_scope(dtype_policy: str) -> Iterator[None]:
    """Create layers with this dtype policy inside the context."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(dtype_policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def random_model(
    spec: builders.TransformerSpec, seed: int = 0, **build_options: Any
) -> keras.Model:
    """Return a model with random weights, biases and norms included, so that each has an effect."""
    model = builders.build(spec, **build_options)
    randomise_weights(model, seed)
    return model


@lru_cache(maxsize=64)
def _model_of(spec: builders.TransformerSpec, dtype_policy: str) -> keras.Model:
    return builders.build(spec)


def shared_model(spec: builders.TransformerSpec, seed: int = 0) -> keras.Model:
    """Return `random_model` of a spec: one model, with new random weights in every call.

    Building takes most of the time of a small test. Tests that compile the model, or that compare
    two models of a spec, need `random_model`.
    """
    model = _model_of(spec, keras.config.dtype_policy().name)
    randomise_weights(model, seed)
    return model


def randomise_weights(model: keras.Model, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    # What one in the weight of a gain stands for.
    units = {
        f"{layer.name}.scale": layer.start / layer.stored
        for layer in model.layers
        if isinstance(layer, LearnedScale) and layer.stored
    }
    for name, variable in sorted(variables_by_name(model).items()):
        noise = rng.normal(size=variable.shape).astype("float32")
        if name.endswith(("gamma", "scale", "static")):  # else streams may nearly cancel out
            value = (1.0 + 0.3 * noise) / units.get(name, 1.0)
        elif name.endswith("kernel"):  # (n, h, d) sums over two axes, all others over the first
            fan_in = variable.shape[:2] if ".output." in name else variable.shape[:1]
            fan_in = variable.shape[1:2] if ".experts." in name else fan_in  # (e, d, f)
            value = noise / np.sqrt(np.prod(fan_in))
        else:
            value = 0.5 * noise
        variable.assign(value)


def variables_by_name(model: keras.Model) -> dict[str, keras.Variable]:
    """Return all weights by "<layer name>.<variable name>", the keys of the reference.

    The projections inside the Keras attention layer get the names of the wired projections.
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
    """Return token ids, padded at the end of the second row and in the middle of the third."""
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
    if spec.prefix_lm:
        return with_prefix(target, PREFIX_LENGTH)
    if spec.kind != "encoder_decoder":
        return target
    assert spec.source_vocabulary_size is not None
    return {"source": draw(SOURCE_LENGTH, spec.source_vocabulary_size), "target": target}


def target_of(tokens: Any) -> np.ndarray:
    return tokens[_target_name(tokens)] if isinstance(tokens, dict) else tokens


def with_target(tokens: Any, target: np.ndarray) -> Any:
    return {**tokens, _target_name(tokens): target} if isinstance(tokens, dict) else target


def _target_name(tokens: dict[str, np.ndarray]) -> str:
    return "target" if "target" in tokens else "tokens"


def with_prefix(tokens: Any, *lengths: int) -> dict[str, np.ndarray]:
    """Return tokens (b, t) with the length of each row's prefix, or the one of all rows."""
    tokens = target_of(tokens)
    rows = np.broadcast_to(np.array(lengths, "int32"), len(tokens))
    return {"tokens": tokens, "prefix_length": np.array(rows)}


def replace_token(spec: builders.TransformerSpec, tokens: np.ndarray, t: int) -> np.ndarray:
    """Return tokens (b, t) with another token, not padding, at position t of every row."""
    changed = tokens.copy()
    changed[:, t] = (changed[:, t] + 3) % spec.vocabulary_size
    if spec.pad_token_id is not None:
        changed[:, t] = np.where(changed[:, t] == spec.pad_token_id, 5, changed[:, t])
    return changed


def train_one_step(model: keras.Model, tokens: Any, learning_rate: float = 10.0) -> None:
    """Run one step of gradient descent on random labels with `model.fit`."""
    labels = np.random.default_rng(5).integers(
        0, model.output_shape[-1], (BATCH, TARGET_LENGTH), dtype="int32"
    )
    model.compile(
        optimizer=keras.optimizers.SGD(learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
        run_eagerly=keras.backend.backend() == "tensorflow",  # faster than tracing one step
    )
    model.fit(tokens, labels, batch_size=BATCH, epochs=1, verbose=0)


def as_array(tensor: Any) -> np.ndarray:
    """Convert a tensor to NumPy; floats to float32, since NumPy has no bfloat16."""
    if isinstance(tensor, np.ndarray):
        return tensor
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(tensor.dtype)):
        tensor = keras.ops.cast(tensor, "float32")
    return keras.ops.convert_to_numpy(tensor)


def logits_of(model: keras.Model, tokens: Any, training: bool = False) -> np.ndarray:
    """Return the logits (b, t, v) in float32; for an encoder, all outputs flattened.

    Calls the model eagerly, which is faster here than compiling.
    """
    return flatten_outputs(model(tokens, training=training))


def flatten_outputs(outputs: Any) -> np.ndarray:
    """Return a single output as an array, and a dict of outputs as one flat array (N,)."""
    if not isinstance(outputs, dict):
        return as_array(outputs)
    return np.concatenate([as_array(outputs[name]).ravel() for name in sorted(outputs)])


def relative_error(actual: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference divided by the largest expected magnitude."""
    assert actual.shape == expected.shape
    return float(np.abs(actual - expected).max() / np.abs(expected).max())


def probe_activations(
    model: keras.Model, spec: builders.TransformerSpec, tokens: Any, layers: Any
) -> Any:
    """Return internal activations by name, in the order requested (some backends sort them)."""
    activations = builders.build_probe(model, spec, layers)(tokens)
    names = sorted(activations) if isinstance(layers, str) else layers
    assert activations.keys() == set(names)
    return {name: as_array(activations[name]) for name in names}
