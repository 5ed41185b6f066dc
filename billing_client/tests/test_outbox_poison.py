"""A record that cannot be taken stops no other."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from billing_client import RateLimitedError
from billing_client.outbox import sender
from billing_client.outbox.delivery import deliver
from billing_client.outbox.segment import Segment
from billing_client.tests.faulty import Exchange, FaultyServer, honest, refuse, reply
from billing_client.tests.outboxes import (
    NO_SERVICE,
    eventually,
    fact,
    hurried,
    orphan,
    rejected,
    sent_ids,
)

BATCH = 500


@pytest.fixture(autouse=True)
def _together(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is enqueued before a flush goes in one batch."""
    monkeypatch.setattr(sender, "LINGER_SECONDS", 10.0)


class Wall:
    """Something before the service that refuses a whole request for one record in it."""

    def __init__(self, status: int, poison: set[str], most: int = BATCH) -> None:
        self.status = status
        self.poison = poison
        self.most = most

    def __call__(self, exchange: Exchange) -> None:
        exchange.server.script.append(self)
        ids = sent_ids(exchange.request.body)
        stopped = self.poison & set(ids) or len(ids) > self.most
        (reply(self.status, b"no") if stopped else honest)(exchange)

    __name__ = "wall"


@pytest.mark.parametrize("bad", [[7], [0, 499], list(range(0, 500, 7)), list(range(40))])
def test_rejected_records_stop_no_other(
    server: FaultyServer, tmp_path: Path, bad: list[int]
) -> None:
    poison = {f"n{n}" for n in bad}

    def refusing(exchange: Exchange) -> None:
        exchange.server.script.append(refusing)
        records = json.loads(exchange.request.body)
        taken = [r for r in records if r["request_id"] not in poison]
        _, body, _ = exchange.server.service.answer(json.dumps(taken).encode())
        good = iter(body.get("results", ()))  # none if all are refused
        error = {"code": "validation_error", "detail": "It is wrong."}
        results = [
            {"status": 400, "request_id": r["request_id"], "error": error}
            if r["request_id"] in poison
            else next(good)
            for r in records
        ]
        reply(207, {"results": results})(exchange)

    server.script.append(refusing)
    with hurried(server.url, tmp_path) as billing:
        for n in range(BATCH):
            billing.enqueue(fact(f"n{n}"))
        flushed = billing.flush(20)
    assert (flushed.sent <= BATCH - len(bad), flushed.pending) == (True, 0)
    assert set(server.service.stored) == {f"n{n}" for n in range(BATCH)} - poison
    assert rejected(tmp_path) == sorted(poison)


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("bad", [[7], [0, 499], list(range(100, 130))])
def test_a_refusal_of_the_whole_request_is_taken_apart(
    server: FaultyServer, tmp_path: Path, status: int, bad: list[int]
) -> None:
    poison = {f"n{n}" for n in bad}
    server.script.append(Wall(status, poison))
    with hurried(NO_SERVICE, tmp_path) as billing:
        for n in range(BATCH):
            billing.enqueue(fact(f"n{n}"))
    with hurried(server.url, tmp_path) as billing:  # which finds them all at once
        flushed = billing.flush(20)
    assert (flushed.pending, flushed.paused_reason) == (0, None)
    assert set(server.service.stored) == {f"n{n}" for n in range(BATCH)} - poison
    assert rejected(tmp_path) == sorted(poison)


def test_requests_that_are_too_large_are_halved(server: FaultyServer, tmp_path: Path) -> None:
    server.script.append(Wall(413, set(), most=100))
    with hurried(server.url, tmp_path) as billing:
        for n in range(1500):
            billing.enqueue(fact(f"n{n}"))
        flushed = billing.flush(20)
    assert (flushed.pending, flushed.rejected) == (0, 0)
    assert len(server.service.stored) == 1500
    refused = len(server.seen) - len(server.service.batches)
    assert refused < len(server.seen) / 2


def test_a_lone_record_that_a_proxy_refuses_is_kept(server: FaultyServer, tmp_path: Path) -> None:
    """Nothing says yet that the fault is the record's."""
    server.script.append(Wall(400, {"bad"}))
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("bad"))
        assert billing.flush(20).paused_reason is not None
        billing.enqueue(fact("good"))
        eventually(lambda: billing.flush(20).pending == 0)
    assert list(server.service.stored) == ["good"]
    assert rejected(tmp_path) == ["bad"]


def test_an_outage_in_between_judges_no_record(server: FaultyServer, tmp_path: Path) -> None:
    server.script.extend([reply(400, b"no"), refuse(503, "x", Retry_After="9")])
    with hurried(server.url, tmp_path) as billing:
        for n in range(10):
            billing.enqueue(fact(f"n{n}"))
        flushed = billing.flush(0.3)
    assert (flushed.rejected, flushed.pending) == (0, 10)


def test_batches_are_bounded_by_bytes(server: FaultyServer, tmp_path: Path) -> None:
    with hurried(server.url, tmp_path) as billing:
        for n in range(BATCH):
            billing.enqueue(fact(f"{n:0128}", service="界" * 100, occurred_at=None))
        for n in range(BATCH):
            billing.enqueue(fact(f"{n:0127}x", service="𝄞" * 100))
        assert billing.flush(20).pending == 0
    assert max(len(seen.body) for seen in server.seen) <= 512 * 1024


def test_too_many_requests_are_no_refusal_of_a_record(tmp_path: Path) -> None:
    segment = Segment.adopt(orphan(tmp_path, "one", "two"))
    assert segment is not None

    def ask(rows: object) -> Any:
        raise RateLimitedError("The service answered 429")

    with pytest.raises(RateLimitedError):
        list(deliver(ask, segment.take(2), lambda size: None))
