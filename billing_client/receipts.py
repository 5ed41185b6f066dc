"""The service's answer to each record."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal, SupportsIndex, TypeVar, overload

from billing_client.errors import BillingError, ConflictError, ValidationError, some

_T = TypeVar("_T")
Status = Literal["created", "replayed", "rejected"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The service's answer to one record.

    status       "created"; "replayed": the service held it already, also when an earlier attempt
                 of this very call had got through; "rejected": it is not recorded, error says why
    amount       units times price, exact and unrounded, in the customer's currency
    bill_id      the bill it is on
    late         True if its own month was over, so that it went on the current bill
    error        for a rejected record the error that record_usage would have raised for it
    month        the month of that bill, such as "2026-11", in the service's time zone
    occurred_at  when the usage occurred, in UTC; the time of recording if none was sent, so that
                 a record of a month that had just ended may be on the next month's bill

    ``amount``, ``bill_id``, ``month`` and ``occurred_at`` are None if the record is rejected.
    """

    request_id: str
    status: Status
    amount: Decimal | None = None
    bill_id: int | None = None
    late: bool = False
    error: BillingError | None = field(default=None, compare=False)
    month: str | None = None
    occurred_at: datetime | None = None


class Receipts(list[Receipt]):
    """A list with one receipt per record, in the order the records were given.

    Slices, sums and copies are Receipts too.
    """

    @property
    def created(self) -> Receipts:
        """Those recorded by this call."""
        return self._of("created")

    @property
    def replayed(self) -> Receipts:
        """Those the service held already."""
        return self._of("replayed")

    @property
    def rejected(self) -> Receipts:
        """Those that are not recorded; each has its ``error``."""
        return self._of("rejected")

    @overload
    def __getitem__(self, index: SupportsIndex) -> Receipt: ...

    @overload
    def __getitem__(self, index: slice) -> Receipts: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Receipt | Receipts:
        found = super().__getitem__(index)
        return found if isinstance(found, Receipt) else Receipts(found)

    def __add__(self, other: list[Any]) -> Receipts:  # type: ignore[override]  # of receipts only
        return Receipts(super().__add__(other))

    def copy(self) -> Receipts:
        """A shallow copy."""
        return Receipts(self)

    def __repr__(self) -> str:
        counts = f"{len(self.created)} created, {len(self.replayed)} replayed"
        rejected = self.rejected
        names = ": " + some([one.request_id for one in rejected], 3) if rejected else ""
        return f"<Receipts: {counts}, {len(rejected)} rejected{names}>"

    def raise_for_rejected(self) -> None:
        """Raise one error for all rejected records; do nothing if there are none.

        Its class is theirs if they share one, else BillingError itself; its ``request_ids`` are
        all the rejected ones and its ``receipts`` is this list.
        """
        rejected = self.rejected
        errors = [receipt.error for receipt in rejected if receipt.error is not None]
        if not errors:
            return
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else BillingError
        ids = tuple(receipt.request_id for receipt in rejected)
        summary = kind(
            f"{len(errors)} of {len(self)} usage records were rejected ({some(ids, 3)}); the first:"
            f" {errors[0]}"
        )
        summary.request_ids = ids
        summary.status_code = _shared([error.status_code for error in errors])
        summary.code = _shared([error.code for error in errors])
        summary.attempts = max(error.attempts for error in errors)
        summary.ambiguous = any(error.ambiguous for error in errors)
        summary.trace_id = _shared([error.trace_id for error in errors])
        summary.receipts = self
        if isinstance(summary, ValidationError):
            summary.fields = tuple(
                f for e in errors if isinstance(e, ValidationError) for f in e.fields
            )
        if isinstance(summary, ConflictError):
            names = (
                name
                for e in errors
                if isinstance(e, ConflictError)
                for name in e.conflicting_fields
            )
            summary.conflicting_fields = tuple(dict.fromkeys(names))
        raise summary

    def _of(self, status: Status) -> Receipts:
        return Receipts(receipt for receipt in self if receipt.status == status)


def _shared(values: list[_T]) -> _T | None:
    return values[0] if all(value == values[0] for value in values) else None
