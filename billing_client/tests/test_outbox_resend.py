"""Delivered usage can be sent once more."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from billing_client import (
    AuthenticationError,
    BillingClient,
    ConfigurationError,
    Resent,
    UnavailableError,
)
from billing_client.commands.main import main
from billing_client.fake.service import MemoryService
from billing_client.outbox.directory import Directory
from billing_client.tests.faulty import KEY, FaultyServer, cut, refuse
from billing_client.tests.outboxes import (
    contents,
    eventually,
    fact,
    hurried,
    rejected,
)

HOUR = timedelta(hours=1)


def resent(server: FaultyServer, directory: Path, since: datetime | None = None) -> Resent:
    with hurried(server.url, directory) as billing:
        return billing.resend(since or datetime.now(UTC) - HOUR, timeout=60)


def sent(server: FaultyServer, directory: Path, *ids: str) -> None:
    with hurried(server.url, directory) as billing:
        for name in ids:
            billing.enqueue(fact(name))
        billing.flush(20)


def test_all_that_was_delivered_is_sent_again(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    sent(server, tmp_path, *(f"n{n}" for n in range(1200)))
    progress: list[int] = []
    outbox.enqueue(fact("live"))  # in a file that is still written to
    assert outbox.flush(20).sent == 1
    server.service = restored = MemoryService(any_time=True)
    restored.answer(server.seen[0].body)
    lost = 1201 - len(restored.stored)
    server.script.extend([cut, refuse(503, "service_unavailable")])
    done = outbox.resend(datetime.now(UTC) - HOUR, on_progress=progress.append)
    assert (done.sent, done.created, done.refused, done.complete) == (1201, lost, (), True)
    assert progress == [1000, 1201]


def test_only_delivered_records_are_sent_again(server: FaultyServer, tmp_path: Path) -> None:
    """Not records that were refused and then discarded, nor waiting ones."""
    with hurried(server.url, tmp_path) as billing:
        billing.enqueue(fact("good"))
        billing.enqueue(fact("good", units_consumed=2))
        billing.enqueue(fact("early", customer_id=404))
        billing.flush(20)
        eventually(lambda: billing.stats().waiting_for == (404,))
    assert main(["--outbox", str(tmp_path), "discard", "good", "--reason", "A mistake."]) == 0
    done = resent(server, tmp_path)
    assert (done.sent, done.created, done.refused) == (1, 0, ())
    assert (contents(tmp_path), rejected(tmp_path)) == (["early"], [])


def test_whole_files_that_reach_to_ten_minutes_before_are_sent(
    server: FaultyServer, tmp_path: Path
) -> None:
    delivered = datetime.now(UTC)
    sent(server, tmp_path, "one")
    assert resent(server, tmp_path, delivered + timedelta(minutes=9)).sent == 1
    assert resent(server, tmp_path, delivered + timedelta(minutes=11)).sent == 0


def test_it_says_what_is_not_kept_any_more(
    server: FaultyServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BILLING_API_KEY", KEY)
    sent(server, tmp_path, "one")
    directory = Directory(tmp_path)
    before = f"{datetime.now(UTC) - HOUR:%Y-%m-%dT%H:%MZ}"
    command = ["--url", server.url, "--outbox", str(tmp_path), "resend", "--since"]
    assert main([*command, before]) == 0
    directory.forget(*directory.kept())
    assert main([*command, before]) == 1
    since = directory.removed_until()
    assert since is not None
    assert main([*command, since.isoformat()]) == 0
    with pytest.raises(SystemExit):
        main([*command, "2026-11-22T10:00"])


def test_a_customer_that_the_restored_service_lacks_is_named(
    server: FaultyServer, tmp_path: Path
) -> None:
    sent(server, tmp_path, "one")
    server.service = MemoryService(unknown_customers={123}, any_time=True)
    assert resent(server, tmp_path).refused == ("one",)
    server.service.unknown_customers = ()
    assert resent(server, tmp_path).created == 1


def test_it_gives_up_in_time_and_with_a_reason(
    outbox: BillingClient, server: FaultyServer, tmp_path: Path
) -> None:
    sent(server, tmp_path, "one")
    server.script.extend([refuse(503, "service_unavailable", Retry_After="60")])
    with pytest.raises(UnavailableError, match="503"):
        outbox.resend(datetime.now(UTC) - HOUR)
    with pytest.raises(UnavailableError, match="run it once more"):
        outbox.resend(datetime.now(UTC) - HOUR, timeout=0)
    server.script.extend([refuse(401, "not_authenticated")])
    with pytest.raises(AuthenticationError):
        outbox.resend(datetime.now(UTC) - HOUR)
    with pytest.raises(ConfigurationError, match="time zone"):
        outbox.resend(datetime(2026, 11, 22))  # noqa: DTZ001 - that is the fault
