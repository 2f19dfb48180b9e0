"""The command `train`, and how a command stops."""

import contextlib
import functools
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from command_line import ROOT, SHORT, TINY, run, shell
from small_text_models import PAIRS, TEXT

import functional_models as fm
from functional_models.cli import main


def test_a_model_is_trained_evaluated_and_used_from_the_shell(files, tmp_path, capsys, monkeypatch):
    load = functools.cache(fm.load)
    monkeypatch.setattr("functional_models.loading.load", load)
    to = str(tmp_path / "model")
    data = ["--data", str(files / "text.txt")]
    assert main(["train", "--to", to, *TINY, *SHORT, *data, "--dtype", "float32"]) == 0
    printed = capsys.readouterr().out
    assert "step      2/2" in printed
    assert f" generate {to}" in printed
    assert main(["evaluate", to, *data]) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    expected = load(to).evaluate([TEXT])
    assert found.keys() == expected.keys()
    assert found["tokens"] == str(len(TEXT))  # the whole file and the end token
    np.testing.assert_allclose(float(found["loss"]), expected["loss"], atol=1e-4)
    options = ["--sampler", "greedy", "--max-new-tokens", "5"]
    assert main(["generate", to, "fox", *options]) == 0
    text = load(to).generate("fox", "greedy", max_new_tokens=5)
    assert capsys.readouterr().out == f"fox{text}\n"


def test_a_recipe_is_checked_before_the_data_is_loaded(files, capsys):
    assert (
        run(["train", "--to", "{out}", *TINY, "--data", "{nowhere.txt}", "--steps", "0"], files)
        == 2
    )
    assert "steps=0" in capsys.readouterr().err


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_ctrl_c_prints_how_to_resume(files, tmp_path, capsys, monkeypatch, has_checkpoint):
    def stop(*given, **options):
        if has_checkpoint:
            (tmp_path / "checkpoint.npz").write_bytes(b"")
        raise KeyboardInterrupt

    monkeypatch.setattr(fm.CausalLM, "fit", stop)
    arguments = ["train", "--to", str(tmp_path), *TINY, *SHORT, "--data", "{text.txt}"]
    assert run(arguments, files) == 130
    error = capsys.readouterr().err
    assert ("the same command resumes from it" in error) == has_checkpoint
    assert (f"nothing was written to {tmp_path} yet" in error) != has_checkpoint


@pytest.mark.parametrize("is_written", [False, True])
def test_ctrl_c_says_whether_a_command_has_written(tmp_path, capsys, monkeypatch, is_written):
    to = tmp_path / "model"
    to.mkdir()
    (to / "old").write_text("")
    os.utime(to / "old", (1, 1))
    os.utime(to, (1, 1))

    def stop(*given, **options):
        if is_written:
            (to / "new").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr("functional_models.cli.import_keras", stop)
    assert main(["import", "somewhere", "--to", str(to)]) == 130
    error = capsys.readouterr().err
    assert "checkpoint" not in error
    assert ("nothing was written" in error) != is_written
    assert ("may be incomplete" in error) == is_written


INTERRUPTED_IMPORT = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, *given):
        if name == "builders.{module}":
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Interrupt())
sys.argv = ["{program}", "variants"]
from functional_models.__main__ import run
sys.exit(run())
"""


@pytest.mark.parametrize("module", ["spec", "quiet"])
def test_ctrl_c_during_imports_ends_the_program_without_a_traceback(module):
    code = INTERRUPTED_IMPORT.format(module=module, program="bin/functional-models")
    done = shell("-c", code)
    assert (done.returncode, done.stdout) == (130, "")
    assert done.stderr == "\nstopped; nothing was written\n"
    other = shell("-c", INTERRUPTED_IMPORT.format(module=module, program="bin/another"))
    assert "KeyboardInterrupt" in other.stderr  # the script that imports the package may handle it


@pytest.mark.parametrize("later_error", [None, SystemError])
def test_ctrl_c_stops_training_even_if_a_library_swallows_it(
    files, tmp_path, monkeypatch, later_error
):
    def swallow(*given, **options):
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        if later_error is not None:
            raise later_error
        deadline = time.monotonic() + 10
        while time.monotonic() < deadline:
            time.sleep(0.01)

    monkeypatch.setattr(fm.CausalLM, "fit", swallow)
    monkeypatch.setattr("functional_models.cli_errors.StopSignals.seconds", 0.1)
    arguments = ["train", "--to", str(tmp_path), *TINY, *SHORT, "--data", "{text.txt}"]
    assert run(arguments, files) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_of_two_trainings_into_one_folder_the_second_is_refused(files, tmp_path):
    to = tmp_path / "model"
    command = [sys.executable, "-m", "functional_models", "train", "--to", str(to), *TINY]
    command += ["--data", str(files / "text.txt"), "--batch-size", "3", "--report-every", "50"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    options = {"cwd": ROOT, "env": environment, "stderr": subprocess.PIPE, "text": True}
    command += ["--steps", "1000000"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, **options) as first:
        deadline = time.monotonic() + 300
        while not (to / "model.json").exists() and time.monotonic() < deadline:
            time.sleep(0.1)
        second = subprocess.run(command, stdout=subprocess.DEVNULL, **options)
        first.terminate()
        _, error = first.communicate(timeout=120)
    assert first.returncode == 143, error
    assert second.returncode == 2
    assert f"is being written by process {first.pid} on" in second.stderr
    assert second.stderr.count("\n") == 1
    assert fm.load(to).evaluate(TEXT)["loss"] > 0
    assert not [path for path in to.iterdir() if path.name.startswith(".")]


def interruptible():
    """Let Ctrl-C stop a process, which a shell in the background turns off for what it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.slow
def test_training_resumes_after_ctrl_c_in_the_shell(files, tmp_path):
    to = tmp_path / "model"
    command = ["-m", "functional_models", "train", "--to", str(to), *TINY]
    command += ["--data", str(files / "text.txt"), "--batch-size", "3"]
    command += ["--steps", "3000", "--report-every", "100"]
    with subprocess.Popen(
        [sys.executable, *command],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        preexec_fn=interruptible,
    ) as process:
        deadline = time.monotonic() + 300
        while not (to / "model.json").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert b"Traceback" not in error
    assert fm.load(to).evaluate(TEXT)["loss"] > 0
    with np.load(to / "checkpoint.npz") as saved:
        rows = json.loads(str(saved["state"]))["rows"]
    found = shell(*command)
    assert found.returncode == 0, found.stderr
    steps = [int(n.replace(",", "")) for n in re.findall(r"^step +([\d,]+)/", found.stdout, re.M)]
    last = int(rows[-1]["step"])
    assert steps == [last + 1, *range(last + 100, 3001, 100)]


def test_tensorboard_is_asked_for_before_any_work(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("functional_models.cli_training.find_spec", lambda name: None)
    assert main(["train", "--to", str(tmp_path / "model"), "--tensorboard"]) == 2
    assert capsys.readouterr().err.endswith("needs TensorBoard: pip install tensorboard\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_encoder_is_trained_on_text_and_evaluated_from_the_shell(files, tmp_path, capsys):
    to = str(tmp_path / "encoder")
    command = ["train", "--kind", "encoder_only", "--to", to, *TINY, *SHORT, "--data", "{text.txt}"]
    assert run(command, files) == 0
    assert f" evaluate {to} --data" in capsys.readouterr().out
    assert run(["evaluate", to, "--data", "{text.txt}"], files) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert found["loss"] == f"{fm.load(to).evaluate([TEXT])['loss']:.4f}"
    assert run(["classify", to, "fox"], files) == 2
    assert "this model has no classes" in capsys.readouterr().err


@pytest.mark.slow
def test_a_classifier_is_trained_and_used_from_the_shell(files, tmp_path, capsys):
    path = tmp_path / "labelled.tsv"
    path.write_text(
        "".join(f"{text}\t{'long' if len(text) > 9 else 'short'}\n" for text, _ in PAIRS)
    )
    to = str(tmp_path / "classifier")
    command = ["train", "--kind", "encoder_only", "--to", to, *TINY, *SHORT, "--data", str(path)]
    assert run(command, files) == 0
    printed = capsys.readouterr().out
    assert "training labelled texts" in printed
    assert f" classify {to} " in printed
    model = fm.load(to)
    assert model.spec.classes == ("long", "short")
    assert run(["classify", to, "um dois", "três", "--scores"], files) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    chances = model.class_probabilities(["um dois", "três"])
    assert lines == [[f"{row.max():.4f}", model.spec.classes[row.argmax()]] for row in chances]
    assert run(["evaluate", to, "--data", str(path)], files) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert found["texts"] == str(len(PAIRS))


DECODER = ["--kind", "decoder_only"]


@pytest.mark.parametrize(
    ("model", "data"),
    [
        (DECODER, ["{pairs.tsv}"]),
        (DECODER, ["{sources.pt}", "{targets.en}"]),
        (["--variant", "prefix_lm"], ["{pairs.tsv}"]),  # which is no encoder-decoder
    ],
)
def test_a_decoder_is_given_pairs_as_prompts_and_replies(files, tmp_path, monkeypatch, model, data):
    for name, side in (("sources.pt", 0), ("targets.en", 1)):
        (files / name).write_text("".join(f"{pair[side]}\n" for pair in PAIRS))
    given = []

    def stop(lm, corpus, *, sample_prompt, **options):
        given.extend([lm.spec, corpus.train, corpus.validation, corpus.test, sample_prompt])
        raise KeyboardInterrupt

    monkeypatch.setattr(fm.CausalLM, "fit", stop)
    command = ["train", "--to", str(tmp_path / "lm"), *TINY, *SHORT, *model, "--sample", "um"]
    assert run([*command, "--data", *data], files) == 130
    spec, *splits, prompt = given
    assert spec.prefix_lm == ("prefix_lm" in model)
    assert sorted(itertools.chain(*splits)) == sorted(PAIRS)
    assert all(splits)  # of each some are held out
    assert prompt == "um"


@pytest.mark.slow
@pytest.mark.parametrize("prefix_lm", [False, True])
def test_a_decoder_is_trained_on_replies_and_evaluated_from_the_shell(
    files, tmp_path, capsys, prefix_lm
):
    to = str(tmp_path / "lm")
    command = ["train", *DECODER, "--to", to, *TINY, *SHORT, "--set", f"prefix_lm={prefix_lm}"]
    assert run([*command, "--data", "{pairs.tsv}"], files) == 0
    printed = capsys.readouterr().out
    assert re.search(r"^pairs.tsv: \d+ training pairs$", printed, re.M)
    assert f" generate {to} " in printed
    assert run(["evaluate", to, "--data", "{pairs.tsv}"], files) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert found["loss"] == f"{fm.load(to).evaluate(PAIRS)['loss']:.4f}"
    assert found["tokens"] == str(sum(len(reply.encode()) + 1 for _, reply in PAIRS))
    assert run(["evaluate", to, "--data", "{pairs.tsv}", "--stride", "3"], files) == 2
    assert "stride=3: " in capsys.readouterr().err


@pytest.mark.slow
def test_evaluate_takes_the_stride_of_a_language_model_and_the_bleu_of_a_translator(files, capsys):
    assert run(["evaluate", "{lm}", "--data", "{text.txt}", "--stride", "7"], files) == 0
    found = dict(line.split() for line in capsys.readouterr().out.splitlines())
    expected = fm.load(files / "lm").evaluate([TEXT], stride=7)
    assert found["loss"] == f"{expected['loss']:.4f}"
    assert run(["evaluate", "{translator}", "--data", "{pairs.tsv}", "--bleu"], files) == 0
    printed = capsys.readouterr().out
    assert "bleu: nrefs:1|" in printed
    assert "\nbleu " in printed
    assert run(["evaluate", "{lm}", "--data", "{text.txt}", "--bleu"], files) == 2
    assert "--bleu: only a translator has it" in capsys.readouterr().err
    assert run(["evaluate", "{translator}", "--data", "{pairs.tsv}", "--stride", "7"], files) == 2
    assert "--stride: only a language model has it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train"], "the training text has .* tokens, fewer than a block of 1000003 tokens"),
        (
            ["train", "--variant", "bert_base", "--kind", "encoder_only"],
            "fewer than a block of 1000001 tokens",
        ),
        (["compare", "pre_norm_learned"], "fewer than a block of 1000003 tokens"),
        (["train", "--batch-size", "2147483647"], "do not fit into the memory of this machine"),
    ],
)
def test_sizes_that_cannot_be_trained_are_refused_before_a_model_is_built(
    files, tmp_path, capsys, monkeypatch, arguments, message
):
    monkeypatch.setattr("builders.build", None)
    length = [] if "--batch-size" in arguments else ["--set", "max_sequence_length=1000003"]
    kind = [] if "bert_base" in arguments else DECODER
    to = ["--to", str(tmp_path / "out"), "--data", "{text.txt}"]
    command, *options = arguments
    assert run([command, *TINY, *SHORT, *kind, *to, *length, *options], files) == 2
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("model", "long"),
    [(DECODER, "a reply of many words " * 5), (["--kind", "encoder_decoder"], "long " * 30)],
)
def test_a_test_example_that_is_too_long_is_refused_before_the_training(
    files, tmp_path, capsys, model, long
):
    (files / "held_out.tsv").write_text(f"um\tone\ndois\t{long}\n")
    to = tmp_path / "lm"
    command = ["train", "--to", str(to), *TINY, *SHORT, *model, "--data", "{pairs.tsv}"]
    assert run([*command, "--test", "{held_out.tsv}"], files) == 2
    error = capsys.readouterr().err
    assert re.search(r"the test data: .*(1 examples|target).* tokens", error), error
    assert not (to / "checkpoint").exists()
    assert not list(to.glob("*.keras"))
