"""Reads usage from CSV and from NDJSON, line by line, without a guess at any value."""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from string import Formatter
from typing import Any, NamedTuple

from billing_client.errors import ConfigurationError, ValidationError
from billing_client.strict_json import no_constant, unique_keys
from billing_client.usage import FIELDS, REQUIRED, Usage, camel_case

_DIGITS = re.compile(r"[1-9][0-9]{0,18}")
# What opened() makes of bytes that are not UTF-8.
_NOT_UTF_8 = re.compile("[\udc80-\udcff]")
_DECODER = json.JSONDecoder(
    object_pairs_hook=unique_keys, parse_float=str, parse_constant=no_constant
)


class Line(NamedTuple):
    """One line of a file: its number from 1, and either its usage or its problem."""

    number: int
    usage: Usage | None = None
    request_id: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a file has the values of the fields.

    columns      the column of a field, for those that are not named as in the contract
    id_from      a template such as "cdn:{date}:{customer}" of columns, for a file without ids
    occurred_at  the time of all lines, for a file without times
    """

    columns: Mapping[str, str]
    id_from: str | None = None
    occurred_at: datetime | None = None


class _Unfit(Exception):
    """A line that cannot be read, with its problem."""


def opened(name: str) -> io.TextIOWrapper:
    """The file of that name, or standard input for "-".

    Raises OSError, and ConfigurationError if it is not UTF-8 but UTF-16.
    """
    binary = sys.stdin.buffer if name == "-" else Path(name).open("rb")  # noqa: SIM115 - closed with text
    # Bytes that are not UTF-8 become surrogates, which only spoil their own line.
    text = io.TextIOWrapper(binary, "utf-8-sig", errors="surrogateescape", newline="")
    if isinstance(binary, io.BufferedReader) and binary.peek(2)[:2] in (b"\xff\xfe", b"\xfe\xff"):
        text.close()
        raise ConfigurationError("The file is UTF-16; save it as UTF-8 (in Excel: CSV UTF-8).")
    return text


def instant(text: str) -> datetime:
    """A time of RFC 3339. Raises ValueError with a clause that names the missing part."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError("is not a time such as 2026-11-22T10:00:00Z") from None
    if found.tzinfo is None:
        raise ValueError("has no offset: add Z for UTC, or one such as +01:00")
    return found


def check_template(template: str) -> None:
    """Raise ValueError unless the template has columns in braces, and no more than their names."""
    names = _columns_of(template)
    if not names or not all(names):
        raise ValueError("has no column in braces, such as {date}")
    if any(spec or conversion for _, _, spec, conversion in Formatter().parse(template)):
        raise ValueError("has more than a column's name in braces")


def csv_lines(text: io.TextIOWrapper, layout: Layout) -> Iterator[Line]:
    """The lines below the header; empty ones are skipped.

    Raises ConfigurationError, before the first line, if the file as a whole cannot be read.
    """
    header = text.readline()
    if not header.strip():
        raise ConfigurationError("The file has no header in its first line.")
    if header.startswith("{"):
        raise ConfigurationError(
            "The first line is an object, not a header; pass --format ndjson for a file with one"
            " JSON object per line."
        )
    delimiter = max(",;\t", key=header.count)
    try:
        names = next(csv.reader([header], delimiter=delimiter, strict=True))
    except csv.Error as error:
        raise ConfigurationError(
            f"The header in the first line cannot be read as CSV ({error}); correct it."
        ) from None
    names = [name.strip() for name in names]
    _check_header(names, layout)
    return _lines_below(text, names, delimiter, layout)


def _lines_below(
    text: io.TextIOWrapper, names: list[str], delimiter: str, layout: Layout
) -> Iterator[Line]:
    reader = csv.reader(text, delimiter=delimiter, strict=True)
    number = 2
    try:
        for cells in reader:
            if len(cells) == len(names) and any(cell.strip() for cell in cells):
                yield _line(number, dict(zip(names, cells, strict=True)), layout)
            elif any(cell.strip() for cell in cells):
                problem = (
                    f"has {len(cells)} cells, but the header has {len(names)}: quote cells that"
                    f" have a {delimiter!r}"
                )
                yield Line(number, problem=problem)
            number = reader.line_num + 2
    except csv.Error as error:
        problem = (
            f"cannot be read ({error}): look for an unmatched quote. Nothing after it was read"
        )
        yield Line(number, problem=problem)


def _check_header(names: list[str], layout: Layout) -> None:
    """Raise ConfigurationError unless every field has one source."""
    it_has = f"it has {', '.join(names)}"
    for column in layout.columns.values():
        if column not in names:
            raise ConfigurationError(f"The file has no column {column!r}; {it_has}.")
    try:
        found = {field: name for field in FIELDS if (name := _column(field, names, layout))}
    except _Unfit as unfit:
        raise ConfigurationError(f"The file {unfit}.") from None
    missing = [field for field in REQUIRED if field not in found]
    if missing:
        raise ConfigurationError(
            f"The file has no column {', '.join(missing)}; {it_has}. Name the columns with"
            " --column FIELD=NAME."
        )
    sources = {"request_id": layout.id_from, "occurred_at": layout.occurred_at}
    options = {"request_id": "--id-from", "occurred_at": "--occurred-at"}
    for field, source in sources.items():
        if field in found and source is not None:
            raise ConfigurationError(
                f"The file has a column for {field}; leave {options[field]} out."
            )
        if field not in found and source is None:
            raise ConfigurationError(
                f"The file has no column {field}; {it_has}. Name it with --column {field}=NAME, or"
                f" pass {options[field]}: the file would otherwise be billed twice, or in another"
                " month, if it is sent again."
            )
    of_template = _columns_of(layout.id_from or "")
    if lacking := [name for name in of_template if name not in names]:
        raise ConfigurationError(
            f"The file has no column {', '.join(lacking)} for --id-from; {it_has}."
        )
    if twice := [name for name in (*found.values(), *of_template) if names.count(name) > 1]:
        raise ConfigurationError(
            f"The file has more than one column {twice[0]}: give each a name of its own."
        )


def ndjson_lines(text: io.TextIOWrapper, layout: Layout) -> Iterator[Line]:
    """The lines with an object each; empty ones are skipped."""
    for number, line in enumerate(text, start=1):
        if not line.strip():
            continue
        try:
            row = _DECODER.decode(line)
        except json.JSONDecodeError as error:
            said = error.msg.lower().removesuffix(" at")
            problem = f"is not JSON: {said} at column {error.colno}"
        except (ValueError, RecursionError) as error:
            problem = f"is not JSON as expected: {error}"
        else:
            if isinstance(row, dict):
                yield _line(number, row, layout)
                continue
            problem = "is not a JSON object with a record's fields"
        yield Line(number, problem=problem)


def _line(number: int, row: dict[str, Any], layout: Layout) -> Line:
    try:
        usage = Usage(**_given(row, layout))
    except _Unfit as unfit:
        problem = str(unfit)
    except ValidationError as error:
        problem = "; ".join(
            f"column {_column(fault.field, row, layout) or fault.field}: {fault.detail}"
            for fault in error.fields
        )
    else:
        return Line(number, usage, usage.request_id)
    try:
        column = _column("request_id", row, layout)
        given = _id_from(row, layout) if column is None else row[column]
    except _Unfit:
        given = None
    return Line(number, None, "" if given is None else str(given), problem)


def _given(row: dict[str, Any], layout: Layout) -> dict[str, Any]:
    """The arguments of Usage. Raises _Unfit."""
    for column, cell in row.items():
        if isinstance(cell, str) and _NOT_UTF_8.search(cell):
            raise _Unfit(f"column {column}: is not UTF-8; save the file as UTF-8")
    columns = {field: _column(field, row, layout) for field in FIELDS}
    given = {field: row[column] for field, column in columns.items() if column is not None}
    missing = [field for field in REQUIRED if field not in given]
    if missing:
        raise _Unfit(f"has no field {', '.join(missing)}")
    # Usage would make up an id for None, and another one each time that the file is sent.
    if nulls := [str(columns[field]) for field in given if given[field] is None]:
        raise _Unfit(f"has null for {', '.join(nulls)}")
    if "request_id" not in given:
        given["request_id"] = _id_from(row, layout)
    elif layout.id_from is not None:
        raise _Unfit("has an id; leave --id-from out")
    customer = given["customer_id"]
    if isinstance(customer, str):
        if not _DIGITS.fullmatch(customer):
            raise _Unfit(
                f"column {columns['customer_id']}: {customer[:60]!r} is not plain digits such as"
                " 123"
            )
        given["customer_id"] = int(customer)
    given["occurred_at"] = _time(row, columns["occurred_at"], layout)
    return given


def _time(row: dict[str, Any], column: str | None, layout: Layout) -> datetime:
    if column is not None and layout.occurred_at is not None:
        raise _Unfit("has a time; leave --occurred-at out")
    if column is not None:
        try:
            return instant(str(row[column]))
        except ValueError as error:
            raise _Unfit(f"column {column}: {row[column]!r} {error}") from None
    if layout.occurred_at is None:
        raise _Unfit("has no field occurred_at, and --occurred-at was not passed")
    return layout.occurred_at


def _id_from(row: dict[str, Any], layout: Layout) -> str:
    if layout.id_from is None:
        raise _Unfit("has no field request_id, and --id-from was not passed")
    made = ""
    # Not by format_map(), which would look for a part of the column in {usage.id}.
    for before, name, _, _ in Formatter().parse(layout.id_from):
        made += before
        if name is not None:
            if name not in row:
                raise _Unfit(f"has no column {name} for --id-from")
            if row[name] is None or row[name] == "":
                raise _Unfit(f"column {name}: is empty, but --id-from needs it")
            made += str(row[name])
    return made


def _columns_of(template: str) -> list[str]:
    return [name for _, name, _, _ in Formatter().parse(template) if name is not None]


def _column(field: str, names: Any, layout: Layout) -> str | None:
    """The column that has the field, None if there is none. Raises _Unfit if there are two."""
    mapped = layout.columns.get(field)
    candidates = dict.fromkeys([field, camel_case(field)] if mapped is None else [mapped])
    found = [name for name in candidates if name in names]
    if len(found) > 1:
        raise _Unfit(f"has both {' and '.join(found)}: leave one of them out")
    return found[0] if found else None
