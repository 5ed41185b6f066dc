"""What an outbox tells its application: events as they happen, and figures when asked."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from billing_client.errors import some

logger = logging.getLogger(__name__)

Kind = Literal[
    "sent", "rejected", "waiting", "failed", "paused", "resumed", "adopted", "unusable_file"
]
_LEVELS: dict[Kind, int] = {
    "sent": logging.DEBUG,
    "adopted": logging.INFO,
    "resumed": logging.INFO,
    "failed": logging.WARNING,
    "waiting": logging.WARNING,
}


@dataclass(frozen=True, slots=True)
class Event:
    """Something an outbox did.

    kind         "sent", "rejected", "waiting" (for its customer to be created, or for the
                 service's clock), "failed" (an attempt; retried by itself), "paused" (nothing is
                 sent until what ``reason`` says is corrected), "resumed", "adopted" (a file of a
                 process that ended), "unusable_file" (a file, or a line of one, is damaged)
    records      how many usage records it was about, 0 where that is not known
    reason       one sentence, empty where there is nothing to explain
    request_ids  the ids of the records that were rejected or wait
    """

    kind: Kind
    records: int = 0
    reason: str = ""
    request_ids: tuple[str, ...] = ()


OnEvent = Callable[[Event], object]


@dataclass(frozen=True, slots=True)
class Flushed:
    """What flush() did.

    sent           records that the service acknowledged meanwhile, also of processes that ended
    pending        records of this process that still wait on disk
    rejected       records that the service refused meanwhile; see ``billing-client rejected``
    paused_reason  what has to be corrected before anything is sent again, None if nothing
    """

    sent: int
    pending: int
    rejected: int
    paused_reason: str | None


@dataclass(frozen=True, slots=True)
class Stats:
    """An outbox at this moment.

    pending               as for Flushed
    oldest_seconds        how long the oldest record of this process has waited, by this machine's
                          clock; None if none waits
    sent, rejected        records acknowledged and refused since the client was made
    paused_reason         what has to be corrected before anything is sent again, None if nothing
    last_error            why the last attempt failed, None if it did not
    next_attempt_seconds  seconds until the next attempt after a failure, None if none is put off
    waiting_for           the customers that do not exist yet and that records wait for
    """

    pending: int
    oldest_seconds: float | None
    sent: int
    rejected: int
    paused_reason: str | None
    last_error: str | None
    next_attempt_seconds: float | None = None
    waiting_for: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Resent:
    """What resend() did.

    sent           records that were sent once more and that the service has now
    created        those of them that it had lost
    refused        the ids that it refused; create their customers and resend again
    covered_since  the earliest instant since which this host keeps all that it delivered, in UTC
    complete       whether that is early enough: False if something since then was removed
    """

    sent: int
    created: int
    refused: tuple[str, ...]
    covered_since: datetime
    complete: bool


class OutboxWarning(UserWarning):
    """Usage is left on disk, or an outbox is used in a way that costs more than it should."""


def tell(on_event: OnEvent | None, event: Event) -> None:
    """Log it, and hand it to the application, whose errors stop nothing."""
    ids = f" ({some(event.request_ids)})" if event.request_ids else ""
    level = _LEVELS.get(event.kind, logging.ERROR)
    logger.log(level, "outbox: %s, %d records%s. %s", event.kind, event.records, ids, event.reason)
    try:
        if on_event is not None:
            on_event(event)
    except Exception:
        logger.exception("on_event raised for %r; the outbox goes on", event)
