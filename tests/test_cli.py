"""What commands print, and what they import."""

import builtins
import importlib.metadata
import json
import re

import pytest
from command_line import run, shell
from small_text_models import text_model

import builders
import functional_models as fm
from builders.fields import rule_of
from builders.spec import fields_by_group
from functional_models.cli import main


def test_fields_lists_every_field_with_its_default_and_documentation(capsys):
    assert main(["fields"]) == 0
    printed = capsys.readouterr().out
    for title, group in fields_by_group().items():
        assert re.search(rf"^{title}:$", printed, re.M)
        for field in group:
            assert re.search(rf"^  {field.name}, .+\n      \S", printed, re.M)
            assert rule_of(field).doc in " ".join(printed.split())
    for line in ("num_heads, required", "head_dim, derived by default", "dropout, default: 0.0"):
        assert f"  {line}\n" in printed


def test_variants_lists_every_variant_with_its_summary(capsys):
    assert main(["variants"]) == 0
    printed = capsys.readouterr().out
    for name in builders.list_variants():
        assert re.search(
            rf"^{name} .*{re.escape(builders.variant_info(name).summary)}$", printed, re.M
        )
    assert main(["variants", "--kind", "decoder_only", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [entry["name"] for entry in listed] == builders.list_variants("decoder_only")


def test_inspect_accepts_a_model_folder(files, capsys):
    assert run(["inspect", "{translator}"], files) == 0
    printed = capsys.readouterr().out
    model = text_model("encoder_decoder").model
    assert re.search(rf"^parameters +{model.count_params():,}$", printed, re.M)


def test_a_model_folder_is_drawn(files, tmp_path, capsys):
    assert run(["plot", "{translator}", "--to", str(tmp_path / "a.svg")], files) == 0
    assert "5 skip paths" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "a.svg").read_text()


def test_quiet_prints_nothing_but_errors(files, tmp_path, capsys):
    command = ["plot", "pre_norm_learned", "--depth", "0", "--to", str(tmp_path / "a.dot")]
    assert main([*command, "--quiet"]) == 0
    assert (tmp_path / "a.dot").exists()
    assert capsys.readouterr() == ("", "")
    assert main(["plot", "gpt3", "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_version_prints_the_versions_without_importing_keras(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    monkeypatch.setattr("builtins.__import__", _without("keras", builtins.__import__))
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    assert lines["functional-models"] == fm.__version__
    assert lines["keras"] == importlib.metadata.version("keras")
    assert lines["jax"] == importlib.metadata.version("jax") + ", the backend"


def _without(name, real):
    def imported(module, *given, **options):
        assert module != name
        return real(module, *given, **options)

    return imported


def test_commands_without_a_model_import_no_backend():
    code = """
import sys
from functional_models.cli import main
for command in ("--help", "train --help", "variants", "inspect gpt3_175b"):
    try:
        main(command.split())
    except SystemExit:
        pass
    heavy = {"keras", "keras_hub", "tensorflow", "jax", "torch", "matplotlib"} & sys.modules.keys()
    assert not heavy, (command, heavy)
"""
    found = shell("-c", code)
    assert found.returncode == 0, found.stderr
    for printed in ("train a model on text", "--batch-size", "gpt2_small", "num_layers"):
        assert printed in found.stdout
