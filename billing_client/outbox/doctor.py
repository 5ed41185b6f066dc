"""Checks what an outbox needs, and says what to correct."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

from billing_client.answers import Answer, refusal
from billing_client.config import api_key_of, endpoint_of
from billing_client.errors import AuthenticationError, BillingError, ValidationError
from billing_client.outbox.directory import usable
from billing_client.retries import http_date
from billing_client.transport import Transport

_SKEW_SECONDS = 60.0
_FREE_BYTES = 256 * 1024**2


class Diagnosis(NamedTuple):
    """One thing that was looked at, in a sentence that says what to do if it is not fine."""

    fine: bool
    text: str


def examine(directory: Path, url: str | None) -> Iterator[Diagnosis]:
    """Look at directory, disk, URL, key and clock, in this order; nothing is recorded."""
    try:
        usable(directory)
    except BillingError as error:
        yield Diagnosis(False, str(error))  # noqa: FBT003 - a Diagnosis begins with whether it is fine
        return
    yield _privacy(directory)
    free = shutil.disk_usage(directory).free
    yield Diagnosis(free > _FREE_BYTES, f"The disk of {directory} has {free // 1024**2} MiB free.")
    try:
        answer = _asked(url)
    except BillingError as error:
        yield Diagnosis(False, str(error))  # noqa: FBT003 - as above
        return
    yield _welcome(answer)
    yield _clock(answer)


def _privacy(directory: Path) -> Diagnosis:
    found = directory.stat()
    mode = found.st_mode & 0o777
    private = not mode & 0o077 and found.st_uid == os.getuid()
    return Diagnosis(
        private, f"{directory} has mode {mode:o}; only its user should see usage: chmod 700."
    )


def _asked(url: str | None) -> Answer:
    transport = Transport(
        endpoint_of(url), api_key_of(None), connect_timeout=3.05, read_timeout=10.0
    )
    try:
        request = transport.prepare(b"[]", trace_id=uuid4().hex)
        return transport.post(request, seconds=13.0)
    finally:
        transport.close()


def _welcome(answer: Answer) -> Diagnosis:
    """An empty batch is refused, but only to those who showed a key."""
    error = refusal(answer)
    if isinstance(error, ValidationError):
        return Diagnosis(True, "The service is there and accepts the key.")  # noqa: FBT003 - as above
    what = "key" if isinstance(error, AuthenticationError) else "URL"
    return Diagnosis(False, f"Correct the {what}: {error}")  # noqa: FBT003 - as above


def _clock(answer: Answer) -> Diagnosis:
    there = http_date(answer.headers.get("Date", ""))
    if there is None:
        return Diagnosis(True, "The service does not say what time it is.")  # noqa: FBT003 - as above
    skew = (datetime.now(UTC) - there).total_seconds()
    return Diagnosis(
        abs(skew) < _SKEW_SECONDS,
        f"This machine's clock is {skew:+.0f} s off the service's; usage stamped more than 5"
        " minutes ahead waits: set it by NTP.",
    )
