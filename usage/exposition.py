"""Metrics as Prometheus collects them: those of all workers, and those of the database.

`usage.metrics` has the instruments. See `prometheus_client.multiprocess` for the workers' files.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from django.db import Error, connection
from django.db.models import Max, Min
from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from usage.attention.bills import examine
from usage.database.transactions import database_now
from usage.models import Bill, CommandRun, Hold, UsageRecord

# A scrape more often than this is answered with the same figures of the database.
KEPT_SECONDS = 15.0
_KINDS = ("counter", "histogram")
_BILLS_AT_ONCE = 100


class WorkersCollector(Collector):
    """Adds up the files of the workers, and keeps those of ended workers as one.

    A worker that ends leaves its files behind. Their numbers are added to one file for each kind
    of metric, so that a scrape costs the same after any number of workers, and no counter falls.
    """

    def __init__(self, directory: str) -> None:
        self.directory = Path(directory)
        self._lock = threading.Lock()  # the server answers each scrape in a thread of its own
        # Remove files that were merged when this process's predecessor was killed.
        for kind in _KINDS:
            kept, listing = self._sums(kind, "db"), self._sums(kind, "json")
            if kept.exists() and listing.exists():
                generation, names = json.loads(listing.read_text())
                if generation == kept.stat().st_ino:
                    for name in names:
                        (self.directory / name).unlink(missing_ok=True)

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            ended = [path for path in self.directory.glob("*.db") if _has_ended(path)]
            for path in ended:
                # No request is under way in an ended worker. One killed at its start left no bytes.
                if path.name.startswith("gauge_live") or not path.stat().st_size:
                    path.unlink()
            for kind in _KINDS:
                paths = [path for path in ended if path.match(f"{kind}_*") and path.exists()]
                if paths:
                    self._merge(kind, paths)
            # One without bytes is being made by a worker that starts; reading it is an error.
            files = [str(path) for path in self.directory.glob("*.db") if path.stat().st_size]
            return list(MultiProcessCollector.merge(files))

    def _merge(self, kind: str, paths: list[Path]) -> None:
        """Add the numbers of some files to those kept of ended workers, also if interrupted.

        The new sums are complete before they replace the old ones under their name, and the list
        of the files in them is written first: files that a crash leaves behind are not added twice.
        """
        kept, new = self._sums(kind, "db"), self.directory / f"{kind}.new"
        new.unlink(missing_ok=True)
        sums: dict[str, float] = {}
        for path in [kept, *paths] if kept.exists() else paths:
            for key, value, _, _ in MmapedDict.read_all_values_from_file(path):
                sums[key] = sums.get(key, 0.0) + value
        merged = MmapedDict(str(new))
        for key, value in sums.items():
            merged.write_value(key, value, 0.0)
        merged.close()
        generation = new.stat().st_ino
        self._sums(kind, "json").write_text(json.dumps([generation, [path.name for path in paths]]))
        new.replace(kept)
        for path in paths:
            path.unlink()

    def _sums(self, kind: str, suffix: str) -> Path:
        """Return the file of the sums of ended workers, or of the list of the files in them."""
        return self.directory / f"{kind}_ended.{suffix}"


def _has_ended(path: Path) -> bool:
    pid = path.stem.rpartition("_")[2]
    if not pid.isdecimal():
        return False  # the sums of ended workers
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass  # a process of another user's has the number now
    return False


class DatabaseCollector(Collector):
    """The figures that the database gives, at most every 15 seconds.

    If it does not answer, they are missing and `billing_database_up` is 0.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: list[Metric] = []
        self._read_at = float("-inf")

    def describe(self) -> list[Metric]:
        """Ask nothing when it is registered."""
        return []

    def collect(self) -> Iterable[Metric]:
        with self._lock:
            if self._clock() - self._read_at >= KEPT_SECONDS:
                up = GaugeMetricFamily("billing_database_up", "1 if the database gave the figures.")
                try:
                    self._kept = [up, *_figures()]
                    up.add_metric([], 1)
                except Error:
                    self._kept = [up]
                    up.add_metric([], 0)
                finally:
                    with contextlib.suppress(Error):
                        connection.close()  # this thread ends with the scrape
                self._read_at = self._clock()
            return self._kept


def _figures() -> Iterator[Metric]:
    now = database_now()
    yield GaugeMetricFamily("billing_open_bills", "Open bills.", Bill.objects.open().count())
    due = GaugeMetricFamily(
        "billing_due_bills",
        "Bills whose month and grace are over, by whether they can be closed.",
        labels=["state"],
    )
    states = dict.fromkeys(("closable", "held", "flagged"), 0)
    open_due = Bill.objects.due(now).select_related("customer", "hold")
    for chunk in open_due.chunks(_BILLS_AT_ONCE):
        flagged = {pk for pk, found in examine(chunk, now).items() if found.blocking}
        for bill in chunk:
            held = hasattr(bill, "hold")
            states["held" if held else "flagged" if bill.pk in flagged else "closable"] += 1
    for state, bills in states.items():
        due.add_metric([state], bills)
    yield due
    oldest = Hold.objects.aggregate(oldest=Min("at"))["oldest"]
    yield GaugeMetricFamily(
        "billing_oldest_hold_seconds",
        "How long the bill that has been on hold for longest has been so; 0 without holds.",
        (now - oldest).total_seconds() if oldest else 0,
    )
    newest = UsageRecord.objects.aggregate(newest=Max("recorded_at"))["newest"]
    if newest is not None:
        yield GaugeMetricFamily(
            "billing_newest_record_timestamp_seconds",
            "When the newest record was recorded.",
            newest.timestamp(),
        )
    ended = GaugeMetricFamily(
        "billing_command_ended_timestamp_seconds",
        "When the last run of a command ended.",
        labels=["command"],
    )
    status = GaugeMetricFamily(
        "billing_command_exit_status",
        "The exit status of the last run of a command.",
        labels=["command"],
    )
    count = GaugeMetricFamily(
        "billing_command_count",
        "The count of the last run: bills closed, differences found, findings that block.",
        labels=["command"],
    )
    for run in CommandRun.objects.all():
        ended.add_metric([run.command], run.ended_at.timestamp())
        status.add_metric([run.command], run.exit_status)
        count.add_metric([run.command], run.count)
    yield from (ended, status, count)
