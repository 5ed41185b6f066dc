"""Several connections at once, progress, invalid items, and the state after an error."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from billing_client import (
    AuthenticationError,
    BillingClient,
    ConfigurationError,
    Receipts,
    Usage,
    ValidationError,
)
from billing_client.tests.faulty import Behaviour, Exchange, FaultyServer, honest, refuse
from billing_client.tests.outboxes import sent_ids

Make = Callable[..., Usage]
ROW: dict[str, Any] = {
    "customer_id": 1,
    "service": "CDN",
    "units_consumed": 1,
    "price_per_unit": "0.05",
}


def rows(*ids: str) -> list[dict[str, Any]]:
    return [{**ROW, "request_id": name} for name in ids]


def when(event: threading.Event, then: Behaviour = honest) -> Behaviour:
    """Behave so once a test says so."""

    def behaviour(exchange: Exchange) -> None:
        assert event.wait(30)
        then(exchange)

    return behaviour


def saying(event: threading.Event) -> Behaviour:
    def behaviour(exchange: Exchange) -> None:
        honest(exchange)
        event.set()

    return behaviour


def names(receipts: Any) -> list[str]:
    return [receipt.request_id for receipt in receipts]


def test_requests_are_under_way_at_once_and_receipts_are_in_order(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    """The first request is answered after the second, which one connection would never send."""
    second = threading.Event()
    server.script.extend([when(second), saying(second)])
    receipts = billing.record_many((usage(f"n{n}") for n in range(2500)), connections=2)
    assert names(receipts) == [f"n{n}" for n in range(2500)]
    assert {request.connection for request in server.seen} == {0, 1}


def test_an_id_under_way_is_answered_before_it_is_sent_again(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    facts = [usage(f"n{n}") for n in range(1000)]
    receipts = billing.record_many([*facts, usage("n0", units=1)])
    assert receipts[0].status == "created"
    assert receipts[-1].status == "rejected"


def test_a_failed_request_among_others_tells_which_have_receipts(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    second = threading.Event()
    refused = when(second, refuse(401, "not_authenticated"))
    server.script.extend([refused, saying(second)])
    with pytest.raises(AuthenticationError) as caught:
        billing.record_many((usage(f"n{n}") for n in range(2000)), connections=2)
    missing = set(caught.value.request_ids)
    assert missing in [set(sent_ids(request.body)) for request in server.seen]
    assert set(names(caught.value.receipts)) == {f"n{n}" for n in range(2000)} - missing
    assert set(server.service.stored) == set(names(caught.value.receipts))


@pytest.mark.parametrize("connections", [0, -1, True, 1.5, "4"])
def test_connections_are_a_whole_number_of_at_least_1(
    billing: BillingClient, connections: Any
) -> None:
    with pytest.raises(ConfigurationError, match=r"^connections is "):
        billing.record_many([], connections=connections)


# Progress


def test_progress_has_the_receipts_of_each_request_in_order(
    billing: BillingClient, usage: Make
) -> None:
    seen: list[Receipts] = []
    thread = []

    def note(new: Receipts) -> None:
        seen.append(new)
        thread.append(threading.current_thread())

    receipts = billing.record_many((usage(f"n{n}") for n in range(2100)), on_progress=note)
    assert [len(new) for new in seen] == [1000, 1000, 100]
    assert names(receipts) == [name for new in seen for name in names(new)]
    assert set(thread) == {threading.current_thread()}


def test_progress_that_raises_ends_the_call_and_loses_no_receipt(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    def note(new: Receipts) -> None:
        raise OSError("the screen is gone")

    with pytest.raises(OSError, match="screen") as caught:
        billing.record_many([usage("a"), usage("b")], on_progress=note)
    assert names(caught.value.receipts) == ["a", "b"]  # type: ignore[attr-defined]


def test_every_ten_thousand_records_are_a_line_in_the_log(
    billing: BillingClient, usage: Make, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "billing_client.client"):
        billing.record_many(usage() for _ in range(10_500))
    # A busy machine may also log attempts that took too long, at another level.
    assert [record.message for record in caplog.records if record.levelname == "INFO"] == [
        "record_many has receipts for 10000 usage records"
    ]


# Invalid items


def test_a_mapping_is_as_good_as_a_usage(billing: BillingClient, server: FaultyServer) -> None:
    assert [receipt.status for receipt in billing.record_many(rows("a", "b"))] == ["created"] * 2
    assert list(server.service.stored) == ["a", "b"]


INVALID: list[Any] = [
    {**ROW, "request_id": "bad", "units_consumed": "1,5"},
    {**ROW, "request_id": "bad", "colour": "blue"},
    {"request_id": "bad"},
]


@pytest.mark.parametrize("bad", INVALID)
def test_an_invalid_item_tells_its_index_id_and_value_and_what_was_recorded(
    billing: BillingClient, server: FaultyServer, bad: Any
) -> None:
    good = rows(*(f"n{n}" for n in range(1500)))
    with pytest.raises(ValidationError, match=r"^Item 1500 of the usages") as caught:
        billing.record_many([*good, bad])
    error = caught.value
    assert "'bad'" in str(error)
    assert names(error.receipts) == [f"n{n}" for n in range(1000)]
    assert error.request_ids == (*(f"n{n}" for n in range(1000, 1500)), "bad")
    assert "receipts for 1000 usage records; 501 more" in error.__notes__[0]
    assert len(server.service.stored) == 1000


def test_the_error_quotes_the_value(billing: BillingClient) -> None:
    with pytest.raises(ValidationError, match="'1,5'"):
        billing.record_many(INVALID[:1])


def test_invalid_items_can_be_rejected_in_their_place(
    billing: BillingClient, server: FaultyServer
) -> None:
    items: list[Any] = [INVALID[0], *rows("a"), 7, *rows("b"), INVALID[2]]
    receipts = billing.record_many(items, on_invalid="reject")
    assert [receipt.status for receipt in receipts] == [
        "rejected",
        "created",
        "rejected",
        "created",
        "rejected",
    ]
    assert names(receipts) == ["bad", "a", "", "b", "bad"]
    assert all(isinstance(receipt.error, ValidationError) for receipt in receipts.rejected)


def test_invalid_items_alone_ask_nothing(billing: BillingClient, server: FaultyServer) -> None:
    receipts = billing.record_many([INVALID[0]] * 1001, on_invalid="reject")
    assert (len(receipts), server.seen) == (1001, [])


def test_what_to_do_with_invalid_items_is_one_of_two(billing: BillingClient) -> None:
    with pytest.raises(ConfigurationError, match="'skip'"):
        billing.record_many([], on_invalid="skip")  # type: ignore[arg-type]


# Errors that are not the service's


class Slotted(Exception):
    __slots__ = ()


def test_the_iterables_own_error_has_the_receipts(
    billing: BillingClient, server: FaultyServer
) -> None:
    """Also those of usages without an id of the caller's, which only the receipts name."""

    def source() -> Iterator[Usage]:
        for _ in range(1003):
            yield Usage(**ROW)
        raise KeyError("row")

    with pytest.raises(KeyError) as caught:
        billing.record_many(source())
    error: Any = caught.value
    assert sorted(names(error.receipts)) == sorted(server.service.stored)
    assert len(error.request_ids) == 3


def test_ctrl_c_has_the_receipts(billing: BillingClient, server: FaultyServer) -> None:
    def source() -> Iterator[dict[str, Any]]:
        yield from rows(*(f"n{n}" for n in range(1001)))
        while len(server.seen) < 1:  # or it would be cancelled
            threading.Event().wait(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        billing.record_many(source())
    error: Any = caught.value
    assert names(error.receipts) == [f"n{n}" for n in range(1000)]
    assert error.request_ids == ("n1000",)


def test_ctrl_c_sends_nothing_more(
    billing: BillingClient, server: FaultyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing_client.client._INTERRUPT_SECONDS", 0.0)
    never = threading.Event()
    server.script.append(when(never))

    def source() -> Iterator[dict[str, Any]]:
        yield from rows(*(f"n{n}" for n in range(1000)))
        while not server.seen:
            never.wait(0.01)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        billing.record_many(source(), connections=2)
    error: Any = caught.value
    assert (error.receipts, len(error.request_ids)) == ([], 1000)
    never.set()


def test_an_error_with_slots_passes_through(billing: BillingClient) -> None:
    def source() -> Iterator[Usage]:
        yield Usage(**ROW)
        raise Slotted

    with pytest.raises(Slotted):
        billing.record_many(source())
