"""The service's measurements of itself, in Prometheus' terms.

Nothing is measured unless METRICS_ADDRESS is set: without it `instruments` is None. With it, each
worker writes its numbers into a file of its own in the directory that PROMETHEUS_MULTIPROC_DIR
names, and `manage.py serve_metrics` adds the files up. Under gunicorn both are taken care of, see
gunicorn.conf.py.

A label has few values, whatever callers send: keys, customers and services are never labels.
"""

from __future__ import annotations

from collections import Counter as Counts
from contextvars import ContextVar

from django.conf import settings
from prometheus_client import Counter, Gauge, Histogram

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 8, 10)


class RequestSummary:
    """What became of one request, for its metrics and its line in the log."""

    def __init__(self) -> None:
        self.api_client = ""  # the name of its key
        self.outcomes: Counts[str] = Counts()  # of records: created, replayed, or a problem's code
        self.sqlstate_class = "none"  # of the database error behind a 503


# The summary of the request that this thread answers, or None if none is wanted.
request_summary: ContextVar[RequestSummary | None] = ContextVar("request_summary", default=None)


class Instruments:
    """Everything that the workers measure."""

    def __init__(self) -> None:
        self.request_seconds = Histogram(
            "billing_request_seconds",
            "Seconds from a request's arrival until its answer was sent.",
            ("route", "status"),
            buckets=_SECONDS,
        )
        self.requests_in_progress = Gauge(
            "billing_requests_in_progress",
            "Requests that have arrived and are not answered yet.",
            multiprocess_mode="livesum",
        )
        self.records = Counter(
            "billing_records",
            "Records answered, by outcome: created, replayed, or the code of the refusal.",
            ("outcome",),
        )
        self.unavailable = Counter(
            "billing_unavailable",
            "Answers of 503, by the class of the database's SQLSTATE, or none.",
            ("sqlstate_class",),
        )
        self.group_commit_requests = Histogram(
            "billing_group_commit_requests",
            "Requests that shared a transaction.",
            buckets=(1, 2, 4, 8, 16, 32),
        )
        self.close_lock_seconds = Histogram(
            "billing_close_lock_seconds",
            "Seconds that a transaction waited for the close lock, by verb: record or close.",
            ("verb",),
            buckets=_SECONDS,
        )
        self.traffic_waiting = Gauge(
            "billing_traffic_waiting",
            "Counts of API keys' traffic that wait for the database.",
            multiprocess_mode="livesum",
        )


instruments = Instruments() if settings.METRICS_ADDRESS else None
