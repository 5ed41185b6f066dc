"""What the service measures about itself, in Prometheus' terms.

Nothing is measured unless METRICS_ADDRESS is set: the instruments are then of the same kind and do
nothing. With it, each worker writes its numbers into a file of its own in the directory that
PROMETHEUS_MULTIPROC_DIR names, and `manage.py serve_metrics` adds the files up. Under gunicorn
both are taken care of, see gunicorn.conf.py.

A label has few values, whatever callers send: keys, customers and services are never labels.
"""

from __future__ import annotations

from collections import Counter as Counts
from contextvars import ContextVar
from typing import Protocol, cast

from django.conf import settings

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 8, 10)
_REQUESTS = (1, 2, 4, 8, 16, 32)


class RequestSummary:
    """What became of one request, for its metrics and its line in the log."""

    def __init__(self) -> None:
        self.api_client = ""  # the name of its key
        self.outcomes: Counts[str] = Counts()  # of records: created, replayed, or a problem's code
        self.sqlstate_class = "none"  # of the database error behind a 503


# The summary of the request that this thread answers; one that is thrown away if none is wanted.
request_summary: ContextVar[RequestSummary] = ContextVar(
    "request_summary",
    default=RequestSummary(),  # noqa: B039 - written to, and never read
)


class Instrument(Protocol):
    """A counter, gauge or histogram, or one that does nothing."""

    def labels(self, *values: str) -> Instrument:
        """Return the instrument for these values of its labels."""

    def inc(self, amount: float = 1) -> None:
        """Add to a counter or a gauge."""

    def dec(self, amount: float = 1) -> None:
        """Subtract from a gauge."""

    def set(self, value: float) -> None:
        """Set a gauge."""

    def observe(self, amount: float) -> None:
        """Add one observation to a histogram."""


class _Nothing:
    """An instrument that measures nothing."""

    def labels(self, *values: str) -> _Nothing:
        return self

    def inc(self, amount: float = 1) -> None: ...
    def dec(self, amount: float = 1) -> None: ...
    def set(self, value: float) -> None: ...
    def observe(self, amount: float) -> None: ...


REQUEST_SECONDS: Instrument
REQUESTS_IN_PROGRESS: Instrument
RECORDS: Instrument
UNAVAILABLE: Instrument
GROUP_SIZE: Instrument
CLOSE_LOCK_SECONDS: Instrument
TRAFFIC_WAITING: Instrument

if settings.METRICS_ADDRESS:
    from prometheus_client import Counter, Gauge, Histogram

    REQUEST_SECONDS = cast(
        "Instrument",
        Histogram(
            "billing_request_seconds",
            "Seconds from a request's arrival until its answer was sent.",
            ("route", "status"),
            buckets=_SECONDS,
        ),
    )
    REQUESTS_IN_PROGRESS = cast(
        "Instrument",
        Gauge(
            "billing_requests_in_progress",
            "Requests that have arrived and are not answered yet.",
            multiprocess_mode="livesum",
        ),
    )
    RECORDS = cast(
        "Instrument",
        Counter(
            "billing_records",
            "Records answered, by outcome: created, replayed, or the code of the refusal.",
            ("outcome",),
        ),
    )
    UNAVAILABLE = cast(
        "Instrument",
        Counter(
            "billing_unavailable",
            "Answers of 503, by the class of the database's SQLSTATE, or none.",
            ("sqlstate_class",),
        ),
    )
    GROUP_SIZE = cast(
        "Instrument",
        Histogram(
            "billing_group_commit_requests",
            "Requests that shared a transaction.",
            buckets=_REQUESTS,
        ),
    )
    CLOSE_LOCK_SECONDS = cast(
        "Instrument",
        Histogram(
            "billing_close_lock_seconds",
            "Seconds that a transaction waited for the close lock, by verb: record or close.",
            ("verb",),
            buckets=_SECONDS,
        ),
    )
    TRAFFIC_WAITING = cast(
        "Instrument",
        Gauge(
            "billing_traffic_waiting",
            "Counts of API keys' traffic that wait for the database.",
            multiprocess_mode="livesum",
        ),
    )
else:
    REQUEST_SECONDS = REQUESTS_IN_PROGRESS = RECORDS = UNAVAILABLE = _Nothing()
    GROUP_SIZE = CLOSE_LOCK_SECONDS = TRAFFIC_WAITING = _Nothing()
