"""How long to wait between attempts, and when to stop."""

from __future__ import annotations

import math
import re
from collections.abc import Generator, Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from random import uniform
from time import monotonic
from typing import Any

from billing_client.errors import BillingError

FIRST_CEILING = 0.5
LAST_CEILING = 8.0
# A shorter attempt would only fail, and leave it unclear whether the usage is recorded.
SHORTEST_ATTEMPT = 0.25

# The longest wait that any answer can ask for: a proxy may say 31 years, or the year 9999.
LONGEST_WAIT = 3600.0
_SECONDS = re.compile(r"[0-9]+")


class Deadline:
    """A point ``seconds`` from now on the monotonic clock; the wall clock does not move it.

    None means that it never comes.
    """

    def __init__(self, seconds: float | None) -> None:
        self._ends = monotonic() + (math.inf if seconds is None else seconds)

    def left(self) -> float:
        """Seconds left; negative once it has passed."""
        return self._ends - monotonic()


def waits(*, deadline: Deadline, attempts: int) -> Generator[float, Any, None]:
    """Seconds to wait before each next attempt, for backoff's retry loop.

    Full jitter (https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/) under
    a ceiling that doubles, on top of the Retry-After of the error sent in, so that clients told
    the same Retry-After do not come back at the same moment.

    Ends, which makes backoff raise the error at once, after so many attempts, or when the wait
    and a useful attempt no longer fit the deadline. An attempt that was answered with Retry-After
    does not count, unless there is only one: the service says that it will be back, and a failover
    takes longer than a few attempts.
    """
    error: BillingError = yield 0.0  # backoff primes the generator and drops this
    ceiling = FIRST_CEILING
    counted = 0
    while True:
        counted += error.retry_after is None or attempts == 1
        if counted == attempts:
            return
        floor = error.retry_after or 0.0
        spare = deadline.left() - SHORTEST_ATTEMPT - floor
        if spare < 0:
            return
        error = yield floor + uniform(0, min(ceiling, spare))  # noqa: S311 - spreads load, keeps no secret
        ceiling = min(ceiling * 2, LAST_CEILING)


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds the Retry-After header asks to wait (RFC 9110, 10.2.3), an hour at most.

    None if the header is absent or neither a number nor a date.

    A date is taken relative to the answer's own Date header where there is one, so that this
    machine's clock does not matter.
    """
    value = headers.get("Retry-After", "").strip()
    if _SECONDS.fullmatch(value):
        return min(float(value), LONGEST_WAIT)
    until = http_date(value)
    if until is None:
        return None
    now = http_date(headers.get("Date", "")) or datetime.now(UTC)
    return min(max(0.0, (until - now).total_seconds()), LONGEST_WAIT)


def http_date(text: str) -> datetime | None:
    """The instant of a header such as Date (RFC 9110, 5.6.7); None if it is no date."""
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, TypeError, OverflowError, IndexError):
        return None
    # The old asctime form names no zone; HTTP dates are always UTC.
    return date if date.tzinfo else date.replace(tzinfo=UTC)
