"""CSV files of lines, records and bills, with a few rows in memory, however many there are."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from io import TextIOWrapper
from tempfile import TemporaryFile
from typing import Any, cast

from django.core.exceptions import PermissionDenied
from django.http import FileResponse, Http404, HttpRequest

from usage.admin.pages import BillingAdmin
from usage.admin.paging import KeysetChangeList
from usage.database import deadline
from usage.models import Bill, UsageRecord
from usage.money import plain

# Spreadsheet programs run a cell that begins with one of these as a formula. The apostrophe is
# among them so that the ones added can be removed again.
_FORMULA_STARTS = (
    r"=+\-@'"
    "\N{FULLWIDTH EQUALS SIGN}\N{FULLWIDTH PLUS SIGN}"
    "\N{FULLWIDTH HYPHEN-MINUS}\N{FULLWIDTH COMMERCIAL AT}"
)
# Some of these programs separate cells by semicolons, as in much of Europe, or by tabs, whatever is
# quoted. There, a new cell begins inside of a text, and a new row after a line break.
_FORMULA = re.compile(rf"\A(?=[{_FORMULA_STARTS}\t\r\n])|(?<=[;\t\r\n])(?=[{_FORMULA_STARTS}])")
_ROWS_AT_ONCE = 1000

LINE_COLUMNS = ("service", "price_per_unit", "units", "records", "amount", "exact_amount")
RECORD_COLUMNS = (
    "request_id",
    "customer_id",
    "bill_id",
    "service",
    "units",
    "price_per_unit",
    "amount",
    "currency",
    "occurred_at",
    "recorded_at",
    "late",
    "reported_by",
    "voids",
    "voided_by",
    "void_reason",
)
BILL_COLUMNS = (
    "bill_id",
    "customer_id",
    "customer",
    "currency",
    "month",
    "period_start",
    "period_end",
    "state",
    "total",
    "reference",
)


def text(value: str | None) -> str:
    r"""Return a text as a cell, with an apostrophe in front of any formula in it.

    ``re.sub(r"(\A|[;\t\r\n])'", r"\1", cell)`` removes the apostrophes.
    """
    return _FORMULA.sub("'", value or "")


def csv_response(
    filename: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> FileResponse:
    """Return a file of UTF-8 and commas.

    The file is complete before the answer begins, and its length is sent with it. Without the
    length, a file that was cut off looks whole. The database may take as long as it needs, but
    may not be silent for more than 8 seconds.
    """
    # On the disk, since it has as many rows as there are; FileResponse closes it.
    file = TemporaryFile()  # noqa: SIM115 - see above
    try:
        text_file = TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.writer(text_file)
        with deadline.patient():
            writer.writerow(columns)
            writer.writerows(rows)
        text_file.detach()
        file.seek(0)
    except BaseException:
        file.close()
        raise
    return FileResponse(
        file, as_attachment=True, filename=filename, content_type="text/csv; charset=utf-8"
    )


def line_rows(bill: Bill) -> Iterator[Sequence[Any]]:
    """Yield a bill's lines; their amounts add up to its total."""
    for line in bill.lines():
        yield (
            text(line.service),
            plain(line.price_per_unit),
            plain(line.units),
            line.records,
            f"{line.amount:f}",
            plain(line.exact_amount),
        )


def record_row(record: UsageRecord) -> Sequence[Any]:
    """Return a record; the amounts of a bill's records add up to its exact amount."""
    return (
        text(record.pk),
        record.customer_id,
        record.bill_id,
        text(record.service),
        plain(record.units),
        plain(record.price_per_unit),
        plain(record.amount),
        record.bill.currency,
        record.occurred_at.isoformat(timespec="milliseconds"),
        record.recorded_at.isoformat(timespec="milliseconds"),
        int(record.late),
        text(record.reported_by.name if record.reported_by else ""),
        text(record.voids_id),
        text(record.voided_by),
        text(record.void_reason),
    )


def bill_row(bill: Any) -> Sequence[Any]:
    """Return a bill that its list has prepared."""
    return (
        bill.pk,
        bill.customer_id,
        text(bill.customer_name),
        bill.currency,
        f"{bill.month:%Y-%m}",
        bill.period_start.isoformat(timespec="milliseconds"),
        bill.period_end.isoformat(timespec="milliseconds"),
        "closed" if bill.is_closed else "open",
        f"{bill.cells['amount']:f}",
        text(bill.customer_reference),
    )


def rows_of_list(model_admin: BillingAdmin, request: HttpRequest) -> Iterator[Any]:
    """Return all rows of a list with the filters of the request, read a bounded number at a time.

    Raises PermissionDenied, or Http404 for filters that are malformed.
    """
    if not model_admin.has_view_permission(request):
        raise PermissionDenied
    changelist = cast("KeysetChangeList", model_admin.get_changelist_instance(request))
    if changelist.refusal:
        raise Http404(changelist.refusal)
    return changelist.all_rows(request, _ROWS_AT_ONCE)
