"""The command line over an outbox directory."""

from __future__ import annotations

import io
import json
import os
import re
import runpy
import sys
import threading
import time
import warnings
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest

from billing_client import BillingClient, Event
from billing_client.commands.main import main
from billing_client.outbox import commands, outbox
from billing_client.outbox.segment import MOST_BYTES, Segment, line_of
from billing_client.tests.faulty import KEY, Behaviour, Exchange, FaultyServer, refuse, reply
from billing_client.tests.outboxes import NO_SERVICE, contents, fact, hurried, moved, orphan


@pytest.fixture
def left(tmp_path: Path) -> Path:
    """A directory in which a process that died left two records."""
    with hurried(NO_SERVICE, tmp_path) as billing:
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


@pytest.fixture
def key(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("BILLING_API_KEY", KEY)
    return monkeypatch


def run(directory: Path, *arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    return main(["--outbox", str(directory), *arguments], out), out.getvalue()


def test_status_tells_what_waits(left: Path, server: FaultyServer) -> None:
    with hurried(server.url, left) as billing:
        billing.enqueue(fact("early", customer_id=404))
        billing.flush(20)
        code, out = run(left, "status")
        assert code == 1
        assert "1 waiting for a clock or for the customers 404, the oldest for 0 s, in use" in out
    (left / "waiting.log").write_text("mine")
    with hurried(NO_SERVICE, left) as billing:
        billing.enqueue(fact("three"))
        code, out = run(left, "status")
    assert "1 to send, the oldest for 0 s, in use by a running process" in out
    assert out.endswith("2 records wait, 0 are rejected\n")
    assert "is kept (1 files" in out


def test_status_of_an_empty_directory_is_0(tmp_path: Path) -> None:
    assert run(tmp_path, "status") == (0, "0 records wait, 0 are rejected\n")


def test_the_exit_status_says_that_something_was_not_read(
    left: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for root, who may read every file."""
    monkeypatch.setattr("billing_client.outbox.commands.rows_of", lambda *_: os.close(-1))
    code, out = run(left, "status")
    assert code == 2
    assert "cannot be read" in out


def test_drain_sends_and_says_how_far_it_is(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    moved(left, server.url)
    code, out = run(left, "--url", server.url, "drain")
    assert (code, out.splitlines()[-1]) == (0, "2 sent, 0 rejected, 0 to send")
    assert set(server.service.stored) == {"one", "two"}


def test_drain_says_why_it_cannot(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    moved(left, server.url)
    server.script.extend([refuse(401, "not_authenticated")] * 9)
    code, out = run(left, "--url", server.url, "drain")
    assert code == 1
    assert "Paused: The service answered 401" in out
    server.script.clear()
    server.script.extend([refuse(503, "service_unavailable")] * 900)
    key.setattr(outbox, "EXIT_SECONDS", 0.1)
    code, out = run(left, "--url", server.url, "drain", "--timeout", "0.3")
    assert code == 1
    assert "Not all was sent: The service answered 503" in out
    assert contents(left) == ["one", "two"]


def test_drain_waits_for_an_answer_that_takes_longer_than_it_is_silent(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    """Or a drain from cron would send the same records to a busy service again and again."""
    key.setattr(commands, "SAY_SECONDS", 0.05)
    moved(left, server.url)
    said_twice = threading.Event()

    class Out(io.StringIO):
        def flush(self) -> None:
            if self.getvalue().count("0 sent, 0 rejected, 2 to send\n") == 2:
                said_twice.set()

    def slow(exchange: Exchange) -> None:
        said_twice.wait(60)
        exchange.sock.sendall(exchange.honest())

    server.script.append(slow)
    out = Out()
    code = main(["--outbox", str(left), "--url", server.url, "drain"], out)
    assert (code, out.getvalue().splitlines()[-1]) == (0, "2 sent, 0 rejected, 0 to send")


def test_drain_without_time_says_what_is_left(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    moved(left, server.url)
    code, out = run(left, "--url", server.url, "drain", "--timeout", "0")
    assert code == 1
    assert "Not all was sent: the time is over" in out


def test_drain_counts_what_running_processes_hold_and_names_customers(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    live = Segment.create(left, "usage")
    live.append(line_of(fact("live").to_json(), stamped=False, at=time.time()))
    orphan(left, "early", customer_id=404)
    moved(left, server.url)
    code, out = run(left, "--url", server.url, "drain")
    assert code == 1
    assert "2 sent, 0 rejected, 2 to send" in out
    assert "Create the customers 404: records wait for them." in out
    assert "1 records are in files of running processes" in out


def test_rejected_records_are_read_while_their_owner_lives(
    server: FaultyServer, tmp_path: Path
) -> None:
    events: list[Event] = []
    with hurried(server.url, tmp_path, on_event=events.append) as billing:
        for units in (1, 2):
            billing.enqueue(fact("one", units_consumed=units))
        billing.flush(20)
        code, out = run(tmp_path, "rejected")
        assert run(tmp_path, "status")[0] == 1
    assert code == 1
    assert out.split("\t")[:3] == ["one", "409", "request_id_conflict"]
    (event,) = (event for event in events if event.kind == "rejected")
    assert event.request_ids == ("one",)


def test_a_damaged_line_is_kept_until_it_is_discarded(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    """Sent again it would be refused as an empty one, and what is left of it lost from sight."""
    key.setenv("BILLING_URL", server.url)
    moved(left, server.url)
    path = orphan(left, "three")
    path.write_bytes(path.read_bytes().replace(b'"request_id"', b'"request_\xff"'))
    assert run(left, "drain")[0] == 3
    code, out = run(left, "requeue", "--code", "damaged_line")
    assert code == 1
    assert "1 damaged lines cannot be sent again" in out
    assert "three" in run(left, "rejected")[1]
    assert run(left, "export") == (0, "")
    assert run(left, "discard", "--code", "damaged_line", "--reason", "Reported by hand.")[0] == 0
    assert run(left, "drain")[0] == 0


def test_a_line_that_is_too_long_stops_no_command(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key.setenv("BILLING_URL", server.url)
    moved(left, server.url)
    path = orphan(left)
    path.write_bytes(path.read_bytes() + b"\n" + b"\0" * MOST_BYTES + b"\n")
    code, out = run(left, "status")
    assert (code, out.splitlines()[-1]) == (1, "3 records wait, 0 are rejected")
    code, out = run(left, "export")
    assert (code, len(out.splitlines())) == (0, 2)
    assert f"{path.name}: left out a damaged line" in capsys.readouterr().err
    assert run(left, "resend", "--since", "2026-11-22T10:00Z")[0] in {0, 1}
    assert run(left, "drain")[0] == 3
    assert set(server.service.stored) == {"one", "two"}
    assert "damaged_line" in run(left, "rejected")[1]


def test_rejected_records_are_sent_again(refused: Path, server: FaultyServer) -> None:
    assert run(refused, "drain")[0] == 3  # nothing is left to send, but some was refused
    assert run(refused, "requeue", "one") == (0, "1 records will be sent again\n")
    assert run(refused, "requeue", "--code", "validation_error")[0] == 0
    assert run(refused, "requeue", "stranger") == (1, "0 records will be sent again\n")
    assert run(refused, "drain")[0] == 0
    assert set(server.service.stored) == {"one", "two"}


def test_rejected_records_are_given_up_with_a_reason(refused: Path) -> None:
    code, out = run(refused, "discard", "one", "two", "--reason", "Sent by hand.")
    assert (code, out) == (0, "2 records were discarded: Sent by hand.\n")
    assert run(refused, "discard", "one", "--reason", "Again.")[0] == 1
    assert run(refused, "drain")[0] == 0
    assert run(refused, "rejected") == (0, "")
    (file,) = refused.glob("rejected-*.log")
    assert file.read_text().count('"discarded": "Sent by hand."') == 2


def test_export_is_every_record_as_a_line_of_json(refused: Path) -> None:
    with hurried(NO_SERVICE, refused) as billing:
        billing.enqueue(fact("three"))
    exported = {
        state: [
            json.loads(line)["request_id"]
            for line in run(refused, "export", *state)[1].splitlines()
        ]
        for state in ((), ("--state", "usage"), ("--state", "delivered"))
    }
    assert list(exported.values()) == [["three", "one", "two"], ["three"], []]


# The service that the directory is for


def test_usage_for_one_service_is_not_sent_to_another(
    left: Path, server: FaultyServer, key: pytest.MonkeyPatch
) -> None:
    """A test's URL must not drain production's directory."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with BillingClient(server.url, KEY, outbox=left) as billing:
            billing.enqueue(fact("three"))  # a renamed host must not stop request handlers
            paused = billing.flush(20).paused_reason or ""
    assert NO_SERVICE in paused
    assert server.url in paused
    code, out = run(left, "--url", server.url, "drain")
    assert (code, paused in out) == (1, True)
    assert paused in run(left, "--url", server.url, "status")[1]
    assert run(left, "--url", server.url, "resend", "--since", "2026-01-01T00:00Z")[0] == 2
    assert server.seen == []
    assert run(left, "--url", server.url, "accept-service")[0] == 0
    assert run(left, "--url", server.url, "drain")[0] == 0
    assert set(server.service.stored) == {"one", "two", "three"}


def test_a_directory_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status"]) == 2
    assert "BILLING_OUTBOX_DIR" in capsys.readouterr().err


def test_a_directory_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("status", "drain", "rejected", "export", "doctor", "accept-service"):
        assert run(tmp_path / "none", command)[0] == 2
        assert "none; expected one that a client has used" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_tilde_is_the_home_directory(
    tmp_path: Path, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with BillingClient(server.url, KEY, outbox="~/outbox") as billing:
        billing.enqueue(fact("one"))
    assert (tmp_path / "outbox" / "service.json").exists()
    assert run(Path("~/outbox"), "status")[0] == 0


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


def test_the_doctor_reads_the_date_in_its_old_form_too(
    server: FaultyServer, tmp_path: Path
) -> None:
    """Which names no zone (RFC 9110, 5.6.7), as some proxies still write it."""
    ago = datetime.now(UTC) - timedelta(hours=2)
    server.script.append(refuse(400, "validation_error", Date=ago.strftime("%a %b %e %T %Y")))
    code, out = doctor(tmp_path, server)
    assert code == 1
    assert "FIX  This machine's clock is +7" in out


def test_the_doctor_says_what_is_wrong_with_the_directory_and_the_url(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    code, out = run(tmp_path, "doctor")
    assert code == 1
    assert "chmod 700" in out
    assert "BILLING_URL" in out
