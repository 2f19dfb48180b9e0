"""Several devices: what is split, what each process reads, and bad input.

`on_four_devices.py` and `test_processes.py` compare runs with those on one device.
"""

import os
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from command_line import SHORT, TINY, run, shell
from small_text_models import text_corpus, text_model

import builders
import functional_models as fm
from functional_models import distribution
from functional_models.batches import TokenBatches
from functional_models.fit_data import evaluation_data

SIZES = {"hidden_dim": 13, "num_heads": 6, "head_dim": 5, "intermediate_dim": 14}
SIZES |= {"num_layers": 1, "vocabulary_size": 22, "max_sequence_length": 17}

MODEL, WHOLE = "model", None

SPLIT = {  # as in Megatron-LM, of a decoder with 6 heads, 2 of them for keys and values
    "decoder.token_embedding/embeddings": (MODEL, WHOLE),
    "decoder.block_0.self_attention.query/kernel": (WHOLE, MODEL, WHOLE),
    "decoder.block_0.self_attention.query/bias": (MODEL, WHOLE),
    "decoder.block_0.self_attention.key/kernel": (WHOLE, MODEL, WHOLE),
    "decoder.block_0.self_attention.key/bias": (MODEL, WHOLE),
    "decoder.block_0.self_attention.value/kernel": (WHOLE, MODEL, WHOLE),
    "decoder.block_0.self_attention.value/bias": (MODEL, WHOLE),
    "decoder.block_0.self_attention.output/kernel": (MODEL, WHOLE, WHOLE),
    "decoder.block_0.feedforward.up/kernel": (WHOLE, MODEL),
    "decoder.block_0.feedforward.up/bias": (MODEL,),
    "decoder.block_0.feedforward.down/kernel": (MODEL, WHOLE),
    "logits/kernel": (WHOLE, MODEL),
    "logits/bias": (MODEL,),
}


@pytest.fixture
def split_in_two(monkeypatch):
    """Set a distribution over devices that need not be there: no variable is made."""
    made = distribution._distribution([f"cpu:{i}" for i in range(6)], 2)
    monkeypatch.setattr(keras.distribution, "distribution", lambda: made)
    return made


def split_axes(made, **changes):
    """Return the axes of every variable of a decoder that is split."""
    spec = builders.variant("pre_norm_learned", kind="decoder_only", **{**SIZES, **changes})
    model = builders.build(spec, abstract=True)
    layouts = {v.path: tuple(made.get_variable_layout(v).axes) for v in model.variables}
    return {path: axes for path, axes in layouts.items() if any(axes)}


def test_a_decoder_is_split_as_in_megatron(split_in_two):
    found = split_axes(split_in_two, num_key_value_heads=2, logit_bias=True, tie_embeddings=False)
    assert found == SPLIT


def test_heads_and_words_that_do_not_divide_stay_whole(split_in_two):
    changes = {"logit_bias": True, "tie_embeddings": False}
    found = split_axes(split_in_two, num_key_value_heads=1, vocabulary_size=23, **changes)
    wholes = ("key/", "value/", "token_embedding", "logits")
    assert found == {
        path: axes for path, axes in SPLIT.items() if not any(name in path for name in wholes)
    }


def test_a_kernel_of_another_layer_with_such_a_name_stays_whole(split_in_two):
    dense = SimpleNamespace(path="my_attention.query/kernel", shape=(14, 22))
    assert split_in_two.get_variable_layout(dense).axes == (WHOLE, WHOLE)


def test_latent_attention_and_experts_are_split(split_in_two):
    """All kernels but those of the latents, of the key that heads share, and of the router."""
    spec = builders.variant("deepseek_v2_lite", num_layers=1, block_overrides=())
    model = builders.build(spec, abstract=True)
    left = [v for v in model.variables if not any(split_in_two.get_variable_layout(v).axes)]
    assert {v.path.partition("block_0.")[2] for v in left if v.path.endswith("/kernel")} == {
        "self_attention.latent/kernel",
        "self_attention.shared_key/kernel",
        "feedforward.router/kernel",
    }


def test_heads_that_the_model_axis_does_not_divide_raise(split_in_two):
    spec = builders.variant("pre_norm_learned", kind="decoder_only", **SIZES)
    distribution.check_split(spec)
    message = "model_parallel=2: does not divide num_heads=3; allowed for this model: 1"
    with pytest.raises(ValueError, match=f"^{message}$"):
        fm.CausalLM(spec.replace(num_heads=3, vocabulary_size=256), fm.train_tokenizer("byte", []))
    with pytest.raises(ValueError, match=r"intermediate_dim=9; allowed for this model: 1, 3$"):
        distribution.check_split(spec.replace(intermediate_dim=9))


def test_a_batch_that_the_replicas_do_not_divide_raises(split_in_two):
    batches = {"batch_size": 5, "steps": 1, "progress": False}
    with pytest.raises(ValueError, match="batch_size=5: must be a multiple of 3, as 3 replicas"):
        text_model("decoder_only", intermediate_dim=22).fit(text_corpus(), **batches)
    with pytest.raises(ValueError, match=r"a multiple of 6, .* in 2 parts"):
        distribution.check_batch_size(9, 2)


def test_a_batch_is_filled_for_evaluation_with_rows_that_do_not_count(split_in_two):
    tokens = np.arange(2, 2 + 5 * 7)
    batches = TokenBatches(tokens, block=7, batch_size=4)
    expected = list(batches.eval_batches())
    found = [distribution.fill_rows(batch) for batch in expected]
    assert [labels.shape for _, labels, _ in found] == [(6, 7), (6, 7)]
    for (inputs, labels, weights), (x, y, counted) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(x[:4], inputs)
        np.testing.assert_array_equal(y[:4], labels)
        np.testing.assert_array_equal(counted, np.concatenate([weights, np.zeros((2, 7))]))


@pytest.mark.parametrize(
    ("replicas", "processes", "parts"),
    [
        (6, 3, [[0, 1], [2, 3], [4, 5]]),
        (3, 3, [[0, 1], [2, 3], [4, 5]]),
        (2, 4, [[0, 1, 2], [0, 1, 2], [3, 4, 5], [3, 4, 5]]),
        (1, 2, [range(6), range(6)]),
    ],
)
def test_each_process_reads_the_rows_of_its_replicas(monkeypatch, replicas, processes, parts):
    made = distribution._distribution([f"cpu:{i}" for i in range(replicas)], 1)
    made._num_processes = processes
    monkeypatch.setattr(keras.distribution, "distribution", lambda: made)
    batch = {"inputs": np.arange(6), "labels": np.arange(6 * 5).reshape(6, 5)}
    for process, rows in enumerate(parts):
        made._process_id = process
        found = distribution.own_rows(batch)
        np.testing.assert_array_equal(found["inputs"], list(rows))
        np.testing.assert_array_equal(found["labels"], batch["labels"][list(rows)])


def test_without_a_distribution_nothing_changes():
    batches = TokenBatches(np.arange(40), block=7, batch_size=3)
    batch = batches.batch(0)
    assert distribution.fill_rows(batch) is batch
    assert distribution.own_rows(batch) is batch
    assert not distribution.describe()
    distribution.check_batch_size(3)
    assert evaluation_data(batches) is not None


@pytest.mark.skipif(keras.backend.backend() == "jax", reason="JAX has several devices")
def test_other_backends_are_refused(files, tmp_path, capsys):
    message = f"need the JAX backend, and this is {keras.backend.backend()}; set KERAS_BACKEND=jax"
    with pytest.raises(ValueError, match=message):
        fm.distribute()
    command = ["train", "--to", str(tmp_path / "lm"), *TINY, *SHORT, "--data", "{text.txt}"]
    assert run([*command, "--devices", "2"], files) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("hosts", "process", "processes", "message"),
    [
        ("node1", 0, 2, "hosts='node1': must be HOST:PORT"),
        ("node1:x", 0, 2, "hosts='node1:x': must be HOST:PORT"),
        ("node1:70000", 0, 2, "hosts='node1:70000': must be HOST:PORT"),
        ("node1:0", 0, 2, "hosts='node1:0': must be HOST:PORT"),
        ("node1:7", None, 2, "hosts='node1:7': needs also process"),
        ("node1:7", 0, None, "hosts='node1:7': needs also process"),
        ("node1:7,node2:7", 0, 3, "give one address, or one for each process"),
        ("node1:7", 2, 2, "process=2: must be an integer, 0 to 1"),
        ("node1:7", 0, 0, "processes=0: must be an integer, 1 or more"),
        ("auto", 0, None, "finds process and processes itself"),
    ],
)
def test_wrong_addresses_and_numbers_raise(hosts, process, processes, message):
    with pytest.raises(ValueError, match=message):
        distribution._checked_hosts(hosts, process, processes)


def test_addresses_of_all_processes_give_their_number():
    assert distribution._checked_hosts("node1:7,node2:11", 1, None) == ("node1:7", 2)
    assert distribution._checked_hosts("[::1]:7", 1, 3) == ("[::1]:7", 3)
    assert distribution._checked_hosts("auto", None, None) == (None, None)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((5, 4, 1, 1), "devices=5: JAX sees 4 of type cpu; .*device_count=5 in the environment"),
        ((2, 4, 1, 2), "devices=2: 2 processes use all of their devices, 4 of type cpu"),
        ((4, 4, 3, 1), "model_parallel=3: must divide 4 devices"),
        ((12, 12, 3, 3), "model_parallel=3: must divide the 4 devices of a process"),
    ],
)
def test_numbers_that_do_not_divide_raise(numbers, message):
    devices, there, model_parallel, processes = numbers
    names = [f"cpu:{i}" for i in range(there)]
    with pytest.raises(ValueError, match=message):
        distribution._check_numbers(devices, names, model_parallel, processes)


@pytest.mark.slow
def test_runs_on_four_devices_of_jax():
    """A process of its own: the number of devices is that of the process."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count=4"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    found = shell("-m", "pytest", "-q", "-x", "tests/on_four_devices.py", env=environment)
    assert found.returncode == 0, found.stdout + found.stderr
