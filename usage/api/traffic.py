"""How many records of each API key were recorded or refused, counted in memory.

A request only adds to numbers, without a statement. A thread of the process adds the numbers to the
database every few seconds, and once more when the process ends. While the database is away, they
wait in memory.
"""

from __future__ import annotations

import atexit
import contextlib
import datetime as dt
import logging
import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from threading import Event, Lock, Thread
from typing import Any

from django.core.exceptions import ValidationError
from django.db import Error, connections, transaction
from django.utils import timezone

from usage.api.problems import Problem
from usage.api.serializers import read_customer_id, value_of
from usage.database.deadline import circuit
from usage.database.transactions import is_unavailable
from usage.metrics import instruments, request_summary
from usage.models import Counts, Refusal, RefusalNote, Traffic
from usage.models.traffic import CODE_LENGTH, DETAIL_LENGTH, KEPT_REFUSALS
from usage.periods import Period, day_bounds, day_of
from usage.validators import REQUEST_ID_LENGTH, SERVICE_LENGTH, shown

logger = logging.getLogger(__name__)

# Bounds the memory between two flushes: refusals of 200 keys, 50 of each, are about 20 MB.
_MOST_KEYS_REFUSED = 200

KeyAndDay = tuple[int, dt.date]


class TrafficCounter:
    """The counts of one process since they were last added to the database.

    A thread, started by the first count, adds them to the database `every` so many seconds. Safe
    for threads. A forked process begins without counts, since its parent adds those it has.
    """

    def __init__(self, *, every: float = 5.0) -> None:
        self.every = every
        self._today = _with_bounds(timezone.now())
        self.clear()

    def clear(self) -> None:
        """Forget everything, the thread too."""
        self._lock = Lock()
        # The inner ones are by the names of Counts.
        self._counts: defaultdict[KeyAndDay, Counter[str]] = defaultdict(Counter)
        self._notes: dict[int, deque[RefusalNote]] = {}
        self._thread: Thread | None = None
        self._ends = Event()
        self._is_waiting = False

    def recorded(self, api_key_id: int, *, created: int, replayed: int) -> None:
        """Count records that were answered as stored."""
        if summary := request_summary.get():
            summary.outcomes.update(created=created, replayed=replayed)
        self._add(api_key_id, created=created, replayed=replayed)

    def refused(self, api_key_id: int, refused: Sequence[tuple[Problem, Any]]) -> None:
        """Count refusals and conflicts, and remember the last of them.

        Each comes with the JSON value that was sent, None if it was not read.
        """
        if summary := request_summary.get():
            summary.outcomes.update(problem.code for problem, _ in refused)
        conflicts = sum(problem.status == 409 for problem, _ in refused)
        now = timezone.now()
        last = [_note(now, problem, sent) for problem, sent in refused[-KEPT_REFUSALS:]]
        self._add(api_key_id, last, conflicting=conflicts, refused=len(refused) - conflicts)

    def _add(self, api_key_id: int, refusals: Iterable[RefusalNote] = (), **counts: int) -> None:
        now = timezone.now()
        day, (start, end) = self._today
        if not start <= now < end:  # finding the day takes ten times as long as comparing
            day, _ = self._today = _with_bounds(now)
        with self._lock:
            counted = self._counts[api_key_id, day]
            for name, number in counts.items():
                counted[name] += number
            if refusals:
                self._remember(api_key_id, refusals)
            if self._thread is None:
                self._start()

    def _remember(self, api_key_id: int, refusals: Iterable[RefusalNote]) -> None:
        for refusal in refusals:
            if api_key_id in self._notes or len(self._notes) < _MOST_KEYS_REFUSED:
                of_key = self._notes.setdefault(api_key_id, deque(maxlen=KEPT_REFUSALS))
                of_key.append(refusal)

    def flush(self) -> None:
        """Add the counts to the database. Never raises: what it does not take waits."""
        with self._lock:
            counted, self._counts = self._counts, defaultdict(Counter)
            refusals, self._notes = self._notes, {}
        if not counted:
            return
        counts = {key: Counts(**numbers) for key, numbers in counted.items()}
        committing = False
        try:
            with circuit.attempt(), transaction.atomic(durable=True):
                Traffic.objects.add_counts(counts)
                Refusal.objects.keep(refusals)
                committing = True
        except Exception as error:  # noqa: BLE001 - a thread has no caller that could catch it
            self._failed(error, counts, refusals, committing=committing)
        else:
            self._is_waiting = False
            if instruments is not None:
                instruments.traffic_waiting.set(0)

    def _failed(
        self,
        error: Exception,
        counts: Mapping[KeyAndDay, Counts],
        refusals: dict[int, deque[RefusalNote]],
        *,
        committing: bool,
    ) -> None:
        # A commit without an answer may have gone through: rather lose counts than add them twice.
        is_lost = committing and getattr(error.__cause__, "pgcode", "") is None
        if not is_unavailable(error) or is_lost:
            logger.error("Some traffic of API keys was not counted.", exc_info=error)
            return
        if not self._is_waiting:
            logger.warning("The traffic of API keys waits for the database.", exc_info=error)
        self._is_waiting = True
        if instruments is not None:
            instruments.traffic_waiting.set(len(counts))
        with self._lock:
            newer, self._notes = self._notes, {}
            for key, added in counts.items():
                self._counts[key].update(added._asdict())
            for by_key in (refusals, newer):
                for api_key_id, of_key in by_key.items():
                    self._remember(api_key_id, of_key)

    def _start(self) -> None:
        thread = Thread(target=self._run, args=[self._ends], name="traffic", daemon=True)
        # No thread can start at the system's limit or at the interpreter's end. The next count
        # tries again.
        with contextlib.suppress(RuntimeError):
            thread.start()
            self._thread = thread

    def _run(self, ends: Event) -> None:
        is_last = False
        while not is_last:
            is_last = ends.wait(self.every)
            self.flush()
            with contextlib.suppress(Error):
                connections.close_all()  # this thread's own, which would idle until the next flush

    def stop(self) -> None:
        """Let the thread flush for the last time, and wait up to 10 seconds for it."""
        thread, self._thread = self._thread, None
        ends, self._ends = self._ends, Event()
        if thread is not None:
            ends.set()
            thread.join(10)  # gunicorn gives a process 30 seconds to end


def _with_bounds(instant: dt.datetime) -> tuple[dt.date, Period]:
    """Return the day of an instant, and when that begins and ends."""
    day = day_of(instant)
    return day, day_bounds(day)


def _note(at: dt.datetime, problem: Problem, sent: Any) -> RefusalNote:
    request_id, service = value_of(sent, "request_id"), value_of(sent, "service")
    try:
        customer_id = read_customer_id(value_of(sent, "customer_id"))
    except ValidationError:
        customer_id = None
    return RefusalNote(
        at,
        problem.status,
        shown(problem.code, length=CODE_LENGTH),
        shown(problem.detail, length=DETAIL_LENGTH),
        shown(request_id, length=REQUEST_ID_LENGTH) if isinstance(request_id, str) else "",
        customer_id,
        shown(service, length=SERVICE_LENGTH) if isinstance(service, str) else "",
    )


traffic = TrafficCounter()
atexit.register(traffic.stop)
os.register_at_fork(after_in_child=traffic.clear)
