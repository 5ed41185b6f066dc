"""Counts reach the database whole and once, make no request wait, and are bounded in memory."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from urllib.parse import urlsplit

import pytest
from django.db import connections, transaction
from django.test import Client

from usage.api.problems import invalid_json
from usage.api.traffic import TrafficCounter, traffic
from usage.models import ApiKey, Counts, Refusal, RefusalNote, Traffic
from usage.tests.books import Books, default_database
from usage.tests.factories import usage_body
from usage.tests.live import at_once
from usage.tests.wire import DROP, FORWARD, LOSE_ANSWER, Relay

pytestmark = pytest.mark.measured

DAY = dt.date(2026, 11, 22)
THREADS = 16


@pytest.fixture
def key(own_books: Books) -> int:
    """The id of a key in a database of the test's own."""
    return ApiKey.objects.get().pk


@pytest.fixture
def counter() -> Iterator[TrafficCounter]:
    """A counter whose thread flushes as often as it can."""
    counter = TrafficCounter(every=0.001)
    yield counter
    counter.stop()


def refuse(counter: TrafficCounter, key: int, *details: str) -> None:
    counter.refused(key, [(invalid_json(detail), None) for detail in details])


def total() -> Counts:
    counts = Counts()
    for row in Traffic.objects.all():
        counts = counts.plus(row.counts)
    return counts


def kept() -> list[str]:
    return list(Refusal.objects.order_by("at", "id").values_list("detail", flat=True))


def away(books: Books) -> contextlib.AbstractContextManager[None]:
    """Point the database at an address where no server answers."""
    if books.is_sqlite:
        return default_database(f"{books.url}/in/no/folder")
    return default_database(urlsplit(books.url)._replace(netloc="nobody@127.0.0.1:1").geturl())


@contextlib.contextmanager
def traffic_locked(books: Books) -> Iterator[None]:
    with contextlib.closing(books.connect()) as stranger:
        cursor = stranger.cursor()
        cursor.execute("BEGIN IMMEDIATE" if books.is_sqlite else "BEGIN")
        if not books.is_sqlite:
            cursor.execute("LOCK TABLE usage_traffic IN EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


def test_what_the_database_does_not_take_arrives_later(
    key: int, own_books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    traffic.recorded(key, created=1, replayed=0)
    refuse(traffic, key, "First.")
    with away(own_books):
        traffic.flush()
        traffic.flush()
    refuse(traffic, key, "Second.")

    traffic.flush()

    assert total() == Counts(created=1, refused=2)
    assert kept() == ["First.", "Second."]
    told = [record for record in caplog.records if record.name == "usage.api.traffic"]
    assert [record.levelname for record in told] == ["WARNING"]


def test_no_request_waits_while_the_database_does_not_take_it(
    key: int, own_books: Books, counter: TrafficCounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("usage.api.views.traffic", counter)
    headers = {"Authorization": f"Bearer {own_books.key}"}
    post = partial(
        Client().post, "/api/v1/usage/", content_type="application/json", headers=headers
    )
    post(usage_body(customer_id=1))
    with traffic_locked(own_books):
        answers = [post(b"{") for _ in range(20)]
        assert total().refused == 0
    counter.stop()

    assert {answer.status_code for answer in answers} == {400}
    assert total() == Counts(created=1, refused=20)


@pytest.mark.parametrize("fate", [DROP, LOSE_ANSWER])
def test_a_connection_cut_at_any_statement_counts_nothing_twice(
    key: int, own_books: Books, fate: str
) -> None:
    if own_books.is_sqlite:
        pytest.skip("SQLite has no connection that could be cut.")
    for place in itertools.count(1):
        before = total().created
        traffic.recorded(key, created=1, replayed=0)
        refuse(traffic, key, f"{place}.")
        cut_at = flush_cut_at(place, fate, own_books)
        traffic.flush()
        if cut_at is None:
            break
        # A commit without confirmation is taken as done.
        is_lost = cut_at == "COMMIT" and fate == DROP
        assert total().created - before == (0 if is_lost else 1)
        assert (f"{place}." in kept()) is not is_lost
    assert place > 7
    assert len(kept()) == len(set(kept()))


def flush_cut_at(place: int, fate: str, books: Books) -> str | None:
    """Flush over a connection that breaks at one statement; return that, if there was one."""
    with Relay(books.url) as relay, default_database(relay.url):
        relay.fate = lambda _: fate if len(relay.queries) == place else FORWARD
        traffic.flush()
        return relay.queries[place - 1] if len(relay.queries) >= place else None


def test_a_full_disk_loses_nothing(key: int, own_books: Books) -> None:
    if not own_books.is_sqlite:
        pytest.skip("A file's size is limited where there is a file.")
    refuse(traffic, key, *("x" * 300 for _ in range(50)))
    with connections["default"].cursor() as cursor:
        cursor.execute("PRAGMA page_count")
        cursor.execute(f"PRAGMA max_page_count = {cursor.fetchone()[0]}")
        traffic.flush()
        assert total() == Counts()
        cursor.execute("PRAGMA max_page_count = 1000000")

    traffic.flush()

    assert total() == Counts(refused=50)


def test_counts_that_fail_for_another_reason_do_not_stop_those_that_follow(
    key: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    traffic.recorded(key, created=1, replayed=0)
    with monkeypatch.context() as broken:
        broken.setattr(Traffic.objects, "add_counts", lambda counts: 1 / 0)
        traffic.flush()
    traffic.recorded(key, created=1, replayed=0)

    traffic.flush()

    assert total() == Counts(created=1)
    assert [record.levelname for record in caplog.records] == ["ERROR"]


def test_each_key_keeps_its_last_fifty_refusals(key: int) -> None:
    other = ApiKey.objects.issue(name="other")[0].pk
    refuse(traffic, other, "Quiet.")
    for first in (0, 40, 80):
        refuse(traffic, key, *(f"{number}." for number in range(first, first + 40)))
        traffic.flush()

    assert kept() == ["Quiet.", *(f"{number}." for number in range(70, 120))]
    assert total().refused == 121


def test_memory_is_bounded_while_the_database_is_away(key: int, own_books: Books) -> None:
    with away(own_books):
        for number in range(3):
            refuse(traffic, key, *(f"{number}: {place}." for place in range(100)))
            for stranger in range(1000):
                refuse(traffic, key + stranger, "No.")
            traffic.flush()

    assert len(traffic._notes) == 200
    assert max(map(len, traffic._notes.values())) == 50
    traffic.flush()
    assert kept() == [*(f"2: {place}." for place in range(51, 100)), "No."]
    assert total().refused == 3 * 101


def test_threads_lose_no_count(key: int, counter: TrafficCounter) -> None:
    def work() -> None:
        for _ in range(200):
            counter.recorded(key, created=1, replayed=2)
            refuse(counter, key, "No.")

    at_once([work] * THREADS)
    counter.stop()

    assert total() == Counts(created=THREADS * 200, replayed=THREADS * 400, refused=THREADS * 200)


def test_processes_that_flush_at_once_neither_wait_in_a_circle_nor_lose_a_count(
    key: int, caplog: pytest.LogCaptureFixture
) -> None:
    note = RefusalNote(dt.datetime.now(dt.UTC), 400, "invalid_json", "No.")
    keys = [key, *(ApiKey.objects.issue(name=f"No. {n}")[0].pk for n in range(7))]

    def process(number: int) -> None:
        counter = TrafficCounter()
        for turn in range(5):
            # Each begins with another key, on another day.
            for api_key, day in itertools.product(keys[number:] + keys[:number], range(2)):
                counter._counts[api_key, DAY + dt.timedelta(days=(day + turn) % 2)]["created"] = 1
                counter._remember(api_key, [note])
            counter.flush()
            while counter._counts:  # kept for the next time, as SQLite's lock may ask
                counter.flush()
        connections.close_all()

    at_once([partial(process, number) for number in range(8)])

    assert total() == Counts(created=8 * 5 * 8 * 2)
    assert {row.created for row in Traffic.objects.all()} == {40}
    assert "was not counted" not in caplog.text
    assert "deadlock" not in caplog.text


def test_recording_does_not_wait_for_those_that_flush(key: int, own_books: Books) -> None:
    if own_books.is_sqlite:
        pytest.skip("SQLite has one transaction at a time.")
    headers = {"Authorization": f"Bearer {own_books.key}"}

    def post() -> int:
        body = usage_body(customer_id=1)
        answer = Client().post(
            "/api/v1/usage/", body, content_type="application/json", headers=headers
        )
        connections.close_all()
        return answer.status_code

    with transaction.atomic(), ThreadPoolExecutor(1) as pool:
        Traffic.objects.add_counts({(key, DAY): Counts(created=1)})
        assert pool.submit(post).result() == 201


def test_without_a_thread_counting_goes_on(key: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def start(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    counter = TrafficCounter()
    with monkeypatch.context() as full:
        full.setattr(threading.Thread, "start", start)
        counter.recorded(key, created=1, replayed=0)
    counter.recorded(key, created=1, replayed=0)
    counter.stop()

    assert total() == Counts(created=2)


def test_where_nothing_was_counted_the_database_is_not_asked(
    own_books: Books, caplog: pytest.LogCaptureFixture
) -> None:
    with away(own_books):
        traffic.flush()

    assert not caplog.records
