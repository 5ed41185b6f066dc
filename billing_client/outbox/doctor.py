"""Checks what an outbox needs, and says what to correct."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from billing_client.answers import Answer, refusal
from billing_client.config import Limits, api_key_of, endpoint_of
from billing_client.errors import AuthenticationError, BillingError, ValidationError
from billing_client.outbox.directory import usable
from billing_client.retries import http_date
from billing_client.transport import Transport

_SKEW_SECONDS = 60.0
_FREE_BYTES = 256 * 1024**2


def examine(directory: Path, url: str | None) -> Iterator[tuple[bool, str]]:
    """Look at directory, disk, URL, key and clock, in this order; nothing is recorded.

    Of each, whether it is fine, and a sentence that says what to do if it is not.
    """
    try:
        usable(directory)
        found = directory.stat()
        mode = found.st_mode & 0o777
        is_private = not mode & 0o077 and found.st_uid == os.getuid()
        text = f"{directory} has mode {mode:o}; only its user should see usage: chmod 700."
        yield is_private, text
        free = shutil.disk_usage(directory).free
        yield free > _FREE_BYTES, f"The disk of {directory} has {free // 1024**2} MiB free."
        with closing(Transport(endpoint_of(url), api_key_of(None), Limits())) as transport:
            # The service refuses an empty batch, but only of those who showed a key.
            request = transport.prepare(b"[]", trace_id=uuid4().hex)
            answer = transport.post(request, seconds=13.0)
    except BillingError as error:
        yield False, str(error)
    else:
        yield from _key_and_clock(answer)


def _key_and_clock(answer: Answer) -> Iterator[tuple[bool, str]]:
    error = refusal(answer)
    if isinstance(error, ValidationError):
        yield True, "The service is there and accepts the key."
    else:
        what = "key" if isinstance(error, AuthenticationError) else "URL"
        yield False, f"Correct the {what}: {error}"
    there = http_date(answer.headers.get("Date", ""))
    if there is None:
        yield True, "The service does not say what time it is."
        return
    skew = (datetime.now(UTC) - there).total_seconds()
    text = (
        f"This machine's clock is {skew:+.0f} s off the service's; usage stamped more than 5"
        " minutes ahead waits: set it by NTP."
    )
    yield abs(skew) < _SKEW_SECONDS, text
