"""Which bill usage lands on at the edges of months, in time zones far apart and across a change.

Every test ends with a replay of all it reported, at the time it ended: each is answered byte for
byte as at first, whatever has become of its month, and the bills are verified.
"""

import datetime as dt
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, NamedTuple

import pytest
from pytest_django import Settings

from usage.ledger.close import BillNotBegun, close
from usage.ledger.void import void
from usage.models import Bill, Customer, DailyUsage, UsageRecord
from usage.tests.conftest import DatabaseClock, Post
from usage.tests.factories import usage_body
from usage.verification import Verification

# Other tests measure this code.
pytestmark = [pytest.mark.django_db, pytest.mark.no_cover]
MILLISECOND = dt.timedelta(milliseconds=1)
SECOND = dt.timedelta(seconds=1)
MINUTE = dt.timedelta(minutes=1)
HOUR = dt.timedelta(hours=1)
DAY = dt.timedelta(days=1)


class Edge(NamedTuple):
    """Where one month ends and the next begins; the instants were looked up, not computed."""

    zone: str
    midnight: dt.datetime
    grace_end: dt.datetime
    old: str
    new: str
    grace_days: int


def edge(zone: str, midnight: str, grace_end: str, old: str, new: str, days: int = 3) -> Edge:
    return Edge(zone, utc(midnight), utc(grace_end), old, new, days)


def utc(text: str) -> dt.datetime:
    return dt.datetime.fromisoformat(f"{text}Z")


EDGES = [
    edge("UTC", "2026-11-01T00:00", "2026-11-04T00:00", "2026-10", "2026-11"),
    edge("UTC", "2027-01-01T00:00", "2027-01-01T00:00", "2026-12", "2027-01", 0),
    edge("Pacific/Kiritimati", "2026-10-31T10:00", "2026-11-03T10:00", "2026-10", "2026-11"),
    edge("Etc/GMT+12", "2026-11-01T12:00", "2026-11-04T12:00", "2026-10", "2026-11"),
    # Clocks go back in New York at two in the morning of 1 November, within the grace.
    edge("America/New_York", "2026-11-01T04:00", "2026-11-04T05:00", "2026-10", "2026-11"),
    # They go forward on 14 March, within this longer one.
    edge("America/New_York", "2027-03-01T05:00", "2027-03-15T04:00", "2027-02", "2027-03", 14),
    # And in Vienna on 28 March: a month that is an hour short.
    edge("Europe/Vienna", "2027-03-31T22:00", "2027-04-03T22:00", "2027-03", "2027-04"),
]


@pytest.fixture(params=EDGES, ids=lambda edge: f"{edge.zone} {edge.new}")
def at(request: pytest.FixtureRequest, settings: Settings) -> Edge:
    edge: Edge = request.param
    settings.BILLING_TIME_ZONE = settings.TIME_ZONE = edge.zone
    settings.BILLING_GRACE_DAYS = edge.grace_days
    return edge


class Reports:
    """What is reported during a test, and the answers."""

    def __init__(self, post: Post, clock: DatabaseClock) -> None:
        self.post = post
        self.clock = clock
        self.answers: list[tuple[dict[str, Any], bytes]] = []

    def now(self, now: dt.datetime) -> None:
        self.clock.set(now.isoformat())

    def send(self, occurred_at: dt.datetime | None = None, **other: Any) -> Any:
        body = usage_body(**other)
        if occurred_at is not None:
            body["occurred_at"] = occurred_at.isoformat()
        response = self.post(body)
        if response.status_code == 201:
            self.answers.append((body, response.content))
        return response

    def land(self, occurred_at: dt.datetime | None = None, **other: Any) -> tuple[str, bool]:
        """Report usage; return the month of the bill it landed on, and whether it is late."""
        response = self.send(occurred_at, **other)
        assert response.status_code == 201, response.content
        return response.json()["bill"]["month"], response.json()["late"]

    def refusal(self, occurred_at: dt.datetime) -> str:
        response = self.send(occurred_at)
        assert response.status_code == 400
        code: str = response.json()["errors"][0]["code"]
        return code

    def replay_all(self) -> None:
        for body, answer in self.answers:
            response = self.post(body)
            assert response.status_code == 200
            assert response["Idempotent-Replayed"] == "true"
            assert response.content == answer


@pytest.fixture
def usage(customer: Customer, post: Post, database_clock: DatabaseClock) -> Iterator[Reports]:
    reports = Reports(post, database_clock)
    yield reports
    bills = Bill.objects.count()
    reports.replay_all()
    assert Bill.objects.count() == bills
    assert list(Verification().differences()) == []


def bill(month: str) -> Bill:
    found: Bill = Bill.objects.get(month=f"{month}-01")
    return found


# Month edges


def test_a_month_ends_before_its_midnight(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight if at.grace_days == 0 else at.midnight + SECOND)

    assert usage.land(at.midnight - MILLISECOND) == (at.old, False)
    assert usage.land(at.midnight) == (at.new, False)


def test_a_bill_covers_its_whole_month(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight)
    usage.land(at.midnight - MILLISECOND)
    usage.land()

    assert bill(at.old).period_end == at.midnight == bill(at.new).period_start


def test_days_are_those_of_the_billing_time_zone(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight)
    usage.land(at.midnight - MILLISECOND)
    usage.land(at.midnight)

    first = dt.date.fromisoformat(f"{at.new}-01")
    days = DailyUsage.objects.order_by("day").values_list("day", flat=True)
    assert list(days) == [first - DAY, first]


# Grace


def test_usage_in_grace_goes_on_its_own_month(at: Edge, usage: Reports) -> None:
    usage.now(at.grace_end)

    assert usage.land(at.midnight - MILLISECOND) == (at.old, False)
    assert usage.land() == (at.new, False)


def test_usage_after_grace_goes_on_the_current_bill_and_is_late(at: Edge, usage: Reports) -> None:
    usage.now(at.grace_end + MILLISECOND)

    assert usage.land(at.midnight - MILLISECOND) == (at.new, True)
    assert not Bill.objects.filter(month=f"{at.old}-01").exists()


def test_grace_over_ends_it_also_for_a_bill_still_open(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - HOUR)
    usage.land()

    usage.now(at.grace_end + MILLISECOND)

    assert usage.land(at.midnight - MILLISECOND) == (at.new, True)
    assert not bill(at.old).is_closed


# Closing early


def test_after_an_early_close_the_next_usage_opens_a_bill_for_the_rest(
    at: Edge, usage: Reports
) -> None:
    now = at.midnight - 10 * DAY
    usage.now(now)
    usage.land()
    early = bill(at.old)
    assert close(early, by="Sam")

    assert usage.land(now) == (at.old, False)
    rest = Bill.objects.open().get()
    assert (rest.period_start, rest.period_end) == (early.period_end, at.midnight)
    assert early.period_end == now


def test_usage_before_the_rest_of_the_month_is_late(at: Edge, usage: Reports) -> None:
    now = at.midnight - 10 * DAY
    usage.now(now)
    usage.land()
    assert close(bill(at.old), by="Sam")

    assert usage.land(now - MILLISECOND) == (at.old, True)
    assert usage.land(now + MILLISECOND) == (at.old, False)
    assert Bill.objects.count() == 2


def test_a_month_is_closed_in_parts_until_it_is_over(at: Edge, usage: Reports) -> None:
    for days in (10, 5, 1):
        usage.now(at.midnight - days * DAY)
        usage.land()
        assert close(Bill.objects.open().get(), by="Sam")

    parts = list(Bill.objects.order_by("period_start"))
    assert len(parts) == 3
    ends = [part.period_end for part in parts]
    assert ends == [at.midnight - days * DAY for days in (10, 5, 1)]
    assert [part.period_start for part in parts[1:]] == ends[:-1]


def test_a_month_closed_in_grace_has_no_rest(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - HOUR)
    usage.land()
    usage.now(at.midnight)
    assert close(bill(at.old), by="Sam")

    assert bill(at.old).period_end == at.midnight
    assert usage.land(at.midnight - MILLISECOND) == (at.new, True)


def test_usage_after_a_clock_set_back_goes_on_the_next_month(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - HOUR)
    usage.land()
    usage.now(at.midnight + SECOND)
    assert close(bill(at.old), by="Sam")
    usage.now(at.midnight - SECOND)

    assert usage.land() == (at.new, True)


# The next month


def test_the_next_month_takes_usage_within_the_skew_of_clocks(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - 5 * MINUTE)

    assert usage.land(at.midnight) == (at.new, False)
    assert usage.refusal(at.midnight + MILLISECOND) == "in_the_future"


def test_a_bill_of_the_future_cannot_be_closed(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - MINUTE)
    usage.land(at.midnight)

    with pytest.raises(BillNotBegun, match=f"begins at {at.midnight:%Y-%m-%d %H:%M:%S} UTC"):
        close(bill(at.new), by="Sam")
    assert not bill(at.new).is_closed

    usage.now(at.midnight + MILLISECOND)
    assert close(bill(at.new), by="Sam")
    assert bill(at.new).period_end == at.midnight + MILLISECOND


# Bounds


@pytest.fixture
def now() -> dt.datetime:
    return dt.datetime(2026, 11, 15, 12, tzinfo=dt.UTC)


def test_usage_may_be_366_days_old_and_no_older(now: dt.datetime, usage: Reports) -> None:
    usage.now(now)

    assert usage.land(now - 366 * DAY) == ("2026-11", True)
    assert usage.refusal(now - 366 * DAY - MILLISECOND) == "too_long_ago"


def test_usage_may_be_5_minutes_ahead_and_no_more(now: dt.datetime, usage: Reports) -> None:
    usage.now(now)

    assert usage.land(now + 5 * MINUTE) == ("2026-11", False)
    assert usage.refusal(now + 5 * MINUTE + MILLISECOND) == "in_the_future"


@pytest.mark.parametrize("elsewhen", [400 * DAY, -DAY], ids=["too long ago", "in the future"])
def test_a_stored_id_is_answered_before_its_time_is_judged(
    elsewhen: dt.timedelta, now: dt.datetime, usage: Reports
) -> None:
    usage.now(now)
    usage.land(now, request_id="said")
    usage.land(request_id="unsaid")

    usage.now(now + elsewhen)

    usage.replay_all()
    conflict = usage.send(now - HOUR, request_id="said")
    assert conflict.status_code == 409
    assert conflict.json()["conflicting_fields"] == ["occurred_at"]


def test_what_records_nothing_opens_no_bill(now: dt.datetime, usage: Reports) -> None:
    usage.now(now)
    usage.land(request_id="taken")
    usage.now(now + 60 * DAY)

    usage.replay_all()
    assert usage.send(request_id="taken", units_consumed=1).status_code == 409
    assert usage.send(customer_id=999).status_code == 404
    assert usage.refusal(now + 61 * DAY) == "in_the_future"
    assert Bill.objects.count() == 1


def test_a_month_long_closed_is_late_on_a_current_bill_opened_for_it(
    now: dt.datetime, usage: Reports
) -> None:
    usage.now(now)
    usage.land()
    usage.now(now + 60 * DAY)
    assert close(bill("2026-11"), by="Sam")

    assert usage.land(now) == ("2027-01", True)


# Voids


def void_of(request_id: str) -> tuple[str, bool]:
    record = UsageRecord.objects.get(pk=request_id)
    cancelled = void(record, reason="sent twice", by="carol")
    assert cancelled.occurred_at == record.occurred_at
    return f"{cancelled.bill.month:%Y-%m}", cancelled.late


def test_a_bill_of_an_old_month_takes_its_voids_while_it_is_open(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - HOUR)
    usage.land(request_id="wrong")

    usage.now(at.grace_end + 100 * DAY)

    assert void_of("wrong") == (at.old, False)
    assert bill(at.old).total == 0


def test_a_void_after_the_close_lands_on_the_current_bill(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - HOUR)
    usage.land(request_id="wrong", units_consumed=1, price_per_unit="2.5")
    usage.now(at.grace_end + DAY)
    assert close(bill(at.old), by="Sam")

    assert void_of("wrong") == (at.new, True)
    assert bill(at.old).total == Decimal("2.50")
    assert bill(at.new).total == Decimal("-2.50")


def test_a_void_after_an_early_close_lands_on_the_rest_of_the_month(
    at: Edge, usage: Reports
) -> None:
    usage.now(at.midnight - 2 * DAY)
    usage.land(at.midnight - 2 * DAY - MILLISECOND, request_id="wrong")
    assert close(bill(at.old), by="Sam")
    usage.now(at.midnight - DAY)

    assert void_of("wrong") == (at.old, True)
    assert Bill.objects.open().get().period_start == at.midnight - 2 * DAY


def test_a_void_of_usage_older_than_366_days_is_taken(now: dt.datetime, usage: Reports) -> None:
    usage.now(now)
    usage.land(now - 366 * DAY, request_id="wrong")
    assert close(bill("2026-11"), by="Sam")
    usage.now(now + 400 * DAY)

    assert void_of("wrong") == ("2027-12", True)


def test_a_voided_id_is_answered_like_the_first_time(at: Edge, usage: Reports) -> None:
    usage.now(at.midnight - HOUR)
    usage.land(request_id="wrong")
    void_of("wrong")
    usage.now(at.grace_end + DAY)
    assert close(bill(at.old), by="Sam")

    usage.replay_all()
    assert UsageRecord.objects.count() == 2
