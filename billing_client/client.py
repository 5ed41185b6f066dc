"""The client: hands usage to the billing service so that each fact is billed once."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from typing import Any, Literal, NoReturn, Self, SupportsIndex

from billing_client.answers import read_batch, read_record
from billing_client.batches import Batch, Batches
from billing_client.calls import Call
from billing_client.config import (
    KEEP_BYTES,
    KEEP_DAYS,
    MOST_BYTES,
    MOST_RECORDS,
    Bounds,
    Limits,
    api_key_of,
    endpoint_of,
)
from billing_client.decimals import Number
from billing_client.errors import (
    BillingError,
    ConfigurationError,
    UnavailableError,
    ValidationError,
)
from billing_client.outbox.delivery import is_recorded
from billing_client.outbox.events import Flushed, OnEvent, Resent, Stats
from billing_client.outbox.outbox import Outbox
from billing_client.receipts import Receipt, Receipts
from billing_client.retries import Deadline
from billing_client.sending import Sending
from billing_client.transport import Transport
from billing_client.usage import Usage

logger = logging.getLogger(__name__)

# More bring little and cost the service's other callers, see `make bench`.
CONNECTIONS = 4
_LOG_EVERY = 10_000
# How long Ctrl-C waits for answers to requests that are under way.
_INTERRUPT_SECONDS = 3.0


class BillingClient:
    """A connection to the billing service; make one per process and share it.

    url      the service's address, with or without a path before /api, or the address of its
             endpoint, which ends with /api/v1/usage/; BILLING_URL if not given
    api_key  as create_api_key printed it; BILLING_API_KEY if not given

    Times are in seconds: ``connect_timeout`` for each address of the host, ``read_timeout`` for
    the whole answer of one attempt, ``total_timeout`` for one request with all its ``attempts``
    and the waits between them, on a monotonic clock. An attempt that was answered with
    Retry-After does not count, unless ``attempts`` is 1: a service that fails over is waited for
    until the time is used up. Only name resolution is outside: the system's resolver has a clock
    of its own.

    ``outbox`` is a directory on a local disk, BILLING_OUTBOX_DIR if not given, "" for none; with
    one, enqueue() works. Many processes may share it, all with keys for the same service. At most
    ``outbox_max_records`` records of one process wait there, and ``outbox_max_bytes`` bytes of
    all. Delivered records are kept for ``outbox_keep_days``, in at most ``outbox_keep_bytes``
    bytes, so that resend() can send them again. enqueue() removes them before it raises OutboxFull.
    ``fsync`` makes enqueue() outlast power failures too, at the price of a disk write each.
    ``on_event`` is called with each Event, in a thread of the outbox.

    Safe to share between threads. After a fork the child opens connections of its own. Proxies
    and CA bundles are taken from the environment as requests does, ~/.netrc is not. Raises
    ConfigurationError.
    """

    def __init__(
        self,
        url: str | None = None,
        api_key: str | None = None,
        *,
        connect_timeout: float = 3.05,
        read_timeout: float = 10.0,
        attempts: int = 5,
        total_timeout: float = 30.0,
        outbox: str | os.PathLike[str] | None = None,
        fsync: bool = False,
        outbox_max_records: int = MOST_RECORDS,
        outbox_max_bytes: int = MOST_BYTES,
        outbox_keep_days: int = KEEP_DAYS,
        outbox_keep_bytes: int = KEEP_BYTES,
        on_event: OnEvent | None = None,
    ) -> None:
        self._limits = Limits(
            connect=connect_timeout, read=read_timeout, attempts=attempts, total=total_timeout
        )
        self._transport = Transport(endpoint_of(url), api_key_of(api_key), self._limits)
        bounds = Bounds(outbox_max_records, outbox_max_bytes, outbox_keep_days, outbox_keep_bytes)
        directory = os.environ.get("BILLING_OUTBOX_DIR") if outbox is None else outbox
        self._outbox: Outbox | None = None
        if directory:
            self._outbox = Outbox(
                directory,
                self._transport,
                seconds=connect_timeout + read_timeout,
                fsync=fsync,
                bounds=bounds,
                on_event=on_event,
            )

    def record_usage(
        self,
        *,
        customer_id: SupportsIndex,
        service: str,
        units_consumed: Number,
        price_per_unit: Number,
        request_id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> Receipt:
        """Record one usage; the arguments are those of Usage, and checked before anything is sent.

        Every attempt sends the same bytes. Pass a ``request_id`` and an ``occurred_at`` that you
        make once, together, and keep: a call again without the id reports a second fact, and one
        without the time lands, after midnight at the end of a month, on the next month's bill.

        Blocks for up to ``total_timeout`` seconds, so not in an event loop: there, use enqueue(),
        or asyncio.to_thread().

        Returns a receipt that is "created" or "replayed". Raises ValidationError,
        CustomerNotFoundError, ConflictError, AuthenticationError, ConfigurationError,
        RateLimitedError or UnavailableError; each says whether to resend.
        """
        usage = Usage(
            customer_id=customer_id,
            service=service,
            units_consumed=units_consumed,
            price_per_unit=price_per_unit,
            request_id=request_id,
            occurred_at=occurred_at,
        )
        try:
            return Call(
                self._transport, self._limits, usage.to_json(), [usage.request_id], read_record
            ).result()
        except BillingError as error:
            # A traceback in a log may be all that is left of an id that was made here.
            error.add_note(f"The usage has the request_id {usage.request_id}.")
            raise

    def record_many(
        self,
        usages: Iterable[Usage | Mapping[str, Any]],
        *,
        connections: int = CONNECTIONS,
        on_progress: Callable[[Receipts], object] | None = None,
        on_invalid: Literal["raise", "reject"] = "raise",
    ) -> Receipts:
        """Record any number of usages, in requests of at most 1000.

        usages       Usage objects, or mappings of their arguments; taken from the iterable as the
                     next requests need them, in the caller's thread
        connections  how many requests may be under way at once
        on_progress  is called in the caller's thread with the receipts of each request, in order
        on_invalid   "raise" ends the call at the first mapping that is not a usage; "reject"
                     gives it a rejected receipt and goes on

        Returns one receipt per usage, in the order given; a rejected record raises nothing and
        stops no other, see ``Receipts.raise_for_rejected``.

        Give each usage a ``request_id`` and an ``occurred_at`` that are the same in a rerun. Then
        a rerun of all of them is always right: recorded ones are replayed. Without ids a rerun
        bills the recorded ones again, and without times perhaps in another month.

        Raises the errors of record_usage when a whole request fails, and whatever the iterable,
        on_progress or Ctrl-C raises. In each case ``error.receipts`` are the receipts so far, in
        order, and ``error.request_ids`` the ids that were taken from the iterable and have none:
        resend those, under their ids.
        """
        if type(connections) is not int or connections < 1:
            raise ConfigurationError(
                f"connections is {connections!r}, expected a whole number of at least 1."
            )
        if on_invalid not in ("raise", "reject"):
            raise ConfigurationError(f'on_invalid is {on_invalid!r}, expected "raise" or "reject".')
        batches = Batches(usages, rejects=on_invalid == "reject")
        sending = Sending(self._receipts_of, connections)
        try:
            for receipts in sending.run(batches):
                done = len(sending.receipts)
                if done // _LOG_EVERY > (done - len(receipts)) // _LOG_EVERY:
                    logger.info("record_many has receipts for %d usage records", done)
                if on_progress is not None:
                    on_progress(receipts)
        except BaseException as error:
            is_interrupt = not isinstance(error, Exception)
            seconds = _INTERRUPT_SECONDS if is_interrupt else self._limits.total
            missing = sending.settle(seconds, cancel=is_interrupt)
            missing += batches.unfinished.request_ids
            _explain(error, sending.receipts, missing, batches.taken)
            raise
        finally:
            sending.end()
        return sending.receipts

    def enqueue(self, usage: Usage) -> None:
        """Write it to the outbox, from where it is sent by itself; never touches the network.

        When this returns the usage is on disk, and outlives this process. Where it has no
        ``occurred_at`` it gets the time of this call. May be called from any thread, from signal
        handlers and finalizers. Raises OutboxFull, or OutboxError, if it could not be written,
        and ConfigurationError if there is no outbox or the client is closed.
        """
        check_usage(usage)
        self._the_outbox().enqueue(usage)

    def flush(self, timeout: float | None = 10.0) -> Flushed:
        """Send what waits, also for processes that ended, for so many seconds at most.

        None waits until all is sent. Records that wait for their customer are tried once.
        Returns at once where nothing can be sent before something is corrected. Raises
        ConfigurationError if there is no outbox.
        """
        return self._the_outbox().flush(timeout)

    def stats(self) -> Stats:
        """The state of the outbox. Raises ConfigurationError if there is none."""
        return self._the_outbox().stats()

    def resend(
        self,
        since: datetime,
        *,
        timeout: float | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Resent:
        """Send once more what this host delivered since then, when the service lost some of it.

        ``since`` is a time of delivery on this host, with a time zone; whole files are sent that
        reach to ten minutes before it. The service replays all but what it has lost.
        ``on_progress`` is called with the number of records sent so far. Raises the errors of
        record_many, and UnavailableError if it takes longer than ``timeout`` seconds; run it once
        more then.
        """
        if since.utcoffset() is None:
            raise ConfigurationError("since has no time zone; give one, such as 2026-11-22T10:00Z.")
        self._the_outbox().check_service()
        directory, deadline = self._the_outbox().directory, Deadline(timeout)
        sending = Sending(self._receipts_of, CONNECTIONS)
        sent = created = 0
        refused: list[str] = []
        try:
            for receipts in sending.run(directory.delivered(since)):
                refused += [one.request_id for one in receipts if not is_recorded(one.error)]
                sent += len(receipts)
                created += sum(one.status == "created" for one in receipts)
                if on_progress is not None:
                    on_progress(sent)
                if deadline.left() <= 0:
                    raise UnavailableError("Not all was sent again in time; run it once more.")
        finally:
            sending.end()
        removed = directory.removed_until()
        complete = removed is None or removed <= since
        covered = directory.covered_since()
        return Resent(sent - len(refused), created, tuple(refused), covered, complete)

    def close(self, timeout: float | None = 2.0) -> None:
        """Close the connections of this process; any later use raises ConfigurationError.

        What waits in the outbox is sent for so many seconds at most, or None for as long as it
        takes. The rest stays on disk for the next process; an OutboxWarning says how many
        records are left.
        """
        try:
            if self._outbox is not None:
                self._outbox.close(timeout)
        finally:
            self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<BillingClient for {self._transport.endpoint}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "A BillingClient holds the API key and cannot be pickled or copied; "
            "make one in each process."
        )

    def _the_outbox(self) -> Outbox:
        if self._outbox is None:
            raise ConfigurationError(
                "This billing client has no outbox; pass outbox=… or set BILLING_OUTBOX_DIR."
            )
        return self._outbox

    def _receipts_of(self, batch: Batch) -> Receipts:
        call = Call(self._transport, self._limits, batch.body(), batch.request_ids, read_batch)
        receipts = call.result()
        for receipt in receipts:
            if receipt.error is not None:
                call.stamp(receipt.error)
        return receipts


def check_usage(usage: object) -> None:
    """Raise ValidationError unless the argument of enqueue() is a Usage."""
    if not isinstance(usage, Usage):
        raise ValidationError(f"enqueue was given a {type(usage).__name__}, expected Usage.")


def _explain(error: BaseException, receipts: Receipts, missing: list[str], taken: int) -> None:
    """Add to an error that ends record_many the receipts, and the ids that have none."""
    if isinstance(error, BillingError):
        missing = list(dict.fromkeys([*missing, *error.request_ids]))
    if isinstance(error, ValidationError) and error.status_code is None:
        error.args = (f"Item {taken} of the usages, counted from 0: {error}",)
    error.add_note(
        f"record_many has receipts for {len(receipts)} usage records; {len(missing)} more were"
        " taken and have none"
        + (f", from {missing[0]} to {missing[-1]}." if missing else ".")
        + " See error.receipts and error.request_ids. A rerun bills nothing twice if you gave the"
        " usages their ids; those that were given none get new ids, and are billed again."
    )
    with suppress(AttributeError):  # an exception of the caller's with slots
        error.receipts = receipts  # type: ignore[attr-defined]
        error.request_ids = tuple(missing)  # type: ignore[attr-defined]
