"""Times as the standard libraries of many languages write them: read exactly, or told why not."""

import datetime as dt
from decimal import Decimal
from typing import Any

import pytest
from django.core.exceptions import ValidationError

from usage.api.instants import read_instant

LEAVE_OUT = "leave the field out"
NO_OFFSET = "The offset is missing"


def refusal(data: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        read_instant(data)
    return str(caught.value.message)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("2026-11-22T10:00:00Z", 0),  # Go and JavaScript, whole seconds
        ("2026-11-22T10:00:00.1Z", 100),  # Go's RFC3339Nano drops zeros at the end
        ("2026-11-22T10:00:00.123Z", 123),  # JavaScript's toISOString
        ("2026-11-22T10:00:00.123456+00:00", 123),  # Python's isoformat
        ("2026-11-22T10:00:00.123456789Z", 123),  # Java's Instant, Rust's chrono
        ("2026-11-22T10:00:00.1239999-00:00", 123),  # .NET's round trip
        ("2026-11-22t11:00:00+01:00", 0),
        (f"2026-11-22T10:00:00.123{'9' * 1000}Z", 123),
    ],
)
def test_what_languages_write_is_read_exactly(text: str, milliseconds: int) -> None:
    expected = dt.datetime(2026, 11, 22, 10, 0, 0, milliseconds * 1000, tzinfo=dt.UTC)

    assert read_instant(text) == expected


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("2026-11-22", ["time of day", "offset"]),
        ("2026-11-22T10:00Z", ["The seconds are missing"]),  # Java's OffsetDateTime
        ("2026-11-22T10:00+01:00", ["The seconds are missing"]),
        ("2026-11-22T10:00", ["The seconds are missing", NO_OFFSET]),  # Java's LocalDateTime
        ("2026-11-22T10:00:00", [NO_OFFSET]),  # Python's naive datetime
        ("2026-11-22T10:00:00.123456", [NO_OFFSET]),
        ("2026-11-22T10:00:00+0100", ["The colon in the offset is missing: write +01:00"]),
        ("2026-11-22T10:00:00+01", ["The minutes of the offset are missing: write +01:00"]),
        ("2026-11-22T10:00:00+01:00[Europe/Vienna]", ["nothing after the offset"]),  # ZonedDateTime
        ("2026-11-22T10:00:00Z\n", ["nothing after the offset"]),
        ("2026-11-22 10:00:00+00:00", ["Write T between"]),  # Python's str
        ("2026-11-22 10:00:00.1 UTC", ["Write T between", NO_OFFSET]),  # Rust's chrono
        ("2026-11-22 10:00:00 +0000 UTC", ["Write T between", "colon", "space"]),  # Go's String
        ("2026-11-22T10:00:00,123Z", ["point and digits"]),
        ("2026-11-22T10:00:00.Z", ["point and digits"]),
        ("2026-11-22T10:00:60Z", ["Leap seconds"]),
        ("2026-11-22T24:00:00Z", ["out of range"]),
        ("2026-11-22T10:00:00+25:00", ["out of range"]),
        ("2026-02-29T10:00:00Z", ["no such date"]),
        ("Sun, 22 Nov 2026 10:00:00 GMT", ["RFC 3339"]),  # HTTP, JavaScript's toUTCString
        ("1795341600", ["Unix timestamp"]),
        (1795341600, ["A number is not a time"]),
        (Decimal("1795341600.5"), ["A number is not a time"]),
        ([], ["This JSON value is not a time"]),
        (True, ["This JSON value is not a time"]),
        ("x" * 1000, ["RFC 3339"]),
        (f"2026-11-22T10:00:00.{'9' * 1000}", [NO_OFFSET]),
    ],
)
def test_a_refusal_names_what_is_missing_or_wrong_and_shows_an_example(
    text: Any, named: list[str]
) -> None:
    message = refusal(text)

    assert [part for part in named if part not in message] == []
    assert '"2026-11-22T10:00:00Z"' in message


@pytest.mark.parametrize("data", [None, ""])
def test_instead_of_null_the_field_is_left_out(data: Any) -> None:
    assert LEAVE_OUT in refusal(data)


@pytest.mark.parametrize(
    "text",
    [
        "0001-01-01T00:00:00Z",  # Go's time.Time{}, .NET's default(DateTime)
        "0001-01-01T01:05:21+01:05",  # the same in Vienna
        "0000-12-31T19:03:58-04:56",  # the same in New York
        "1970-01-01T00:00:00Z",  # a Unix clock at 0
        "1969-12-31T19:00:00-05:00",
    ],
)
def test_a_time_that_was_never_set_is_called_so(text: str) -> None:
    message = refusal(text)

    assert "not set" in message
    assert LEAVE_OUT in message
