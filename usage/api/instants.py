"""Times on the wire: RFC 3339 with an offset. A refusal names the missing or wrong part."""

from __future__ import annotations

import datetime as dt
import re
from decimal import Decimal
from typing import Any

from django.core.exceptions import ValidationError

_TIME = r"([01]\d|2[0-3]):[0-5]\d"
# RFC 3339, section 5.6, without leap seconds.
_INSTANT = re.compile(rf"\d{{4}}-\d\d-\d\d[Tt]{_TIME}:[0-5]\d(\.\d+)?([Zz]|[+-]{_TIME})", re.ASCII)
# Nearly RFC 3339: how the standard libraries of many languages write a time.
_NEARLY = re.compile(
    r"\d{4}-\d\d-\d\d"
    r"((?P<between>[Tt]|\s*)\d\d:\d\d(?P<seconds>:\d\d)?(?P<fraction>[.,]\d*)?"
    r"(?P<space>\s*)(?P<offset>[Zz]|[+-]\d\d(:?\d\d)?)?(?P<rest>.*))?",
    re.ASCII | re.DOTALL,
)
_NUMBER = re.compile(r"\s*[+-]?\d+(\.\d*)?\s*", re.ASCII)
# A time that was never set: year 1 in Go and .NET, in zones west of Greenwich the day before.
_YEAR_ONE = ("0001-01-01", "0000-12-31")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_SEND = 'Send a string such as "2026-11-22T10:00:00Z".'
_LEAVE_OUT = "leave the field out: the usage then occurred when the service records it."
_UNSET = f"The time is not set: this is how an unset time is written. Set it, or {_LEAVE_OUT}"


def read_instant(data: Any) -> dt.datetime:
    """Return the instant that a JSON value states, in UTC, cut to the millisecond.

    Raises ValidationError with a message that names each missing or wrong part.
    """
    if data is None or data == "":
        given = "null" if data is None else "An empty string"
        raise ValidationError(f"{given} is not a time. Set it, or {_LEAVE_OUT}", code="type")
    if not isinstance(data, str):
        is_number = isinstance(data, int | Decimal) and not isinstance(data, bool)
        given = "A number" if is_number else "This JSON value"
        raise ValidationError(f"{given} is not a time. {_SEND}", code="type")
    if not _INSTANT.fullmatch(data):
        raise ValidationError(" ".join([*_faults(data), _SEND]), code="type")
    try:
        instant = dt.datetime.fromisoformat(data.upper()).astimezone(dt.UTC)
    except (ValueError, OverflowError) as error:
        message = _UNSET if data.startswith(_YEAR_ONE) else f"There is no such date. {_SEND}"
        raise ValidationError(message, code="type") from error
    if data.startswith(_YEAR_ONE) or instant == _EPOCH:
        raise ValidationError(_UNSET, code="too_long_ago")
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def _faults(text: str) -> list[str]:
    """Return a sentence for each thing that keeps a text from being RFC 3339."""
    if _NUMBER.fullmatch(text):
        return ["A Unix timestamp is not a time of RFC 3339."]
    nearly = _NEARLY.fullmatch(text)
    if nearly is None:
        return ["This is not a date and time as RFC 3339 writes them."]
    if nearly["between"] is None:
        return ["The time of day and the offset are missing."]
    has_odd_fraction = nearly["fraction"] and not re.fullmatch(r"\.\d+", nearly["fraction"])
    offset = nearly["offset"] or ""
    colon_added = f"{offset[:3]}:{offset[3:]}"
    faults = {
        "Write T between the date and the time of day.": nearly["between"] not in {"T", "t"},
        "The seconds are missing.": nearly["seconds"] is None,
        "Leap seconds are not accepted: write :59.": nearly["seconds"] == ":60",
        "Write the fraction of a second as a point and digits.": has_odd_fraction,
        "The offset is missing: end with Z for UTC, or an offset such as +01:00.": not offset,
        f"The minutes of the offset are missing: write {offset}:00.": len(offset) == 3,
        f"The colon in the offset is missing: write {colon_added}.": len(offset) == 5,
        "Write no space before the offset.": offset and nearly["space"],
        "Write nothing after the offset.": offset and nearly["rest"],
    }
    found = [sentence for sentence, is_found in faults.items() if is_found]
    return found or ["The time of day or the offset is out of range."]
