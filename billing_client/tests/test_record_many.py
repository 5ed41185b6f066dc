"""Many records: batches, receipts in order, and the state after a failed batch."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from billing_client import (
    AuthenticationError,
    BillingClient,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    UnavailableError,
    Usage,
    ValidationError,
)
from billing_client.tests.faulty import (
    FaultyServer,
    after_commit,
    cut,
    for_another,
    honest,
    refuse,
    reply,
)

Make = Callable[..., Usage]


def test_one_receipt_for_each_in_order(billing: BillingClient, usage: Make) -> None:
    receipts = billing.record_many([usage("a"), usage("b", units=3), usage("c")])
    assert [(receipt.request_id, receipt.status) for receipt in receipts] == [
        ("a", "created"),
        ("b", "created"),
        ("c", "created"),
    ]
    assert [str(receipt.amount) for receipt in receipts] == ["2.9", "0.15", "2.9"]


def test_nothing_to_record_asks_nothing(billing: BillingClient, server: FaultyServer) -> None:
    assert billing.record_many([]) == []
    assert server.seen == []


def test_one_record_is_a_batch_too(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    assert [receipt.status for receipt in billing.record_many(iter([usage()]))] == ["created"]
    assert server.service.batches == [1]


def test_a_rejected_record_stops_no_other(billing: BillingClient, usage: Make) -> None:
    receipts = billing.record_many(
        [usage("a"), usage("b", customer_id=404), usage("c"), usage("a", units=1)]
    )
    assert [receipt.status for receipt in receipts] == [
        "created",
        "rejected",
        "created",
        "rejected",
    ]
    missing, conflict = receipts.rejected
    assert isinstance(missing.error, CustomerNotFoundError)
    assert isinstance(conflict.error, ConflictError)
    assert (missing.error.request_ids, missing.error.attempts, missing.error.code) == (
        ("b",),
        1,
        "unknown_customer",
    )
    assert (missing.amount, missing.bill_id, missing.late) == (None, None, False)


def test_the_summary_of_a_batchs_rejections_tells_the_id_the_service_logged_it_under(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    receipts = billing.record_many([usage("a", customer_id=404), usage("b", customer_id=404)])
    with pytest.raises(CustomerNotFoundError) as caught:
        receipts.raise_for_rejected()
    assert caught.value.trace_id == server.seen[0].header("X-Request-ID")


def test_an_id_that_repeats_is_a_replay(billing: BillingClient, usage: Make) -> None:
    receipts = billing.record_many([usage("a"), usage("a")])
    assert [receipt.status for receipt in receipts] == ["created", "replayed"]


def test_an_id_that_repeats_in_another_batch_has_a_receipt_for_each_time(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    facts = [usage(f"n{n}") for n in range(1000)]
    receipts = billing.record_many([*facts, facts[-1], usage("n0", units=1)])
    assert [receipt.request_id for receipt in receipts] == [
        *(fact.request_id for fact in facts),
        "n999",
        "n0",
    ]
    assert [receipt.status for receipt in receipts[999:]] == ["created", "replayed", "rejected"]


def test_the_same_usages_again_are_the_same_bytes_also_after_a_failure_on_the_way(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    facts = [usage() for _ in range(1500)]
    server.script.extend([honest, after_commit(reply(401))])
    with pytest.raises(AuthenticationError):
        billing.record_many(facts, connections=1)
    receipts = billing.record_many(facts, connections=1)
    assert {receipt.status for receipt in receipts} == {"replayed"}
    first, second, *again = [request.body for request in server.seen]
    assert again == [first, second]


def test_batches_have_at_most_1000_records(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    receipts = billing.record_many(usage(f"n{n}") for n in range(2001))
    assert sorted(server.service.batches) == [1, 1000, 1000]
    assert [receipt.request_id for receipt in receipts] == [f"n{n}" for n in range(2001)]


def test_a_full_batch_of_the_longest_records_is_below_2_mebibytes(
    billing: BillingClient, server: FaultyServer
) -> None:
    longest: dict[str, Any] = {
        "customer_id": 2**63 - 1,
        "service": "\U0001f4be" * 100,
        "units_consumed": "999999.999999",
        "price_per_unit": "999999.999999999999",
    }
    billing.record_many(Usage(**longest, request_id=f"{n:\\<128}") for n in range(1000))
    assert server.service.batches == [1000]
    assert all(len(request.body) < 2 * 1024 * 1024 for request in server.seen)


def test_batches_are_cut_by_size_too(
    billing: BillingClient, server: FaultyServer, usage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = len(usage("n0").to_json())
    monkeypatch.setattr("billing_client.batches.MOST_BYTES", 2 * one + 4)
    receipts = billing.record_many(usage(f"n{n}") for n in range(5))
    assert sorted(server.service.batches) == [1, 2, 2]
    assert max(len(request.body) for request in server.seen) <= 2 * one + 4
    assert len(receipts) == 5


def test_a_record_larger_than_the_limit_goes_alone(
    billing: BillingClient, server: FaultyServer, usage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing_client.batches.MOST_BYTES", 1)
    billing.record_many([usage(), usage()])
    assert server.service.batches == [1, 1]


def test_no_more_is_taken_from_the_iterable_than_the_next_batch_needs(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    sent_when_taken = []

    def source() -> Iterator[Usage]:
        for n in range(2500):
            sent_when_taken.append(len(server.seen))
            yield usage(f"n{n}")

    billing.record_many(source(), connections=1)
    assert sent_when_taken == [0] * 1000 + [1] * 1000 + [2] * 500


def test_a_batch_that_fails_tells_what_was_delivered_and_what_was_not(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    server.script.extend([honest, refuse(401, "not_authenticated")])
    with pytest.raises(AuthenticationError) as caught:
        billing.record_many((usage(f"n{n}") for n in range(2500)), connections=1)
    assert [receipt.request_id for receipt in caught.value.receipts] == [
        f"n{n}" for n in range(1000)
    ]
    assert caught.value.request_ids == tuple(f"n{n}" for n in range(1000, 2000))
    assert caught.value.ambiguous is False


def test_a_record_taken_for_the_batch_after_the_failed_one_is_named_too(
    billing: BillingClient, server: FaultyServer, usage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing_client.batches.MOST_BYTES", 1)
    server.script.extend([reply(501)])
    with pytest.raises(ConfigurationError) as caught:
        billing.record_many((usage(name) for name in "abc"), connections=1)
    assert caught.value.request_ids == ("a", "b")


def test_an_error_of_ours_inside_the_iterable_tells_it_too(
    billing: BillingClient, usage: Make
) -> None:
    def source() -> Iterator[Usage]:
        for n in range(1001):
            yield usage(f"n{n}")
        yield usage("wrong", units=0)

    with pytest.raises(ValidationError) as caught:
        billing.record_many(source())
    assert len(caught.value.receipts) == 1000
    assert caught.value.request_ids == ("n1000", "wrong")


def test_an_error_of_the_iterables_own_passes_through_and_tells_what_was_delivered(
    billing: BillingClient, usage: Make
) -> None:
    def source() -> Iterator[Usage]:
        for n in range(1003):
            yield usage(f"n{n}")
        raise KeyError("row")

    with pytest.raises(KeyError, match="row") as caught:
        billing.record_many(source())
    (note,) = caught.value.__notes__
    assert "receipts for 1000 usage records; 3 more were taken and have none" in note
    assert "from n1000 to n1002" in note


def test_an_error_of_the_iterables_own_at_the_end_of_a_batch(
    billing: BillingClient, usage: Make
) -> None:
    def source() -> Iterator[Usage]:
        yield from (usage() for _ in range(1000))
        raise KeyError("row")

    with pytest.raises(KeyError) as caught:
        billing.record_many(source())
    assert "1000 usage records; 0 more were taken and have none." in caught.value.__notes__[0]


def test_an_interruption_of_a_request_tells_what_may_be_stored(
    billing: BillingClient, usage: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("billing_client.transport.Transport.post", interrupted)
    with pytest.raises(KeyboardInterrupt) as caught:
        billing.record_many([usage("a"), usage("b")])
    assert "2 more were taken and have none, from a to b" in caught.value.__notes__[0]


def test_something_else_than_usage_is_refused(billing: BillingClient, usage: Make) -> None:
    mixed: list[Any] = [usage("a"), ["b"]]
    with pytest.raises(ValidationError, match="was given a list, expected Usage") as caught:
        billing.record_many(mixed)
    assert caught.value.request_ids == ("a",)


def test_a_lost_answer_is_resent_byte_for_byte_and_replayed(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    server.script.append(after_commit(cut))
    receipts = billing.record_many([usage("a"), usage("b")])
    assert [receipt.status for receipt in receipts] == ["replayed", "replayed"]
    assert server.seen[0].body == server.seen[1].body


def test_a_rejection_after_a_lost_answer_stays_ambiguous_unless_it_is_a_conflict(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    billing.record_many([usage("taken")])
    server.script.append(cut)
    receipts = billing.record_many([usage("taken", units=1), usage("b", customer_id=404)])
    conflict, missing = (receipt.error for receipt in receipts)
    assert conflict is not None
    assert missing is not None
    assert (conflict.ambiguous, missing.ambiguous) == (False, True)
    assert (conflict.attempts, missing.attempts) == (2, 2)


def changed(change: Callable[[list[Any]], object]) -> Callable[[Any], None]:
    """The service's answer to a batch, its results changed."""

    def behaviour(exchange: Any) -> None:
        body = json.loads(exchange.honest().partition(b"\r\n\r\n")[2])
        change(body["results"])
        reply(207, body)(exchange)

    return behaviour


UNREADABLE: dict[str, Callable[[list[Any]], object]] = {
    "one too few": lambda results: results.pop(),
    "one too many": lambda results: results.append(results[0]),
    "another order": lambda results: results.reverse(),
    "none": lambda results: results.clear(),
    "no object": lambda results: results.__setitem__(1, None),
    "another id": lambda results: results[1].update(request_id="z"),
    "another id inside": lambda results: results[1]["record"].update(request_id="z"),
    "true as status": lambda results: results[1].update(status=True),
    "text as status": lambda results: results[1].update(status="201"),
    "202": lambda results: results[1].update(status=202),
    "503": lambda results: results[1].update(status=503, error={"code": "service_unavailable"}),
    "429": lambda results: results[1].update(status=429, error={"code": "rate_limited"}),
    "409 of another kind": lambda results: results[1].update(status=409, error={"code": "other"}),
    "400 without a code": lambda results: results[1].update(status=400, error={}),
    "400 without a problem": lambda results: results[1].update(status=400, error="no"),
    "no record": lambda results: results[1].pop("record"),
    "a list as record": lambda results: results[1].update(record=[]),
    "no bill": lambda results: results[1]["record"].pop("bill"),
    "a number as bill": lambda results: results[1]["record"].update(bill=7),
    "true as bill id": lambda results: results[1]["record"]["bill"].update(id=True),
    "a number as month": lambda results: results[1]["record"]["bill"].update(month=11),
    "no time": lambda results: results[1]["record"].pop("occurred_at"),
    "text as time": lambda results: results[1]["record"].update(occurred_at="now"),
    "a number as time": lambda results: results[1]["record"].update(occurred_at=7),
    "text as late": lambda results: results[1]["record"].update(late="no"),
    "a float as amount": lambda results: results[1]["record"].update(amount=2.9),
    "a comma in the amount": lambda results: results[1]["record"].update(amount="2,9"),
}


@pytest.mark.parametrize("change", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_a_missing_or_unreadable_verdict_is_never_an_acknowledgement(
    billing: BillingClient, server: FaultyServer, usage: Make, change: Callable[[list[Any]], object]
) -> None:
    server.script.append(changed(change))
    receipts = billing.record_many([usage("a"), usage("b")])
    assert [receipt.status for receipt in receipts] == ["replayed", "replayed"]
    assert len(server.seen) == 2


def as_200(exchange: Any) -> None:
    body = exchange.honest().partition(b"\r\n\r\n")[2]
    reply(200, body)(exchange)


@pytest.mark.parametrize(
    "answer",
    [
        for_another,
        as_200,
        reply(207, b""),
        reply(207, b'{"results": '),
        reply(207, b"[" * 100_000),
        reply(207, {"results": {}}),
        reply(207, []),
        reply(201, {"results": []}),
        reply(200, b"<html>Sign in</html>", Content_Type="text/html"),
        reply(204),
    ],
)
def test_an_answer_that_is_none_is_asked_for_again_and_then_is_ambiguous(
    billing: BillingClient, server: FaultyServer, usage: Make, answer: Callable[[Any], None]
) -> None:
    server.script.extend([answer] * 5)
    with pytest.raises(UnavailableError) as caught:
        billing.record_many([usage("a"), usage("b")])
    assert (caught.value.attempts, caught.value.ambiguous) == (5, True)
    assert caught.value.request_ids == ("a", "b")
    assert caught.value.receipts == []


def test_a_whole_batch_that_is_refused(
    billing: BillingClient, server: FaultyServer, usage: Make
) -> None:
    server.script.append(refuse(400, "invalid_json"))
    with pytest.raises(ValidationError) as caught:
        billing.record_many([usage("a"), usage("b")])
    assert (caught.value.code, caught.value.request_ids) == ("invalid_json", ("a", "b"))
