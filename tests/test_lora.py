"""LoRA: adapters train alone, reach every graph, are saved, and merge into equal logits."""

import keras
import numpy as np
import pytest
from small_models import as_array, logits_of
from small_text_models import KINDS, SIZES, TEXT, byte_tokenizer, corpus, text_model

import builders
import functional_models as fm

QUICK_FIT = {"steps": 3, "report_every": 3, "batch_size": 3, "learning_rate": 0.05}
QUICK_FIT |= {"progress": False, "warmup_steps": 0}


def weights_of(model):
    return {weight.path: as_array(weight.value) for weight in model.weights}


def adapted(lm, seed=0, **options):
    """Add adapters to a text model, and give all of them random values."""
    names = lm.enable_lora(**{"rank": 3, "alpha": 5.0, **options})
    rng = np.random.default_rng(seed)
    for variable in lm.model.trainable_variables:
        variable.assign(rng.normal(size=variable.shape, scale=0.3))
    return names


def inputs_of(kind):
    tokens = np.random.default_rng(1).integers(3, 90, (2, 11)).astype("int32")
    return tokens if kind == "decoder_only" else {"source": tokens[:, :7], "target": tokens}


def low_rank_kernel(layer):
    """Return the kernel of an adapted dense layer, by NumPy."""
    kernel, a, b = (
        as_array(v.value).astype("float64")
        for v in (layer._kernel, layer.lora_kernel_a, layer.lora_kernel_b)
    )
    return kernel + 5 / 3 * a @ b


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_adds_a_product_of_low_rank_and_merging_keeps_the_logits(kind):
    lm = text_model(kind)
    plain = logits_of(lm.model, inputs_of(kind))
    weights = weights_of(lm.model)
    layers = ("*attention*", "*feedforward*", "logits", "*.token_embedding")
    names = lm.enable_lora(3, layers=layers, alpha=5.0)
    assert {"decoder.block_0.self_attention.query", "logits"} <= {*names}
    np.testing.assert_allclose(logits_of(lm.model, inputs_of(kind)), plain, rtol=1e-6, atol=1e-6)

    for variable in lm.model.trainable_variables:
        variable.assign(np.random.default_rng(0).normal(size=variable.shape, scale=0.3))
    changed = logits_of(lm.model, inputs_of(kind))
    assert np.abs(changed - plain).max() > 0.1
    other = text_model(kind)
    for name in names:
        ours, theirs = other.model.get_layer(name), lm.model.get_layer(name)
        if isinstance(theirs, keras.layers.Embedding):
            a, b = (as_array(v.value) for v in (theirs.lora_embeddings_a, theirs.lora_embeddings_b))
            ours.embeddings.assign(as_array(ours.embeddings.value) + 5 / 3 * a @ b)
        else:
            ours.kernel.assign(low_rank_kernel(theirs))
    np.testing.assert_allclose(
        changed, logits_of(other.model, inputs_of(kind)), rtol=1e-5, atol=1e-5
    )

    lm.merge_lora()
    merged = logits_of(lm.model, inputs_of(kind))
    np.testing.assert_allclose(merged, changed, rtol=1e-5, atol=1e-5)
    assert weights_of(lm.model).keys() == weights.keys()
    assert len(lm.model.trainable_weights) == len(text_model(kind).model.trainable_weights)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_graph_of_a_model_has_its_adapters(kind):
    lm = text_model(kind)
    texts = ["um", "dois tres"]

    def outputs():
        if kind == "decoder_only":
            return lm.generate(texts, "greedy", max_new_tokens=7)
        return lm.translate(texts, max_new_tokens=7, progress=False)

    before = outputs()
    adapted(lm, layers="*.self_attention.*")
    with_adapters = outputs()
    lm.merge_lora()
    assert outputs() == with_adapters != before


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_only_the_adapters_train(optimizer):
    lm = text_model("decoder_only")
    lm.enable_lora(2)
    before = weights_of(lm.model)
    lm.fit(TEXT, optimizer=optimizer, **QUICK_FIT)
    after = weights_of(lm.model)
    moved = {path for path in before if np.any(before[path] != after[path])}
    parts = {f"{role}/lora_kernel_{part}" for role in ("query", "value") for part in "ab"}
    of_layers = {f"decoder.block_0.self_attention.{part}" for part in parts}
    seeds = {path for path in before if "seed" in path}  # of dropout
    assert moved - seeds == of_layers


def test_saved_adapters_are_loaded_as_adapters(tmp_path):
    lm = text_model("decoder_only")
    base = weights_of(lm.model)
    names = adapted(lm)
    lm.save(tmp_path / "lm")
    loaded = fm.load(tmp_path / "lm")
    assert [x.name for x in loaded.model.layers if getattr(x, "lora_enabled", False)] == names
    found, expected = weights_of(loaded.model), weights_of(lm.model)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        if "seed" not in path:
            np.testing.assert_array_equal(found[path], value)
    for path, value in base.items():  # the frozen kernels are bit for bit those of before
        if "seed" not in path:
            np.testing.assert_array_equal(found[path], value)
    tokens = inputs_of("decoder_only")
    np.testing.assert_array_equal(logits_of(loaded.model, tokens), logits_of(lm.model, tokens))
    assert {v.path for v in loaded.model.trainable_variables} == {
        v.path for v in lm.model.trainable_variables
    }
    loaded.merge_lora()
    loaded.save(tmp_path / "lm", overwrite=True)
    assert not list((tmp_path / "lm").glob("adapters-*"))
    merged = logits_of(fm.load(tmp_path / "lm").model, tokens)
    np.testing.assert_allclose(merged, logits_of(lm.model, tokens), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_with_adapters_keeps_its_best_and_goes_on(tmp_path):
    def started():
        lm = text_model("decoder_only", dropout=0.0)
        lm.enable_lora(2)
        return lm

    lm, folder = started(), tmp_path / "run"
    data = corpus("decoder_only")
    lm.fit(data, folder=folder, **QUICK_FIT)
    assert np.abs(as_array(lm.model.trainable_variables[1].value)).max() > 0
    held_out = data.validation
    loss = min(row["val_loss"] for row in lm.history)
    assert lm.evaluate(held_out, batch_size=3)["loss"] == pytest.approx(loss, rel=1e-6)
    assert fm.load(folder).evaluate(held_out, batch_size=3)["loss"] == pytest.approx(loss, rel=1e-6)
    rows = started().fit(data, folder=folder, **{**QUICK_FIT, "steps": 6})
    assert [row["step"] for row in rows] == [3, 6]
    other = text_model("decoder_only", dropout=0.0)  # without adapters
    with pytest.raises(ValueError, match="holds a run with different model"):
        other.fit(data, folder=folder, **{**QUICK_FIT, "steps": 6})


def test_a_file_of_adapters_that_is_damaged_or_missing_is_named(tmp_path):
    lm = text_model("decoder_only")
    adapted(lm)
    lm.save(tmp_path / "lm")
    (file,) = (tmp_path / "lm").glob("adapters-*.npz")
    file.write_bytes(file.read_bytes()[:99])
    with pytest.raises(ValueError, match=r"adapters-\w+.npz cannot be read"):
        fm.load(tmp_path / "lm")
    file.unlink()
    with pytest.raises(FileNotFoundError, match=r"adapters-\w+.npz is missing"):
        fm.load(tmp_path / "lm")


def test_other_formats_take_merged_models_only(tmp_path):
    lm = text_model("decoder_only")
    adapted(lm)
    message = r"writes no LoRA: merge it into the weights with merge_lora\(\)$"
    with pytest.raises(ValueError, match=f"to_hugging_face {message}"):
        fm.to_hugging_face(lm, tmp_path / "theirs")
    with pytest.raises(ValueError, match=f"to_keras_hub {message}"):
        fm.to_keras_hub(lm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 0}, "rank=0: must be an integer, 1 or more"),
        ({"alpha": -1}, "alpha=-1: must be a number above 0"),
        (
            {"layers": "*.qeury"},
            r"layers='\*.qeury': matches no layer with a kernel for LoRA; those are decoder.",
        ),
        ({"layers": ()}, "matches no layer with a kernel"),
    ],
)
def test_bad_values_are_refused_and_change_nothing(options, message):
    lm = text_model("decoder_only")
    with pytest.raises(ValueError, match=message) as caught:
        lm.enable_lora(**options)
    assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="the model has no LoRA to merge"):
        lm.merge_lora()
    lm.enable_lora(2)
    with pytest.raises(ValueError, match="has LoRA already; merge_lora first"):
        lm.enable_lora(2)


def test_constrained_kernels_are_refused():
    spec = builders.variant("ngpt", **{**SIZES, "hidden_dim": 16, "dropout": 0.0})
    lm = fm.CausalLM(spec, byte_tokenizer())
    with pytest.raises(ValueError, match="has a constraint on its kernel, and can have no LoRA"):
        lm.enable_lora(2)


@pytest.mark.slow
def test_frozen_layers_do_not_train(tmp_path):
    lm = text_model("decoder_only")
    frozen = lm.freeze(["*embedding", "*.feedforward.*"])
    assert "decoder.token_embedding" in frozen
    before = weights_of(lm.model)
    lm.fit(TEXT, folder=tmp_path / "run", **QUICK_FIT)
    after = weights_of(lm.model)
    kept = {path for path in before if np.all(before[path] == after[path])}
    assert {path.rpartition("/")[0] for path in kept} >= {*frozen}
    assert "logits/kernel" not in kept
    assert lm.freeze(()) == []
    with pytest.raises(ValueError, match="holds a run with different trained weights"):
        lm.fit(TEXT, folder=tmp_path / "run", **QUICK_FIT)
    lm.fit(TEXT, **QUICK_FIT)
    moved = weights_of(lm.model)
    assert all(
        np.any(moved[f"{name}/embeddings"] != after[f"{name}/embeddings"])
        for name in frozen
        if name.endswith("embedding")
    )
    with pytest.raises(ValueError, match="match every layer with weights; leave some to train"):
        lm.freeze("*")
    with pytest.raises(ValueError, match="matches no layer with weights"):
        lm.freeze("encoder.*")


@pytest.mark.slow
def test_evaluation_of_one_model_follows_its_adapters():
    lm = text_model("decoder_only")
    first = lm.evaluate(TEXT, batch_size=3)["loss"]
    adapted(lm)
    second = lm.evaluate(TEXT, batch_size=3)["loss"]
    lm.merge_lora()
    assert lm.evaluate(TEXT, batch_size=3)["loss"] == pytest.approx(second, rel=1e-5)
    assert abs(first - second) > 1e-3
