"""Two processes on this machine, with two devices each: equal losses, a kill, and time-outs."""

import json
import os
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np
import pytest
from command_line import ROOT
from small_text_models import text_corpus, text_model

import functional_models as fm
from functional_models import distribution, processes, training
from functional_models.folders import LOCK, RUN

TEXT = "the quick brown fox jumps over the lazy dog; " * 29
COMMAND = ["train", "--tokenizer", "byte", "--batch-size", "12", "--report-every", "3"]
for field, value in {
    "num_layers": 1,
    "hidden_dim": 13,
    "num_heads": 4,
    "head_dim": 3,
    "intermediate_dim": 20,
    "max_sequence_length": 19,
    "dropout": 0.1,
}.items():
    COMMAND += ["--set", f"{field}={value}"]


def free_port():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def start(arguments, devices, **streams):
    """Start a command in a process with some devices of JAX."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
    environment = {**os.environ, "KERAS_BACKEND": "jax", "XLA_FLAGS": flags}
    return subprocess.Popen(
        [sys.executable, "-m", "functional_models", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=environment,
        **streams,
    )


def start_two(arguments):
    hosts = ["--hosts", f"127.0.0.1:{free_port()}", "--processes", "2", "--timeout", "30"]
    return [start([*arguments, *hosts, "--process", str(process)], 2) for process in (0, 1)]


def finish(started):
    """Return the outputs of processes; all must succeed."""
    outputs = [process.communicate(timeout=200) for process in started]
    for process, (_, errors) in zip(started, outputs, strict=True):
        assert process.returncode == 0, errors
    return [out for out, _ in outputs]


def losses(folder):
    with np.load(folder / RUN) as saved:
        rows = json.loads(str(saved["state"]))["rows"]
    return [[row["step"], row["loss"], row["val_loss"]] for row in rows]


def assert_same_model(folder, other):
    models = [fm.load(path).model for path in (folder, other)]
    for found, expected in zip(*(model.weights for model in models), strict=True):
        if not found.path.endswith("key/bias"):  # without a gradient, but for noise
            np.testing.assert_allclose(found.numpy(), expected.numpy(), atol=2e-5)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the folder of a text, and of a run of one process on one device."""
    folder = tmp_path_factory.mktemp("runs")
    (folder / "text.txt").write_text(TEXT)
    finish([start([*command(folder), "--to", str(folder / "alone")], 1)])
    return folder


def command(folder, steps=12):
    return [*COMMAND, "--steps", str(steps), "--data", str(folder / "text.txt")]


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["--model-parallel", "4"]])
def test_two_processes_have_the_losses_of_one(alone, tmp_path, options):
    arguments = [*command(alone), "--to", str(tmp_path / "run"), "--sample", "the", *options]
    first, second = finish(start_two(arguments))
    assert "in 2 processes" in first
    assert "the best model is in" in first
    assert "no sample" not in first
    # The first process writes; on CPUs, JAX says how it is connected.
    assert all(line.startswith("[Gloo]") for line in second.splitlines())
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone / "alone"), atol=1e-5)
    assert_same_model(tmp_path / "run", alone / "alone")
    names = {path.name.partition("-")[0] for path in (tmp_path / "run").iterdir()}
    assert names == {RUN, "model.json", "tokenizer", "weights"}


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_run_goes_on_after_a_process_was_killed(alone, tmp_path, killed):
    """JAX ends the other process too; the run resumes, here on one device."""
    to = ["--to", str(tmp_path / "run")]
    both = start_two([*command(alone), *to, "--model-parallel", "2"])
    try:
        for line in both[0].stdout:
            if line.startswith("step      6/12 ") and "validation" in line:  # the second report
                break
        both[killed].send_signal(signal.SIGKILL)
        other = both[1 - killed]
        _, errors = other.communicate(timeout=150)
        assert other.returncode == -signal.SIGABRT, errors
        assert "another task died" in errors
    finally:
        for process in both:
            process.kill()
            process.communicate()
    done = int(losses(tmp_path / "run")[-1][0])
    assert done in (3, 6)
    (printed,) = finish([start([*command(alone), *to], 1)])
    assert f"going on from step {done}" in printed
    np.testing.assert_allclose(losses(tmp_path / "run"), losses(alone / "alone"), atol=1e-5)
    assert not (tmp_path / "run" / LOCK).exists()


@pytest.mark.slow
def test_the_first_process_fails_for_all(alone, tmp_path):
    """A folder that holds another run is left as it was, and each process says so."""
    before = (alone / "alone" / RUN).read_bytes()
    both = start_two([*command(alone, steps=12), "--seed", "3", "--to", str(alone / "alone")])
    for process in both:
        _, errors = process.communicate(timeout=150)
        assert process.returncode == 2
        assert "holds a run with different seed (0 saved, 3 given)" in errors
        assert errors.count("\n") == 1
    assert (alone / "alone" / RUN).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("process", [0, 1])
def test_a_process_that_is_alone_stops_in_time(alone, tmp_path, process):
    hosts = ["--hosts", f"127.0.0.1:{free_port()}", "--processes", "2", "--timeout", "2"]
    arguments = [*command(alone), "--to", str(tmp_path / "run"), *hosts]
    began = time.monotonic()
    found = start([*arguments, "--process", str(process)], 1)
    _, errors = found.communicate(timeout=100)
    assert found.returncode == 2, errors
    assert f"process {1 - process} has not answered" in errors
    assert "within 2 seconds" in errors
    assert errors.count("\n") == 1
    assert time.monotonic() - began < 40
    assert not (tmp_path / "run").exists()


def meet_all(numbers, timeout=5):
    """Return the errors of processes that meet, in threads; `None` for each without one."""
    address = f"127.0.0.1:{free_port()}"

    def meet(process, number):
        try:
            processes.meet(address, process, number, timeout)
        except (OSError, ValueError) as error:
            return error

    with ThreadPoolExecutor(len(numbers)) as pool:
        return list(pool.map(meet, *zip(*numbers, strict=True)))


def test_processes_meet_in_any_order():
    assert meet_all([(2, 4), (0, 4), (3, 4), (1, 4)]) == [None] * 4


def test_each_process_that_misses_another_says_so():
    first, second = meet_all([(0, 3), (2, 3)], timeout=1)
    assert str(first).startswith("process 1 has not answered within 1 seconds")
    assert str(second).startswith("process 0 has not answered at 127.0.0.1:")
    assert {type(first), type(second)} == {TimeoutError}


@pytest.mark.slow
def test_numbers_of_processes_that_disagree_raise():
    _, second = meet_all([(0, 2), (2, 3)], timeout=1)
    assert str(second).startswith("process 2/3 is not expected at 127.0.0.1:")


def test_a_process_that_something_else_answers_asks_a_few_times_a_second():
    asked = []

    class Closes(socketserver.BaseRequestHandler):
        def handle(self):
            asked.append(self.client_address)

    with socketserver.TCPServer(("127.0.0.1", 0), Closes) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TimeoutError, match="process 0 has not answered"):
            processes.meet(f"127.0.0.1:{server.server_address[1]}", 1, 2, 1)
        server.shutdown()
    assert 1 < len(asked) < 10


def test_a_port_that_is_taken_raises():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"cannot listen on port {port} \(Address already in"):
            processes.meet(f"127.0.0.1:{port}", 0, 2, 1)


@pytest.fixture
def pair(monkeypatch):
    """Set a distribution over two processes, of which messages pass through a list."""
    multihost = pytest.importorskip("jax.experimental.multihost_utils")
    sent = []

    def broadcast(message):
        if processes.is_first_process():
            sent.append(message)
        return sent[-1]

    made = distribution._distribution(["cpu:0", "cpu:1"], 1)
    made._num_processes = 2
    monkeypatch.setattr(keras.distribution, "distribution", lambda: made)
    monkeypatch.setattr(multihost, "broadcast_one_to_all", broadcast)

    def act_as(process):
        monkeypatch.setattr("jax.process_index", lambda: process)

    return act_as


def test_an_error_of_the_first_process_is_raised_in_the_others(pair):
    calls = []

    def fail():
        calls.append("failed")
        raise BlockingIOError("the folder é is being written")

    pair(0)
    with pytest.raises(BlockingIOError, match="é is being written"):
        processes.in_first_process(fail)
    pair(1)
    with pytest.raises(OSError, match=r"^the folder é is being written$"):
        processes.in_first_process(fail)
    assert calls == ["failed"]


def test_a_failed_computation_says_what_to_do(monkeypatch):
    jax = pytest.importorskip("jax")

    @processes.reports_lost_processes()
    def fail():
        raise jax.errors.JaxRuntimeError("Gloo all-reduce failed\nConnection closed by peer")

    with pytest.raises(jax.errors.JaxRuntimeError):
        fail()
    monkeypatch.setattr(processes, "is_shared", lambda: True)
    with pytest.raises(ConnectionError, match=r"\(Gloo all-reduce failed\); .* start all again"):
        fail()


def test_processes_with_different_data_are_refused_without_a_folder(monkeypatch):
    monkeypatch.setattr(training, "is_shared", lambda: True)
    monkeypatch.setattr(processes, "of_all_processes", lambda value: [value, value + 1])
    with pytest.raises(ValueError, match="the processes have different data, recipes or models"):
        text_model("decoder_only").fit(text_corpus(), steps=1, progress=False)


def test_a_single_process_is_the_first():
    assert processes.is_first_process()
    assert processes.of_all_processes(7) == [7]


def test_only_the_first_process_acts(pair):
    calls = []
    for process in (0, 1):
        pair(process)
        processes.in_first_process(lambda process=process: calls.append(process))
    assert calls == [0]


@pytest.mark.skipif(keras.backend.backend() != "jax", reason="several processes need JAX")
def test_a_model_is_saved_by_the_first_process_alone(pair, tmp_path):
    model = text_model("decoder_only")
    for process in (0, 1):
        pair(process)
        model.save(tmp_path / "lm")  # which raises where the folder holds a model
    assert fm.load(tmp_path / "lm").spec == model.spec
