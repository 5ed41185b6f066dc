"""Cuts any number of usage records into bodies the service takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from billing_client.errors import FieldError, ValidationError
from billing_client.receipts import Receipt, Receipts
from billing_client.usage import FIELDS, REQUIRED, Usage, invalid_usage

MOST_RECORDS = 1000
# The service takes 2 MiB; the margin is for what a proxy may count on top.
MOST_BYTES = 1_900_000


@dataclass(slots=True)
class Batch:
    """The records of one request, in order, and the receipts of the invalid items among them."""

    request_ids: list[str] = field(default_factory=list)
    invalid: list[tuple[int, Receipt]] = field(default_factory=list)  # by their place in the batch
    _records: list[bytes] = field(default_factory=list)
    _size: int = 2  # the brackets

    def __len__(self) -> int:
        return len(self.request_ids) + len(self.invalid)

    def add(self, request_id: str, record: bytes) -> None:
        """Append a record in its wire form."""
        self.request_ids.append(request_id)
        self._records.append(record)
        self._size += len(record) + 1

    def reject(self, receipt: Receipt) -> None:
        """Append the receipt of an item that is not sent."""
        self.invalid.append((len(self), receipt))

    def takes(self, record: bytes) -> bool:
        """Whether one more record fits by size; an empty batch takes any."""
        return self._size + len(record) <= MOST_BYTES or not self.request_ids

    def is_full(self) -> bool:
        """Whether it has as many items as one request may have."""
        return len(self) == MOST_RECORDS

    def body(self) -> bytes:
        """The JSON array."""
        return b"[" + b",".join(self._records) + b"]"

    def with_invalid(self, receipts: Receipts) -> Receipts:
        """The receipts of the records that were sent, and those of the invalid items in place."""
        for place, receipt in self.invalid:
            receipts.insert(place, receipt)
        return receipts


class Batches:
    """Full batches and a last one; items are taken as the next batch needs them.

    taken      how many items were taken so far
    unfinished the batch that the next item goes to

    An item is a Usage or a mapping of its arguments. One that is neither, or is out of bounds,
    raises ValidationError, or is rejected in its place.
    """

    def __init__(self, items: Iterable[Usage | Mapping[str, Any]], *, rejects: bool) -> None:
        self.taken = 0
        self.unfinished = Batch()
        self._items = items
        self._rejects = rejects

    def __iter__(self) -> Iterator[Batch]:
        for item in self._items:
            try:
                usage = item if isinstance(item, Usage) else _usage_of(item)
            except ValidationError as error:
                if not self._rejects:
                    raise
                name = "".join(error.request_ids)
                self.unfinished.reject(Receipt(name, "rejected", error=error))
            else:
                record = usage.to_json()
                full, fits = self.unfinished, self.unfinished.takes(record)
                if not fits:
                    self.unfinished = Batch()
                self.unfinished.add(usage.request_id, record)
                if not fits:
                    yield full
            self.taken += 1
            if self.unfinished.is_full():
                full, self.unfinished = self.unfinished, Batch()
                yield full
        if len(self.unfinished):
            full, self.unfinished = self.unfinished, Batch()
            yield full


def _usage_of(item: object) -> Usage:
    """The usage that a mapping describes. Raises ValidationError."""
    if not isinstance(item, Mapping):
        raise ValidationError(
            f"record_many was given a {type(item).__name__}, expected Usage, or a mapping with its"
            " arguments."
        )
    faults = [
        FieldError(str(key), "unknown", f"{key} is not a field of Usage")
        for key in item
        if key not in FIELDS
    ]
    faults += [
        FieldError(key, "required", f"{key} is missing") for key in REQUIRED if key not in item
    ]
    if faults:
        raise invalid_usage(faults, item.get("request_id"))
    return Usage(**item)
