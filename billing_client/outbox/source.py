"""A store that is being drained, and what is known of it only while this process lives."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from time import monotonic

from billing_client.outbox.schema import Row, Verdict
from billing_client.outbox.store import Store

MOST_BYTES = 512 * 1024
# Records that wait are looked at so often, in seconds.
LANES = {"unknown_customer": 3600.0, "in_the_future": 60.0}


class Source:
    """Takes records from a store, and settles them there or remembers what it could not settle.

    On a full disk deletes fail too. What was acknowledged is then kept in memory, and not sent
    again while this process lives; once all of a file is acknowledged it needs no deletes.
    """

    def __init__(self, store: Store, *, waited: bool = False, new: bool = False) -> None:
        self.store = store
        self.unsettled: list[Verdict] = []
        self._after = 0
        self._passed = dict.fromkeys(LANES, 0)
        now = monotonic()
        self._due = {lane: now + interval if new else 0.0 for lane, interval in LANES.items()}
        self._waited = dict.fromkeys(LANES, waited or new)

    @property
    def pending(self) -> int:
        """Records that the service has not judged for good."""
        settled = sum(verdict.fate in {"delivered", "rejected"} for verdict in self.unsettled)
        return self.store.pending - settled

    def is_acknowledged(self) -> bool:
        """Whether the service has all that this file holds, though the file does not say so."""
        return (
            bool(self.unsettled)
            and all(verdict.fate == "delivered" for verdict in self.unsettled)
            and self.pending + self.store.rejected == 0
        )

    def close(self) -> None:
        """Give the file up, and remove it if nothing is left to do with it."""
        self.store.close(delivered={v.row.seq for v in self.unsettled if v.fate == "delivered"})

    def take(self, limit: int) -> list[Row]:
        """The next records to send; empty if none is due."""
        rows = self.store.take("usage", after=self._after, limit=limit, size=MOST_BYTES)
        if rows:
            return rows
        if self.store.usage and not self.unsettled:
            self.store.recount()  # somebody was interrupted before it was counted
        return self._take_waiting(limit)

    def seconds(self) -> float | None:
        """Seconds until waiting records are due; None if none waits."""
        if self.store.waiting == 0:
            return None
        return max(0.0, min(self._due.values()) - monotonic())

    def settle(self, verdicts: Sequence[Verdict]) -> None:
        """Settle these and what could not be settled before."""
        self.unsettled += verdicts
        if not self.unsettled:
            return
        try:
            self._settle_all()
        except sqlite3.Error:
            sent = [v.row.seq for v in self.unsettled if v.row.table == "usage"]
            self._after = max([self._after, *sent])
            raise
        self.unsettled = []
        self._after = 0

    def _settle_all(self) -> None:
        try:
            self.store.settle(self.unsettled)
        except sqlite3.OperationalError:
            self.store.checkpoint()  # makes room in the log, if not on the disk
            self.store.settle(self.unsettled)

    def _take_waiting(self, limit: int) -> list[Row]:
        if self.store.waiting == 0 or self.unsettled:
            return []
        for lane, interval in LANES.items():
            if self._due[lane] > monotonic():
                continue
            after = self._passed[lane]
            rows = self.store.take(lane, after=after, limit=limit, size=MOST_BYTES)
            if rows:
                self._passed[lane] = rows[-1].seq
                # Only an hour that this process waited is one that surely passed.
                more = int(self._waited[lane])
                return [row._replace(hours=row.hours + more) for row in rows]
            self._passed[lane] = 0
            self._due[lane] = monotonic() + interval
            self._waited[lane] = True
        return []
