"""Usage goes to disk at once, and to the service when that is there."""

from __future__ import annotations

import logging
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from billing_client import BillingClient, ConfigurationError, Event, OutboxFull, ValidationError
from billing_client.outbox import outbox as outbox_module
from billing_client.outbox.delivery import Pace
from billing_client.outbox.segment import PENDING, Segment, line_of, rows
from billing_client.tests.faulty import (
    KEY,
    Behaviour,
    Exchange,
    FaultyServer,
    after_commit,
    cut,
    for_another,
    honest,
    refuse,
    reply,
    truncate,
)
from billing_client.tests.outboxes import (
    NO_SERVICE,
    contents,
    drained,
    eventually,
    fact,
    facts,
    hurried,
    inside,
    leave,
    rejected,
    times_sent,
)

NOVEMBER = datetime(2026, 11, 1, 12, tzinfo=UTC)


def test_enqueued_usage_is_sent_by_itself(outbox: BillingClient, server: FaultyServer) -> None:
    for usage in facts(1200):
        outbox.enqueue(usage)
    eventually(lambda: outbox.stats().sent == 1200)
    assert len(server.service.stored) == 1200


def test_flush_says_what_it_did(outbox: BillingClient) -> None:
    outbox.enqueue(fact("one"))
    eventually(lambda: outbox.flush(20).pending == 0)
    stats, after = outbox.stats(), outbox.flush(20)
    assert (after.sent, after.pending, after.rejected, after.paused_reason) == (0, 0, 0, None)
    assert (stats.sent, stats.pending, stats.oldest_seconds, stats.last_error) == (1, 0, None, None)


def test_without_the_service_it_waits_on_disk(
    away: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    away.enqueue(fact("one"))
    flushed = away.flush(0.1)
    eventually(lambda: away.stats().last_error is not None)
    assert (flushed.sent, flushed.pending, flushed.paused_reason) == (0, 1, None)
    assert away.stats().oldest_seconds is not None
    leave(away)
    assert contents(tmp_path) == ["one"]
    assert drained(tmp_path, server) == {"one"}


def test_files_are_for_this_user_alone_and_never_hold_the_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = tmp_path / "new" / "outbox"
    monkeypatch.setenv("BILLING_OUTBOX_DIR", str(directory))
    with hurried(NO_SERVICE, directory) as billing:
        billing.enqueue(fact("one"))
        inside(billing).directory.keep_rejected({"request_id": "two"}, PENDING)
        paths = [directory, *directory.rglob("*")]
        modes = {(path.is_dir(), path.stat().st_mode & 0o777) for path in paths}
        texts = b"".join(path.read_bytes() for path in paths if path.is_file())
    assert modes == {(False, 0o600), (True, 0o700)}
    assert b"one" in texts
    assert KEY.encode() not in texts


def test_enqueue_refuses_what_it_cannot_keep(billing: BillingClient, away: BillingClient) -> None:
    with pytest.raises(ConfigurationError, match="BILLING_OUTBOX_DIR"):
        billing.enqueue(fact("one"))
    with pytest.raises(ValidationError, match="dict"):
        away.enqueue({})  # type: ignore[arg-type]
    away.close(0)
    with pytest.raises(ConfigurationError, match="closed"):
        away.enqueue(fact("one"))
    assert away.flush(1).pending == 0


@pytest.mark.parametrize("name", ["outbox_max_records", "outbox_max_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bounds_are_whole_numbers(tmp_path: Path, name: str, value: int) -> None:
    with pytest.raises(ConfigurationError, match=name):
        BillingClient(NO_SERVICE, KEY, outbox=tmp_path, **{name: value})  # type: ignore[arg-type]


@pytest.mark.usefixtures("no_thread")
@pytest.mark.parametrize("bound", [{"outbox_max_records": 3}, {"outbox_max_bytes": 600}])
def test_a_full_outbox_raises_and_drops_nothing(
    server: FaultyServer, tmp_path: Path, bound: dict[str, int]
) -> None:
    with hurried(server.url, tmp_path, **bound) as billing:
        for usage in facts(3):
            billing.enqueue(usage)
        with pytest.raises(OutboxFull) as raised:
            billing.enqueue(fact("n3"))
        assert raised.value.request_ids == ("n3",)
        assert billing.flush(20).sent == 3
        billing.enqueue(fact("n3"))  # there is room again
        assert billing.flush(20).sent == 1
    assert drained(tmp_path, server) == {"n0", "n1", "n2", "n3"}


def test_records_are_counted_right_while_others_are_sent(tmp_path: Path) -> None:
    segment = Segment.create(tmp_path, "usage")
    line = line_of(fact("one").to_json(), stamped=False, at=time.time())
    segment.append(line)
    row = next(rows(segment.number, b"{"))

    def mark() -> None:
        for _ in range(50_000):
            segment.mark(row, b"{")

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        sending = threading.Thread(target=mark)
        sending.start()
        for _ in range(50_000):
            segment.append(line)
        sending.join()
    finally:
        sys.setswitchinterval(interval)
    assert segment.pending == 1


# Time


def test_usage_without_a_time_gets_that_of_the_call(
    outbox: BillingClient, server: FaultyServer
) -> None:
    before = datetime.now(UTC)
    outbox.enqueue(fact("stamped"))
    after = datetime.now(UTC)
    outbox.enqueue(fact("given", occurred_at=NOVEMBER))
    outbox.close(20)
    stored = server.service.stored
    stamp = datetime.fromisoformat(stored["stamped"]["occurred_at"])
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= stamp <= after
    assert stored["given"]["occurred_at"] == "2026-11-01T12:00:00.000Z"


def test_only_the_same_fact_may_be_enqueued_twice(outbox: BillingClient, tmp_path: Path) -> None:
    for again, of_it in (
        (fact("one"), (1, 0)),
        (fact("one"), (1, 0)),  # with a time of its own
        (fact("one", units_consumed=2), (0, 1)),
        (fact("two", occurred_at=NOVEMBER), (1, 0)),
        (fact("two", occurred_at=NOVEMBER + timedelta(1)), (0, 1)),
    ):
        before = outbox.stats()
        outbox.enqueue(again)
        eventually(lambda: outbox.flush(20).pending == 0)
        after = outbox.stats()
        assert (after.sent - before.sent, after.rejected - before.rejected) == of_it
    assert rejected(tmp_path) == ["one", "two"]


@pytest.mark.parametrize("given", [None, NOVEMBER])
def test_only_a_stamped_time_in_the_future_waits_for_the_service(
    outbox: BillingClient, server: FaultyServer, given: datetime | None
) -> None:
    fault = {"field": "occurred_at", "code": "in_the_future", "detail": "Check your clock."}
    error = {"code": "validation_error", "detail": "It is wrong.", "errors": [fault]}
    results = [{"status": 400, "request_id": "one", "error": error}]
    server.script.append(reply(207, {"results": results}))
    outbox.enqueue(fact("one", occurred_at=given))
    eventually(lambda: outbox.flush(20).pending == 0)
    assert (outbox.stats().rejected, len(server.service.stored)) == ((1, 0) if given else (0, 1))
    assert outbox.stats().waiting_for == ()


# Customers who are created after their first usage


def test_an_unknown_customer_is_tried_again_and_stops_no_other(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "CUSTOMERS", (0.05, 0.05))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("early", customer_id=404))
        for usage in facts(20):
            billing.enqueue(usage)
        eventually(lambda: billing.stats().pending == 1)
        assert billing.stats().waiting_for == (404,)
        server.service.unknown_customers = ()
        eventually(lambda: billing.stats().pending == 0)  # without a flush
        assert billing.stats().waiting_for == ()
    sent = times_sent(server)
    assert {sent[f"n{n}"] for n in range(20)} == {1}


def test_a_customer_that_exists_gets_all_that_waits_for_it(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the next record, long before it would be tried by itself."""
    monkeypatch.setattr(outbox_module, "CUSTOMERS", (600.0, 3600.0))
    with hurried(server.url, tmp_path) as outbox:
        for n in range(2500):
            outbox.enqueue(fact(f"n{n}", customer_id=404))
        assert outbox.flush(20).pending == 2500
        asked = len(server.seen)
        assert outbox.flush(20).pending == 2500
        assert len(server.seen) == asked + 1  # one request asks for all
        server.service.unknown_customers = ()
        outbox.enqueue(fact("next", customer_id=404))
        eventually(lambda: outbox.stats().sent == 2501)
        assert len(server.seen) < asked + 10


@pytest.mark.parametrize(("days", "waits"), [(6.99, True), (7.01, False)])
def test_after_seven_days_an_unknown_customer_is_rejected(
    server: FaultyServer, tmp_path: Path, days: float, waits: bool
) -> None:
    """Also where no process has lived for so long."""
    with hurried(NO_SERVICE, tmp_path) as billing:
        billing.enqueue(fact("never", customer_id=404))
    with (
        time_machine.travel(datetime.now(UTC) + timedelta(days)),
        hurried(server.url, tmp_path) as billing,
    ):
        eventually(lambda: billing.flush(20).pending + billing.stats().rejected == 1)
    both = (["never"], []) if waits else ([], ["never"])
    assert (contents(tmp_path), rejected(tmp_path)) == both


def test_an_unknown_customer_is_asked_for_at_growing_intervals_up_to_an_hour(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("billing_client.outbox.delivery.uniform", lambda least, most: most)
    pace = Pace(*outbox_module.CUSTOMERS)
    intervals = [pace.failed() for _ in range(12)]
    assert intervals == [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]


# Faults of the network


@pytest.mark.parametrize(
    "fault",
    [
        cut,
        truncate,
        for_another,
        after_commit(cut),
        after_commit(refuse(500, "internal_error")),
        refuse(503, "service_unavailable", Retry_After="0"),
        refuse(429, "too_many"),
        reply(200, b"<html>"),
        reply(207, {"results": []}),
    ],
)
def test_a_fault_that_passes_loses_and_doubles_nothing(
    outbox: BillingClient, server: FaultyServer, fault: Behaviour
) -> None:
    server.script.extend([fault] * 3)
    for usage in facts(20):
        outbox.enqueue(usage)
    eventually(lambda: outbox.flush(1).pending == 0)
    assert outbox.stats().sent == len(server.service.stored) == 20
    assert len(server.seen) >= 4


@pytest.mark.parametrize("retry_after", ["999999999", "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_retry_after_is_a_floor_of_an_hour_at_most_also_for_flush(
    outbox: BillingClient, server: FaultyServer, retry_after: str
) -> None:
    server.script.append(refuse(503, "service_unavailable", Retry_After=retry_after))
    outbox.enqueue(fact("one"))
    eventually(lambda: outbox.stats().last_error is not None)
    assert outbox.flush(0.1).pending == 1
    stats = outbox.stats()
    assert 3500 < (stats.next_attempt_seconds or 0) < 3700
    assert "The next attempt is due in 36" in (stats.last_error or "")
    assert len(server.seen) == 1


def test_flush_waits_for_no_chance(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox_module, "ATTEMPTS", (1e9, 1e9, 0.01))
    server.script.append(refuse(503, "service_unavailable"))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: billing.stats().last_error is not None)
        assert billing.flush(20).sent == 1


@pytest.mark.no_cover
@pytest.mark.parametrize(
    "fault",
    [
        refuse(401, "not_authenticated"),
        refuse(403, "forbidden"),
        reply(404, b"not here"),
        reply(302, b"", Location="https://elsewhere.example"),
        reply(501, b""),
        reply(405, b""),
    ],
)
def test_a_fault_that_does_not_pass_pauses_and_keeps_everything(
    outbox: BillingClient, server: FaultyServer, fault: Behaviour
) -> None:
    server.script.extend([fault] * 1000)
    for usage in facts(600):
        outbox.enqueue(usage)
    eventually(lambda: outbox.flush(20).paused_reason)
    stats = outbox.stats()
    assert (stats.sent, stats.rejected, stats.pending) == (0, 0, 600)
    assert str(stats.paused_reason) in str(stats.last_error)
    server.script.clear()
    eventually(lambda: outbox.flush(20).pending == 0)
    assert outbox.stats().paused_reason is None


# Events


@pytest.mark.parametrize("raises", [False, True])
def test_events_tell_the_application_whose_errors_stop_nothing(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture, raises: bool
) -> None:
    kinds: list[str] = []

    def hook(event: Event) -> None:
        kinds.append(event.kind)
        if raises:
            raise RuntimeError("no metrics")

    server.script.extend([refuse(503, "x"), refuse(401, "x")])
    with hurried(server.url, tmp_path, on_event=hook) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: billing.flush(1).pending == 0)
        eventually(lambda: len(kinds) == 4)
    assert kinds[:2] == ["failed", "paused"]
    assert set(kinds[2:]) == {"sent", "resumed"}
    assert {record.levelno for record in caplog.records} >= {logging.WARNING, logging.ERROR}
    assert ("on_event raised" in caplog.text) == raises


@pytest.mark.parametrize("error", [ZeroDivisionError("a bug"), MemoryError("no memory")])
def test_whatever_goes_wrong_in_the_thread_it_goes_on(
    outbox: BillingClient,
    server: FaultyServer,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
) -> None:
    def broken(*_: object) -> None:
        raise error

    with monkeypatch.context() as ill:
        ill.setattr(outbox_module, "rows", broken)
        outbox.enqueue(fact("one"))
        eventually(lambda: str(error) in (outbox.stats().last_error or ""))
    eventually(lambda: outbox.flush(20).pending == 0)
    assert type(error).__name__ in caplog.text
    assert list(server.service.stored) == ["one"]


def test_a_short_flush_cuts_no_request_short(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a service that answers slowly would never be heard by those who flush often."""
    monkeypatch.setattr(outbox_module, "LINGER_SECONDS", 60.0)
    answers = threading.Event()

    def slow(exchange: Exchange) -> None:
        answers.wait(60)
        honest(exchange)

    server.script.append(slow)
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: billing.flush(0.05).pending == 1 and server.seen)
        assert billing.flush(0.5).pending == 1
        answers.set()
        eventually(lambda: billing.stats().sent == 1)
    assert len(server.seen) == 1
