"""A client for the tests of those who use this library: no network, no disk, no threads.

It validates, refuses, replays and conflicts as the real one does with the real service.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from types import SimpleNamespace
from typing import Any, cast
from uuid import uuid4

import requests

from billing_client.answers import Answer, read_verdicts
from billing_client.batches import Batch
from billing_client.client import BillingClient
from billing_client.config import Limits
from billing_client.decimals import product
from billing_client.errors import ConfigurationError, ConflictError, ValidationError
from billing_client.outbox import Flushed, Stats
from billing_client.receipts import Receipt
from billing_client.transport import Transport
from billing_client.usage import Usage

_FIELDS = ("customer_id", "service", "units_consumed", "price_per_unit", "occurred_at")


class FakeBillingClient(BillingClient):
    """Records in memory; ``recorded`` is what the service would hold, in order.

    unknown_customers  ids that the service does not know; may be changed at any time
    paused_reason      set it to a text to see what your code does while nothing can be sent
    """

    def __init__(self, *, unknown_customers: Iterable[int] = ()) -> None:
        self.unknown_customers = set(unknown_customers)
        self.paused_reason: str | None = None
        self._limits = Limits()
        self._memory = _Memory(self)
        # As much of a transport as calls use.
        self._transport = cast(Transport, self._memory)
        self._outbox = None
        self._waiting: list[tuple[Usage, datetime]] = []
        self._counts = {"sent": 0, "rejected": 0}

    @property
    def recorded(self) -> list[Usage]:
        """What was recorded, each fact once."""
        return list(self._memory.stored.values())

    def enqueue(self, usage: Usage) -> None:
        """Keep it until flush(), or the end of the with block, as BillingClient does."""
        if not isinstance(usage, Usage):
            raise ValidationError(f"enqueue was given a {type(usage).__name__}, expected Usage.")
        self._memory.check_open()
        self._waiting.append((usage, datetime.now(UTC)))

    def flush(self, timeout: float = 10.0) -> Flushed:
        """Record what was enqueued."""
        before = dict(self._counts)
        if self.paused_reason is None:
            self._waiting = [one for one in self._waiting if not self._is_settled(*one)]
        return Flushed(
            self._counts["sent"] - before["sent"],
            len(self._waiting),
            self._counts["rejected"] - before["rejected"],
            self.paused_reason,
        )

    def stats(self) -> Stats:
        """How it stands."""
        now = datetime.now(UTC)
        ages = [(now - enqueued).total_seconds() for _, enqueued in self._waiting]
        return Stats(
            pending=len(self._waiting),
            oldest_seconds=max(0.0, *ages) if ages else None,
            sent=self._counts["sent"],
            rejected=self._counts["rejected"],
            paused_reason=self.paused_reason,
            last_error=self.paused_reason,
        )

    def close(self, timeout: float = 2.0) -> None:
        """Record what was enqueued; any later use raises ConfigurationError."""
        self.flush(timeout)
        self._transport.close()

    def _is_settled(self, usage: Usage, enqueued: datetime) -> bool:
        batch = Batch()
        batch.add(usage.request_id, usage.to_json(occurred_at=enqueued))
        answer = self._memory.answer(batch.body())
        (receipt,) = cast(list[Receipt], read_verdicts(answer, batch.request_ids))
        error = receipt.error
        same = isinstance(error, ConflictError) and error.conflicting_fields == ("occurred_at",)
        if error is not None and error.code == "unknown_customer":
            return False
        delivered = error is None or (same and usage.occurred_at is None)
        self._counts["sent" if delivered else "rejected"] += 1
        return True


class _Memory:
    """The service, as far as a client sees it."""

    endpoint = "memory"

    def __init__(self, client: FakeBillingClient) -> None:
        self.stored: dict[str, Usage] = {}
        self._client = client
        self._closed = False
        self._lock = threading.Lock()

    def prepare(self, body: bytes, *, trace_id: str = "") -> Any:
        self.check_open()
        return SimpleNamespace(body=body, trace_id=trace_id or uuid4().hex)

    def post(self, request: requests.PreparedRequest, *, seconds: float) -> Answer:
        assert isinstance(request.body, bytes)  # noqa: S101 - prepare() made it, for mypy
        return self.answer(request.body)

    def close(self) -> None:
        self._closed = True

    def check_open(self) -> None:
        if self._closed:
            raise ConfigurationError("This billing client is closed; make a new one.")

    def answer(self, body: bytes) -> Answer:
        sent = json.loads(body)
        with self._lock:
            if isinstance(sent, dict):
                status, content = self._one(sent)
                return Answer(status, {}, json.dumps(content).encode())
            results = [self._result(record) for record in sent]
        return Answer(207, {}, json.dumps({"results": results}).encode())

    def _result(self, sent: dict[str, Any]) -> dict[str, Any]:
        status, content = self._one(sent)
        name = "record" if status < 400 else "error"
        return {"status": status, "request_id": sent["request_id"], name: content}

    def _one(self, sent: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        usage = _usage(sent)
        known = self.stored.get(usage.request_id)
        if known is not None:
            differing = [name for name in _FIELDS if _differs(name, usage, known)]
            if differing:
                return 409, _problem(409, "request_id_conflict", conflicting_fields=differing)
            return 200, _record(known)
        if usage.customer_id in self._client.unknown_customers:
            return 404, _problem(404, "unknown_customer")
        if usage.occurred_at is None:
            usage = _usage({**sent, "occurred_at": datetime.now(UTC).isoformat()})
        self.stored[usage.request_id] = usage
        return 201, _record(usage)


def _usage(sent: dict[str, Any]) -> Usage:
    at = sent.get("occurred_at")
    return Usage(**{**sent, "occurred_at": datetime.fromisoformat(at) if at else None})


def _differs(name: str, sent: Usage, known: Usage) -> bool:
    value = getattr(sent, name)
    return bool(value is not None and value != getattr(known, name))


def _record(usage: Usage) -> dict[str, Any]:
    amount: Decimal = product(usage.units_consumed, usage.price_per_unit)
    return {
        "request_id": usage.request_id,
        "amount": format(amount, "f"),
        "bill": {"id": usage.customer_id, "month": f"{usage.occurred_at:%Y-%m}"},
        "late": False,
    }


def _problem(status: int, code: str, **more: object) -> dict[str, Any]:
    return {"status": status, "code": code, "detail": code.replace("_", " ").capitalize(), **more}
