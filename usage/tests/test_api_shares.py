"""No API key holds more than its share of a process, whatever it sends."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from typing import Any

import pytest
from django.test import Client

from usage.api.shares import Shares, shares, told
from usage.api.traffic import traffic
from usage.ledger import record as recording
from usage.models import ApiKey, Customer, Traffic, UsageRecord
from usage.tests.books import Books
from usage.tests.conftest import Post
from usage.tests.factories import usage_body
from usage.tests.live import Caller, Service


@pytest.mark.parametrize(("threads", "requests"), [(16, 8), (5, 2), (2, 1), (1, 1)])
def test_a_key_may_hold_half_of_the_threads_and_at_least_one(threads: int, requests: int) -> None:
    shares = Shares()
    shares.divide(threads)

    held = [shares[1].acquire(blocking=False) for _ in range(requests + 1)]

    assert held == [True] * requests + [False]
    assert shares[2].acquire(blocking=False)


@pytest.fixture
def two_threads() -> Iterator[None]:
    """A process of two threads, of which a key may hold one."""
    shares.divide(2)
    yield
    shares.__init__()  # type: ignore[misc]  # as at the start


@pytest.fixture
def busy(two_threads: None, customer: Customer, api_key: str) -> Iterator[None]:
    """The key of `post` has a request in progress."""
    share = shares[ApiKey.objects.get().pk]
    assert share.acquire(blocking=False)
    yield
    share.release()


@pytest.mark.django_db
def test_a_request_over_the_share_is_told_when_to_come_again(busy: None, post: Post) -> None:
    response = post(usage_body())

    assert response.status_code == 429
    assert response["Content-Type"] == "application/problem+json"
    assert response.json()["code"] == "too_many_requests"
    assert int(response["Retry-After"]) >= 1
    assert not UsageRecord.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("headers", "pauses"),
    [
        ({}, True),
        ({"X-Forwarded-For": "203.0.113.9"}, False),
        ({"Forwarded": "for=203.0.113.9"}, False),
        ({"Via": "1.1 gateway"}, False),
    ],
    ids=str,
)
def test_only_a_connection_of_one_caller_is_to_pause(
    busy: None, post: Post, headers: dict[str, str], pauses: bool
) -> None:
    told.pauses = False

    assert post(usage_body(), **headers).status_code == 429

    assert told.pauses is pauses


@pytest.mark.django_db
def test_the_body_of_a_request_over_the_share_is_not_looked_at(busy: None, post: Post) -> None:
    assert post(b"{not json").status_code == 429


@pytest.mark.django_db
def test_another_key_is_not_held_up(busy: None, client: Client) -> None:
    _, other = ApiKey.objects.issue(name="quiet")

    response = client.post(
        "/api/v1/usage/",
        usage_body(),
        content_type="application/json",
        headers={"Authorization": f"Bearer {other}"},
    )

    assert response.status_code == 201


@pytest.mark.django_db
def test_what_is_not_decided_is_not_counted_as_refused(busy: None, post: Post) -> None:
    post(usage_body())
    traffic.flush()

    assert not Traffic.objects.exists()


@pytest.mark.django_db
@pytest.mark.parametrize("body", [usage_body(), [usage_body()], {}, [], b"{not json", 5], ids=repr)
def test_every_answer_gives_the_share_back(
    two_threads: None, customer: Customer, post: Post, body: Any
) -> None:
    assert [post(body).status_code == 429 for _ in range(3)] == [False] * 3


@pytest.mark.django_db
def test_a_crash_gives_the_share_back(
    two_threads: None,
    client: Client,
    customer: Customer,
    post: Post,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client.raise_request_exception = False
    with monkeypatch.context() as broken:
        broken.delattr(recording, "record")
        assert post(usage_body()).status_code == 500

    assert post(usage_body()).status_code == 201


@contextlib.contextmanager
def locked(books: Books) -> Iterator[None]:
    """Nothing is recorded meanwhile: whoever tries waits."""
    with contextlib.closing(books.connect()) as connection:
        cursor = connection.cursor()
        if books.is_sqlite:
            cursor.execute("BEGIN IMMEDIATE")
        else:
            cursor.execute("BEGIN; LOCK TABLE usage_bill IN ACCESS EXCLUSIVE MODE")
        yield
        cursor.execute("ROLLBACK")


@pytest.mark.live
def test_a_worker_shares_its_threads_between_keys(books: Books) -> None:
    with Service(books, workers=1, threads=4) as service, ThreadPoolExecutor(6) as pool:
        bodies = [usage_body(customer_id=service.customer()) for _ in range(6)]
        with locked(books):
            calls = [
                pool.submit(caller.post, body)
                for caller, body in zip(service.callers(6), bodies, strict=True)
            ]
            refused = set(islice(as_completed(calls), 4))
        statuses = [call.result().status for call in calls if call not in refused]
        log = service.log()

    assert [call.result().status for call in refused] == [429] * 4
    assert statuses == [201] * 2
    assert "Too Many Requests" not in log  # a busy key may be told so thousands of times a second


@pytest.mark.live
@pytest.mark.once
def test_who_comes_back_at_once_is_read_later_and_holds_no_thread(books: Books) -> None:
    with Service(books, workers=1, threads=2) as service, ThreadPoolExecutor(9) as pool:
        body = usage_body(customer_id=service.customer())

        def twice(caller: Caller) -> tuple[int, float]:
            began = time.monotonic()  # on a busy machine the answer is noticed late
            first = caller.post(body)
            caller.post(body)
            return first.status, time.monotonic() - began

        with locked(books):
            calls = [pool.submit(twice, caller) for caller in service.callers(9)]
            refused = [call.result() for call in islice(as_completed(calls), 8)]
            assert service.caller().get("/livez").status == 200

    assert [status for status, _ in refused] == [429] * 8
    assert min(seconds for _, seconds in refused) > 0.4
