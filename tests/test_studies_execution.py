"""Runs of a study: failures are results, locks keep processes apart, and executors agree."""

import errno
import json
import threading
import time
from concurrent.futures import BrokenExecutor, Executor, Future

import pytest
from small_text_models import SIZES, byte_tokenizer, corpus, parallel_corpus

import builders
from functional_models.callbacks import DivergedError
from functional_models.folders import only_writer
from functional_models.recipe import Recipe
from functional_models.studies import execution
from functional_models.studies.data import read_data, write_data
from functional_models.studies.execution import RUNS, perform_runs
from functional_models.studies.runs import (
    Outcome,
    StudyData,
    make_runs,
    overall_speed,
    perform,
    read_outcome,
    write_outcome,
)
from functional_models.studies.settings import make_settings
from functional_models.text_model import TextModel

SPECS = {
    "pre": builders.TransformerSpec(kind="encoder_decoder", **{**SIZES, "hidden_dim": 6}),
    "post": builders.TransformerSpec(
        kind="encoder_decoder", norm_placement="post", **{**SIZES, "hidden_dim": 6}
    ),
}
DATA = StudyData(parallel_corpus(), byte_tokenizer())
RUNS_OF_BOTH = make_runs(
    make_settings(SPECS, Recipe(steps=2, report_every=2, batch_size=5)), [3, 5], "data", "float32"
)


class Here(Executor):
    """An executor that performs tasks at once."""

    def submit(self, fn, /, *args, **kwargs):
        future: Future = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


@pytest.fixture
def performed(monkeypatch):
    """Replace training: record the runs, and return a loss that depends on the run."""
    done = []

    def fake(run, folder, data, **options):
        if found := read_outcome(folder, run):
            return found
        done.append((run.setting, run.seed))
        result = {"loss": run.seed + len(run.setting), "parameters": 1}
        outcome = Outcome("finished", result, [{"step": 2, "loss": 1.0}], 2)
        write_outcome(folder, run, outcome, time.time())
        return outcome

    monkeypatch.setattr(execution, "perform", fake)
    return done


def go(folder, runs=RUNS_OF_BOTH, **options):
    return perform_runs(runs, folder, DATA, **{"progress": False, **options})


def test_all_settings_are_trained_with_the_first_seed_first(tmp_path, performed):
    outcomes = go(tmp_path)
    assert performed == [("pre", 3), ("post", 3), ("pre", 5), ("post", 5)]
    assert {run.key for run in RUNS_OF_BOTH} == outcomes.keys()
    assert go(tmp_path) == outcomes
    assert len(performed) == 4  # never done twice


def test_an_executor_gives_the_same_outcomes(tmp_path, performed):
    apart = go(tmp_path / "here")
    assert go(tmp_path / "executor", executor=Here()) == apart
    assert len(performed) == 8


def test_equal_runs_are_performed_once(tmp_path, performed):
    same = make_runs(
        make_settings({"a": SPECS["pre"], "b": SPECS["pre"]}, Recipe()), [0], "data", "float32"
    )
    assert len(go(tmp_path, same)) == len(performed) == 1


@pytest.mark.parametrize("executor", [None, Here()], ids=["here", "executor"])
def test_a_run_that_fails_is_a_result_and_is_tried_again(
    tmp_path, performed, monkeypatch, capsys, executor
):
    fake = execution.perform

    def fail_once(run, folder, data, **options):
        if run.seed == 3 and run.setting == "pre":
            raise RuntimeError("no memory\nat all")
        return fake(run, folder, data, **options)

    monkeypatch.setattr(execution, "perform", fail_once)
    outcomes = go(tmp_path, executor=executor)
    first = outcomes[RUNS_OF_BOTH[0].key]
    assert (first.status, first.reason) == ("failed", "RuntimeError: no memory at all")
    assert [o.status for o in outcomes.values()].count("finished") == 3
    assert capsys.readouterr().err == "pre, seed 3: failed: RuntimeError: no memory at all\n"
    monkeypatch.setattr(execution, "perform", fake)
    again = go(tmp_path, executor=executor)
    assert {o.status for o in again.values()} == {"finished"}
    assert len(performed) == 4


def test_the_error_of_runs_that_all_fail_is_raised(tmp_path, monkeypatch):
    def fail(run, *given, **options):
        raise ValueError(f"{run.setting} is too long")

    monkeypatch.setattr(execution, "perform", fail)
    with pytest.raises(ValueError, match="pre is too long"):
        go(tmp_path)


def test_a_full_disk_ends_a_study(tmp_path, performed, monkeypatch):
    def fail(*given, **options):
        raise OSError(errno.ENOSPC, "No space left on device", "a file")

    go(tmp_path, RUNS_OF_BOTH[:1])
    monkeypatch.setattr(execution, "perform", fail)
    with pytest.raises(OSError, match="No space left"):
        go(tmp_path)
    assert len(performed) == 1


def test_runs_of_another_process_are_awaited_last(tmp_path, performed, monkeypatch, capsys):
    first = RUNS_OF_BOTH[0]
    place = tmp_path / RUNS / first.folder
    place.mkdir(parents=True)
    monkeypatch.setattr(execution, "_POLL", 0.01)
    held = only_writer(place, ".run.lock")
    held.__enter__()

    def finish():
        while len(performed) < 3:
            time.sleep(0.01)
        execution.perform(first, place, DATA)
        held.__exit__(None, None, None)

    other = threading.Thread(target=finish)
    other.start()
    outcomes = go(tmp_path)
    other.join()
    assert performed == [("post", 3), ("pre", 5), ("post", 5), ("pre", 3)]
    assert len(outcomes) == 4
    assert capsys.readouterr().err in ("", "waiting for 1 run of another process\n")


class Breaking(Here):
    """An executor like a process pool, one of whose processes is killed after some tasks."""

    def __init__(self, tasks, broken):
        self.left = tasks
        self.broken = broken
        self._processes = {}

    def submit(self, fn, /, *args, **kwargs):
        self.left -= 1
        if self.left < 0:
            self.broken.append(args[0].run.seed)
            future: Future = Future()
            future.set_exception(BrokenExecutor("a process was killed"))
            return future
        return super().submit(fn, *args, **kwargs)


def test_a_killed_worker_costs_no_run(tmp_path, performed, monkeypatch, capsys):
    broken = []
    monkeypatch.setattr(
        execution, "ProcessPoolExecutor", lambda *given, **options: Breaking(1, broken)
    )
    outcomes = go(tmp_path, workers=2)
    assert {o.status for o in outcomes.values()} == {"finished"}
    assert len(performed) == 4
    assert len(broken) == 3 + 2 + 1
    assert capsys.readouterr().err == "a worker died; its run is resumed\n" * 3


def test_workers_that_always_die_end_a_study(tmp_path, performed, monkeypatch):
    monkeypatch.setattr(execution, "ProcessPoolExecutor", lambda *given, **options: Breaking(0, []))
    with pytest.raises(BrokenExecutor):
        go(tmp_path, workers=2)


def test_a_worker_with_another_backend_is_refused(tmp_path):
    task = execution.Task(RUNS_OF_BOTH[0], str(tmp_path), "data", "float32", "numpy")
    with pytest.raises(RuntimeError, match="set KERAS_BACKEND=numpy for the workers"):
        execution.perform_task(task)


def test_a_run_that_diverges_is_a_result(tmp_path, monkeypatch):
    def diverge(self, *given, **options):
        raise DivergedError("the loss is nan", 7)

    monkeypatch.setattr(TextModel, "_train", diverge)
    run = RUNS_OF_BOTH[0]
    outcome = perform(run, tmp_path, DATA, progress=False)
    assert (outcome.status, outcome.step) == ("diverged", 7)
    assert "the loss is nan at step 7" in outcome.reason
    assert read_outcome(tmp_path, run) == outcome


@pytest.mark.parametrize("damage", ["{", "[" * 100_000, '{"key": 1, "result": null}', "[]"])
def test_a_damaged_outcome_raises(tmp_path, damage):
    (tmp_path / "run.json").write_text(damage)
    with pytest.raises(ValueError, match=r"run\.json is damaged; delete it"):
        read_outcome(tmp_path, RUNS_OF_BOTH[0])


def test_the_outcome_of_another_run_is_refused(tmp_path, performed):
    go(tmp_path, RUNS_OF_BOTH[:1])
    place = tmp_path / RUNS / RUNS_OF_BOTH[0].folder
    with pytest.raises(ValueError, match="damaged"):
        read_outcome(place, RUNS_OF_BOTH[1])
    saved = json.loads((place / "run.json").read_text())
    assert builders.TransformerSpec(**saved["spec"]) == SPECS["pre"]
    assert saved["recipe"]["seed"] == 3


@pytest.mark.parametrize("kind", ["decoder_only", "encoder_decoder"])
def test_workers_read_the_same_data(tmp_path, kind):
    data = StudyData(corpus(kind), byte_tokenizer())
    name = write_data(tmp_path, data)
    read = read_data(tmp_path / name)
    assert read.fingerprint() == data.fingerprint()
    assert [*read.corpus.train] == [*data.corpus.train]
    assert write_data(tmp_path, data) == name
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_the_speed_of_a_run_is_total_tokens_per_total_time():
    # 60 tokens at 10 a second and 60 at 30 are 120 in 8 seconds.
    rows = [{"tokens_per_second": speed} for speed in (10.0, 30.0)]
    assert overall_speed(rows) == pytest.approx(15.0)
    assert overall_speed([{"tokens_per_second": 0.0}, *rows]) == pytest.approx(15.0)
    assert overall_speed([{"tokens_per_second": 0.0}]) == 0.0
