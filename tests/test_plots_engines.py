"""Graphviz as a process: installed programs that fail, time limits, and interruptions."""

import itertools
import os
import signal
import sys
import time

import pytest

from plots.renderers import engines
from plots.renderers.engines import layouts_of, run_graphviz

SMALL = 'digraph { a [label="first"]; b [label="second"]; a -> b }'
HARD = "digraph {" + "; ".join(f"{a} -> {b}" for a, b in itertools.combinations(range(97), 2)) + "}"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Return a function that puts a program `dot` with the given content first on the PATH."""
    monkeypatch.setattr(engines, "_failed", set())
    monkeypatch.setattr(engines, "_worked", set())
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)

    def install(content):
        (tmp_path / "dot").write_text(content, encoding="utf-8")
        (tmp_path / "dot").chmod(0o755)

    return install


@pytest.fixture
def bundled(monkeypatch):
    """Hide an installed Graphviz, so that the bundled one is used."""
    monkeypatch.setattr(engines.shutil, "which", lambda name: None)


def test_an_installed_program_that_works_is_used(install):
    install('#!/bin/sh\ncat > /dev/null\nprintf "<svg>drawn with $1 $2</svg>"\n')
    assert run_graphviz(SMALL, "svg", "nop2") == b"<svg>drawn with -Knop2 -Tsvg</svg>"


@pytest.mark.parametrize(
    ("said", "expected", "starts"),
    [('{"a": 1}{ "b":[2] }', [{"a": 1}, {"b": [2]}], 1), ('{"a": 1}', [{"a": 1}] * 2, 3)],
    ids=["both", "one left out"],
)
def test_several_graphs_are_laid_out_by_one_start_and_else_each_alone(
    said, expected, starts, install, tmp_path
):
    log = tmp_path / "log"
    install(f"#!/bin/sh\ncat > /dev/null\necho started >> '{log}'\necho '{said}'\n")
    assert layouts_of([SMALL, SMALL]) == expected
    assert len(log.read_text("utf-8").splitlines()) == starts


def test_the_layouts_of_several_graphs_are_those_of_each_alone(bundled):
    other = "digraph { second -> third; third -> fourth }"
    assert layouts_of([SMALL, other]) == [*layouts_of([SMALL]), *layouts_of([other])]


@pytest.mark.sampled(2)
@pytest.mark.parametrize(
    ("content", "why"),
    [
        (
            "#!/bin/sh\necho 'Format: \"svg\" not recognized. Use one of:' >&2\nexit 1\n",
            r"exit status 1 \(Format: .svg. not recognized",
        ),
        ("#!/bin/sh\ncat > /dev/null\nkill -9 $$\n", "exit status -9"),
        ("#!/bin/sh\ncat > /dev/null\n", "no svg"),
        ("#!/bin/sh\ncat > /dev/null\nprintf '<svg> cut of'\n", "no svg"),
        ("#!/bin/sh\ncat\n", "no svg"),
        ("#!/bin/sh\nexec sleep 100\n", "within 1 second"),
        ("neither a script nor a program", "cannot be run"),
    ],
    ids=["no plugin", "crash", "nothing", "half", "echo", "hang", "not a program"],
)
def test_the_bundled_graphviz_takes_the_place_of_an_installed_one_that_fails(
    content, why, install, monkeypatch
):
    monkeypatch.setattr(engines, "SECONDS", 1)
    install("#!/bin/sh\nexit 1\n")
    with pytest.warns(UserWarning, match="exit status 1"):
        expected = run_graphviz(SMALL, "svg")
    assert b">first<" in expected
    engines._failed.clear()
    install(content)
    with pytest.warns(UserWarning, match=why) as said:
        assert run_graphviz(SMALL, "svg", seconds=1) == expected
    assert len(said) == 1
    assert "\n" not in str(said[0].message)
    assert run_graphviz(SMALL, "svg") == expected  # without another warning


def test_an_installed_program_has_not_failed_if_little_time_was_left_for_it(install):
    slow = "#!/bin/sh\ncat > /dev/null\nsleep 1\nprintf '<svg>drawn slowly</svg>'\n"
    install(slow)
    with pytest.raises(RuntimeError, match="Graphviz did not finish within 15 s"):
        run_graphviz(SMALL, "svg", seconds=0.1)
    assert run_graphviz(SMALL, "svg") == b"<svg>drawn slowly</svg>"


HANG = "#!/bin/sh\nexec sleep 100\n"


def test_an_installed_program_that_hangs_leaves_time_for_the_bundled_one(install, monkeypatch):
    run_graphviz(SMALL, "svg")  # starts the process, which takes some of the time
    monkeypatch.setattr(engines, "_failed", set())
    monkeypatch.setattr(engines, "_worked", set())
    monkeypatch.setattr(engines, "_FAIR_SECONDS", 1)
    install(HANG)
    with pytest.warns(UserWarning, match="dot did not finish within 1 second"):
        assert b">first<" in run_graphviz(SMALL, "svg", seconds=14)
    assert len(engines._failed) == 1


def test_a_small_graph_that_nothing_draws_in_time_is_no_fault_of_the_program(install, monkeypatch):
    asked = []

    def late(text, picture, engine, seconds):
        asked.append(seconds)
        raise RuntimeError("Graphviz did not finish within 2 s")

    monkeypatch.setattr(engines, "_FAIR_SECONDS", 0.5)
    monkeypatch.setattr(engines, "_run_bundled", late)
    install(HANG)
    with pytest.raises(RuntimeError, match="did not finish within 2 s"):
        run_graphviz(SMALL, "svg", seconds=2)
    assert not engines._failed
    assert len(asked) == 1
    assert 0 < asked[0] <= 1.5  # the time limit is for both


def test_an_installed_program_that_hangs_has_all_of_the_time_for_a_large_graph(
    install, monkeypatch
):
    monkeypatch.setattr(engines, "_FAIR_SECONDS", 0.5)
    monkeypatch.setattr(engines, "_run_bundled", None)
    install(HANG)
    with pytest.raises(RuntimeError, match="did not finish within 15 s"):
        run_graphviz(HARD, "svg", seconds=1)
    assert not engines._failed


@pytest.mark.usefixtures("bundled")
def test_a_layout_stops_at_the_time_limit_and_the_next_graph_is_drawn():
    begin = time.monotonic()
    with pytest.raises(RuntimeError, match="did not finish within 1 s"):
        run_graphviz(HARD, "svg", seconds=1)
    assert time.monotonic() - begin < 10
    assert b">first<" in run_graphviz(SMALL, "svg")


@pytest.mark.usefixtures("bundled")
def test_an_interruption_stops_the_layout_at_once():
    def interrupt(*_):
        raise KeyboardInterrupt

    run_graphviz(SMALL, "svg")
    process = engines._processes[os.getpid()]
    handler = signal.signal(signal.SIGALRM, interrupt)
    begin = time.monotonic()
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        with pytest.raises(KeyboardInterrupt):
            run_graphviz(HARD, "svg", seconds=60)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
    assert time.monotonic() - begin < 10
    assert process.poll() is not None


@pytest.mark.usefixtures("bundled")
def test_a_process_that_was_killed_is_started_again():
    expected = run_graphviz(SMALL, "svg")
    first = engines._processes[os.getpid()]
    first.kill()
    assert run_graphviz(SMALL, "svg") == expected
    assert engines._processes[os.getpid()] is not first


@pytest.mark.usefixtures("bundled")
def test_text_that_is_not_dot_raises_an_error_and_the_process_goes_on():
    run_graphviz(SMALL, "svg")
    process = engines._processes[os.getpid()]
    with pytest.raises(RuntimeError, match="failed to draw the graph"):
        run_graphviz("digraph { a ->", "svg")
    run_graphviz(SMALL, "svg")
    assert engines._processes[os.getpid()] is process


@pytest.mark.usefixtures("bundled")
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_process_imports_neither_this_package_nor_keras():
    run_graphviz(SMALL, "svg")
    process = engines._processes[os.getpid()]
    with open(f"/proc/{process.pid}/maps", encoding="utf-8") as maps:
        loaded = maps.read()
    assert "pygraphviz" in loaded
    assert not any(name in loaded for name in ("numpy", "tensorflow", "jax"))
