"""The client: hands usage to the billing service so that each fact is billed once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from types import TracebackType
from typing import NoReturn, Self

from billing_client.answers import read_batch, read_record
from billing_client.batches import Batch, batches
from billing_client.calls import Call
from billing_client.config import Limits, api_key_of, endpoint_of
from billing_client.decimals import Number
from billing_client.errors import BillingError, ConfigurationError, ValidationError
from billing_client.outbox.events import OnEvent
from billing_client.outbox.files import MOST_BYTES, MOST_RECORDS, Bounds
from billing_client.outbox.outbox import Flushed, Outbox, Stats
from billing_client.receipts import Receipt, Receipts
from billing_client.transport import Transport
from billing_client.usage import Usage


class BillingClient:
    """A connection to the billing service; make one per process and share it.

    url      the service's address, with or without a path before /api; BILLING_URL if not given
    api_key  as create_api_key printed it; BILLING_API_KEY if not given

    Times are in seconds: ``connect_timeout`` for each address of the host, ``read_timeout`` for
    the whole answer of one attempt, ``total_timeout`` for one request with all its ``attempts``
    and the waits between them, on a monotonic clock. An attempt that was answered with
    Retry-After does not count, unless ``attempts`` is 1: a service that fails over is waited for
    until the time is used up. Only name resolution is outside: the system's resolver has a clock
    of its own.

    ``outbox`` is a directory on a local disk, BILLING_OUTBOX_DIR if not given; with one, enqueue()
    works. Many processes may share it, all with keys for the same service. At most
    ``outbox_max_records`` records or ``outbox_max_bytes`` bytes of one process wait there.
    ``fsync`` makes enqueue() outlast power failures too, at the price of a disk write each.
    ``on_event`` is called with each Event, in the outbox's own thread.

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
        on_event: OnEvent | None = None,
    ) -> None:
        self._limits = Limits(
            connect=connect_timeout, read=read_timeout, attempts=attempts, total=total_timeout
        )
        self._transport = Transport(
            endpoint_of(url),
            api_key_of(api_key),
            connect_timeout=connect_timeout,
            read_timeout=read_timeout,
        )
        bounds = Bounds(outbox_max_records, outbox_max_bytes)
        directory = outbox or os.environ.get("BILLING_OUTBOX_DIR")
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
        customer_id: int,
        service: str,
        units_consumed: Number,
        price_per_unit: Number,
        request_id: str | None = None,
        occurred_at: datetime | None = None,
    ) -> Receipt:
        """Record one usage; the arguments are those of Usage, and checked before anything is sent.

        The id is made before the first attempt, and every attempt sends the same bytes. Where
        your own process may die in between, pass a request_id that you keep: a second call
        without one reports a second fact.

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
        return self._call_for_one(usage).result()

    def record_many(self, usages: Iterable[Usage]) -> Receipts:
        """Record any number of usages, in requests of at most 1000.

        Takes from the iterable only what the next request needs. Returns one receipt per usage,
        in order; a rejected record raises nothing and stops no other, see
        ``Receipts.raise_for_rejected``.

        Raises the errors of record_usage when a whole request fails. Then ``error.receipts`` is
        what was delivered before, and ``error.request_ids`` are the ids taken from the iterable
        that have no receipt: resend those, under their ids. An error of the iterable's own
        passes through, with a note of how many have receipts; resend all under the same ids, what
        was recorded is replayed.
        """
        receipts = Receipts()
        unanswered: list[str] = []
        try:
            for batch in batches(_noted(usages, unanswered)):
                receipts.extend(self._receipts_of(batch))
                del unanswered[: len(batch.request_ids)]
        except BillingError as error:
            error.receipts = receipts
            error.request_ids = tuple(dict.fromkeys([*unanswered, *error.request_ids]))
            raise
        except BaseException as error:
            error.add_note(
                f"record_many had receipts for the first {len(receipts)} usage records; "
                f"{len(unanswered)} more were taken and have none"
                + (f", from {unanswered[0]} to {unanswered[-1]}." if unanswered else ".")
            )
            raise
        return receipts

    def enqueue(self, usage: Usage) -> None:
        """Write it to the outbox, from where it is sent by itself; never touches the network.

        When this returns the usage is on disk, and outlives this process. Where it has no
        ``occurred_at`` it gets the time of this call. May be called from any thread, from signal
        handlers and finalizers. Raises OutboxFull, or OutboxError, if it could not be written,
        and ConfigurationError if there is no outbox or the client is closed.
        """
        check_usage(usage, "enqueue")
        self._the_outbox().enqueue(usage)

    def flush(self, timeout: float = 10.0) -> Flushed:
        """Send what waits, also for processes that died, for so many seconds at most.

        Returns at once where nothing can be sent before something is corrected. Raises
        ConfigurationError if there is no outbox.
        """
        return self._the_outbox().flush(timeout)

    def stats(self) -> Stats:
        """How the outbox stands. Raises ConfigurationError if there is none."""
        return self._the_outbox().stats()

    def close(self, timeout: float = 2.0) -> None:
        """Close the connections of this process; any later use raises ConfigurationError.

        What waits in the outbox is sent for so many seconds at most; the rest stays on disk for
        the next process.
        """
        if self._outbox is not None:
            self._outbox.close(timeout)
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
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

    def _call_for_one(self, usage: Usage) -> Call[Receipt]:
        request_id = usage.request_id
        return Call(
            self._transport,
            self._limits,
            usage.to_json(),
            [request_id],
            lambda answer: read_record(answer, request_id),
        )

    def _receipts_of(self, batch: Batch) -> Receipts:
        ids = batch.request_ids
        call = Call(
            self._transport, self._limits, batch.body(), ids, lambda answer: read_batch(answer, ids)
        )
        receipts = call.result()
        for receipt in receipts:
            if receipt.error is not None:
                call.stamp(receipt.error)
        return receipts


def check_usage(usage: object, method: str) -> None:
    """Raise ValidationError unless the argument of ``method`` is a Usage."""
    if not isinstance(usage, Usage):
        raise ValidationError(f"{method} was given a {type(usage).__name__}, expected Usage.")


def _noted(usages: Iterable[Usage], ids: list[str]) -> Iterator[Usage]:
    """The same usages, their ids written down as they are taken."""
    for usage in usages:
        if not isinstance(usage, Usage):
            raise ValidationError(
                f"record_many was given a {type(usage).__name__}, expected Usage; "
                "the records without a receipt were not sent."
            )
        ids.append(usage.request_id)
        yield usage
