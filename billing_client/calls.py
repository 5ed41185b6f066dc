"""One request and all its attempts, each with the same bytes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from uuid import uuid4

import backoff

from billing_client.answers import Answer
from billing_client.config import Limits
from billing_client.errors import (
    BillingError,
    ConflictError,
    RateLimitedError,
    UnavailableError,
    some,
)
from billing_client.retries import SHORTEST_ATTEMPT, Deadline, waits
from billing_client.transport import Transport

logger = logging.getLogger(__name__)

RETRIED = (UnavailableError, RateLimitedError)
_T = TypeVar("_T")


@dataclass(repr=False, eq=False)
class Call(Generic[_T]):
    """Sends one body until ``read`` understands an answer to these ids, within the limits."""

    transport: Transport
    limits: Limits
    body: bytes
    request_ids: Sequence[str]
    read: Callable[[Answer, Sequence[str]], _T]
    attempts: int = 0
    ambiguous: bool = False

    def __post_init__(self) -> None:
        self._trace_id = uuid4().hex
        self._deadline = Deadline(self.limits.total)

    def result(self) -> _T:
        """The result of ``read`` for the first answer it understood. Raises BillingError."""
        retrying = backoff.on_exception(
            waits,
            RETRIED,
            jitter=None,
            logger=None,
            on_backoff=self._log,
            deadline=self._deadline,
            attempts=self.limits.attempts,
        )
        try:
            return retrying(self._attempt)()
        except BillingError as error:
            # Without its context: the end of the retry loop means nothing to the caller.
            raise error from None

    def stamp(self, error: BillingError) -> None:
        """Set the attempts, trace id and ambiguity of the whole call on an error.

        A lost attempt may still arrive, and be recorded if its customer exists by then, or its
        time is no longer too far ahead. Only a conflict will surely be refused again.
        """
        error.attempts = self.attempts
        error.trace_id = self._trace_id
        error.ambiguous = self.ambiguous and not isinstance(error, ConflictError)

    def _attempt(self) -> _T:
        try:
            request = self.transport.prepare(self.body, trace_id=self._trace_id)
            self.attempts += 1
            # Not less, even if the machine slept through the deadline: urllib3 refuses 0.
            seconds = max(self._deadline.left(), SHORTEST_ATTEMPT)
            answer = self.transport.post(request, seconds=seconds)
            return self.read(answer, self.request_ids)
        except BillingError as error:
            self.ambiguous = self.ambiguous or error.ambiguous
            self.stamp(error)
            error.request_ids = tuple(self.request_ids)
            raise

    def _log(self, details: Any) -> None:
        logger.warning(
            "attempt %d for %s failed, the next one in %.2f s (X-Request-ID %s): %s",
            self.attempts,
            some(self.request_ids, 1),
            details["wait"],
            self._trace_id,
            details["exception"],
        )
