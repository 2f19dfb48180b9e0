"""Tests in a process with four devices of JAX, which `test_distribution.py` starts."""

import re
from collections import Counter

import keras
import numpy as np
import pytest
from small_text_models import PAIRS, parallel_corpus, text_corpus, text_model

import functional_models as fm
from functional_models.folders import RUN

RECIPE = {"steps": 5, "report_every": 2, "batch_size": 12, "progress": False}
SIZES = {"intermediate_dim": 22}  # hidden channels that two devices divide

DISTRIBUTIONS = [{"devices": 4}, {"devices": 4, "model_parallel": 2}, {"model_parallel": 4}]


class StopAfter(keras.callbacks.Callback):
    """Raises KeyboardInterrupt after some steps."""

    def __init__(self, steps):
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch, logs=None):
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


@pytest.fixture(autouse=True)
def one_device():
    """Begin and end without a distribution."""
    assert len(keras.distribution.list_devices()) == 4
    assert keras.distribution.distribution() is None
    yield
    keras.distribution.set_distribution(None)


def corpus(kind):
    return text_corpus() if kind == "decoder_only" else parallel_corpus()


def trained(kind="decoder_only", changes=None, **options):
    """Return a trained model, its rows without times, and its weights."""
    model = text_model(kind, **{**SIZES, **(changes or {})})
    rows = model.fit(corpus(kind), **{**RECIPE, **options})
    times = ("seconds", "tokens_per_second")
    rows = [{name: v for name, v in row.items() if name not in times} for row in rows]
    weights = {v.path: keras.ops.convert_to_numpy(v.value) for v in model.model.weights}
    return model, rows, weights


def assert_same(found, expected):
    _, rows, weights = found
    _, expected_rows, expected_weights = expected
    assert [row.keys() for row in rows] == [row.keys() for row in expected_rows]
    for row, other in zip(rows, expected_rows, strict=True):
        for name in row:
            np.testing.assert_allclose(row[name], other[name], atol=1e-5, rtol=1e-5, err_msg=name)
    for path, value in weights.items():
        if path.endswith(
            "key/bias"
        ):  # adds the same to all scores of a query: no gradient but noise
            continue
        np.testing.assert_allclose(value, expected_weights[path], atol=2e-5, err_msg=path)


@pytest.mark.parametrize("arguments", DISTRIBUTIONS, ids=str)
def test_loss_and_weights_are_those_of_one_device(arguments):
    changes = {"num_heads": 4, "head_dim": 3, "intermediate_dim": 20}
    changes |= {"num_key_value_heads": 2, "feedforward": "glu"}
    expected = trained(changes=changes)
    fm.distribute(**arguments)
    assert_same(trained(changes=changes), expected)


SIZES_OF_MOE = {"num_experts": 3, "num_active_experts": 2, "expert_dim": 10}


@pytest.mark.parametrize(
    ("kind", "changes", "options"),
    [
        ("encoder_decoder", {}, {}),
        ("decoder_only", {"tie_embeddings": True}, {"gradient_accumulation": 3}),
        ("decoder_only", SIZES_OF_MOE, {"optimizer": "muon"}),
        ("decoder_only", {}, {"ema_decay": 0.5, "optimizer": "adafactor"}),
        ("decoder_only", {"attention": "layer"}, {"optimizer": "lion", "z_loss": 1e-3}),
    ],
    ids=str,
)
def test_every_way_to_train_is_the_same_on_two_replicas_of_two_devices(kind, changes, options):
    expected = trained(kind, changes, **options)
    fm.distribute(4, model_parallel=2)
    assert_same(trained(kind, changes, **options), expected)


def test_documents_are_kept_apart_on_four_devices():
    tokenizer = fm.train_tokenizer("byte", [])
    documents = ["the quick brown fox", "jumps over", "the lazy dog"] * 13

    def rows():
        keras.utils.set_random_seed(3)
        lm = fm.CausalLM(text_model("decoder_only").spec, tokenizer)
        return [row["loss"] for row in lm.fit(documents, packing="documents", **RECIPE)]

    expected = rows()
    fm.distribute()
    np.testing.assert_allclose(rows(), expected, atol=1e-5)


def test_devices_hold_their_share_of_weights_and_moments():
    fm.distribute(4, model_parallel=2)
    model, *_ = trained(steps=1)
    sizes = {v.path: v.value.sharding.shard_shape(v.value.shape) for v in model.model.weights}
    block = "decoder.block_0"
    assert sizes[f"{block}.self_attention.query/kernel"] == (14, 1, 7)
    assert sizes[f"{block}.self_attention.output/kernel"] == (1, 7, 14)
    assert sizes[f"{block}.feedforward.up/kernel"] == (14, 11)
    assert sizes[f"{block}.feedforward.down/kernel"] == (11, 14)
    assert sizes["decoder.token_embedding/embeddings"] == (128, 14)
    moments = [v for v in model.model.optimizer.variables if "query_kernel" in v.path]
    assert len(moments) == 2
    for moment in moments:
        assert moment.value.sharding.shard_shape(moment.value.shape) == (14, 1, 7)


def test_a_forward_pass_communicates_as_in_megatron():
    """Two sums for each block, one for the embedding, and no weights."""
    import jax

    fm.distribute(2, model_parallel=2)
    model = text_model("decoder_only", **SIZES, num_layers=3).model
    weights = [v.value for v in model.trainable_variables]
    others = [v.value for v in model.non_trainable_variables]
    step = jax.jit(lambda *state: model.stateless_call(*state)[0])
    program = step.lower(weights, others, np.zeros((5, 19), "int32")).compile().as_text()
    operations = "all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter"
    found = Counter()
    for shapes, operation in re.findall(rf"= (.+?) ({operations})(?:-start)?\(", program):
        found.update((operation, shape) for shape in re.findall(r"\w+\[[\d,]*\]", shapes))
    assert found == {("all-reduce", "f32[5,19,14]"): 2 * 3 + 1}


@pytest.mark.parametrize(
    ("first", "second"),
    [({"devices": 4, "model_parallel": 2}, None), (None, {"devices": 4}), ({}, {"devices": 2})],
    ids=str,
)
def test_a_run_is_resumed_on_another_number_of_devices(tmp_path, first, second):
    recipe = {"steps": 7}
    expected = trained(folder=tmp_path / "whole", **recipe)
    if first is not None:
        fm.distribute(**first)
    with pytest.raises(KeyboardInterrupt):
        trained(folder=tmp_path / "run", callbacks=(StopAfter(5),), **recipe)
    with np.load(tmp_path / "run" / RUN) as saved:
        shapes = [saved[f"array_{i}"].shape for i in range(len(saved.files) - 1)]
    keras.distribution.set_distribution(None)
    if second is not None:
        fm.distribute(**second)
    found = trained(folder=tmp_path / "run", **recipe)
    assert [row["step"] for row in found[1]] == [2, 4, 6, 7]
    assert_same(found, expected)
    model = found[0].model
    assert shapes == [tuple(v.shape) for v in [*model.variables, *model.optimizer.variables]]


def test_a_model_is_loaded_evaluated_and_generates_on_four_devices(tmp_path):
    model, *_ = trained()
    model.save(tmp_path / "lm")
    expected = model.evaluate(corpus("decoder_only").validation, batch_size=5)
    text = model.generate("the ", "greedy", max_new_tokens=7)
    fm.distribute(4, model_parallel=2)
    loaded = fm.load(tmp_path / "lm")
    found = loaded.evaluate(corpus("decoder_only").validation, batch_size=5)  # filled to 6
    assert found == pytest.approx(expected, rel=1e-5)
    assert found["loss"] == pytest.approx(expected["loss"], rel=0, abs=1e-5)
    assert loaded.generate("the ", "greedy", max_new_tokens=7) == text
    random = loaded.generate(["a", "the "], "random", seed=3, max_new_tokens=5)
    assert len(random) == 2


def test_translations_are_those_of_one_device():
    model, *_ = trained("encoder_decoder")
    sources = [source for source, _ in PAIRS[:3]]
    expected = model.translate(sources)
    fm.distribute(2)
    model, *_ = trained("encoder_decoder")
    assert model.translate(sources) == expected


def test_adapters_are_trained_on_four_devices():
    def rows():
        model = text_model("decoder_only", **SIZES)
        keras.utils.set_random_seed(5)
        model.enable_lora(rank=3)
        return [row["loss"] for row in model.fit(text_corpus(), **RECIPE)]

    expected = rows()
    fm.distribute(model_parallel=2)
    np.testing.assert_allclose(rows(), expected, atol=1e-5)


def test_a_model_that_was_made_before_is_refused():
    model = text_model("decoder_only")
    fm.distribute()
    for call in (lambda: model.fit(text_corpus(), **RECIPE), lambda: model.evaluate("a fox " * 9)):
        with pytest.raises(ValueError, match="made before distribute"):
            call()


def test_bad_input_is_refused_before_anything_is_written(tmp_path, capsys):
    from functional_models.cli import main

    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox " * 20)
    command = ["train", "--data", str(path), "--to", str(tmp_path / "lm"), "--tokenizer", "byte"]
    command += ["--set", "num_heads=3", "--set", "hidden_dim=6", "--set", "intermediate_dim=8"]
    for options, message in {
        ("--devices", "5"): "devices=5: JAX sees 4 of type cpu",
        ("--devices", "0"): "devices=0: must be an integer, 1 or more",
        ("--devices", "3", "--batch-size", "8"): "batch_size=8: must be a multiple of 3",
        ("--model-parallel", "3"): "model_parallel=3: must divide 4 devices",
        ("--model-parallel", "2"): "model_parallel=2: does not divide num_heads=3",
        ("--process", "1"): "process and processes need hosts (--hosts)",
        ("--hosts", "auto"): "must be called once, and before anything is computed",
    }.items():
        assert main([*command, *options]) == 2, options
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1
        assert not (tmp_path / "lm").exists()


def test_the_command_trains_on_four_devices_and_says_so(tmp_path, capsys):
    from functional_models.cli import main

    path = tmp_path / "text.txt"
    path.write_text("the quick brown fox " * 20)
    to = str(tmp_path / "lm")
    command = ["train", "--data", str(path), "--to", to, "--tokenizer", "byte", "--steps", "2"]
    command += ["--set", "num_heads=2", "--set", "hidden_dim=6", "--set", "num_layers=1"]
    command += ["--set", "max_sequence_length=19", "--batch-size", "2", "--sample", "the"]
    assert main([*command, "--devices", "4", "--model-parallel", "2"]) == 0
    printed = capsys.readouterr().out
    assert "; 4 devices, 2 for each of 2 replicas" in printed
    assert "no sample" not in printed
    assert "the best model is in" in printed
