"""The command ``billing-client`` as a whole: exit statuses, pipes, encodings, Ctrl-C."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from billing_client import __version__
from billing_client.commands import main as entry
from billing_client.commands.main import main
from billing_client.tests.outboxes import NO_SERVICE, ROOT, fact, hurried


def test_it_says_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"billing-client {__version__}\n")


def test_ctrl_c_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "_run", interrupt)
    assert main(["status"]) == 130


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


def test_a_reader_that_went_away_is_no_traceback(tmp_path: Path) -> None:
    """As in ``export | head``."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        assert exported(tmp_path, writing) == (141, "")
    finally:
        os.close(writing)


def test_a_stdout_that_takes_only_ascii_gets_escapes(tmp_path: Path) -> None:
    assert exported(tmp_path, subprocess.DEVNULL, PYTHONIOENCODING="ascii") == (0, "")


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
