"""Sends batches over several connections at once, and keeps the receipts in order."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from billing_client.batches import Batch
from billing_client.receipts import Receipts
from billing_client.retries import Deadline


class Sending:
    """One call of record_many.

    ``receipts`` are those so far, in the order of the items. With one connection the caller's own
    thread sends; with more, as many threads do, which do not keep the process alive.
    """

    def __init__(self, send: Callable[[Batch], Receipts], connections: int) -> None:
        self.receipts = Receipts()
        self._send = send
        self._connections = connections
        self._under_way: deque[tuple[Batch, Future[Receipts]]] = deque()
        self._jobs: queue.SimpleQueue[tuple[Batch, Future[Receipts]] | None] = queue.SimpleQueue()
        self._threads = 0

    def run(self, batches: Iterable[Batch]) -> Iterator[Receipts]:
        """Send the batches; yield the receipts of each, in order.

        Raises the error of the first batch, in this order, that failed.
        """
        for batch in batches:
            # An id that is under way has to be answered first, or it could be the later one of
            # the two that is recorded.
            ids = set(batch.request_ids)
            while any(not ids.isdisjoint(other.request_ids) for other, _ in self._under_way):
                yield self._first()
            self._begin(batch)
            # Half of the batches wait for a connection, so that none is idle meanwhile.
            most = 2 * self._connections
            while self._under_way and (
                self._under_way[0][1].done() or len(self._under_way) >= most
            ):
                yield self._first()
        while self._under_way:
            yield self._first()

    def settle(self, seconds: float, *, cancel: bool) -> list[str]:
        """After an error, keep the receipts that still come; return the ids that have none.

        Waits for so many seconds at most. If ``cancel`` is True, or a request has failed, no
        batch is sent that is not under way yet.
        """
        futures = [future for _, future in self._under_way]
        if cancel or any(future.done() and future.exception() is not None for future in futures):
            for future in futures:
                future.cancel()
        deadline = Deadline(seconds)
        missing: list[str] = []
        for batch, future in self._under_way:
            try:
                failed = future.cancelled() or future.exception(max(0.0, deadline.left()))
            except TimeoutError:
                failed = True
            if failed:
                missing += batch.request_ids
            else:
                self.receipts.extend(batch.with_invalid(future.result()))
        self._under_way.clear()
        return missing

    def end(self) -> None:
        """Let the threads end."""
        for _ in range(self._threads):
            self._jobs.put(None)

    def _begin(self, batch: Batch) -> None:
        future: Future[Receipts] = Future()
        self._under_way.append((batch, future))
        if not batch.request_ids:
            future.set_result(Receipts())
        elif self._connections == 1:
            self._answer(batch, future)  # in this thread
        else:
            self._jobs.put((batch, future))
            if self._threads < self._connections:
                self._threads += 1
                threading.Thread(target=self._work, daemon=True).start()

    def _first(self) -> Receipts:
        batch, future = self._under_way[0]
        receipts = batch.with_invalid(future.result())
        self._under_way.popleft()
        self.receipts.extend(receipts)
        return receipts

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._answer(*job)

    def _answer(self, batch: Batch, future: Future[Receipts]) -> None:
        """Send a batch that was not cancelled; give its receipts or its error to the future."""
        if future.set_running_or_notify_cancel():
            try:
                future.set_result(self._send(batch))
            except BaseException as error:  # noqa: BLE001 - _first() raises it
                future.set_exception(error)
