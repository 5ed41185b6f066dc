"""Cuts any number of usage records into bodies the service takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from billing_client.usage import Usage

MOST_RECORDS = 1000
# The service takes 2 MiB; the margin is for what a proxy may count on top.
MOST_BYTES = 1_900_000


@dataclass(slots=True)
class Batch:
    """The records of one request, in order."""

    request_ids: list[str] = field(default_factory=list)
    _records: list[bytes] = field(default_factory=list)
    _size: int = 2  # the brackets

    def add(self, request_id: str, record: bytes) -> None:
        """Append a record in its wire form."""
        self.request_ids.append(request_id)
        self._records.append(record)
        self._size += len(record) + 1

    def takes(self, record: bytes) -> bool:
        """Whether one more record fits by size; an empty batch takes any."""
        return self._size + len(record) <= MOST_BYTES or not self.request_ids

    def is_full(self) -> bool:
        """Whether it has to go before the next record is even asked for."""
        return len(self.request_ids) == MOST_RECORDS

    def body(self) -> bytes:
        """The JSON array."""
        return b"[" + b",".join(self._records) + b"]"


def batches(usages: Iterable[Usage]) -> Iterator[Batch]:
    """Full batches and a last one, taking from the iterable only what the next one needs."""
    batch = Batch()
    for usage in usages:
        record = usage.to_json()
        if not batch.takes(record):
            yield batch
            batch = Batch()
        batch.add(usage.request_id, record)
        if batch.is_full():
            yield batch
            batch = Batch()
    if batch.request_ids:
        yield batch
