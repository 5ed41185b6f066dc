"""As much of the service's contract as the client meets, in memory."""

from __future__ import annotations

import json
import threading
from decimal import Decimal
from typing import Any

Record = dict[str, Any]
Reply = tuple[int, Any, dict[str, str]]


class Service:
    """Stores each id once and answers like the real one; customer 404 does not exist."""

    def __init__(self) -> None:
        self.stored: dict[str, Record] = {}
        self.batches: list[int] = []
        self._sent: dict[str, Record] = {}
        self._lock = threading.Lock()

    def answer(self, body: bytes) -> Reply:
        parsed = json.loads(body)
        if isinstance(parsed, dict):
            return self._one(parsed)
        self.batches.append(len(parsed))
        results = [self._result(record) for record in parsed]
        return 207, {"results": results, "summary": {}}, {}

    def _result(self, record: Record) -> Record:
        status, body, _ = self._one(record)
        outcome = {"error": body} if status >= 400 else {"record": body}
        return {"status": status, "request_id": record["request_id"], **outcome}

    def _one(self, sent: Record) -> Reply:
        request_id = sent["request_id"]
        with self._lock:
            known = self._sent.get(request_id)
            if known == sent:
                return 200, self.stored[request_id], {"Idempotent-Replayed": "true"}
            if known is not None:
                fields = [name for name in sent if sent[name] != known.get(name)]
                return 409, problem(409, "request_id_conflict", conflicting_fields=fields), {}
            if sent["customer_id"] == 404:
                return 404, problem(404, "unknown_customer"), {}
            self._sent[request_id] = sent
            self.stored[request_id] = recorded(sent)
            return 201, self.stored[request_id], {}


def recorded(sent: Record) -> Record:
    amount = Decimal(sent["units_consumed"]) * Decimal(sent["price_per_unit"])
    return {
        **sent,
        "amount": format(amount.normalize(), "f"),
        "occurred_at": sent.get("occurred_at", "2026-11-22T10:00:00.000Z"),
        "recorded_at": "2026-11-22T10:00:00.000Z",
        "bill": {"id": 7, "month": "2026-11"},
        "late": False,
    }


def problem(status: int, code: str, **more: object) -> Record:
    title = code.replace("_", " ").capitalize()
    return {
        "type": "about:blank",
        "title": title,
        "status": status,
        "detail": f"{title}.",
        "code": code,
        **more,
    }
