"""What the service said of each record."""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, TypeVar

from billing_client.errors import BillingError, ConflictError, ValidationError

_T = TypeVar("_T")
Status = Literal["created", "replayed", "rejected"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """The service's word on one record, by its id.

    status   "created"; "replayed": the service held it already, also when an earlier attempt of
             this very call had got through; "rejected": it is not recorded, and error says why
    amount   units times price, exact and unrounded, in the customer's currency; None if rejected
    bill_id  the bill it is on; None if rejected
    late     True if its own month was over, so that it went on the current bill
    error    for a rejected record the error that record_usage would have raised for it
    """

    request_id: str
    status: Status
    amount: Decimal | None = None
    bill_id: int | None = None
    late: bool = False
    error: BillingError | None = field(default=None, compare=False)


class Receipts(list[Receipt]):
    """A list with one receipt per record, in the order the records were given."""

    @property
    def created(self) -> list[Receipt]:
        """Those recorded by this call."""
        return self._of("created")

    @property
    def replayed(self) -> list[Receipt]:
        """Those the service held already."""
        return self._of("replayed")

    @property
    def rejected(self) -> list[Receipt]:
        """Those that are not recorded; each has its ``error``."""
        return self._of("rejected")

    def raise_for_rejected(self) -> None:
        """Raise one error for all rejected records; do nothing if there are none.

        Its class is theirs if they share one, else BillingError itself; its ``request_ids`` are
        all the rejected ones and its ``receipts`` is this list.
        """
        errors = [receipt.error for receipt in self.rejected if receipt.error is not None]
        if errors:
            raise self._summary(errors)

    def _of(self, status: Status) -> list[Receipt]:
        return [receipt for receipt in self if receipt.status == status]

    def _summary(self, errors: list[BillingError]) -> BillingError:
        kinds = {type(error) for error in errors}
        kind = kinds.pop() if len(kinds) == 1 else BillingError
        summary = kind(
            f"{len(errors)} of {len(self)} usage records were rejected; the first: {errors[0]}"
        )
        summary.request_ids = tuple(receipt.request_id for receipt in self.rejected)
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
        return summary


def _shared(values: list[_T]) -> _T | None:
    return values[0] if all(value == values[0] for value in values) else None
