"""How long the client waits, and how it reads Retry-After."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from importlib.util import find_spec, module_from_spec

import pytest
import time_machine
from hypothesis import given
from hypothesis import strategies as st

from billing_client import UnavailableError
from billing_client.retries import SHORTEST_ATTEMPT, Deadline, retry_after, waits


def unavailable(retry_after: float | None = None) -> UnavailableError:
    return UnavailableError("away", retry_after=retry_after)


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jitter at its upper end, so that the ceilings show."""
    monkeypatch.setattr("billing_client.retries.uniform", lambda low, high: high)


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The monotonic clock, which only the test moves."""
    now = [1000.0]
    monkeypatch.setattr("billing_client.retries.monotonic", lambda: now[0])
    return now


def drawn(seconds: float, *errors: UnavailableError) -> list[float]:
    wait = waits(deadline=Deadline(seconds), attempts=100)
    wait.send(None)
    return [wait.send(error) for error in errors]


@pytest.mark.usefixtures("full")
def test_the_ceiling_doubles_up_to_eight_seconds() -> None:
    assert drawn(1000, *[unavailable()] * 7) == [0.5, 1, 2, 4, 8, 8, 8]


def test_jitter_is_full() -> None:
    values = [drawn(1000, unavailable())[0] for _ in range(200)]
    assert 0 <= min(values) < 0.1
    assert 0.4 < max(values) <= 0.5


@pytest.mark.usefixtures("full")
def test_retry_after_is_a_floor_under_the_jitter() -> None:
    assert drawn(1000, unavailable(7), unavailable()) == [7.5, 1]


@pytest.mark.usefixtures("full", "now")
def test_jitter_leaves_time_for_an_attempt() -> None:
    assert drawn(SHORTEST_ATTEMPT + 0.125, unavailable()) == [0.125]


@pytest.mark.usefixtures("now")
@pytest.mark.parametrize(("seconds", "asked"), [(30, 30), (30, 29.9), (30, 86400), (0.2, None)])
def test_a_wait_that_does_not_fit_is_not_begun(seconds: float, asked: float | None) -> None:
    wait = waits(deadline=Deadline(seconds), attempts=100)
    wait.send(None)
    with pytest.raises(StopIteration):
        wait.send(unavailable(asked))


def test_a_deadline_passes(now: list[float]) -> None:
    deadline = Deadline(30)
    now[0] += 20
    assert deadline.left() == 10
    now[0] += 20
    assert deadline.left() == -10


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), ("120", 120), (" 7 ", 7), ("999999999", 3600), ("9" * 5000, 3600)],
)
def test_retry_after_in_seconds(value: str, seconds: float) -> None:
    assert retry_after({"Retry-After": value}) == seconds


def test_retry_after_as_a_date_counts_from_the_answers_own_date() -> None:
    dates = {
        "Retry-After": "Sun, 22 Nov 2026 10:00:30 GMT",
        "Date": "Sun, 22 Nov 2026 10:00:00 GMT",
    }
    assert retry_after(dates) == 30


def test_retry_after_as_a_date_counts_from_now_without_one() -> None:
    until = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    seconds = retry_after({"Retry-After": until})
    assert seconds is not None
    assert 55 < seconds <= 60


def test_a_date_in_the_year_9999_asks_for_an_hour() -> None:
    assert retry_after({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}) == 3600


@pytest.mark.usefixtures("now")
def test_an_answer_with_retry_after_uses_up_no_attempt() -> None:
    wait = waits(deadline=Deadline(1000), attempts=3)
    wait.send(None)
    for asked in (1.0, None, 0.0, 1.0, None):
        wait.send(unavailable(asked))
    with pytest.raises(StopIteration):
        wait.send(unavailable())


@pytest.mark.usefixtures("now")
def test_one_attempt_is_one_whatever_the_answer() -> None:
    wait = waits(deadline=Deadline(1000), attempts=1)
    wait.send(None)
    with pytest.raises(StopIteration):
        wait.send(unavailable(1))


def test_the_old_form_of_a_date_is_utc() -> None:
    dates = {"Retry-After": "Sun Nov 22 10:00:30 2026", "Date": "Sun, 22 Nov 2026 10:00:00 GMT"}
    assert retry_after(dates) == 30


def test_a_date_in_the_past_asks_for_nothing() -> None:
    assert retry_after({"Retry-After": "Sun, 22 Nov 2015 10:00:30 GMT"}) == 0


@pytest.mark.parametrize(
    "value",
    [
        "",
        "soon",
        "-5",
        "1.5",
        "1e3",
        "٣",
        "Sun, 99 Nov 2026 99:00:00 GMT",
        "inf",
    ],
)
def test_rubbish_is_ignored(value: str) -> None:
    assert retry_after({"Retry-After": value}) is None


def test_no_header_no_wait() -> None:
    assert retry_after({}) is None


@given(st.text(), st.text())
def test_no_header_is_ever_an_error(value: str, date: str) -> None:
    seconds = retry_after({"Retry-After": value, "Date": date})
    assert seconds is None or seconds >= 0


def test_a_clock_that_is_set_moves_no_deadline() -> None:
    spec = find_spec("billing_client.retries")
    assert spec is not None
    assert spec.loader is not None
    fresh = module_from_spec(spec)  # other tests give the module a clock of their own
    spec.loader.exec_module(fresh)
    deadline = fresh.Deadline(1000)

    with time_machine.travel(datetime(2040, 1, 1, tzinfo=UTC)):
        assert 0 < deadline.left() <= 1000
