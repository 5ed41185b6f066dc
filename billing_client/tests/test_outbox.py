"""Usage goes to disk at once, and to the service when that is there."""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine

from billing_client import BillingClient, ConfigurationError, Event, OutboxFull, ValidationError
from billing_client.outbox import delivery
from billing_client.outbox.delivery import Waiting
from billing_client.outbox.segment import Segment, line_of
from billing_client.tests.conftest import KEY
from billing_client.tests.faulty import (
    FaultyServer,
    after_commit,
    cut,
    for_another,
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
    hurried,
    inside,
    rejected,
    segments,
    sent_ids,
)


def test_what_was_enqueued_is_sent_by_itself(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path) as billing:
        for n in range(1200):
            billing.enqueue(fact(f"n{n}"))
        eventually(lambda: billing.stats().sent == 1200)
    assert segments(tmp_path) == []
    assert len(server.service.stored) == 1200


def test_flush_says_what_it_did(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path) as billing:
        before = billing.flush(20)
        billing.enqueue(fact("one"))
        billing.flush(20)
        stats = billing.stats()
    assert (before.sent, before.pending, before.rejected, before.paused_reason) == (0, 0, 0, None)
    assert (stats.sent, stats.pending, stats.oldest_seconds, stats.last_error) == (1, 0, None, None)


def test_without_the_service_it_waits_on_disk(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(NO_SERVICE, tmp_path) as billing:
        billing.enqueue(fact("one"))
        flushed = billing.flush(0.1)
        eventually(lambda: billing.stats().last_error is not None)
        stats = billing.stats()
    assert (flushed.sent, flushed.pending, flushed.paused_reason) == (0, 1, None)
    assert stats.oldest_seconds is not None
    assert contents(tmp_path) == ["one"]
    assert drained(tmp_path, server) == {"one"}


def test_files_are_for_this_user_alone_and_never_hold_the_key(tmp_path: Path) -> None:
    directory = tmp_path / "new" / "outbox"
    with hurried(NO_SERVICE, directory) as billing:
        billing.enqueue(fact("one"))
        billing.flush(0.05)
        written = [path for path in directory.rglob("*") if path.is_file()]
        modes = {path.stat().st_mode & 0o777 for path in written}
        texts = b"".join(path.read_bytes() for path in written)
    assert modes == {0o600}
    assert {path.stat().st_mode & 0o777 for path in (directory, directory / "delivered")} == {0o700}
    assert b"one" in texts
    assert KEY.encode() not in texts


def test_the_directory_may_come_from_the_environment(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_OUTBOX_DIR", str(tmp_path))
    with BillingClient(server.url, KEY) as billing:
        billing.enqueue(fact("one"))
    assert list(server.service.stored) == ["one"]


def test_without_an_outbox_there_is_no_enqueue(billing: BillingClient) -> None:
    with pytest.raises(ConfigurationError, match="BILLING_OUTBOX_DIR"):
        billing.enqueue(fact("one"))


def test_only_usage_is_enqueued(tmp_path: Path) -> None:
    with hurried(NO_SERVICE, tmp_path) as billing, pytest.raises(ValidationError, match="dict"):
        billing.enqueue({})  # type: ignore[arg-type]


def test_a_closed_client_takes_nothing(tmp_path: Path) -> None:
    with hurried(NO_SERVICE, tmp_path) as billing:
        billing.close(0)
        with pytest.raises(ConfigurationError, match="closed"):
            billing.enqueue(fact("one"))
        assert billing.flush(1).pending == 0


@pytest.mark.parametrize("name", ["outbox_max_records", "outbox_max_bytes"])
@pytest.mark.parametrize("value", [0, -1, 1.5, True])
def test_bounds_are_whole_numbers(tmp_path: Path, name: str, value: int) -> None:
    with (
        pytest.raises(ConfigurationError, match=name),
        hurried(NO_SERVICE, tmp_path, **{name: value}),
    ):
        pass


@pytest.mark.parametrize("bound", [{"outbox_max_records": 3}, {"outbox_max_bytes": 600}])
def test_a_full_outbox_raises_and_drops_nothing(
    server: FaultyServer, tmp_path: Path, bound: dict[str, int]
) -> None:
    with hurried(NO_SERVICE, tmp_path, **bound) as billing:
        for n in range(3):
            billing.enqueue(fact(f"n{n}"))
        with pytest.raises(OutboxFull) as raised:
            billing.enqueue(fact("n3"))
        assert billing.stats().pending == 3
    assert raised.value.request_ids == ("n3",)
    assert drained(tmp_path, server) == {"n0", "n1", "n2"}


def test_there_is_room_again_once_it_was_sent(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path, outbox_max_records=1) as billing:
        for n in range(3):
            billing.enqueue(fact(f"n{n}"))
            assert billing.flush(20).pending == 0


# Time


def test_usage_without_a_time_gets_that_of_the_call(server: FaultyServer, tmp_path: Path) -> None:
    given = datetime(2026, 11, 1, 12, tzinfo=UTC)
    before = datetime.now(UTC)
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("stamped"))
        after = datetime.now(UTC)
        billing.enqueue(fact("given", occurred_at=given))
        billing.flush(20)
        billing.record_usage(customer_id=1, service="x", units_consumed=1, price_per_unit=1)
    stored = server.service.stored
    stamp = datetime.fromisoformat(stored["stamped"]["occurred_at"])
    assert before.replace(microsecond=before.microsecond // 1000 * 1000) <= stamp <= after
    assert stored["given"]["occurred_at"] == "2026-11-01T12:00:00.000Z"
    assert "occurred_at" not in json.loads(server.seen[-1].body)


def test_the_same_fact_enqueued_twice_counts_as_delivered(
    server: FaultyServer, tmp_path: Path
) -> None:
    with hurried(server.url, tmp_path) as billing:
        for _ in range(2):
            billing.enqueue(fact("one"))
            flushed = billing.flush(20)
    assert (flushed.sent, flushed.rejected, flushed.pending) == (1, 0, 0)


def test_another_fact_under_the_same_id_is_rejected(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        billing.enqueue(fact("one", units_consumed=2))
        assert billing.flush(20).rejected == 1
        billing.enqueue(fact("two", occurred_at=datetime(2026, 11, 1, tzinfo=UTC)))
        billing.enqueue(fact("two", occurred_at=datetime(2026, 11, 2, tzinfo=UTC)))
        assert billing.flush(20).rejected == 1
    assert rejected(tmp_path) == ["one", "two"]


def in_the_future(*ids: str) -> object:
    fault = {"field": "occurred_at", "code": "in_the_future", "detail": "Check your clock."}
    error = {"code": "validation_error", "detail": "It is wrong.", "errors": [fault]}
    return {"results": [{"status": 400, "request_id": name, "error": error} for name in ids]}


def test_a_stamped_time_in_the_future_waits_for_the_service(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "CLOCK_WAIT", 0.05)
    server.script.append(reply(207, in_the_future("one")))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        flushed = billing.flush(20)
        eventually(lambda: billing.flush(1).pending == 0)
    assert flushed.rejected == 0
    assert list(server.service.stored) == ["one"]


def test_a_given_time_in_the_future_is_rejected(server: FaultyServer, tmp_path: Path) -> None:
    server.script.append(reply(207, in_the_future("one")))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one", occurred_at=datetime(2100, 1, 1, tzinfo=UTC)))
        assert billing.flush(20).rejected == 1


# Customers who are created after their first usage


def test_an_unknown_customer_is_tried_again_and_stops_no_other(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(delivery, "FIRST_WAIT", 0.05)
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("early", customer_id=404))
        billing.enqueue(fact("other"))
        flushed = billing.flush(20)
        assert (flushed.sent, flushed.rejected, flushed.pending) == (1, 0, 1)
        assert billing.stats().waiting_for == (404,)
        server.service.unknown_customers = ()
        eventually(lambda: billing.stats().sent == 2)  # without another flush
        eventually(lambda: billing.stats().waiting_for == ())
    assert segments(tmp_path) == []


def test_a_customer_that_exists_gets_all_that_waits_for_it(
    server: FaultyServer, tmp_path: Path
) -> None:
    """At the next record, long before it would be tried by itself."""
    with hurried(server.url, tmp_path) as billing:
        for n in range(700):
            billing.enqueue(fact(f"n{n}", customer_id=404))
        assert billing.flush(20).pending == 700
        asked = len(server.seen)
        assert billing.flush(20).pending == 700
        assert len(server.seen) == asked + 1  # one record asks for all
        server.service.unknown_customers = ()
        billing.enqueue(fact("next", customer_id=404))
        eventually(lambda: billing.stats().sent == 701)


def test_a_record_that_waits_does_not_take_its_neighbours_along(
    server: FaultyServer, tmp_path: Path
) -> None:
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("early", customer_id=404))
        for n in range(20):
            billing.enqueue(fact(f"n{n}"))
        eventually(lambda: billing.flush(20).pending == 1)
    assert contents(tmp_path) == ["early"]
    with hurried(server.url, tmp_path) as billing:
        billing.flush(20)
        assert billing.stats().waiting_for == (404,)
    sent = Counter(name for seen in server.seen for name in sent_ids(seen.body))
    assert {sent[f"n{n}"] for n in range(20)} == {1}


DAY = timedelta(days=1)


@pytest.mark.parametrize(("days", "waits"), [(6.99, True), (7.01, False)])
def test_after_seven_days_an_unknown_customer_is_rejected(
    server: FaultyServer, tmp_path: Path, days: float, waits: bool
) -> None:
    """Also where no process has lived for so long."""
    with hurried(NO_SERVICE, tmp_path) as billing:
        billing.enqueue(fact("never", customer_id=404))
    with (
        time_machine.travel(datetime.now(UTC) + days * DAY),
        hurried(server.url, tmp_path) as billing,
    ):
        billing.flush(20)
    assert (contents(tmp_path), rejected(tmp_path)) == (
        (["never"], []) if waits else ([], ["never"])
    )


def test_an_unknown_customer_is_asked_for_at_growing_intervals_up_to_an_hour(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    monkeypatch.setattr(delivery, "monotonic", lambda: now)
    segment = Segment.create(tmp_path, "waiting")
    waiting = Waiting()
    line = line_of(fact("one").to_json(), stamped=False, at=time.time())
    segment.append(line)
    intervals = []
    for _ in range(12):
        waiting.put_off(123)
        intervals.append(round(waiting.seconds()))
        now += intervals[-1] - 0.01
        assert waiting.take([segment], 10) == []
        now += 0.02
        assert len(waiting.take([segment], 10)) == 1
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
    server: FaultyServer, tmp_path: Path, fault: object
) -> None:
    server.script.extend([fault] * 3)  # type: ignore[list-item]
    with hurried(server.url, tmp_path) as billing:
        for n in range(20):
            billing.enqueue(fact(f"n{n}"))
        eventually(lambda: billing.flush(1).pending == 0)
        assert billing.stats().sent == 20
    assert len(server.service.stored) == 20
    assert len(server.seen) >= 4


def test_retry_after_is_a_floor_also_for_flush(server: FaultyServer, tmp_path: Path) -> None:
    server.script.append(refuse(503, "service_unavailable", Retry_After="30"))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: billing.stats().last_error is not None)
        assert billing.flush(0.1).pending == 1
    assert len(server.seen) == 1


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
    server: FaultyServer, tmp_path: Path, fault: object
) -> None:
    server.script.extend([fault] * 100)  # type: ignore[list-item]
    with hurried(server.url, tmp_path) as billing:
        for n in range(600):
            billing.enqueue(fact(f"n{n}"))
        flushed = billing.flush(20)
        assert flushed.paused_reason is not None
        assert (flushed.sent, flushed.rejected, flushed.pending) == (0, 0, 600)
        assert billing.stats().paused_reason == billing.stats().last_error
        assert len(server.seen) < 100
        server.script.clear()
        eventually(lambda: billing.flush(20).pending == 0)
        assert billing.stats().paused_reason is None


def test_tls_failures_pause(tmp_path: Path) -> None:
    with FaultyServer(tls=True) as server, hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("one"))
        flushed = billing.flush(20)
    assert flushed.paused_reason is not None
    assert "TLS" in flushed.paused_reason
    assert contents(tmp_path) == ["one"]


# Events


def test_events_tell_the_application(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    events: list[Event] = []
    server.script.extend([refuse(503, "x"), refuse(401, "x")])
    with hurried(server.url, tmp_path, on_event=events.append) as billing:
        billing.enqueue(fact("one"))
        eventually(lambda: billing.flush(1).pending == 0)
    kinds = [event.kind for event in events]
    assert kinds[:2] == ["failed", "paused"]
    assert set(kinds[2:]) == {"sent", "resumed"}
    assert {record.levelno for record in caplog.records} >= {logging.WARNING, logging.ERROR}


def test_a_hook_that_raises_stops_nothing(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def hook(event: Event) -> None:
        raise RuntimeError("no metrics")

    with hurried(server.url, tmp_path, on_event=hook) as billing:
        billing.enqueue(fact("one"))
        assert billing.flush(20).sent == 1
    assert "on_event raised" in caplog.text


def test_a_bug_in_the_drainer_is_logged_and_tried_again(
    server: FaultyServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with hurried(server.url, tmp_path) as billing:
        drainer = inside(billing)
        ask = drainer._ask
        asks = iter([None])
        drainer._ask = lambda rows: ask(rows) if next(asks, 1) else 1 / 0  # type: ignore[assignment,return-value]
        billing.enqueue(fact("one"))
        eventually(lambda: billing.flush(1).pending == 0)
    assert "ZeroDivisionError" in caplog.text
