"""Sends records and says what becomes of each; knows the service, and neither files nor time.

A refusal of a whole request is taken apart until the culprit is alone. It counts against that
record only if others went through beside it: where everything is refused, the fault lies in the
address, the key or a proxy, and not in a day of usage.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

from billing_client.errors import (
    AuthenticationError,
    BillingError,
    ConfigurationError,
    ConflictError,
    CustomerNotFoundError,
    RateLimitedError,
    UnavailableError,
    ValidationError,
)
from billing_client.outbox.segment import Row
from billing_client.receipts import Receipt

# From the moment of enqueue, whichever process sends.
UNKNOWN_CUSTOMER_SECONDS = 7 * 24 * 3600.0
# Enough to take a full batch apart, and to see that nothing of it goes through.
_MOST_REFUSALS = 40
_TRANSIENT = (UnavailableError, RateLimitedError)

Ask = Callable[[Sequence[Row]], Sequence[Receipt | None]]
Fate = Literal["delivered", "rejected", "unknown_customer", "in_the_future"]


class Pause(Exception):
    """Nothing can be sent before someone corrects what this says."""


class Missing(Exception):
    """So many records got no verdict that can be trusted."""


class Verdict(NamedTuple):
    """What becomes of a record, and for a rejected one the problem.

    created  whether the service did not hold a delivered one before
    """

    row: Row
    fate: Fate
    status: int | None = None
    code: str | None = None
    problem: str = ""
    created: bool = False


def deliver(
    ask: Ask, rows: Sequence[Row], too_large: Callable[[int], None]
) -> Iterator[list[Verdict]]:
    """Verdicts, as the answers come in.

    Raises UnavailableError or RateLimitedError, Missing, or Pause.
    """
    parts = deque([rows])
    alone: list[Verdict] = []
    refusals, accepted, missing = 0, 0, 0
    refusal: BillingError | None = None
    while parts:
        part = parts.popleft()
        try:
            receipts = ask(part)
        except BillingError as error:
            _raise_unless_refusal(error)
            refusal, refusals = error, refusals + 1
            if not accepted and refusals > _MOST_REFUSALS:
                break
            if error.status_code == 413:
                too_large(len(part))
            if len(part) > 1:
                parts.extend((part[: len(part) // 2], part[len(part) // 2 :]))
            else:
                alone.append(_verdict(part[0], error))
            continue
        verdicts = [_read(row, r) for row, r in zip(part, receipts, strict=True) if r is not None]
        accepted += len(verdicts)
        missing += len(part) - len(verdicts)
        yield verdicts
    if refusal is not None and not accepted and not missing:
        raise Pause(f"Every usage record is refused. {refusal}")
    yield alone
    if missing:
        raise Missing(f"The service's answer has no readable verdict on {missing} records.")


def _raise_unless_refusal(error: BillingError) -> None:
    if isinstance(error, _TRANSIENT):
        raise error
    status = error.status_code or 0
    foreign = isinstance(error, ConfigurationError) and (not 400 <= status < 500 or status == 404)
    if foreign or isinstance(error, AuthenticationError):
        raise Pause(str(error)) from error


def _read(row: Row, receipt: Receipt) -> Verdict:
    if receipt.error is None:
        return Verdict(row, "delivered", created=receipt.status == "created")
    return _verdict(row, receipt.error)


def _verdict(row: Row, error: BillingError) -> Verdict:
    return Verdict(row, _fate(row, error), error.status_code, error.code, str(error))


def _fate(row: Row, error: BillingError) -> Fate:
    if isinstance(error, ConflictError) and row.stamped:
        # The same fact enqueued twice, each time with the time of its own.
        return "delivered" if error.conflicting_fields == ("occurred_at",) else "rejected"
    if isinstance(error, CustomerNotFoundError):
        waited = time.time() - row.at
        return "unknown_customer" if waited < UNKNOWN_CUSTOMER_SECONDS else "rejected"
    if isinstance(error, ValidationError) and row.stamped:
        faults = {(fault.field, fault.code) for fault in error.fields}
        # This machine's clock is ahead; the fact is right, and its time will come.
        return "in_the_future" if faults == {("occurred_at", "in_the_future")} else "rejected"
    return "rejected"
