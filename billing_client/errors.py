"""What can go wrong, as one tree under BillingError; each class says whether resending is safe.

Resending a usage record under its own ``request_id`` is always safe in one sense: the service
stores an id once. The classes tell whether resending can help, and what to do first.
Every error can be pickled, and none of them ever holds the API key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from billing_client.receipts import Receipt


@dataclass(frozen=True, slots=True)
class FieldError:
    """One field that was refused: its name, a code for programs, a sentence for people."""

    field: str
    code: str
    detail: str


class BillingError(Exception):
    """Any error of this library; its subclass says whether to resend.

    request_ids  the ids that have no receipt because of this error
    status_code  the HTTP status of the last answer, None if there was none
    code         the service's own word for the problem, such as "validation_error"
    attempts     how many times the request was tried; 0 if it never left
    retry_after  seconds the service asked to wait, None if it did not say
    ambiguous    True if the service may hold, or may still come to hold, the usage: some attempt
                 may have reached it and got no trustworthy answer. Resend under the same id.
    receipts     from record_many: those that came, in order; not of what request_ids names
    trace_id     the X-Request-ID of the call, under which the service logged it
    """

    def __init__(
        self,
        message: str,
        *,
        request_ids: Iterable[str] = (),
        status_code: int | None = None,
        code: str | None = None,
        attempts: int = 0,
        retry_after: float | None = None,
        ambiguous: bool = False,
    ) -> None:
        super().__init__(message)
        self.request_ids = tuple(request_ids)
        self.status_code = status_code
        self.code = code
        self.attempts = attempts
        self.retry_after = retry_after
        self.ambiguous = ambiguous
        self.receipts: Sequence[Receipt] = ()
        self.trace_id: str | None = None


class ConfigurationError(BillingError):
    """The address, the key's form, a proxy or TLS is set up wrongly. Never retried.

    Resending is safe, but helps only once the set-up is corrected.
    """


class AuthenticationError(BillingError):
    """The service, or something in front of it, did not accept the API key. Never retried.

    Resending is safe, and works once the client holds a valid key.
    """


class ValidationError(BillingError, ValueError):
    """The usage is malformed or out of bounds; ``fields`` names every field at fault.

    Raised by ``Usage`` before anything is sent, or by the service's refusal, which stored
    nothing. Resending the same content cannot help; correct it and send it under the same id.
    """

    def __init__(
        self, message: str, *, fields: Iterable[FieldError] = (), request_ids: Iterable[str] = ()
    ) -> None:
        super().__init__(message, request_ids=request_ids)
        self.fields = tuple(fields)


class CustomerNotFoundError(BillingError):
    """The service knows no such customer; nothing was recorded.

    Resending the same usage under the same id is safe, and works once the customer exists.
    """


class ConflictError(BillingError):
    """A record with this id is stored already, with other content, which stays.

    Do not resend. ``conflicting_fields`` names what differs. If this is a retry, stop: the fact
    is recorded, and under a new id it would be billed twice. ``code`` is "occurred_at_conflict"
    where only the time differs, most often because it was made again for the retry. Only a fact
    that is really another one needs a new id; a wrong record is corrected by a void.
    """

    def __init__(self, message: str, *, conflicting_fields: Iterable[str] = ()) -> None:
        super().__init__(message)
        self.conflicting_fields = tuple(conflicting_fields)


class RateLimitedError(BillingError):
    """Too many requests, and the time to retry ran out.

    Resending under the same id is safe, after ``retry_after`` seconds.
    """


class UnavailableError(BillingError):
    """No trustworthy answer came within the attempts and the time allowed.

    Resending under the same id is safe and is what to do, after ``retry_after`` seconds if set;
    never resend under a new id, because ``ambiguous`` says whether the usage may be stored.
    """


class OutboxError(BillingError):
    """The usage could not be written to the outbox, or not safely where ``fsync`` asks for it.

    Correct the cause that the message names, then enqueue it again under the same id, never under
    a new one: what a disk kept of a write that it refused may have been sent.
    """


class OutboxFull(OutboxError):
    """The outbox has reached its bounds, or its disk is full; nothing was dropped.

    Enqueue it again under the same id once some of the waiting records were sent.
    """


def some(names: Sequence[object], most: int = 5) -> str:
    """The first names, and how many more there are, for messages."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(str, names[:most])) + more
