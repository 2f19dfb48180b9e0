"""Files and folders that commands take, and a command in this process."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

TINY = ["--set", "num_layers=1", "--set", "hidden_dim=6", "--set", "num_heads=2"]

TINY += ["--set", "intermediate_dim=7", "--set", "max_sequence_length=19", "--tokenizer", "byte"]

SHORT = ["--steps", "2", "--report-every", "2", "--batch-size", "3"]


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """Return a folder with valid and invalid text files and model folders."""
    from small_text_models import PAIRS, TEXT, text_model

    folder = tmp_path_factory.mktemp("files")
    (folder / "text.txt").write_text(TEXT)
    (folder / "short.txt").write_text("short")
    (folder / "empty.txt").write_text("")
    (folder / "latin.txt").write_bytes("não".encode("latin-1"))
    (folder / "pairs.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in PAIRS))
    (folder / "columns.tsv").write_text("um\tone\ndois\ttwo\t2\n")
    (folder / "column.tsv").write_text("um\tone\ndois\n")
    (folder / "long.tsv").write_text("".join(f"{c * 12}\t{c * 13}\n" for c in "abc"))
    (folder / "three.pt").write_text("um\ndois\ntrês\n")
    (folder / "two.en").write_text("one\ntwo\n")
    lm, translator = text_model("decoder_only"), text_model("encoder_decoder")
    lm.save(folder / "lm")
    translator.save(folder / "translator")
    lm.save(folder / "newer")
    manifest = json.loads((folder / "newer" / "model.json").read_text())
    (folder / "newer" / "model.json").write_text(json.dumps({**manifest, "format": 2}))
    lm.save(folder / "half")
    for path in (folder / "half").glob("weights-*"):
        path.unlink()
    (folder / "nothing").mkdir()
    for name in ("pipe.keras", "pipe.json"):
        os.mkfifo(folder / name)
    return folder


def run(arguments, files):
    """Run a command in this process; names in braces become paths of files."""
    from functional_models.cli import main

    return main([re.sub(r"\{(.+)\}", lambda m: str(files / m[1]), a) for a in arguments])


def shell(*arguments, **options):
    """Run Python in a process of its own."""
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, **options
    )
