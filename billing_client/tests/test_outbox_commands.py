"""The command line over an outbox directory."""

from __future__ import annotations

import io
import json
import re
import runpy
import sys
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from billing_client.commands.main import main
from billing_client.outbox.names import files
from billing_client.tests.conftest import KEY
from billing_client.tests.faulty import Behaviour, FaultyServer, refuse, reply
from billing_client.tests.outboxes import NOBODY, contents, fact, hurried


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A directory in which a process that died left two records."""
    with hurried(NOBODY, tmp_path) as billing:
        billing.enqueue(fact("one"))
        billing.enqueue(fact("two", units_consumed=2))
    return tmp_path


@pytest.fixture
def refused(left: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same after the service refused both."""
    error = {"code": "validation_error", "detail": "It is wrong."}
    results = [{"status": 400, "request_id": name, "error": error} for name in ("one", "two")]
    server.script.append(reply(207, {"results": results}))
    monkeypatch.setenv("BILLING_URL", server.url)
    monkeypatch.setenv("BILLING_API_KEY", KEY)
    with hurried(server.url, left) as billing:
        assert billing.flush(20).rejected == 2
    return left


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["--outbox", str(directory), *arguments], out), out.getvalue()


def test_status_tells_what_waits(left: Path) -> None:
    (left / "notes.sqlite3").write_text("mine")
    code, out = run(left, "status")
    assert code == 1
    assert "2 to send, 0 waiting for a customer or a clock, 0 rejected, the oldest for 0 s" in out
    assert "notes.sqlite3: not an outbox's name" in out


def test_status_of_an_empty_directory_is_0(tmp_path: Path) -> None:
    assert run(tmp_path, "status") == (0, "0 records in files that no process has open\n")


def test_files_in_use_and_damaged_ones_are_named(left: Path) -> None:
    files(left)[0].write_bytes(b"not a database at all" * 500)
    with hurried(NOBODY, left) as billing:
        billing.enqueue(fact("mine"))
        _, out = run(left, "status")
    assert "in use by a process that lives" in out
    assert "left alone, it cannot be read" in out


def test_drain_sends_and_says_how_far_it_is(left: Path, server: FaultyServer) -> None:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BILLING_API_KEY", KEY)
        code, out = run(left, "--url", server.url, "drain")
    assert (code, out.splitlines()[-1]) == (0, "2 sent, 0 rejected, 0 to send")
    assert set(server.service.stored) == {"one", "two"}


def test_drain_says_why_it_cannot(
    left: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_API_KEY", KEY)
    server.script.extend([refuse(401, "not_authenticated")] * 9)
    code, out = run(left, "--url", server.url, "drain")
    assert code == 1
    assert "Paused: The service answered 401" in out
    code, out = run(left, "--url", NOBODY, "drain", "--timeout", "3")
    assert code == 1
    assert "Not all was sent: No whole answer came" in out
    assert contents(left) == ["one", "two"]


def test_rejected_records_are_listed_and_sent_again(refused: Path, server: FaultyServer) -> None:
    code, out = run(refused, "rejected")
    assert code == 1
    assert out.splitlines()[0].split("\t")[:3] == ["one", "400", "validation_error"]
    assert run(refused, "requeue", "one") == (0, "1 records will be sent again\n")
    assert run(refused, "requeue", "--code", "validation_error")[0] == 0
    assert run(refused, "requeue", "nobody") == (1, "0 records will be sent again\n")
    assert run(refused, "drain")[0] == 0
    assert set(server.service.stored) == {"one", "two"}


def test_export_is_every_record_as_a_line_of_json(left: Path) -> None:
    _, out = run(left, "export")
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["record"]["request_id"] for line in lines] == ["one", "two"]
    assert {line["state"] for line in lines} == {"usage"}


def test_a_directory_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert "BILLING_OUTBOX_DIR" in capsys.readouterr().err


def test_a_directory_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path / "none", "status")[0] == 2
    assert "none" in capsys.readouterr().err


def test_it_runs_as_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["billing_client", "--outbox", str(tmp_path), "status"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("billing_client", run_name="__main__")
    assert ended.value.code == 0


def doctor(directory: Path, server: FaultyServer) -> tuple[int, str]:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("BILLING_API_KEY", KEY)
        return run(directory, "--url", server.url, "doctor")


def now(**ahead: int) -> str:
    return format_datetime(datetime.now(UTC) + timedelta(**ahead), usegmt=True)


def test_the_doctor_finds_nothing_wrong(server: FaultyServer, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server.script.append(refuse(400, "validation_error", Date=now()))
    code, out = doctor(tmp_path, server)
    assert (code, out.count("ok  ")) == (0, 4)


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        (refuse(401, "not_authenticated"), "FIX  Correct the key"),
        (reply(404, b"<html>"), "FIX  Correct the URL"),
    ],
)
def test_the_doctor_says_what_to_correct(
    server: FaultyServer, tmp_path: Path, answer: Behaviour, advice: str
) -> None:
    server.script.append(answer)
    code, out = doctor(tmp_path, server)
    assert code == 1
    assert advice in out


@pytest.mark.parametrize(("hours", "skew"), [(2, -7200), (-2, 7200)])
def test_the_doctor_says_how_far_off_the_clock_is(
    server: FaultyServer, tmp_path: Path, hours: int, skew: int
) -> None:
    server.script.append(refuse(400, "validation_error", Date=now(hours=hours)))
    code, out = doctor(tmp_path, server)
    assert code == 1
    (found,) = re.findall(r"FIX  This machine's clock is ([+-][0-9]+) s off", out)
    assert abs(int(found) - skew) < 50


def test_the_doctor_says_what_is_wrong_with_the_directory_and_the_url(
    server: FaultyServer, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    tmp_path.chmod(0o755)
    _, out = doctor(tmp_path / "file", server)
    assert "FIX  The outbox directory" in out
    code, out = run(tmp_path, "doctor")
    assert code == 1
    assert "chmod 700" in out
    assert "BILLING_URL" in out
