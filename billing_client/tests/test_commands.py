"""The command ``billing-client`` as a whole: exit statuses, pipes, encodings, Ctrl-C."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import Mock

import pytest

from billing_client import __version__
from billing_client.commands import main as entry
from billing_client.commands.main import main
from billing_client.tests.faulty import KEY, FaultyServer, stall
from billing_client.tests.outboxes import NO_SERVICE, ROOT, eventually, fact, hurried


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"billing-client {__version__}\n")


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_parser", interrupt)
    assert main(["status"]) == 130


def test_a_bug_is_not_taken_for_a_refusal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = Mock()
    parser.parse_args().run.side_effect = ZeroDivisionError
    monkeypatch.setattr(entry, "_parser", lambda: parser)

    assert main(["status"]) == 2
    assert "ZeroDivisionError" in capsys.readouterr().err


def exported(directory: Path, stdout: int, **environment: str) -> tuple[int, str]:
    """The exit status and stderr of ``export`` of one record."""
    with hurried(NO_SERVICE, directory) as billing:
        billing.enqueue(fact("one", service="Größe"))
    done = subprocess.run(
        [sys.executable, "-m", "billing_client", "--outbox", str(directory), "export"],
        cwd=ROOT,
        check=False,
        env=os.environ | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stderr


@pytest.mark.live  # starts processes
def test_a_reader_that_went_away_causes_no_traceback(tmp_path: Path) -> None:
    """As in ``export | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert exported(tmp_path, writing) == (141, "")
    finally:
        os.close(writing)


@pytest.mark.live  # starts processes
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_errors_that_nobody_reads_are_not_taken_for_a_refusal(
    tmp_path: Path, unbuffered: str
) -> None:
    """As in ``send 2>&1 | head``: status 1 would say that something is left to do."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "billing_client", "send", str(tmp_path / "missing.csv")]
    try:
        done = subprocess.run(
            command,
            cwd=ROOT,
            check=False,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stderr=writing,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert done.returncode == 141


@pytest.mark.live  # starts processes
def test_a_stdout_that_takes_only_ascii_gets_escapes(tmp_path: Path) -> None:
    assert exported(tmp_path, subprocess.DEVNULL, PYTHONIOENCODING="ascii") == (0, "")


@pytest.mark.live  # starts processes
def test_closed_streams_are_no_traceback(tmp_path: Path) -> None:
    """As some schedulers start a command."""
    closed = 'exec "$0" -m billing_client --outbox "$1" status <&- >&- 2>&-'
    done = subprocess.run(
        ["/bin/sh", "-c", closed, sys.executable, str(tmp_path)], cwd=ROOT, check=False, timeout=60
    )
    assert done.returncode == 0


def test_a_missing_setting_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert capsys.readouterr().err == (
        "There is no outbox; pass --outbox DIR or set BILLING_OUTBOX_DIR.\n"
    )


@pytest.mark.parametrize("order", ["before", "after"])
def test_settings_may_be_given_before_a_command_or_after_it(
    order: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    setting = ["--outbox", str(tmp_path)]
    assert main([*setting, "status"] if order == "before" else ["status", *setting]) == 0
    assert capsys.readouterr().out


INTERRUPTIBLE = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which `make test &` has ignored
from billing_client.commands.main import main
sys.exit(main())
"""


@pytest.mark.live  # starts processes
@pytest.mark.parametrize("command", ["record", "send"])
def test_ctrl_c_while_the_service_does_not_answer_is_quiet(
    command: str, server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "usage.csv").write_text(
        "request_id,customer_id,service,units_consumed,price_per_unit,occurred_at\n"
        "one,1,x,1,1,2026-11-22T10:00:00Z\n"
    )
    usage = ["--customer", "1", "--service", "x", "--units", "1", "--price", "1", "--id", "one"]
    arguments = usage if command == "record" else [str(tmp_path / "usage.csv")]
    server.script.extend([stall] * 9)
    with subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, command, *arguments],
        cwd=ROOT,
        env=os.environ | {"BILLING_URL": server.url, "BILLING_API_KEY": KEY},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        eventually(lambda: bool(server.seen))
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "")
    if command == "send":
        assert "1 lines: 0 recorded, 0 refused, 1 not sent or without an answer." in out
        assert "Stopped: Interrupted." in out
