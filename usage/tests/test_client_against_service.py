"""The client against the running service, through a relay that fails: stored once, truly told."""

from __future__ import annotations

import contextlib
import random
from collections import Counter
from collections.abc import Callable, Iterator
from decimal import Decimal
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
from pytest_django.plugin import DjangoDbBlocker

from billing_client import (
    AuthenticationError,
    BillingClient,
    ConflictError,
    CustomerNotFoundError,
    Receipt,
    UnavailableError,
    Usage,
)
from billing_client.config import Limits
from billing_client.tests.conftest import Sleeps
from billing_client.tests.faulty import (
    Behaviour,
    after_commit,
    cut,
    honest,
    reply,
    stall,
    truncate,
)
from billing_client.tests.outboxes import eventually
from billing_client.transport import Transport
from usage.tests.books import assert_books_balance, verify_bills
from usage.tests.live import Service, at_once
from usage.tests.relay import FaultyRelay, answer_of_another_caller, hold_back

# Other tests measure this code.
pytestmark = pytest.mark.no_cover

HTML = b"<html><h1>Please sign in</h1></html>"
# Faults before the service heard of the usage, and after it was stored.
BEFORE = {
    "cut": cut,
    "stall": stall,
    "503": reply(503),
    "502 in HTML": reply(502, HTML, Content_Type="text/html"),
    "200 in HTML": reply(200, HTML, Content_Type="text/html"),
}
AFTER = {
    "cut after commit": after_commit(cut),
    "stall after commit": after_commit(stall),
    "truncated": truncate,
    "503 after commit": after_commit(reply(503)),
    "HTML after commit": after_commit(reply(200, HTML, Content_Type="text/html")),
    "another caller's answer": answer_of_another_caller,
}
FAULTS = BEFORE | AFTER
FACTS = 4500
STALLS = {FAULTS["stall"], FAULTS["stall after commit"]}
# For an answer that does not come, and for an honest one on a busy machine.
SHORT_SECONDS, LONG_SECONDS = 0.3, 60.0
LIMITS: dict[str, Any] = {"attempts": 40, "total_timeout": 10_000}
PRICE = Decimal("0.015")


@pytest.fixture(autouse=True)
def sleeps(monkeypatch: pytest.MonkeyPatch) -> Sleeps:
    """The waits between attempts, which pass at once."""
    sleeps = Sleeps()
    monkeypatch.setattr("backoff._sync.time", SimpleNamespace(sleep=sleeps.sleep))
    monkeypatch.setattr("billing_client.retries.monotonic", sleeps.monotonic)
    return sleeps


@pytest.fixture
def relay(live_service: Service) -> Iterator[FaultyRelay]:
    with FaultyRelay(live_service.port) as relay:
        with BillingClient(relay.url, live_service.books.key) as other:
            other.record_usage(
                customer_id=live_service.customer(),
                service="CDN Storage",
                units_consumed=1,
                price_per_unit=0,
            )
        yield relay


@pytest.fixture
def client_of(
    relay: FaultyRelay, live_service: Service, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., BillingClient]]:
    """Make a client that has little patience only where no answer comes."""
    post = Transport.post

    def patient(transport: Transport, request: Any, **seconds: float) -> Any:
        fault = relay.script[0] if relay.script else honest
        answered = len(relay.answered)
        transport._limits = Limits(read=SHORT_SECONDS if fault in STALLS else LONG_SECONDS)
        try:
            return post(transport, request, **seconds)
        finally:
            # It is given up after the commit, however long that takes.
            if fault is FAULTS["stall after commit"]:
                eventually(lambda: len(relay.answered) > answered)

    monkeypatch.setattr(Transport, "post", patient)
    with contextlib.ExitStack() as stack:

        def make(**limits: Any) -> BillingClient:
            return stack.enter_context(
                BillingClient(relay.url, live_service.books.key, **LIMITS | limits)
            )

        yield make


@pytest.fixture
def billing(client_of: Callable[..., BillingClient]) -> BillingClient:
    return client_of()


@pytest.fixture
def customer(live_service: Service) -> int:
    return live_service.customer()


@pytest.fixture
def facts(customer: int) -> Callable[[int], list[Usage]]:
    def make(number: int) -> list[Usage]:
        return [
            Usage(
                customer_id=customer,
                service="CDN Storage",
                units_consumed=units,
                price_per_unit=PRICE,
            )
            for units in range(1, number + 1)
        ]

    return make


@pytest.fixture(autouse=True)
def _balance(live_service: Service, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    yield
    assert_books_balance(live_service.books)
    with django_db_blocker.unblock():
        verify_bills(live_service.books)


def stored(live_service: Service, customer: int) -> dict[str, Decimal]:
    """Return the customer's records: their units by id."""
    return {
        record["request_id"]: record["units"]
        for record in live_service.books.table("usage_usagerecord")
        if record["customer_id"] == customer
    }


def record(billing: BillingClient, fact: Usage) -> Receipt:
    return billing.record_usage(
        customer_id=fact.customer_id,
        service=fact.service,
        units_consumed=fact.units_consumed,
        price_per_unit=fact.price_per_unit,
        request_id=fact.request_id,
    )


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_costs_a_fact_nothing(
    client_of: Any,
    relay: FaultyRelay,
    live_service: Service,
    customer: int,
    facts: Any,
    fault: str,
) -> None:
    (fact,) = facts(1)
    relay.script.append(FAULTS[fault])

    receipt = record(client_of(), fact)

    assert receipt.status == ("created" if fault in BEFORE else "replayed")
    assert receipt.amount == PRICE
    assert stored(live_service, customer) == {fact.request_id: 1}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_costs_a_batch_nothing(
    client_of: Any,
    relay: FaultyRelay,
    live_service: Service,
    customer: int,
    facts: Any,
    fault: str,
) -> None:
    batch = facts(50)
    relay.script.append(FAULTS[fault])

    receipts = client_of().record_many(batch)

    expected = "created" if fault in BEFORE else "replayed"
    assert {receipt.status for receipt in receipts} == {expected}
    amounts = [fact.units_consumed * PRICE for fact in batch]
    assert [receipt.amount for receipt in receipts] == amounts
    assert stored(live_service, customer) == units_of(batch)


def units_of(facts: list[Usage]) -> dict[str, Decimal]:
    return {fact.request_id: Decimal(fact.units_consumed) for fact in facts}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_stays_unclear_is_ambiguous_and_settled_under_the_same_id(
    client_of: Any,
    relay: FaultyRelay,
    live_service: Service,
    customer: int,
    facts: Any,
    fault: str,
) -> None:
    (fact,) = facts(1)
    hasty = client_of(attempts=2)
    relay.script.extend([FAULTS[fault]] * 2)

    with pytest.raises(UnavailableError) as caught:
        record(hasty, fact)

    assert (caught.value.ambiguous, caught.value.request_ids) == (True, (fact.request_id,))
    expected = {fact.request_id: Decimal(1)} if fault in AFTER else {}
    assert stored(live_service, customer) == expected
    assert record(hasty, fact).status == ("replayed" if fault in AFTER else "created")
    assert stored(live_service, customer) == {fact.request_id: 1}


def test_what_never_left_is_not_ambiguous_and_not_stored(
    billing: BillingClient, relay: FaultyRelay, live_service: Service, customer: int, facts: Any
) -> None:
    relay.leave()
    relay.drop_connections()

    with pytest.raises(UnavailableError) as caught:
        record(billing, facts(1)[0])

    assert caught.value.ambiguous is False
    assert stored(live_service, customer) == {}


def test_retry_after_is_a_floor(
    billing: BillingClient, relay: FaultyRelay, facts: Any, sleeps: Sleeps
) -> None:
    relay.script.append(reply(503, Retry_After="4"))

    record(billing, facts(1)[0])

    (slept,) = sleeps
    assert slept >= 4


def test_an_attempt_that_arrives_after_its_retry_is_a_replay(
    billing: BillingClient, relay: FaultyRelay, live_service: Service, customer: int, facts: Any
) -> None:
    batch = facts(20)
    relay.script.append(hold_back)

    receipts = billing.record_many(batch)
    (late,) = relay.deliver_late()

    assert {receipt.status for receipt in receipts} == {"created"}
    assert b'"summary": {"created": 0, "replayed": 20, "rejected": 0}' in late
    assert stored(live_service, customer) == units_of(batch)


def random_faults(*, seed: int, honest_share: float) -> list[Behaviour]:
    dice = random.Random(seed)
    faults = [fault for name, fault in FAULTS.items() if "stall" not in name]
    return [honest if dice.random() < honest_share else dice.choice(faults) for _ in range(60)]


def test_thousands_of_facts_through_random_faults_are_each_stored_once(
    billing: BillingClient, relay: FaultyRelay, live_service: Service, customer: int, facts: Any
) -> None:
    batch = facts(FACTS)
    relay.script.extend(random_faults(seed=5, honest_share=0.3))

    receipts = billing.record_many(iter(batch))

    assert [receipt.request_id for receipt in receipts] == [fact.request_id for fact in batch]
    assert Counter(receipt.status for receipt in receipts)["rejected"] == 0
    assert stored(live_service, customer) == units_of(batch)
    total = FACTS * (FACTS + 1) // 2 * PRICE
    assert sum(receipt.amount or 0 for receipt in receipts) == total
    assert len(relay.seen) > 2 * FACTS / 1000


def test_threads_that_share_a_client_through_random_faults(
    billing: BillingClient, relay: FaultyRelay, live_service: Service, customer: int, facts: Any
) -> None:
    relay.script.extend(random_faults(seed=7, honest_share=0.5))
    batches = [facts(20) for _ in range(8)]

    receipts = at_once([partial(billing.record_many, batch) for batch in batches])

    assert {receipt.status for those in receipts for receipt in those} <= {"created", "replayed"}
    expected = {id_: units for batch in batches for id_, units in units_of(batch).items()}
    assert stored(live_service, customer) == expected


# Refusals of the service


def test_refusals_stop_no_other_record(
    billing: BillingClient, live_service: Service, customer: int, facts: Any
) -> None:
    first, second, third = facts(3)
    record(billing, first)
    stranger = Usage(
        customer_id=9_999_999, service="CDN Storage", units_consumed=1, price_per_unit=PRICE
    )
    other = Usage(
        customer_id=customer,
        service="CDN Storage",
        units_consumed=2,
        price_per_unit=PRICE,
        request_id=first.request_id,
    )

    receipts = billing.record_many([second, stranger, other, third])

    assert [receipt.status for receipt in receipts] == [
        "created",
        "rejected",
        "rejected",
        "created",
    ]
    assert isinstance(receipts[1].error, CustomerNotFoundError)
    assert isinstance(receipts[2].error, ConflictError)
    assert receipts[2].error.conflicting_fields == ("units_consumed",)
    assert stored(live_service, customer) == units_of([first, second, third])


def test_a_wrong_key_stores_nothing(
    relay: FaultyRelay, live_service: Service, customer: int, facts: Any
) -> None:
    key = live_service.books.key
    with (
        BillingClient(relay.url, key[:-1] + ("0" if key[-1] != "0" else "1")) as stranger,
        pytest.raises(AuthenticationError) as caught,
    ):
        record(stranger, facts(1)[0])

    assert caught.value.ambiguous is False
    assert stored(live_service, customer) == {}
