"""The files of processes that died, which the next live one drains."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import monotonic

from billing_client.outbox.events import Event, Teller
from billing_client.outbox.names import files, foreign_files, stray_logs
from billing_client.outbox.schema import Row
from billing_client.outbox.source import LANES, Source
from billing_client.outbox.store import Busy, Gone, Store, Unfit

RESCAN_SECONDS = 30.0


class Orphans:
    """Finds and opens one such file after the other; used under the guard of the outbox."""

    def __init__(self, directory: Path, is_own: Callable[[Path], bool]) -> None:
        self.source: Source | None = None
        self.stopped = False
        self._directory = directory
        self._is_own = is_own
        self._queue: list[Path] = []
        self._scan_due = 0.0
        self._due: dict[Path, float] = {}
        self._looked_at: dict[Path, tuple[int, int]] = {}
        self._reported: set[Path] = set()

    def take(self, limit: int, teller: Teller, *, urgent: bool) -> tuple[Source | None, list[Row]]:
        """The next records of a dead process, and where to settle them; none once stopped."""
        if self.stopped:
            return None, []
        if not self._queue and self.source is None and (urgent or monotonic() >= self._scan_due):
            self._scan(teller)
        for _ in range(len(self._queue) + 1):
            rows = self._rows(limit, teller)
            if rows:
                return self.source, rows
            if not self._queue:
                break
            self._open(self._queue.pop(0), teller)
        return None, []

    def close(self) -> None:
        """Give up the file at hand; what is left in it stays there."""
        source = self.source
        if source is None or source.store.in_use:
            return
        self.source = None
        source.close()

    def _rows(self, limit: int, teller: Teller) -> list[Row]:
        if self.source is None:
            return []
        try:
            rows = self.source.take(limit)
        except sqlite3.DatabaseError as error:
            self._report(self.source.store.path, f"it cannot be read ({error})", teller)
            self.source.store.close()
            self.source = None
            return []
        if not rows:
            drained = self.source
            with suppress(sqlite3.Error):  # a full disk
                drained.settle(())
            self.close()
            self._remember(drained)
        return rows

    def _scan(self, teller: Teller) -> None:
        self._scan_due = monotonic() + RESCAN_SECONDS
        for path in stray_logs(self._directory):
            path.unlink(missing_ok=True)
        for path in foreign_files(self._directory):
            self._report(path, "its name is not one of an outbox's", teller)
        self._queue = [path for path in files(self._directory) if self._is_worth_opening(path)]

    def _is_worth_opening(self, path: Path) -> bool:
        if self._is_own(path) or path in self._reported:
            return False
        if path in self._due:
            return monotonic() >= self._due[path]
        return _state(path) != self._looked_at.get(path)

    def _open(self, path: Path, teller: Teller) -> None:
        try:
            store = Store.adopt(path)
        except (Busy, Gone):
            return
        except Unfit as unfit:
            self._report(path, str(unfit), teller)
            return
        waited = self._due.pop(path, None) is not None
        self.source = Source(store, waited=waited)
        if store.pending:
            teller.later(Event("adopted", store.pending, path.name))

    def _remember(self, source: Source) -> None:
        """Come back to records that wait in an hour, and to rejected ones only if they changed."""
        path = source.store.path
        if not path.exists():
            return
        if source.store.pending:
            self._due[path] = monotonic() + max(LANES.values())
        else:
            self._looked_at[path] = _state(path)

    def _report(self, path: Path, why: str, teller: Teller) -> None:
        if path not in self._reported:
            self._reported.add(path)
            teller.later(Event("unusable_file", reason=f"{path.name} is left alone: {why}."))


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size
