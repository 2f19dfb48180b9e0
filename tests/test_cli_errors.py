"""Commands that fail or are stopped: one printable line, and an exit code."""

import errno
import signal

import pytest

from functional_models import cli
from functional_models.cli_errors import report


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_end_a_command_in_one_line(monkeypatch, capsys, name, code):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    monkeypatch.setattr(cli, "fields_table", lambda: signal.raise_signal(number))
    assert cli.main(["fields"]) == code
    assert capsys.readouterr().err.strip().startswith("stopped; ")
    assert signal.getsignal(number) is before


def test_a_signal_that_is_ignored_stays_ignored(monkeypatch, capsys):
    """`nohup` starts a command with SIGHUP ignored."""
    monkeypatch.setattr(cli, "fields_table", lambda: signal.raise_signal(signal.SIGHUP))
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert cli.main(["fields"]) == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "x"), "'x'; free some space, and run"),
        (
            OSError(errno.EPERM, "Operation not permitted", "x"),
            "models: Operation not permitted: 'x'",
        ),
        (MemoryError(), "there is not enough memory"),
        (KeyError("a\nb"), "KeyError: 'a\\nb' (this is a fault of functional-models; --debug"),
        (ValueError("two\n lines\x1b[31m \udcff \x00"), "two lines\\x1b[31m \\udcff \\x00"),
        (ValueError("x" * 10_000), "xxx ..."),
    ],
)
def test_every_error_is_one_printable_line(capsys, error, message):
    assert report(error) == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert printed.removesuffix("\n").isprintable()
    with pytest.raises(type(error)):
        report(error, debug=True)
